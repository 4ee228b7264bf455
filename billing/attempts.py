"""Guessing: how many wrong keys one address may show.

This file owns that somebody whose key is known is never refused for what others at the same address do, and that wrong
keys of one address cost a bounded number of calls of Redis and look-ups in Postgres in each window. All gateways count
together in Redis; each process counts by itself too, which bounds what goes to Redis, and holds while that is away.
Nothing here is asked about a request whose key is known. An address that is refused still has a key looked up now and
then of which nothing is known, so that a neighbour with a wrong key can't shut out those who start.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from billing.addresses import FORWARDED_HEADER, Addresses
from billing.errors import MetergateError
from billing.holds.redis.connection import RedisError

if TYPE_CHECKING:
    from multidict import MultiMapping

    from billing.holds.redis.state import RedisState

logger = logging.getLogger(__name__)

ADDRESSES_MAX: Final = 65_536
"""Addresses that are counted at the same time, in Redis and in each process."""

LOOK_EVERY_S: Final = 1.0
"""How often an address that is refused has a key looked up of which nothing is known."""
KEYS, ADMINS, SIGN_INS, REFRESHES = "key", "admin", "sign-in", "refresh"
"""What is guessed at: who shows wrong API keys is not refused as an admin, or as somebody who signs in; a page that
goes on with a token that is over, for none of these."""

_NAMES: Final = {KEYS: "keys", ADMINS: "keys", SIGN_INS: "passwords or codes", REFRESHES: "refresh tokens"}

T = TypeVar("T")
Count = Callable[[str], Awaitable[tuple[int, int]]]
"""Counts a failed attempt of an address: how many that makes in this window, and the milliseconds until it ends."""


class TooManyAttempts(MetergateError):
    """An address has shown too many wrong keys; it may show others after `retry_after_s`, whole seconds."""

    kind = "too_many"

    def __init__(self, retry_after_s: int, what: str = "keys") -> None:
        super().__init__(
            f"Too many wrong {what} have come from this address: wait {retry_after_s} s, and check what you send."
        )
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """`attempts` wrong keys of one address in `window_s` are answered as such, of which `at_once` are looked at in one
    process at the same time; what comes then is refused until the window ends."""

    attempts: int = 20
    window_s: float = 60.0
    at_once: int = 8

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.window_s <= 0 or self.at_once < 1:
            raise ValueError("attempts, window_s and at_once must be above zero")


class Attempts:
    """Failed attempts by address. `count` counts for all gateways; `clock` is in monotonic seconds."""

    def __init__(
        self, count: Count, addresses: Addresses, limits: AttemptLimits, clock: Callable[[], float], entries: int
    ) -> None:
        self._count = count
        self._addresses = addresses
        self._limits = limits
        self._clock = clock
        self._entries = entries
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How often an address has failed here, and until when that counts."""
        self._blocked: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Until when an address is refused, and from when on one key of it is looked up all the same."""
        self._turns = asyncio.Semaphore(limits.at_once)
        self._warned = False

    async def attempt(
        self,
        peer: str,
        headers: MultiMapping[str],
        check: Callable[[], Awaitable[T | None]],
        *,
        known: bool | None = None,
    ) -> T | None:
        """Return what `check` makes of an API key, None where it is wrong. `known` says whether it is known to be a
        key, or known to be none; None says neither. A key that is known is only checked. A wrong one among the others
        counts, and few of them are checked at a time, so that a burst ends at the bound and not after it. Raises
        `TooManyAttempts`, also for the one above the bound."""
        if known:
            return await check()
        address = self._address(KEYS, peer, headers)
        looked_up_all_the_same = self._refuse(address, look=known is None)
        async with self._turns:
            if not looked_up_all_the_same:
                self._refuse(address)
            found = await check()
            if found is None:
                await self._count_failure(address, peer, headers)
        return found

    def refuse_blocked(self, peer: str, headers: MultiMapping[str], kind: str = ADMINS) -> None:
        """Raise `TooManyAttempts` for an address that has shown too many wrong admin keys, or what else is guessed."""
        if self._blocked:
            self._refuse(self._address(kind, peer, headers))

    async def failed(self, peer: str, headers: MultiMapping[str], kind: str = ADMINS) -> None:
        """Count a wrong admin key, or what else is guessed. Raises `TooManyAttempts` where it was one too many."""
        await self._count_failure(self._address(kind, peer, headers), peer, headers)

    def _refuse(self, address: str, *, look: bool = False) -> bool:
        """Raise `TooManyAttempts` for an address that has failed too often. With `look` one passes now and then, and
        True is given."""
        blocked = self._blocked.get(address)
        if blocked is None:
            return False
        (until, look_at), now = blocked, self._clock()
        if now >= until:
            del self._blocked[address]
            return False
        if not look or now < look_at:
            raise TooManyAttempts(math.ceil(until - now), _NAMES[address.partition(" ")[0]])
        self._blocked[address] = until, now + LOOK_EVERY_S
        return True

    async def _count_failure(self, address: str, peer: str, headers: MultiMapping[str]) -> None:
        now = self._clock()
        count, until = self._failed.get(address, (0, 0.0))
        if now >= until:
            count, until = 0, now + self._limits.window_s
        self._failed[address] = count + 1, until
        self._failed.move_to_end(address)
        if len(self._failed) > self._entries:
            self._failed.popitem(last=False)
        if count < self._limits.attempts:
            try:
                of_all, left_ms = await self._count(address)
            except RedisError as error:
                logger.debug("a wrong key was counted here alone: %s", error)
                return
            if of_all <= self._limits.attempts:
                return
            until = now + left_ms / 1000
        self._block(address, until, peer, headers)
        raise TooManyAttempts(max(1, math.ceil(until - now)), _NAMES[address.partition(" ")[0]])

    def _block(self, address: str, until: float, peer: str, headers: MultiMapping[str]) -> None:
        self._blocked[address] = until, self._clock() + LOOK_EVERY_S
        self._blocked.move_to_end(address)
        if len(self._blocked) > self._entries:
            self._blocked.popitem(last=False)
        if not self._warned and FORWARDED_HEADER in headers and not self._addresses.trusts(peer):
            self._warned = True
            logger.warning(
                "wrong keys from %s are refused, and it sends %s: if it is a proxy of yours, name it in "
                "TRUSTED_PROXIES, or all its clients count as one address",
                peer,
                FORWARDED_HEADER,
            )

    def address_of(self, peer: str, headers: MultiMapping[str]) -> str:
        """Return where a request comes from, behind trusted proxies."""
        return self._addresses.of(peer, headers.getall(FORWARDED_HEADER, []))

    def _address(self, kind: str, peer: str, headers: MultiMapping[str]) -> str:
        return f"{kind} {self.address_of(peer, headers)}"


def counted_in_redis(redis: RedisState, window_s: float) -> Count:
    """Count in Redis, in one hash that has an end and a bound."""
    return lambda address: redis.count_attempt(address, ADDRESSES_MAX, int(window_s * 1000))
