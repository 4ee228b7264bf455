"""How the ledger grows: what inserting costs, and what its reports take, with ever more rows of ever more days."""

import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from benchmarks import wire
from benchmarks.figures import percentile
from benchmarks.ledger_rate import BATCH_ROWS, EPOCH
from benchmarks.machine import cpu_s, tree_cpu_s
from benchmarks.metering import debit
from benchmarks.seed import SEED, Written, account_id, key_id, seed_numbered, written
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Sample, Unsound
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.ledger.debits import Debit
from billing.ledger.reports import EventFilter, Reports
from billing.ledger.sums import MOST_FRESH, roll
from billing.ledger.writer import write_debits

ACCOUNTS: Final = 1_000
# Of all rows, those of the first account: reports are read of it.
LARGE_SHARE: Final = 0.1
SIX_WINDOWS: Final = 6
DAYS: Final = 60
MONTHS: Final = 4
FILL_ROWS: Final = 2_000
MEASURED_ROWS: Final = 20_000
READS: Final = 20
PAGE: Final = 50
QUERY_BAR_MS: Final = 50.0
STATEMENT_S: Final = 600.0

Query = Callable[[Reports, str], Awaitable[object]]


def _recent(reports: Reports, account: str) -> Awaitable[object]:
    since = datetime.now(UTC) - timedelta(days=1)
    return reports.usage_events(account, PAGE, only=EventFilter(since=since, key_id=key_id(0), model=wire.MODEL))


# Reports as the API reads them; each is a column.
QUERIES: Final[dict[str, Query]] = {
    "totals_ms": lambda reports, account: reports.usage_totals(account),
    "key_totals_ms": lambda reports, account: reports.usage_totals(account, key_id=key_id(0)),
    "events_ms": lambda reports, account: reports.usage_events(account, PAGE),
    "recent_ms": _recent,
    "transfers_ms": lambda reports, account: reports.transactions(account, PAGE),
}


async def ledger(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """From few rows to many, spread over DAYS in minutes that each batch chooses; a tenth of them is one account's."""
    url = await stage.create_database("grow_ledger")
    await migrate(url)
    await seed_numbered(url, range(ACCOUNTS), SIX_WINDOWS)
    database = Database(url, size=1, timeout_s=STATEMENT_S)
    samples: list[Sample] = []
    try:
        await database.execute("UPDATE accounts SET hyd_epoch = $1", EPOCH)
        first = datetime.now(UTC) - timedelta(days=DAYS)
        await database.execute("SELECT create_usage_months($1::date, $2)", first.date(), MONTHS)
        writer = _Writer(database)
        for size in sizes:
            report(f"ledger rows: {size:,}")
            while writer.rows < size - MEASURED_ROWS:
                await writer.write(min(FILL_ROWS, size - MEASURED_ROWS - writer.rows))
            await writer.roll()
            measured = size - writer.rows
            wrote = await _spent(stage, _insert(writer, measured))
            await database.execute("ANALYZE")
            read = {name: await _time(Reports(database), query) for name, query in QUERIES.items()}  # these are fresh
            inserted = _by_row(measured, wrote, await _spent(stage, writer.roll()))
            pages = await database.value("SELECT pg_database_size(current_database())")
            samples.append({"size": size, **inserted, **read, "bytes_a_row": pages / size})
        found = await written(url)
        wanted = Written(writer.rows, writer.rows, writer.rows * wire.COST_NANO, 0, 0)
        if found != wanted:
            raise Unsound(f"the ledger holds {found}, what was written comes to {wanted}")
    finally:
        await database.close()
    return samples


class _Writer:
    """Writes batches; a batch is of one minute, as it is when it comes from a gateway. `rolled` of the rows are in the
    rollups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._choice = random.Random(SEED)  # noqa: S311 - the same rows in every run
        self.rows = 0
        self.rolled = 0

    async def write(self, rows: int, at_ms: int | None = None) -> None:
        """At a time that is chosen at random within DAYS, unless it is given."""
        if at_ms is None:
            at_ms = int((time.time() - self._choice.random() * DAYS * 86_400) * 1000)
        await write_debits(
            self._database, [self._debit(number, at_ms) for number in range(self.rows, self.rows + rows)]
        )
        self.rows += rows
        if self.rows - self.rolled > MOST_FRESH:
            await self.roll()

    async def roll(self) -> None:
        """Move all that is fresh."""
        while moved := await roll(self._database, most_fresh=0):
            self.rolled += moved

    def _debit(self, number: int, at_ms: int) -> Debit:
        place = 0 if self._choice.random() < LARGE_SHARE else self._choice.randrange(ACCOUNTS)
        return debit(account_id(place), key_id(place), at_ms, place=(EPOCH, number + 1))


async def _insert(writer: _Writer, rows: int) -> None:
    """So many rows of this minute in batches of the outbox's size."""
    now_ms = time.time_ns() // 1_000_000
    for at in range(0, rows, BATCH_ROWS):
        await writer.write(min(BATCH_ROWS, rows - at), now_ms)


class _Spent(NamedTuple):
    """Seconds: by the clock, of our CPU, of Postgres's."""

    took: float
    own: float
    postgres: float


async def _spent(stage: Stage, work: Awaitable[None]) -> _Spent:
    own, postgres, start = cpu_s(os.getpid()), tree_cpu_s(stage.postgres_pid), time.perf_counter()
    await work
    took = time.perf_counter() - start
    return _Spent(took, cpu_s(os.getpid()) - own, tree_cpu_s(stage.postgres_pid) - postgres)


def _by_row(rows: int, *parts: _Spent) -> Sample:
    took, own, postgres = map(sum, zip(*parts, strict=True))
    return {"rows_per_s": rows / took, "client_us": own * 1e6 / rows, "postgres_us": postgres * 1e6 / rows}


async def _time(reports: Reports, query: Query) -> float:
    """The median of READS, in milliseconds, after one that is not counted."""
    took: list[float] = []
    for _ in range(READS + 1):
        start = time.perf_counter()
        await query(reports, account_id(0))
        took.append((time.perf_counter() - start) * 1000)
    return percentile(took[1:], 0.5)
