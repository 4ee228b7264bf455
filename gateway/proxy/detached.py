"""How long requests go on, with their clients and without: `Running` ends those that take too long, `Detached` those
whose client has left or was cut off.

A course whose client is gone goes on as before, and what it writes goes to `NO_CLIENT`. Its answer is read on, because
the provider's usage may still come, and the request is settled by it. The request was sent, so it costs at least its
input, unless the provider refuses it or fails before any output. `disconnect_drain_s` bounds the reading, before an
answer's head as well as within it; a request that ends at `max_request_s` is not read on. Where the model may still
bill what its answer does not show, an answer that was given up without its usage is marked as `unread`, and costs its
hold.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from gateway.server.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from billing.holds.model import Hold
    from gateway.config.defaults import RequestSettings
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Created
    from gateway.proxy.background_jobs import BackgroundPoller
    from gateway.proxy.candidates import Candidate
    from gateway.proxy.context import RequestContext
    from gateway.proxy.records import Records
    from gateway.proxy.settlement.settlements import Settlements

T = TypeVar("T")

# Streams that are cut by a stop come all in the same moment, and each takes long to count: those that were counted are
# settled before the next ones begin, so that not all of them are still open when the time for stopping is over.
COUNTED_AT_ONCE: Final = 2


class Running:
    """The exchanges of one process, made inside a running event loop. All may take equally long, so that one timer
    looks at the oldest ones. `max_s` is counted by the loop's clock, which is monotonic."""

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._since_s: dict[Exchange, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self, exchange: Exchange) -> None:
        """Note that this exchange is served from now on."""
        now_s = self._since_s[exchange] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(now_s + self._max_s, self._look)

    def end(self, exchange: Exchange) -> None:
        """Note that it is over, or was not begun after all."""
        self._since_s.pop(exchange, None)

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


class NoClient(Exchange):
    """Stands for a client that is gone: takes everything, at once."""

    __slots__ = ()

    def __init__(self) -> None:
        self.begun = True
        self.listener = None

    unsent = False
    waits = False

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Take a whole answer."""

    def put(self, data: bytes) -> bool:
        """Take a piece, and more at once."""
        return True

    async def flushed(self) -> None:
        """Wait for nothing."""

    def finish(self, last: bytes) -> None:
        """Take the end."""

    def abort(self) -> None:
        """Leave a connection alone that may serve another request."""


NO_CLIENT: Final = NoClient()


class Alone(Protocol):
    """A course without its client (`gateway.proxy.course.Course`)."""

    context: RequestContext
    hold: Hold

    def late(self) -> None: ...


def drain_s(settings: RequestSettings, route: Candidate) -> float:
    """Return how long the upstream of one candidate is read on, in seconds."""
    if route.disconnect_drain_s is not None:
        return route.disconnect_drain_s
    # the answers of some models do not show all that they bill
    return settings.reasoning_drain_s if route.hides_reasoning else settings.disconnect_drain_s


class Detached:
    """Bounds what goes on without a client. `drain_now` when the process stops."""

    def __init__(
        self, settlements: Settlements, settings: RequestSettings, records: Records, poller: BackgroundPoller
    ) -> None:
        self._settlements = settlements
        self._settings = settings
        self._records = records
        self._poller = poller
        self._loop = asyncio.get_running_loop()
        self._drains: set[asyncio.Timeout] = set()
        self._rounds = asyncio.Semaphore(COUNTED_AT_ONCE)
        self._stopping = False

    def drain_now(self) -> None:
        """Stop reading upstreams: what has come until now is settled."""
        self._stopping = True
        for drain in self._drains:
            if not drain.expired():
                drain.reschedule(self._loop.time())

    def begin(self, course: Alone, exchange: Exchange) -> asyncio.Event:
        """Let a course go on without its client, and tell it when its time is over; return the event that it sets at
        its end. Its hold is resolved then, should it have left it open."""
        context, ended = course.context, asyncio.Event()
        context.cut = exchange.ended_for
        read_on = exchange.cut_for not in ("max_request_s", "hold_closed")
        deadline_s = self._loop.time() + drain_s(self._settings, context.route) if read_on else 0.0
        self._go_on(context, course.hold, self._until(course, ended, deadline_s))
        return ended

    async def _until(self, course: Alone, ended: asyncio.Event, deadline_s: float) -> None:
        drain = asyncio.timeout_at(0.0 if self._stopping else deadline_s)
        try:
            async with drain:
                self._drains.add(drain)
                await ended.wait()
        except TimeoutError:
            course.late()
        finally:
            self._drains.discard(drain)
        await ended.wait()

    def is_unread(self, context: RequestContext) -> bool:
        """Return whether a provider that is not read on may bill more than it has shown. The operator's own restart
        must not cost a customer the hold."""
        return context.route.hides_reasoning and not (self._stopping or context.cut == "shutting_down")

    async def in_turn(self, settling: Coroutine[Any, Any, T]) -> T:
        """Return what this work comes to; while the process stops, a few are done at once."""
        async with self._rounds if self._stopping else nullcontext():
            return await settling

    def running(self, context: RequestContext, hold: Hold, running: Created, tap: Tap | None = None) -> None:
        """Take over a background response whose client has its answer, or has left; `tap` has read its stream."""
        self._go_on(context, hold, self.followed(context, hold, running, tap))

    async def followed(self, context: RequestContext, hold: Hold, running: Created, tap: Tap | None = None) -> None:
        """Follow a background response to its end."""
        context.body = b""
        await (await self._poller.begin(context, hold, running, tap))

    def _go_on(self, context: RequestContext, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        self._settlements.hand_over(hold, self._records.going_on(context, work))
