"""Responses over a WebSocket: each message is a request of its own, on one connection to the provider."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import WSCloseCode, web

from billing.money import parse_usd
from gateway.config.settings import Settings
from gateway.dialects.streaming import event_data
from gateway.upstream.socket import _event, _Message
from tests.gateway.conftest import Customer, Gateway, GatewayOf, MakeGateway
from tests.gateway.dialects.openai_responses.bodies import COST, response
from tests.support.answering import PROVIDER_KEY, until
from tests.support.gateways import spent_nano, the_event
from tests.support.response_sockets import CREATE, PATH, answer, connected

pytestmark = pytest.mark.slow


def events(name: str = "resp_1") -> list[dict[str, Any]]:
    """The messages of one answer."""
    done = response(id=name, service_tier="default")
    begun = {**done, "status": "in_progress", "usage": None, "output": []}
    return [
        {"type": "response.created", "sequence_number": 0, "response": begun},
        {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Good\nday"},
        {"type": "response.completed", "sequence_number": 2, "response": done},
    ]


@dataclass
class Speaker:
    """A provider's end: answers each message by `says`; before the last message of an answer it waits for `go_on`."""

    says: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda create: events()
    got: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    ended: int = 0
    breaks: bool = False
    most_bytes: int = 1 << 20
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    closes: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        socket = web.WebSocketResponse(max_msg_size=self.most_bytes)
        self.sockets.append(socket)
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.ERROR:  # too large
                break
            self.got.append(json.loads(message.data))
            *first, last = self.says(self.got[-1])
            for each in first:
                await socket.send_str(json.dumps(each))
            await self.go_on.wait()
            if self.breaks and request.transport is not None:
                request.transport.abort()
                break
            await socket.send_str(json.dumps(last))
            if self.closes:
                await socket.close()
        self.ended += 1
        return socket


@pytest.fixture
def speaker() -> Speaker:
    made = Speaker()
    made.go_on.set()
    return made


@pytest.fixture
async def make(make_gateway: MakeGateway, upstream: Any, speaker: Speaker) -> Any:
    url = await upstream(speaker.serve)

    async def made(**limits: Any) -> Gateway:
        return await make_gateway(url, change=served(url), **limits)

    return made


def served(url: str) -> Callable[[Settings], Settings]:
    """Settings whose provider speaks over sockets here."""

    def change(settings: Settings) -> Settings:
        openai = replace(settings.providers["openai"], dialects={"responses_websocket": url})
        return replace(settings, providers={**settings.providers, "openai": openai})

    return change


@pytest.fixture
async def gateway(gateway_of: GatewayOf, speaker: Speaker) -> Gateway:
    return await gateway_of(speaker.serve, at=served)


@pytest.fixture
async def customer(gateway: Gateway) -> Customer:
    return await gateway.customer()


async def failed_attempts(gateway: Gateway) -> list[bytes]:
    return [line for line in (await gateway.metrics()).splitlines() if b"failed_attempts_total{" in line]


async def test_each_message_is_paid_by_itself_on_one_connection(gateway, speaker):
    one, two = f"resp_{uuid4()}", f"resp_{uuid4()}"
    speaker.says = lambda create: events(one if len(speaker.got) == 1 else two)
    customer, other = await gateway.customer(), await gateway.customer()
    async with connected(customer) as socket:
        assert await answer(socket, store=False) == events(one)
        assert await spent_nano(customer) == COST
        assert await answer(socket, previous_response_id=one, stream_id="a") == events(two)
        assert await spent_nano(customer) == 2 * COST
    assert [each.get("previous_response_id") for each in speaker.got] == [None, one]
    assert speaker.got[0] == {**CREATE, "store": False}
    (headers,) = speaker.headers
    assert (headers["Authorization"], "Cookie" in headers) == (f"Bearer {PROVIDER_KEY}", False)
    assert {(each["endpoint"], each["stream"]) for each in await customer.events()} == {(PATH, True)}
    async with connected(other) as socket:
        (refused,) = await answer(socket, previous_response_id=one, stream_id="b")
        assert (refused["status"], refused["error"]["code"], refused["stream_id"]) == (404, "not_found", "b")
    await until(lambda: speaker.ended == 1)
    assert len(speaker.got) == 2


ZEROS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def prepared(name: str, **fields: Any) -> list[dict[str, Any]]:
    """The messages of an answer in which nothing is written."""
    done = response(id=name, service_tier="default", **{"output": [], "usage": ZEROS, **fields})
    begun = {**done, "status": "in_progress", "usage": None}
    return [{"type": "response.created", "response": begun}, {"type": "response.completed", "response": done}]


@pytest.mark.parametrize("usage", [ZEROS, None])
async def test_a_message_that_only_prepares_costs_what_is_reported(gateway, speaker, usage):
    one, other = f"resp_{uuid4()}", f"resp_{uuid4()}"
    speaker.says = lambda create: prepared(one, usage=usage) if "generate" in create else events(other)
    customer = await gateway.customer("0.001")  # no context window of input, nor all output that a model may write
    text = "All of this is context. " * 80
    warm: dict[str, Any] = {"generate": False, "store": False, "max_output_tokens": None, "input": text}
    async with connected(customer) as socket:
        assert await answer(socket, **warm) == prepared(one, usage=usage)
        assert speaker.got[-1] == {**CREATE, **warm}  # as the client wrote it
        assert await answer(socket, previous_response_id=one, store=False) == events(other)
    (first, last) = await customer.events()
    assert (parse_usd(first["charged_usd"]), first["estimated"], first["total_tokens"]) == (0, False, 0)
    assert (parse_usd(last["charged_usd"]), last["estimated"]) == (COST, False)


async def test_what_a_preparation_reports_is_charged(customer, speaker):
    usage = {"input_tokens": 30, "output_tokens": 0, "total_tokens": 30}
    speaker.says = lambda create: prepared(f"resp_{uuid4()}", usage=usage)
    async with connected(customer) as socket:
        await answer(socket, generate=False)
    assert (await the_event(customer))["input_tokens"] == 30
    assert await spent_nano(customer) > 0


async def test_what_was_only_prepared_is_input_of_what_goes_on_from_it(gateway, speaker):
    large = f"resp_{uuid4()}"
    speaker.says = lambda create: prepared(large)
    customer = await gateway.customer("0.001")
    async with connected(customer) as socket:
        long = "x" * 5_000
        assert await answer(socket, generate=False, input=long) == prepared(large)
        (refused,) = await answer(socket, previous_response_id=large, input=long)
    assert refused["error"]["code"] == "billing_required"  # the two texts together


async def test_tools_of_an_earlier_message_are_granted_calls_where_it_is_gone_on_from(customer, speaker):
    made = f"resp_{uuid4()}_"
    speaker.says = lambda create: events(f"{made}{len(speaker.got)}")
    tools = [{"type": "additional_tools", "tools": [{"type": "mcp", "server_label": "s", "server_url": "https://s"}]}]
    async with connected(customer) as socket:
        await answer(socket, store=False, input=[*tools, {"role": "user", "content": "Hi"}])
        await answer(socket, store=False, previous_response_id=made + "1")
        await answer(socket, store=False, previous_response_id=made + "2", max_tool_calls=3)
        await answer(socket, store=False)
    assert [each.get("max_tool_calls") for each in speaker.got] == [8, 8, 3, None]


async def test_what_is_not_served_is_an_error_event(gateway, speaker):
    customer, poor = await gateway.customer(), await gateway.customer("0.000001")
    async with connected(customer) as socket:
        for wrong in (
            {"type": "response.cancel"},
            {"background": True},
            {"response": {}},
            {"n": 2},
            {"model": "nothing"},
        ):
            (refused,) = await answer(socket, **wrong)
            assert refused["type"] == "error", refused
            assert 400 <= refused["status"] < 500, refused
        await socket.send_str("no JSON")
        assert (await socket.receive_json())["error"]["code"] == "invalid_request_error"
        speaker.says = lambda create: [
            {"type": "error", "status": 429, "error": {"code": "slow_down", "message": "No."}}
        ]
        (refused,) = await answer(socket)
        assert (refused["status"], refused["error"]["code"]) == (429, "slow_down")
        speaker.says = lambda create: events()
        assert await answer(socket) == events()
    async with connected(poor) as socket:
        (refused,) = await answer(socket)
        assert (refused["status"], refused["error"]["code"]) == (402, "billing_required")
    spent = await gateway.customer(quotas=[{"window": "total", "metric": "requests", "limit": 0}])
    async with connected(spent) as socket:
        (refused,) = await answer(socket)
        assert (refused["status"], refused["error"]["type"]) == (429, "usage_limit_reached")
        assert refused["headers"]["x-codex-promo-message"] == refused["error"]["message"].rstrip(".")
        assert refused["headers"]["x-should-retry"] == "false"
    assert await spent_nano(customer) == COST
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with gateway.session.get(gateway.url + PATH, headers=headers) as refused_one:
        assert refused_one.status == 401
    async with customer.get(PATH) as no_socket:
        assert no_socket.status == 405


@pytest.mark.parametrize("broken", ["client", "provider"])
async def test_an_answer_that_breaks_is_charged(gateway, customer, speaker, broken):
    speaker.go_on.clear()
    speaker.breaks = broken == "provider"
    async with connected(customer) as socket:
        await socket.send_str(json.dumps(CREATE))
        assert (await socket.receive_json())["type"] == "response.created"
        assert (await socket.receive_json())["delta"] == "Good\nday"
        if speaker.breaks:
            speaker.go_on.set()
            assert (await socket.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        else:
            await socket.close()
    speaker.go_on.set()
    await until(lambda: not gateway.runtime.engine.holds.live)
    found = await the_event(customer)
    assert parse_usd(found["charged_usd"]) > 0
    assert found["status"] == (502 if speaker.breaks else 499)
    assert found["estimated"] is speaker.breaks
    await until(lambda: speaker.ended == 1)


async def test_a_connection_that_its_provider_closed_between_two_answers_is_left(customer, speaker):
    speaker.closes = True
    async with connected(customer) as socket:
        assert await answer(socket) == events()
        async with asyncio.timeout(5):  # the provider's own bound is 10 s
            await until(lambda: speaker.ended == 1)
        assert await answer(socket) == events()
    assert len(speaker.headers) == 2


@pytest.mark.parametrize(("given", "shown"), [(None, 502), (99, 502), (99_999, 502), (503, 503)])
async def test_an_error_has_a_status_of_http(customer, speaker, given, shown):
    speaker.says = lambda _: [{"type": "error", "status": given, "error": {"code": "odd", "message": "No."}}]
    async with connected(customer) as socket:
        assert (await answer(socket))[0]["status"] == shown


async def test_a_provider_that_sends_elsewhere_is_not_followed(make_gateway, upstream, speaker):
    there = await upstream(speaker.serve)

    async def elsewhere(request):
        raise web.HTTPFound(there + PATH)

    url = await upstream(elsewhere)
    customer = await (await make_gateway(url, change=served(url))).customer()
    async with connected(customer) as socket:
        assert (await answer(socket))[0]["status"] == 502
    assert speaker.headers == []


def test_a_message_of_many_lines_is_an_event_of_one():
    text = '{"type":\r\n"a",\n\r"b": 1}' + "\n" * 1_000
    line = _event(text, _Message("a"))
    assert line.count(b"\n") == 3
    assert json.loads(event_data(line)) == {"type": "a", "b": 1}


async def test_a_client_that_takes_nothing_is_cut_off_and_charged(make, speaker):
    begun, delta, done = events()
    speaker.says = lambda create: [begun, *[{**delta, "obfuscation": "." * 200_000}] * 80, done]
    gateway = await make(client_write_timeout_s=1, disconnect_drain_s=0)
    customer = await gateway.customer()
    async with connected(customer) as socket:
        await socket.send_str(json.dumps(CREATE))
        await until(lambda: bool(speaker.got))
        await until(lambda: not gateway.runtime.engine.holds.live)
        found = await the_event(customer)
    assert (found["status"], found["estimated"]) == (499, True)
    assert parse_usd(found["charged_usd"]) > 0


async def test_an_answer_that_the_gateway_s_stop_cuts_is_no_client_s_leaving(make, speaker):
    speaker.go_on.clear()
    gateway = await make(disconnect_drain_s=0)
    customer = await gateway.customer()
    gateway.runner._shutdown_timeout = 0.01
    async with connected(customer) as socket:
        await socket.send_str(json.dumps(CREATE))
        assert (await socket.receive_json())["type"] == "response.created"
        await gateway.runner.cleanup()
    await until(lambda: not gateway.runtime.engine.holds.live)
    await gateway.flush()
    (found,) = await replace(customer, gateway=await make()).events()
    assert (found["status"], found["note"]) == (503, "shutting_down")


async def test_a_gateway_that_stops_ends_connections_after_their_answer(make, speaker):
    speaker.go_on.clear()
    gateway = await make()
    customer = await gateway.customer()
    async with connected(customer) as idle, connected(customer) as busy:
        await busy.send_str(json.dumps(CREATE))
        assert (await busy.receive_json())["type"] == "response.created"
        await gateway.app.shutdown()
        assert (await idle.receive(timeout=60)).data == aiohttp.WSCloseCode.GOING_AWAY
        speaker.go_on.set()
        messages = [message async for message in busy]
    assert json.loads(messages[-1].data)["type"] == "response.completed"
    assert await spent_nano(customer) == COST


async def test_what_comes_between_answers_is_nobodys(gateway, customer, speaker):
    late = {"type": "error", "status": 400, "error": {"code": "websocket_connection_limit_reached", "message": "Late."}}
    speaker.says = lambda create: [*events(), late]
    async with connected(customer) as socket:
        for _ in range(2):
            assert await answer(socket) == events()
            await until(lambda: not gateway.runtime.engine.holds.live)
    assert await spent_nano(customer) == 2 * COST
    assert len(speaker.headers) == 1


async def test_what_follows_an_error_in_an_answer_is_not_taken_for_the_next(customer, speaker):
    begun, delta, done = events()
    broken = {"type": "error", "status": 500, "error": {"code": "server_error", "message": "Broken."}}
    speaker.says = lambda create: [begun, delta, broken, delta, done]
    async with connected(customer) as socket:
        assert (await answer(socket))[-1] == broken
        speaker.says = lambda create: events("resp_2")
        assert await answer(socket) == events("resp_2")
    assert len(speaker.headers) == 2


async def test_a_connection_that_the_provider_has_closed_meanwhile_is_made_anew(gateway, customer, speaker):
    failed = await failed_attempts(gateway)
    async with connected(customer) as socket:
        assert await answer(socket) == events()
        await speaker.sockets[0].close()
        assert await answer(socket) == events()
    assert len(speaker.headers) == 2
    assert await failed_attempts(gateway) == failed


async def test_a_message_that_is_too_large_for_the_provider_does_not_count_against_it(gateway, customer, speaker):
    speaker.most_bytes = 1_000
    failed = await failed_attempts(gateway)
    async with connected(customer) as socket:
        (refused,) = await answer(socket, input="." * 2_000)
        assert (refused["type"], refused["status"]) == ("error", 413)
        assert await answer(socket) == events()
    assert await failed_attempts(gateway) == failed


async def test_what_has_come_of_messages_counts_among_the_bodies_of_the_account(make, speaker):
    speaker.go_on.clear()
    gateway = await make(account_body_bytes_in_flight=1 << 20, body_bytes_in_flight=1 << 20)
    customer, other = await gateway.customer(), await gateway.customer()
    bodies = gateway.proxy.bodies
    most = bodies._most_account_bytes
    padding = "." * (most // 4)
    async with connected(customer) as socket, connected(customer) as second:
        await socket.send_str(json.dumps(CREATE))
        await until(lambda: bool(speaker.got))
        for _ in range(3):
            await socket.send_str(json.dumps({**CREATE, "input": padding}))
        await until(lambda: bodies.size_bytes >= 3 * len(padding))
        await second._writer.send_frame(padding.encode(), aiohttp.WSMsgType.TEXT)
        assert (await second.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    speaker.go_on.set()
    await until(lambda: bodies.size_bytes == 0)
    async with connected(other) as socket:
        assert (await answer(socket))[-1]["type"] == "response.completed"


async def test_connections_are_bounded(make, speaker):
    speaker.go_on.clear()
    gateway = await make(response_sockets_per_account=1, response_socket_s=1)
    customer = await gateway.customer()
    async with connected(customer) as socket:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(customer):
                pass
        assert refused.value.status == 503
        await socket.send_str(json.dumps(CREATE))
        assert (await socket.receive_json(timeout=60))["type"] == "response.created"
        assert (await socket.receive_json(timeout=60))["type"] == "response.output_text.delta"
        for _ in range(6):
            await socket.send_str(json.dumps(CREATE))
        refusals = [await socket.receive_json(timeout=60) for _ in range(2)]
        assert [each["error"]["code"] for each in refusals] == ["concurrency_exceeded"] * 2
        speaker.go_on.set()
        types = [json.loads(message.data)["type"] async for message in socket]
    assert types.count("response.completed") == 5
    assert await spent_nano(customer) == 5 * COST


async def test_an_account_that_cannot_pay_opens_no_connection(make, speaker):
    gateway = await make()
    customer = await gateway.customer("0")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(customer):
            pass
    assert refused.value.status == 402


async def test_an_account_does_not_end_the_idle_ones_of_those_with_fewer(make, speaker):
    gateway = await make(response_sockets=3)
    many, other = [await gateway.customer() for _ in range(2)]
    speaker.go_on.clear()
    async with connected(other) as idle, connected(many) as busy, connected(many) as second:
        for socket in (busy, second):
            await socket.send_str(json.dumps(CREATE))
            assert (await socket.receive_json(timeout=60))["type"] == "response.created"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(many):
                pass
        assert refused.value.status == 503
        speaker.go_on.set()
        assert (await answer(idle))[-1]["type"] == "response.completed"


async def test_the_idle_one_of_the_account_with_most_ends_where_there_are_too_many(make, speaker):
    gateway = await make(response_sockets=3)
    many, other, third = [await gateway.customer() for _ in range(3)]
    async with connected(other) as first, connected(many) as busy, connected(many) as idle:
        assert (await answer(idle))[-1]["type"] == "response.completed"
        speaker.go_on.clear()
        await busy.send_str(json.dumps(CREATE))
        assert (await busy.receive_json(timeout=60))["type"] == "response.created"
        async with connected(third) as fourth:
            assert (await idle.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
            assert idle.close_code == WSCloseCode.TRY_AGAIN_LATER
            for socket in (first, fourth):
                await socket.send_str(json.dumps(CREATE))
                assert (await socket.receive_json(timeout=60))["type"] == "response.created"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:  # nothing else can go
                async with connected(many):
                    pass
            assert refused.value.status == 503
            speaker.go_on.set()
            for socket in (first, busy, fourth):
                while (await socket.receive_json(timeout=60))["type"] != "response.completed":
                    pass
