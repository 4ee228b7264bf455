"""Passwords: which are taken, and how they are hashed and compared.

This file owns the rules of NIST SP 800-63B-4, section 3.1.1.2: length and a block list, and no rule of composition. One
that stands alone has 15 characters or more, one beside a second factor 8. A password is compared in Unicode's form
NFKC, so that the same keys open the same door on every machine.

Argon2id (RFC 9106) takes tens of MiB and hundreds of milliseconds by design. So few run in one process at once, in
threads: sign-ins can't use up a gateway's memory or its processors. Networks have their turns one after the other, and
none has more of them than run at once, whoever comes beyond is told to come again: somebody who signs in without end,
with a right password or a wrong one, keeps nobody elsewhere out.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import secrets
import sys
import threading
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from billing.addresses import site_of
from billing.errors import MetergateError
from billing.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LEAST_ALONE: Final = 15
LEAST_BESIDE: Final = 8
MOST: Final = 128
PRODUCT: Final = "metergate"
# A shorter part of an address or a name is in too many passwords by chance.
_LEAST_WORD: Final = 4
_RUN_UNIT: Final = 4
RETRY_AFTER_S: Final = 1
# Of the sign-ins that are free, one network may have one in so many, and at least NETWORK_LEAST.
NETWORK_SHARE: Final = 8
NETWORK_LEAST: Final = 2
# Of the threads that hash, where the system has one for each thread.
NICENESS: Final = 10
# Passwords that run or wait at the same time in one process, of all networks.
WAITING: Final = 64
_SALT_BYTES, _HASH_BYTES = 16, 32
_LIST: Final = "common_passwords.txt"
_WORDS: Final = re.compile(r"[^\W_]+")
_ROWS: Final = ("1234567890", "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm", "qazwsxedcrfvtgbyhnujmikolp")
# Longer than any password: what is a part of one of them is a finger that slid along the keys.
_RUNS: Final = tuple(run for row in _ROWS for run in (row * 14, row[::-1] * 14))

T = TypeVar("T")


class PasswordRefused(MetergateError):
    """This can't be a password. The message says why, and never holds it."""

    kind, field = "invalid", "password"


class TooManySignIns(MetergateError):
    """So many people are signing in that this one has to come again."""

    kind = "too_many"
    retry_after_s = RETRY_AFTER_S

    def __init__(self) -> None:
        super().__init__(f"Too many people are signing in at this moment: try again in {RETRY_AFTER_S} s.")


def normalized(password: str) -> str:
    """Return a password in the form that is hashed."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, least: int, own: Iterable[str] = ()) -> None:
    """Reject a password of fewer than `least` characters or more than `MOST`, that many people have, or that holds the
    product's name or a word of `own`, such as the user's address and name. Raises `PasswordRefused`."""
    text = normalized(password[: MOST + 1])
    if len(text) < least:
        raise PasswordRefused(f"A password has {least} characters or more: four or five words make a good one.")
    if len(text) > MOST:
        raise PasswordRefused(f"A password has {MOST} characters at most.")
    folded = text.casefold()
    if _is_common(folded):
        raise PasswordRefused("Many people have this password, or one much like it: choose another one.")
    words = {word for each in (PRODUCT, *own) for word in _WORDS.findall(normalized(each).casefold())}
    if any(len(word) >= _LEAST_WORD and word in folded for word in words):
        raise PasswordRefused("A password must not contain your address, your name or the name of this service.")


def _is_common(folded: str) -> bool:
    """Return whether it is in the list, or made of what is: repeated, or followed by digits and signs."""
    for text in (folded, folded.rstrip("0123456789!?.,-_*#@$%&+ ")):
        unit = _unit(text)
        if text and (len(unit) <= _RUN_UNIT or unit in _common() or any(unit in run for run in _RUNS)):
            return True
    return not folded.strip("0123456789!?.,-_*#@$%&+ ")


def _unit(text: str) -> str:
    """Return the shortest text that this one is a repetition of, the last of them cut off or not."""
    for length in range(1, len(text)):
        if text[length:] == text[: len(text) - length]:
            return text[:length]
    return text


@cache
def _common() -> frozenset[str]:
    lines = files("billing.identity").joinpath(_LIST).read_text("utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("# "))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password is the right one; `rehashed` is its hash by the parameters of now, where the stored one has
    others."""

    right: bool
    rehashed: str | None = field(default=None, repr=False)


class Passwords:
    """Hashes and compares passwords, `at_once` of them at the same time, and as many of one `network` run or wait.
    Methods raise `TooManySignIns`."""

    def __init__(self, hasher: PasswordHasher | None = None, at_once: int = 2) -> None:
        self._hasher = hasher or PasswordHasher()
        self._at_once, self._places = at_once, Counter[str]()
        self._turns = FairQueue(at_once)
        self._threads = ThreadPoolExecutor(at_once, "passwords", _yield_to_others)
        self.dummy: Final = _dummy(self._hasher)
        """A hash that no password has, and that costs as much to compare."""

    async def hash(self, password: str, network: str = "") -> str:
        """Return the hash of a password for storing."""
        return await self._apart(network, lambda: self._hasher.hash(normalized(password)))

    async def check(self, stored: str | None, password: str, network: str = "") -> Verdict:
        """Compare a password with a stored hash. None, for a user without a password or an address that nobody has, is
        never right and takes as long."""
        return await self._apart(network, lambda: self._compare(stored, password))

    def refuse_full(self, network: str = "") -> None:
        """Refuse another password where so many are being hashed."""
        if self._places[network] >= self._at_once or self._places.total() >= WAITING:
            raise TooManySignIns

    def _compare(self, stored: str | None, password: str) -> Verdict:
        text = normalized(password)
        try:
            self._hasher.verify(self.dummy if stored is None else stored, text)
        except (Argon2Error, InvalidHashError):
            return Verdict(False)
        if stored is None:
            return Verdict(False)
        return Verdict(True, self._hasher.hash(text) if self._hasher.check_needs_rehash(stored) else None)

    async def _apart(self, network: str, work: Callable[[], T]) -> T:
        """Run in a thread, when the network has its turn. Its place is free again when the thread has ended, also where
        nobody waits for it any more."""
        self.refuse_full(network)
        self._places[network] += 1
        try:
            await self._turns.acquire(network)
        except BaseException:
            self._left(network)
            raise
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except BaseException:
            self._turns.release()
            self._left(network)
            raise
        running.add_done_callback(partial(self._ended, network))
        return await asyncio.shield(running)

    def _ended(self, network: str, running: asyncio.Future[T]) -> None:
        self._turns.release()
        self._left(network)
        if not running.cancelled():
            running.exception()  # the caller may have left

    def _left(self, network: str) -> None:
        self._places[network] -= 1
        if not self._places[network]:
            del self._places[network]

    def close(self) -> None:
        """End the threads, once they have done what they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class SignInLimit:
    """How many people sign in, register or reset a password at the same time in one process: at most `at_once`.

    Nobody knows them yet, and each of their requests asks the database and may hash a password, which takes a
    processor. A network (of IPv6 a whole site) may add to what it has only up to a part of what is free: a whole office
    signs in at once, and a flood leaves room for others."""

    def __init__(self, at_once: int = 64) -> None:
        self._at_once = at_once
        self._running = Counter[str]()

    @contextmanager
    def entered(self, network: str) -> Iterator[None]:
        """Count somebody while this is open. Raises `TooManySignIns`."""
        site, free = site_of(network), self._at_once - self._running.total()
        if free <= 0 or self._running.get(site, 0) >= max(NETWORK_LEAST, free // NETWORK_SHARE):
            raise TooManySignIns
        self._running[site] += 1
        try:
            yield
        finally:
            self._running[site] -= 1
            if not self._running[site]:
                del self._running[site]


def _yield_to_others() -> None:
    """Have the event loop served before this thread, and before those that Argon2 begins in it."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _dummy(hasher: PasswordHasher) -> str:
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (_SALT_BYTES, _HASH_BYTES)
    )
    parameters = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${parameters}${salt}${digest}"
