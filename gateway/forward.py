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
from collections.abc import Awaitable, Callable, Mapping
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
from gateway.outcomes import Outcomes, balance_nano
from gateway.outgoing import outgoing_body
from gateway.providers.dialect import Dialect, GarbageAnswer
from gateway.providers.output import Output
from gateway.relay import Relay
from gateway.remainder import EVENT_STREAM, Remainder, read_whole
from gateway.running import Running
from gateway.settling import Settler
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
        self._outcomes = Outcomes(settler, metrics)
        self._relay = Relay(dialect, settler, remainder, self._outcomes, metrics, clock)
        self._targets: dict[tuple[str, str], tuple[str, Fixed]] = {}
        """By provider and endpoint, of which the configuration and the dialect have a few."""

    async def forward(self, call: Call, exchange: Exchange, hold: Hold) -> None:
        """The provider's answer, metered; or a refusal of ours when it gave none, with the hold given back. Ends when
        the client has taken it, or is cut off."""
        call.write_timeout_s = self._rules.client_write_timeout_s
        self._running.begin(call)
        hold.on_closed = call.hold_closed
        try:
            await self._serve(call, exchange, hold)
            if call.waits:
                await call.flushed()
        except Exception:
            if hold.unresolved is None:  # nothing was sent, and whoever opened the hold gives it back
                raise
            logger.exception("request %s failed after it had been sent", hold.id)
            self._outcomes.faulty(call, exchange)
        finally:
            self._running.end(call)

    async def _serve(self, call: Call, exchange: Exchange, hold: Hold) -> None:
        sent_s = self._clock()
        provider = exchange.route.provider.name
        large = len(exchange.body) > MAX_PREPARED_BYTES
        request = await self._made_apart(call, exchange, hold) if large else self._request(call, exchange, hold)
        try:
            answer = await self._transports[provider].send(request)
        except UpstreamError as error:
            return await self._outcomes.failed(call, exchange, hold, error)
        except asyncio.CancelledError:
            if request.pending is not None:
                self._remainder.unanswered(call, exchange, hold, request.pending)
            raise
        except Exception:
            if request.pending is not None:
                hold.unresolved = exchange.unresolved
                request.pending.release()
            raise
        del request  # whose body may be large
        self._metrics.upstream_latency(provider, self._clock() - sent_s)
        hold.unresolved = exchange.unresolved
        head = incoming(answer.headers)
        exchange.status = answer.status
        exchange.upstream_request_id = shown_id(head.request_id)
        if answer.status == 200:
            if head.content_type.startswith(EVENT_STREAM):
                return await self._relay.stream(call, exchange, hold, answer, head)
            return await self._whole(call, exchange, hold, answer, head)
        hold.unresolved = None
        try:
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
        route, endpoint = exchange.route, exchange.endpoint
        body = outgoing_body(self._dialect, exchange.parsed, route, exchange.body, granted, strict=exchange.strict)
        url, fixed = self._targets.get((route.provider.name, endpoint)) or self._target(route.provider, endpoint)
        return UpstreamRequest(
            url,
            outgoing(call.raw_headers, fixed, exchange.principal.account_id),
            body,
            account=exchange.principal.account_id,
        )

    def _target(self, provider: ProviderConfig, endpoint: str) -> tuple[str, Fixed]:
        """Where a provider's requests go, and what all of them carry; made once."""
        key = provider.api_key.reveal() if provider.api_key is not None else None
        # A base URL is, as OpenAI's clients take it, all that stands before the endpoint.
        base = provider.base_url or f"local://{provider.name}/v1"
        target = base + endpoint.removeprefix("/v1"), Fixed.of(key, provider.headers, provider.pass_headers)
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
        await self._settler.void(hold)
        self._outcomes.count(exchange, answer.status)
        return call.answer(answer.status, head.lines + f"{REQUEST_ID}: {exchange.request_id}\r\n".encode(), body)

    async def _whole(self, call: Call, exchange: Exchange, hold: Hold, answer: UpstreamAnswer, head: Answered) -> None:
        """A JSON answer: read, priced and settled, then sent."""
        limit_bytes = self._rules.max_answer_bytes
        try:
            body = await answer.read(limit_bytes)
            exchange.first_byte_s = self._clock()
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
