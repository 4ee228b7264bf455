"""How many debits a second one connection to Postgres takes: `write_debits` as the outbox calls it, commits synced.

Debits have the shape that the gateway gives them, rotate over all keys, and are of the current minute, so that every
batch also moves its accounts' balances. The work is done when the rollups of every key have it, too: the same
connection moves there what is fresh, within the time and the CPU that are measured; `written_per_s` is the rate until
then. A gateway does it about once a minute, on another connection, and raises fewer rollups for as many debits.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from benchmarks import wire
from benchmarks.machine import TARGET_CORE, cpu_s, on_core, tree_cpu_s
from benchmarks.metering import debit
from benchmarks.seed import Size, Written, seed, written
from benchmarks.stage import Stage
from benchmarks.subjects import Sample, Unsound
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.ledger.sums import roll
from billing.ledger.writer import write_debits

# The default of `ledger_batch_rows`.
BATCH_ROWS: Final = 500
EPOCH: Final = 1
SYNCED: Final = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(slots=True)
class LedgerRate:
    """A database of its own with customers, and one connection that writes."""

    stage: Stage
    size: Size
    url: str = ""
    keys: list[tuple[str, str]] = field(default_factory=list)
    rows: int = 0
    database: Database = field(init=False)

    async def open(self) -> None:
        """Make the database. Raises `Unsound` where Postgres does not sync what it commits."""
        self.url = await self.stage.create_database("ledger")
        await migrate(self.url)
        await seed(self.url, self.size, 6)
        connection = await asyncpg.connect(self.url)
        try:
            for setting in SYNCED:
                if (setting_value := await connection.fetchval(f"SHOW {setting}")) != "on":
                    raise Unsound(f"Postgres runs with {setting} = {setting_value}")
            await connection.execute("UPDATE accounts SET hyd_epoch = $1", EPOCH)
            await connection.execute("VACUUM ANALYZE accounts")
            found = await connection.fetch("SELECT account_id, id FROM api_keys ORDER BY id")
            self.keys = [(row["account_id"], row["id"]) for row in found]
        finally:
            await connection.close()
        self.database = Database(self.url, size=1)

    async def measure(self, rows: int) -> Sample:
        """Write so many debits, a batch after the other, and roll them up, from TARGET_CORE: Postgres has the other."""
        now_ms = time.time_ns() // 1_000_000
        debits = [
            debit(*self.keys[number % len(self.keys)], now_ms, place=(EPOCH, number // self.size.accounts + 1))
            for number in range(self.rows, self.rows + rows)
        ]
        self.rows += rows
        with on_core(TARGET_CORE):
            client, server = cpu_s(os.getpid()), tree_cpu_s(self.stage.postgres_pid)
            start = time.perf_counter()
            for at in range(0, rows, BATCH_ROWS):
                await write_debits(self.database, debits[at : at + BATCH_ROWS])
            written_s = time.perf_counter() - start
            while await roll(self.database, most_fresh=0):
                pass
            took_s = time.perf_counter() - start
            client, server = cpu_s(os.getpid()) - client, tree_cpu_s(self.stage.postgres_pid) - server
        return {
            "rows": rows,
            "rows_per_s": rows / took_s,
            "written_per_s": rows / written_s,
            "client_us": client * 1e6 / rows,
            "postgres_us": server * 1e6 / rows,
        }

    async def close(self) -> Written:
        """What the ledger holds at the end. Raises `Unsound` where that is not what was written."""
        await self.database.close()
        found = await written(self.url)
        wanted = Written(self.rows, self.rows, self.rows * wire.COST_NANO, 0, 0)
        if found != wanted:
            raise Unsound(f"the ledger holds {found}, what was written comes to {wanted}")
        return found
