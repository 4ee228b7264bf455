"""Principals in this process's memory, kept right by push; and the push itself.

This file owns when a cached principal may be served: while the subscription to changes stands, and no longer than
`fresh_s`. What push misses, the versions checked inside `admit` catch. Unknown keys are remembered for a moment, one
look-up runs at a time for a key, and look-ups are bounded, so that keys that don't exist can't flood Postgres.

`ChangeNotifier` carries out on Redis the effects that accounts, keys and grants ask for. A change is pushed at once by
the process that made it, and again by each gateway's relay, from the versions in Postgres, until it is marked pushed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, DatabaseUnavailable, queries
from billing.effects import LiveBalance
from billing.errors import MetergateError, StoreError
from billing.holds.singleflight import SingleFlight
from billing.keys.secrets import secret_digest, well_formed

if TYPE_CHECKING:
    from billing.holds.loader import Loader
    from billing.holds.partitions import Partitions
    from billing.holds.redis.state import RedisState
    from billing.holds.repairs import Corrections
    from billing.principals import Principal


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Bounds of the cache: entries in number, times in seconds, look-ups in Postgres at the same time; `wait_s` is how
    long whoever asks waits for a look-up, with its turn."""

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
        self._forgotten: OrderedDict[bytes, None] = OrderedDict()
        """Keys that were known and have to be read anew, because something of theirs may have changed."""
        self._digests: dict[str, set[bytes]] = {}
        self._flights: SingleFlight[Principal | None] = SingleFlight()
        self._lookups = asyncio.Semaphore(settings.lookups)
        self._generation = 0
        self.subscribed = False
        self.used: dict[str, None] = {}
        """Ids of keys that were served since this was last emptied: what `last_used_at` is written from."""

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


logger = logging.getLogger(__name__)
_sql = queries("billing.ledger")
UNPUSHED: Final = _sql("unpushed")
PUSHED_ACCOUNT: Final = _sql("pushed_account")
PUSHED_KEY: Final = _sql("pushed_key")
UNCORRECTED: Final = _sql("uncorrected")

RELAY_ROWS: Final = 500
"""Accounts, and keys, that one round of the relay tells of: about a second's work."""
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
        await self._tell([(account_id, None)])

    async def key_changed(self, key_id: str, account_id: str) -> None:
        """Push a key's newest version to Redis and to every gateway's cache."""
        await self._tell([(account_id, key_id)])

    async def _tell(self, changed: Sequence[tuple[str, str | None]]) -> None:
        """Push versions of accounts and of their keys, and note them as pushed: of each kind all at once."""
        told: dict[str, dict[str, int]] = {PUSHED_ACCOUNT: {}, PUSHED_KEY: {}}
        failed: list[str] = []
        for account_id, key_id in changed:
            name = key_id or account_id
            self._cache.drop(name)
            try:
                version = await self._push(account_id, key_id)
            except _FAILED as error:
                failed.append(f"{name} ({error})")
                continue
            if version is not None:
                told[PUSHED_KEY if key_id else PUSHED_ACCOUNT][name] = version
        if failed:
            logger.info("%d changes are told later, of them that of %s", len(failed), failed[0])
        for statement, versions in told.items():
            try:
                if versions:
                    await self._database.execute(statement, list(versions), list(versions.values()))
            except _FAILED as error:
                logger.info("%d changes are told again: %s", len(versions), error)

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
        accounts = [row["account_id"] for row in rows if row["key_id"] is None]
        keys = [row["key_id"] for row in rows if row["key_id"] is not None]
        self._after = [ids[-1] if len(ids) == RELAY_ROWS else "" for ids in (accounts, keys, corrected)]
        await self._tell([(row["account_id"], row["key_id"]) for row in rows])
        for account_id in corrected:
            await self.balance_changed(account_id)
