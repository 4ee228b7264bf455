"""Continues every export, each for itself: what one waits for keeps no other waiting.

A batch is claimed before it is sent, and the export moves on in one transaction with its dead letters. So whoever dies
in between has sent some of it, and the next gateway sends the very same batch again, which changes nothing at the other
side. What fails is tried again after pauses that double, or that the other side has asked for.

Numbers of events (`wseq`) are drawn before their transactions are committed. So that none is passed over, a reader goes
up to a number only once every transaction has ended that may have drawn one up to it: it reads the last number, then
takes the id of a transaction of its own, which is above those of all that have drawn one, and waits until Postgres says
that all below it have ended.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.audit import Actor, record
from billing.database.connection import DatabaseError, queries
from billing.errors import MetergateError
from billing.exports.events import ExportEvent
from billing.exports.sinks import SinkFailed
from billing.pages import BadCursor, Page, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.database.connection import Connection, Database, Row
    from billing.exports.sinks import Refusals, Sink

logger = logging.getLogger(__name__)
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
class DeadLetter:
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

    async def keep_dead_letter(self, connection: Connection, event: ExportEvent, reason: str) -> None:
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


@dataclass
class Exports:
    """What operators see of exports. Methods raise `DatabaseError`."""

    database: Database

    async def standings(self) -> list[Standing]:
        """Return how each export is that there ever was."""
        return [Standing(**row) for row in await self.database.rows(_query("standing"), None)]

    async def dead_letters(
        self, limit: int, after: str | None = None, *, export: str | None = None
    ) -> Page[DeadLetter]:
        """Return what is parked, newest first; `after` is the id that ended the page before. Raises `BadCursor`."""
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
            raise BadCursor("This cursor is not from this list.")
        before = None if after is None else int(after)
        rows = await self.database.rows(_query("parked"), export, before, limit + 1)
        return page_of([DeadLetter(**row) for row in rows], limit, lambda item: str(item.id))

    async def again(self, export: str, item: str | None, actor: Actor) -> int:
        """Have a parked item tried again, or all of an export's; return how many. Raises `ExportNotFound`."""
        async with self.database.transaction() as connection:
            found = int(await connection.fetchval(_query("again"), export, item))
            if not found:
                raise ExportNotFound("Nothing is parked there: see `metergate operator exports parked`.")
            await record(connection, actor, "export.retry", export, None, {"item": item, "retried": found})
        return found


EVERY_S: Final = 1.0
STANDING_EVERY_S: Final = 5.0
# How often a gateway refreshes the standing of an export that another one continues: each reports its health.
OTHERS_EVERY_S: Final = 30.0
UNPARK: Final = queries("billing.exports")("unpark")


@dataclass(frozen=True, slots=True)
class ExportRules:
    """Pauses after failures double from `pause_s` to `most_pause_s`. An export whose oldest event waits for `alarm_s`
    raises an alarm, once, and again every `remind_s`: long before the other side would not take it any more, or would
    not know a repetition. A batch of which nothing is taken waits so many failures before all of it is parked: most
    often it is the configuration that is wrong, and not every event."""

    pause_s: float = 1.0
    most_pause_s: float = 300.0
    alarm_s: float = 6 * 3600.0
    remind_s: float = 3600.0
    failures_before_all_parked: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.pause_s <= self.most_pause_s or min(self.alarm_s, self.remind_s) <= 0:
            raise ValueError("pauses and times must be above zero, and the longest pause the longest")
        if self.failures_before_all_parked < 0:
            raise ValueError("failures_before_all_parked is not below zero")

    def pause(self, failures: int, asked_s: float) -> float:
        """Return how long to wait after one more failure."""
        return max(asked_s, min(self.most_pause_s, self.pause_s * 2.0 ** min(failures, 30)))


class Export:
    """One export in this process: its other side, its place, and how it stood last."""

    def __init__(self, sink: Sink, cursor: Cursor) -> None:
        self.sink, self.cursor = sink, cursor
        self.standing: Standing | None = None
        self.standing_at = self.alarmed_at = float("-inf")


class ExportWorker:
    """Goes on with exports, in one gateway at a time each; `owner` names this process."""

    def __init__(
        self,
        database: Database,
        sinks: Sequence[Sink],
        owner: str,
        rules: ExportRules | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        from_beginning: frozenset[str] = frozenset(),
    ) -> None:
        """The exports in `from_beginning` begin with the first event, when they are new, and others with the next
        one."""
        self._database, self._rules, self._now = database, rules or ExportRules(), now
        self._horizon = Horizon(database)
        self.exports = {
            sink.name: Export(
                sink, Cursor(database, sink.name, sink.kind, owner, from_beginning=sink.name in from_beginning)
            )
            for sink in sinks
        }

    async def run(self) -> None:
        """Go on for ever. Connections are closed at its end."""
        try:
            async with asyncio.TaskGroup() as group:
                for export in self.exports.values():
                    group.create_task(self._run(export))
        finally:
            for export in self.exports.values():
                await export.sink.close()

    async def _run(self, export: Export) -> None:
        opened, faults = False, 0
        while True:
            more, pause_s = False, EVERY_S
            try:
                if not opened:
                    await export.cursor.open()
                    opened = True
                more = await self.step(export)
                faults = 0
            except DatabaseError as error:
                logger.info("export %s waits: %s", export.sink.name, error)
            except Exception:  # of one export, whatever it is: no other waits for it
                pause_s, faults = self._rules.pause(faults, EVERY_S), faults + 1
                logger.exception("export %s has failed, and is tried again in %.0f s", export.sink.name, pause_s)
            if not more:
                await asyncio.sleep(pause_s)

    async def step(self, export: Export) -> bool:
        """Send one batch and do what else is due; return whether there is more. Raises `DatabaseError`."""
        position = await export.cursor.lease()
        if position is None:
            if asyncio.get_running_loop().time() - export.standing_at >= OTHERS_EVERY_S:
                await self._see(export)
            return False
        more = False
        if position.wait_s <= 0:
            try:
                more = await self._go_on(export, position)
            except SinkFailed as failed:
                pause_s = self._rules.pause(position.failures, failed.wait_s)
                level = logging.WARNING if position.failures == 0 else logging.INFO
                logger.log(level, "export %s waits %.0f s: %s", export.sink.name, pause_s, failed)
                await export.cursor.failed(pause_s, str(failed))
        if not more or asyncio.get_running_loop().time() - export.standing_at >= STANDING_EVERY_S:
            await self._refresh_standing(export)
        return more

    async def _go_on(self, export: Export, position: Position) -> bool:
        cursor, sink = export.cursor, export.sink
        await self._again(export)
        safe, before = await self._horizon.safe(), sink.before(self._now())
        events, end = await cursor.next(position, safe, sink.batch, before)
        if events:
            refused = await sink.send(events)
            if len(refused) == len(events) > 1 and position.failures < self._rules.failures_before_all_parked:
                first = next(iter(refused.values()))
                raise SinkFailed(f"none of {len(events)} events was taken; of the first it is said: {first}")
            await self._move_on(export, position, end, events, refused)
        elif end > position.wseq:
            await cursor.skip(position, end)
        due = await sink.after()
        return due or len(events) >= sink.batch

    async def _move_on(
        self, export: Export, position: Position, end: int, events: Sequence[ExportEvent], refused: Refusals
    ) -> None:
        async with self._database.transaction() as connection:
            if not await export.cursor.advance(connection, position, end, accepted=len(refused) < len(events)):
                return
            taken = [event for event in events if event.request_id not in refused]
            await export.sink.accepted(connection, taken)
            for event in events:
                if event.request_id in refused:
                    await export.cursor.keep_dead_letter(connection, event, refused[event.request_id])
        if refused:
            logger.warning("export %s: %d events are parked", export.sink.name, len(refused))

    async def _again(self, export: Export) -> None:
        """Send what an operator wants to have tried again."""
        events = await export.cursor.again(export.sink.batch)
        if not events:
            return
        refused = await export.sink.send(events)
        taken = [event.request_id for event in events if event.request_id not in refused]
        async with self._database.transaction() as connection:
            await connection.execute(UNPARK, export.sink.name, taken)
            for event in events:
                if event.request_id in refused:
                    await export.cursor.keep_dead_letter(connection, event, refused[event.request_id])

    async def _refresh_standing(self, export: Export) -> None:
        """Refresh how an export stands, and raise an alarm where its oldest event waits for too long."""
        await self._see(export)
        now_s, trouble = export.standing_at, self._trouble(export)
        if trouble is None:
            export.alarmed_at = float("-inf")
        elif now_s - export.alarmed_at >= self._rules.remind_s:
            export.alarmed_at = now_s
            logger.error("%s", trouble)

    async def _see(self, export: Export) -> None:
        export.standing, export.standing_at = await export.cursor.standing(), asyncio.get_running_loop().time()

    def _trouble(self, export: Export) -> str | None:
        standing = export.standing
        if standing is None or standing.lag_s < self._rules.alarm_s:
            return None
        why = f": {standing.error}" if standing.error else ""
        return f"export {export.sink.name} is {standing.lag_s / 3600:.1f} h behind{why}"

    def troubles(self) -> list[str]:
        """Return which exports are far behind, a clause each."""
        found = (self._trouble(export) for export in self.exports.values())
        return [sentence for sentence in found if sentence is not None]
