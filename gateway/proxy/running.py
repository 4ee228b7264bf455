"""Requests that are being served, each of which ends at `max_request_s`.

This file owns that end. Requests begin in the order of time and all may take equally long, so that one timer is enough
for all of them, and looking at the oldest ones.
"""

import asyncio

from gateway.server.exchange import Exchange


class Running:
    """The exchanges of one process, made inside a running event loop. `max_s` is counted by the loop's clock, which is
    monotonic."""

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._since_s: dict[Exchange, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self, exchange: Exchange) -> None:
        """This exchange is served from now on."""
        now_s = self._since_s[exchange] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(now_s + self._max_s, self._look)

    def end(self, exchange: Exchange) -> None:
        """It is over."""
        del self._since_s[exchange]

    def _look(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        late: list[Exchange] = []
        for exchange, since_s in self._since_s.items():
            if since_s + self._max_s > now_s:
                self._timer = self._loop.call_at(since_s + self._max_s, self._look)
                break
            late.append(exchange)
        for exchange in late:
            exchange.cut("max_request_s")
