"""Large bodies: how much of them a worker has in memory, and how they are worked on without stopping the event loop.

This file owns two bounds and one rule. The bytes of bodies in flight, from their first byte to their request's end, are
bounded for a worker and for an account in it, so that no account takes all of a worker's memory; bodies of at most
UNCOUNTED_BYTES that were here with their heads don't count. What takes time in proportion to a body (to parse it, to
write it anew) is done by one thread, one body at a time, account by account: the interpreter's lock lets the loop in
between two steps of that work, and what such work takes beside the body itself is taken once.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Literal, ParamSpec, TypeVar

from billing.errors import MetergateError
from billing.fair_queue import FairQueue
from gateway.config.defaults import BodySettings

# How long the thread rests after each piece of work, in times of what that took: a third of the time is the most in
# which it and the event loop want the interpreter's lock, however many large bodies come.
REST: Final = 2.0

# Requests as most are. Each connection has one: all of them together are bounded by their number.
UNCOUNTED_BYTES: Final = 16_384

P = ParamSpec("P")
T = TypeVar("T")


class TooManyBytes(MetergateError):
    """There is no room for more of a body now; `whose` says which bound is reached."""

    def __init__(self, whose: Literal["account", "gateway"]) -> None:
        super().__init__(whose)
        self.whose: Literal["account", "gateway"] = whose


class Kept:
    """One request's body in memory: `grow` as it comes, `release` when the request is over."""

    __slots__ = ("_account_id", "_bodies", "looked_at", "size_bytes")

    def __init__(self, bodies: "Bodies", account_id: str) -> None:
        self._bodies = bodies
        self._account_id = account_id
        self.size_bytes = 0
        self.looked_at = False
        """Whether it was asked, as a large body's must be, that its account can pay at all."""

    def fit(self, size_bytes: int) -> None:
        """Raise `TooManyBytes` where a body of this size would not fit beside those that are in memory."""
        self._bodies.fit(self._account_id, size_bytes - self.size_bytes)

    def grow(self, size_bytes: int) -> None:
        """Count a body that has grown to this size. Raises `TooManyBytes`."""
        self.fit(size_bytes)
        self._bodies.add(self._account_id, size_bytes - self.size_bytes)
        self.size_bytes = size_bytes

    def release(self) -> None:
        """Give back all bytes that were counted."""
        self._bodies.add(self._account_id, -self.size_bytes)
        self.size_bytes = 0


class Bodies:
    """The bodies of one worker."""

    def __init__(self, settings: BodySettings, largest_bytes: int = 0) -> None:
        """The largest body always fits where it is alone."""
        self.large_bytes = settings.large_body_bytes
        self._most_bytes = max(settings.body_bytes_in_flight, largest_bytes)
        self._most_account_bytes = max(settings.account_body_bytes_in_flight, largest_bytes)
        self.size_bytes = 0
        self._by_account: dict[str, int] = {}
        self._turns = FairQueue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")

    def of(self, account_id: str) -> Kept:
        """Return a body of this account, nothing of which has come."""
        return Kept(self, account_id)

    def fit(self, account_id: str, more_bytes: int) -> None:
        """Raise `TooManyBytes` where so many more would not fit."""
        if self._by_account.get(account_id, 0) + more_bytes > self._most_account_bytes:
            raise TooManyBytes("account")
        if self.size_bytes + more_bytes > self._most_bytes:
            raise TooManyBytes("gateway")

    def add(self, account_id: str, more_bytes: int) -> None:
        """Count so many more; fewer where it is below zero."""
        self.size_bytes += more_bytes
        of_account = self._by_account.get(account_id, 0) + more_bytes
        if of_account:
            self._by_account[account_id] = of_account
        else:
            self._by_account.pop(account_id, None)

    async def in_thread(self, account_id: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` comes to, off the event loop, when it is this account's turn. A cancelled task leaves at
        once; the next work waits until the thread is free all the same, so that nothing piles up behind it."""
        await self._turns.acquire(account_id)
        began_s = time.monotonic()
        try:
            done = asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))
        except BaseException:
            self._turns.release()
            raise
        done.add_done_callback(partial(self._free, began_s))
        try:
            return await asyncio.shield(done)
        finally:
            del done  # it has what was raised, which has this frame: the body would be kept until garbage is collected

    def _free(self, began_s: float, done: "asyncio.Future[T]") -> None:
        rest_s = REST * (time.monotonic() - began_s)
        asyncio.get_running_loop().call_later(rest_s, self._turns.release)
        if not done.cancelled():
            done.exception()  # the caller may have left

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
