"""A queue for a resource that all accounts share, or networks, such as a thread: served account by account, so that an
account with a hundred requests delays its own, and one with a single request waits for one of each other account."""

import asyncio
from collections import OrderedDict, deque


class FairQueue:
    """Lets `slots` at once use the resource. Each `acquire` that ends well is followed by one `release`."""

    def __init__(self, slots: int = 1) -> None:
        self._free = slots
        # Waiting requests by account; the next account is first. None wait while a slot is free.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, account: str) -> None:
        """Wait for a slot and take it."""
        if self._free:
            self._free -= 1
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(account, deque()).append(granted)
        try:
            await granted
        except BaseException:
            if not granted.cancelled():
                self.release()  # it was granted too late
            raise

    def release(self) -> None:
        """Give the slot back; the next account's first request takes it."""
        while self._waiting:
            account, requests = self._waiting.popitem(last=False)
            granted = requests.popleft()
            if requests:
                self._waiting[account] = requests
            if not granted.done():  # else its request was cancelled
                granted.set_result(None)
                return
        self._free += 1
