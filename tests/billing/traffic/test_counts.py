"""What follows from counts of answers."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.traffic.counts import BOUNDS_MS, ERRORS, ProviderTraffic, quantile_ms

BUCKETS = st.lists(st.integers(0, 10**6), min_size=len(BOUNDS_MS) + 1, max_size=len(BOUNDS_MS) + 1)
REFUSALS = Path(__file__).parents[2] / "golden" / "files" / "refusals.txt"


@given(BUCKETS, st.integers(1, 100))
def test_a_quantile_is_in_the_bucket_that_has_its_rank(buckets, percent):
    found = quantile_ms(buckets, percent)
    if not sum(buckets):
        assert found is None
        return
    assert found is not None
    rank = -(-sum(buckets) * percent // 100)
    below = [sum(buckets[:at]) for at in range(len(buckets))]
    at = next(at for at in range(len(buckets)) if below[at] + buckets[at] >= rank)
    assert (BOUNDS_MS[at - 1] if at else 0) <= found <= BOUNDS_MS[min(at, len(BOUNDS_MS) - 1)]
    assert percent == 100 or found <= (quantile_ms(buckets, percent + 1) or 0)


@pytest.mark.parametrize(
    ("failed", "passed_on", "heads", "expected"),
    [
        ({"503": 2}, {"503": 1}, 9, (2, 10, 2000)),  # one failure was all that there was to pass on
        ({"busy": 5}, {}, 10, (0, 10, 0)),  # that says nothing about the provider
        ({"timeout": 3}, {}, 0, (3, 3, 10_000)),
        ({}, {"400": 4}, 4, (0, 4, 0)),  # what a client has sent wrongly
        ({}, {}, 0, (0, 0, 0)),
    ],
)
def test_a_failure_that_was_passed_on_is_one_attempt(failed, passed_on, heads, expected):
    seen = ProviderTraffic(failed, passed_on, (heads, *[0] * len(BOUNDS_MS)))
    assert (seen.failures, seen.attempts, seen.error_hundredths) == expected


def test_errors_are_the_codes_that_are_answered_from_500_on():
    codes = {True: set(), False: set()}
    for status, rest in re.findall(r"^HTTP/1\.1 (\d{3})(.*?)(?=^HTTP/1\.1|\Z)", REFUSALS.read_text(), re.M | re.S):
        codes[int(status) >= 500] |= set(re.findall(r'"code":"(\w+)"', rest))
    assert codes[True] == ERRORS
    assert not codes[False] & ERRORS
