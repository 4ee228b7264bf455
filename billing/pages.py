"""Pages: how a list is read in parts, newest first. Pure.

Ids end in a ULID, so that their order is the order in which they were made; the last id of a page is where the next one
begins.
"""

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
    """A cursor that no page of this list has given."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items and the cursor of the next page; None on the last."""

    items: tuple[T, ...]
    next_after: str | None


def page_of(found: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """The page of a query that was asked for `limit` + 1 rows: the one too many says that there is a next page."""
    items = tuple(found[:limit])
    return Page(items, cursor(items[-1]) if len(found) > limit else None)
