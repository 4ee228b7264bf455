"""Months of subscriptions, over the ends of months and leap days."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billing.payments.local.provider import prorated_cents
from billing.times import months_later


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_subscription_renews_on_its_day_or_on_the_last_of_a_shorter_month():
    starts = [months_later(day("2027-12-31"), number).date().isoformat() for number in range(5)]
    assert starts == ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"]
    assert months_later(day("2028-02-29"), 12) == day("2029-02-28")


@given(st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)), st.integers(0, 36), st.floats(0, 1))  # noqa: DTZ001
def test_a_month_is_charged_by_what_is_left_of_it(naive, number, share):
    anchor = naive.replace(tzinfo=UTC)
    start, end = months_later(anchor, number), months_later(anchor, number + 1)
    assert timedelta(days=27) < end - start < timedelta(days=32)
    assert 0 <= prorated_cents(9900, start, end, start + (end - start) * share) <= 9900
    assert prorated_cents(9900, start, end, start) == 9900
    assert prorated_cents(9900, start, end, end) == 0
