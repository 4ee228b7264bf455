"""What a gateway promises its clients, by the guarded edge and by the plain one."""

import json
from dataclasses import replace

import aiohttp
import pytest

from tests.gateway.conftest import Gateway, MakeGateway, chat
from tests.support.answering import DONE, WORDS, answer, saying, until
from tests.support.clients import Slow, leave, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT, spent_nano

pytestmark = pytest.mark.slow


@pytest.fixture(params=["guarded", "plain"])
def edge(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def gateway(make_gateway: MakeGateway, edge: str) -> Gateway:
    return await make_gateway(edge=edge)


async def test_json_is_answered_and_debited(make_gateway, upstream, edge):
    gateway = await make_gateway(await upstream(saying(answer("text"))), edge=edge)
    customer = await gateway.customer()
    for _ in range(3):
        async with customer.post(body=chat(model="gpt-4o-mini")) as answered:
            assert answered.status == 200
            assert await answered.json() == answer("text")
            assert answered.headers["x-request-id"]
    assert await spent_nano(customer) == 3 * (10 * INPUT + 5 * OUTPUT)


async def test_requests_are_refused_in_the_envelope(gateway):
    url = f"{gateway.url}/v1/chat/completions"
    for headers in ({}, {"Authorization": "Bearer sk-mg-wrong"}):
        async with gateway.session.post(url, json=chat(), headers=headers) as refused:
            assert refused.status == 401
            assert (await refused.json())["error"]["code"] == "invalid_api_key"
            assert refused.headers["x-request-id"]
    poor, rich = await gateway.customer("0"), await gateway.customer()
    cases = [
        (poor, chat(), 402, "billing_required"),
        (rich, chat(model="none-such"), 404, "model_not_found"),
        (rich, {"model": "demo"}, 400, "invalid_request_error"),
    ]
    for customer, body, status, code in cases:
        async with customer.post(body=body) as refused:
            assert (refused.status, (await refused.json())["error"]["code"]) == (status, code)
    async with rich.get("/v1/none-such") as missing:
        assert missing.status == 404
    assert await rich.events() == []


async def test_a_stream_is_passed_and_debited_and_a_body_in_chunks_metered(gateway):
    customer = await gateway.customer()
    async with customer.post(body=chat(stream=True, stream_options={"include_usage": True})) as answered:
        assert (answered.status, answered.content_type) == (200, "text/event-stream")
        events = (await answered.read()).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    usage = json.loads(events[-3].removeprefix(b"data: "))["usage"]
    (event,) = await customer.events()
    assert (event["output_tokens"], event["estimated"]) == (usage["completion_tokens"], False)

    async def body():
        yield json.dumps(chat()).encode()

    async with customer.post(data=body(), headers={"Content-Type": "application/json"}) as answered:
        assert answered.status == 200
    assert len(await customer.events()) == 2


async def test_a_client_that_leaves_within_a_stream_is_charged(make_gateway, edge):
    gateway = await make_gateway(edge=edge, disconnect_drain_s=0)
    customer = await gateway.customer()
    words = " ".join(["word"] * 2_000)
    await leave(customer, chat(words, stream=True), first=b"data: ")
    found = await the_event_in_the_end(customer)
    assert found["output_tokens"] > 0


async def test_a_stream_that_the_gateway_s_own_stop_cuts_is_no_client_s_leaving(make_gateway, upstream, edge):
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve), edge=edge, disconnect_drain_s=0)
    customer = await gateway.customer()
    gateway.runner._shutdown_timeout = 0.01
    async with customer.post(body=chat(model="gpt-4o-mini", stream=True)) as answered:
        assert await answered.content.readuntil(b"\n\n") == WORDS[0]
        await gateway.runner.cleanup()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answered.read()
    await until(lambda: not gateway.runtime.engine.holds.live)
    await gateway.flush()
    (found,) = await replace(customer, gateway=await make_gateway()).events()
    assert (found["status"], found["note"], found["estimated"]) == (503, "shutting_down", True)
