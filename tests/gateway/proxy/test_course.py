"""A course as a state machine: whatever it is told, in whatever order, and wherever it fails, its hold ends once and
right, no end of an answer is out before its debit, and an answer that was cut never looks whole.

Holds, settlements, outcomes and what goes on without the client are the real ones; Redis, the ledger, the provider's
connection and the client are played.
"""

import asyncio
import linecache
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType, SimpleNamespace
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from multidict import CIMultiDict

from billing.holds.api import Holds
from billing.holds.model import Hold, HoldSettings, Settled, Settlement, Unavailable, VoidItem, refusal
from billing.holds.redis import layout
from billing.holds.redis.connection import RedisAway, RedisError
from gateway.config.defaults import AttemptSettings, EstimateSettings, RequestSettings
from gateway.dialects.base import Match
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.proxy import course as course_module
from gateway.proxy.course import Course
from gateway.proxy.detached import Detached, Running
from gateway.proxy.handler import Proxy
from gateway.proxy.outcomes import Outcomes, Unseen
from gateway.proxy.settlement.missing_usage import MissingUsage
from gateway.proxy.settlement.settlements import Settlements
from gateway.server import refusals
from gateway.server.exchange import ClientGone
from gateway.server.limit_refusals import Links
from gateway.server.refusals import Refuse
from gateway.upstream.base import UpstreamCut, UpstreamTimeout
from gateway.upstream.transport import HttpTransport, Response, StaleConnection
from tests.gateway.proxy.test_preparation import anew, preparation
from tests.support.answering import DONE, WORDS, answer, usage_chunk

DIALECT = OpenAIDialect()
MATCH = Match(DIALECT, next(each for each in DIALECT.endpoints if each.path == "/v1/chat/completions"))
WHOLE = msgspec.json.encode(answer())
PIECES = {False: (WHOLE[:30], WHOLE[30:]), True: (*WORDS, usage_chunk(), DONE)}
ENDED = frozenset(("settled", "refused", "voided"))
EPOCH = 1


class Fault(Exception):
    """A fault of ours, in the midst of a transition."""


class Faults:
    """Raises in the next line of a course's transitions that calls something, after `left` others."""

    # What ends a course whose transition has failed, what runs its detours, and what only calls another transition.
    SAFE: Final = frozenset(
        (
            "fault",
            "failed",
            "refuse",
            "close",
            "over",
            "end",
            "let_go",
            "taken",
            "detour",
            "guarded",
            "back_from",
            "left",
        )
    )

    def __init__(self) -> None:
        self.left: int | None = None
        self.raised = False

    def __enter__(self) -> None:
        sys.settrace(self.called)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def called(self, frame: FrameType, *_: object) -> Any:
        code = frame.f_code
        ours = code.co_filename == course_module.__file__ and code.co_name not in self.SAFE
        return self.line if ours and self.left is not None else None

    def line(self, frame: FrameType, event: str, _: object) -> Any:
        if (
            event == "line"
            and self.left is not None
            and "(" in linecache.getline(course_module.__file__, frame.f_lineno)
        ):
            self.left -= 1
            if self.left < 0:
                self.left, self.raised = None, True
                raise Fault(frame.f_code.co_name, frame.f_lineno)
        return self.line


class Client:
    """As much of an exchange as a course sees, and what it was told."""

    over = None
    path = "/v1/chat/completions"
    match = MATCH
    envelope = DIALECT
    peer = "127.0.0.1"
    raw_headers = ()
    key_digest = kept_facts = listener = None

    def __init__(self, machine: "Life", body: bytes) -> None:
        self.headers: Any = CIMultiDict({"Authorization": "Bearer mg_x"})
        self.machine = machine
        self.body = body
        self.begun = self.whole = self.unsent = self.aborted = self.gone = self.stalled = False
        self.status = 0
        self.cut_for: Any = None

    def claim(self, _: str) -> bool:
        return True

    def all_headers(self) -> Any:
        return self.headers

    def remember(self, _: bytes) -> None:
        pass

    def here(self, _: int) -> bytes | None:
        return None if self.machine.is_slow else self.body

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        self.machine.must(not self.whole, "one answer")
        self.machine.ends_now(status)
        self.begun = self.whole = True
        self.unsent = False
        self.status = status

    def begin(self, status: int, lines: bytes) -> None:
        self.machine.must(not self.begun, "one answer")
        self.begun = self.unsent = True
        self.status = status

    def put(self, data: bytes) -> bool:
        if self.gone or self.aborted:
            raise ClientGone
        self.machine.must(DONE not in data, "the end waits for the debit")
        self.unsent = False
        return not self.stalled

    def finish(self, last: bytes) -> None:
        if self.gone or self.aborted:
            raise ClientGone
        self.machine.ends_now(200)
        self.whole = True

    @property
    def waits(self) -> bool:
        return self.stalled and not self.gone

    async def flushed(self) -> None:
        while self.waits:
            await asyncio.sleep(0)

    @property
    def ended_for(self) -> str:
        return self.cut_for or "client_gone"

    def hold_closed(self) -> None:
        self.cut_for = "hold_closed"

    def abort(self) -> None:
        self.aborted = True


class Link:
    """A provider's connection."""

    def __init__(self) -> None:
        self.paused = self.released = False
        self.has_sent_all = True
        self.waiter: asyncio.Future[None] | None = None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def finish(self) -> bool:
        assert not self.released, "it is released once"
        self.released = True
        return True

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter


class Elsewhere:
    """An answer that a connection of this process does not give, so that it can only be awaited."""

    def __init__(self, answer: Response) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)


class Provider(HttpTransport):
    """Takes requests, at once while `idle`."""

    def __init__(self, machine: "Life") -> None:
        self.machine = machine
        self.idle = True
        self.waiting: list[asyncio.Future[Any]] = []
        self.requests: list[Any] = []
        """That were sent, and whose answers are awaited."""

    def send_now(self, request: Any, on_change: Callable[[], None]) -> Response | None:
        self.machine.sent()
        if not self.idle:
            return None
        made = self.machine.connected()
        made.on_change = on_change
        return made

    async def send(self, request: Any) -> Response:
        self.machine.sent()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.requests.append(request)
        try:
            return await future
        except asyncio.CancelledError:
            if self.machine.has_sent_all:
                request.pending = self.machine.connected()
            raise

    repeat = send


class Life(RuleBasedStateMachine):
    """One request. `has_usage` says whether its provider reports usage, `is_slow` that its body does not come with its
    head, `is_unpaid` that its account's status must be looked at."""

    course_class = Course
    has_usage = True
    is_slow = is_unpaid = has_sent_all = False

    @initialize(
        stream=st.booleans(), known=st.booleans(), idle=st.booleans(), bounded=st.booleans(), strict=st.booleans()
    )
    def begin(self, stream: bool, known: bool, idle: bool, bounded: bool, strict: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults = Faults()
        self.broken: list[str] = []
        self.items: list[Any] = []
        self.held: list[Hold] = []
        self.live = _Live(self.held)
        self.direct: list[tuple[Hold, Settlement]] = []
        self.link: Link | None = None
        self.response: Response | None = None
        self.is_sent = self.is_over = False
        self.stream, self.known, self.strict = stream, known, strict
        self.pieces = list(PIECES[stream])
        if not self.has_usage:
            self.pieces = [*WORDS, DONE] if stream else [msgspec.json.encode(answer(reported={}))]
        fields: dict[str, Any] = {"model": "m", "messages": [], **({"max_tokens": 5} if bounded else {})}
        self.client = Client(self, msgspec.json.encode({**fields, "stream": True} if stream else fields))

        async def make() -> None:
            self.make(idle)
            self.run_course(self.course.begin)

        self.loop.run_until_complete(make())

    def make(self, idle: bool) -> None:
        loop = asyncio.get_running_loop()
        metrics: Any = _Anything()
        partition = SimpleNamespace(epoch=EPOCH, number=0, now_ms=lambda: 1)
        partitions = SimpleNamespace(
            all=[partition], of=lambda _: partition, keyspace=layout.Keyspace(), lost_writes=lambda *_: None
        )
        tasks: set[Any] = set()

        def spawn(work: Any) -> None:
            task = loop.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        batcher = SimpleNamespace(submit=lambda item: bool(self.items.append(item)))
        running = SimpleNamespace(batchers=[batcher], loop=loop, tasks=tasks, live=self.live, spawn=spawn)
        running.submit = lambda _, item: self.items.append(item)
        repairs = SimpleNamespace(partitions=partitions, decide=self.decide)
        outbox = SimpleNamespace(waiting=_Waiting(), add=lambda _: None)
        direct = SimpleNamespace(add=lambda hold, item, _=None: self.direct.append((hold, item)))
        none: Any = None
        holds = Holds(none, repairs, running, outbox, direct, gateway_id="g", settings=HoldSettings())  # type: ignore[arg-type]
        made = preparation(1_000_000)
        made._rules = EstimateSettings(strict=self.strict)
        principal = replace(anew(), status="suspended") if self.is_unpaid else anew()
        request = RequestSettings()
        proxy = Proxy.__new__(Proxy)
        proxy.holds, proxy.metrics = holds, metrics
        missing = MissingUsage("hold", none)
        proxy.settlements = Settlements(holds, missing, metrics, request.max_usage_factor)
        records: Any = _Anything(log=None, going_on=lambda _, work: work)
        proxy.records = records
        poller: Any = _Anything()
        proxy.detached = self.detached = Detached(proxy.settlements, request, records, poller)
        proxy.outcomes = Outcomes(proxy.settlements, metrics, records)
        proxy.unseen = Unseen(proxy.settlements, metrics, records)
        proxy.poller = proxy.unknown_tools = poller
        proxy.running = Running(request.max_request_s)
        self.provider = Provider(self)
        self.provider.idle = idle
        proxy.transports = {"p": self.provider}
        proxy.prompt = {"p": self.provider}
        proxy.attempts, proxy.estimate = AttemptSettings(retries=1, retry_backoff_ms=0), EstimateSettings()
        proxy.first_timeout_s, proxy.in_thread, proxy.answer_bytes = None, None, 1_000
        proxy.tool_overrun_percent, proxy.tracer, proxy.body_log = 20, None, None
        proxy.max_body_bytes = proxy.small_bytes = 1_000_000
        proxy.links, proxy.prepare, proxy.need = Links(None, {}), made.context, made.need
        proxy._charge_expired = False
        proxy.cached = lambda _: principal if self.known else None  # type: ignore[method-assign]

        async def admit(*_: Any) -> Any:
            for _ in range(4):  # whose client may leave meanwhile
                await asyncio.sleep(0)
            if not self.known and self.client.gone:
                raise Refuse(refusals.invalid_key(None))
            return principal

        async def slowly(*_: Any) -> Any:
            await asyncio.sleep(0)
            body, self.client.body = self.client.body, b""
            return body, DIALECT.parse(self.client, body)  # type: ignore[arg-type]

        async def paid(*_: Any) -> None:
            await asyncio.sleep(0)

        async def record(*_: Any) -> None:
            await asyncio.sleep(0)

        some: Any = _Anything(of=lambda _: _Anything(), record=record)
        proxy.bodies = proxy.stored = some
        proxy.intake, proxy.check_paid = SimpleNamespace(slowly=slowly), paid  # type: ignore[method-assign, assignment]
        proxy.admit = admit  # type: ignore[method-assign]
        proxy.clock, proxy.new_id = loop.time, lambda: "01ARZ3NDEKTSV4RRFFQ69G5FAV"
        proxy.start, proxy.call_soon = loop.create_task, loop.call_soon
        course = self.course = self.course_class(proxy, self.client, self.note_over)  # type: ignore[arg-type]
        assert course.state == "read"

    async def decide(self, reply: Any, epoch: int, request: Any, target: Any, deadline: float) -> Any:
        """What `StateRepair` does: what Redis lacked is there at once."""
        await asyncio.sleep(0)
        if isinstance(reply, RedisError):
            return Unavailable("Redis is away")
        return None if reply[0] == layout.MISSING else refusal(reply, target.limits, request.need)

    # What is noted.

    def must(self, holds: bool, what: str) -> None:
        """Note what is broken: a course would take an assertion that fails within it for a fault of its own."""
        if not holds:
            self.broken.append(what)

    def note_over(self) -> None:
        self.must(not self.is_over, "it is told once")
        self.is_over = True

    def sent(self) -> None:
        self.must(bool(self.held), "nothing is sent before admission has said yes")
        self.must(not self.is_over, "nothing is sent for a client that was told the end, or has left")
        self.is_sent = True

    def connected(self) -> Response:
        self.link = Link()
        self.response = Response(self.link)  # type: ignore[arg-type]
        return self.response

    def ends_now(self, status: int) -> None:
        """The end of an answer is about to be written."""
        if status == 200:
            ended = bool(self.held) and self.held[-1].state in ("settled", "voided")
            self.must(ended, "no end of an answer is out before its debit")

    def run_course(self, event: Callable[[], object]) -> None:
        with self.faults:
            event()

    def turns(self, most: int = 6) -> None:
        """Let detours go on."""

        async def wait() -> None:
            for _ in range(most):
                await asyncio.sleep(0)

        with self.faults:
            self.loop.run_until_complete(wait())

    def do(self, event: Callable[[], object]) -> None:
        """Tell an event in a turn of the event loop."""

        async def tell() -> None:
            event()

        with self.faults:
            self.loop.run_until_complete(tell())

    # What happens.

    @rule()
    def others_have_their_turn(self) -> None:
        self.turns()

    @precondition(lambda self: self.faults.left is None and not self.faults.raised)
    @rule(after=st.integers(0, 25))
    def a_transition_will_fail(self, after: int) -> None:
        self.faults.left = after

    @precondition(lambda self: self.items)
    @rule(how=st.sampled_from(["ok", "ok", "ok", "refused", "missing", "away"]))
    def redis_replies(self, how: str) -> None:
        item, reply = self.items.pop(0), self.reply(how)
        self.do(lambda: item.resolve(reply(item), EPOCH))

    def reply(self, how: str) -> Callable[[Any], Any]:
        def made(item: Any) -> Any:
            if how == "away":
                return RedisAway("away")
            if isinstance(item, Hold):
                if how == "refused":
                    return [layout.BALANCE, 0, 10, 0]
                if how == "missing":
                    return [layout.MISSING]
                return [layout.OK, item.need.most_output // 2 or item.need.most_output, 1, 10**9, 0]
            if isinstance(item, VoidItem):
                return [layout.OK]
            return [layout.GONE] if how in ("refused", "missing") else [layout.OK, 1, 10**9]

        return made

    @precondition(lambda self: self.direct)
    @rule(how=st.sampled_from(["settled", "expired", "late"]))
    def the_ledger_decides(self, how: str) -> None:
        hold, item = self.direct.pop(0)

        def tell() -> None:
            if how == "settled":
                hold.enter("settled")
                item.end(Settled(None))
            elif how == "expired":
                hold.enter("refused")
                item.lose("expired")
            else:
                item.lose("late")
                hold.enter("settled")
            self.live.pop(hold.id, None)

        self.do(tell)

    @precondition(lambda self: self.provider.waiting)
    @rule(works=st.booleans(), elsewhere=st.booleans())
    def a_connection_is_made(self, works: bool, elsewhere: bool) -> None:
        future = self.provider.waiting.pop(0)

        def tell() -> None:
            if future.done():
                return
            if works:
                made = self.connected()
                self.head(made, 200)
                future.set_result(Elsewhere(made) if elsewhere else made)
            else:
                future.set_exception(UpstreamTimeout("silent"))

        self.do(tell)
        self.turns()

    def head(self, made: Response, status: int) -> None:
        kind = b"text/event-stream" if self.stream and status == 200 else b"application/json"
        made.headers = [(b"Content-Type", kind)]
        made.status = status

    def open_answer(self) -> Response | None:
        made, link = self.response, self.link
        over = made is None or link is None or link.released or made.ended or made.failure is not None
        return None if over else made

    def changed(self, made: Response) -> None:
        if made.on_change is not None:
            made.on_change()
        elif self.link is not None:
            self.link.wake()

    @precondition(lambda self: self.open_answer() is not None and not self.response.status)
    @rule(status=st.sampled_from([200, 200, 200, 200, 400, 401, 500]), with_body=st.booleans())
    def the_head_comes(self, status: int, with_body: bool) -> None:
        made = self.response
        assert made is not None

        def tell() -> None:
            self.head(made, status)
            if with_body or status != 200:
                made.receive(b"".join(self.pieces) if status == 200 else b"{}")
                self.pieces.clear()
                made.ended = True
            self.changed(made)

        self.do(tell)

    @precondition(lambda self: self.open_answer() is not None and self.response.status == 200 and self.pieces)
    @rule(last=st.booleans())
    def more_comes(self, last: bool) -> None:
        made = self.response
        assert made is not None

        def tell() -> None:
            made.receive(self.pieces.pop(0))
            if last and not self.pieces:
                made.ended = True
            self.changed(made)

        self.do(tell)

    @precondition(lambda self: self.open_answer() is not None)
    @rule(how=st.sampled_from(["cut", "silent", "stale", "end"]))
    def the_provider_stops(self, how: str) -> None:
        made = self.response
        assert made is not None

        def tell() -> None:
            if how == "end" and made.status:
                made.ended = True
            elif how == "stale" and not made.status:
                made.failure = StaleConnection("stale")
            else:
                made.failure = UpstreamTimeout("silent") if how == "silent" else UpstreamCut("cut")
            self.changed(made)

        self.do(tell)

    @rule(stalled=st.booleans())
    def the_client_takes_more_or_nothing(self, stalled: bool) -> None:
        self.client.stalled = stalled

    @precondition(lambda self: not self.client.gone)
    @rule(has_sent_all=st.booleans())
    def the_client_leaves(self, has_sent_all: bool) -> None:
        self.client.gone, self.has_sent_all = True, has_sent_all
        if self.link is not None and not self.response.status:  # type: ignore[union-attr]
            self.link.has_sent_all = has_sent_all
        self.do(self.course.left)

    @precondition(lambda self: self.client.gone)
    @rule()
    def the_time_without_the_client_is_over(self) -> None:
        self.do(self.detached.drain_now)

    # What holds.

    @invariant()
    def nothing_is_broken(self) -> None:
        assert not getattr(self, "broken", [])

    @invariant()
    def a_cut_never_looks_whole(self) -> None:
        client = getattr(self, "client", None)
        if client is not None and client.whole and client.status == 200 and self.held:
            assert self.held[-1].state in ("settled", "voided")

    @invariant()
    def it_is_over_before_it_ends(self) -> None:
        course = getattr(self, "course", None)
        if course is not None and course.state == "end":
            assert course.is_over
            assert self.is_over

    def teardown(self) -> None:
        if not hasattr(self, "course"):
            return
        self.client.stalled = False
        try:
            for _ in range(60):
                if self.provider.waiting:
                    self.a_connection_is_made(False, False)
                elif self.items:
                    self.redis_replies("ok")
                elif self.direct:
                    self.the_ledger_decides("settled")
                elif self.open_answer() is not None:
                    self.the_provider_stops("cut")
                else:
                    self.do(self.detached.drain_now)
                self.turns()
            assert not self.broken
            assert self.course.state == "end", self.course
            assert self.course.task is None
            for hold in self.held:
                assert hold.state in ENDED, hold
            assert not self.live
            client = self.client
            assert client.gone or client.whole or client.aborted, "the client is told something"
            if self.held and client.whole and client.status == 200:
                assert not client.aborted or self.faults.raised
            if self.link is not None:
                assert self.link.released
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            if pending:
                self.loop.run_until_complete(asyncio.wait(pending, timeout=1))  # a hold that is left open would wait on
            self.loop.close()


class _Anything:
    """Takes any call."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Live(dict[str, Hold]):
    """Holds that run; all that there were are noted."""

    def __init__(self, noted: list[Hold]) -> None:
        super().__init__()
        self._noted = noted

    def __setitem__(self, name: str, hold: Hold) -> None:
        super().__setitem__(name, hold)
        self._noted.append(hold)


class _Waiting:
    def __len__(self) -> int:
        return 0

    def count_locked(self, _: str) -> int:
        return 0


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Faults are logged with their tracebacks, some thousand of them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


TestCourse = Life.TestCase
TestCourse.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink),
)


# Single courses.


def begun(*, stream: bool = False, known: bool = True, idle: bool = True) -> Life:
    life = Life()
    life.begin(stream, known, idle, True, False)
    return life


def fails(*_: object) -> Any:
    raise Fault


@pytest.mark.parametrize(("stream", "has_head"), [(False, False), (False, True), (True, True)])
def test_a_fault_as_a_client_leaves_frees_the_provider_s_connection(stream, has_head):
    life = begun(stream=stream)
    life.redis_replies("ok")
    if has_head:
        life.the_head_comes(200, False)
    life.detached.begin = fails  # type: ignore[method-assign]
    life.the_client_leaves(True)
    life.turns()
    assert life.link is not None
    assert life.link.released
    life.teardown()


def test_a_fault_before_an_awaited_answer_is_looked_at_frees_the_provider_s_connection(monkeypatch):
    life = begun(idle=False)
    life.redis_replies("ok")
    life.turns()
    monkeypatch.setattr(course_module, "failure_of_status", fails)
    made = life.connected()
    life.head(made, 500)
    life.do(lambda: life.provider.waiting.pop().set_result(made))
    life.turns()
    assert life.link is not None
    assert life.link.released
    life.teardown()


def test_a_fault_as_a_refusal_is_passed_on_frees_the_provider_s_connection(monkeypatch):
    life = begun()
    life.redis_replies("ok")
    monkeypatch.setattr(Hold, "owe_nothing", fails)
    life.the_head_comes(400, True)
    life.turns()
    assert life.link is not None
    assert life.link.released
    assert life.client.status >= 500
    life.teardown()


def test_a_fault_after_the_client_has_left_frees_the_provider_s_connection(monkeypatch):
    life = begun()
    life.redis_replies("ok")
    life.the_client_leaves(True)
    monkeypatch.setattr(course_module, "incoming", fails)
    life.turns()
    life.the_head_comes(200, False)
    life.turns()
    assert life.link is not None
    assert life.link.released
    life.teardown()


@pytest.mark.parametrize("leaves", [True, False])
def test_a_fault_as_an_awaited_answer_is_left_frees_the_provider_s_connection(monkeypatch, leaves):
    life = begun(idle=False)
    life.redis_replies("ok")
    life.turns()
    life.provider.requests.pop().pending = life.connected()
    if leaves:
        life.detached.begin = fails  # type: ignore[method-assign]
        life.the_client_leaves(True)
    else:
        monkeypatch.setattr(Hold, "owe", fails)
        life.do(lambda: life.provider.waiting.pop().set_exception(Fault()))
    life.turns()
    assert life.link is not None
    assert life.link.released
    life.teardown()


def test_nothing_fails_beside_the_detour_of_a_request_that_is_told_at_once(monkeypatch):
    """Redis is away as it is asked: a request that was refused in that moment would be asked for again all the same."""
    life = begun(known=False)
    batcher = life.course.proxy.holds.admissions.running.batchers[0]
    submit = batcher.submit

    def told_at_once(item: Any) -> bool:
        batcher.submit = submit
        item.resolve([layout.MISSING], EPOCH)
        return True

    batcher.submit = told_at_once
    monkeypatch.setattr(course_module, "prepare", fails)
    life.turns(20)
    assert not life.client.begun
    life.redis_replies("ok")
    assert life.held
    life.teardown()


def test_a_reply_that_can_t_be_read_refuses_and_its_hold_is_given_back():
    life = begun()
    item, late = life.items.pop(0), []
    item._admitting.running.loop = SimpleNamespace(call_later=lambda *each: late.append(each))
    with pytest.raises(IndexError):
        life.do(lambda: item.resolve([layout.OK], EPOCH))
    item._admitting.running.loop = life.loop
    life.do(lambda: item.resolve(RedisError("it could not be acted on"), EPOCH))
    life.turns()
    assert (life.course.state, life.client.status, len(late)) == ("end", 503, 1)
    life.teardown()


def test_who_leaves_while_an_answer_that_broke_is_given_back_is_not_charged():
    life = begun()
    life.redis_replies("ok")
    life.the_head_comes(200, False)
    (hold,) = life.held
    moved = hold.moving = life.loop.create_future()
    life.the_provider_stops("cut")
    life.turns()
    life.the_client_leaves(True)
    life.turns()
    hold.moving = None
    life.do(lambda: moved.set_result(None))
    life.turns()
    life.teardown()
    assert hold.state == "voided"


def test_what_a_provider_sends_during_a_detour_waits_for_its_end():
    life = begun(stream=True)
    life.redis_replies("ok")
    life.client.stalled = True
    life.the_head_comes(200, False)
    life.more_comes(False)
    life.turns()
    task = life.course.task
    assert task is not None
    life.more_comes(False)
    assert life.course.task is task
    life.teardown()


def test_a_stream_ends_after_its_debit():
    life = begun(stream=True)
    life.redis_replies("ok")
    life.the_head_comes(200, True)
    assert not life.client.whole
    assert (life.course.state, life.held[-1].state) == ("settle", "settling")
    life.redis_replies("ok")
    assert life.client.whole
    life.teardown()


@pytest.mark.parametrize("is_told", [True, False])
def test_an_answer_whose_reader_finds_the_client_gone_is_read_to_its_end(monkeypatch, is_told):
    """A client may leave between the moment at which a detour is made and its first step, which finds it gone."""
    life = begun(stream=True, idle=False)
    course, real = life.course, Course.detour

    def then_leaves(self: Course, work: Any, *, reads: bool = False) -> None:
        real(self, work, reads=reads)
        if reads and not life.client.gone:
            life.client.gone = True
            if is_told:
                self.left()

    monkeypatch.setattr(Course, "detour", then_leaves)
    life.redis_replies("ok")
    life.turns()
    made = life.connected()
    life.head(made, 200)
    made.receive(life.pieces.pop(0))
    life.do(lambda: life.provider.waiting.pop().set_result(Elsewhere(made)))
    life.turns()
    assert (course.state, course.alone is None) == ("stream", False)
    while life.pieces:
        life.more_comes(True)
        life.turns()
    assert course.state == "settle"
    life.redis_replies("ok")
    life.turns()
    assert life.held[-1].state == "settled"
    charged = course.context.charged
    assert charged is not None
    assert not charged.estimated
    life.teardown()
