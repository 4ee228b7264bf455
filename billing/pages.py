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
    r"([0-9]{1,11}):([1-9][0-9]{0,17}):([1-9][0-9]{0,17}):((?:[0-9]{1,18}(?:,[0-9]{1,18})*)?)", re.ASCII
)
CLOCKS_APART_S: Final = 3_600
"""How far the clock that an id is made by is ahead of Postgres's, at most."""
_ULID: Final = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
_ULID_TIME: Final = 10
"""Characters of a ULID that are milliseconds, in Crockford's base 32 (https://github.com/ulid/spec)."""
_BASE_32: Final = str.maketrans("ABCDEFGHJKMNPQRSTVWXYZ", "abcdefghijklmnopqrstuv")
"""From Crockford's digits to those of `int`."""


def checked_moment(text: str, last: str) -> str | None:
    """Return the moment of a list's first page as its later pages ask for it: Unix seconds and a snapshot of Postgres
    (`SECONDS:XMIN:XMAX:XIP,...`); None where the cursor has none. `last` is the id that ended the page before: a ULID,
    which was there at that moment. One of much later would have all be read that came since. Raises `BadCursor`."""
    if not text:
        return None
    found = _MOMENT.fullmatch(text) if len(text) <= MOST_MOMENT else None
    if found is not None and _ULID.fullmatch(last) is not None:
        seconds, first, end = int(found[1]), int(found[2]), int(found[3])
        running = [int(each) for each in found[4].split(",") if each]
        made_s = int(last[:_ULID_TIME].translate(_BASE_32), 32) / 1000
        in_order = first <= end and running == sorted(running) and all(first <= each < end for each in running)
        if in_order and made_s <= seconds + CLOCKS_APART_S:
            return text
    raise BadCursor("This cursor is not one that this list has given.")
