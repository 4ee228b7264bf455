"""Goes on with every export, each for itself: what one waits for keeps no other waiting.

A batch is claimed before it is sent, and the export moves on in one transaction with what was parked. So whoever dies
in between has sent some of it, and the next gateway sends the very same batch again, which changes nothing at the other
side. What fails is tried again after pauses that double, or that the other side has asked for.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.database.connection import DatabaseError, queries
from billing.exports.cursor import Cursor, Horizon, Standing
from billing.exports.sinks import SinkFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.database.connection import Database
    from billing.exports.cursor import Position
    from billing.exports.events import ExportEvent
    from billing.exports.sinks import Refusals, Sink

logger = logging.getLogger(__name__)

EVERY_S: Final = 1.0
STANDING_EVERY_S: Final = 5.0
# How often a gateway sees how an export stands that another one goes on with: each of them tells its health.
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
            await self._look(export)
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
                    await export.cursor.park(connection, event, refused[event.request_id])
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
                    await export.cursor.park(connection, event, refused[event.request_id])

    async def _look(self, export: Export) -> None:
        """See how an export stands, and raise an alarm where its oldest event waits for too long."""
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
