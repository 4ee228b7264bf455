"""Pages of lists, newest first; and ids, by which lists are in order.

Ids end in a ULID, so that they sort by creation time (`new_id` makes one); the last id of a page is the cursor of the
next one.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

from ulid import ULID

from billing.errors import MetergateError

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000
# Sorts after every id in any collation: where the first page begins.
BEFORE_ALL: Final = "z" * 32

T = TypeVar("T")


class BadCursor(MetergateError, ValueError):
    """A cursor that is not one of this list's."""

    kind, field = "invalid", "cursor"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items and the cursor of the next page; None on the last."""

    items: tuple[T, ...]
    next_after: str | None


def page_of(found: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """Return the page of a query for `limit` + 1 rows; the additional row shows that there is a next page."""
    items = tuple(found[:limit])
    return Page(items, cursor(items[-1]) if len(found) > limit else None)


def place_of(after: str | None) -> int:
    """Return the number that the cursor of a counted list stands for, 0 without one. Raises `BadCursor`."""
    if after is None:
        return 0
    if not after.isdecimal():
        raise BadCursor("This cursor is not from this list.")
    return int(after)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def moment_cursor(at: datetime, id_: str) -> str:
    """Return the cursor of a list that is in the order of a time: it holds its place also where the row goes."""
    return f"{(at - _EPOCH) // _MICROSECOND}.{id_}"


def moment_place(cursor: str) -> tuple[datetime, str]:
    """Return the time and the id that such a cursor has. Raises `BadCursor`."""
    micros, dot, id_ = cursor.partition(".")
    try:
        at = _EPOCH + int(micros) * _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise BadCursor("This cursor is not from this list.") from error
    if not (dot and id_):
        raise BadCursor("This cursor is not from this list.")
    return at, id_


SEAL_CHARACTERS: Final = 32


def seal_of(secret: bytes, account_id: str, place: str) -> str:
    """Return what proves that a list of this account's has given a place: whoever changes a cursor can't make it."""
    return hmac.new(secret, f"{account_id}\n{place}".encode(), hashlib.sha256).hexdigest()[:SEAL_CHARACTERS]


def check_seal(secret: bytes, account_id: str, place: str, seal: str) -> None:
    """Raise `BadCursor` for a place that no list of this account's has given."""
    if not hmac.compare_digest(seal_of(secret, account_id, place).encode(), seal.encode()):
        raise BadCursor("This cursor is not from this list.")


def new_id() -> str:
    """Return a ULID (https://github.com/ulid/spec), 26 characters."""
    return str(ULID())
