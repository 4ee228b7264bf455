"""Changes told to Redis and to every gateway: new versions of accounts and keys, and corrections of balances.

`ChangeNotifier` carries out on Redis the effects that accounts, keys and grants ask for. A change is pushed at once by
the process that made it, and again by each gateway's relay, from the versions in Postgres, until it is marked pushed.

What is told is always the newest of a subject, so that no order has to be kept between two of them. The relay tells of
several at a time, and a round of it ends: an account whose debits wait for a locked row may take as long as an
admission may, and keeps neither the others nor the epochs' upkeep waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from billing.database.connection import Database, queries
from billing.effects import LiveBalance
from billing.errors import MetergateError, StoreError

if TYPE_CHECKING:
    from billing.holds.cache import PrincipalCache
    from billing.holds.loader import Loader
    from billing.holds.partitions import Partitions
    from billing.holds.redis.state import RedisState
    from billing.holds.repairs import Corrections

T = TypeVar("T")
logger = logging.getLogger(__name__)
_sql = queries("billing.ledger")
UNPUSHED: Final = _sql("unpushed")
PUSHED_ACCOUNT: Final = _sql("pushed_account")
PUSHED_KEY: Final = _sql("pushed_key")
UNCORRECTED: Final = _sql("uncorrected")

RELAY_ROWS: Final = 500
"""Accounts, and keys, that one round of the relay tells of: about a second's work."""
LANES: Final = 4
"""Changes that are told at once."""
RELAY_S: Final = 2.0
"""After which a round of the relay begins to tell of nothing more; the next one goes on from there."""
_FAILED: Final = (MetergateError, TimeoutError)  # also quotas that a newer release has written


class ChangeNotifier:
    """Implements `billing.effects.Effects`."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        partitions: Partitions,
        loader: Loader,
        corrections: Corrections,
        cache: PrincipalCache,
    ) -> None:
        self._database = database
        self._loader = loader
        self._corrections = corrections
        self._cache = cache
        self._redis = redis
        self._partitions = partitions
        self._after = ["", "", ""]

    async def account_changed(self, account_id: str) -> None:
        """Push an account's newest version to Redis and to every gateway's cache."""
        await self._tell_all([(account_id, None)])

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """Push a key's newest version to Redis and to every gateway's cache."""
        await self._tell_all([(account_id, key_id)])

    async def _tell_all(self, changed: Sequence[tuple[str, str | None]], until: float | None = None) -> int:
        """Push versions of accounts and of their keys, and note them as pushed: of each kind all at once. Return how
        many were begun by `until`, a time of the loop's clock."""
        told: dict[str, dict[str, int]] = {PUSHED_ACCOUNT: {}, PUSHED_KEY: {}}
        failed: list[str] = []

        async def tell(subject: tuple[str, str | None]) -> None:
            account_id, key_id = subject
            name = key_id or account_id
            self._cache.drop(name)
            try:
                version = await self._push(account_id, key_id)
            except _FAILED as error:
                failed.append(f"{name} ({error})")
                return
            if version is not None:
                told[PUSHED_KEY if key_id else PUSHED_ACCOUNT][name] = version

        begun = await _in_lanes(changed, tell, until)
        if failed:
            logger.info("%d changes are told later, of them that of %s", len(failed), failed[0])
        for statement, versions in told.items():
            try:
                if versions:
                    await self._database.execute(statement, list(versions), list(versions.values()))
            except _FAILED as error:
                logger.info("%d changes are told again: %s", len(versions), error)
        return begun

    async def _push(self, account_id: str, key_id: str | None) -> int | None:
        partition = self._partitions.of(account_id)
        await self._partitions.ensure(partition)
        if key_id is None:
            version = await self._loader.adopt_account(partition, account_id)
        else:
            version = await self._loader.adopt_key(partition, account_id, key_id)
        await self._redis.client.publish(self._redis.keyspace.channel, (key_id or account_id).encode())
        return version

    async def balance_changed(self, account_id: str) -> None:
        """Tell Redis of an account's new corrections."""
        try:
            partition = self._partitions.of(account_id)
            await self._partitions.ensure(partition)
            await self._corrections.sync(partition, account_id)
        except _FAILED as error:
            logger.info("the correction of %s is told later: %s", account_id, error)

    async def balances_changed(self, account_ids: Collection[str]) -> None:
        """Tell Redis of the new corrections of several accounts."""
        groups: dict[int, list[str]] = {}
        for account_id in account_ids:
            groups.setdefault(self._partitions.of(account_id).number, []).append(account_id)
        for number, group in groups.items():
            partition, left = self._partitions.all[number], group
            try:
                await self._partitions.ensure(partition)
                left = await self._corrections.sync_together(partition, group)
            except _FAILED as error:
                logger.info("corrections of %d accounts are told later: %s", len(group), error)
                continue
            for account_id in left:
                await self.balance_changed(account_id)

    async def live_balance(self, account_id: str) -> LiveBalance | None:
        """Return the account's money in Redis; None where Redis is away or has not loaded the account in this epoch."""
        partition = self._partitions.of(account_id)
        try:
            await self._partitions.ensure(partition)
            state = await self._redis.account(account_id)
        except (StoreError, TimeoutError):
            return None
        if state is None or state.epoch != partition.epoch:
            return None
        return LiveBalance(state.balance_nano, state.held_nano)

    async def relay(self) -> None:
        """Tell again, on from the last round's end: what fails each time delays no other. Raises `DatabaseError`."""
        rows = await self._database.rows(UNPUSHED, RELAY_ROWS, *self._after[:2])
        corrected = [row["id"] for row in await self._database.rows(UNCORRECTED, RELAY_ROWS, self._after[2])]
        accounts = [(row["account_id"], None) for row in rows if row["key_id"] is None]
        keys = [(row["account_id"], row["key_id"]) for row in rows if row["key_id"] is not None]
        until = asyncio.get_running_loop().time() + RELAY_S
        begun = await asyncio.gather(
            *(self._tell_all(accounts, until), self._tell_all(keys, until)),
            _in_lanes(corrected, self.balance_changed, until),
        )
        names = [each for each, _ in accounts], [each for _, each in keys], corrected
        self._after = [_place(ids, count) for ids, count in zip(names, begun, strict=True)]


async def _in_lanes(items: Sequence[T], tell: Callable[[T], Awaitable[None]], until: float | None) -> int:
    """Tell of items in their order, `LANES` at once; return how many were begun by `until`, at least so many."""
    waiting, begun, clock = iter(items), 0, asyncio.get_running_loop().time

    async def lane() -> None:
        nonlocal begun
        for each in waiting:
            begun += 1
            await tell(each)
            if until is not None and clock() >= until:
                return

    await asyncio.gather(*(lane() for _ in range(min(LANES, len(items)))))
    return begun


def _place(ids: Sequence[str], begun: int) -> str:
    """Return after which id the next round begins; the empty one: at the first, all were told of."""
    return "" if begun == len(ids) < RELAY_ROWS else ids[begun - 1]
