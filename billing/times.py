"""Times at the edges: RFC 3339 (https://www.rfc-editor.org/rfc/rfc3339), always in UTC with `Z`. Pure."""

import re
from datetime import UTC, datetime
from typing import Final

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
