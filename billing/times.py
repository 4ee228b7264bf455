"""Times at the edges: RFC 3339 (https://www.rfc-editor.org/rfc/rfc3339), always in UTC with `Z`; and time zones of the
IANA database, by name, with the calendar in them: where local hours, days, weeks and months begin.

A period begins at the first moment that the clocks there show its name: a day may have 23 or 25 hours, and an hour in
which the clock is set by half an hour is cut there. Pure, but for reading the database, the system's or that of the
package tzdata.
"""

import calendar
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from billing.errors import MetergateError

_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?P<time>[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?(?P<zone>[Zz]|[+-]\d\d:\d\d))?", re.ASCII
)

EARLIEST: Final = datetime(2, 1, 1, tzinfo=UTC)
# Times before and after are read as these. Postgres takes the very first and last time that Python has for infinity,
# which can't be read back, and zones and periods need a little room.
LATEST: Final = datetime(9998, 12, 31, tzinfo=UTC)


class TimeError(MetergateError, ValueError):
    """Not a time. The message is fit for a reader."""


def rfc3339(at: datetime) -> str:
    """Return a time with milliseconds: `"2025-01-31T12:00:00.000Z"`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """Parse a time with its zone, or a day, which means its first moment in UTC; see `within_calendar`. Raises
    `TimeError`."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise TimeError('a time is RFC 3339 such as "2025-01-31T12:00:00Z", or a day such as "2025-01-31"')
    try:
        at = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise TimeError("there is no such time") from error
    return within_calendar(at if match["time"] else at.replace(tzinfo=UTC))


def within_calendar(at: datetime) -> datetime:
    """Return an aware time in UTC; one at the ends of Python's calendar as the nearest that can be stored and shown."""
    if at.year <= EARLIEST.year:
        return EARLIEST
    if at.year > LATEST.year:
        return LATEST
    return min(at.astimezone(UTC), LATEST)


def months_later(anchor: datetime, months: int) -> datetime:
    """Return the same day and time so many months later: the last day of a month that lacks the
    day, so that a subscription of January 31 renews on February 28 and on March 31."""
    year, month = divmod(anchor.month - 1 + months, 12)
    day = min(anchor.day, calendar.monthrange(anchor.year + year, month + 1)[1])
    return anchor.replace(year=anchor.year + year, month=month + 1, day=day)


DEFAULT_ZONE: Final = "UTC"
_NAME: Final = re.compile(r"(?!posix/|right/)[A-Za-z][\w+-]{0,31}(?:/[A-Za-z][\w+-]{0,31}){0,2}", re.ASCII)
_NOT_ZONES: Final = frozenset({"Factory", "localtime", "posixrules"})
_MINUTE: Final = timedelta(minutes=1)
_QUARTER: Final = timedelta(minutes=15)
_HOUR: Final = timedelta(hours=1)


class Period(IntEnum):
    """How long a bucket is, in rising length."""

    minute = 0
    hour = 1
    day = 2
    week = 3
    month = 4


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """Return the zone of a name such as `"Europe/Berlin"`. Raises `TimeError`."""
    error = TimeError(f'{name!r} is no time zone of the IANA database, such as "Europe/Berlin" or "UTC"')
    if _NAME.fullmatch(name) is None or name in _NOT_ZONES:
        raise error
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as cause:
        raise error from cause


def day_begins(day: date, zone: ZoneInfo) -> datetime:
    """Return the moment, in UTC, at which a local day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def period_of(at: datetime, period: Period, zone: ZoneInfo) -> datetime:
    """Return the moment, in UTC, at which the period begins that `at` lies in."""
    if period is Period.minute:
        return at.astimezone(UTC).replace(second=0, microsecond=0)
    if period is Period.hour:
        return _hour_of(at.astimezone(UTC), zone)
    begins = day_begins(_first_day(at.astimezone(zone).date(), period), zone)
    if begins > at:  # clocks that were set back past midnight show the day before again
        begins = day_begins(_first_day(at.astimezone(zone).date() - timedelta(days=1), period), zone)
    return begins


def periods(since: datetime, period: Period, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the moments, in UTC, at which the periods after the one of `since` begin, without an end."""
    if period is Period.minute:
        at = period_of(since, period, zone)
        while True:
            yield (at := at + _MINUTE)
    if period is Period.hour:
        at = period_of(since, period, zone)
        while True:
            yield (at := _next_hour(at, zone))
    day, last = _first_day(period_of(since, period, zone).astimezone(zone).date(), period), since
    while True:
        day = _next_day(day, period)
        if (begins := day_begins(day, zone)) > last:  # a day that was left out has none
            yield (last := begins)


def _first_day(day: date, period: Period) -> date:
    if period is Period.week:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period is Period.month else day


def _next_day(first: date, period: Period) -> date:
    if period is Period.month:
        return date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first + timedelta(days=7 if period is Period.week else 1)


def _hour_of(at: datetime, zone: ZoneInfo) -> datetime:
    """Return when the local hour begins that `at` lies in, or the part of it since the clock was set."""
    offset = _offset(at, zone)
    local = at + offset
    begins = at - (local - local.replace(minute=0, second=0, microsecond=0))
    if _offset(begins, zone) == offset:
        return begins
    return next(q for q in _quarters(begins) if _offset(q, zone) == offset)


def _next_hour(begins: datetime, zone: ZoneInfo) -> datetime:
    offset = _offset(begins, zone)
    local = begins + offset
    ends = begins + _HOUR - (local - local.replace(minute=0, second=0, microsecond=0))
    if _offset(ends, zone) == offset:
        return ends
    return next(q for q in _quarters(begins) if q >= ends or _offset(q, zone) != offset)


def _quarters(after: datetime) -> Iterator[datetime]:
    """Yield the quarters of hours of UTC after a moment: clocks are set at one of them."""
    at = after.replace(minute=after.minute // 15 * 15, second=0, microsecond=0)
    while True:
        yield (at := at + _QUARTER)


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()
