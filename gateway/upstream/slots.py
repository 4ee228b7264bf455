"""Slots for a provider's connections: how many are in use, an account's share of them, and the queues for them.

No account has more than its share, so that one whose clients do not read can't take all connections; a request without
an account (an empty one) counts to no share. Every wait is bounded, in number and in time. A request of an account that
has its share waits in the account's own queue, until another of its requests ends; one that only lacks a free
connection waits in the common queue, where it counts to its account's share already.
"""

import asyncio
from collections import OrderedDict

from gateway.upstream.base import AccountBusy, UpstreamBusy


class _Waiter:
    __slots__ = ("account", "granted")

    def __init__(self, account: str, granted: asyncio.Future[None]) -> None:
        self.account = account
        self.granted = granted


class ConnectionSlots:
    """At most `slots` at once, of them `share` for one account; `waiting` may wait in each kind of queue.

    Made inside a running event loop. Raises `ValueError` unless all are above zero; `waiting` may be zero.
    """

    def __init__(self, slots: int, share: int, waiting: int) -> None:
        if slots < 1 or share < 1 or waiting < 0:
            raise ValueError("slots and share must be above zero, waiting not below")
        self._loop = asyncio.get_running_loop()
        self._free = slots
        self._share = share
        self._waiting = waiting
        self._taken: dict[str, int] = {}
        """Slots that an account has, or waits for in the common queue."""
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._own_queues: dict[str, OrderedDict[_Waiter, None]] = {}
        self._in_own_queues = 0

    def take(self, account: str) -> bool:
        """Take a slot if one is free, and return whether; `give` returns it."""
        if not self._free:
            return False
        if account:
            taken = self._taken.get(account, 0)
            if taken >= self._share:
                return False
            self._taken[account] = taken + 1
        self._free -= 1
        return True

    async def wait(self, account: str, host: str, timeout_s: float) -> None:
        """Wait for a slot and take it. Raises `UpstreamBusy` (`AccountBusy` where the account has its share) when
        none is free in time, or too many wait already; `host` is for the message."""
        kind = AccountBusy if account and self._taken.get(account, 0) >= self._share else UpstreamBusy
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait(account, host)
        except TimeoutError:
            raise kind(f"{host}: no free connection within {timeout_s:g} s") from None

    async def _wait(self, account: str, host: str) -> None:
        waiter = _Waiter(account, self._loop.create_future())
        if account and self._taken.get(account, 0) >= self._share:
            self._wait_for_own(waiter, host)
        else:
            if len(self._queue) >= self._waiting:
                raise UpstreamBusy(f"{host}: {len(self._queue)} requests wait for a connection already")
            if account:
                self._taken[account] = self._taken.get(account, 0) + 1
            self._queue[waiter] = None
            self._serve()
        try:
            await waiter.granted
        except BaseException:
            self._give_up(waiter)
            raise

    def give(self, account: str) -> None:
        """Return a slot; the longest waiting request takes it."""
        self._free += 1
        if self._own_queues:
            self._leave(account)
        elif account:
            left = self._taken[account] = self._taken[account] - 1
            if not left:
                del self._taken[account]
        if self._queue:
            self._serve()

    def _wait_for_own(self, waiter: _Waiter, host: str) -> None:
        own = self._own_queues.get(waiter.account)
        if self._in_own_queues >= self._waiting or (own is not None and len(own) >= self._share):
            raise AccountBusy(f"{host}: too many requests of one account wait for its others already")
        self._own_queues.setdefault(waiter.account, OrderedDict())[waiter] = None
        self._in_own_queues += 1

    def _leave(self, account: str) -> None:
        """Take a slot off an account; its longest waiting request moves from its own queue to the common one."""
        if not account:
            return
        own = self._own_queues.get(account)
        while own:
            waiter = self._next_own(account, own)
            if not waiter.granted.done():
                self._queue[waiter] = None
                return
        self._count_down(account)

    def _count_down(self, account: str) -> None:
        left = self._taken[account] - 1
        if left:
            self._taken[account] = left
        else:
            del self._taken[account]

    def _next_own(self, account: str, own: OrderedDict[_Waiter, None]) -> _Waiter:
        waiter, _ = own.popitem(last=False)
        self._in_own_queues -= 1
        if not own:
            del self._own_queues[account]
        return waiter

    def _serve(self) -> None:
        while self._free and self._queue:
            waiter, _ = self._queue.popitem(last=False)
            if waiter.granted.done():  # cancelled, and its task has not run yet
                self._leave(waiter.account)
            else:
                self._free -= 1
                waiter.granted.set_result(None)

    def _give_up(self, waiter: _Waiter) -> None:
        """End a wait that was cancelled or timed out."""
        own = self._own_queues.get(waiter.account)
        if waiter.granted.done() and not waiter.granted.cancelled():
            self.give(waiter.account)  # it was granted too late
        elif waiter in self._queue:
            del self._queue[waiter]
            self._leave(waiter.account)
            self._serve()
        elif own is not None and waiter in own:
            del own[waiter]
            self._in_own_queues -= 1
            if not own:
                del self._own_queues[waiter.account]
