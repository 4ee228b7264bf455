"""Quotas: calendar windows in UTC against `datetime`, tags, filters, and what is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import MAX_NANO
from billing.quotas import (
    MAX_QUOTAS,
    Metric,
    Quota,
    QuotaError,
    Window,
    check_quotas,
    filter_digest,
    parse_quota,
    parse_quotas,
    quota_json,
    window_end_s,
    window_id,
    window_start_s,
)

LAST = datetime(9998, 12, 31, tzinfo=UTC)
times_s = st.integers(0, int(LAST.timestamp()))
CALENDAR = [window for window in Window if window is not Window.total]


def expected_bounds(window: Window, at: datetime) -> tuple[datetime, datetime]:
    """Start and end of a calendar window by `datetime` alone."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match window:
        case Window.minute:
            start = at.replace(second=0, microsecond=0)
            return start, start + timedelta(minutes=1)
        case Window.hour:
            start = at.replace(minute=0, second=0, microsecond=0)
            return start, start + timedelta(hours=1)
        case Window.day:
            return day, day + timedelta(days=1)
        case Window.week:
            monday = day - timedelta(days=day.weekday())
            return monday, monday + timedelta(days=7)
        case _:
            first = day.replace(day=1)
            return first, (first + timedelta(days=32)).replace(day=1)


@given(times_s, st.sampled_from(CALENDAR))
def test_windows_are_those_of_the_calendar(at_s, window):
    start, end = expected_bounds(window, datetime.fromtimestamp(at_s, UTC))
    assert window_start_s(window, at_s) == int(start.timestamp())
    assert window_end_s(window, at_s) == int(end.timestamp())


@given(times_s, st.sampled_from(CALENDAR))
def test_an_id_holds_from_start_to_end_and_the_next_window_has_the_next(at_s, window):
    start_s, end_s = window_start_s(window, at_s), window_end_s(window, at_s)
    assert end_s is not None
    assert start_s <= at_s < end_s
    number = window_id(window, at_s)
    assert window_id(window, max(start_s, 0)) == window_id(window, end_s - 1) == number
    assert window_id(window, end_s) == number + 1
    assert window_start_s(window, end_s) == end_s


@given(times_s, times_s, st.sampled_from(Window))
def test_equal_ids_are_the_same_window(one_s, other_s, window):
    same = window_id(window, one_s) == window_id(window, other_s)
    assert same == (window_start_s(window, one_s) == window_start_s(window, other_s))


@pytest.mark.parametrize("at_s", [0, 1_709_164_800, 4_102_444_799])
def test_total_never_ends(at_s):
    assert window_id(Window.total, at_s) == window_start_s(Window.total, at_s) == 0
    assert window_end_s(Window.total, at_s) is None


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("window", "at", "start", "end"),
    [
        (Window.week, "2024-07-18T12:00", "2024-07-15", "2024-07-22"),
        (Window.week, "2024-07-21T23:59:59", "2024-07-15", "2024-07-22"),  # a Sunday
        (Window.week, "2024-07-22T00:00", "2024-07-22", "2024-07-29"),  # a Monday
        (Window.week, "2024-12-31T12:00", "2024-12-30", "2025-01-06"),  # across the year
        (Window.month, "2024-02-29T23:59:59", "2024-02-01", "2024-03-01"),
        (Window.month, "2023-02-28T23:59:59", "2023-02-01", "2023-03-01"),
        (Window.month, "2100-02-28T12:00", "2100-02-01", "2100-03-01"),  # no leap year
        (Window.month, "2000-02-29T12:00", "2000-02-01", "2000-03-01"),
        (Window.month, "2024-12-31T23:59:59", "2024-12-01", "2025-01-01"),
        (Window.month, "2024-04-30T12:00", "2024-04-01", "2024-05-01"),
        (Window.day, "2024-02-29T12:00", "2024-02-29", "2024-03-01"),
    ],
)
def test_edges_of_the_calendar(window, at, start, end):
    assert window_start_s(window, unix(at)) == unix(start)
    assert window_end_s(window, unix(at)) == unix(end)


def test_the_first_week_began_before_the_epoch():
    assert window_start_s(Window.week, 0) == -3 * 86_400  # Monday, 1969-12-29


models = st.none() | st.from_regex(r"[a-z0-9/.-]{1,20}\*?", fullmatch=True)
quotas = st.builds(
    Quota,
    window=st.sampled_from(Window),
    metric=st.sampled_from(Metric),
    limit=st.integers(0, MAX_NANO),
    model=models,
    feature=st.sampled_from(["llm", "container"]),
)


@given(quotas)
def test_a_quota_is_read_as_it_is_written(quota):
    assert parse_quota(quota_json(quota)) == quota


@given(quotas)
def test_a_tag_has_window_metric_and_filter_in_31_bits(quota):
    assert 0 <= quota.tag < 2**31
    assert quota.tag & 7 == quota.window
    assert quota.tag >> 3 & 7 == quota.metric
    assert (quota.tag >> 6 == 0) == (quota.model is None and quota.feature == "llm")


def test_tags_are_part_of_the_stored_state():
    """Fixed numbers: another layout or digest would read other counters than those that are stored."""
    assert Quota(Window.day, Metric.tokens, 1).tag == 2 | 1 << 3
    assert filter_digest(None, "llm") == 0
    assert filter_digest("gpt-4o*", "llm") == 3_902_166
    assert filter_digest(None, "container") == 10_519_738


@pytest.mark.parametrize(
    ("model", "asked", "feature", "counts"),
    [
        (None, "gpt-4o", "llm", True),
        (None, "gpt-4o", "container", False),
        ("gpt-4o", "gpt-4o", "llm", True),
        ("gpt-4o", "gpt-4o-mini", "llm", False),
        ("gpt-4o*", "gpt-4o-mini", "llm", True),
        ("gpt-4o*", "gpt-4", "llm", False),
        ("*", "anything", "llm", True),
    ],
)
def test_filters(model, asked, feature, counts):
    assert Quota(Window.day, Metric.tokens, 1, model).applies_to(asked, feature) is counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "fortnight"}, "window must be one of minute, hour, day, week, month, total"),
        ({"window": None}, "window must be one of"),
        ({"metric": "money"}, "metric must be one of"),
        ({"limit": 1.5}, "limit must be an integer"),
        ({"limit": True}, "limit must be an integer"),
        ({"limit": "5"}, "limit must be an integer"),
        ({"limit": -1}, "below zero"),
        ({"limit": 2**53}, r"2\^53"),
        ({"metric": "cost", "limit": 5}, "limit of cost"),
        ({"metric": "cost", "limit": "-5"}, "below zero"),
        ({"model": ""}, "1 to 200 characters"),
        ({"model": "x" * 201}, "1 to 200 characters"),
        ({"model": "a*b"}, "one \\* at its end"),
        ({"model": 5}, "model must be a string"),
        ({"feature": 5}, "feature must be a string"),
        ({"per": "day"}, "not 'per'"),
    ],
)
def test_impossible_quotas_are_refused(changes, message):
    with pytest.raises(QuotaError, match=message):
        parse_quota({"window": "day", "metric": "tokens", "limit": 1} | changes)


def test_only_objects_are_quotas():
    for found in (None, 5, "day", ["day"]):
        with pytest.raises(QuotaError, match="an object"):
            parse_quota(found)


def test_a_cost_limit_is_usd():
    assert parse_quota({"window": "month", "metric": "cost", "limit": "12.50"}).limit == 12_500_000_000


def test_a_list_names_the_place():
    good = {"window": "day", "metric": "tokens", "limit": 1}
    assert parse_quotas([good]) == (Quota(Window.day, Metric.tokens, 1),)
    with pytest.raises(QuotaError, match=r"quotas\[1\]: metric"):
        parse_quotas([good, good | {"metric": "x"}])
    with pytest.raises(QuotaError, match="a list"):
        parse_quotas(good)


def test_one_counter_has_one_limit():
    day = Quota(Window.day, Metric.tokens, 1)
    with pytest.raises(QuotaError, match="share"):
        check_quotas([day, Quota(Window.day, Metric.tokens, 2)])
    assert len(check_quotas([day, Quota(Window.day, Metric.tokens, 2, "gpt-4o")])) == 2


def test_quotas_of_one_subject_are_bounded():
    many = [Quota(Window.day, Metric.tokens, 1, f"model-{number}") for number in range(MAX_QUOTAS + 1)]
    assert len(check_quotas(many[:-1])) == MAX_QUOTAS
    with pytest.raises(QuotaError, match="at most 32"):
        check_quotas(many)
