"""Periods, thresholds and forecasts of budgets: exact, and by the calendar of a zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.budgets import (
    HISTORY_DAYS,
    BudgetPeriod,
    BudgetRefused,
    BudgetTerms,
    Subject,
    crossed,
    forecast,
    spent_within,
    times_of,
)

BERLIN = ZoneInfo("Europe/Berlin")
# The day after one of 23 hours in Berlin.
NOW = datetime(2026, 3, 30, 10, 0, tzinfo=UTC)
MOMENTS = st.integers(1_577_836_800, 1_893_456_000).map(lambda at_s: datetime.fromtimestamp(at_s, UTC))
AMOUNTS = st.integers(0, 2**53 - 1)


def test_periods_are_calendar_ones_of_the_zone():
    month = times_of(BudgetPeriod.month, BERLIN, NOW)
    assert (month.name, month.start.isoformat()) == ("2026-03-01", "2026-02-28T23:00:00+00:00")
    assert month.end.isoformat() == "2026-03-31T22:00:00+00:00"
    assert [f"{day:%d %H}" for day in month.days[-3:]] == ["27 23", "28 23", "29 22"]
    assert len(month.days) == HISTORY_DAYS + 1
    week, day = times_of(BudgetPeriod.week, BERLIN, NOW), times_of(BudgetPeriod.day, BERLIN, NOW)
    assert week.start == day.start == month.days[-1]
    assert times_of(BudgetPeriod.total, BERLIN, NOW).name == "total"


@given(st.sampled_from(BudgetPeriod), MOMENTS, st.data())
def test_what_was_spent_is_each_of_it_once(period, now, data):
    times = times_of(period, BERLIN, now)
    bounds = times.bounds
    spent = data.draw(st.lists(AMOUNTS, min_size=len(bounds) - 1, max_size=len(bounds) - 1))
    whole, days = spent_within(times, spent)
    began = list(zip(bounds, spent, strict=False))
    assert whole == sum(nano for at, nano in began if times.start <= at < times.end)
    assert sum(days) == sum(nano for at, nano in began if times.days[0] <= at < times.days[-1])


def test_a_forecast_goes_by_the_last_whole_days():
    times = times_of(BudgetPeriod.month, ZoneInfo("UTC"), datetime(2026, 11, 21, tzinfo=UTC))
    assert forecast(100, [7, 7, 7, 7, 7, 7, 7], times) == 100 + 7 * 10
    assert forecast(100, [0, 0, 0, 0, 0, 3, 4], times) == 100 + 35  # of what is new the days before do not count
    assert forecast(100, [9, 0, 0, 0, 0, 0, 0], times) == 100 + 13  # days without use do, rounded up
    assert forecast(100, [0] * 7, times) == 150  # as if as much were spent in each moment
    assert forecast(100, [7], times_of(BudgetPeriod.total, ZoneInfo("UTC"), NOW)) is None
    begins = times_of(BudgetPeriod.month, ZoneInfo("UTC"), datetime(2026, 11, 1, tzinfo=UTC))
    assert forecast(0, [0] * 7, begins) == 0


@given(AMOUNTS, st.lists(AMOUNTS, min_size=7, max_size=7), st.integers(0, 30 * 24 * 60 - 1))
def test_a_forecast_is_never_below_what_was_spent(spent, days, minutes):
    now = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    found = forecast(spent, days, times_of(BudgetPeriod.month, BERLIN, now))
    assert found is not None
    assert found >= spent


@given(st.integers(1, 2**53 - 1), AMOUNTS)
def test_a_threshold_is_crossed_once_its_share_is_reached(amount, spent):
    found = crossed(BudgetTerms(Subject.account, "", BudgetPeriod.month, amount, (50, 80, 100)), spent)
    assert found == next((each for each in (100, 80, 50) if spent * 100 >= each * amount), 0)


@pytest.mark.parametrize(
    ("subject", "about", "amount", "thresholds", "field"),
    [
        (Subject.account, "key_1", 1, (50,), "subject_id"),
        (Subject.key, "", 1, (50,), "subject_id"),
        (Subject.tag, "team", 1, (50,), "tag"),
        (Subject.account, "", 0, (50,), "amount_usd"),
        (Subject.account, "", 1, (), "thresholds"),
        (Subject.account, "", 1, (80, 50), "thresholds"),
        (Subject.account, "", 1, (0,), "thresholds"),
    ],
)
def test_what_is_no_budget(subject, about, amount, thresholds, field):
    with pytest.raises(BudgetRefused) as refused:
        BudgetTerms(subject, about, BudgetPeriod.month, amount, thresholds)
    assert refused.value.field == field
