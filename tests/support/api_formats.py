"""What schemathesis takes for the formats that the OpenAPI document names. It loads this by SCHEMATHESIS_HOOKS."""

import schemathesis
from hypothesis import strategies as st

CURSOR = "MTcwMDAwMDAwMDAwMDAwMC4wMUtBMEE"
"""A place before everything that tests make, in every list: `1700000000000000.01KA0A`."""

schemathesis.openapi.format("cursor", st.just(CURSOR))
schemathesis.openapi.format("plan", st.sampled_from(["free", "starter", "enterprise"]))
schemathesis.openapi.format("date-time", st.sampled_from(["2037-01-31T12:00:00Z", "2038-12-31T23:59:59.5+01:00"]))
