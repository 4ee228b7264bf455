"""Guessing: how many wrong keys one address may show.

This file owns that somebody whose key is known is never refused for what others at the same address do, and that wrong
keys of one address cost a bounded number of calls of Redis and look-ups in Postgres in each window. All gateways count
together in Redis; each process counts by itself too, which bounds what goes to Redis, and holds while that is away.
Nothing here is asked about a request whose key is known. An address that is refused still has a key looked up now and
then of which nothing is known, so that a neighbour with a wrong key can't shut out those who start.

Each kind of key has a counter of its own at an address, and so has each prefix that is the prefix of a valid key: wrong
keys that begin otherwise don't shut out a right one, and who guesses at one key shuts out nobody who has another.
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
from billing.keys.secrets import secret_digest, shown_prefix

if TYPE_CHECKING:
    from multidict import MultiMapping

    from billing.holds.redis.state import RedisState

logger = logging.getLogger(__name__)

# Counters at the same time, in Redis and in each process.
ADDRESSES_MAX: Final = 65_536

# How often an address that is refused has a key looked up of which nothing is known.
LOOK_EVERY_S: Final = 1.0
# An address that is refused may still show an operator's right key, until so many times `attempts` were refused: a key
# from a dictionary is not to be found by showing all of it.
GUESSES_FACTOR: Final = 8
# Of the digest that stands for a key's prefix in the name of a counter.
PREFIX_BYTES: Final = 4
# What is guessed at: who shows wrong API keys is not refused as an admin, or as somebody who signs in; a page that goes
# on with a token that is over, for none of these.
KEYS, ADMINS, SERVICE_KEYS, SIGN_INS, REFRESHES = "key", "admin", "service", "sign-in", "refresh"
SCIM_TOKENS: Final = "scim"

_NAMES: Final = {
    KEYS: "keys",
    ADMINS: "keys",
    SERVICE_KEYS: "keys",
    SIGN_INS: "passwords or codes",
    REFRESHES: "refresh tokens",
    SCIM_TOKENS: "tokens",
}

T = TypeVar("T")
# Counts a failed attempt by its counter's name: how many that makes in this window, and the milliseconds until that
# ends.
Count = Callable[[str], Awaitable[tuple[int, int]]]


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


@dataclass(slots=True)
class _Block:
    """Until when an address is refused, from when on one key of it is looked up all the same, and how often it was
    refused."""

    until: float
    look_at: float
    refused: int = 0


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
        self._blocked: OrderedDict[str, _Block] = OrderedDict()
        self._valid: OrderedDict[str, None] = OrderedDict()
        """Prefixes of API keys that were found to be right here."""
        self._turns = asyncio.Semaphore(limits.at_once)
        self._warned = False

    async def attempt(
        self,
        peer: str,
        headers: MultiMapping[str],
        check: Callable[[], Awaitable[T | None]],
        *,
        known: bool | None = None,
        secret: str = "",
        kind: str = KEYS,
    ) -> T | None:
        """Return what `check` makes of an API key, or what else a program shows, None where it is wrong. `known` says
        whether it is known to be a key, or known to be none; None says neither. A key that is known is only checked. A
        wrong one among the others counts, with those that share its prefix where that is a valid key's, and few of them
        are checked at a time, so that a burst ends at the bound and not after it. Raises `TooManyAttempts`, also for
        the one above the bound."""
        if known:
            return await check()
        prefix = shown_prefix(secret)
        counter = self._counter(kind, peer, headers, prefix if prefix in self._valid else "")
        looked_up_all_the_same = self._refuse(counter, look=known is None)
        async with self._turns:
            if not looked_up_all_the_same:
                self._refuse(counter)
            found = await check()
            if found is None:
                await self._count_failure(counter, peer, headers)
            elif prefix:
                self._note_valid(prefix)
        return found

    def _note_valid(self, prefix: str) -> None:
        self._valid[prefix] = None
        self._valid.move_to_end(prefix)
        if len(self._valid) > self._entries:
            self._valid.popitem(last=False)

    def refuse_blocked(self, peer: str, headers: MultiMapping[str], kind: str = ADMINS, prefix: str = "") -> None:
        """Raise `TooManyAttempts` for an address that has shown too many wrong admin keys, or what else is guessed.
        `prefix` is that of the right key, where what is shown has it; else it counts with all others."""
        if not self._blocked:
            return
        counter = self._counter(kind, peer, headers)
        others = self._blocked.get(counter)
        if prefix and (others is None or others.refused < GUESSES_FACTOR * self._limits.attempts):
            counter = self._counter(kind, peer, headers, prefix)
        self._refuse(counter)

    async def failed(self, peer: str, headers: MultiMapping[str], kind: str = ADMINS, prefix: str = "") -> None:
        """Count a wrong admin key, or what else is guessed. Raises `TooManyAttempts` where it was one too many."""
        await self._count_failure(self._counter(kind, peer, headers, prefix), peer, headers)

    def _refuse(self, counter: str, *, look: bool = False) -> bool:
        """Raise `TooManyAttempts` for an address that has failed too often. With `look` one passes now and then, and
        True is given."""
        blocked = self._blocked.get(counter)
        if blocked is None:
            return False
        now = self._clock()
        if now >= blocked.until:
            del self._blocked[counter]
            return False
        if not look or now < blocked.look_at:
            blocked.refused += 1
            raise TooManyAttempts(math.ceil(blocked.until - now), _NAMES[counter.partition(" ")[0]])
        blocked.look_at = now + LOOK_EVERY_S
        return True

    async def _count_failure(self, counter: str, peer: str, headers: MultiMapping[str]) -> None:
        now = self._clock()
        count, until = self._failed.get(counter, (0, 0.0))
        if now >= until:
            count, until = 0, now + self._limits.window_s
        self._failed[counter] = count + 1, until
        self._failed.move_to_end(counter)
        if len(self._failed) > self._entries:
            self._failed.popitem(last=False)
        if count < self._limits.attempts:
            try:
                of_all, left_ms = await self._count(counter)
            except RedisError as error:
                logger.debug("a wrong key was counted here alone: %s", error)
                return
            if of_all <= self._limits.attempts:
                return
            until = now + left_ms / 1000
        self._block(counter, until, peer, headers)
        raise TooManyAttempts(max(1, math.ceil(until - now)), _NAMES[counter.partition(" ")[0]])

    def _block(self, counter: str, until: float, peer: str, headers: MultiMapping[str]) -> None:
        self._blocked[counter] = _Block(until, self._clock() + LOOK_EVERY_S)
        self._blocked.move_to_end(counter)
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

    def _counter(self, kind: str, peer: str, headers: MultiMapping[str], prefix: str = "") -> str:
        """Return the name of a counter: of an address, or of an address and a prefix, of which it shows nothing."""
        counter = f"{kind} {self.address_of(peer, headers)}"
        return f"{counter} {secret_digest(prefix)[:PREFIX_BYTES].hex()}" if prefix else counter


def counted_in_redis(redis: RedisState, window_s: float) -> Count:
    """Count in Redis, in one hash that has an end and a bound."""
    return lambda address: redis.count_attempt(address, ADDRESSES_MAX, int(window_s * 1000))
