"""Times at the edges: RFC 3339 (https://www.rfc-editor.org/rfc/rfc3339), always in UTC with `Z`. Pure."""

import re
from datetime import UTC, datetime
from typing import Final

from billing.errors import MetergateError

_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?P<time>[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?(?P<zone>[Zz]|[+-]\d\d:\d\d))?", re.ASCII
)


class TimeError(MetergateError, ValueError):
    """Not a time. The message is fit for a reader."""


def rfc3339(at: datetime) -> str:
    """Return a time with milliseconds: `"2025-01-31T12:00:00.000Z"`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """Parse a time with its zone, or a day, which means its first moment in UTC. Raises `TimeError`."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise TimeError('a time is RFC 3339 such as "2025-01-31T12:00:00Z", or a day such as "2025-01-31"')
    try:
        at = datetime.fromisoformat(text.upper())
        return at.astimezone(UTC) if match["time"] else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise TimeError("there is no such time") from error
