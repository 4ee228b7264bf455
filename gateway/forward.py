"""From hold to settlement: send, pass the answer on, read its usage, settle before its last bytes.

This file owns that an answer ends only after its debit is outside the process, and that whatever happens on the way
ends the hold in one of three ways: settled by the usage that the provider reported, settled by `missing_usage` when
output has passed without it, voided when none has (`gateway.settling`). A request that is cancelled hands its
settlement to a task.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from billing.holds.hold import Hold, Settled, SettlementLost
from billing.holds.service import Holds
from billing.money import format_usd
from gateway import refusals
from gateway.answers import REQUEST_ID, balance_line, paid_lines
from gateway.call import Call, ClientGone
from gateway.config.models import ProviderConfig
from gateway.exchange import Exchange, shown_id
from gateway.headers import Answered, Fixed, incoming, outgoing
from gateway.metrics import Metrics
from gateway.providers.dialect import Dialect, GarbageAnswer, Tap
from gateway.providers.openai import DEFAULT_MAX_FIELD
from gateway.refusals import Refusal
from gateway.settling import Settler
from gateway.upstream import Transport, UpstreamAnswer, UpstreamError, UpstreamRequest, UpstreamTimeout
from gateway.watch import StreamWatch, decoded

logger = logging.getLogger(__name__)

EVENT_STREAM: Final = b"text/event-stream"
MAX_PREPARED_BYTES: Final = 65_536
CLIENT_GONE: Final = 499
"""The status under which a request is counted whose client left; nobody receives it."""


Apart = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ForwardRules:
    """What forwarding follows of the configuration."""

    max_answer_bytes: int
    disconnect_drain_s: float


class Forwarder:
    """Serves admitted requests. `transports` are by provider name."""

    def __init__(
        self,
        holds: Holds,
        transports: Mapping[str, Transport],
        dialect: Dialect,
        settler: Settler,
        rules: ForwardRules,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        apart: Apart | None = None,
    ) -> None:
        """`apart` runs what takes time in proportion to a large body off the event loop."""
        self._apart = apart
        self._holds = holds
        self._transports = transports
        self._dialect = dialect
        self._settler = settler
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._targets: dict[tuple[str, str], tuple[str, Fixed]] = {}
        """By provider and endpoint, of which the configuration and the dialect have a few."""

    async def forward(self, call: Call, exchange: Exchange, hold: Hold) -> None:
        """The provider's answer, metered; or a refusal of ours when it gave none, with the hold given back."""
        sent_s = self._clock()
        provider = exchange.route.provider.name
        try:
            large = len(exchange.body) > MAX_PREPARED_BYTES
            answer = await self._transports[provider].send(  # nothing here keeps the request, whose body may be large
                await self._made_apart(call, exchange, hold) if large else self._request(call, exchange, hold)
            )
        except UpstreamError as error:
            return await self._failed(call, exchange, hold, error)
        self._metrics.upstream_latency(provider, self._clock() - sent_s)
        head = incoming(answer.headers)
        exchange.status = answer.status
        exchange.upstream_request_id = shown_id(head.request_id)
        if answer.status == 200:
            if head.content_type.startswith(EVENT_STREAM):
                return await self._stream(call, exchange, hold, answer, head)
            try:
                return await self._whole(call, exchange, hold, answer, head)
            except asyncio.CancelledError:  # its head is here, so the provider has done the work: it goes on
                if not hold.ending and not hold.handed_over:
                    self._holds.hand_over(hold, self._whole(call, exchange, hold, answer, head))
                raise
        try:
            if answer.status >= 400:
                return await self._pass_error(call, exchange, hold, answer, head)
            return await self._failed(call, exchange, hold, UpstreamError(f"status {answer.status}"))
        finally:
            answer.release()

    def prepare(self, call: Call, exchange: Exchange) -> None:
        """Make what the provider is sent where the hold leaves the request as it is, so that it is there when Redis has
        answered. Not of a large body: a request that is refused should not cost that."""
        if exchange.prepared is None and len(exchange.body) <= MAX_PREPARED_BYTES:
            exchange.prepared = self._outgoing(call, exchange, None)

    async def _made_apart(self, call: Call, exchange: Exchange, hold: Hold) -> UpstreamRequest:
        """As `_request`, off the event loop."""
        if self._apart is None:
            return self._request(call, exchange, hold)
        made: UpstreamRequest = await self._apart(self._request, call, exchange, hold)
        return made

    def _request(self, call: Call, exchange: Exchange, hold: Hold) -> UpstreamRequest:
        prepared, exchange.prepared = exchange.prepared, None  # nothing keeps a second body once it is sent
        if exchange.parsed.max_output_tokens is None and hold.granted_output < hold.need.most_output:
            return self._outgoing(call, exchange, hold.granted_output)
        return prepared or self._outgoing(call, exchange, None)

    def _outgoing(self, call: Call, exchange: Exchange, granted: int | None) -> UpstreamRequest:
        """`granted` are the output tokens that the client did not bound, and the hold did."""
        parsed, route = exchange.parsed, exchange.route
        body, endpoint = exchange.body, exchange.endpoint
        add_usage = parsed.stream and not parsed.include_usage
        if granted is not None or add_usage or route.model != parsed.model:
            body = self._dialect.rewrite(
                body,
                model=None if route.model == parsed.model else route.model,
                include_usage=add_usage,
                max_output_tokens=granted,
                max_field=DEFAULT_MAX_FIELD.get(endpoint, "max_tokens"),
            )
        url, fixed = self._targets.get((route.provider.name, endpoint)) or self._target(route.provider, endpoint)
        return UpstreamRequest(url, outgoing(call.raw_headers, fixed), body)

    def _target(self, provider: ProviderConfig, endpoint: str) -> tuple[str, Fixed]:
        """Where a provider's requests go, and what all of them carry; made once."""
        key = provider.api_key.reveal() if provider.api_key is not None else None
        # A base URL is, as OpenAI's clients take it, all that stands before the endpoint.
        base = provider.base_url or f"local://{provider.name}/v1"
        target = base + endpoint.removeprefix("/v1"), Fixed.of(key, provider.headers)
        self._targets[provider.name, endpoint] = target
        return target

    async def _failed(self, call: Call, exchange: Exchange, hold: Hold, error: UpstreamError) -> None:
        """No usable answer, and no output has passed: give the hold back."""
        logger.info("request %s: %s: %s", hold.id, type(error).__name__, error)
        await self._settler.void(hold)
        self._refuse(
            call,
            exchange,
            refusals.upstream_timeout() if isinstance(error, UpstreamTimeout) else refusals.upstream_error(),
        )

    def _refuse(self, call: Call, exchange: Exchange, refusal: Refusal) -> None:
        self._metrics.refusal(refusal.code)
        self._count(exchange, refusal.status)
        refusal.answer(call, exchange.request_id)

    async def _pass_error(
        self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered
    ) -> None:
        """The provider's own refusal: unchanged, and free."""
        try:
            body = await answer.read(self._rules.max_answer_bytes)
        except UpstreamError as error:
            return await self._failed(call, exchange, hold, error)
        await self._settler.void(hold)
        self._count(exchange, answer.status)
        return call.answer(answer.status, head.lines + f"{REQUEST_ID}: {exchange.request_id}\r\n".encode(), body)

    async def _whole(self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered) -> None:
        """A JSON answer: read, priced and settled, then sent. Cancelled while it is read, it can be begun again."""
        try:
            body = await answer.read(self._rules.max_answer_bytes)
        except UpstreamError as error:
            answer.release()
            return await self._failed(call, exchange, hold, error)
        exchange.first_byte_s = self._clock()
        garbage: UpstreamError | None = None
        try:
            plain = decoded(body, head.content_encoding)
            reported = self._dialect.usage_from_json(exchange.endpoint, plain)
            settling = None if reported is None else self._settler.reported(exchange, hold, reported)
        except (GarbageAnswer, zlib.error) as error:
            garbage = UpstreamError(f"{type(error).__name__} in a 200")
        finally:
            answer.release()
        if garbage is not None:
            return await self._failed(call, exchange, hold, garbage)
        try:
            if settling is not None:
                lines = head.lines + paid_lines(hold, settling.charged_nano)  # while Redis is asked
                settled = await settling.end()
            else:
                text = self._dialect.output_text(plain)
                wrote = bool(text) or not exchange.parsed.has_output
                settled, charged_nano = await self._settler.unreported(exchange, hold, wrote, text)
                lines = head.lines + paid_lines(hold, charged_nano)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)
            return self._refuse(call, exchange, refusals.unavailable())
        call.answer(200, lines + balance_line(_balance_nano(exchange, hold, settled)), body)
        if settling is not None:
            settling.count(settled)
        return self._count(exchange, 200)

    async def _stream(self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered) -> None:
        """An SSE answer: passed on as it comes, its end held back until the debit is safe."""
        parsed = exchange.parsed
        tap = self._dialect.tap(
            usage_added=parsed.stream and not parsed.include_usage, include_cost=exchange.include_cost
        )
        watch = StreamWatch(tap, head.content_encoding)
        try:
            failure = await self._pass_on(call, exchange, hold, answer, head, watch)
        except asyncio.CancelledError:  # the client has left: what goes on without it releases the answer
            self._holds.hand_over(hold, self._settle_cut(exchange, hold, answer, watch, True))
            raise
        except Exception:  # a fault of ours: the connection must not stay in use
            answer.release()
            raise
        try:
            if failure is None and call.begun:
                return await self._end(call, exchange, hold, watch)
            if not call.begun and not isinstance(failure, ClientGone):
                cause = failure if isinstance(failure, UpstreamError) else UpstreamError("an empty stream")
                return await self._failed(call, exchange, hold, cause)
            return await self._cut(call, exchange, hold, answer, watch, failure)
        finally:
            answer.release()

    async def _pass_on(
        self,
        call: Call,
        exchange: Exchange,
        hold: Hold,
        answer: UpstreamAnswer,
        head: Answered,
        watch: "StreamWatch",
    ) -> Exception | None:
        """Pass a stream on until it ends or breaks; what broke it."""

        feed = watch.feed_of()

        def pass_piece(piece: bytes) -> bool:
            out = feed(piece)
            if not call.begun:
                self._begin(call, exchange, hold, head)
            return call.put(out) if out else True

        try:
            await answer.pump(pass_piece, call.flushed)
        except (UpstreamError, ClientGone, zlib.error) as error:
            return error
        return None

    def _begin(self, call: Call, exchange: Exchange, hold: Hold, head: Answered) -> None:
        exchange.first_byte_s = self._clock()
        waited_s = exchange.first_byte_s - exchange.started_s
        self._metrics.time_to_first_byte(exchange.route.provider.name, waited_s)
        balance_nano = _balance_nano(exchange, hold, None)
        call.begin(200, head.lines + paid_lines(hold, None) + balance_line(balance_nano))

    async def _end(self, call: Call, exchange: Exchange, hold: Hold, watch: "StreamWatch") -> None:
        """The provider has ended its stream: settle, then let the client see the end."""
        tap = watch.tap
        tap.end()
        if not tap.done:  # it ended without saying so: the client must not take this for a whole answer
            await self._cut(call, exchange, hold, None, watch, UpstreamError("no end of stream"))
            return
        try:
            _, charged_nano = await self._settle_stream(exchange, hold, tap)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)
            call.abort()
            return
        self._count(exchange, 200)
        with suppress(ClientGone):  # it left after its debit: nothing changes
            await call.end(watch.finish(format_usd(charged_nano) if exchange.include_cost else None))

    async def _cut(
        self,
        call: Call,
        exchange: Exchange,
        hold: Hold,
        answer: UpstreamAnswer | None,
        watch: "StreamWatch",
        failure: Exception | None,
    ) -> None:
        """The stream broke: settle what passed, and never let the client take it for a whole answer."""
        logger.info("request %s: %s: %s", hold.id, type(failure).__name__, failure)
        gone = isinstance(failure, ClientGone)
        await self._settler.whoever_waits(hold, self._settle_cut(exchange, hold, answer, watch, gone))
        free = watch.tap.reported is None and not watch.tap.began_output
        if free and call.unsent and not gone:  # a refusal costs nothing: what was charged is cut instead
            return self._refuse(call, exchange, refusals.upstream_error())
        self._count(exchange, CLIENT_GONE if gone else 502)
        return call.abort()

    async def _settle_cut(
        self, exchange: Exchange, hold: Hold, answer: UpstreamAnswer | None, watch: "StreamWatch", client_gone: bool
    ) -> None:
        """Settle a stream that did not reach its end: by its usage if that came, else by `missing_usage`."""
        if client_gone and answer is not None and self._rules.disconnect_drain_s > 0:
            await self._drain(answer, watch)
        if answer is not None:
            answer.release()
        watch.tap.end()
        try:
            await self._settle_stream(exchange, hold, watch.tap)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)

    async def _drain(self, answer: UpstreamAnswer, watch: "StreamWatch") -> None:
        """Read on after the client has left, for at most `disconnect_drain_s`: usage comes at a stream's end."""
        try:
            async with asyncio.timeout(self._rules.disconnect_drain_s):
                async for chunk in answer.chunks():
                    watch.feed(chunk)
        except (UpstreamError, TimeoutError, zlib.error) as error:
            logger.debug("drained until %s", type(error).__name__)

    async def _settle_stream(self, exchange: Exchange, hold: Hold, tap: Tap) -> tuple[Settled, int]:
        settler = self._settler
        if tap.reported is not None:
            return await settler.to_end(settler.reported(exchange, hold, tap.reported))
        return await settler.unreported(exchange, hold, tap.began_output, tap.output_text(), tap.extrapolate)

    def _count(self, exchange: Exchange, status: int) -> None:
        self._metrics.request(exchange.endpoint, exchange.route.provider.name, status, exchange.parsed.stream)


def _balance_nano(exchange: Exchange, hold: Hold, settled: Settled | None) -> int:
    """What the account has, holds taken off: as the settlement says it, else as admission left it."""
    if settled is not None and settled.available_nano is not None:
        return settled.available_nano
    return hold.available_nano - exchange.principal.credit_limit_nano
