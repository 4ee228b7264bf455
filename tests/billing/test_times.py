"""Times at the edges: whatever is read can be stored, shown in every zone, and read again."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.times import EARLIEST, LATEST, TimeError, parse_rfc3339, rfc3339, within_calendar

OFFSETS = st.integers(-23 * 60, 23 * 60)


@given(st.datetimes(), OFFSETS)
def test_every_time_is_one_that_zones_can_show(at, minutes):
    sign, offset = "-" if minutes < 0 else "+", abs(minutes)
    found = parse_rfc3339(f"{at.isoformat(timespec='microseconds')}{sign}{offset // 60:02}:{offset % 60:02}")
    assert EARLIEST <= found <= LATEST
    assert found.tzinfo is UTC
    for name in ("Pacific/Kiritimati", "America/Adak"):
        found.astimezone(ZoneInfo(name))
    assert found not in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    assert abs(parse_rfc3339(rfc3339(found)) - found) < timedelta(milliseconds=1)


@given(st.datetimes(datetime(3, 1, 1), datetime(9998, 12, 1)))  # noqa: DTZ001  (it takes naive ones)
def test_a_time_within_the_calendar_stays_as_it_is(at):
    assert within_calendar(at.replace(tzinfo=UTC)) == at.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["0000-01-01T00:00:00Z", "2025-02-30", "2025-01-01T00:00:00", "2025-01-01\n", "now", ""]
)
def test_what_is_no_time(text):
    with pytest.raises(TimeError):
        parse_rfc3339(text)
