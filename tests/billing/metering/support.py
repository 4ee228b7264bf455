"""What a service calls, on an engine of a test's own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ulid import ULID

from billing.keys.keys import Principals
from billing.metering.charges import Payer
from billing.metering.events import EventWriter
from billing.metering.metering import Metering, MeteringContext, ServiceHolds
from billing.pricing import PriceRow, PriceTable
from billing.settings import ServiceSettings
from tests.support.holds import PLANS, World

if TYPE_CHECKING:
    from collections.abc import Callable

PRICES = PriceTable(
    [
        PriceRow("meter", "container.second", date(2026, 1, 1), {}, {"unit": 100_000}),
        PriceRow("openai", "gpt", date(2026, 1, 1), {"input": 10**9, "cache_write": 2 * 10**9, "output": 0}, {}),
    ]
)
RULES = ServiceSettings(service_holds_per_account=9_000)


@dataclass
class Meters:
    """Of one gateway."""

    world: World
    writer: EventWriter
    metering: Metering
    holds: ServiceHolds


def meters(
    world: World,
    rules: ServiceSettings = RULES,
    *,
    batch_rows: int = 500,
    most: int = 10_000,
    clock: Callable[[], float] = time.time,
    prices: Callable[[], PriceTable] = lambda: PRICES,
) -> Meters:
    engine, principals = world.engine, Principals(world.database, PLANS)
    tell, spawn = engine.change_notifier.balances_changed, engine.holds.spawn
    writer = EventWriter(world.database, tell, spawn, batch_rows=batch_rows, most=most)

    async def principal_of(payer: Payer, stale: bool) -> object:
        return await principals.of_service(payer.account_id, payer.service, payer.key_id)

    context = MeteringContext(engine.holds, writer, principal_of, prices, rules, lambda: str(ULID()), clock)  # type: ignore[arg-type]
    holds = ServiceHolds(context, world.database, engine.lasting, engine.keyspace.partition_of)
    return Meters(world, writer, Metering(context), holds)
