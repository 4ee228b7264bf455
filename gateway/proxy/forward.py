"""From hold to settlement: send, pass the answer on, read its usage, settle before its last bytes.

This file owns that an answer ends only after its debit is outside the process, and how a hold ends, whatever happens on
the way: by the usage that the provider reported; by `missing_usage` where it reported none; voided where it refused the
request, or failed before any output. From a request that has left this process on, a fault of ours charges the hold
(`Hold.unresolved`). A request that is cancelled leaves what is under way to `gateway.proxy.remainder`.

`gateway.proxy.relay` serves streams.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from billing.holds.hold import Hold, SettlementLost
from gateway.config.models import ProviderConfig
from gateway.dialects.base import Dialect, GarbageAnswer
from gateway.dialects.openai.dialect import max_field
from gateway.dialects.output import NO_OUTPUT, Output
from gateway.metrics.registry import Metrics
from gateway.proxy.context import RequestContext, shown_id
from gateway.proxy.outcomes import Outcomes, balance_nano, uncharged
from gateway.proxy.outgoing import outgoing_body
from gateway.proxy.query import upstream_query
from gateway.proxy.records import Records
from gateway.proxy.relay import Relay
from gateway.proxy.remainder import EVENT_STREAM, Remainder, read_whole
from gateway.proxy.running import Running
from gateway.proxy.settlement import OPERATORS_FAULT, Settlements
from gateway.server import refusals
from gateway.server.exchange import Exchange
from gateway.server.metering_headers import REQUEST_ID, balance_line, paid_lines
from gateway.upstream.base import Transport, UpstreamError, UpstreamRequest, UpstreamResponse, UpstreamTooLarge
from gateway.upstream.headers import Fixed, ResponseHead, incoming, outgoing

logger = logging.getLogger(__name__)

MAX_PREPARED_BYTES: Final = 65_536


Apart = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ForwardRules:
    """What forwarding follows of the configuration."""

    max_answer_bytes: int
    max_request_s: float
    """From admission to the answer's last byte; then it is cut."""
    client_write_timeout_s: float
    """How long a client may take nothing of what waits for it."""


class Forwarder:
    """Serves admitted requests. `transports` are by provider name."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        dialect: Dialect,
        settler: Settlements,
        remainder: Remainder,
        rules: ForwardRules,
        metrics: Metrics,
        records: Records,
        clock: Callable[[], float] = time.monotonic,
        apart: Apart | None = None,
    ) -> None:
        """`apart` runs what takes time in proportion to a large body of an account off the event loop."""
        self._apart = apart
        self._transports = transports
        self._dialect = dialect
        self._settler = settler
        self._remainder = remainder
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._running = Running(rules.max_request_s)
        self._records = records
        self._outcomes = Outcomes(settler, metrics, records)
        self._relay = Relay(dialect, settler, remainder, self._outcomes, metrics, clock)
        self._targets: dict[tuple[str, str], tuple[str, Fixed, str]] = {}
        """By provider and endpoint, of which the configuration and the dialect have a few."""

    async def forward(self, exchange: Exchange, context: RequestContext, hold: Hold) -> None:
        """The provider's answer, metered; or a refusal of ours when it gave none, with the hold given back. Ends when
        the client has taken it, or is cut off."""
        exchange.write_timeout_s = self._rules.client_write_timeout_s
        self._running.begin(exchange)
        hold.on_closed = exchange.hold_closed
        large = len(context.body) > MAX_PREPARED_BYTES
        try:
            sent_s = self._clock()
            request = (
                await self._made_apart(exchange, context, hold) if large else self._request(exchange, context, hold)
            )
            try:
                answer = await self._transports[context.route.provider.name].send(request)
            except UpstreamError as error:
                await self._outcomes.failed(exchange, context, hold, error)
            except BaseException as error:
                self._left_pending(exchange, context, hold, request, error)
                raise
            else:
                serving = self._answered(exchange, context, hold, answer, sent_s)
                del request, answer  # whose bodies may be large
                await serving
            if exchange.waits:
                await exchange.flushed()
        except Exception:
            if hold.unresolved is None:  # nothing was sent, and whoever opened the hold gives it back
                raise
            logger.exception("request %s failed after it had been sent", hold.id)
            self._outcomes.faulty(exchange, context)
        finally:
            self._running.end(exchange)
            if self._records.log is not None:
                self._records.left(context)

    def _left_pending(
        self, exchange: Exchange, context: RequestContext, hold: Hold, request: UpstreamRequest, error: BaseException
    ) -> None:
        """Sending was cancelled, or has failed for a fault of ours: the answer may still come."""
        if request.pending is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._remainder.unanswered(exchange, context, hold, request.pending)
        elif isinstance(error, Exception):
            hold.unresolved = context.unresolved
            request.pending.release()

    def _answered(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, sent_s: float
    ) -> Coroutine[Any, Any, None]:
        """What is done with an answer whose head is here."""
        self._metrics.upstream_latency(context.route.provider.name, self._clock() - sent_s)
        hold.unresolved = context.unresolved
        head = incoming(answer.headers)
        context.status = answer.status
        context.upstream_request_id = shown_id(head.request_id)
        if answer.status != 200:
            return self._refused(exchange, context, hold, answer, head)
        if head.content_type.startswith(EVENT_STREAM):
            return self._relay.stream(exchange, context, hold, answer, head)
        return self._whole(exchange, context, hold, answer, head)

    async def _refused(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        hold.unresolved = None
        try:
            if answer.status in OPERATORS_FAULT:
                return await self._refused_us(exchange, context, hold)
            if answer.status >= 400:
                return await self._pass_error(exchange, context, hold, answer, head)
            return await self._outcomes.failed(exchange, context, hold, UpstreamError(f"status {answer.status}"))
        finally:
            answer.release()

    def prepare(self, exchange: Exchange, context: RequestContext) -> None:
        """Make what the provider is sent where the hold leaves the request as it is, so that it is there when Redis has
        answered. Not of a large body: a request that is refused should not cost that."""
        if context.prepared is None and len(context.body) <= MAX_PREPARED_BYTES:
            context.prepared = self._outgoing(exchange, context, None)

    async def _made_apart(self, exchange: Exchange, context: RequestContext, hold: Hold) -> UpstreamRequest:
        """As `_request`, off the event loop."""
        if self._apart is None:
            return self._request(exchange, context, hold)
        made: UpstreamRequest = await self._apart(context.principal.account_id, self._request, exchange, context, hold)
        return made

    def _request(self, exchange: Exchange, context: RequestContext, hold: Hold) -> UpstreamRequest:
        prepared, context.prepared = context.prepared, None  # nothing keeps a second body once it is sent
        if context.parsed.max_output_tokens is None and hold.granted_output < hold.need.most_output:
            return self._outgoing(exchange, context, hold.granted_output)
        return prepared or self._outgoing(exchange, context, None)

    def _outgoing(self, exchange: Exchange, context: RequestContext, granted: int | None) -> UpstreamRequest:
        """`granted` are the output tokens that the client did not bound, and the hold did."""
        route, endpoint, parsed, body = context.route, context.endpoint, context.parsed, context.body
        target = self._targets.get((route.provider.name, endpoint)) or self._target(route.provider, endpoint)
        url, fixed, field = target
        if granted is not None or not context.terms.passes_as_it_is(parsed, route, field):
            body = outgoing_body(self._dialect, parsed, route, body, granted, strict=context.strict)
        if "?" in exchange.path and route.provider.kind != "local":
            url = _with_query(url, route.provider.base_query, exchange.path)
        return UpstreamRequest(
            url,
            outgoing(exchange.raw_headers, fixed, context.principal.account_id),
            body,
            account=context.principal.account_id,
        )

    def _target(self, provider: ProviderConfig, endpoint: str) -> tuple[str, Fixed, str]:
        """Where a provider's requests go, what all of them carry, and where it takes a maximum; made once."""
        key = provider.api_key.reveal() if provider.api_key is not None else None
        # A base URL is, as OpenAI's clients take it, all that stands before the endpoint.
        base = provider.base_url or f"local://{provider.name}/v1"
        query = f"?{provider.base_query}" if provider.base_query else ""
        url = base + endpoint.removeprefix("/v1") + query
        fixed = Fixed.of(key, provider.headers, provider.pass_headers)
        target = url, fixed, max_field(provider.max_output_field, endpoint)
        self._targets[provider.name, endpoint] = target
        return target

    async def _pass_error(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """The provider's own refusal: unchanged, and free."""
        try:
            body = await answer.read(self._rules.max_answer_bytes)
        except UpstreamError as error:
            return await self._outcomes.failed(exchange, context, hold, error)
        await self._settler.refused(context, hold)
        self._outcomes.count(context, answer.status)
        lines = f"{REQUEST_ID}: {context.request_id}\r\n".encode() + balance_line(context.balance_before_nano(hold))
        return exchange.answer(answer.status, head.lines + lines, body)

    async def _refused_us(self, exchange: Exchange, context: RequestContext, hold: Hold) -> None:
        """The provider refuses the operator's key: not the client's fault, and nothing for it to read."""
        await self._settler.refused(context, hold)
        return self._outcomes.refuse(exchange, context, uncharged(refusals.upstream_refuses_us(), context, hold))

    async def _whole(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """A JSON answer: read, priced and settled, then sent."""
        limit_bytes = self._rules.max_answer_bytes
        output = NO_OUTPUT
        try:
            body = await answer.read(limit_bytes)
            context.first_byte_s = self._clock()
            plain = head.content_encoding is None
            reported = self._dialect.usage_from_json(context.endpoint, body) if plain else None
            if reported is None:
                reported, output = read_whole(self._dialect, context, body, head, limit_bytes)
        except asyncio.CancelledError:  # what goes on without the client releases the answer
            self._remainder.whole(exchange, context, hold, answer, head)
            raise
        except UpstreamTooLarge:
            answer.release()
            return await self._too_large(exchange, context, hold)
        except (UpstreamError, GarbageAnswer, zlib.error) as error:
            answer.release()
            return await self._outcomes.failed(exchange, context, hold, error)
        except Exception:
            answer.release()
            raise
        answer.release()
        try:
            if reported is not None:
                settling = self._settler.reported(context, hold, reported, partial(self._dialect.output, body))
                lines = head.lines + paid_lines(hold, settling.charged_nano)  # while Redis is asked
                settled = await settling.end()
            else:
                settling = None
                settled, charged_nano = await self._settler.whole(context, hold, output, "no_usage")
                lines = head.lines + paid_lines(hold, charged_nano)
        except SettlementLost as error:
            return self._outcomes.unsettled(exchange, context, error)
        exchange.answer(200, lines + balance_line(balance_nano(context, hold, settled)), body)
        if settling is not None:
            settling.count(settled)
        return self._outcomes.count(context, 200)

    async def _too_large(self, exchange: Exchange, context: RequestContext, hold: Hold) -> None:
        """The provider has done its work, and there is more of it than is read whole: the client pays for it."""
        logger.warning("request %s: the answer is above upstream_answer_bytes", hold.id)
        try:
            await self._settler.whole(context, hold, Output(known=False), "answer_too_large")
        except SettlementLost as error:
            return self._outcomes.unsettled(exchange, context, error)
        return self._outcomes.refuse(exchange, context, refusals.answer_too_large(self._rules.max_answer_bytes))


def _with_query(url: str, base_query: str, path: str) -> str:
    """The URL of a provider's endpoint with what passes of the query string of a client's path."""
    query = upstream_query(base_query, path.partition("?")[2])
    return url.partition("?")[0] + (f"?{query}" if query else "")
