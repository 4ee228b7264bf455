"""Months of subscriptions, over the ends of months and leap days."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billing.payments.local.bills import period_of, period_start, prorated_cents


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_subscription_renews_on_its_day_or_on_the_last_of_a_shorter_month() -> None:
    anchor = day("2027-12-31")
    starts = [period_start(anchor, number).date().isoformat() for number in range(5)]
    assert starts == ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"]
    assert period_start(day("2028-02-29"), 12) == day("2029-02-28")


@given(st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)), st.integers(0, 3 * 366 * 24))  # noqa: DTZ001
def test_every_moment_is_in_one_month(naive: datetime, hours: int) -> None:
    anchor = naive.replace(tzinfo=UTC)
    at = anchor + timedelta(hours=hours)
    start, end = period_of(anchor, at)
    assert start <= at < end
    assert 0 <= prorated_cents(9900, start, end, at) <= 9900
    assert prorated_cents(9900, start, end, start) == 9900
    assert prorated_cents(9900, start, end, end) == 0
