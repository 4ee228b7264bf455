"""The engine on open stores, made from settings: what a command needs that compares or corrects, and what
`gateway.runtime` puts the billing API on. It imports no HTTP, so that such a command starts fast."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ulid import ULID

from billing.database.connection import Database
from billing.holds.engine import Engine
from billing.holds.redis.client import RedisClient
from billing.holds.redis.state import DEFAULT_PREFIX, Keyspace
from billing.keys.principals import Principals
from billing.ledger.catalogue import newest_revision
from gateway.config.plan_follower import PlanFollower
from gateway.store_rules import engine_settings

if TYPE_CHECKING:
    from gateway.config.settings import Settings

logger = logging.getLogger(__name__)

EMBEDDED_PARTITIONS: Final = 1
PRODUCTION_PARTITIONS: Final = 64


@dataclass(frozen=True, slots=True)
class OpenStores:
    """An engine that is not started, and what it is made of. `database` is the ledger's pool; the `follower` has the
    plans in force, whatever the file here says."""

    database: Database
    client: RedisClient
    follower: PlanFollower
    principals: Principals
    engine: Engine


def new_id() -> str:
    """Return a ULID (https://github.com/ulid/spec), 26 characters."""
    return str(ULID())


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
        size=defaults.postgres_pool_size,
        timeout_s=defaults.postgres_timeout_s,
        lock_wait_s=defaults.ledger_lock_ms / 1000,
    )
    client = RedisClient(
        redis_url, timeout_s=defaults.redis_timeout_ms / 1000, connect_timeout_s=defaults.connect_timeout_s
    )
    try:
        follower = PlanFollower(database, settings, take_over=embedded)
        await follower.follow(await newest_revision(database))
        wanted = defaults.redis_partitions or (EMBEDDED_PARTITIONS if embedded else PRODUCTION_PARTITIONS)
        keyspace = Keyspace(key_prefix, await partition_count(database, wanted))
        principals = Principals(database, follower.plans, defaults.default_plan, follower.follow)
        engine = Engine(
            *(database, client, keyspace, follower.plans, principals.load, gateway_id or new_id()),
            engine_settings(defaults, settings.spool_dir),
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
