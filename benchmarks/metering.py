"""Metering without a gateway around it: the real engine's holds and outbox on real stores, to measure how cost grows.

Nothing runs beside: the outbox writes when it is told to, so that as many debits wait as a measurement asks for.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from ulid import ULID

from benchmarks import wire
from benchmarks.machine import cpu_s, tree_cpu_s
from benchmarks.seed import PLAN
from benchmarks.stage import Stage
from benchmarks.subjects import Sample, Unsound
from billing.database.connection import Database
from billing.holds.engine import Engine, EngineParts, EngineSettings
from billing.holds.epochs import Partition
from billing.holds.model import Hold, HoldRequest, HoldSettings, Need
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import Keyspace
from billing.keys.keys import ApiKeys, Principals
from billing.ledger.debits import Debit, encode_debit
from billing.plans import Plan
from billing.principals import Principal

LEASE_S: Final = 86_400.0
MAX_WAITING: Final = 10_000_000
AT_ONCE: Final = 32
FEATURE: Final = "llm"
NEED: Final = Need(600, 600 * 150, 600, 1, 256, 256)
PLANS: Final = {PLAN: Plan(PLAN, "Bench", 0)}


def debit(
    account_id: str,
    key_id: str,
    admitted_at_ms: int,
    request_id: str | None = None,
    place: tuple[int | None, int | None] = (None, None),
) -> Debit:
    """A request of the benchmark as the ledger gets it. `place` are epoch and dseq, where Redis has counted it."""
    return Debit(
        request_id=request_id or str(ULID()),
        admitted_at_ms=admitted_at_ms,
        outcome="settled",
        account_id=account_id,
        key_id=key_id,
        upstream_request_id="req_4f1c0f6ea8b1c5b4",
        endpoint="/v1/chat/completions",
        feature=FEATURE,
        model=wire.MODEL,
        provider="bench",
        provider_model=wire.MODEL,
        input_tokens=wire.INPUT_TOKENS,
        output_tokens=wire.OUTPUT_TOKENS,
        cost_nano=wire.COST_NANO,
        charged_nano=wire.COST_NANO,
        price_id="price_30eb9ef80b9b50d83ef73cb1",
        status=200,
        latency_ms=5,
        epoch=place[0],
        dseq=place[1],
    )


@dataclass(slots=True)
class Metering:
    """One engine on a database and a Redis of its own. `spent` counts its requests."""

    stage: Stage
    database: Database
    link: RedisClient
    engine: Engine
    api_keys: ApiKeys
    stored: Principals
    spent: int = 0

    @property
    def partition(self) -> Partition:
        (partition,) = self.engine.partitions.all
        return partition

    async def principals(self, key_ids: Sequence[str]) -> list[Principal]:
        """The principals of keys, read as the gateway reads them."""
        found = [await self.stored.by_key_id(key_id) for key_id in key_ids]
        return [principal for principal in found if principal is not None]

    async def spend(self, principals: Sequence[Principal], requests: int) -> Sample:
        """So many requests, AT_ONCE at a time, over these principals in turn: held and settled, as the handler does it.

        CPU is microseconds a request: of this process and of Redis.
        """
        left = itertools.islice(itertools.cycle(principals), requests)
        own, redis, start = cpu_s(os.getpid()), cpu_s(self.stage.redis_pid), time.perf_counter()
        await asyncio.gather(*(self._spend(left) for _ in range(AT_ONCE)))
        took_s = time.perf_counter() - start
        own, redis = cpu_s(os.getpid()) - own, cpu_s(self.stage.redis_pid) - redis
        self.spent += requests
        return {"own_us": own * 1e6 / requests, "redis_us": redis * 1e6 / requests, "per_s": requests / took_s}

    async def _spend(self, principals: "itertools.islice[Principal]") -> None:
        for principal in principals:
            request_id = str(ULID())
            expired = debit(principal.account_id, principal.key_id, 0, request_id)
            request = HoldRequest(
                id=request_id,
                principal=principal,
                model=wire.MODEL,
                feature=FEATURE,
                need=NEED,
                expired=encode_debit(expired),
            )
            async with self.engine.holds.open(request) as decision:
                if not isinstance(decision, Hold):
                    raise Unsound(f"an admission was refused: {decision}")
                at_ms = decision.admitted_at_ms
                spent = debit(principal.account_id, principal.key_id, at_ms, request_id)
                await self.engine.holds.settle(decision, spent)

    async def drain(self) -> Sample:
        """Write all that waits, as the outbox does: seconds, and rows a second."""
        waiting = len(self.engine.outbox)
        start = time.perf_counter()
        await self.engine.outbox.flush()
        took_s = time.perf_counter() - start
        return {"drained": waiting, "drain_s": took_s, "drain_per_s": waiting / took_s if waiting else 0.0}

    async def reconcile(self) -> Sample:
        """Compare every account that is loaded: seconds, and CPU of this process and of Postgres in microseconds an
        account. Raises `Unsound` where the stores differ."""
        own, postgres, start = cpu_s(os.getpid()), tree_cpu_s(self.stage.postgres_pid), time.perf_counter()
        found = await self.engine.reconciler.run()
        took_s = time.perf_counter() - start
        own, postgres = cpu_s(os.getpid()) - own, tree_cpu_s(self.stage.postgres_pid) - postgres
        if found.drifts:
            raise Unsound(f"Redis and the ledger differ: {found.drifts[:3]}")
        scale = 1e6 / max(1, found.accounts)
        return {"reconcile_s": took_s, "reconcile_own_us": own * scale, "reconcile_postgres_us": postgres * scale}

    async def redis_bytes(self) -> int:
        """What Redis has allocated, as it says itself."""
        info = await self.link.info("memory")
        return int(info["used_memory"])

    async def bytes_of(self, key: bytes) -> int:
        """What one key of Redis takes, its name included."""
        return int(await self.link.command("MEMORY", "USAGE", key) or 0)


@asynccontextmanager
async def open_metering(stage: Stage, database_url: str, number: int) -> AsyncIterator[Metering]:
    """An engine that has joined its epoch, on Redis's database `number`, which is emptied afterwards."""
    database, link = Database(database_url), RedisClient(f"{stage.endpoints.redis_url}?db={number}", timeout_s=10.0)

    principals = Principals(database, PLANS)
    holds = HoldSettings(max_unsettled=MAX_WAITING, redis_timeout_s=10.0, settle_timeout_s=10.0)
    gateway_id = str(ULID())
    parts = EngineParts(
        gateway_id=gateway_id,
        database=database,
        client=link,
        keyspace=Keyspace(),
        plans=PLANS,
        load_principal=principals.by_digest,
        settings=EngineSettings(holds=holds),
    )
    engine = Engine(parts)
    api_keys = ApiKeys(database, engine.change_notifier, lambda: str(ULID()))
    try:
        await engine.lease.renew()
        for partition in engine.partitions.all:
            while not await engine.epoch_start.join(partition):
                await asyncio.sleep(0.05)
        yield Metering(stage, database, link, engine, api_keys, principals)
        await engine.outbox.flush()
    finally:
        await link.command("FLUSHDB")
        await link.close()
        await database.close()
