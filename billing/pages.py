"""Pages of lists, newest first. Pure.

Ids end in a ULID, so that they sort by creation time; the last id of a page is the cursor of the next one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from billing.errors import MetergateError

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000
BEFORE_ALL: Final = "z" * 32
"""Sorts after every id in any collation: where the first page begins."""

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
        raise BadCursor("This cursor is not one that this list has given.")
    return int(after)


MOST_MOMENT: Final = 1_000
"""Characters of a list's moment that a cursor carries; of a longer one, with that many transactions under way, none."""
_MOMENT: Final = re.compile(
    r"[0-9]{1,11}:([1-9][0-9]{0,17}):([1-9][0-9]{0,17}):((?:[0-9]{1,18}(?:,[0-9]{1,18})*)?)", re.ASCII
)


def checked_moment(text: str) -> str | None:
    """Return the moment of a list's first page as its later pages ask for it: Unix seconds and a snapshot of Postgres
    (`SECONDS:XMIN:XMAX:XIP,...`); None where the cursor has none. Raises `BadCursor`."""
    if not text:
        return None
    found = _MOMENT.fullmatch(text) if len(text) <= MOST_MOMENT else None
    if found is not None:
        first, last = int(found[1]), int(found[2])
        running = [int(each) for each in found[3].split(",") if each]
        if first <= last and running == sorted(running) and all(first <= each < last for each in running):
            return text
    raise BadCursor("This cursor is not one that this list has given.")
