"""Responses in the background: held until their provider is done, paid once, whoever polls them then."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from ulid import ULID

from billing.database.connection import DatabaseError, DatabaseUnavailable
from billing.holds.model import SettlementLost
from billing.money import parse_usd
from tests.gateway.conftest import Customer, Gateway, GatewayOf, MakeGateway
from tests.gateway.dialects.openai_responses.bodies import COST, event, response
from tests.support.answering import BOUND_S, SSE, until
from tests.support.compiled import on_sources
from tests.support.gateways import Fetched, ask, refusal, spent_nano, the_event

pytestmark = pytest.mark.slow

ASKED = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 200, "background": True}
QUICK = {"background_poll_s": 0.05, "background_lease_s": 1.0}
PATH, OPEN = "/v1/responses", "SELECT count(*) FROM background_jobs WHERE done_at IS NULL"


@dataclass
class Worker:
    """A provider that works in the background until a test says what came of it."""

    name: str = "resp_1"
    answer: dict[str, Any] = field(default_factory=lambda: response(status="queued", usage=None, output=[]))
    status: int = 200
    asked: list[str] = field(default_factory=list)
    gone: bool = False
    hangs: asyncio.Event | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(f"{request.method} {request.path}")
        if self.gone and request.transport is not None:
            request.transport.abort()
        if request.method == "GET" and self.hangs is not None:
            await self.hangs.wait()
        if request.method == "GET" and self.status != 200:
            return web.json_response({"error": {"message": "gone"}}, status=self.status)
        return web.json_response({**self.answer, **({"id": self.name} if self.answer["id"] == "resp_1" else {})})

    def polled(self) -> int:
        return self.asked.count(f"GET {PATH}/{self.name}")


@pytest.fixture
def worker() -> Worker:
    return Worker(f"resp_{ULID()}")


@pytest.fixture
async def make(make_gateway: MakeGateway, upstream: Any, worker: Worker) -> Any:
    url = await upstream(worker.serve)

    async def made(**limits: Any) -> Gateway:
        return await make_gateway(url, **{**QUICK, **limits})

    return made


@pytest.fixture
async def gateway(gateway_of: GatewayOf, worker: Worker) -> Gateway:
    return await gateway_of(worker.serve, **QUICK)


@pytest.fixture
async def customer(gateway: Gateway) -> Customer:
    return await gateway.customer()


async def respond(customer: Customer, **fields: Any) -> Fetched:
    return await ask(customer, {**ASKED, **fields}, PATH)


async def held(customer: Customer) -> bool:
    return (await customer.balance())["held_usd"] != "0.00"


async def all_done(gateway: Gateway) -> None:
    async def done() -> bool:
        return not await gateway.runtime.database.value(OPEN)

    await until(done)


async def test_it_is_held_until_it_is_done_though_nobody_asks(gateway, customer, worker):
    fetched = await respond(customer)
    assert (fetched.status, fetched.json["status"]) == (200, "queued")
    await until(lambda: worker.polled() >= 2)
    assert await held(customer)
    assert await customer.events() == []
    worker.answer = response(service_tier="default")
    await all_done(gateway)
    found = await the_event(customer, COST)
    assert (found["id"], found["estimated"]) == (fetched.headers["x-request-id"], False)
    polls = worker.polled()
    await asyncio.sleep(0.2)
    assert worker.polled() == polls


async def test_what_the_client_reads_is_not_billed_again(gateway, customer, worker):
    await respond(customer)
    async with customer.get(f"{PATH}/{worker.name}") as answer:
        assert (await answer.json())["status"] == "queued"
    worker.answer = response(status="cancelled", service_tier="default")
    async with customer.post(f"{PATH}/{worker.name}/cancel") as answer:
        assert (await answer.json())["status"] == "cancelled"
    await all_done(gateway)
    assert await spent_nano(customer) == COST
    assert sorted(parse_usd(event["charged_usd"]) for event in await customer.events()) == [0, 0, COST]


@pytest.mark.parametrize(
    ("ended", "status", "free"),
    [
        (response(status="failed", usage=None, output=[], error={"code": "server_error"}), 200, True),
        (response(status="cancelled", usage=None), 200, False),
        (response(), 404, False),
    ],
)
async def test_without_usage_what_was_written_costs_the_hold(gateway, customer, worker, ended, status, free):
    await respond(customer)
    worker.answer, worker.status = ended, status
    await all_done(gateway)
    spent = await spent_nano(customer)
    assert (spent == 0) is free
    assert free or (await the_event(customer))["estimated"]


async def test_one_that_never_ends_costs_its_hold_and_is_stopped(make, worker):
    gateway = await make(background_expiry_s=1)
    customer = await gateway.customer()
    await respond(customer)
    await all_done(gateway)
    assert f"POST {PATH}/{worker.name}/cancel" in worker.asked
    assert (await the_event(customer))["estimated"]


async def test_one_whose_provider_is_gone_costs_its_hold_when_it_expires(make, worker):
    gateway = await make(background_expiry_s=1)
    customer = await gateway.customer()
    await respond(customer)
    worker.gone = True
    await all_done(gateway)
    assert (await the_event(customer))["estimated"]
    await until(lambda: not gateway.proxy.poller._following)


async def test_a_gateway_that_stops_does_not_wait_for_a_silent_provider(make, worker):
    gateway = await make()
    customer = await gateway.customer()
    worker.hangs = asyncio.Event()
    await respond(customer)
    await until(lambda: worker.polled() == 1)
    async with asyncio.timeout(BOUND_S):
        await gateway.proxy.poller.stop()
        await until(lambda: not gateway.runtime.engine.holds.live)
    assert await customer.events() == []
    assert not await held(customer)
    worker.hangs.set()


@pytest.mark.parametrize("place", ["stored.record", "poller.begin"])
async def test_a_client_that_leaves_while_it_is_kept_is_charged_what_it_used(
    gateway, customer, worker, monkeypatch, place
):
    owner, name = place.split(".")
    part = getattr(gateway.proxy, owner)
    real, reached, calls = getattr(part, name), asyncio.Event(), []

    async def slow(*args):
        calls.append(args)
        if len(calls) == 1:
            reached.set()
            await asyncio.Event().wait()
        return await real(*args)

    monkeypatch.setattr(part, name, slow)
    asking = asyncio.create_task(respond(customer))
    await reached.wait()
    asking.cancel()
    await until(lambda: worker.polled() >= 1)
    worker.answer = response(service_tier="default")
    await all_done(gateway)
    assert not (await the_event(customer, COST))["estimated"]


async def test_a_gateway_that_stops_leaves_it_to_another(make_gateway, upstream, worker):
    url = await upstream(worker.serve)
    first, second = await make_gateway(url, **QUICK), await make_gateway(url, **QUICK)
    customer = await first.customer()
    there = Customer(second, customer.account_id, customer.key_id, customer.key)
    request_id = (await respond(customer)).headers["x-request-id"]
    await first.proxy.poller.stop()
    await until(lambda: not first.runtime.engine.holds.live)
    worker.answer = response(service_tier="default")
    await all_done(second)
    found = await the_event(there, COST)
    assert (found["id"], found["estimated"]) == (request_id, False)


async def test_another_gateway_pays_it_once_where_its_own_is_lost(make_gateway, upstream, worker, monkeypatch):
    url = await upstream(worker.serve)
    first, second = await make_gateway(url, **QUICK), await make_gateway(url, **QUICK)
    lost = asyncio.Event()
    poller = first.proxy.poller

    async def dead(*_):
        await lost.wait()

    monkeypatch.setattr(poller, "_follow", dead)
    monkeypatch.setattr(poller._jobs, "claim", lambda _: _nothing())
    customer = await first.customer()
    there = Customer(second, customer.account_id, customer.key_id, customer.key)
    request_id = (await respond(customer)).headers["x-request-id"]
    await first.runtime.engine.lease.stop()
    await first.runtime.engine.lease.end()
    await until(lambda: worker.polled() >= 2)
    worker.answer = response(service_tier="default")
    worker.answer["usage"] = {**worker.answer["usage"], "odd_tokens": 3}
    async with asyncio.timeout(BOUND_S):
        await all_done(second)

    async def paid():
        return parse_usd("5.00") - parse_usd((await there.balance())["balance_usd"]) == COST

    await until(paid)
    events = await there.events()
    assert sorted(parse_usd(event["charged_usd"]) for event in events)[-1] == COST
    assert sum(parse_usd(event["charged_usd"]) for event in events) == COST
    assert request_id in {event["id"] for event in events}
    assert b'metergate_usage_anomalies_total{anomaly="field",provider="openai"} 1.0' in await second.metrics()
    lost.set()


async def _nothing() -> list[Any]:
    return []


async def test_what_could_not_be_followed_is_refused(make, worker):
    gateway = await make(background_jobs=1)
    customer = await gateway.customer()
    refusal(await respond(customer, store=False), 400, "invalid_request_error")
    assert worker.asked == []
    assert (await respond(customer)).status == 200
    refusal(await respond(customer), 503, "temporarily_unavailable")
    worker.answer = response()
    await all_done(gateway)


async def test_one_account_does_not_take_all_places(make, worker):
    gateway = await make(background_jobs=4)
    one, other = await gateway.customer(), await gateway.customer()
    for name in ("resp_1", "resp_2"):
        worker.answer = {**worker.answer, "id": name}
        assert (await respond(one)).status == 200
    refusal(await respond(one), 503, "temporarily_unavailable")
    worker.answer = {**worker.answer, "id": "resp_3"}
    assert (await respond(other)).status == 200
    worker.answer = response()
    await all_done(gateway)


class Streaming(Worker):
    """A provider that streams, up to `cut` bytes of it, what it does in the background; then it waits for `go_on`."""

    begun = event("response.created", response=response(status="queued", usage=None, output=[]))
    cut: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return await super().serve(request)
        await request.read()
        answer = web.StreamResponse(headers=SSE)
        await answer.prepare(request)
        await answer.write(self.begun)
        await self.go_on.wait()
        if self.cut and request.transport is not None:
            request.transport.abort()
        else:
            await answer.write(event("response.completed", response=response(service_tier="default")))
        return answer


async def test_a_streamed_one_is_paid_by_its_stream(make_gateway, upstream):
    worker = Streaming()
    gateway = await make_gateway(await upstream(worker.serve), **QUICK)
    customer = await gateway.customer()
    async with customer.post(PATH, {**ASKED, "stream": True}) as answer:
        assert await answer.content.readuntil(b"\n\n") == worker.begun
        assert await gateway.runtime.database.value(OPEN) == 1
        worker.go_on.set()
        assert b"response.completed" in await answer.read()
    found = await the_event(customer, COST)
    assert (found["id"], found["estimated"]) == (answer.headers["x-request-id"], False)
    await all_done(gateway)
    assert worker.polled() == 0
    await until(lambda: not gateway.proxy.poller._following)


@pytest.mark.parametrize("broken", ["client", "provider"])
async def test_a_streamed_one_goes_on_where_its_stream_breaks(make_gateway, upstream, broken):
    worker = Streaming()
    worker.cut = broken == "provider"
    gateway = await make_gateway(await upstream(worker.serve), **QUICK)
    customer = await gateway.customer()
    async with customer.post(PATH, {**ASKED, "stream": True}) as answer:
        assert await answer.content.readuntil(b"\n\n") == worker.begun
        if worker.cut:
            worker.go_on.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        request_id = answer.headers["x-request-id"]
    await until(lambda: worker.polled() >= 2)
    assert await held(customer)
    worker.answer = response(service_tier="default")
    await all_done(gateway)
    found = await the_event(customer, COST)
    assert (found["id"], found["estimated"]) == (request_id, False)
    worker.go_on.set()
    await until(lambda: not gateway.proxy.poller._following and not gateway.proxy.poller._passing)


def away(times: int, call: Any, error: type[DatabaseError] = DatabaseError) -> Any:
    """Postgres is away for the first so many of these calls."""
    left = [times]

    async def called(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error("away")
        return await call(*given)

    return called


async def test_postgres_away_while_it_runs_loses_nothing(gateway, customer, worker, monkeypatch):
    jobs = gateway.proxy.poller._jobs
    for name in ("renew", "done"):
        monkeypatch.setattr(jobs, name, away(3, getattr(jobs, name)))
    request_id = (await respond(customer)).headers["x-request-id"]
    worker.answer = response(service_tier="default")
    await all_done(gateway)
    found = await the_event(customer, COST)
    assert (found["id"], found["estimated"]) == (request_id, False)


async def test_one_that_postgres_takes_late_is_kept(gateway, customer, worker, monkeypatch):
    jobs = gateway.proxy.poller._jobs
    monkeypatch.setattr(jobs, "begin", away(2, jobs.begin, DatabaseUnavailable))
    assert (await respond(customer)).status == 200
    worker.answer = response(service_tier="default")
    await all_done(gateway)
    assert not (await the_event(customer, COST))["estimated"]


async def test_none_is_begun_while_postgres_is_away(gateway, customer, worker, monkeypatch):
    jobs = gateway.proxy.poller._jobs
    monkeypatch.setattr(jobs, "ping", away(1, jobs.ping, DatabaseUnavailable))
    refusal(await respond(customer), 503, "temporarily_unavailable")
    assert worker.asked == []
    assert not await held(customer)


async def test_one_that_can_not_be_kept_costs_its_hold(gateway, customer, worker, monkeypatch):
    jobs = gateway.proxy.poller._jobs
    monkeypatch.setattr(jobs, "begin", away(1, jobs.begin))
    answered = await respond(customer)
    await until(lambda: not gateway.runtime.engine.holds.live)
    assert "was charged" in refusal(answered, 502, "upstream_error")["message"]
    found = await the_event(customer)
    assert found["estimated"]
    assert found["output_tokens"] == ASKED["max_output_tokens"]


@on_sources
@pytest.mark.parametrize("told", [False, True])
async def test_a_lost_settlement_of_a_streamed_one_is_made_up_for(make_gateway, upstream, monkeypatch, told):
    """Its answer breaks off; it is charged once all the same: what it came to where that was `told`, else the hold."""
    worker = Streaming()
    gateway = await make_gateway(await upstream(worker.serve), **QUICK)
    settlements = gateway.proxy.settlements
    settle = settlements.ended

    async def lost(settling):
        if told:
            await settling
        raise SettlementLost("neither has answered")

    def ended(context, hold, tap, reason, *_, **more):
        monkeypatch.setattr(settlements, "ended", settle)
        return lost(settle(context, hold, tap, reason, **more) if told else None)

    monkeypatch.setattr(settlements, "ended", ended)
    customer = await gateway.customer()
    worker.answer = response(service_tier="default")
    async with customer.post(PATH, {**ASKED, "stream": True}) as answer:
        assert await answer.content.readuntil(b"\n\n") == worker.begun
        worker.go_on.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await all_done(gateway)
    await until(lambda: not gateway.runtime.engine.holds.live)
    found = await the_event(customer, COST if told else None)
    assert (found["id"], found["estimated"]) == (answer.headers["x-request-id"], not told)
    assert found["output_tokens"] == (87 if told else ASKED["max_output_tokens"])


CANCELLED = response(status="cancelled", usage=None, output=[])


@pytest.mark.parametrize("read", ["", "?stream=true", "?%20stream[]=true", "shown"])
async def test_one_that_is_cancelled_costs_its_input_and_the_hold_where_it_could_be_read(
    gateway, customer, worker, read
):
    await respond(customer, input="Hello " * 50)
    if read == "shown":
        worker.answer = response(status="in_progress", usage=None)
        polled = worker.polled()
        await until(lambda: worker.polled() >= polled + 2)
    elif read:
        async with customer.get(f"{PATH}/{worker.name}{read}") as answer:
            assert answer.status == 200
    worker.answer = CANCELLED
    await all_done(gateway)
    await until(lambda: not gateway.runtime.engine.holds.live)
    found = next(event for event in await customer.events() if event["endpoint"] == PATH)
    assert found["estimated"]
    assert found["input_tokens"] > 50
    assert found["output_tokens"] == (ASKED["max_output_tokens"] if read else 0)


async def test_what_was_streamed_before_it_was_cancelled_is_charged(make_gateway, upstream):
    worker = Streaming()
    worker.begun += event("response.output_text.delta", item_id="msg_1", delta="one two three four")
    worker.cut = True
    gateway = await make_gateway(await upstream(worker.serve), **QUICK)
    customer = await gateway.customer()
    async with customer.post(PATH, {**ASKED, "stream": True}) as answer:
        assert await answer.content.readexactly(len(worker.begun)) == worker.begun
        worker.answer = CANCELLED
        worker.go_on.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await all_done(gateway)
    found = await the_event(customer)
    assert (found["estimated"], found["output_tokens"]) == (True, 4)
    assert found["input_tokens"] > 0
