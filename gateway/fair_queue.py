"""Turns at what all accounts share, such as a thread: who waits is served account by account, so that one with a
hundred requests waits as long as it makes itself wait, and one with a single request for one turn of each other."""

import asyncio
from collections import OrderedDict, deque


class Rows:
    """`places` have their turn at once. Each `take` that ends well is followed by one `give`."""

    def __init__(self, places: int = 1) -> None:
        self._free = places
        self._rows: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Who waits, by account; the account whose turn is next stands first. Nobody waits while a place is free."""

    async def take(self, account: str) -> None:
        """Wait for a turn."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._rows.setdefault(account, deque()).append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():
                self.give()  # it came too late
            raise

    def give(self) -> None:
        """The turn is over: on to whoever is next."""
        while self._rows:
            account, row = self._rows.popitem(last=False)
            turn = row.popleft()
            if row:
                self._rows[account] = row
            if not turn.done():  # else its request was cancelled
                turn.set_result(None)
                return
        self._free += 1
