"""What goes on after the client has left: the provider is read on, because its usage may still come, then settled.

This file owns what a request costs whose client has left or was cut off. It was sent, so it costs at least its input,
unless the provider refuses it or fails before any output. `disconnect_drain_s` bounds the reading, before an answer's
head as well as within it; a request that ends at `max_request_s` is not read on. Where the model may still bill what
its answer does not show, an answer that was given up without its usage is marked as `unread`, and costs its hold.

`Running` owns that end of every request: all may take equally long, so that one timer looks at the oldest ones.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.dialects.body import GarbageAnswer
from gateway.dialects.output import NO_OUTPUT, Output
from gateway.proxy.context import Reason, RequestContext, shown_id
from gateway.proxy.decoding_tap import ENCODINGS, StreamWatch, decoded
from gateway.proxy.headers import ResponseHead, incoming
from gateway.proxy.settlement.usage_anomalies import believed
from gateway.proxy.stored import FirstEvent, running_of, running_of_event
from gateway.upstream.base import Pending, UpstreamError, UpstreamResponse, UpstreamTimeout, UpstreamTooLarge

if TYPE_CHECKING:
    from billing.holds.model import Hold
    from gateway.config.defaults import RequestSettings
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Created, Reported
    from gateway.proxy.background_jobs import BackgroundPoller
    from gateway.proxy.candidates import Candidate
    from gateway.proxy.records import Records
    from gateway.proxy.settlement.settlements import Settlements
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


logger = logging.getLogger(__name__)
T = TypeVar("T")

OK: Final = 200
FIRST_ERROR: Final = 400
# Streams that are cut by a stop come all in the same moment, and each takes long to count: those that were counted are
# settled before the next ones begin, so that not all of them are still open when the time for stopping is over.
COUNTED_AT_ONCE: Final = 2


def drain_s(settings: RequestSettings, route: Candidate) -> float:
    """Return how long the upstream of one candidate is read on, in seconds."""
    if route.disconnect_drain_s is not None:
        return route.disconnect_drain_s
    # the answers of some models do not show all that they bill
    return settings.reasoning_drain_s if route.hides_reasoning else settings.disconnect_drain_s


def read_whole(
    context: RequestContext, body: bytes, head: ResponseHead, limit_bytes: int
) -> tuple[Reported | None, Output]:
    """Return the usage of a whole answer, or what it wrote where it reports none to be believed. Raises
    `GarbageAnswer`, `zlib.error`, and `UpstreamTooLarge` where it is larger than `limit_bytes` when it is decoded."""
    plain = decoded(body, head.content_encoding, limit_bytes)
    dialect = context.match.dialect
    reported = dialect.usage_from_json(context.parsed.operation, plain)
    if not context.match.endpoint.free:
        reported = believed(context.route, reported)
    if reported is not None:
        return reported, NO_OUTPUT
    output = dialect.output(plain)
    return None, output if context.parsed.has_output else Output(failed=output.failed)


class DetachedAnswer:
    """Ends requests whose clients are gone. `drain_now` when the process stops."""

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

    def unanswered(self, exchange: Exchange, context: RequestContext, hold: Hold, pending: Pending) -> None:
        """Take over a request to which no answer has begun."""
        hold.owe(context.unresolved)
        self._go_on(context, hold, self._unanswered(context, hold, pending, *self._terms(exchange, context)))

    def whole(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """Take over a JSON answer that has not come to its end."""
        self._go_on(context, hold, self._whole(context, hold, answer, head, *self._terms(exchange, context)))

    def stream(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, watch: StreamWatch
    ) -> None:
        """Take over a stream."""
        self._go_on(context, hold, self._stream(context, hold, answer, watch, *self._terms(exchange, context)))

    def running(self, context: RequestContext, hold: Hold, running: Created, tap: Tap | None = None) -> None:
        """Take over a background response whose client has left, or whose stream has ended; `tap` has read it."""
        self._go_on(context, hold, self._followed(context, hold, running, tap))

    async def _followed(self, context: RequestContext, hold: Hold, running: Created, tap: Tap | None = None) -> None:
        context.body = b""
        await (await self._poller.begin(context, hold, running, tap))

    def _go_on(self, context: RequestContext, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        self._settlements.hand_over(hold, self._records.going_on(context, work))

    def _terms(self, exchange: Exchange, context: RequestContext) -> tuple[float, Reason]:
        """Return until which time of the event loop it is read on, and why its client does not get it."""
        context.cut = exchange.ended_for
        if exchange.cut_for in ("max_request_s", "hold_closed"):
            return 0.0, context.cut
        return self._loop.time() + drain_s(self._settings, context.route), context.cut

    async def _until(self, context: RequestContext, deadline_s: float, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of this work, None if it takes longer. Raises what it raises, except that silence of a
        provider whose model reasons unseen counts as taking longer."""
        drain = asyncio.timeout_at(0.0 if self._stopping else deadline_s)
        try:
            async with drain:
                self._drains.add(drain)
                return await work
        except (TimeoutError, UpstreamTimeout) as error:
            if isinstance(error, UpstreamTimeout) and not context.route.hides_reasoning:
                raise
            # The operator's own restart must not cost a customer the hold.
            restarted = self._stopping or context.cut == "shutting_down"
            context.unread = context.route.hides_reasoning and not restarted
            return None
        finally:
            self._drains.discard(drain)

    async def _unanswered(
        self, context: RequestContext, hold: Hold, pending: Pending, deadline_s: float, reason: Reason
    ) -> None:
        try:
            answer = await self._until(context, deadline_s, pending.head())
        except UpstreamError as error:
            return await self._failed(hold, error)
        except BaseException:
            pending.release()
            raise
        if answer is None:
            pending.release()
            await self._settlements.estimated(context, hold, NO_OUTPUT, reason)
            return None
        try:
            head, watch = _begun(context, answer)
        except Exception:
            answer.release()
            raise
        if answer.status != OK:
            answer.release()
            if answer.status >= FIRST_ERROR:
                return await self._settlements.refused(context, hold)
            return await self._failed(hold, UpstreamError(f"status {answer.status}"))
        if watch is not None:
            return await self._stream(context, hold, answer, watch, deadline_s, reason)
        return await self._whole(context, hold, answer, head, deadline_s, reason)

    async def _whole(
        self,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        head: ResponseHead,
        deadline_s: float,
        reason: Reason,
    ) -> None:
        limit_bytes = self._settings.upstream_answer_bytes
        running: Created | None = None
        try:
            body = await self._until(context, deadline_s, answer.read(limit_bytes))
            if body is None:
                reported, output = None, self._part(context, answer, head)
            else:
                reported, output = read_whole(context, body, head, limit_bytes)
                running = running_of(context.parsed, body)
                reason = "no_usage"
        except UpstreamTooLarge:
            reported, output, reason = None, Output(known=False), "answer_too_large"
        except (UpstreamError, GarbageAnswer, zlib.error) as error:
            return await self._failed(hold, error)
        finally:
            answer.release()
        if running is not None:
            return await self._followed(context, hold, running)
        if reported is not None:
            await self._settlements.complete(context, hold, self._settlements.reported(context, hold, reported))
        else:
            await self._settlements.whole(context, hold, output, reason)
        return None

    def _part(self, context: RequestContext, answer: UpstreamResponse, head: ResponseHead) -> Output:
        """Return the output in a part of a JSON answer."""
        if not context.parsed.has_output:
            return NO_OUTPUT
        part = answer.taken()
        if head.content_encoding in ENCODINGS:
            return Output(known=not part)
        return context.match.dialect.output_of_part(part)

    async def _stream(
        self,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        watch: StreamWatch,
        deadline_s: float,
        reason: Reason,
    ) -> None:
        try:
            stored = context.parsed.stored
            if stored is not None and stored.background and stored.creation is not None:
                first = FirstEvent(stored.creation, only=False)
                await self._until(context, deadline_s, _read_first(answer, watch, first))
                if (running := running_of_event(context.parsed, first.created)) is not None:
                    return await self._followed(context, hold, running, watch.tap)
            ended = await self._until(context, deadline_s, _read_out(answer, watch))
            watch.tap.end()
            failed = ended is not None and not watch.tap.done
        except (UpstreamError, zlib.error) as error:
            logger.debug("request %s: drained until %s", hold.id, type(error).__name__)
            watch.tap.end()
            failed = True
        finally:
            answer.release()
        async with self._rounds if self._stopping else nullcontext():
            await self._settlements.stream(context, hold, watch.tap, reason, failed=failed)
        return None

    async def _failed(self, hold: Hold, error: Exception) -> None:
        """Give the hold back: the provider refused the request, or failed before any output."""
        logger.info("request %s: %s: %s", hold.id, type(error).__name__, error)
        await self._settlements.void(hold)


def _begun(context: RequestContext, answer: UpstreamResponse) -> tuple[ResponseHead, StreamWatch | None]:
    """Return the head of an answer that has begun, and what watches it where it is a stream."""
    head = incoming(answer.headers)
    context.status = answer.status
    context.upstream_request_id = shown_id(head.request_id)
    dialect = context.match.dialect
    if answer.status != OK or not dialect.is_stream(context.parsed, head.content_type):
        return head, None
    tap = dialect.tap(head.content_type, usage_added=False, include_cost=False)
    return head, StreamWatch(tap, head.content_encoding)


async def _read_first(answer: UpstreamResponse, watch: StreamWatch, first: FirstEvent) -> bool:
    """Return true, once a stream has told of the object that it creates, or has ended."""
    async for chunk in answer.chunks():
        watch.feed(chunk)
        if first.feed(chunk):
            break
    return True


async def _read_out(answer: UpstreamResponse, watch: StreamWatch) -> bool:
    """Return true, once a stream has been read to its end."""
    async for chunk in answer.chunks():
        watch.feed(chunk)
    return True
