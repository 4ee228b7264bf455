"""Search: accounts, people, keys, requests and orders by what somebody has typed: a name, a mail, an id, or how it
begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from billing.database.connection import Database, from_row, queries

_query = queries("billing")

Kind = Literal["account", "person", "key", "request", "order", "model"]
# Of each kind.
MOST_FOUND: Final = 8
_MOST_TYPED: Final = 200


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that was found: what it is called, and what tells it from others of that name."""

    kind: Kind
    id: str
    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Search:
    """Finds things of all accounts. Methods raise `DatabaseError`."""

    database: Database

    async def find(self, typed: str, kind: Kind | None = None, limit: int = MOST_FOUND) -> list[Found]:
        """Return what is called so, or begins so, in each kind or in one: what matches in full first."""
        text = typed.strip()[:_MOST_TYPED]
        if not text or not text.isprintable():
            return []
        begins = text.lower().replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
        id_begins = text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
        rows = await self.database.rows(_query("search"), text, begins, id_begins, kind, limit)
        return [from_row(Found, row) for row in rows]
