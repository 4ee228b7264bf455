"""The engine on open stores, made from settings: what a command needs that compares or corrects, and what
`gateway.runtime.wiring` puts the billing API on. It imports no HTTP, so that such a command starts fast."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database
from billing.holds.cache import CacheSettings
from billing.holds.engine import Engine, EngineParts, EngineSettings
from billing.holds.model import HoldSettings
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import DEFAULT_PREFIX, Keyspace
from billing.keys.keys import Principals
from billing.ledger.catalogue import newest_revision
from billing.money import parse_share
from billing.pages import new_id
from gateway.config.plan_follower import PlanFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.config.defaults import Defaults
    from gateway.config.settings import Settings

logger = logging.getLogger(__name__)

EMBEDDED_PARTITIONS: Final = 1
PRODUCTION_PARTITIONS: Final = 64


@dataclass(frozen=True, slots=True)
class OpenStores:
    """An engine that is not started yet, and its parts. `database` is the ledger's pool; `follower` has the plans in
    force, which may differ from this machine's file."""

    database: Database
    client: RedisClient
    follower: PlanFollower
    principals: Principals
    engine: Engine


@asynccontextmanager
async def open_engine(
    settings: Settings,
    *,
    database_url: str,
    redis_url: str,
    embedded: bool,
    key_prefix: str = DEFAULT_PREFIX,
    gateway_id: str | None = None,
) -> AsyncIterator[OpenStores]:
    """Yield an engine on open stores; nothing runs in the background. `gateway_id` is a new ULID, for one process and
    no other; None: one is made.

    Raises `DatabaseError` when Postgres is away or has not been migrated.
    """
    defaults = settings.defaults
    database = Database(
        database_url,
        size=defaults.stores.postgres_pool_size,
        timeout_s=defaults.stores.postgres_timeout_s,
        lock_wait_s=defaults.stores.ledger_lock_ms / 1000,
    )
    client = RedisClient(
        redis_url,
        timeout_s=defaults.stores.redis_timeout_ms / 1000,
        connect_timeout_s=defaults.stores.connect_timeout_s,
    )
    try:
        follower = PlanFollower(database, settings, take_over=embedded)
        await follower.follow(await newest_revision(database))
        wanted = defaults.stores.redis_partitions or (EMBEDDED_PARTITIONS if embedded else PRODUCTION_PARTITIONS)
        keyspace = Keyspace(key_prefix, await partition_count(database, wanted))
        principals = Principals(database, follower.plans, defaults.accounts.default_plan, follower.follow)
        engine = Engine(
            EngineParts(
                gateway_id=gateway_id or new_id(),
                database=database,
                client=client,
                keyspace=keyspace,
                plans=follower.plans,
                load_principal=principals.load,
                settings=engine_settings(defaults, settings.spool_dir),
            )
        )
        follower.changed = engine.plans_changed
        yield OpenStores(database, client, follower, principals, engine)
    finally:
        await client.close()
        await database.close()


async def partition_count(database: Database, wanted: int) -> int:
    """Return the installation's number of partitions: what the first gateway wanted, for ever. Raises
    `DatabaseError`."""
    count = await database.value(
        "UPDATE installation SET redis_partitions = coalesce(redis_partitions, $1) RETURNING redis_partitions", wanted
    )
    if count != wanted:
        logger.warning("this installation has %d partitions, not %d: the number is fixed once", count, wanted)
    return int(count)


def lookup_wait_s(defaults: Defaults) -> float:
    """Return how long a request waits for its key to be looked up: as long as for its admission, where it waits for
    that."""
    return defaults.holds.admission_wait_ms / 1000 or defaults.stores.postgres_timeout_s


def engine_settings(defaults: Defaults, spool_folder: Path | None = None) -> EngineSettings:
    """Return the engine's bounds from the configuration's."""
    return EngineSettings(
        holds=HoldSettings(
            batch_items=defaults.holds.batch_items,
            max_unsettled=defaults.holds.max_unsettled,
            redis_timeout_s=defaults.stores.redis_timeout_ms / 1000,
            settle_timeout_s=defaults.holds.settle_timeout_ms / 1000,
            ledger_timeout_s=defaults.stores.postgres_timeout_s,
            admission_wait_s=defaults.holds.admission_wait_ms / 1000,
            elastic_millionths=parse_share(defaults.holds.elastic_share),
            elastic_output_tokens=defaults.holds.elastic_output_tokens,
            queue_requests=defaults.holds.admission_queue_requests,
        ),
        cache=CacheSettings(
            entries=defaults.stores.principal_cache_entries,
            fresh_s=defaults.stores.principal_cache_s,
            unknown_entries=defaults.stores.negative_cache_entries,
            unknown_s=defaults.stores.negative_cache_s,
            lookups=max(1, defaults.stores.postgres_pool_size - 1),
            wait_s=lookup_wait_s(defaults),
        ),
        lease_s=defaults.holds.lease_s,
        stall_s=defaults.holds.stall_s,
        expired_hold=defaults.request.expired_hold,
        default_plan=defaults.accounts.default_plan,
        ledger_batch_rows=defaults.stores.ledger_batch_rows,
        ledger_flush_s=defaults.stores.ledger_flush_ms / 1000,
        spool_folder=spool_folder,
    )
