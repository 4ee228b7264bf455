"""Requests that only running ones keep out: those of one account wait in order of arrival.

A request waits behind an earlier one if what blocks that one counts for both: the balance, a window of the account or
of the key, or how many may run. What blocks a request that has not asked yet is not known: behind others it is assumed
to be whatever it has in common with them, so that waiters for one key's own window block no other key. The waiter that
is woken asks Redis; no other of its account that it might block asks meanwhile.

A waiter is woken when this process has ended a hold of the account, and from time to time, with growing pauses: other
processes end holds too, and windows roll over. So waiting costs one question for each hold that ends, or one each
MOST_PAUSE_S.

Each process keeps its own order. A request that can't wait, because as many wait already as may, is decided on at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import TYPE_CHECKING, Final

from billing.holds.model import InsufficientBalance, QuotaExceeded, Refused, TooManyRunning

if TYPE_CHECKING:
    from billing.holds.model import AdmissionTarget

FIRST_PAUSE_S: Final = 0.02
MOST_PAUSE_S: Final = 0.5

# What may block a request: a subject's key in Redis, and the tag of a counter, or one of these.
Blocker = tuple[bytes, int]
BALANCE: Final = -1
RUNNING: Final = -2


def possible_blockers(target: AdmissionTarget) -> frozenset[Blocker]:
    """Return everything that may block a request on this target."""
    blockers = {(target.account_key, BALANCE), (target.account_key, RUNNING), (target.key_key, RUNNING)}
    blockers.update((target.account_key, limit.quota.tag) for limit in target.limits.account)
    blockers.update((target.key_key, limit.quota.tag) for limit in target.limits.key)
    blockers.update((target.user_key or b"", limit.quota.tag) for limit in target.limits.user)
    return frozenset(blockers)


def blockers_of(refused: Refused, target: AdmissionTarget) -> frozenset[Blocker]:
    """Return what blocks a refused request."""
    match refused:
        case InsufficientBalance():
            return frozenset(((target.account_key, BALANCE),))
        case TooManyRunning(subject):
            return frozenset(((target.key_key if subject == "key" else target.account_key, RUNNING),))
        case QuotaExceeded(exhausted):
            keys = {"key": target.key_key, "user": target.user_key or b""}
            limits = [each.limit for each in exhausted]
            return frozenset((keys.get(limit.subject, target.account_key), limit.quota.tag) for limit in limits)


class Waiter:
    """One waiting request. `blocked_by` is what Redis has said, or all its possible blockers while Redis is asked;
    `unasked` says that Redis was not asked. `wake` is there while it waits to be woken, and True if it is woken in
    time. `asked_at` is the queue's count of releases when it asked last."""

    __slots__ = ("asked_at", "blocked_by", "blockers", "queue", "target", "unasked", "wake")

    def __init__(self, queue: WaitQueue, target: AdmissionTarget, refused: Refused | None) -> None:
        self.queue = queue
        self.target = target
        self.blockers = possible_blockers(target)
        self.wake: asyncio.Future[bool] | None = None
        self.asked_at = -1
        self.unasked = refused is None
        self.blocked_by: Set[Blocker] = self.blockers if refused is None else blockers_of(refused, target)

    def stands_behind(self, before: Set[Blocker]) -> None:
        """Assume, since Redis was not asked, that it is blocked by what blocks those before it."""
        self.blocked_by = (before & self.blockers) or self.blockers

    def refused(self, refused: Refused) -> None:
        """Record what Redis has refused it for."""
        self.blocked_by = blockers_of(refused, self.target)


class WaitQueue:
    """The waiting requests of one account."""

    __slots__ = ("_freed", "_loop", "_pause_s", "_timer", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiters: dict[Waiter, None] = {}
        self._loop = loop
        self._freed = 0
        self._pause_s = FIRST_PAUSE_S
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: Waiter) -> None:
        """Put a request at the end."""
        if waiter.unasked:
            waiter.stands_behind(set[Blocker]().union(*(each.blocked_by for each in self.waiters)))
        self.waiters[waiter] = None

    def freed(self) -> None:
        """Let waiters ask again: something may have been given back."""
        self._freed += 1
        self.wake()

    def wake(self) -> None:
        """Wake those that may ask and that nobody before them blocks."""
        before: set[Blocker] = set()
        for waiter in self.waiters:
            wake = waiter.wake
            may_ask = wake is not None and not wake.done() and waiter.asked_at < self._freed
            if wake is not None and may_ask and before.isdisjoint(waiter.blockers):
                waiter.asked_at, waiter.blocked_by, waiter.unasked = self._freed, waiter.blockers, False
                wake.set_result(True)
            elif waiter.unasked:
                waiter.stands_behind(before)
            before |= waiter.blocked_by
        if self._timer is None and self.waiters:
            self._timer = self._loop.call_later(self._pause_s, self._poll)

    def _poll(self) -> None:
        self._timer = None
        self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)
        self.freed()

    def remove(self, waiter: Waiter, *, admitted: bool) -> None:
        """Take a request out. If it was admitted others may be soon: the pauses are short again."""
        del self.waiters[waiter]
        if admitted:
            self._pause_s = FIRST_PAUSE_S
        if admitted or not self.waiters:
            self.stop()
        self.wake()

    def stop(self) -> None:
        """Wake nobody from time to time any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class WaitQueues:
    """The waiting requests of one process; of one account at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[bytes, WaitQueue] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return sum(len(queue.waiters) for queue in self._queues.values())

    def blocks(self, target: AdmissionTarget) -> bool:
        """Return whether a request that comes now is to wait behind those that wait already."""
        queue = self._queues.get(target.account_key) if self._queues else None
        if queue is None or len(queue.waiters) >= self._most:
            return False
        blockers = possible_blockers(target)
        return any(not waiter.blocked_by.isdisjoint(blockers) for waiter in queue.waiters)

    def join(self, target: AdmissionTarget, refused: Refused | None) -> Waiter | None:
        """Join the end of the account's queue, until `leave`; None where nothing more may wait. `refused` is what Redis
        has said, if it was asked."""
        queue = self._queues.get(target.account_key)
        if self._closed or len(queue.waiters if queue is not None else ()) >= self._most:
            return None
        if queue is None:
            queue = self._queues[target.account_key] = WaitQueue(self._loop)
        waiter = Waiter(queue, target, refused)
        queue.add(waiter)
        return waiter

    async def wait(self, waiter: Waiter, until_s: float) -> bool:
        """Wait to be woken, at most until a time of the event loop; return whether it was."""
        if self._closed:
            return False
        waiter.wake = self._loop.create_future()
        waiter.queue.wake()
        try:
            async with asyncio.timeout_at(until_s):
                return await waiter.wake
        except TimeoutError:
            return False
        finally:
            waiter.wake = None

    def leave(self, waiter: Waiter, *, admitted: bool) -> None:
        """Take a request out of its queue."""
        waiter.queue.remove(waiter, admitted=admitted)
        if not waiter.queue.waiters:
            self._queues.pop(waiter.target.account_key, None)

    def freed(self, account_key: bytes) -> None:
        """Let waiters of this account ask again: a hold of it has ended in this process."""
        if self._queues:
            queue = self._queues.get(account_key)
            if queue is not None:
                queue.freed()

    def close(self) -> None:
        """End all waiting, for this process stops serving. Those that wait ask a last time."""
        self._closed = True
        for queue in self._queues.values():
            queue.stop()
            for waiter in queue.waiters:
                if waiter.wake is not None and not waiter.wake.done():
                    waiter.wake.set_result(False)
