"""Detours of a request's course: what has to be awaited on its way, each a coroutine that ends by telling one event.

A detour is cancelled where the client leaves while it is taken, and sees to what it has begun; unless it reads an
answer, which goes on without the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from billing.holds.model import Hold, SettlementLost
from billing.keys.secrets import secret_digest
from gateway.proxy.decoding_tap import BREAKS
from gateway.proxy.outcomes import uncharged
from gateway.proxy.provider_request import provider_request_in_thread
from gateway.proxy.stored import tokens_to_go_on_from
from gateway.server import refusals
from gateway.server.ids import balance_line, paid_lines
from gateway.upstream.base import UpstreamError, send_within

if TYPE_CHECKING:
    from billing.holds.model import Decision, HoldRequest, Need, Refused, Settled, Settlement, Unavailable
    from billing.holds.redis.connection import RedisError
    from billing.principals import Principal
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Created, ParsedRequest
    from gateway.dialects.output import Output
    from gateway.proxy.attempts import Attempts
    from gateway.proxy.context import Granted, Reason, RequestContext
    from gateway.proxy.decoding_tap import StreamWatch
    from gateway.proxy.headers import ResponseHead
    from gateway.proxy.outcomes import Outcomes
    from gateway.proxy.provider_request import InThread
    from gateway.proxy.serving import Serving
    from gateway.proxy.stored import Withheld
    from gateway.server.bodies import Kept
    from gateway.server.exchange import Exchange
    from gateway.upstream.base import Pending, UpstreamRequest, UpstreamResponse
    from gateway.upstream.health import Attempt
    from gateway.upstream.transport import Response


class Course(Protocol):
    """What detours know of a course, and the events that they tell it (`gateway.proxy.course.Course`)."""

    proxy: Serving
    exchange: Exchange
    kept: Kept | None
    context: RequestContext
    need: Need
    asked_s: float
    hold: Hold
    timeout_s: float | None
    attempt: Attempt | None
    attempts: Attempts | None
    alone: asyncio.Event | None
    outcomes: Outcomes
    head: ResponseHead
    body: bytes
    lines: bytes
    answer: UpstreamResponse | None
    sink: Exchange | Withheld

    def identified(self, principal: Principal) -> None: ...
    def read(self, principal: Principal, body: bytes, parsed: ParsedRequest) -> None: ...
    def prepare(self, principal: Principal, body: bytes, parsed: ParsedRequest) -> None: ...
    def ask(self) -> None: ...
    def admitted(self, hold: Hold) -> None: ...
    def not_held(self, decision: Refused | Unavailable) -> None: ...
    def send(self) -> None: ...
    def ask_provider(self, request: UpstreamRequest) -> None: ...
    def outcome(self, outcome: UpstreamResponse | UpstreamError) -> None: ...
    def whole(self, body: bytes) -> None: ...
    def not_whole(self, error: Exception) -> None: ...
    def settled(self, settlement: Settlement) -> None: ...
    def unsettled(self, lost: SettlementLost | None) -> None: ...
    def give_whole(self, settled: Settled) -> None: ...
    def piece(self, piece: bytes) -> bool: ...
    def look_at_stream(self, answer: Response) -> None: ...
    def passed(self, failure: Exception | None) -> None: ...
    def stream_settled(self, watch: StreamWatch, charged_nano: int) -> None: ...
    def finish(self, watch: StreamWatch, charged_nano: int | None = None) -> None: ...
    def go_on_alone(self) -> None: ...
    def detour(self, work: Coroutine[Any, Any, None], *, reads: bool = False) -> None: ...
    def end(self) -> None: ...


# Before the hold.


async def identify(course: Course, secret: str | None) -> None:
    """Look a key up that is not known here."""
    exchange = course.exchange
    principal = await course.proxy.admit(secret, exchange.peer, exchange.headers)
    if secret is not None:
        exchange.remember(secret_digest(secret))
    course.identified(principal)


async def take_body(course: Course, principal: Principal, body: bytes | None) -> None:
    """Read and parse a body that did not come with its head, or is large."""
    proxy = course.proxy
    course.kept = kept = proxy.bodies.of(principal.account_id)
    course.read(principal, *await proxy.intake.slowly(course.exchange, principal, kept, body))


async def resolve(course: Course, principal: Principal, body: bytes, parsed: ParsedRequest) -> None:
    """Look up whose the objects are that a request names, and whether there is room for work in the background."""
    proxy, match = course.proxy, course.exchange.match
    parsed = await proxy.stored.resolve(match, principal, parsed)
    stored = parsed.stored
    if stored is not None and stored.background:
        await proxy.poller.check_room(principal.account_id)
    if stored is not None and parsed.stream and match.endpoint.free:
        await proxy.poller.note_streamed(stored)
    course.prepare(principal, body, parsed)


async def check_paid(course: Course, principal: Principal) -> None:
    """See whether the account's status lets it spend."""
    await course.proxy.check_paid(principal, course.need)
    course.ask()


async def wait_for_hold(course: Course) -> None:
    """Ask for a hold where others wait before this request, or nothing may be asked for now."""
    _tell(course, await course.proxy.holds.admissions.decide(_request(course)))


def _request(course: Course) -> HoldRequest:
    return course.proxy.hold_request(course.exchange, course.context, course.need)


async def ask_again(course: Course, reply: list[Any] | RedisError, epoch: int) -> None:
    """Ask for a hold once more, where that may help: Redis has not admitted it."""
    request = _request(course)
    _tell(course, await course.proxy.holds.admissions.decide_after(request, reply, epoch, course.asked_s))


def _tell(course: Course, decision: Decision) -> None:
    if isinstance(decision, Hold):
        course.admitted(decision)
    else:
        course.not_held(decision)


# Before the answer's head.


async def make_request(course: Course, in_thread: InThread, granted: Granted | None) -> None:
    """Make what the provider is sent of a large body off the event loop."""
    request = await provider_request_in_thread(in_thread, course.exchange, course.context, granted)
    course.ask_provider(request)


async def send(course: Course, request: UpstreamRequest, *, anew: bool = False) -> None:
    """Send a request where no connection is free, a probe of a target, or one that must be answered in time; `anew`
    over a new connection."""
    proxy, context, timeout_s = course.proxy, course.context, course.timeout_s
    health, provider = context.target.health, context.route.provider
    over = None if provider.kind == "local" else course.exchange.over  # nothing is dialled inside the process
    transport = over or proxy.transports[provider.name]
    sender = proxy.prompt[provider.name].repeat if anew else transport.send
    course.attempt = attempt = None if health.sound else health.begin()
    outcome: UpstreamResponse | UpstreamError
    try:
        sending = sender(request) if timeout_s is None else send_within(sender, request, timeout_s)
        course.answer = outcome = await sending  # noted before anything else: a fault frees its connection
    except UpstreamError as error:
        outcome = error
    except BaseException as error:
        if attempt is not None:
            health.abandoned(attempt)
        if request.pending is not None:
            _leave_pending(course, request.pending, error)
        raise
    del request  # whose body may be large
    course.outcome(outcome)


def _leave_pending(course: Course, pending: Pending, error: BaseException) -> None:
    """Leave a request whose sending was cancelled, or has failed for a fault of ours: the answer may still come."""
    try:
        course.hold.owe(course.context.unresolved)
        if isinstance(error, asyncio.CancelledError):
            course.go_on_alone()
            course.detour(wait_for_head(course, pending), reads=True)
            return
    except Exception:
        pending.release()  # nobody goes on with it
        raise
    pending.release()


async def wait_for_head(course: Course, pending: Pending) -> None:
    """Wait, without the client, for the answer to a request that was sent."""
    outcome: UpstreamResponse | UpstreamError
    try:
        course.answer = outcome = await pending.head()
    except UpstreamError as error:
        outcome = error
    except BaseException:
        pending.release()
        raise
    course.outcome(outcome)


async def try_again(course: Course, wait_s: float) -> None:
    """Make the next attempt."""
    await asyncio.sleep(wait_s)
    course.context.attempts += 1
    if course.attempts is not None:
        course.timeout_s = course.attempts.timeout_s(course.proxy.clock())
    course.send()


# After it.


async def pass_refusal(course: Course, answer: UpstreamResponse, head: ResponseHead) -> None:
    """Give the hold back, and pass on what the provider answered in place of a 200."""
    proxy = course.proxy
    await course.outcomes.refused(course.exchange, course.context, course.hold, answer, head, proxy.answer_bytes)
    await flush(course)


async def fail(course: Course, error: Exception) -> None:
    """Give the hold back, and refuse: there is no usable answer, and no output has passed."""
    await course.outcomes.failed(course.exchange, course.context, course.hold, error)
    await flush(course)


async def refuse_too_large(course: Course) -> None:
    """Refuse an answer of more than is read whole."""
    proxy = course.proxy
    await course.outcomes.too_large(course.exchange, course.context, course.hold, proxy.answer_bytes)
    await flush(course)


async def read_whole_answer(course: Course, answer: UpstreamResponse) -> None:
    """Read a JSON answer that does not say when more of it is here."""
    try:
        body = await answer.read(course.proxy.answer_bytes)
    except UpstreamError as error:
        course.not_whole(error)
    else:
        course.whole(body)


async def record_while_settling(
    course: Course, settlement: Settlement, created: Created, total_tokens: int | None
) -> None:
    """Record the object that an answer has created while its debit is on its way."""
    await course.proxy.stored.record(course.context, created, total_tokens)
    with suppress(SettlementLost):  # the settlement says so
        await settlement
    course.settled(settlement)


async def estimate_whole(course: Course, output: Output, reason: Reason, created: Created | None = None) -> None:
    """Settle a JSON answer without usage, and send it."""
    proxy, context, hold = course.proxy, course.context, course.hold
    try:
        settled, charged_nano = await proxy.settlements.whole(context, hold, output, reason)
    except SettlementLost as error:
        course.unsettled(error)
        return
    if course.alone is not None:
        course.end()
        return
    await proxy.stored.record(context, created, tokens_to_go_on_from(context, hold, None))
    course.lines = course.head.lines + paid_lines(hold, charged_nano, context.match.endpoint.id_header)
    course.give_whole(settled)


async def leave_running(course: Course, running: Created) -> None:
    """Follow the work of a provider that has answered and works on, without the client, who has the answer now."""
    proxy, context, hold = course.proxy, course.context, course.hold
    try:
        await proxy.stored.record(context, running, None)
        following = await proxy.poller.begin(context, hold, running)
    except asyncio.CancelledError:  # the client has left: its work is followed all the same
        proxy.detached.running(context, hold, running)
        raise
    context.body = b""
    proxy.settlements.hand_over(hold, following)
    lines = course.head.lines + paid_lines(hold, None, context.match.endpoint.id_header)
    course.exchange.answer(200, lines + balance_line(context.balance_before_nano(hold)), course.body)
    course.outcomes.count(context, 200)
    await flush(course)


async def follow(course: Course, running: Created, tap: Tap | None = None) -> None:
    """Follow the work of a provider that works on, without the client, to its end; `tap` has read its stream."""
    proxy = course.proxy
    proxy.poller.passed(course.hold)
    await proxy.detached.followed(course.context, course.hold, running, tap)
    course.end()


async def pump(course: Course, answer: UpstreamResponse) -> None:
    """Pass on a stream that does not say when more of it is here."""
    try:
        await answer.pump(course.piece, course.sink.flushed)
    except BREAKS as error:
        course.passed(error)
    else:
        course.passed(None)


async def drain(course: Course, answer: Response) -> None:
    """Wait until the client can take more of a stream."""
    try:
        await course.sink.flushed()
    except BREAKS as error:
        answer.stop_passing()
        course.passed(error)
    else:
        answer.go_on()
        course.look_at_stream(answer)


async def release_withheld(course: Course, withheld: Withheld) -> None:
    """Let pass what was withheld to the end of a stream."""
    try:
        await withheld.release()
    except BREAKS as error:
        course.passed(error)
    else:
        course.passed(None)


async def estimate_stream(
    course: Course, settling: Coroutine[Any, Any, tuple[Settled, int]], watch: StreamWatch
) -> None:
    """Settle a stream without usage, or give it back, and end it."""
    try:
        _, charged_nano = await settling
    except SettlementLost as error:
        course.unsettled(error)
    else:
        course.stream_settled(watch, charged_nano)


async def record_stream(course: Course, watch: StreamWatch, withheld: Withheld, charged_nano: int) -> None:
    """Record what a stream has used of the object that it created, and end it."""
    context = course.context
    tokens = tokens_to_go_on_from(context, course.hold, watch.tap.reported)
    await course.proxy.stored.record(context, withheld.created, tokens)
    course.finish(watch, charged_nano)


async def cut(
    course: Course,
    settling: Coroutine[Any, Any, object],
    reason: Reason,
    *,
    free: bool = False,
) -> None:
    """Settle what passed of a stream that broke or was stopped, and never let the client take it for a whole answer.
    `free`: nothing passed, so that a refusal may still be told."""
    proxy, context, exchange, hold = course.proxy, course.context, course.exchange, course.hold
    context.cut = reason
    try:
        await proxy.settlements.uncancelled(hold, settling)
    except SettlementLost as error:
        course.outcomes.lost(context, error)
    if free and exchange.unsent:  # a refusal costs nothing: what was charged is cut instead
        course.outcomes.refuse(exchange, context, uncharged(refusals.upstream_error(), context, hold))
    else:
        course.outcomes.count(context, 502)
        exchange.abort()
    await flush(course)


async def flush(course: Course) -> None:
    """Wait until the client has taken what was written, then end."""
    await course.exchange.flushed()
    course.end()
