"""Streams: passed on as they come, their end held back until the debit is safe; one that broke never ends cleanly."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from billing.holds.model import Hold, SettlementLost
from billing.money import format_usd
from gateway.proxy.context import CLIENT_GONE, Reason, RequestContext
from gateway.proxy.decoding_tap import READABLE, StreamWatch
from gateway.proxy.outcomes import Outcomes, uncharged, upstream_error_of
from gateway.proxy.overrun import OverrunGuard, ToolOverrun
from gateway.proxy.settlement.usage_anomalies import says_nothing
from gateway.proxy.stored import StoredObjects, Withheld, tokens_to_go_on_from
from gateway.server import refusals
from gateway.server.exchange import ClientGone, Exchange
from gateway.server.ids import (
    balance_line,
    paid_lines,
)
from gateway.upstream.base import UpstreamError, UpstreamResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from gateway.config.defaults import Defaults
    from gateway.dialects.facts import Created
    from gateway.metrics.registry import Metrics
    from gateway.proxy.background_jobs import BackgroundPoller
    from gateway.proxy.detached_answer import DetachedAnswer
    from gateway.proxy.headers import ResponseHead
    from gateway.proxy.provider_request import InThread
    from gateway.proxy.records import Records
    from gateway.proxy.settlement.settlements import Settlements
    from gateway.upstream.base import Transport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardParts:
    """What forwards answers, whole ones and streams. `transports` are by provider name; `clock` is monotonic, in
    seconds; `in_thread` runs off the event loop what takes time in proportion to a large body of an account."""

    transports: Mapping[str, Transport]
    settlements: Settlements
    detached: DetachedAnswer
    defaults: Defaults
    metrics: Metrics
    records: Records
    stored: StoredObjects
    poller: BackgroundPoller
    clock: Callable[[], float] = time.monotonic
    in_thread: InThread | None = None


class Relay:
    """Serves answers that are streams of events."""

    def __init__(self, parts: ForwardParts, outcomes: Outcomes) -> None:
        self._tool_overrun_percent = round(parts.defaults.request.tool_overrun * 100)
        self._poller = parts.poller
        self._settlements = parts.settlements
        self._detached = parts.detached
        self._outcomes = outcomes
        self._metrics = parts.metrics
        self._stored = parts.stored
        self._clock = parts.clock

    async def background(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """Pass on the stream of a background response. If it breaks off, the response is polled by a background job,
        and charged then."""
        try:
            await self.stream(exchange, context, hold, answer, head)
        finally:
            self._poller.passed(hold)

    async def stream(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """Pass an answer on and settle it. One that nobody here can read is not passed on, and its provider stopped."""
        if head.content_encoding is not None and head.content_encoding not in READABLE:
            answer.release()
            unreadable = UpstreamError(f"a stream encoded as {head.content_encoding[:20]!r}")
            return await self._outcomes.failed(exchange, context, hold, unreadable)
        parsed = context.parsed
        tap = context.match.dialect.tap(
            head.content_type,
            usage_added=parsed.stream and not parsed.include_usage and context.route.provider.stream_usage,
            include_cost=context.include_cost,
        )
        watch = StreamWatch(tap, head.content_encoding)
        try:
            failure = await self._pass_on(exchange, context, hold, answer, head, watch)
        except asyncio.CancelledError:  # the client has left: what goes on without it releases the answer
            self._left(exchange, context, hold, answer, watch)
            raise
        except Exception:  # a fault of ours: the connection must not stay in use
            answer.release()
            raise
        if isinstance(failure, ClientGone):
            self._outcomes.count(context, CLIENT_GONE)
            exchange.abort()
            return self._left(exchange, context, hold, answer, watch)
        answer.release()
        if isinstance(failure, ToolOverrun):
            self._metrics.tool_overrun()
            settling = self._settlements.overrun(context, hold, tap)
            return await self._cut(exchange, context, hold, settling, failure, "tool_overrun")
        if not exchange.begun:
            return await self._outcomes.failed(exchange, context, hold, upstream_error_of(failure, "an empty stream"))
        tap.end()
        running = None if watch.withheld is None else watch.withheld.running
        if running is not None and not tap.done:
            return await self._works_on(exchange, context, hold, watch, running, clean=failure is None)
        if failure is None and (tap.done or tap.error_seen):
            return await self._end(exchange, context, hold, watch)
        # Where it ended without saying so, the client must not take this for a whole answer either.
        settling = self._settlements.stream(context, hold, tap, "upstream_cut", failed=True)
        free = says_nothing(tap)
        broken = upstream_error_of(failure, "no end of stream")
        return await self._cut(exchange, context, hold, settling, broken, "upstream_cut", free=free)

    def _left(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, watch: StreamWatch
    ) -> None:
        """Go on without the client, who has left: the provider is read on for a while, or polled where it works on
        without us."""
        running = None if watch.withheld is None else watch.withheld.running
        if running is None or watch.tap.done:
            return self._detached.stream(exchange, context, hold, answer, watch)
        answer.release()
        return self._detached.running(context, hold, running, watch.tap)

    async def _works_on(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        watch: StreamWatch,
        running: Created,
        *,
        clean: bool,
    ) -> None:
        """Poll a response in the background that goes on after its stream. The client sees the end where the provider
        has told it of an error, else a stream that broke."""
        self._detached.running(context, hold, running, watch.tap)
        self._outcomes.count(context, 200 if clean and watch.tap.error_seen else 502)
        if not clean or not watch.tap.error_seen:
            return exchange.abort()
        with suppress(ClientGone):
            await exchange.end(watch.finish(None))
        return None

    async def _pass_on(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        head: ResponseHead,
        watch: StreamWatch,
    ) -> Exception | None:
        """Pass a stream on until it ends or breaks; return what broke it."""

        stored, put, drained = context.parsed.stored, exchange.put, exchange.flushed
        if stored is not None and stored.creation is not None and head.content_encoding is None:
            keep = partial(self._poller.keep, context, hold)
            watch.withheld = withheld = Withheld(self._stored, exchange, context, stored.creation, keep)
            put, drained = withheld.put, withheld.flushed
        feed, guard = watch.feed_of(), self._guard(context, hold, watch)

        def pass_piece(piece: bytes) -> bool:
            out = feed(piece)
            if not exchange.begun:
                self._begin(exchange, context, hold, head)
            takes_more = put(out) if out else True
            if guard is not None:
                guard.check()
            return takes_more

        try:
            await answer.pump(pass_piece, drained)
            if watch.withheld is not None:
                await watch.withheld.release()
        except (UpstreamError, ClientGone, zlib.error) as error:
            return error
        return None

    def _guard(self, context: RequestContext, hold: Hold, watch: StreamWatch) -> OverrunGuard | None:
        """Return what bounds a stream whose calls of tools were granted here; none where the provider goes on without
        us, so that to cut its stream would stop nothing."""
        stored = context.parsed.stored
        granted = context.granted_calls(hold)
        if granted is None or (stored is not None and stored.background):
            return None
        return OverrunGuard(context, hold, watch.tap, granted, self._tool_overrun_percent)

    def _begin(self, exchange: Exchange, context: RequestContext, hold: Hold, head: ResponseHead) -> None:
        context.first_byte_s = self._clock()
        waited_s = context.first_byte_s - context.started_s
        self._metrics.time_to_first_byte(context.route.provider.name, waited_s)
        lines = head.lines + paid_lines(hold, None, context.match.endpoint.id_header)
        exchange.begin(200, lines + balance_line(context.balance_before_nano(hold)))

    async def _end(self, exchange: Exchange, context: RequestContext, hold: Hold, watch: StreamWatch) -> None:
        """Settle a stream that the provider has ended, with an answer's end or with an error that the client is told;
        then let the client see the end."""
        tap = watch.tap
        try:
            reason: Reason = "no_usage" if tap.done else "upstream_cut"
            _, charged_nano = await self._settlements.stream(context, hold, tap, reason, failed=not tap.done)
        except SettlementLost as error:
            return self._outcomes.unsettled(exchange, context, error)
        self._poller.paid(hold)
        self._outcomes.count(context, 200)
        if watch.withheld is not None and tap.done:
            tokens = tokens_to_go_on_from(context, hold, tap.reported)
            await self._stored.record(context, watch.withheld.created, tokens)
        with suppress(ClientGone):  # it left after its debit: nothing changes
            await exchange.end(watch.finish(format_usd(charged_nano) if context.include_cost else None))
        return None

    async def _cut(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        settling: Coroutine[Any, Any, object],
        failure: Exception,
        reason: Reason,
        *,
        free: bool = False,
    ) -> None:
        """Settle what passed of a stream that broke or was stopped, and never let the client take it for a whole
        answer. `free`: nothing passed, so that a refusal may still be told."""
        logger.info("request %s: %s: %s", hold.id, type(failure).__name__, failure)
        context.cut = reason
        try:
            await self._settlements.uncancelled(hold, settling)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)
        if free and exchange.unsent:  # a refusal costs nothing: what was charged is cut instead
            return self._outcomes.refuse(exchange, context, uncharged(refusals.upstream_error(), context, hold))
        self._outcomes.count(context, 502)
        return exchange.abort()
