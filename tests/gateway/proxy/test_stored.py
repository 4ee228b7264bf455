"""Objects at a provider belong to the account that created them: to all others they are not there."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from billing.database.connection import DatabaseUnavailable
from gateway.dialects.facts import Created
from gateway.dialects.openai_responses.dialect import RESPONSES_CREATION
from gateway.proxy.stored import FirstEvent
from tests.gateway.conftest import Customer, Gateway, MakeGateway
from tests.gateway.dialects.openai_responses.bodies import event, response, stream
from tests.support.answering import SSE, Provider, saying, streaming, until
from tests.support.gateways import Fetched, ask, fetch, refusal, spent_nano

pytestmark = pytest.mark.slow

PATH = "/v1/responses"
ASKED = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 200}
OWNERS = "SELECT account_id, kind, model, total_tokens FROM provider_objects WHERE object_id = $1"


@pytest.fixture
async def serve(make_gateway: MakeGateway, upstream: Any) -> Callable[[Provider], Any]:
    async def make(provider: Provider) -> Gateway:
        return await make_gateway(await upstream(provider.serve))

    return make


async def respond(customer: Customer, **fields: Any) -> Fetched:
    return await ask(customer, {**ASKED, **fields}, PATH)


async def call(customer: Customer, method: str, path: str, body: Any = None) -> Fetched:
    url, headers = customer.gateway.url + path, {"Authorization": f"Bearer {customer.key}"}
    return await fetch(customer.gateway.session.request(method, url, json=body, headers=headers))


async def owner(gateway: Gateway, name: str = "resp_1") -> tuple[Any, ...] | None:
    row = await gateway.runtime.database.row(OWNERS, name)
    return tuple(row) if row is not None else None


@pytest.mark.parametrize("base", [PATH, "/openai" + PATH, "/azure/openai/responses"])
async def test_a_response_is_its_account_s_alone(serve, base):
    """By the paths of Azure's client, too."""
    provider = Provider(saying(response()))
    gateway = await serve(provider)
    one, other = await gateway.customer(), await gateway.customer()
    assert (await respond(one)).status == 200
    assert await owner(gateway) == (one.account_id, "response", "gpt-4o-mini", 123)
    spent = await spent_nano(one)
    for method, path in (("GET", ""), ("GET", "/input_items?limit=5"), ("POST", "/cancel"), ("DELETE", "")):
        provider.sent.clear()
        refusal(await call(other, method, f"{base}/resp_1{path}"), 404, "not_found")
        refusal(await call(one, method, f"{base}/resp_unknown{path}"), 404, "not_found")
        assert provider.sent == []
        fetched = await call(one, method, f"{base}/resp_1{path}")
        assert (fetched.status, fetched.json["id"]) == (200, "resp_1")
        assert provider.sent[0].path == f"{PATH}/resp_1{path.partition('?')[0]}"
        assert provider.sent[0].query == path.partition("?")[2]
    assert await spent_nano(one) == spent
    assert {each["charged_usd"] for each in (await one.events())[1:]} == {"0.00"}


async def test_an_id_that_no_object_can_have_is_not_found(serve):
    """Postgres takes no NUL: that is nobody's fault but the client's."""
    provider = Provider(saying(response()))
    gateway = await serve(provider)
    one = await gateway.customer()
    for method, path in (("GET", ""), ("GET", "/input_items?limit=5"), ("POST", "/cancel"), ("DELETE", "")):
        for name in ("resp_%00", "%00", "resp_%0A", "%FF", "%ED%A0%80"):
            refusal(await call(one, method, f"{PATH}/{name}{path}"), 404, "not_found")
    for fields in (
        {"previous_response_id": "resp_\0"},
        {"conversation": "conv_\0"},
        {"conversation": {"id": "\0"}},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-\0"}]}]},
    ):
        refusal(await respond(one, **fields), 404, "not_found")
    refusal(await call(one, "GET", "/v1/conversations/conv_%00"), 404, "not_found")
    assert provider.sent == []


async def test_an_earlier_response_bounds_what_it_brings(serve):
    provider = Provider(saying(response()))
    gateway = await serve(provider)
    one, other = await gateway.customer(), await gateway.customer()
    await respond(one)
    provider.sent.clear()
    refusal(await respond(other, previous_response_id="resp_1"), 404, "not_found")
    refusal(await respond(one, previous_response_id="resp_2"), 404, "not_found")
    refusal(await respond(one, conversation={"id": "conv_1"}), 404, "not_found")
    file = [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]
    refusal(await respond(one, input=file), 404, "not_found")
    assert provider.sent == []
    poor = await gateway.customer("0.001")  # a context window of input does not fit
    provider.reply = saying(response(id="resp_poor"))
    assert (await respond(poor)).status == 200
    assert (await respond(poor, previous_response_id="resp_poor")).status == 200
    items = [{"type": "reasoning", "id": "rs_1", "summary": []}]
    refusal(await respond(poor, previous_response_id="resp_poor", input=items), 402, "billing_required")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_that_counts_nothing_brings_what_was_held_for_it(serve, streamed):
    zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    provider = Provider(streaming(stream(usage=zeros)) if streamed else saying(response(usage=zeros)))
    gateway = await serve(provider)
    customer = await gateway.customer("0.001")
    long = "x" * 5_000
    assert (await respond(customer, input=long, stream=streamed)).status == 200
    refusal(await respond(customer, input=long, previous_response_id="resp_1"), 402, "billing_required")


async def test_tools_in_items_stay_with_what_goes_on_from_the_answer(serve):
    provider = Provider(saying(response()))
    gateway = await serve(provider)
    customer = await gateway.customer()
    tool = {"type": "mcp", "server_label": "s", "server_url": "https://s"}
    items = [{"type": "additional_tools", "tools": [tool]}, {"role": "user", "content": "Hi"}]
    await respond(customer, input=items)
    provider.reply = saying(response(id="resp_2"))
    await respond(customer, previous_response_id="resp_1")
    await respond(customer, previous_response_id="resp_2", max_tool_calls=2)
    await respond(customer)
    assert [json.loads(each.body).get("max_tool_calls") for each in provider.sent] == [8, 8, 2, None]
    # Another process knows nothing of the tools: a context window is held there.
    assert await owner(gateway, "resp_1") == (customer.account_id, "response", "gpt-4o-mini", None)


MCP = {"type": "mcp", "server_label": "s", "server_url": "https://s"}
BRINGS_TOOLS = [{"type": "additional_tools", "tools": [MCP]}, {"role": "user", "content": "Hi"}]


async def test_calls_that_the_request_bounds_itself_are_held_for_earlier_tools(serve):
    """The client's own number goes to the provider, so that it is the number that is held, not the granted one."""
    provider = Provider(saying(response()))
    gateway = await serve(provider)
    customer = await gateway.customer("0.40")
    await respond(customer, input=BRINGS_TOOLS, max_tool_calls=1)
    assert (await respond(customer, previous_response_id="resp_1", max_tool_calls=1)).status == 200
    refusal(await respond(customer, previous_response_id="resp_1", max_tool_calls=100), 402, "billing_required")


@pytest.mark.parametrize("how", ["created with", "added", "a response"])
async def test_tools_in_items_stay_in_a_conversation(serve, how):
    provider = Provider(saying({"id": "conv_1", "object": "conversation"}))
    gateway = await serve(provider)
    customer = await gateway.customer()
    items = {"items": BRINGS_TOOLS}
    assert (await call(customer, "POST", "/v1/conversations", items if how == "created with" else {})).status == 200
    if how == "added":
        assert (await call(customer, "POST", "/v1/conversations/conv_1/items", items)).status == 200
    provider.reply = saying(response())
    if how == "a response":
        await respond(customer, conversation="conv_1", input=BRINGS_TOOLS)
    await respond(customer, conversation="conv_1")
    assert json.loads(provider.sent[-1].body)["max_tool_calls"] >= 1


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/conversations/conv_1/items"])
async def test_no_unknown_tool_comes_by_a_conversation_where_none_passes(make_gateway, upstream, path):
    provider = Provider(saying({"id": "conv_1", "object": "conversation"}))
    gateway = await make_gateway(await upstream(provider.serve), unknown_tools="refuse")
    customer = await gateway.customer()
    assert (await call(customer, "POST", "/v1/conversations", {"items": BRINGS_TOOLS})).status == 200
    unknown = {"type": "additional_tools", "tools": [{"type": "telepathy"}]}
    error = refusal(await call(customer, "POST", path, {"items": [unknown]}), 400, "invalid_request_error")
    assert "'telepathy'" in error["message"]
    assert len(provider.sent) == 1
    assert b'metergate_unknown_tools_total{type="telepathy"} 1.0' in await gateway.metrics()


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"truncation": "disabled", "context_management": None}, True),
        ({"truncation": "auto"}, False),
        ({"context_management": [{"type": "compaction", "compact_threshold": 1000}]}, False),
    ],
)
async def test_one_that_may_have_left_out_what_came_before_bounds_nothing(serve, fields, known):
    gateway = await serve(Provider(saying(response())))
    assert (await respond(await gateway.customer(), **fields)).status == 200
    assert ((await owner(gateway) or ())[3] is not None) is known


async def test_what_is_not_stored_is_not_recorded(serve):
    gateway = await serve(Provider(saying(response())))
    assert (await respond(await gateway.customer(), store=False)).status == 200
    assert await owner(gateway) is None


async def test_an_id_that_comes_again_stays_its_first_owner_s(serve):
    gateway = await serve(Provider(saying(response())))
    one, other = await gateway.customer(), await gateway.customer()
    await respond(one)
    assert (await respond(other)).status == 200
    assert (await owner(gateway) or ())[0] == one.account_id
    refusal(await call(other, "GET", f"{PATH}/resp_1"), 404, "not_found")


async def test_a_stream_shows_no_id_before_it_is_recorded(serve, monkeypatch):
    whole = stream()
    recorded, go_on = asyncio.Event(), asyncio.Event()

    async def reply(request):
        made = web.StreamResponse(headers=SSE)
        await made.prepare(request)
        await made.write(whole[:60])
        await made.write(whole[60:900])
        await go_on.wait()
        await made.write(whole[900:])
        return made

    gateway = await serve(Provider(reply))
    customer = await gateway.customer()
    owned = gateway.proxy.stored._owned
    record = owned.record

    async def slowly(each):
        recorded.set()
        await go_on.wait()
        return await record(each)

    monkeypatch.setattr(owned, "record", slowly)
    asked = asyncio.create_task(respond(customer, stream=True))
    await asyncio.wait_for(recorded.wait(), 60)
    assert not asked.done()
    assert await owner(gateway) is None
    go_on.set()
    assert (await asked).body == whole
    assert await owner(gateway) == (customer.account_id, "response", "gpt-4o-mini", 123)


async def test_a_stream_that_creates_nothing_passes(serve):
    error = event("error", code="server_error", message="It failed.", param=None)
    gateway = await serve(Provider(streaming(b": wait\n\n", error)))
    fetched = await respond(await gateway.customer(), stream=True)
    assert (fetched.status, fetched.body) == (200, b": wait\n\n" + error)


async def test_another_gateway_knows_whose_it_is(make_gateway, upstream):
    url = await upstream(Provider(saying(response())).serve)
    first, second = await make_gateway(url), await make_gateway(url)
    customer = await first.customer()
    await respond(customer)
    there = Customer(second, customer.account_id, customer.key_id, customer.key)
    assert (await call(there, "GET", f"{PATH}/resp_1")).status == 200


async def test_what_the_local_provider_stores_is_read_in_every_process(make_gateway):
    first, second = await make_gateway(), await make_gateway()
    customer = await first.customer()
    there = Customer(second, customer.account_id, customer.key_id, customer.key)
    made = (await respond(customer, model="demo", input="Count to 3")).json
    path = f"{PATH}/{made['id']}"
    assert (await call(there, "GET", path)).json == made
    assert (await respond(there, model="demo", previous_response_id=made["id"])).status == 200
    assert (await call(there, "DELETE", path)).status == 200
    refusal_of_provider = await call(customer, "GET", path)
    assert (refusal_of_provider.status, "not found" in refusal_of_provider.json["error"]["message"]) == (404, True)


async def test_conversations_are_owned_and_free(serve):
    made = {"id": "conv_1", "object": "conversation", "created_at": 1, "metadata": {}}
    provider = Provider(saying(made))
    gateway = await serve(provider)
    one, other = await gateway.customer(), await gateway.customer()
    fetched = await call(one, "POST", "/v1/conversations", {"metadata": {"a": "b"}})
    assert (fetched.status, fetched.json) == (200, made)
    assert (await owner(gateway, "conv_1") or ())[:2] == (one.account_id, "conversation")
    item = [{"role": "user", "content": "Hi"}]
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("POST", "/items", {"items": item}),
        ("GET", "/items", None),
        ("GET", "/items/msg_1", None),
        ("DELETE", "", None),
    ):
        assert (await call(one, method, f"/v1/conversations/conv_1{path}", body)).status == 200
        refusal(await call(other, method, f"/v1/conversations/conv_1{path}", body), 404, "not_found")
    assert provider.sent[3].json == {"items": item}
    provider.reply = saying(response())
    assert (await respond(one, conversation="conv_1")).status == 200
    refusal(await respond(other, conversation="conv_1"), 404, "not_found")
    file = [{"role": "user", "content": [{"type": "input_file", "file_id": "file-9"}]}]
    refusal(await call(one, "POST", "/v1/conversations/conv_1/items", {"items": file}), 404, "not_found")


async def test_a_stored_response_is_streamed_again_for_nothing(serve):
    provider = Provider(saying(response()))
    gateway = await serve(provider)
    customer, other = await gateway.customer(), await gateway.customer()
    await respond(customer)
    spent = await spent_nano(customer)
    provider.reply, path = streaming(stream()), f"{PATH}/resp_1?stream=true&starting_after=3&include=x"
    fetched = await call(customer, "GET", path)
    assert (fetched.status, fetched.body) == (200, stream())
    assert (provider.sent[-1].path, provider.sent[-1].query) == (f"{PATH}/resp_1", path.partition("?")[2])
    refusal(await call(other, "GET", path), 404, "not_found")
    assert await spent_nano(customer) == spent
    assert not any(event["estimated"] for event in await customer.events())


async def test_the_client_reads_what_is_stored(make_gateway):
    gateway = await make_gateway()
    customer, other = await gateway.customer(), await gateway.customer()
    url = gateway.url + "/v1"
    async with AsyncOpenAI(base_url=url, api_key=customer.key, max_retries=0) as client:
        made = await client.responses.create(model="demo", input="Count to 3")
        assert (await client.responses.retrieve(made.id)).output_text == "1, 2, 3"
        further = await client.responses.create(model="demo", input="Count to 2", previous_response_id=made.id)
        assert further.output_text == "1, 2"
        assert (await client.responses.input_items.list(made.id)).data
        talk = await client.conversations.create(metadata={"topic": "meters"})
        assert (await client.conversations.retrieve(talk.id)).id == talk.id
        async with AsyncOpenAI(base_url=url, api_key=other.key, max_retries=0) as stranger:
            with pytest.raises(openai.NotFoundError):
                await stranger.responses.retrieve(made.id)
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


async def test_without_postgres_an_answer_passes_and_its_object_is_nobody_s(serve, monkeypatch):
    gateway = await serve(Provider(saying(response())))
    customer = await gateway.customer()

    async def away(*_):
        raise DatabaseUnavailable("Postgres is away")

    with monkeypatch.context() as broken:
        broken.setattr(gateway.proxy.stored._owned, "_database", type("Away", (), {"rows": staticmethod(away)}))
        fetched = await respond(customer)
        assert (fetched.status, json.loads(fetched.body)["id"]) == (200, "resp_1")
        refusal(await call(customer, "GET", f"{PATH}/resp_1"), 503, "temporarily_unavailable")
    refusal(await call(customer, "GET", f"{PATH}/resp_1"), 404, "not_found")
    await until(lambda: not gateway.runtime.engine.holds.live)


def test_what_comes_before_the_event_of_an_object_is_looked_at_once():
    first = FirstEvent(RESPONSES_CREATION)
    for piece in (b":\n\n" * 20_000, b":", b"\n"):
        assert not first.feed(piece)
    created = {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "queued"}}
    assert first.feed(b"\ndata: %b\n\n" % msgspec.json.encode(created))
    assert first.created == Created("resp_1", True)


def test_a_stream_whose_first_event_tells_of_no_object_creates_none():
    first = FirstEvent(RESPONSES_CREATION)
    assert first.feed(b'data: {"type": "other"}\n\n')
    assert first.created is None
