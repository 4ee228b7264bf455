"""Principals in this process's memory, kept right by push.

A cached principal is served while the subscription to changes stands, and no longer than `fresh_s`. What push misses,
the versions checked inside `admit` catch. Unknown keys are remembered for a moment, one look-up runs at a time for a
key, and look-ups are bounded, so that keys that don't exist can't flood Postgres.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from billing.database.connection import DatabaseUnavailable
from billing.holds.singleflight import SingleFlight
from billing.keys.secrets import secret_digest, well_formed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.principals import Principal


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
