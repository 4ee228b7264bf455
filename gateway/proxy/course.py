"""A request's course: one state machine, which waits for nothing itself.

    read → admit → send → head → whole | stream → settle → end

It is told of events and calls ports. Redis tells `admitted`, `not_admitted` and `settled`, the provider's connection
`heard`, the client's connection `left`. What has to be awaited is a *detour*, a short coroutine that ends by telling
the same course an event (`gateway.proxy.detours`); the course stays in its state meanwhile. So each rule stands once,
whether a request is served at once or has to wait on its way.

This file owns the order of the checks (401, 413, 400, 404, 403, not priced, 402, 429); that nothing is sent upstream
before admission has said yes; that an answer ends only after its debit is outside the process; and that every way out
ends the hold: by its debit, given back, or, once a request may have left this process, as the debit that it owes
(`Hold.owe`). A client's leaving is an event: an answer that is under way goes on, and what it writes goes nowhere
(`gateway.proxy.detached`), until it has come or its time is over (`late`).
"""

from __future__ import annotations

import contextvars
import logging
import random
import zlib
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from billing.holds.model import SettlementLost, Unavailable
from billing.keys.secrets import secret_digest
from billing.logs import log_about, subject
from billing.money import format_usd
from gateway.auth import secret_of
from gateway.dialects.body import BadRequest, GarbageAnswer
from gateway.dialects.output import NO_OUTPUT
from gateway.proxy import detours
from gateway.proxy.attempts import Attempts, Failure, failure_of_error, failure_of_status, note_failure
from gateway.proxy.context import CLIENT_GONE, FEATURE, Reason, RequestContext, shown_id
from gateway.proxy.decoding_tap import BREAKS, READABLE, StreamWatch, output_of_part, read_whole
from gateway.proxy.detached import NO_CLIENT
from gateway.proxy.headers import NO_HEAD, ResponseHead, incoming
from gateway.proxy.outcomes import balance_nano, upstream_error_of
from gateway.proxy.overrun import OverrunGuard, ToolOverrun
from gateway.proxy.provider_request import MAX_PREPARED_BYTES, prepare, provider_request
from gateway.proxy.settlement.usage_anomalies import says_nothing
from gateway.proxy.stored import Withheld, WorksOn, running_of, tokens_to_go_on_from
from gateway.server import limit_refusals, refusals
from gateway.server.caching import PRIVATE_LINES
from gateway.server.exchange import BodyTooLarge, ClientGone
from gateway.server.ids import FIRST_ATTEMPT, attempts_line, balance_line, granted_calls_line, paid_lines
from gateway.server.refusals import Refuse
from gateway.upstream.base import UpstreamError, UpstreamTimeout, UpstreamTooLarge
from gateway.upstream.health import Attempt
from gateway.upstream.transport import Response, StaleConnection, may_repeat

if TYPE_CHECKING:
    import asyncio

    from billing.holds.model import Hold, Need, Refused, Settled, Settlement
    from billing.holds.redis.connection import RedisError
    from billing.principals import Principal
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Created, ParsedRequest
    from gateway.proxy.serving import Serving
    from gateway.server.bodies import Kept
    from gateway.server.exchange import Exchange
    from gateway.tracing.exporter import Tracer
    from gateway.tracing.trace import Trace
    from gateway.upstream.base import UpstreamRequest, UpstreamResponse

logger = logging.getLogger(__name__)

State = Literal["read", "admit", "send", "head", "whole", "stream", "settle", "end"]
# What a course may be told in each state, and the states that it may go on to; with any event it may stay there, or
# end. What only its detours tell is marked. With what a detour goes on in the same state is not here: `prepare`,
# `ask_provider`, `finish`.
NEXT: Final[Mapping[State, Mapping[str, frozenset[State]]]] = {
    "read": {
        "begin": frozenset(("admit",)),
        "identified": frozenset(("admit",)),  # detour
        "read": frozenset(("admit",)),  # detour
        "ask": frozenset(("admit",)),  # detour
        "left": frozenset(),
    },
    "admit": {
        "admitted": frozenset(("send", "head")),
        "not_admitted": frozenset(),
        "not_held": frozenset(),  # detour
        "left": frozenset(),
    },
    "send": {
        "send": frozenset(("head",)),  # detour
        "outcome": frozenset(("head", "whole", "stream", "settle")),  # detour
        "left": frozenset(),
        "late": frozenset(("settle",)),
    },
    "head": {
        "heard": frozenset(("send", "whole", "stream", "settle")),
        "left": frozenset(),
        "late": frozenset(("settle",)),
    },
    "whole": {
        "heard": frozenset(("settle",)),
        "whole": frozenset(("settle",)),  # detour
        "not_whole": frozenset(),  # detour
        "give_whole": frozenset(),  # detour
        "unsettled": frozenset(),  # detour
        "left": frozenset(),
        "late": frozenset(("settle",)),
    },
    "stream": {
        "heard": frozenset(("settle",)),
        "look_at_stream": frozenset(("settle",)),  # detour
        "passed": frozenset(("settle",)),  # detour
        "left": frozenset(),
        "late": frozenset(("settle",)),
    },
    "settle": {
        "settled": frozenset(),
        "stream_settled": frozenset(),  # detour
        "unsettled": frozenset(),  # detour
        "left": frozenset(),
        "late": frozenset(),
    },
    "end": {"left": frozenset(), "late": frozenset()},
}
OK: Final = 200
JSON: Final = b"application/json"
REFUSALS: Final = (Refuse, BadRequest, BodyTooLarge)


def _nobody() -> None:
    """Nobody is told."""


class Course:
    """One request: `begin` it, and call `left` where its client leaves. `on_over` is called once nothing more is
    written to the client."""

    __slots__ = (
        "alone",
        "answer",
        "asked_s",
        "attempt",
        "attempts",
        "body",
        "context",
        "exchange",
        "feeder",
        "generation",
        "guard",
        "head",
        "hold",
        "is_held",
        "is_left",
        "is_over",
        "is_started",
        "item",
        "kept",
        "lines",
        "need",
        "on_over",
        "outcomes",
        "parsed",
        "principal",
        "proxy",
        "reads",
        "request",
        "request_id",
        "sent_s",
        "sink",
        "started_s",
        "state",
        "task",
        "timeout_s",
        "trace",
        "watch",
    )

    # Each is there from a state on.
    context: RequestContext
    need: Need
    asked_s: float
    hold: Hold
    timeout_s: float | None
    sent_s: float
    generation: int
    head: ResponseHead
    body: bytes
    lines: bytes
    feeder: Tap | StreamWatch
    sink: Exchange | Withheld
    guard: OverrunGuard | None

    def __init__(self, proxy: Serving, exchange: Exchange, on_over: Callable[[], None] = _nobody) -> None:
        self.proxy = proxy
        self.exchange = exchange
        self.on_over = on_over
        self.request_id = proxy.new_id()
        self.started_s = proxy.clock()
        self.state: State = "read"
        self.outcomes = proxy.outcomes
        self.is_held = self.is_left = self.is_over = False
        self.alone: asyncio.Event | None = None
        """Where it goes on without its client: set at its end."""
        self.task: asyncio.Task[None] | None = None
        """The detour that is taken; `is_started` says whether it has made its first step, `reads` whether it is about
        an answer that goes on without the client."""
        self.principal: Principal | None = None
        self.parsed: ParsedRequest | None = None
        self.kept: Kept | None = None
        self.item: Hold | None = None
        self.request: UpstreamRequest | None = None
        self.answer: UpstreamResponse | None = None
        self.attempts: Attempts | None = None
        self.attempt: Attempt | None = None
        self.watch: StreamWatch | None = None
        tracer = proxy.tracer
        self.trace = None if tracer is None else tracer.begin(exchange.headers, exchange.match.endpoint, self.started_s)

    def __repr__(self) -> str:
        return f"Course({self.request_id}, {self.state})"

    # Read: whose request it is, and what it asks for.

    def begin(self) -> None:
        """Serve the request, or refuse it."""
        exchange, proxy = self.exchange, self.proxy
        try:
            logged = subject()
            logged.request_id, logged.account_id = self.request_id, None
            digest = exchange.key_digest
            principal = proxy.known(digest) if digest is not None else None
            if principal is None:
                secret = secret_of(exchange)
                principal = proxy.cached(secret)
                if principal is None or secret is None:
                    self.detour(detours.identify(self, secret))
                    return
                exchange.remember(secret_digest(secret))
            logged.account_id = principal.account_id
            self.identified(principal)
        except Exception as error:
            self.fault(error)

    def identified(self, principal: Principal) -> None:
        """Go on with the request of a key that is known."""
        self.principal = principal
        exchange, proxy = self.exchange, self.proxy
        if not exchange.claim(principal.account_id):
            raise Refuse(refusals.too_many_of_account())
        body = exchange.here(proxy.max_body_bytes)
        if body is None or len(body) > proxy.small_bytes:
            self.detour(detours.take_body(self, principal, body))
        else:
            self.read(principal, body, exchange.match.dialect.parse(exchange, body))

    def read(self, principal: Principal, body: bytes, parsed: ParsedRequest) -> None:
        """Go on with a request that was read."""
        self.parsed = parsed
        if self.proxy.body_log is not None:
            self.exchange.listener = self.proxy.body_log.begin(self, principal, parsed, body)
        if parsed.work.unknown_tools:
            self.proxy.unknown_tools.note(parsed.work.unknown_tools)
        if parsed.stored is not None:
            self.detour(detours.resolve(self, principal, body, parsed))
        else:
            self.prepare(principal, body, parsed)

    def prepare(self, principal: Principal, body: bytes, parsed: ParsedRequest) -> None:
        """Find the route, the terms and the worst case of a request."""
        self.parsed = parsed
        proxy = self.proxy
        context = self.context = proxy.prepare(self.exchange, self.request_id, principal, parsed, body, self.started_s)
        context.trace = self.trace
        self.need = proxy.need(context)
        if principal.status != "active":
            self.detour(detours.check_paid(self, principal))
        else:
            self.ask()

    # Admit: Redis holds the worst case, or says why not.

    def ask(self) -> None:
        """Ask for a hold."""
        proxy, context, need = self.proxy, self.context, self.need
        principal, admissions = context.principal, proxy.holds.admissions
        self.state = "admit"
        self.asked_s = proxy.clock()
        if self.trace is not None:
            self.trace.begin("admit", self.asked_s)
        facts = context.facts
        target = facts.target
        if target is None:
            target = facts.target = admissions.target(principal, context.route.entry, FEATURE)
        if admissions.must_wait(target, need, principal.plan.admission_queue_s):
            self.detour(detours.wait_for_hold(self))
            return
        before = self.task
        item = admissions.ask(self.request_id, target, need, proxy.expired(context, need), self)
        if self.task is not before:
            return  # Redis is away, which was told at once: a detour asks again, and nothing may fail beside it
        self.item = item
        if item.left:  # where many ask together it would only delay the call
            prepare(self.exchange, context)

    def not_admitted(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Find out what becomes of a request that Redis has not admitted."""
        self.item = None
        try:
            self.detour(detours.ask_again(self, reply, epoch))
        except Exception as error:
            self.fault(error)

    def not_held(self, decision: Refused | Unavailable) -> None:
        """Refuse a request that is not held, however often it was asked for."""
        if isinstance(decision, Unavailable):
            logger.debug("request %s was not admitted: %s", self.request_id, decision.reason)
            raise Refuse(refusals.unavailable())
        context = self.context
        max_field = context.sender.output_setting(next(iter(context.parsed.max_fields), None))
        links = self.proxy.links
        raise Refuse(limit_refusals.of_decision(decision, context.principal, links, max_field))

    def admitted(self, hold: Hold) -> None:
        """Serve a request that is held."""
        self.item, self.hold, self.is_held = None, hold, True
        if self.state == "end":  # it has ended while a detour asked
            self.proxy.holds.leave(hold)
            return
        try:
            proxy = self.proxy
            proxy.metrics.hold_latency(proxy.clock() - self.asked_s - hold.waited_s, self.trace)
            if self.trace is not None:
                self.trace.stages[-1].wait_s = hold.waited_s
            proxy.running.begin(self.exchange)
            hold.on_closed = self.exchange.hold_closed
            self.timeout_s = proxy.first_timeout_s
            self.send()
        except Exception as error:
            self.fault(error)

    # Send: an attempt.

    def send(self) -> None:
        """Make what the provider is sent, and send it."""
        proxy, context = self.proxy, self.context
        self.state = "send"
        self.sent_s = proxy.clock()
        if self.trace is not None:
            self.trace.begin("attempt", self.sent_s, context.route.provider.name, context.route.model)
        request, context.prepared = context.prepared, None  # nothing keeps a second body once it is sent
        parsed = context.parsed
        bounded = parsed.max_output_tokens is not None and not parsed.work.open_tools
        granted = None if bounded else context.granted(self.hold)
        if request is not None and granted is None:
            self.ask_provider(request)
        elif proxy.in_thread is not None and len(context.body) > MAX_PREPARED_BYTES:
            self.detour(detours.make_request(self, proxy.in_thread, granted))
        else:
            self.ask_provider(provider_request(self.exchange, context, granted))

    def ask_provider(self, request: UpstreamRequest) -> None:
        """Send a request; at once, where a connection is free and nothing else needs a look."""
        proxy, context = self.proxy, self.context
        health = context.target.health
        self.generation = health.generation
        if health.sound and self.timeout_s is None and self.exchange.over is None:
            transport = proxy.prompt.get(context.route.provider.name)
            answer = None if transport is None else transport.send_now(request, self.heard)
            if answer is not None:
                self.state, self.request, self.answer, self.attempt = "head", request, answer, None
                return
        self.detour(detours.send(self, request))

    def heard(self) -> None:
        """Look at the answer, of which the provider's connection has read more."""
        try:
            answer = self.answer
            if self.task is not None or not isinstance(answer, Response):
                return
            if self.state == "stream":
                self.look_at_stream(answer)
            elif self.state == "whole":
                self.read_on(answer)
            elif answer.status:
                self.outcome(answer)
            elif answer.failure is not None:
                self.unanswered(answer, answer.failure)
        except Exception as error:
            self.fault(error)

    # Head: the answer begins, or the attempt has failed.

    def unanswered(self, answer: Response, failure: UpstreamError) -> None:
        """Let go of an answer that broke before its head."""
        request = self.request
        self.let_go()
        repeats = request is not None and isinstance(failure, StaleConnection) and may_repeat(request)
        if request is not None and repeats and self.alone is None:
            self.state = "send"
            self.detour(detours.send(self, request, anew=True))
        else:
            self.outcome(failure)

    def outcome(self, outcome: UpstreamResponse | UpstreamError) -> None:
        """Act on how an attempt has gone: try another, or go on with this one. An answer is noted before."""
        self.request = None
        health = self.context.target.health
        if isinstance(outcome, Response):
            outcome.on_change = self.heard  # also where its head was awaited
        if isinstance(outcome, UpstreamError):
            failure: Failure | None = failure_of_error(outcome)
        else:
            failure = None if outcome.status == OK else failure_of_status(outcome.status, outcome.headers)
        if failure is not None:
            note_failure(health, self.attempt or Attempt(self.generation, is_probe=False), failure)
            if self.alone is None and (wait_s := self.next_attempt(failure)) is not None:
                self.let_go()
                self.state = "send"
                self.detour(detours.try_again(self, wait_s))
                return
        elif not health.sound:
            health.succeeded(self.attempt or Attempt(self.generation, is_probe=False))
        if not isinstance(outcome, UpstreamError):
            self.answered(outcome)
        elif not self.is_given_up(outcome):
            self.detour(detours.fail(self, outcome))

    def next_attempt(self, failure: Failure) -> float | None:
        """Count a failed attempt and turn the request to the next one; return the seconds to wait before it, None where
        the failure is the answer."""
        proxy, context = self.proxy, self.context
        about = context.described
        proxy.metrics.attempt_failed(context.route.provider.name, failure.reason)
        if self.trace is not None:
            self.trace.end_stage(proxy.clock(), failure.reason)
        attempts = self.attempts = self.attempts or Attempts(proxy.attempts, self.sent_s)
        wait_s = attempts.next(context, failure, proxy.estimate, proxy.clock(), random.random())  # noqa: S311
        if wait_s is not None:
            logger.warning("%s failed (%s): %s is asked", about, failure.reason, context.route.provider.name)
        return wait_s

    def answered(self, answer: UpstreamResponse) -> None:
        """Act on an answer whose head is here."""
        proxy, context, hold = self.proxy, self.context, self.hold
        self.state, self.answer = "head", answer
        proxy.metrics.upstream_latency(context.route.provider.name, proxy.clock() - self.sent_s, self.trace)
        if self.alone is None:  # else it is owed already
            hold.owe(context.unresolved)
        attempt = FIRST_ATTEMPT if context.attempts == 1 else attempts_line(context.attempts)
        lines, private = context.target.lines + attempt, context.match.endpoint.method == "GET"
        if context.parsed.work.open_tools and (calls := context.granted_calls(hold)) is not None:
            lines += granted_calls_line(calls)
        head = self.head = incoming(answer.headers, lines + PRIVATE_LINES if private else lines, private=private)
        context.status = answer.status
        context.upstream_request_id = shown_id(head.request_id)
        if answer.status != OK:
            self.detour(detours.pass_refusal(self, self.taken(), head))
            return
        asked = context.parsed.stream or not head.content_type.startswith(JSON)
        if asked and context.match.dialect.is_stream(context.parsed, head.content_type):
            self.begin_stream(answer, head)
            return
        self.state = "whole"
        if isinstance(answer, Response):
            self.read_on(answer)
        else:
            self.detour(detours.read_whole_answer(self, answer), reads=True)

    # Whole: a JSON answer is read to its end, priced and settled, then sent.

    def read_on(self, answer: Response) -> None:
        """Take what has come of a JSON answer."""
        try:
            body = answer.read_on(self.proxy.answer_bytes)
        except UpstreamError as error:
            self.not_whole(error)
        else:
            if body is not None:
                self.whole(body)

    def not_whole(self, error: Exception) -> None:
        """Refuse: what came can't be used."""
        if self.is_given_up(error):
            return
        self.let_go()
        too_large = isinstance(error, UpstreamTooLarge)
        self.detour(detours.refuse_too_large(self) if too_large else detours.fail(self, error))

    def whole(self, body: bytes) -> None:
        """Settle a JSON answer that is here."""
        proxy, context, hold, head = self.proxy, self.context, self.hold, self.head
        if self.alone is None:
            context.first_byte_s = proxy.clock()
        dialect, output = context.match.dialect, NO_OUTPUT
        try:
            plain = head.content_encoding is None
            reported = dialect.usage_from_json(context.parsed.operation, body) if plain else None
            if reported is None or reported.counts_nothing:
                reported, output = read_whole(context, body, head, proxy.answer_bytes)
        except (UpstreamError, GarbageAnswer, zlib.error) as error:
            self.not_whole(error)
            return
        self.let_go()
        self.body = body
        stored = context.parsed.stored
        created = None
        if stored is not None:
            if (running := running_of(context.parsed, body)) is not None:
                alone = self.alone is not None
                self.detour(detours.follow(self, running) if alone else detours.leave_running(self, running))
                return
            if stored.creation is not None and self.alone is None:  # else nobody sees its id
                created = stored.creation.of_answer(body)
        if reported is None:
            self.detour(detours.estimate_whole(self, output, "no_usage", created))
            return
        self.state = "settle"
        told = self.settled if created is None else None
        settlement = proxy.settlements.reported(context, hold, reported, partial(dialect.output, body), told)
        # while Redis is asked:
        self.lines = head.lines + paid_lines(hold, settlement.debit.charged_nano, context.match.endpoint.id_header)
        if created is not None:
            tokens = tokens_to_go_on_from(context, hold, reported)
            self.detour(detours.record_while_settling(self, settlement, created, tokens))

    # Stream: passed on as it comes, its end held back until the debit is safe; one that broke never ends cleanly.

    def begin_stream(self, answer: UpstreamResponse, head: ResponseHead) -> None:
        """Pass an answer on. One that nobody here can read is not passed on, and its provider stopped."""
        context, hold, exchange, proxy = self.context, self.hold, self.exchange, self.proxy
        self.state = "stream"
        if head.content_encoding is not None and head.content_encoding not in READABLE:
            self.let_go()
            unreadable = UpstreamError(f"a stream encoded as {head.content_encoding[:20]!r}")
            self.detour(detours.fail(self, unreadable))
            return
        parsed = context.parsed
        tap = context.match.dialect.tap(
            head.content_type,
            usage_added=parsed.stream and not parsed.include_usage and context.route.provider.stream_usage,
            include_cost=context.include_cost,
        )
        watch = self.watch = StreamWatch(tap, head.content_encoding)
        stored, self.sink = parsed.stored, exchange
        if stored is not None and stored.creation is not None and head.content_encoding is None:
            keep = partial(proxy.poller.keep, context, hold)
            watch.withheld = withheld = Withheld(proxy.stored, exchange, context, stored.creation, keep)
            self.sink = withheld
            if self.alone is not None:
                withheld.leave(exchange)
        self.feeder, self.guard = watch.feeder(), None
        if parsed.work.open_tools and self.alone is None and not (stored is not None and stored.background):
            # Where the provider goes on without us, to cut its stream would stop nothing.
            granted = context.granted_calls(hold)
            if granted is not None:
                self.guard = OverrunGuard(context, hold, tap, granted, proxy.tool_overrun_percent)
        if isinstance(answer, Response):
            answer.headers = []
            answer.pass_to(self.piece)
            self.look_at_stream(answer)
        else:
            self.detour(detours.pump(self, answer), reads=True)

    def piece(self, piece: bytes) -> bool:
        """Pass a piece on; False: the client can't take more now. Raises `BREAKS`."""
        out = self.feeder.feed(piece)
        if not self.exchange.begun:
            self.begin_answer()
        try:
            takes_more = self.sink.put(out) if out else True
        except ClientGone:
            self.client_gone()
            if (running := self.running()) is not None:
                raise WorksOn(running) from None
            return True
        if self.guard is not None:
            self.guard.check()
        return takes_more

    def begin_answer(self) -> None:
        """Begin a stream's answer with its first piece."""
        proxy, context, hold = self.proxy, self.context, self.hold
        context.first_byte_s = proxy.clock()
        waited_s = context.first_byte_s - context.started_s
        proxy.metrics.time_to_first_byte(context.route.provider.name, waited_s, self.trace)
        lines = self.head.lines + paid_lines(hold, None, context.match.endpoint.id_header)
        self.exchange.begin(OK, lines + balance_line(context.balance_before_nano(hold)))
        self.head = NO_HEAD  # a stream may be long, and many

    def look_at_stream(self, answer: Response) -> None:
        """See whether a stream is over, or waits for its client."""
        passing = answer.passing()
        if passing == "over":
            answer.stop_passing()
            self.passed(answer.broken)
        elif passing == "stalled":
            self.detour(detours.drain(self, answer), reads=True)

    def passed(self, failure: Exception | None) -> None:
        """Act on a stream that is over, or was broken by `failure`."""
        watch = self.watch
        assert watch is not None  # noqa: S101  (it has passed)
        if failure is not None and not isinstance(failure, BREAKS):
            raise failure
        if failure is None and watch.withheld is not None and not watch.withheld.is_open:
            self.detour(detours.release_withheld(self, watch.withheld), reads=True)
            return
        if isinstance(failure, ClientGone):
            self.client_gone()
            if not isinstance(self.answer, Response):
                self.task = None  # the detour that passed it on ends by this: another one reads on
            self.stream_on()
            return
        if self.is_given_up(failure):
            return
        proxy, exchange, context, hold, tap = self.proxy, self.exchange, self.context, self.hold, watch.tap
        self.let_go()
        if isinstance(failure, ToolOverrun):
            proxy.metrics.tool_overrun()
            self.cut(proxy.settlements.overrun(context, hold, tap), failure, "tool_overrun")
            return
        if not exchange.begun:
            self.detour(detours.fail(self, upstream_error_of(failure, "an empty stream")))
            return
        tap.end()
        running = failure.created if isinstance(failure, WorksOn) else self.running()
        if running is not None and self.alone is not None:
            self.detour(detours.follow(self, running, tap))
        elif running is not None:
            proxy.detached.running(context, hold, running, tap)
            self.works_on(watch, clean=failure is None)
        elif failure is None and (tap.done or tap.error_seen):
            self.settle_stream(watch)
        else:
            # Where it ended without saying so, the client must not take this for a whole answer either.
            reason = self.reason("upstream_cut")
            settling = proxy.settlements.stream(context, hold, tap, reason, failed=True)
            self.cut(settling, upstream_error_of(failure, "no end of stream"), reason, free=says_nothing(tap))

    def running(self) -> Created | None:
        """Return the object on which the provider works on in the background though its stream is not read on."""
        watch = self.watch
        return None if watch is None or watch.withheld is None or watch.tap.done else watch.withheld.running

    def cut(
        self, settling: Coroutine[Any, Any, object], failure: Exception, reason: Reason, *, free: bool = False
    ) -> None:
        """Settle what passed of a stream that broke or was stopped."""
        logger.warning("%s: the stream was cut: %s", self.context.described, failure)
        self.detour(detours.cut(self, settling, reason, free=free))

    def works_on(self, watch: StreamWatch, *, clean: bool) -> None:
        """End the answer of a response in the background that goes on after its stream. The client sees the end where
        the provider has told it of an error, else a stream that broke."""
        told = clean and watch.tap.error_seen
        self.outcomes.count(self.context, OK if told else 502, goes_on=True)
        if told:
            self.finish(watch)
        else:
            self.exchange.abort()
            self.end()

    def settle_stream(self, watch: StreamWatch) -> None:
        """Settle a stream that the provider has ended, with an answer's end or with an error that the client is
        told."""
        tap, context, hold = watch.tap, self.context, self.hold
        reason = self.reason("no_usage" if tap.done else "upstream_cut")
        self.state = "settle"
        settling = self.proxy.settlements.ended(context, hold, tap, reason, self.settled, failed=not tap.done)
        if isinstance(settling, Coroutine):
            self.detour(detours.estimate_stream(self, settling, watch))

    def finish(self, watch: StreamWatch, charged_nano: int | None = None) -> None:
        """Let the client see the end of a stream, and what was charged where it wants to know that."""
        shown = None
        if charged_nano is not None and self.context.include_cost:
            shown = format_usd(charged_nano)
        with suppress(ClientGone):  # it left after its debit: nothing changes
            self.exchange.finish(watch.finish(shown))
        self.close()

    # Settle: the debit is on its way; nothing that ends the answer is out.

    def settled(self, settlement: Settlement) -> None:
        """End the answer: its debit is outside this process, or lost."""
        try:
            self.proxy.settlements.count(self.context, self.hold, settlement)
            if self.is_over:
                self.end()  # without its client
            elif settlement.settled is None:
                self.unsettled(settlement.lost)
            elif self.watch is not None:
                self.stream_settled(self.watch, settlement.debit.charged_nano)
            else:
                self.give_whole(settlement.settled)
        except Exception as error:
            self.fault(error)

    def unsettled(self, lost: SettlementLost | None) -> None:
        """Withhold the answer: neither store could be told of the debit in time."""
        self.outcomes.unsettled(self.exchange, self.context, lost)
        self.close()

    def give_whole(self, settled: Settled) -> None:
        """Send a JSON answer that is paid."""
        context = self.context
        balance = balance_line(balance_nano(context, self.hold, settled))
        self.exchange.answer(OK, self.lines + balance, self.body)
        self.outcomes.count(context, OK)
        self.close()

    def stream_settled(self, watch: StreamWatch, charged_nano: int) -> None:
        """End the answer of a stream that is paid."""
        proxy, context = self.proxy, self.context
        proxy.poller.paid(self.hold)
        self.outcomes.count(context, OK)
        if watch.withheld is not None and watch.tap.done and self.alone is None:
            self.detour(detours.record_stream(self, watch, watch.withheld, charged_nano))
        else:
            self.finish(watch, charged_nano)

    # The client's leaving, faults and the end.

    def left(self) -> None:
        """Go on without the client, who has left, or was cut off."""
        if not self.is_left and not self.is_over:
            self.is_left = True
            self.leave()

    def leave(self) -> None:
        """Leave the client in whatever state this is. A detour is cancelled once it has made its first step, unless it
        reads an answer: it sees to what it has begun. A detour's first step may have found the client gone itself."""
        if self.alone is not None:
            return
        try:
            exchange = self.exchange
            if exchange.ended_for == "shutting_down":  # which nobody can tell once the connection is closed
                exchange.cut_for = "shutting_down"
            if self.task is not None and not self.is_started:
                self.proxy.call_soon(self.leave)
            elif self.task is not None and not self.reads:
                self.task.cancel()
            elif self.state == "settle":
                self.over()  # the settlement, when it is told, ends this
            elif self.answer is not None:
                self.leave_answer(self.answer)
            else:
                if self.item is not None:
                    self.item.abandon()
                self.end()
        except Exception as error:
            self.fault(error)

    def leave_answer(self, answer: UpstreamResponse) -> None:
        """Read an answer on without the client, unless the provider can't have begun."""
        if self.state == "head" and isinstance(answer, Response):
            if not answer.leave():
                self.answer = None
                self.end()
                return
            answer.on_change = self.heard
            self.hold.owe(self.context.unresolved)
        self.go_on_alone()
        if self.state == "stream":
            self.stream_on()

    def client_gone(self) -> None:
        """Go on without a client that was found to be gone."""
        self.outcomes.count(self.context, CLIENT_GONE)
        self.exchange.abort()
        self.go_on_alone()

    def go_on_alone(self) -> None:
        """Go on without the client: what is written goes nowhere from now on."""
        proxy, exchange, withheld = self.proxy, self.exchange, None if self.watch is None else self.watch.withheld
        self.is_left = True
        self.alone = proxy.detached.begin(self, exchange)
        if self.trace is not None and proxy.tracer is not None:
            self.traced(self.trace, proxy.tracer)
            self.trace = None
        self.over()
        if exchange.listener is not None:
            exchange.listener.ended()
        self.hold.on_closed = self.request = None
        self.exchange, self.outcomes, self.guard = NO_CLIENT, proxy.unseen, None
        if withheld is None:
            self.sink = NO_CLIENT
        else:
            withheld.leave(NO_CLIENT)

    def stream_on(self) -> None:
        """Read a stream on for which no client is waited any more."""
        answer, task = self.answer, self.task
        running = self.running()
        if task is not None and (running is not None or isinstance(answer, Response)):
            self.task = None
            task.cancel()  # it waits for the client, or reads what need not be read
        if running is not None:
            self.passed(WorksOn(running))
        elif isinstance(answer, Response):
            answer.pass_to(self.piece)
            answer.go_on()
            self.look_at_stream(answer)
        elif answer is not None and self.task is None:
            self.detour(detours.pump(self, answer), reads=True)

    def late(self) -> None:
        """Read no further without the client: the time for it is over."""
        task = self.task
        if self.answer is None and (task is None or not self.reads):
            return
        try:
            if task is not None and not self.is_started:
                self.proxy.call_soon(self.late)
                return
            if task is not None:
                self.task = None
                task.cancel()
            self.give_up()
        except Exception as error:
            self.fault(error)

    def give_up(self) -> None:
        """Settle what has come until now."""
        proxy, context, hold, watch, answer = self.proxy, self.context, self.hold, self.watch, self.answer
        context.unread = proxy.detached.is_unread(context)
        reason, state, self.state = self.reason("client_gone"), self.state, "settle"
        if watch is not None:
            self.let_go()
            watch.tap.end()
            settling = proxy.detached.in_turn(proxy.settlements.stream(context, hold, watch.tap, reason))
            self.detour(detours.estimate_stream(self, settling, watch))
            return
        output = NO_OUTPUT
        if state == "whole" and answer is not None:
            output = output_of_part(context, answer.taken(), self.head)
        self.let_go()
        self.detour(detours.estimate_whole(self, output, reason))

    def is_given_up(self, failure: Exception | None) -> bool:
        """Give up where, without a client, a provider is silent whose model reasons unseen: as if its time were over.
        Return whether it was."""
        if self.alone is None or not isinstance(failure, UpstreamTimeout) or not self.context.route.hides_reasoning:
            return False
        self.give_up()
        return True

    def reason(self, otherwise: Reason) -> Reason:
        """Return why an answer is settled that is not whole, or without usage: its client's leaving, where it has."""
        return otherwise if self.alone is None else self.context.cut or "client_gone"

    def fault(self, error: Exception) -> None:
        """End the request by a refusal, or for a fault of ours."""
        is_over = self.is_over
        try:
            if self.item is not None:
                self.item.abandon()
            if self.task is not None and self.is_started:
                self.task.cancel()  # nothing that it tells is heard any more
            self.let_go()
            if is_over:
                logger.error("request %s failed after its end", self.request_id, exc_info=error)
                self.end()
                return
            if isinstance(error, REFUSALS):
                self.refuse(error)
            else:
                contextvars.copy_context().run(self.failed, error)
            self.close()
        except Exception:
            logger.exception("request %s could not be refused", self.request_id)
            self.exchange.abort()
            self.end()

    def failed(self, error: Exception) -> None:
        """Refuse for a fault of ours."""
        log_about(self.request_id, None if self.principal is None else self.principal.account_id)
        exchange = self.exchange
        if self.is_held and self.hold.owed_debit is not None:
            self.outcomes.faulty(exchange, self.context, error)
            return
        logger.error("request %s failed", self.request_id, exc_info=error)
        if exchange.begun:
            exchange.abort()  # a refusal in the middle of an answer would be taken for a part of it
        else:
            self.refuse(Refuse(refusals.unavailable()))

    def refuse(self, error: Refuse | BadRequest | BodyTooLarge) -> None:
        """Answer with a refusal, of a request for which nothing was done."""
        proxy, exchange = self.proxy, self.exchange
        refusal = proxy.refusal_of(error)
        proxy.count(refusal).answer(exchange, self.request_id)
        if self.is_held:
            self.context.logged = True
        if self.trace is not None:
            self.trace.status, self.trace.error = refusal.status, refusal.code
        path = exchange.match.endpoint.path
        proxy.records.refused(self.request_id, path, self.principal, self.parsed, refusal, self.started_s)

    def taken(self) -> UpstreamResponse:
        """Return the answer, which somebody else reads from now on."""
        answer, self.answer = self.answer, None
        assert answer is not None  # noqa: S101  (there is one in every state in which this is asked)
        if isinstance(answer, Response):
            answer.on_change = None
            if answer.sink is not None:
                answer.stop_passing()
        return answer

    def let_go(self) -> None:
        """Free the provider's connection."""
        if self.answer is not None:
            self.taken().release()

    def close(self) -> None:
        """End, once the client has taken what was written."""
        if self.exchange.waits:
            self.detour(detours.flush(self))
        else:
            self.end()

    def over(self) -> None:
        """Tell that nothing more is written to the client."""
        if self.is_over:
            return
        self.is_over = True
        proxy, on_over = self.proxy, self.on_over
        self.on_over = _nobody
        try:
            if self.is_held:
                proxy.running.end(self.exchange)
                if proxy.records.log is not None:
                    proxy.records.left(self.context, self.exchange.ended_for)
                if self.watch is not None:
                    proxy.poller.passed(self.hold)
            if self.kept is not None:
                self.kept.release()
        finally:
            on_over()

    def end(self) -> None:
        """End: the hold is ended, or whoever goes on ends it, and nothing refers in a circle."""
        if self.state == "end":
            return
        self.state = "end"
        try:
            self.over()
        finally:
            if self.alone is not None:
                self.alone.set()
            if self.is_held:
                self.proxy.holds.leave(self.hold)
            if self.trace is not None and self.proxy.tracer is not None:
                self.traced(self.trace, self.proxy.tracer)
            if self.exchange.listener is not None:
                self.exchange.listener.ended(self.context.cut if self.is_held else None)
            self.item = self.answer = self.request = None

    def traced(self, trace: Trace, tracer: Tracer) -> None:
        """Have the trace sent, with what is known at the end."""
        trace.request_id = self.request_id
        if self.principal is not None:
            trace.account_id, trace.key_id = self.principal.account_id, self.principal.key_id
        if self.is_held:
            trace.debit, trace.first_byte_s = self.context.charged, self.context.first_byte_s
            if self.context.cut is not None:
                trace.error = self.context.cut
            self.context.trace = None  # who goes on without the client adds nothing to what is sent
        if self.is_left and not trace.status:
            trace.status = CLIENT_GONE
        tracer.end(trace)

    # Detours.

    def detour(self, work: Coroutine[Any, Any, None], *, reads: bool = False) -> None:
        """Let a coroutine go on, which ends by telling an event."""
        self.is_started, self.reads = False, reads
        self.task = self.proxy.start(self.guarded(work))

    async def guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Take a detour to its end. One that is cancelled, because the client has left, has seen to what it began."""
        task, self.is_started = self.task, True
        log_about(self.request_id, None if self.principal is None else self.principal.account_id)
        try:
            await work
        except Exception as error:
            self.back_from(task)
            self.fault(error)
        except BaseException:
            self.back_from(task)
            if self.alone is None:
                self.end()
            raise
        else:
            self.back_from(task)

    def back_from(self, task: asyncio.Task[None] | None) -> None:
        """Note the end of a detour, unless it has told an event that takes another one."""
        if self.task is task:
            self.task = None
