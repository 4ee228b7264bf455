"""A run over all sources: their pages are fetched and written, then what has grown is charged.

A source that fails is reported and keeps no other waiting; the run has failed where all of them have, or the ledger is
away. Each run is kept, the last `RUNS_KEPT` of them. Memory is bounded by the pages that are fetched at once.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from billing.collect.debits import TrafficDebits
from billing.collect.facts import Facts, Wrote
from billing.collect.snapshots import MOST_EMPTY, ExporterFailed, Exporters, read_page
from billing.collect.subjects import Subjects
from billing.database.connection import DatabaseError, queries
from billing.pages import BadCursor, Page, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.collect.debits import Rated
    from billing.collect.snapshots import Checkpoint, Source
    from billing.database.connection import Database

logger = logging.getLogger(__name__)

_query = queries("billing.collect")
COLLECT: Final = "collect-and-rate"
LEASE: Final = "collect"
RUNS_KEPT: Final = 200
ERROR_CHARACTERS: Final = 2000
FORGET_EVERY: Final = timedelta(hours=1)
# Batches of old points that are removed at once.
MOST_FORGOTTEN: Final = 20
NEWEST: Final = 2**63 - 1

Status = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to. `degraded`: some sources failed, or some traffic stays due; `failed`: all of them, or the
    ledger was away. `revision` is what its facts are marked with."""

    job: str
    status: Status
    started_at: datetime
    finished_at: datetime
    sources: int
    failed_sources: int
    processed_samples: int
    written_minutes: int
    replayed_minutes: int
    conflicts: int
    set_aside: int
    debits: int
    revision: str
    error: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a collector works with."""

    exporters: Exporters
    facts: Facts
    subjects: Subjects
    debits: TrafficDebits


@dataclass(frozen=True, slots=True)
class CollectRules:
    """`pages` of one source are read by one run at most; `overlap` is how long before the newest snapshot the next
    window begins, for those that come late; `at_once` sources are read at the same time."""

    revision: str
    pages: int
    overlap: timedelta
    at_once: int


@dataclass(frozen=True, slots=True)
class _Collected:
    """What one source came to; `error` is empty where nothing is wrong."""

    wrote: Wrote
    error: str = ""


class Collector:
    """Collects from `sources`. It keeps the last run and how far each source is read, for those who show it."""

    def __init__(
        self,
        database: Database,
        sources: Sequence[Source],
        parts: Parts,
        rules: CollectRules,
        utc_now: Callable[[], datetime],
    ) -> None:
        self.database = database
        self.sources = tuple(sources)
        self._exporters, self._facts, self.subjects = parts.exporters, parts.facts, parts.subjects
        self._debits = parts.debits
        self._rules, self._now = rules, utc_now
        self._running = asyncio.Lock()
        self.last: Run | None = None
        self._forgot_at: datetime | None = None
        self.marks: dict[str, datetime | None] = {}
        """The newest snapshot of each source."""

    async def close(self) -> None:
        """Close the connections to exporters."""
        await self._exporters.close()

    async def run(self, job: str = COLLECT, since: datetime | None = None) -> Run:
        """Collect from all sources once, from `since` on where it is given, and charge. What fails is in the result."""
        async with self._running:
            started = self._now()
            gate = asyncio.Semaphore(self._rules.at_once)
            found = await asyncio.gather(*(self._guarded(gate, source, since) for source in self.sources))
            wrote, errors = Wrote(), []
            for source, each in zip(self.sources, found, strict=True):
                wrote = wrote.plus(each.wrote)
                if each.error:
                    errors.append(f"{source.source_id}: {each.error}")
            failed, debits = len(errors), 0
            status: Status = "ok" if not errors else "failed" if failed == len(self.sources) else "degraded"
            try:
                rated = await self._rated()
                debits = rated.debits
                if rated.left:
                    errors.append(f"the traffic of {len(rated.left)} accounts stays due")
                    status = "degraded" if status == "ok" else status
                await self._forget()
            except DatabaseError as error:
                errors.append(f"the ledger is away: {error}")
                status = "failed"
            run = Run(
                job,
                status,
                started,
                self._now(),
                len(self.sources),
                failed,
                wrote.samples,
                wrote.written_minutes,
                wrote.replayed_minutes,
                wrote.conflicts,
                wrote.set_aside,
                debits,
                self._rules.revision,
                "; ".join(errors)[:ERROR_CHARACTERS],
            )
            self.last = run
            _log(run)
            await self._keep(run)
            return run

    async def _guarded(self, gate: asyncio.Semaphore, source: Source, since: datetime | None) -> _Collected:
        """Collect from one source; return its failure instead of raising it, so that others go on."""
        async with gate:
            try:
                return await self._collected(source, since)
            except DatabaseError as error:
                return _Collected(Wrote(), f"the ledger did not take it: {error}")
            except Exception as error:  # of one source, whatever it is: no other waits for it
                logger.exception("the source %s has failed", source.source_id)
                return _Collected(Wrote(), f"it could not be collected: {type(error).__name__}")

    async def _collected(self, source: Source, since: datetime | None) -> _Collected:
        wrote, empty = Wrote(), 0
        checkpoint = (await self._facts.checkpoint(source.source_id)).begun(self._now(), self._rules.overlap, since)
        try:
            for _ in range(self._rules.pages):
                body = await self._exporters.page(source, checkpoint)
                page = read_page(body, source, self._now())
                after = checkpoint.after(page)
                empty = 0 if page.sent else empty + 1
                if empty > MOST_EMPTY and not after.is_done:
                    raise ExporterFailed("it says again and again that there is more, and sends nothing", restart=True)
                written = await self._facts.write(source, page, checkpoint, after, self._now())
                if written is None:
                    break
                wrote = wrote.plus(written)
                checkpoint = after
                if checkpoint.is_done:
                    break
        except ExporterFailed as error:
            await self._facts.failed(source.source_id, str(error), restart=error.restart)
            return _Collected(wrote, str(error))
        finally:
            self._mark(source, checkpoint)
        return _Collected(wrote)

    def _mark(self, source: Source, checkpoint: Checkpoint) -> None:
        marks = [at for at in (checkpoint.watermark, checkpoint.newest) if at is not None]
        self.marks[source.source_id] = max(marks, default=None)

    async def _rated(self) -> Rated:
        granted = await self.subjects.settle()
        rated = await self._debits.round(self._now())
        for account_id in granted - rated.accounts:
            await self._debits.publish([account_id])
        return rated

    async def _forget(self) -> None:
        """Remove old points, once in a while, and not all of a long time at once."""
        now = self._now()
        if self._forgot_at is None or now - self._forgot_at >= FORGET_EVERY:
            self._forgot_at = now
            for _ in range(MOST_FORGOTTEN):
                if not await self._facts.forget(now):
                    break

    async def _keep(self, run: Run) -> None:
        values = [getattr(run, name) for name in Run.__slots__ if name != "id"]
        try:
            await self.database.execute(_query("add_run"), *values, RUNS_KEPT)
        except DatabaseError as error:
            logger.info("a run of collection is not kept: %s", error)

    async def refresh(self) -> None:
        """Read what the last run of any gateway came to, and how far the sources are read. Raises `DatabaseError`."""
        (newest, *_) = [*(await self.runs(1)).items, None]
        if newest is not None and (self.last is None or newest.finished_at >= self.last.finished_at):
            self.last = newest
        names = [source.source_id for source in self.sources]
        for row in await self.database.rows(_query("standing"), names):
            self.marks[row["source"]] = row["watermark"]

    async def runs(self, limit: int, after: str | None = None) -> Page[Run]:
        """Return runs, the newest first. Raises `pages.BadCursor`, `DatabaseError`."""
        if after is not None and not (after.isdecimal() and len(after) < len(str(NEWEST))):
            raise BadCursor("This cursor is not from this list.")
        rows = await self.database.rows(_query("page_runs"), NEWEST if after is None else int(after), limit + 1)
        return page_of([Run(**dict(row)) for row in rows], limit, lambda run: str(run.id))

    @property
    def lag_s(self) -> float:
        """Return how old the newest snapshot of the source is that is furthest behind; 0 without any."""
        return max(map(self.lag_of, self.marks), default=0.0)

    def lag_of(self, source_id: str) -> float:
        """Return how old the newest snapshot of a source is, in seconds; 0 where it has none."""
        at = self.marks.get(source_id)
        return 0.0 if at is None else (self._now() - at).total_seconds()

    @property
    def trouble(self) -> str:
        """Return what an operator should look at of the last run; empty where all is well."""
        last = self.last
        return "" if last is None or last.status == "ok" else f"collection {last.status}: {last.error}"


def _log(run: Run) -> None:
    if run.status != "ok":
        logger.warning("%s %s: %s", run.job, run.status, run.error)
    if run.conflicts:
        logger.warning("%d samples said another value than known ones of their time; the larger stays", run.conflicts)
    if run.set_aside:
        logger.warning("%d samples of times that can't be charged were set aside", run.set_aside)
