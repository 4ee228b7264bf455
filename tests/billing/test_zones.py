"""Local hours, days, weeks and months, compared with what the clocks there show."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.times import Period, TimeError, period_of, periods, zone_of

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Pacific/Apia",
    "Africa/Cairo",
    "America/Sao_Paulo",
    "Pacific/Auckland",
    "Atlantic/Azores",
)
YEARS_S = 18 * 365 * 86_400
MOMENTS = st.integers(0, YEARS_S).map(lambda s: datetime(2012, 1, 1, tzinfo=UTC) + timedelta(seconds=s))


def hours(day: str, name: str, period: Period = Period.hour) -> list[float]:
    """The lengths in hours of the periods of a local day."""
    zone = zone_of(name)
    begins = period_of(datetime.fromisoformat(day).replace(hour=12, tzinfo=zone), Period.day, zone)
    ends = next(periods(begins, Period.day, zone))
    found = [begins]
    for at in periods(begins, period, zone):
        found.append(min(at, ends))
        if at >= ends:
            return [(until - since) / timedelta(hours=1) for since, until in pairwise(found)]
    return []


def test_days_of_23_and_25_hours():
    assert hours("2026-03-29", "Europe/Berlin") == [1.0] * 23
    assert hours("2026-10-25", "Europe/Berlin") == [1.0] * 25
    assert hours("2026-03-08", "America/New_York", Period.day) == [23.0]
    assert hours("2026-11-01", "America/New_York", Period.day) == [25.0]
    assert hours("2026-03-29", "Asia/Kolkata") == [1.0] * 24


def test_an_hour_in_which_the_clock_is_set_by_half_an_hour_is_cut():
    assert hours("2026-04-05", "Australia/Lord_Howe") == [1.0, 1.0, 0.5, *[1.0] * 22]
    assert hours("2026-10-04", "Australia/Lord_Howe") == [1.0, 1.0, 0.5, *[1.0] * 21]


def test_a_day_that_was_left_out():
    zone = zone_of("Pacific/Apia")
    days = islice(periods(datetime(2011, 12, 28, 12, tzinfo=UTC), Period.day, zone), 4)
    assert [at.astimezone(zone).day for at in days] == [29, 31, 1, 2]


@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(Period))
def test_a_period_is_what_has_one_name_there(at, name, period):
    zone = zone_of(name)
    begins = period_of(at, period, zone)
    assert begins <= at
    assert begins.tzinfo is UTC
    assert period_of(begins, period, zone) == begins
    following = list(islice(periods(at, period, zone), 3))
    assert [begins, *following] == sorted({begins, *following})
    assert at < following[0]
    for since, until in pairwise((begins, *following)):
        for moment in (since, since + (until - since) / 2, until - timedelta(microseconds=1)):
            assert period_of(moment, period, zone) == since
    if period >= Period.day:
        local = begins.astimezone(zone)
        assert (local - timedelta(hours=local.hour, minutes=local.minute)).date() == local.date()
        assert (begins - timedelta(microseconds=1)).astimezone(zone).date() != local.date()
        assert period is not Period.week or local.weekday() == 0
        assert period is not Period.month or local.day == 1


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "Europe", "right/UTC", "localtime", "a\0b"])
def test_what_is_no_zone(name):
    with pytest.raises(TimeError, match="no time zone"):
        zone_of(name)
