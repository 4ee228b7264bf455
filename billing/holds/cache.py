"""Principals in this process's memory, kept right by push; and changes as they are published to Redis and to every
gateway: new versions of accounts and keys, and corrections of balances.

A cached principal is served while the subscription to changes stands, and no longer than `fresh_s`. What push misses,
the versions checked inside `admit` catch. Unknown keys are remembered for a moment, one look-up runs at a time for a
key, and look-ups are bounded, so that keys that don't exist can't flood Postgres.

A change is published at once by the process that made it, and again by each gateway's relay, from the versions in
Postgres, until it is marked as pushed. What is published is always the newest of a subject, so that no order has to be
kept between two changes of it. Publishing may take as long as an admission may: an account's new counters wait for its
debits, and these for its row in Postgres. So the relay waits for no change that takes long: it goes on in a task of its
own, of which there are at most so many, while further rounds begin. Changes that are new come before those that an
earlier round has read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from billing.change_notifier import LiveBalance
from billing.database.connection import DatabaseUnavailable, queries
from billing.errors import MetergateError, StoreError
from billing.keys.secrets import secret_digest, well_formed
from billing.work import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from billing.holds.epochs import Partition, Partitions
    from billing.holds.loading import Corrections, Loader
    from billing.principals import Principal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Bounds of the cache: entries in number, times in seconds, look-ups in Postgres at the same time; `wait_s` is how
    long a caller waits for a look-up, its queueing included."""

    entries: int = 100_000
    fresh_s: float = 900.0
    unknown_entries: int = 10_000
    unknown_s: float = 5.0
    lookups: int = 8
    wait_s: float = 10.0


def recognised(cache: PrincipalCache, secret: str) -> bool | None:
    """Return whether a secret is known to be a key, or known to be none; None where it has to be looked up."""
    return cache.recognises(secret_digest(secret)) if well_formed(secret) else False


class PrincipalCache:
    """Principals by the digest of their key. `load` reads one from Postgres; `clock` counts seconds monotonically."""

    def __init__(
        self,
        load: Callable[[bytes], Awaitable[Principal | None]],
        settings: CacheSettings,
        clock: Callable[[], float],
    ) -> None:
        self._load = load
        self._settings = settings
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        # Keys that were known and have to be read anew, because something of theirs may have changed.
        self._forgotten: OrderedDict[bytes, None] = OrderedDict()
        self._digests: dict[str, set[bytes]] = {}
        self._flights: SingleFlight[Principal | None] = SingleFlight()
        self._lookups = asyncio.Semaphore(settings.lookups)
        self._generation = 0
        self.subscribed = False
        # Ids of keys that were served since this was last emptied: what `last_used_at` is written from.
        self.used: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def recognises(self, digest: bytes) -> bool | None:
        """Return whether a key is known to be one, fresh or not, or known to be none; None where it has to be looked
        up."""
        if digest in self._known or digest in self._forgotten:
            return True
        until = self._unknown.get(digest)
        return False if until is not None and self.subscribed and self._clock() < until else None

    def peek(self, digest: bytes) -> Principal | None:
        """Return a principal that may be served right now, without waiting."""
        found = self._known.get(digest)
        if found is None or not self.subscribed or self._clock() >= found[1]:
            return None
        return found[0]

    async def get(self, digest: bytes) -> Principal | None:
        """Return the principal of a key, None for a key that does not exist.

        While Postgres is away a principal that is no longer fresh still serves: admission checks its version. It is not
        looked up again for `unknown_s` then, so that not every request waits for Postgres. Raises `DatabaseError` where
        there is none.
        """
        principal = self.peek(digest)
        if principal is not None:
            return principal
        if self.recognises(digest) is False:
            return None
        try:
            return await self.reload(digest)
        except DatabaseUnavailable:
            found = self._known.get(digest)
            if found is None or not self.subscribed:
                raise
            self._known[digest] = (found[0], max(found[1], self._clock() + self._settings.unknown_s))
            return found[0]

    async def reload(self, digest: bytes) -> Principal | None:
        """Read the principal anew; callers at the same time share one look-up. Raises `DatabaseError`."""
        try:
            async with asyncio.timeout(self._settings.wait_s):
                return await self._flights.run(digest, lambda: self._read(digest))
        except TimeoutError as error:
            raise DatabaseUnavailable("Postgres gave no answer in time") from error

    async def _read(self, digest: bytes) -> Principal | None:
        generation = self._generation
        async with self._lookups:
            principal = await self._load(digest)
        if generation == self._generation:  # else something changed meanwhile: what was read may be the old
            self._remember(digest, principal)
        return principal

    def _remember(self, digest: bytes, principal: Principal | None) -> None:
        now = self._clock()
        self._forgotten.pop(digest, None)
        if principal is None:
            self._unknown[digest] = now + self._settings.unknown_s
            if len(self._unknown) > self._settings.unknown_entries:
                self._unknown.popitem(last=False)
            return
        self._unknown.pop(digest, None)
        self._known[digest] = (principal, now + self._settings.fresh_s)
        self._known.move_to_end(digest)
        for subject in (principal.account_id, principal.key_id):
            self._digests.setdefault(subject, set()).add(digest)
        if len(self._known) > self._settings.entries:
            oldest, (gone, _) = self._known.popitem(last=False)
            self._unlink(oldest, gone)

    def _unlink(self, digest: bytes, principal: Principal) -> None:
        for subject in (principal.account_id, principal.key_id):
            digests = self._digests.get(subject)
            if digests is not None:
                digests.discard(digest)
                if not digests:
                    del self._digests[subject]

    def drop(self, subject: str) -> None:
        """Forget every principal made from an account or key that has changed, and every key that was unknown."""
        self._generation += 1
        self._unknown.clear()
        for digest in list(self._digests.get(subject, ())):
            found = self._known.pop(digest, None)
            if found is not None:
                self._unlink(digest, found[0])
                self._forget(digest)

    def clear(self) -> None:
        """Forget everything: changes may have been missed."""
        self._generation += 1
        for digest in self._known:
            self._forget(digest)
        self._known.clear()
        self._unknown.clear()
        self._digests.clear()

    def _forget(self, digest: bytes) -> None:
        self._forgotten[digest] = None
        if len(self._forgotten) > self._settings.entries:
            self._forgotten.popitem(last=False)


_sql = queries("billing.holds")
PUSHED_ACCOUNT: Final = _sql("pushed_account")
PUSHED_KEY: Final = _sql("pushed_key")
UNPUBLISHED: Final = _sql("unpublished")

# Accounts, keys, and balances, that one round of the relay reads; the next one goes on after them.
RELAY_ROWS: Final = 500
# Changes of each kind (accounts, keys, balances) that a round waits for at once.
LANES: Final = 4
# A round waits no longer for a change.
LONG_S: Final = 0.1
# A round begins to publish nothing more after this.
RELAY_S: Final = 0.4
# Changes that the relay publishes at once, those that take long included.
MOST_PUBLISHING: Final = 64
# Concurrency limit for leftovers of earlier rounds; the other slots are reserved for new changes.
MOST_LEFT: Final = 40
# Concurrency limit for changes that are tried again; the other slots are for those that were not tried yet.
MOST_AGAIN: Final = 16
NEW: Final = -1.0
# Ranks of changes that were not begun yet; the others are ranked by when they were.
LEFT: Final = 0.0
# Changes that are remembered as read before.
MOST_SEEN: Final = 4 * RELAY_ROWS
_FAILED: Final = (MetergateError, TimeoutError)  # also quotas that a newer release has written


class _Change(NamedTuple):
    """A new version of a key, or else of an account, None: whichever is the newest; or corrections of its balance."""

    account_id: str
    key_id: str | None = None
    version: int | None = None
    of_balance: bool = False


class RedisChangeNotifier:
    """Implements `billing.change_notifier.ChangeNotifier` on Redis. `on_failure` is called with what failed by a fault
    of the program; it is published again, as what failed because a store is away."""

    def __init__(
        self,
        partitions: Partitions,
        loader: Loader,
        corrections: Corrections,
        cache: PrincipalCache,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._partitions = partitions
        self._database, self._redis = partitions.database, partitions.redis
        self._loader = loader
        self._corrections = corrections
        self._cache = cache
        self._on_failure = on_failure
        self._after = ["", "", ""]
        self._published: dict[str, dict[str, int]] = {PUSHED_ACCOUNT: {}, PUSHED_KEY: {}}
        self._failed: list[str] = []
        # What rounds have read, and when they last began to publish it; `LEFT`: not yet.
        self._seen: dict[_Change, float] = {}
        # What the relay is publishing now.
        self.publishing: dict[_Change, asyncio.Task[None]] = {}

    async def account_changed(self, account_id: str) -> None:
        """Push an account's newest version to Redis and to every gateway's cache."""
        await self._publish(_Change(account_id))
        await self.note()

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """Push a key's newest version to Redis and to every gateway's cache."""
        await self._publish(_Change(account_id, key_id))
        await self.note()

    async def balance_changed(self, account_id: str) -> None:
        """Send Redis an account's new corrections."""
        await self._publish(_Change(account_id, of_balance=True))
        await self.note()

    async def _publish(self, change: _Change) -> None:
        """Publish a change; what fails is published again by the relay."""
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
            self._published[PUSHED_KEY if key_id else PUSHED_ACCOUNT][name] = version

    async def note(self) -> None:
        """Mark in Postgres what was published since the last time, each kind with one statement, and log what was
        not."""
        failed, self._failed = self._failed, []
        if failed:
            logger.info("%d changes are published later, one of them that of %s", len(failed), failed[0])
        for statement in self._published:
            versions, self._published[statement] = self._published[statement], {}
            try:
                if versions:
                    await self._database.execute(statement, list(versions), list(versions.values()))
            except _FAILED as error:
                logger.info("%d changes are published again: %s", len(versions), error)

    async def balances_changed(self, account_ids: Collection[str]) -> None:
        """Send Redis the new corrections of several accounts."""
        groups: dict[int, list[str]] = {}
        for account_id in account_ids:
            groups.setdefault(self._partitions.of(account_id).number, []).append(account_id)
        for number, group in groups.items():
            partition, left = self._partitions.all[number], group
            try:
                await self._partitions.ensure(partition)
                left = await self._corrections.sync_together(partition, group)
            except _FAILED as error:
                logger.info("corrections of %d accounts are sent later: %s", len(group), error)
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
        """Publish again what Redis and the gateways may not have, new changes first. What takes long goes on when this
        has ended. Raises `DatabaseError`."""
        await self.note()
        pending = await self._read_pending()
        if not any(pending):
            return
        until_s = asyncio.get_running_loop().time() + RELAY_S
        await asyncio.gather(*(self._begin_all(changes, until_s) for changes in pending))
        await self.note()

    async def _read_pending(self) -> tuple[list[_Change], ...]:
        """Return changes of accounts, of keys and of balances, on from those that were read last."""
        changes = [_Change(*row) for row in await self._database.rows(UNPUBLISHED, RELAY_ROWS, *self._after)]
        balances = [each for each in changes if each.of_balance]
        keys = [each for each in changes if each.key_id is not None]
        accounts = [each for each in changes if each.key_id is None and not each.of_balance]
        self._after = [
            (read[-1].key_id or read[-1].account_id) if len(read) == RELAY_ROWS else ""
            for read in (accounts, keys, balances)
        ]
        return accounts, keys, balances

    async def _begin_all(self, changes: Sequence[_Change], until_s: float) -> None:
        """Begin to publish changes that are not being published, `LANES` at once, until a time of the loop's clock;
        wait for each `LONG_S` at most."""
        pending = [each for each in changes if each not in self.publishing]
        ranked = sorted(((self._seen.get(each, NEW), each) for each in pending), key=itemgetter(0))
        waiting = iter(ranked)
        for each in pending:
            self._seen.setdefault(each, LEFT)
        clock = asyncio.get_running_loop().time

        async def lane() -> None:
            for rank, each in waiting:
                most = MOST_PUBLISHING if rank == NEW else MOST_LEFT if rank == LEFT else MOST_AGAIN
                if len(self.publishing) >= most:
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
        task = self.publishing[change] = asyncio.create_task(self._publish(change))
        task.add_done_callback(lambda _: self.publishing.pop(change))
        return task

    async def stop(self) -> None:
        """Give up what the relay is still publishing."""
        tasks = tuple(self.publishing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
