"""How far each export is: which events it has next, and which of them the other side does not take.

Numbers of events (`wseq`) are drawn before their transactions are committed. So that none is passed over, a reader goes
up to a number only once every transaction has ended that may have drawn one up to it: it reads the last number, then
takes the id of a transaction of its own, which is above those of all that have drawn one, and waits until Postgres says
that all below it have ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from billing.audit import Actor, record
from billing.database.connection import queries
from billing.errors import MetergateError
from billing.exports.events import ExportEvent
from billing.pages import BadCursor, Page, page_of

if TYPE_CHECKING:
    from billing.database.connection import Connection, Database, Row

_query = queries("billing.exports")
# How long an export stays one gateway's without a sign of it; longer than one request to the other side takes.
LEASE_S: Final = 60.0
MOST_ERROR: Final = 300


class ExportNotFound(MetergateError):
    """No export has this name, or nothing of it is parked under this id."""

    kind = "not_found"


@dataclass(frozen=True, slots=True)
class Position:
    """Where an export is: all up to `wseq` is done, `claimed` is the end of the batch that is under way. It has failed
    `failures` times since, and is to wait for `wait_s`."""

    wseq: int
    claimed: int | None
    failures: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How an export is: at most `waiting` events wait, the oldest for `lag_s`; `error` is the last failure's."""

    name: str
    kind: str
    failures: int
    error: str | None
    accepted_at: datetime | None
    created_at: datetime
    waiting: int
    lag_s: float
    parked: int


@dataclass(frozen=True, slots=True)
class Parked:
    """An item that the other side does not take: an event by its request id, or a sum of an hour."""

    id: int
    export: str
    item: str
    admitted_at: datetime | None
    account_id: str
    reason: str
    again: bool
    parked_at: datetime


class Horizon:
    """Up to which number all events can be seen that ever will be."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._safe = -1
        self._mark: tuple[int, int] | None = None
        self._asking = asyncio.Lock()

    async def safe(self) -> int:
        """Return that number; -1 as long as none is known. Raises `DatabaseError`."""
        async with self._asking:
            if self._mark is None:
                written = await self._database.value(_query("written"))
                if written == self._safe:
                    return self._safe
                self._safe = min(self._safe, written)  # a server that has lost its last moments draws numbers again
                self._mark = (written, await self._database.value(_query("mark")))
            ended = await self._database.value(_query("ended"), self._mark[1])
            if ended is not False:  # None: the server is another one, and the mark means nothing there
                self._safe, self._mark = self._mark[0] if ended else -1, None
            return self._safe


class Cursor:
    """One export's place; `owner` names this process. Methods raise `DatabaseError`."""

    def __init__(self, database: Database, name: str, kind: str, owner: str, *, from_beginning: bool) -> None:
        self.name = name
        self._database, self._kind, self._owner, self._from_beginning = database, kind, owner, from_beginning

    async def open(self) -> None:
        """Make the export known, where it is new."""
        await self._database.execute(_query("open"), self.name, self._kind, self._from_beginning)

    async def lease(self) -> Position | None:
        """Take or keep the lease; None where another gateway has it."""
        row = await self._database.row(_query("lease"), self.name, self._owner, LEASE_S)
        return None if row is None else Position(**row)

    async def next(
        self, position: Position, safe: int, most: int, before: datetime | None
    ) -> tuple[list[ExportEvent], int]:
        """Return the batch after a place, in the order in which it was written, and where it ends: the same one until
        it was accepted. With `before`, it ends at the first event that was written then or later."""
        end = safe if position.claimed is None else position.claimed
        if end <= position.wseq:
            return [], position.wseq
        most_now = most if position.claimed is None else None
        rows = await self._database.rows(_query("events"), position.wseq, end, most_now)
        events = [event_of(row) for row in rows]
        if position.claimed is not None:
            return events, end
        late = next((at for at, event in enumerate(events) if before is not None and event.created_at >= before), None)
        if late is not None:
            events = events[:late]
            end = position.wseq
        if events and (late is not None or len(events) == most):
            end = events[-1].wseq or end
        if events and await self._database.row(_query("claim"), self.name, position.wseq, end) is None:
            return [], position.wseq  # another gateway goes on
        return events, end

    async def advance(self, connection: Connection, position: Position, end: int, *, accepted: bool) -> bool:
        """Move on to the end of a batch; False where another gateway has."""
        return await connection.fetchrow(_query("advance"), self.name, position.wseq, end, accepted) is not None

    async def skip(self, position: Position, end: int) -> None:
        """Move on over numbers that no event has."""
        await self._database.execute(_query("advance"), self.name, position.wseq, end, False)

    async def failed(self, pause_s: float, error: str) -> None:
        """Note a failure."""
        await self._database.execute(_query("failed"), self.name, pause_s, error[:MOST_ERROR])

    async def park(self, connection: Connection, event: ExportEvent, reason: str) -> None:
        """List an event as parked, in the caller's transaction."""
        given = (event.request_id, event.admitted_at, event.account_id, reason[:MOST_ERROR])
        await connection.execute(_query("park"), self.name, *given)

    async def again(self, most: int) -> list[ExportEvent]:
        """Return parked events that are to be tried again."""
        return [event_of(row) for row in await self._database.rows(_query("parked_again"), self.name, most)]

    async def standing(self) -> Standing | None:
        """Return how the export is."""
        row = await self._database.row(_query("standing"), self.name)
        return None if row is None else Standing(**row)


def event_of(row: Row) -> ExportEvent:
    """Return the event that a row of usage_events is."""
    return ExportEvent(**{name: row[name] for name in ExportEvent.__struct_fields__})


class Exports:
    """What operators see of exports. Methods raise `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standings(self) -> list[Standing]:
        """Return how each export is that there ever was."""
        return [Standing(**row) for row in await self._database.rows(_query("standing"), None)]

    async def parked(self, limit: int, after: str | None = None, *, export: str | None = None) -> Page[Parked]:
        """Return what is parked, newest first; `after` is the id that ended the page before. Raises `BadCursor`."""
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
            raise BadCursor("This cursor is not one that this list has given.")
        before = None if after is None else int(after)
        rows = await self._database.rows(_query("parked"), export, before, limit + 1)
        return page_of([Parked(**row) for row in rows], limit, lambda item: str(item.id))

    async def again(self, export: str, item: str | None, actor: Actor) -> int:
        """Have a parked item tried again, or all of an export's; return how many. Raises `ExportNotFound`."""
        async with self._database.transaction() as connection:
            found = int(await connection.fetchval(_query("again"), export, item))
            if not found:
                raise ExportNotFound("Nothing is parked there: see `metergate operator exports parked`.")
            await record(connection, actor, "export.retry", export, None, {"item": item, "retried": found})
        return found
