"""Streams: passed on as they come, their end held back until the debit is safe; one that broke never ends cleanly."""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

from billing.holds.hold import Hold, SettlementLost
from billing.money import format_usd
from gateway.dialects.base import Dialect
from gateway.metrics.registry import Metrics
from gateway.proxy.context import CLIENT_GONE, Reason, RequestContext
from gateway.proxy.decoding_tap import READABLE, StreamWatch
from gateway.proxy.outcomes import Outcomes, uncharged, upstream_error_of
from gateway.proxy.remainder import Remainder
from gateway.proxy.settlement import Settlements
from gateway.server import refusals
from gateway.server.exchange import ClientGone, Exchange
from gateway.server.metering_headers import balance_line, paid_lines
from gateway.upstream.base import UpstreamError, UpstreamResponse
from gateway.upstream.headers import ResponseHead

logger = logging.getLogger(__name__)


class Relay:
    """Serves answers that are streams of events. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        dialect: Dialect,
        settler: Settlements,
        remainder: Remainder,
        outcomes: Outcomes,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialect = dialect
        self._settler = settler
        self._remainder = remainder
        self._outcomes = outcomes
        self._metrics = metrics
        self._clock = clock

    async def stream(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """Pass an answer on and settle it. One that nobody here can read is not passed on, and its provider stopped."""
        if head.content_encoding is not None and head.content_encoding not in READABLE:
            answer.release()
            unreadable = UpstreamError(f"a stream encoded as {head.content_encoding[:20]!r}")
            return await self._outcomes.failed(exchange, context, hold, unreadable)
        parsed = context.parsed
        tap = self._dialect.tap(
            usage_added=parsed.stream and not parsed.include_usage, include_cost=context.include_cost
        )
        watch = StreamWatch(tap, head.content_encoding)
        try:
            failure = await self._pass_on(exchange, context, hold, answer, head, watch)
        except asyncio.CancelledError:  # the client has left: what goes on without it releases the answer
            self._remainder.stream(exchange, context, hold, answer, watch)
            raise
        except Exception:  # a fault of ours: the connection must not stay in use
            answer.release()
            raise
        if isinstance(failure, ClientGone):
            self._outcomes.count(context, CLIENT_GONE)
            exchange.abort()
            return self._remainder.stream(exchange, context, hold, answer, watch)
        answer.release()
        if not exchange.begun:
            return await self._outcomes.failed(exchange, context, hold, upstream_error_of(failure, "an empty stream"))
        tap.end()
        if failure is None and (tap.done or tap.error_seen):
            return await self._end(exchange, context, hold, watch)
        # Where it ended without saying so, the client must not take this for a whole answer either.
        return await self._cut(exchange, context, hold, watch, upstream_error_of(failure, "no end of stream"))

    async def _pass_on(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        head: ResponseHead,
        watch: StreamWatch,
    ) -> Exception | None:
        """Pass a stream on until it ends or breaks; what broke it."""

        feed = watch.feed_of()

        def pass_piece(piece: bytes) -> bool:
            out = feed(piece)
            if not exchange.begun:
                self._begin(exchange, context, hold, head)
            return exchange.put(out) if out else True

        try:
            await answer.pump(pass_piece, exchange.flushed)
        except (UpstreamError, ClientGone, zlib.error) as error:
            return error
        return None

    def _begin(self, exchange: Exchange, context: RequestContext, hold: Hold, head: ResponseHead) -> None:
        context.first_byte_s = self._clock()
        waited_s = context.first_byte_s - context.started_s
        self._metrics.time_to_first_byte(context.route.provider.name, waited_s)
        exchange.begin(200, head.lines + paid_lines(hold, None) + balance_line(context.balance_before_nano(hold)))

    async def _end(self, exchange: Exchange, context: RequestContext, hold: Hold, watch: StreamWatch) -> None:
        """The provider has ended its stream, with an answer's end or with an error that the client is told: settle,
        then let the client see the end."""
        tap = watch.tap
        try:
            reason: Reason = "no_usage" if tap.done else "upstream_cut"
            _, charged_nano = await self._settler.stream(context, hold, tap, reason, failed=not tap.done)
        except SettlementLost as error:
            return self._outcomes.unsettled(exchange, context, error)
        self._outcomes.count(context, 200)
        with suppress(ClientGone):  # it left after its debit: nothing changes
            await exchange.end(watch.finish(format_usd(charged_nano) if context.include_cost else None))
        return None

    async def _cut(
        self, exchange: Exchange, context: RequestContext, hold: Hold, watch: StreamWatch, failure: Exception
    ) -> None:
        """The stream broke: settle what passed, and never let the client take it for a whole answer."""
        logger.info("request %s: %s: %s", hold.id, type(failure).__name__, failure)
        context.cut = "upstream_cut"
        settling = self._settler.stream(context, hold, watch.tap, "upstream_cut", failed=True)
        free = watch.tap.reported is None and not watch.tap.began_output
        try:
            await self._settler.whoever_waits(hold, settling)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)
        if free and exchange.unsent:  # a refusal costs nothing: what was charged is cut instead
            return self._outcomes.refuse(exchange, context, uncharged(refusals.upstream_error(), context, hold))
        self._outcomes.count(context, 502)
        return exchange.abort()
