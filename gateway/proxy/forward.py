"""From hold to settlement: send, pass the answer on, read its usage, settle before its last bytes.

This file owns that an answer ends only after its debit is outside the process, and how a hold ends, whatever happens on
the way: by the usage that the provider reported; by `missing_usage` where it reported none; voided where it refused the
request, or failed before any output. From a request that has left this process on, a fault of ours charges the hold
(`Hold.owe`). A request that is cancelled leaves what is under way to `gateway.proxy.detached_answer`.

`gateway.proxy.relay` serves streams.
"""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from billing.holds.model import Hold, SettlementLost
from gateway.dialects.body import GarbageAnswer
from gateway.dialects.output import NO_OUTPUT
from gateway.proxy.attempts import (
    Attempts,
    Failure,
    failure_of_error,
    failure_of_status,
    first_timeout_s,
    note_failure,
)
from gateway.proxy.context import RequestContext, shown_id
from gateway.proxy.detached_answer import OK, Running, read_whole
from gateway.proxy.headers import ResponseHead, incoming
from gateway.proxy.outcomes import Outcomes, balance_nano
from gateway.proxy.provider_request import provider_request_in_thread
from gateway.proxy.relay import ForwardParts, Relay
from gateway.proxy.stored import running_of, tokens_to_go_on_from
from gateway.server.caching import PRIVATE_LINES
from gateway.server.ids import FIRST_ATTEMPT, attempts_line, balance_line, granted_calls_line, paid_lines
from gateway.upstream.base import (
    Pending,
    UpstreamError,
    UpstreamResponse,
    UpstreamTooLarge,
    send_within,
)
from gateway.upstream.health import Attempt

if TYPE_CHECKING:
    from gateway.dialects.facts import Created
    from gateway.server.exchange import Exchange

logger = logging.getLogger(__name__)

JSON: Final = b"application/json"


class Forwarder:
    """Serves admitted requests."""

    def __init__(self, parts: ForwardParts) -> None:
        self._in_thread = parts.in_thread
        self._transports = parts.transports
        self._settlements = parts.settlements
        self._detached = parts.detached
        self._request, self._estimate = parts.defaults.request, parts.defaults.estimate
        self._attempts = parts.defaults.attempts
        self._first_timeout_s = first_timeout_s(self._attempts, parts.defaults.upstream.upstream_timeout_s)
        self._metrics = parts.metrics
        self._clock = parts.clock
        self._running = Running(self._request.max_request_s)
        self._stored, self._records = parts.stored, parts.records
        self._poller = parts.poller
        self._outcomes = Outcomes(parts.settlements, parts.metrics, parts.records)
        self._relay = Relay(parts, self._outcomes)

    async def forward(self, exchange: Exchange, context: RequestContext, hold: Hold) -> None:
        """Pass the provider's answer on, metered; or a refusal of ours when it gave none, with the hold given back.
        Ends when the client has taken it, or is cut off."""
        self._running.begin(exchange)
        hold.on_closed = exchange.hold_closed
        attempts, timeout_s = None, self._first_timeout_s
        try:
            while True:  # an attempt
                sent_s = self._clock()
                request, context.prepared = context.prepared, None  # nothing keeps a second body once it is sent
                parsed = context.parsed
                bounded = parsed.max_output_tokens is not None and not parsed.work.open_tools
                granted = None if bounded else context.granted(hold)
                if request is None or granted is not None:
                    request = await provider_request_in_thread(self._in_thread, exchange, context, granted)
                health = context.target.health
                provider = context.route.provider
                over = None if provider.kind == "local" else exchange.over  # nothing is dialled inside the process
                send = (over or self._transports[provider.name]).send
                attempt, generation = None if health.sound else health.begin(), health.generation
                outcome: UpstreamResponse | UpstreamError
                try:
                    outcome = await (send(request) if timeout_s is None else send_within(send, request, timeout_s))
                    failure = None if outcome.status == OK else failure_of_status(outcome.status, outcome.headers)
                except UpstreamError as error:
                    outcome, failure = error, failure_of_error(error)
                except BaseException as error:
                    if attempt is not None:
                        health.abandoned(attempt)
                    if request.pending is not None:
                        self._left_pending(exchange, context, hold, request.pending, error)
                    raise
                if failure is not None:
                    note_failure(health, attempt or Attempt(generation, is_probe=False), failure)
                    attempts = attempts or Attempts(self._attempts, sent_s)
                    if (wait_s := self._next(context, hold, attempts, failure, outcome)) is not None:
                        del request, outcome
                        await asyncio.sleep(wait_s)
                        context.attempts += 1
                        timeout_s = attempts.timeout_s(self._clock())
                        continue
                elif not health.sound:
                    health.succeeded(attempt or Attempt(generation, is_probe=False))
                serving = self._ended(exchange, context, hold, outcome, sent_s)
                del request, outcome  # whose bodies may be large
                await serving
                break
            if exchange.waits:
                await exchange.flushed()
        except Exception:
            if hold.owed_debit is None:  # nothing was sent, and whoever opened the hold gives it back
                raise
            self._outcomes.faulty(exchange, context)
        finally:
            self._running.end(exchange)
            if self._records.log is not None:
                self._records.left(context, exchange.ended_for)

    def _left_pending(
        self, exchange: Exchange, context: RequestContext, hold: Hold, pending: Pending, error: BaseException
    ) -> None:
        """Leave a request whose sending was cancelled, or has failed for a fault of ours: the answer may still come."""
        if isinstance(error, asyncio.CancelledError):
            self._detached.unanswered(exchange, context, hold, pending)
        elif isinstance(error, Exception):
            hold.owe(context.unresolved)
            pending.release()

    def _next(
        self,
        context: RequestContext,
        hold: Hold,
        attempts: Attempts,
        failure: Failure,
        outcome: UpstreamResponse | UpstreamError,
    ) -> float | None:
        """Count a failed attempt and turn the request to the next one, for which `outcome` is let go; return the
        seconds to wait before it, None where the failure is the answer."""
        provider = context.route.provider.name
        self._metrics.attempt_failed(provider, failure.reason)
        wait_s = attempts.next(context, failure, self._estimate, self._clock(), random.random())  # noqa: S311
        if wait_s is not None:
            following = context.route.provider.name
            logger.info("request %s: %s failed (%s): %s is asked", hold.id, provider, failure.reason, following)
            if not isinstance(outcome, UpstreamError):
                outcome.release()
        return wait_s

    def _ended(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        outcome: UpstreamResponse | UpstreamError,
        sent_s: float,
    ) -> Coroutine[Any, Any, None]:
        """Act on an answer whose head is here, or on the failure of the last attempt."""
        if isinstance(outcome, UpstreamError):
            return self._outcomes.failed(exchange, context, hold, outcome)
        answer = outcome
        self._metrics.upstream_latency(context.route.provider.name, self._clock() - sent_s)
        hold.owe(context.unresolved)
        attempt = FIRST_ATTEMPT if context.attempts == 1 else attempts_line(context.attempts)
        lines, private = context.target.lines + attempt, context.match.endpoint.method == "GET"
        if context.parsed.work.open_tools and (calls := context.granted_calls(hold)) is not None:
            lines += granted_calls_line(calls)
        head = incoming(answer.headers, lines + PRIVATE_LINES if private else lines, private=private)
        context.status = answer.status
        context.upstream_request_id = shown_id(head.request_id)
        if answer.status != OK:
            return self._outcomes.refused(exchange, context, hold, answer, head, self._request.upstream_answer_bytes)
        asked = context.parsed.stream or not head.content_type.startswith(JSON)
        if asked and context.match.dialect.is_stream(context.parsed, head.content_type):
            stored = context.parsed.stored
            relayed = self._relay.background if stored is not None and stored.background else self._relay.stream
            return relayed(exchange, context, hold, answer, head)
        return self._whole(exchange, context, hold, answer, head)

    async def _whole(
        self, exchange: Exchange, context: RequestContext, hold: Hold, answer: UpstreamResponse, head: ResponseHead
    ) -> None:
        """Read, price and settle a JSON answer, then send it."""
        limit_bytes = self._request.upstream_answer_bytes
        output = NO_OUTPUT
        try:
            body = await answer.read(limit_bytes)
            context.first_byte_s = self._clock()
            plain = head.content_encoding is None
            dialect = context.match.dialect
            reported = dialect.usage_from_json(context.parsed.operation, body) if plain else None
            if reported is None or reported.counts_nothing:
                reported, output = read_whole(context, body, head, limit_bytes)
        except asyncio.CancelledError:  # what goes on without the client releases the answer
            self._detached.whole(exchange, context, hold, answer, head)
            raise
        except UpstreamTooLarge:
            answer.release()
            return await self._outcomes.too_large(exchange, context, hold, limit_bytes)
        except (UpstreamError, GarbageAnswer, zlib.error) as error:
            answer.release()
            return await self._outcomes.failed(exchange, context, hold, error)
        except Exception:
            answer.release()
            raise
        answer.release()
        id_header = context.match.endpoint.id_header
        if (running := running_of(context.parsed, body)) is not None:
            return await self._left_running(exchange, context, hold, body, head, running)
        try:
            stored = context.parsed.stored
            created = stored.creation.of_answer(body) if stored is not None and stored.creation is not None else None
            if reported is not None:
                settling = self._settlements.reported(context, hold, reported, partial(dialect.output, body))
                lines = head.lines + paid_lines(hold, settling.charged_nano, id_header)  # while Redis is asked
                if created is not None:
                    await self._stored.record(context, created, tokens_to_go_on_from(context, hold, reported))
                settled = await settling.end()
            else:
                settling = None
                settled, charged_nano = await self._settlements.whole(context, hold, output, "no_usage")
                await self._stored.record(context, created, tokens_to_go_on_from(context, hold, None))
                lines = head.lines + paid_lines(hold, charged_nano, id_header)
        except SettlementLost as error:
            return self._outcomes.unsettled(exchange, context, error)
        exchange.answer(200, lines + balance_line(balance_nano(context, hold, settled)), body)
        if settling is not None:
            settling.count(settled)
        return self._outcomes.count(context, 200)

    async def _left_running(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        body: bytes,
        head: ResponseHead,
        running: Created,
    ) -> None:
        """Follow the work of a provider that has answered and works on, without the client, who has the answer now."""
        try:
            await self._stored.record(context, running, None)
            following = await self._poller.begin(context, hold, running)
        except asyncio.CancelledError:  # the client has left: its work is followed all the same
            self._detached.running(context, hold, running)
            raise
        context.body = b""
        self._settlements.hand_over(hold, following)
        balance = balance_line(context.balance_before_nano(hold))
        exchange.answer(200, head.lines + paid_lines(hold, None, context.match.endpoint.id_header) + balance, body)
        self._outcomes.count(context, 200)
