"""Announcing changes: the effects that accounts, keys and grants ask for, carried out on Redis.

This file owns that a change is told: at once by whoever made it, and again by each gateway's relay, from the versions
in Postgres, until it is marked as told.
"""

import logging
from typing import Final

from billing.database.connection import Database, queries
from billing.effects import LiveBalance
from billing.errors import StoreError
from billing.holds.cache import PrincipalCache
from billing.holds.corrections import Corrections
from billing.holds.loader import Loader
from billing.holds.partitions import Partitions
from billing.holds.redis import RedisClient
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import AccountState

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
UNPUSHED: Final = _sql("unpushed")
PUSHED_ACCOUNT: Final = _sql("pushed_account")
PUSHED_KEY: Final = _sql("pushed_key")
UNCORRECTED: Final = _sql("uncorrected")

RELAY_ROWS: Final = 200
_FAILED: Final = (StoreError, TimeoutError)


class Announcer:
    """Implements `billing.effects.Effects`."""

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        partitions: Partitions,
        loader: Loader,
        corrections: Corrections,
        cache: PrincipalCache,
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._partitions = partitions
        self._loader = loader
        self._corrections = corrections
        self._cache = cache

    async def account_changed(self, account_id: str) -> None:
        """Push an account's newest version to Redis and to every gateway's cache."""
        self._cache.drop(account_id)
        try:
            partition = self._partitions.of(account_id)
            await self._partitions.ensure(partition)
            version = await self._loader.adopt_account(partition, account_id)
            await self._link.publish(self._keys.channel, account_id.encode())
            if version is not None:
                await self._database.execute(PUSHED_ACCOUNT, account_id, version)
        except _FAILED as error:
            logger.info("the change of %s is told later: %s", account_id, error)

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """Push a key's newest version to Redis and to every gateway's cache."""
        self._cache.drop(key_id)
        try:
            partition = self._partitions.of(account_id)
            await self._partitions.ensure(partition)
            version = await self._loader.adopt_key(partition, account_id, key_id)
            await self._link.publish(self._keys.channel, key_id.encode())
            if version is not None:
                await self._database.execute(PUSHED_KEY, key_id, version)
        except _FAILED as error:
            logger.info("the change of %s is told later: %s", key_id, error)

    async def balance_changed(self, account_id: str) -> None:
        """Tell Redis of an account's new corrections."""
        try:
            partition = self._partitions.of(account_id)
            await self._partitions.ensure(partition)
            await self._corrections.sync(partition, account_id)
        except _FAILED as error:
            logger.info("the correction of %s is told later: %s", account_id, error)

    async def live_balance(self, account_id: str) -> LiveBalance | None:
        """The account's money in Redis; None where Redis is away or has not loaded the account in this epoch."""
        partition = self._partitions.of(account_id)
        try:
            await self._partitions.ensure(partition)
            raw = await self._link.command("GET", self._keys.account(account_id))
        except _FAILED:
            return None
        state = AccountState.unpack(raw) if raw is not None else None
        if state is None or state.epoch != partition.epoch:
            return None
        return LiveBalance(state.balance_nano, state.held_nano)

    async def relay(self) -> None:
        """Tell again what may not have been told. Raises `DatabaseError`."""
        for row in await self._database.rows(UNPUSHED, RELAY_ROWS):
            if row["key_id"] is None:
                await self.account_changed(row["account_id"])
            else:
                await self.key_changed(row["key_id"], row["account_id"])
        for row in await self._database.rows(UNCORRECTED, RELAY_ROWS):
            await self.balance_changed(row["id"])
