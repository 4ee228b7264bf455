"""What stands for the names in the paths of pages."""

GIVEN = {"secret": "no-such-link", "provider": "none"}
NAMES = (
    "account_id",
    "budget_id",
    "coupon_id",
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
    "token_id",
    "user_id",
)
PATHS = {**dict.fromkeys(NAMES, "none"), **GIVEN}
