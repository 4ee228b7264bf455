"""What a worker takes from services: single debits, each admitted by balance and windows, and usage by the hundred.

A debit is answered when it is committed in Postgres, and so is a call of usage: both are durable when they are counted.
At the end the ledger must hold every event that was answered, once.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from benchmarks import wire
from benchmarks.installation import Installation
from benchmarks.process import Process
from benchmarks.seed import Size
from benchmarks.stage import Stage
from benchmarks.subjects import Sample, Unsound

KEY: Final = "service-key-of-the-benchmark"
AMOUNT_NANO: Final = 1_000_000
CONNECTIONS: Final = 64
USAGE_CONNECTIONS: Final = 4
WARM_CONNECTIONS: Final = 4
# Of one call of usage.
EVENTS: Final = 100
_HEAD: Final = (
    b"POST /api/service/%s HTTP/1.1\r\nHost: bench\r\nX-API-Key: " + KEY.encode() + b"\r\nX-Service-Name: bench\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@dataclass(slots=True)
class ServiceRate:
    """An installation and one worker of its own. `events` were answered."""

    stage: Stage
    size: Size
    accounts: list[str] = field(default_factory=list)
    events: int = 0
    installation: Installation = field(init=False)
    worker: Process = field(init=False)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def open(self) -> None:
        """Start it. Raises `StageError`."""
        self.installation = await self.stage.install(self.size, (6,), partitions=1)
        self.installation.more["SERVICE_API_KEY"] = KEY
        self.worker = await self.stage.worker(self.installation, "service")
        connection = await asyncpg.connect(self.installation.database_url)
        try:
            found = await connection.fetch("SELECT id FROM accounts ORDER BY id")
            self.accounts = [row["id"] for row in found]
        finally:
            await connection.close()
        while self.events < len(self.accounts):  # every one is loaded
            await self._run(WARM_CONNECTIONS, self._debit, 1, 0.5)
        connection = await asyncpg.connect(self.installation.database_url)
        try:  # as autovacuum does within a minute: until then plans are those of empty tables
            await connection.execute("ANALYZE")
        finally:
            await connection.close()

    async def debits(self, warm_s: float, measure_s: float) -> Sample:
        """As many single debits as it takes."""
        await self._run(CONNECTIONS, self._debit, 1, warm_s)
        return await self._run(CONNECTIONS, self._debit, 1, measure_s)

    async def usage(self, warm_s: float, measure_s: float) -> Sample:
        """As much usage as it takes."""
        await self._run(USAGE_CONNECTIONS, self._usage, EVENTS, warm_s)
        return await self._run(USAGE_CONNECTIONS, self._usage, EVENTS, measure_s)

    def _debit(self) -> bytes:
        body = self._event()
        return _HEAD % (b"debits", len(body)) + body

    def _usage(self) -> bytes:
        body = b'{"events":[' + b",".join(self._event() for _ in range(EVENTS)) + b"]}"
        return _HEAD % (b"usage", len(body)) + body

    def _event(self) -> bytes:
        number = next(self._numbers)
        account = self.accounts[number % len(self.accounts)]
        return wire.compact({"account_id": account, "event_id": f"event-{number}", "amount_usd": "0.001"})

    async def _run(self, connections: int, ask: Callable[[], bytes], events: int, lasts_s: float) -> Sample:
        before, start = self.stage.clocks(self.worker), time.perf_counter()
        until = start + lasts_s
        waits = await asyncio.gather(*(self._ask(ask, until) for _ in range(connections)))
        took_s = time.perf_counter() - start
        used = self.stage.clocks(self.worker).since(before)
        all_s = sorted(wait for each in waits for wait in each)
        done = len(all_s) * events
        self.events += done
        return {
            "events": done,
            "events_per_s": done / took_s,
            "target_us": used.target * 1e6 / done,
            "redis_us": used.redis * 1e6 / done,
            "postgres_us": used.postgres * 1e6 / done,
            "p50_ms": all_s[len(all_s) // 2] * 1000,
            "p99_ms": all_s[len(all_s) * 99 // 100] * 1000,
        }

    async def _ask(self, ask: Callable[[], bytes], until: float) -> list[float]:
        """Ask on one connection, and again when it is answered. Raises `Unsound`."""
        reader, writer = await asyncio.open_connection(*self.worker.address)
        waits = []
        while (now := time.perf_counter()) < until or not waits:
            writer.write(ask())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if head[9:12] not in (b"200", b"201") or b'"refused"' in body.replace(b'"refused":0', b""):
                raise Unsound(f"{head!r} {body[:500]!r}\n{self.worker.last_words()}")
            waits.append(time.perf_counter() - now)
        writer.close()
        return waits

    async def close(self) -> int:
        """Return how many events the ledger holds. Raises `Unsound` where that is not what was answered."""
        code = await asyncio.to_thread(self.worker.stop)
        connection = await asyncpg.connect(self.installation.database_url)
        try:
            found = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM usage_events), (SELECT sum(charged_nano) FROM usage_events), "
                "(SELECT count(*) FROM service_events)"
            )
        finally:
            await connection.close()
        wanted = self.events, self.events * AMOUNT_NANO, self.events
        if code or tuple(found) != wanted:
            raise Unsound(f"the ledger holds {tuple(found)}, what was answered comes to {wanted}; ended with {code}")
        return self.events
