"""Changes told to Redis and to every gateway: new versions of accounts and keys, and corrections of balances.

`RedisChangeNotifier` sends on to Redis what accounts, keys and grants ask for. A change is pushed at once by
the process that made it, and again by each gateway's relay, from the versions in Postgres, until it is marked pushed.

What is told is always the newest of a subject, so that no order has to be kept between two of them. Telling may take as
long as an admission may: an account's new counters wait for its debits, and these for its row in Postgres. So the relay
waits for no change that takes long: it goes on in a task of its own, of which there are at most so many, while rounds
go on without it, and what a round has read before comes after what is new.
"""

from __future__ import annotations

import asyncio
import logging
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from billing.change_notifier import LiveBalance
from billing.database.connection import Database, queries
from billing.errors import MetergateError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from billing.holds.cache import PrincipalCache
    from billing.holds.loader import Loader
    from billing.holds.partition import Partition
    from billing.holds.partitions import Partitions
    from billing.holds.redis.state import RedisState
    from billing.holds.repairs import Corrections

logger = logging.getLogger(__name__)
_sql = queries("billing.holds")
UNPUSHED: Final = _sql("unpushed")
PUSHED_ACCOUNT: Final = _sql("pushed_account")
PUSHED_KEY: Final = _sql("pushed_key")
UNCORRECTED: Final = _sql("uncorrected")

RELAY_ROWS: Final = 500
"""Accounts, keys, and balances, that one round of the relay reads; the next one goes on after them."""
LANES: Final = 4
"""Changes of each of these three that a round waits for at once."""
LONG_S: Final = 0.1
"""A round waits no longer for a change."""
RELAY_S: Final = 0.4
"""After which a round begins to tell of nothing more."""
MOST_TELLING: Final = 64
"""Changes that the relay tells of at once, those that take long among them."""
MOST_LEFT: Final = 40
"""Fewer must be told of when one begins that an earlier round has read and not begun: the rest is for new ones."""
MOST_AGAIN: Final = 16
"""And fewer when one begins again: the rest is for those that were not tried yet."""
NEW: Final = -1.0
LEFT: Final = 0.0
"""What changes that were not begun yet are ranked as; the others are by when that was."""
MOST_SEEN: Final = 4 * RELAY_ROWS
"""Changes that are remembered as read before."""
_FAILED: Final = (MetergateError, TimeoutError)  # also quotas that a newer release has written


class _Change(NamedTuple):
    """A new version of a key, or else of an account, None: whichever is the newest; or corrections of its balance."""

    account_id: str
    key_id: str | None = None
    version: int | None = None
    of_balance: bool = False


class RedisChangeNotifier:
    """Implements `billing.change_notifier.ChangeNotifier`. `on_failure` is called with what failed by a fault of the
    program; it is told again, as what failed because a store is away."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        partitions: Partitions,
        loader: Loader,
        corrections: Corrections,
        cache: PrincipalCache,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._database = database
        self._loader = loader
        self._corrections = corrections
        self._cache = cache
        self._redis = redis
        self._partitions = partitions
        self._on_failure = on_failure
        self._after = ["", "", ""]
        self._told: dict[str, dict[str, int]] = {PUSHED_ACCOUNT: {}, PUSHED_KEY: {}}
        self._failed: list[str] = []
        self._seen: dict[_Change, float] = {}
        """What rounds have read, and when they began to tell of it last; `LEFT`: not yet."""
        self.telling: dict[_Change, asyncio.Task[None]] = {}
        """What the relay tells of now."""

    async def account_changed(self, account_id: str) -> None:
        """Push an account's newest version to Redis and to every gateway's cache."""
        await self._tell(_Change(account_id))
        await self._note()

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """Push a key's newest version to Redis and to every gateway's cache."""
        await self._tell(_Change(account_id, key_id))
        await self._note()

    async def balance_changed(self, account_id: str) -> None:
        """Tell Redis of an account's new corrections."""
        await self._tell(_Change(account_id, of_balance=True))
        await self._note()

    async def _tell(self, change: _Change) -> None:
        """Tell of a change; what fails is noted, and told again by the relay."""
        try:
            partition = self._partitions.of(change.account_id)
            if change.of_balance:
                await self._partitions.ensure(partition)
                await self._corrections.sync(partition, change.account_id)
            else:
                await self._push(partition, change)
        except _FAILED as error:
            self._failed.append(f"{change.key_id or change.account_id} ({error})")
        except Exception as error:  # whatever it was: neither the other changes nor the relay end with it
            self._on_failure(error)

    async def _push(self, partition: Partition, change: _Change) -> None:
        account_id, key_id, asked, _ = change
        name = key_id or account_id
        self._cache.drop(name)
        await self._partitions.ensure(partition)
        if key_id is None:
            version = await self._loader.adopt_account(partition, account_id, asked)
        else:
            version = await self._loader.adopt_key(partition, account_id, key_id, asked)
        await self._redis.client.publish(self._redis.keyspace.channel, name.encode())
        if version is not None:
            self._told[PUSHED_KEY if key_id else PUSHED_ACCOUNT][name] = version

    async def _note(self) -> None:
        """Note in Postgres what was told since the last time, of each kind all at once, and log what was not."""
        failed, self._failed = self._failed, []
        if failed:
            logger.info("%d changes are told later, of them that of %s", len(failed), failed[0])
        for statement in self._told:
            versions, self._told[statement] = self._told[statement], {}
            try:
                if versions:
                    await self._database.execute(statement, list(versions), list(versions.values()))
            except _FAILED as error:
                logger.info("%d changes are told again: %s", len(versions), error)

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
        """Tell again of what Redis and the gateways may not have, what is new before the rest. What takes long goes on
        when this has ended. Raises `DatabaseError`."""
        await self._note()
        untold = await self._read_untold()
        until_s = asyncio.get_running_loop().time() + RELAY_S
        await asyncio.gather(*(self._begin_all(changes, until_s) for changes in untold))
        await self._note()

    async def _read_untold(self) -> tuple[list[_Change], ...]:
        """Return changes of accounts, of keys and of balances, on from those that were read last."""
        rows = await self._database.rows(UNPUSHED, RELAY_ROWS, *self._after[:2])
        corrected = await self._database.rows(UNCORRECTED, RELAY_ROWS, self._after[2])
        changes = [_Change(*row) for row in rows]
        accounts = [each for each in changes if each.key_id is None]
        keys = [each for each in changes if each.key_id is not None]
        balances = [_Change(row["id"], of_balance=True) for row in corrected]
        self._after = [
            (read[-1].key_id or read[-1].account_id) if len(read) == RELAY_ROWS else ""
            for read in (accounts, keys, balances)
        ]
        return accounts, keys, balances

    async def _begin_all(self, changes: Sequence[_Change], until_s: float) -> None:
        """Begin to tell of changes that are not told of now, `LANES` at once, until a time of the loop's clock; wait
        for each `LONG_S` at most."""
        untold = [each for each in changes if each not in self.telling]
        ranked = sorted(((self._seen.get(each, NEW), each) for each in untold), key=itemgetter(0))
        waiting = iter(ranked)
        for each in untold:
            self._seen.setdefault(each, LEFT)
        clock = asyncio.get_running_loop().time

        async def lane() -> None:
            for rank, each in waiting:
                most = MOST_TELLING if rank == NEW else MOST_LEFT if rank == LEFT else MOST_AGAIN
                if len(self.telling) >= most:
                    return
                await asyncio.wait({self._begin(each, clock())}, timeout=LONG_S)
                if clock() >= until_s:
                    return

        await asyncio.gather(*(lane() for _ in range(LANES)))

    def _begin(self, change: _Change, now_s: float) -> asyncio.Task[None]:
        self._seen.pop(change, None)
        self._seen[change] = now_s
        while len(self._seen) > MOST_SEEN:
            del self._seen[next(iter(self._seen))]
        task = self.telling[change] = asyncio.create_task(self._tell(change))
        task.add_done_callback(lambda _: self.telling.pop(change))
        return task

    async def stop(self) -> None:
        """Give up what the relay still tells of."""
        tasks = tuple(self.telling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
