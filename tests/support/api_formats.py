"""What schemathesis takes for the formats that the OpenAPI document names, and which refusals no schema can announce.

It loads this by SCHEMATHESIS_HOOKS.
"""

from typing import Any

import schemathesis
from hypothesis import strategies as st

# A place before everything that tests make, in every list: `1700000000000000.01KA0A`.
CURSOR = "MTcwMDAwMDAwMDAwMDAwMC4wMUtBMEE"
# Parts of messages: of rules that tie a body's parts together, or what it says to the state, of bounds that are
# settings; and that 5.0, which is an integer to JSON Schema, is none here.
BEYOND_SCHEMAS = (
    "routing_key",
    "two quotas share window, metric and filter",
    "not both",
    "one of the two",
    "until must be after since",
    "There is no plan",
    "This coupon",
    "since must not be after until",
    "must not be zero",
    "must be above zero",
    "wrong, used or expired",
    "can't be an operator",
    "A password has",
    "Many people have this password",
    "A password must not contain",
    ", got `float`",
    "grace_seconds is at most",
    "email is an address such as",
    "quantity is a whole number",
    "Name a meter or",
    "A quantity is of",
    "Tokens are of",
    "Say what to charge",
    "Say how much",
    "A model's price",
    "This cursor is not from this list",
    "group_by takes",
    "are parts of input_tokens",
    "has no price here",
    "expires_in_s is",
    "expires_at must be in the future",
    "Save a payment method first",
    "must be in whole cents",
    "amount_usd must be",
    "must not be below amount_usd",
    "time is at most",
    "A meter has another",
    "since must be in the past",
    "webhook endpoints: delete one",
    "must be an address on an allowed origin",
    "amount_usd must be",
    "plan must be one that",
    "Name amount_usd or plan",
    "differ: send one of them",
    "subject_id must",
    "subject_id does not",
    "tag goes with",
    "is no key of the account",
    "is no member of",
    "thresholds must be",
    "An account has at most",
    "since must be before until",
    "days are compared at once",
    "must be a day from",
    "The invoice has no column",
    "There is no column",
    "The invoice is no CSV",
)
# Paths that are, to other methods, a path of the id that they end with.
BESIDE_IDS = ("/api/billing/keys/revoke-leaked",)

schemathesis.openapi.format("cursor", st.just(CURSOR))
schemathesis.openapi.format("plan", st.sampled_from(["free", "starter", "enterprise"]))
schemathesis.openapi.format("time-zone", st.sampled_from(["Europe/Berlin", "UTC"]))
schemathesis.openapi.format("group-by", st.sampled_from(["model", "key,user", "provider,tag:team", "region,node"]))
schemathesis.openapi.format(
    "webhook-url", st.sampled_from(["https://example.com/hooks", "https://hooks.example.org:8443/a?b=c"])
)
schemathesis.openapi.format("email", st.sampled_from(["ada@example.com", "bob.b@mail.example.org"]))
schemathesis.openapi.format("date-time", st.sampled_from(["2037-01-31T12:00:00Z", "2038-12-31T23:59:59.5+01:00"]))


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts: not that a request was refused for what no schema can say, that an item of several was,
    or that a path beside ids allows what they do."""
    match type(failure).__name__:
        case "RejectedPositiveData":
            return not any(each in response.text for each in BEYOND_SCHEMAS)
        case "AcceptedNegativeData":
            return '"status":"refused"' not in response.text  # one of several items, told by itself
        case "AllowHeaderMismatch":
            return case.operation.path not in BESIDE_IDS
    return True
