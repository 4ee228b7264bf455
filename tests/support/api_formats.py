"""What schemathesis takes for the formats that the OpenAPI document names, and which refusals no schema can announce.

It loads this by SCHEMATHESIS_HOOKS.
"""

from typing import Any, Final

import schemathesis
from hypothesis import strategies as st

CURSOR: Final = "MTcwMDAwMDAwMDAwMDAwMC4wMUtBMEE"
"""A place before everything that tests make, in every list: `1700000000000000.01KA0A`."""
BEYOND_SCHEMAS: Final = (
    *("two quotas share window, metric and filter", ", got `float`", "grace_seconds is at most"),
    *("A password has", "Many people have this password", "A password must not hold", "email is an address such as"),
    *("Name a meter or", "A quantity is of", "Tokens are of", "Say what to charge", "Say how much", "A model's price"),
    *(
        "quantity is a whole number",
        "cached_input_tokens are",
        "has no price here",
        "expires_in_s is",
        "time is at most",
        "A meter has another",
    ),
)
"""Parts of messages: of rules that tie a body's parts together, of bounds that are settings, and that 5.0, which is an
integer to JSON Schema, is none here."""
BESIDE_IDS: Final = ("/api/billing/keys/revoke-leaked",)
"""Paths that are, to other methods, a path of the id that they end with."""

schemathesis.openapi.format("cursor", st.just(CURSOR))
schemathesis.openapi.format("plan", st.sampled_from(["free", "starter", "enterprise"]))
schemathesis.openapi.format("date-time", st.sampled_from(["2037-01-31T12:00:00Z", "2038-12-31T23:59:59.5+01:00"]))


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts: not that a request was refused for what no schema can say, that one of several events
    was, or that a path beside ids allows what they do."""
    kind = type(failure).__name__
    if kind == "AllowHeaderMismatch":
        return case.operation.path not in BESIDE_IDS
    if kind == "AcceptedNegativeData" and '"status":"refused"' in response.text:
        return False
    return not (kind == "RejectedPositiveData" and any(each in response.text for each in BEYOND_SCHEMAS))
