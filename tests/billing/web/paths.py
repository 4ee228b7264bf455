"""What stands for the names in the paths of pages."""

from typing import Final

GIVEN: Final = {"secret": "no-such-link", "provider": "none"}
NAMES: Final = (
    "account_id",
    "budget_id",
    "delivery_id",
    "endpoint_id",
    "event_id",
    "export",
    "invitation_id",
    "key_id",
    "order_id",
    "parked_id",
    "plan_id",
    "request_id",
    "session_id",
    "token",
    "user_id",
)
PATHS: Final = {**dict.fromkeys(NAMES, "none"), **GIVEN}
