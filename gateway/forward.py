"""From hold to settlement: send, pass the answer on, read its usage, settle before its last bytes.

This file owns that an answer ends only after its debit is outside the process, and how a hold ends, whatever happens on
the way: by the usage that the provider reported; by `missing_usage` where it reported none; voided where it refused the
request, or failed before any output. From a request that has left this process on, a fault of ours charges the hold
(`Hold.unresolved`). A request that is cancelled leaves what is under way to `gateway.remainder`.

`gateway.relay` serves streams.
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
from gateway import refusals
from gateway.answers import REQUEST_ID, balance_line, paid_lines
from gateway.call import Call
from gateway.config.models import ProviderConfig
from gateway.exchange import Exchange, shown_id
from gateway.headers import Answered, Fixed, incoming, outgoing
from gateway.metrics import Metrics
from gateway.outcomes import Outcomes, balance_nano, uncharged
from gateway.outgoing import outgoing_body
from gateway.providers.dialect import Dialect, GarbageAnswer
from gateway.providers.openai import max_field
from gateway.providers.output import NO_OUTPUT, Output
from gateway.query import upstream_query
from gateway.records import Records
from gateway.relay import Relay
from gateway.remainder import EVENT_STREAM, Remainder, read_whole
from gateway.running import Running
from gateway.settling import OPERATORS_FAULT, Settler
from gateway.upstream import Transport, UpstreamAnswer, UpstreamError, UpstreamRequest, UpstreamTooLarge

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
        settler: Settler,
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

    async def forward(self, call: Call, exchange: Exchange, hold: Hold) -> None:
        """The provider's answer, metered; or a refusal of ours when it gave none, with the hold given back. Ends when
        the client has taken it, or is cut off."""
        call.write_timeout_s = self._rules.client_write_timeout_s
        self._running.begin(call)
        hold.on_closed = call.hold_closed
        large = len(exchange.body) > MAX_PREPARED_BYTES
        try:
            sent_s = self._clock()
            request = await self._made_apart(call, exchange, hold) if large else self._request(call, exchange, hold)
            try:
                answer = await self._transports[exchange.route.provider.name].send(request)
            except UpstreamError as error:
                await self._outcomes.failed(call, exchange, hold, error)
            except BaseException as error:
                self._left_pending(call, exchange, hold, request, error)
                raise
            else:
                serving = self._answered(call, exchange, hold, answer, sent_s)
                del request, answer  # whose bodies may be large
                await serving
            if call.waits:
                await call.flushed()
        except Exception:
            if hold.unresolved is None:  # nothing was sent, and whoever opened the hold gives it back
                raise
            logger.exception("request %s failed after it had been sent", hold.id)
            self._outcomes.faulty(call, exchange)
        finally:
            self._running.end(call)
            if self._records.log is not None:
                self._records.left(exchange)

    def _left_pending(
        self, call: Call, exchange: Exchange, hold: Hold, request: UpstreamRequest, error: BaseException
    ) -> None:
        """Sending was cancelled, or has failed for a fault of ours: the answer may still come."""
        if request.pending is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._remainder.unanswered(call, exchange, hold, request.pending)
        elif isinstance(error, Exception):
            hold.unresolved = exchange.unresolved
            request.pending.release()

    def _answered(
        self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, sent_s: float
    ) -> Coroutine[Any, Any, None]:
        """What is done with an answer whose head is here."""
        self._metrics.upstream_latency(exchange.route.provider.name, self._clock() - sent_s)
        hold.unresolved = exchange.unresolved
        head = incoming(answer.headers)
        exchange.status = answer.status
        exchange.upstream_request_id = shown_id(head.request_id)
        if answer.status != 200:
            return self._refused(call, exchange, hold, answer, head)
        if head.content_type.startswith(EVENT_STREAM):
            return self._relay.stream(call, exchange, hold, answer, head)
        return self._whole(call, exchange, hold, answer, head)

    async def _refused(
        self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered
    ) -> None:
        hold.unresolved = None
        try:
            if answer.status in OPERATORS_FAULT:
                return await self._refused_us(call, exchange, hold)
            if answer.status >= 400:
                return await self._pass_error(call, exchange, hold, answer, head)
            return await self._outcomes.failed(call, exchange, hold, UpstreamError(f"status {answer.status}"))
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
        made: UpstreamRequest = await self._apart(exchange.principal.account_id, self._request, call, exchange, hold)
        return made

    def _request(self, call: Call, exchange: Exchange, hold: Hold) -> UpstreamRequest:
        prepared, exchange.prepared = exchange.prepared, None  # nothing keeps a second body once it is sent
        if exchange.parsed.max_output_tokens is None and hold.granted_output < hold.need.most_output:
            return self._outgoing(call, exchange, hold.granted_output)
        return prepared or self._outgoing(call, exchange, None)

    def _outgoing(self, call: Call, exchange: Exchange, granted: int | None) -> UpstreamRequest:
        """`granted` are the output tokens that the client did not bound, and the hold did."""
        route, endpoint, parsed, body = exchange.route, exchange.endpoint, exchange.parsed, exchange.body
        target = self._targets.get((route.provider.name, endpoint)) or self._target(route.provider, endpoint)
        url, fixed, field = target
        if granted is not None or not exchange.terms.passes_as_it_is(parsed, route, field):
            body = outgoing_body(self._dialect, parsed, route, body, granted, strict=exchange.strict)
        if "?" in call.path and route.provider.kind != "local":
            url = _with_query(url, route.provider.base_query, call.path)
        return UpstreamRequest(
            url,
            outgoing(call.raw_headers, fixed, exchange.principal.account_id),
            body,
            account=exchange.principal.account_id,
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
        self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered
    ) -> None:
        """The provider's own refusal: unchanged, and free."""
        try:
            body = await answer.read(self._rules.max_answer_bytes)
        except UpstreamError as error:
            return await self._outcomes.failed(call, exchange, hold, error)
        await self._settler.refused(exchange, hold)
        self._outcomes.count(exchange, answer.status)
        lines = f"{REQUEST_ID}: {exchange.request_id}\r\n".encode() + balance_line(exchange.balance_before_nano(hold))
        return call.answer(answer.status, head.lines + lines, body)

    async def _refused_us(self, call: Call, exchange: Exchange, hold: Hold) -> None:
        """The provider refuses the operator's key: not the client's fault, and nothing for it to read."""
        await self._settler.refused(exchange, hold)
        return self._outcomes.refuse(call, exchange, uncharged(refusals.upstream_refuses_us(), exchange, hold))

    async def _whole(self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered) -> None:
        """A JSON answer: read, priced and settled, then sent."""
        limit_bytes = self._rules.max_answer_bytes
        output = NO_OUTPUT
        try:
            body = await answer.read(limit_bytes)
            exchange.first_byte_s = self._clock()
            plain = head.content_encoding is None
            reported = self._dialect.usage_from_json(exchange.endpoint, body) if plain else None
            if reported is None:
                reported, output = read_whole(self._dialect, exchange, body, head, limit_bytes)
        except asyncio.CancelledError:  # what goes on without the client releases the answer
            self._remainder.whole(call, exchange, hold, answer, head)
            raise
        except UpstreamTooLarge:
            answer.release()
            return await self._too_large(call, exchange, hold)
        except (UpstreamError, GarbageAnswer, zlib.error) as error:
            answer.release()
            return await self._outcomes.failed(call, exchange, hold, error)
        except Exception:
            answer.release()
            raise
        answer.release()
        try:
            if reported is not None:
                settling = self._settler.reported(exchange, hold, reported, partial(self._dialect.output, body))
                lines = head.lines + paid_lines(hold, settling.charged_nano)  # while Redis is asked
                settled = await settling.end()
            else:
                settling = None
                settled, charged_nano = await self._settler.whole(exchange, hold, output, "no_usage")
                lines = head.lines + paid_lines(hold, charged_nano)
        except SettlementLost as error:
            return self._outcomes.unsettled(call, exchange, error)
        call.answer(200, lines + balance_line(balance_nano(exchange, hold, settled)), body)
        if settling is not None:
            settling.count(settled)
        return self._outcomes.count(exchange, 200)

    async def _too_large(self, call: Call, exchange: Exchange, hold: Hold) -> None:
        """The provider has done its work, and there is more of it than is read whole: the client pays for it."""
        logger.warning("request %s: the answer is above upstream_answer_bytes", hold.id)
        try:
            await self._settler.whole(exchange, hold, Output(known=False), "answer_too_large")
        except SettlementLost as error:
            return self._outcomes.unsettled(call, exchange, error)
        return self._outcomes.refuse(call, exchange, refusals.answer_too_large(self._rules.max_answer_bytes))


def _with_query(url: str, base_query: str, path: str) -> str:
    """The URL of a provider's endpoint with what passes of the query string of a client's path."""
    query = upstream_query(base_query, path.partition("?")[2])
    return url.partition("?")[0] + (f"?{query}" if query else "")
