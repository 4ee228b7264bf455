"""From hold to settlement: send, pass the answer on, read its usage, settle before its last bytes.

This file owns that an answer ends only after its debit is outside the process, and that whatever happens on the way
ends the hold in one of three ways: settled by the usage that the provider reported, settled by `missing_usage` when
output has passed without it, voided when none has. A request that is cancelled hands its settlement to a task.
"""

import asyncio
import logging
import socket
import struct
import time
import zlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp import ClientConnectionResetError, HttpVersion11, web
from multidict import CIMultiDict

from billing.holds.hold import Hold, Settled, SettlementLost
from billing.holds.service import Holds
from billing.money import format_usd
from billing.usage import Usage
from gateway import refusals
from gateway.answers import REQUEST_ID, add_metering
from gateway.estimate import Charge
from gateway.exchange import Exchange, shown_id
from gateway.headers import incoming, outgoing
from gateway.metrics import Metrics
from gateway.missing import MissingUsage
from gateway.providers.dialect import Dialect, GarbageAnswer, Reported, Tap
from gateway.providers.openai import DEFAULT_MAX_FIELD
from gateway.refusals import Refusal
from gateway.upstream import Transport, UpstreamAnswer, UpstreamError, UpstreamRequest, UpstreamTimeout

logger = logging.getLogger(__name__)

T = TypeVar("T")
EVENT_STREAM: Final = "text/event-stream"
ENCODINGS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
MAX_DECODED_BYTES: Final = 64 << 20
BEGUN: Final = web.RequestKey("begun", bool)
"""Set on a request once its answer's head may be out."""
RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
CLIENT_GONE: Final = 499
"""The status under which a request is counted whose client left; nobody receives it."""


@dataclass(frozen=True, slots=True)
class ForwardRules:
    """What forwarding follows of the configuration."""

    max_answer_bytes: int
    disconnect_drain_s: float


class ClientGone(Exception):
    """The client has closed its connection."""


class Forwarder:
    """Serves admitted requests. `transports` are by provider name."""

    def __init__(
        self,
        holds: Holds,
        transports: Mapping[str, Transport],
        dialect: Dialect,
        missing: MissingUsage,
        rules: ForwardRules,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holds = holds
        self._transports = transports
        self._dialect = dialect
        self._missing = missing
        self._rules = rules
        self._metrics = metrics
        self._clock = clock

    async def forward(self, request: web.Request, exchange: Exchange, hold: Hold) -> web.StreamResponse:
        """The provider's answer, metered; or a refusal of ours when it gave none, with the hold given back."""
        sent_s = self._clock()
        try:
            answer = await self._transports[exchange.route.provider.name].send(self._outgoing(request, exchange, hold))
        except UpstreamError as error:
            return await self._failed(exchange, hold, error)
        self._metrics.upstream_latency(exchange.route.provider.name, self._clock() - sent_s)
        exchange.status = answer.status
        exchange.upstream_request_id = shown_id(answer.headers.get(REQUEST_ID))
        if answer.status == 200:
            if answer.headers.get("Content-Type", "").lower().startswith(EVENT_STREAM):
                return await self._stream(request, exchange, hold, answer)
            return await self._whole(exchange, hold, answer)
        try:
            if answer.status >= 400:
                return await self._pass_error(exchange, hold, answer)
            return await self._failed(exchange, hold, UpstreamError(f"status {answer.status}"))
        finally:
            answer.release()

    def _outgoing(self, request: web.Request, exchange: Exchange, hold: Hold) -> UpstreamRequest:
        parsed, route = exchange.parsed, exchange.route
        granted = parsed.max_output_tokens is None and hold.granted_output < hold.need.most_output
        body = self._dialect.rewrite(
            exchange.body,
            model=None if route.model == parsed.model else route.model,
            include_usage=parsed.stream and not parsed.include_usage,
            max_output_tokens=hold.granted_output if granted else None,
            max_field=DEFAULT_MAX_FIELD.get(exchange.endpoint, "max_tokens"),
        )
        provider = route.provider
        key = provider.api_key.reveal() if provider.api_key is not None else None
        base = (
            provider.base_url or f"local://{provider.name}/v1"
        )  # as OpenAI's clients take it: all before the endpoint
        url = base + exchange.endpoint.removeprefix("/v1")
        return UpstreamRequest(url, outgoing(request.headers, key, provider.headers), body)

    async def _failed(self, exchange: Exchange, hold: Hold, error: UpstreamError) -> web.Response:
        """No usable answer, and no output has passed: give the hold back."""
        logger.info("request %s: %s: %s", hold.id, type(error).__name__, error)
        await self._void(hold)
        refusal = refusals.upstream_timeout() if isinstance(error, UpstreamTimeout) else refusals.upstream_error()
        return self._refused(exchange, refusal)

    def _refused(self, exchange: Exchange, refusal: Refusal) -> web.Response:
        self._metrics.refusal(refusal.code)
        self._count(exchange, refusal.status)
        return refusal.response({REQUEST_ID: exchange.request_id})

    async def _void(self, hold: Hold) -> None:
        await self._holds.void(hold)
        self._metrics.settled(False, "voided")

    async def _pass_error(self, exchange: Exchange, hold: Hold, answer: UpstreamAnswer) -> web.Response:
        """The provider's own refusal: unchanged, and free."""
        try:
            body = await answer.read(self._rules.max_answer_bytes)
        except UpstreamError as error:
            return await self._failed(exchange, hold, error)
        await self._void(hold)
        headers = incoming(answer.headers)
        headers[REQUEST_ID] = exchange.request_id
        self._count(exchange, answer.status)
        return web.Response(status=answer.status, body=body, headers=headers)

    async def _whole(self, exchange: Exchange, hold: Hold, answer: UpstreamAnswer) -> web.Response:
        """A JSON answer: read, priced and settled, then sent. Its head is here, so the provider has done the work: a
        client that leaves now does not stop it."""
        try:
            return await self._read_whole(exchange, hold, answer)
        except asyncio.CancelledError:
            if not hold.ending and not hold.handed_over:  # still being read: goes on where it was
                self._holds.hand_over(hold, self._read_unseen(exchange, hold, answer))
            raise

    async def _read_unseen(self, exchange: Exchange, hold: Hold, answer: UpstreamAnswer) -> None:
        await self._read_whole(exchange, hold, answer)

    async def _read_whole(self, exchange: Exchange, hold: Hold, answer: UpstreamAnswer) -> web.Response:
        try:
            body = await answer.read(self._rules.max_answer_bytes)
        except UpstreamError as error:
            answer.release()
            return await self._failed(exchange, hold, error)
        answer.release()
        return await self._whole_read(exchange, hold, answer, body)

    async def _whole_read(self, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, body: bytes) -> web.Response:
        exchange.first_byte_s = self._clock()
        try:
            plain = _decoded(body, answer.headers.get("Content-Encoding"))
            reported = self._dialect.usage_from_json(exchange.endpoint, plain)
        except (GarbageAnswer, zlib.error) as error:
            return await self._failed(exchange, hold, UpstreamError(f"{type(error).__name__} in a 200"))
        text = "" if reported is not None else self._dialect.output_text(plain)
        wrote = bool(text) or not exchange.parsed.has_output
        try:
            settled, charged_nano = await self._settle(exchange, hold, reported, wrote, text)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)
            return self._refused(exchange, refusals.unavailable())
        headers = incoming(answer.headers)
        self._add_metering(headers, exchange, hold, settled, charged_nano)
        self._count(exchange, 200)
        return web.Response(body=body, headers=headers)

    def _add_metering(
        self, headers: CIMultiDict[str], exchange: Exchange, hold: Hold, settled: Settled | None, charged: int | None
    ) -> None:
        available = hold.available_nano if settled is None or settled.available_nano is None else settled.available_nano
        credit = exchange.principal.credit_limit_nano
        if settled is not None and settled.available_nano is not None:
            available += credit  # the settlement tells the balance less holds, admission the credit limit too
        add_metering(headers, hold, available, credit, charged)

    async def _stream(
        self, request: web.Request, exchange: Exchange, hold: Hold, answer: UpstreamAnswer
    ) -> web.StreamResponse:
        """An SSE answer: passed on as it comes, its end held back until the debit is safe."""
        parsed = exchange.parsed
        tap = self._dialect.tap(
            usage_added=parsed.stream and not parsed.include_usage, include_cost=exchange.include_cost
        )
        watch = StreamWatch(tap, answer.headers.get("Content-Encoding"))
        try:
            response, failure = await self._pass_on(request, exchange, hold, answer, watch)
        except asyncio.CancelledError:  # the client has left: what goes on without it releases the answer
            self._holds.hand_over(hold, self._settle_cut(exchange, hold, answer, watch, True))
            raise
        try:
            if failure is None and response is not None:
                return await self._end(request, exchange, hold, watch, response)
            if response is None and not isinstance(failure, ClientGone):
                cause = failure if isinstance(failure, UpstreamError) else UpstreamError("an empty stream")
                return await self._failed(exchange, hold, cause)
            return await self._cut(request, exchange, hold, answer, watch, response, failure)
        finally:
            answer.release()

    async def _pass_on(
        self, request: web.Request, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, watch: "StreamWatch"
    ) -> tuple[web.StreamResponse | None, Exception | None]:
        """Pass a stream on until it ends or breaks: what was begun of our own answer, and what broke it."""
        response: web.StreamResponse | None = None
        try:
            async for chunk in answer.chunks():
                out = watch.feed(chunk)
                if response is None:
                    exchange.first_byte_s = self._clock()
                    response = await self._begin(request, exchange, hold, answer)
                if out:
                    await _write(response, out)
        except (UpstreamError, ClientGone, zlib.error) as error:
            return response, error
        return response, None

    async def _begin(
        self, request: web.Request, exchange: Exchange, hold: Hold, answer: UpstreamAnswer
    ) -> web.StreamResponse:
        headers = incoming(answer.headers)
        self._add_metering(headers, exchange, hold, None, None)
        response = web.StreamResponse(headers=headers)
        first_byte_s = exchange.first_byte_s or exchange.started_s
        self._metrics.time_to_first_byte(exchange.route.provider.name, first_byte_s - exchange.started_s)
        request[BEGUN] = True
        try:
            await response.prepare(request)
        except (ClientConnectionResetError, ConnectionResetError) as error:
            raise ClientGone from error
        return response

    async def _end(
        self, request: web.Request, exchange: Exchange, hold: Hold, watch: "StreamWatch", response: web.StreamResponse
    ) -> web.StreamResponse:
        """The provider has ended its stream: settle, then let the client see the end."""
        tap = watch.tap
        tap.end()
        if not tap.done:  # it ended without saying so: the client must not take this for a whole answer
            return await self._cut(request, exchange, hold, None, watch, response, UpstreamError("no end of stream"))
        try:
            _, charged_nano = await self._settle_stream(exchange, hold, tap)
        except SettlementLost as error:
            logger.error("request %s: %s", hold.id, error)
            abort(request)
            return response
        self._count(exchange, 200)
        try:
            await _write(response, watch.finish(format_usd(charged_nano) if exchange.include_cost else None))
            await response.write_eof()
        except (ClientGone, ConnectionResetError):
            pass  # it left after its debit: nothing changes
        return response

    async def _cut(
        self,
        request: web.Request,
        exchange: Exchange,
        hold: Hold,
        answer: UpstreamAnswer | None,
        watch: "StreamWatch",
        response: web.StreamResponse | None,
        failure: Exception | None,
    ) -> web.StreamResponse:
        """The stream broke: settle what passed, and never let the client take it for a whole answer."""
        logger.info("request %s: %s: %s", hold.id, type(failure).__name__, failure)
        gone = isinstance(failure, ClientGone)
        await self._to_its_end(hold, self._settle_cut(exchange, hold, answer, watch, gone))
        self._count(exchange, CLIENT_GONE if gone else 502)
        abort(request)
        return response or web.Response(status=CLIENT_GONE)

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
        text = tap.output_text() if tap.reported is None else ""
        return await self._settle(exchange, hold, tap.reported, tap.began_output, text, tap.extrapolate)

    async def _settle(
        self,
        exchange: Exchange,
        hold: Hold,
        reported: Reported | None,
        wrote: bool,
        text: str,
        extrapolate: Callable[[int], int] | None = None,
    ) -> tuple[Settled, int]:
        """Price and settle; the settlement and what was charged, in nano-USD. An answer without usage in which nothing
        was written is given back: it failed, whatever its status says. Raises `SettlementLost`."""
        if reported is not None:
            charge = exchange.charge(reported.usage, reported.service_tier)
            return await self._settle_at(exchange, hold, reported.usage, charge, False)
        if wrote:
            return await self._to_its_end(hold, self._settle_guess(exchange, hold, text, extrapolate))
        await self._void(hold)
        return Settled(hold.available_nano + hold.cost_nano - exchange.principal.credit_limit_nano), 0

    async def _settle_guess(
        self, exchange: Exchange, hold: Hold, text: str, extrapolate: Callable[[int], int] | None
    ) -> tuple[Settled, int]:
        guess = await self._missing.guess(exchange, hold, text, extrapolate)
        return await self._settle_at(exchange, hold, guess.usage, guess.charge, True)

    async def _settle_at(
        self, exchange: Exchange, hold: Hold, usage: Usage, charge: Charge, estimated: bool
    ) -> tuple[Settled, int]:
        now_s = self._clock()
        debit = exchange.settled(hold, usage, charge, estimated=estimated, now_s=now_s)
        try:
            settled = await self._holds.settle(hold, debit)
        except SettlementLost:
            self._metrics.settled(estimated, "lost")
            raise
        metrics = self._metrics
        metrics.settle_latency(self._clock() - now_s)
        metrics.settled(estimated, "settled" if settled.available_nano is not None else "ledger_way")
        if charge.charged_nano > hold.cost_nano:
            metrics.hold_exceeded()
        metrics.cost(debit.provider, charge.cost_nano, charge.charged_nano)
        metrics.tokens(
            debit.input_tokens, debit.cached_input_tokens, debit.output_tokens, debit.reasoning_tokens, debit.provider
        )
        return settled, charge.charged_nano

    async def _to_its_end(self, hold: Hold, work: Coroutine[Any, Any, T]) -> T:
        """What this work comes to; it goes on to its end when this request is cancelled meanwhile."""
        running = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._holds.hand_over(hold, _waited(running))
            raise

    def _count(self, exchange: Exchange, status: int) -> None:
        self._metrics.request(exchange.endpoint, exchange.route.provider.name, status, exchange.parsed.stream)


class StreamWatch:
    """A tap on a stream that may be compressed although identity was asked for: then the tap sees it decoded, the
    client gets it as it came, and its last piece waits for the settlement."""

    __slots__ = ("_decoder", "_last", "tap")

    def __init__(self, tap: Tap, encoding: str | None) -> None:
        self.tap = tap
        wbits = ENCODINGS.get(encoding.lower()) if encoding else None
        self._decoder = zlib.decompressobj(wbits) if wbits is not None else None
        self._last = b""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to pass on now. Raises `zlib.error`."""
        if self._decoder is None:
            return self.tap.feed(chunk)
        self.tap.feed(self._decoder.decompress(chunk, MAX_DECODED_BYTES))
        out, self._last = self._last, chunk
        return out

    def finish(self, cost_usd: str | None) -> bytes:
        """The bytes that were held back."""
        rest = self.tap.finish(cost_usd)
        return rest if self._decoder is None else self._last


def _decoded(body: bytes, encoding: str | None) -> bytes:
    wbits = ENCODINGS.get(encoding.lower()) if encoding else None
    if wbits is None:
        return body
    return zlib.decompressobj(wbits).decompress(body, MAX_DECODED_BYTES)


async def _waited(work: asyncio.Future[Any]) -> None:
    """What a cancelled request left running; its answer has no reader."""
    await asyncio.wait([work])
    if not work.cancelled() and work.exception() is not None:
        logger.error("a request without a client failed", exc_info=work.exception())


def abort(request: web.Request) -> None:
    """Break the client's connection off, so that what it has got can't pass for a whole answer.

    To HTTP/1.0 a body without a length ends where its connection ends: there only a reset tells the difference.
    """
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if request.version < HttpVersion11 and connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    transport.abort()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    try:
        await response.write(data)
    except (ClientConnectionResetError, ConnectionResetError) as error:
        raise ClientGone from error
