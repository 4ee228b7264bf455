"""Who may use one of a provider's connections, and who waits for one.

A request without an account (an empty one) counts to nobody's share.

This file owns that no account has more than its share of the connections, so that one whose clients do not read can't
take them all, and that every wait is bounded: in number here, in time by whoever waits. An account that has its share
waits in a row of its own, for one of its own requests to end; a request that only lacks a free connection waits in the
row of all. An account's requests in that row count as its share already.
"""

import asyncio
from collections import OrderedDict

from gateway.upstream.base import AccountBusy, UpstreamBusy


class _Waiter:
    __slots__ = ("account", "turn")

    def __init__(self, account: str, turn: asyncio.Future[None]) -> None:
        self.account = account
        self.turn = turn


class Turns:
    """At most `places` at once, of them `share` for one account; `waiting` may wait in each kind of row.

    Made inside a running event loop. Raises `ValueError` unless all are above zero; `waiting` may be zero.
    """

    def __init__(self, places: int, share: int, waiting: int) -> None:
        if places < 1 or share < 1 or waiting < 0:
            raise ValueError("places and share must be above zero, waiting not below")
        self._loop = asyncio.get_running_loop()
        self._free = places
        self._share = share
        self._waiting = waiting
        self._taken: dict[str, int] = {}
        """How many places an account has or waits for in the row of all."""
        self._row: OrderedDict[_Waiter, None] = OrderedDict()
        self._own_rows: dict[str, OrderedDict[_Waiter, None]] = {}
        self._in_own_rows = 0

    def take(self, account: str) -> bool:
        """Take a place if there is one now; it is given back with `give`."""
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
        """Take a place when there is one. Raises `UpstreamBusy` (`AccountBusy` where the account has its share) when
        there is none in time, or too many wait already; `host` is for the message."""
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
            if len(self._row) >= self._waiting:
                raise UpstreamBusy(f"{host}: {len(self._row)} requests wait for a connection already")
            if account:
                self._taken[account] = self._taken.get(account, 0) + 1
            self._row[waiter] = None
            self._serve()
        try:
            await waiter.turn
        except BaseException:
            self._give_up(waiter)
            raise

    def give(self, account: str) -> None:
        """Give a place back: it is the turn of whoever waits longest."""
        self._free += 1
        if self._own_rows:
            self._leave(account)
        elif account:
            left = self._taken[account] = self._taken[account] - 1
            if not left:
                del self._taken[account]
        if self._row:
            self._serve()

    def _wait_for_own(self, waiter: _Waiter, host: str) -> None:
        own = self._own_rows.get(waiter.account)
        if self._in_own_rows >= self._waiting or (own is not None and len(own) >= self._share):
            raise AccountBusy(f"{host}: too many requests of one account wait for its others already")
        self._own_rows.setdefault(waiter.account, OrderedDict())[waiter] = None
        self._in_own_rows += 1

    def _leave(self, account: str) -> None:
        """An account has one place less: whoever waits longest in its own row goes to the row of all instead."""
        if not account:
            return
        own = self._own_rows.get(account)
        while own:
            waiter = self._next_own(account, own)
            if not waiter.turn.done():
                self._row[waiter] = None
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
        self._in_own_rows -= 1
        if not own:
            del self._own_rows[account]
        return waiter

    def _serve(self) -> None:
        while self._free and self._row:
            waiter, _ = self._row.popitem(last=False)
            if waiter.turn.done():  # cancelled, and not told yet
                self._leave(waiter.account)
            else:
                self._free -= 1
                waiter.turn.set_result(None)

    def _give_up(self, waiter: _Waiter) -> None:
        """A waiter is cancelled, or its time is over."""
        own = self._own_rows.get(waiter.account)
        if waiter.turn.done() and not waiter.turn.cancelled():
            self.give(waiter.account)  # its turn came too late
        elif waiter in self._row:
            del self._row[waiter]
            self._leave(waiter.account)
            self._serve()
        elif own is not None and waiter in own:
            del own[waiter]
            self._in_own_rows -= 1
            if not own:
                del self._own_rows[waiter.account]
