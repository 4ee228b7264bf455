"""The Responses API through a whole gateway: metered whole and streamed, refused, and as OpenAI's client reads it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.gateway.conftest import Customer, Gateway
from tests.gateway.dialects.openai_responses.bodies import COST, event, response, stream
from tests.support.answering import BOUND_S, Provider, saying, streaming, until
from tests.support.gateways import INPUT, Fetched, ask, assert_free, refusal, spent_nano, the_event

PATH = "/v1/responses"
ASKED = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 200}

SEARCH_NANO = 10_000_000


async def respond(customer: Customer, path: str = PATH, **fields: Any) -> Fetched:
    return await ask(customer, {**ASKED, **fields}, path)


async def test_a_whole_answer_is_metered(customer_of):
    provider = Provider(saying(response(service_tier="default")))
    customer = await customer_of(provider.serve)
    fetched = await respond(customer)
    assert (fetched.status, fetched.json["id"]) == (200, "resp_1")
    assert (provider.sent[0].path, provider.sent[0].json) == ("/v1/responses", ASKED)
    found = await the_event(customer, COST)
    assert (found["endpoint"], found["reasoning_tokens"], found["cached_input_tokens"]) == (PATH, 60, 10)


@pytest.mark.parametrize("last", ["response.completed", "response.incomplete", "response.failed"])
async def test_a_stream_passes_byte_for_byte_and_is_metered(customer_of, last):
    whole = stream(last, service_tier="default")
    provider = Provider(streaming(whole[:700], whole[700:]))
    customer = await customer_of(provider.serve)
    fetched = await respond(customer, stream=True)
    assert (fetched.status, fetched.body, fetched.cut) == (200, whole, False)
    assert provider.sent[0].json == {**ASKED, "stream": True}
    assert (await the_event(customer, COST))["stream"]


async def test_without_a_maximum_the_granted_one_is_sent(customer_of):
    provider = Provider(saying(response()))
    customer = await customer_of(provider.serve, "0.01")
    fetched = await respond(customer, max_output_tokens=None)
    assert fetched.status == 200
    granted = int(fetched.headers["x-metergate-granted-output-tokens"])
    assert provider.sent[0].json["max_output_tokens"] == granted


async def test_a_stream_that_breaks_off_costs_what_passed(customer_of):
    delta = event("response.output_text.delta", delta="Good day to you", item_id="msg_1")
    customer = await customer_of(streaming(event("response.created", response=response(usage=None)), delta, cut=True))
    fetched = await respond(customer, stream=True)
    assert fetched.cut
    found = await the_event(customer)
    assert (found["estimated"], found["output_tokens"]) == (True, 4)


@pytest.mark.parametrize("calls", [0, 3, 20])
async def test_calls_that_passed_of_a_stream_without_usage_are_charged(customer_of, calls):
    """Each search has its price, and each round has read the request again; no more than was held for."""
    done = event("response.output_item.done", item={"type": "web_search_call", "status": "completed", "id": "ws_1"})
    delta = event("response.output_text.delta", delta="Good day to you", item_id="msg_1")
    begun = event("response.created", response=response(usage=None))
    charged = []
    for passed in (0, calls):
        customer = await customer_of(streaming(begun, *[done] * passed, delta, cut=True))
        await respond(customer, stream=True, tools=[{"type": "web_search"}], max_tool_calls=5)
        found = await the_event(customer)
        charged.append((found["input_tokens"], await spent_nano(customer)))
    (plain, plain_nano), (read, nano) = charged
    held = min(calls, 5)
    assert read == plain * (1 + held)
    assert nano - plain_nano == held * (plain * INPUT + SEARCH_NANO)


async def test_an_error_before_any_output_is_free(customer_of):
    error = event("error", code="server_error", message="It failed.", param=None, sequence_number=0)
    customer = await customer_of(streaming(error))
    fetched = await respond(customer, stream=True)
    assert (fetched.status, fetched.body) == (200, error)
    await assert_free(customer)
    customer = await customer_of(saying(response(status="failed", usage=None, output=[], error={"code": "x"})))
    assert (await respond(customer)).status == 200
    await assert_free(customer)


async def test_an_answer_without_usage_is_estimated(customer_of):
    customer = await customer_of(saying(response(usage=None)))
    assert (await respond(customer)).status == 200
    assert (await the_event(customer))["estimated"]
    assert await spent_nano(customer) > 0


async def test_a_compaction_is_billed_and_a_count_is_free(customer_of):
    provider = Provider(saying({"object": "response.compaction", "output": [], "usage": response()["usage"]}))
    customer = await customer_of(provider.serve)
    asked = {"model": "gpt-4o-mini", "input": "Hello"}
    assert (await ask(customer, asked, PATH + "/compact")).status == 200
    assert (provider.sent[0].path, provider.sent[0].json) == (PATH + "/compact", asked)
    assert (await the_event(customer, COST))["endpoint"] == PATH + "/compact"
    provider = Provider(saying({"object": "response.input_tokens", "input_tokens": 11}))
    customer = await customer_of(provider.serve)
    assert (await ask(customer, asked, PATH + "/input_tokens")).json["input_tokens"] == 11
    await the_event(customer, 0)


async def test_refusals_have_openai_s_envelope(customer_of):
    provider = Provider(saying(response()))
    customer = await customer_of(provider.serve)
    error = refusal(await respond(customer, tools=[{"type": "image_generation"}]), 400, "invalid_request_error")
    assert error["param"] == "tools[0]"
    refusal(await respond(customer, prompt={"id": "pmpt_1"}), 400, "invalid_request_error")
    poor = await customer.gateway.customer("0")
    error = refusal(await respond(poor), 402, "billing_required")
    assert "setup_url" in error["billing"]
    assert provider.sent == []


class Answer(BaseModel):
    """What the structured answer is read as."""

    word: str


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, by base URL alone, on the local provider."""
    key = (await gateway.customer()).key
    async with AsyncOpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0) as client:
        yield client


async def test_the_client_reads_a_response_whole_and_streamed(sdk):
    whole = await sdk.responses.create(model="demo", input="Count to 4")
    assert (whole.output_text, whole.status) == ("1, 2, 3, 4", "completed")
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = [event async for event in await sdk.responses.create(model="demo", input="Count to 4", stream=True)]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage == whole.usage
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "1, 2, 3, 4"
    async with sdk.responses.stream(model="demo", input="Count to 4") as streamed:
        assert (await streamed.get_final_response()).output_text == "1, 2, 3, 4"


async def test_the_client_sends_tools_and_counts_tokens(sdk):
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
    made = await sdk.responses.create(model="demo", input=[{"role": "user", "content": "Hi"}], tools=[tool])
    assert made.output_text
    counted = await sdk.responses.input_tokens.count(model="demo", input="Hello")
    assert counted.input_tokens > 0


async def test_the_client_reads_structured_output(customer_of):
    text = {"type": "output_text", "text": json.dumps({"word": "good"}), "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    customer = await customer_of(saying({**response(output=[message]), "created_at": 1, "tools": []}))
    url = customer.gateway.url + "/v1"
    async with AsyncOpenAI(base_url=url, api_key=customer.key, max_retries=0) as client:
        parsed = await client.responses.parse(model="gpt-4o-mini", input="x", text_format=Answer)
    assert parsed.output_parsed == Answer(word="good")


async def test_the_client_raises_its_own_errors(gateway, sdk):
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(model="demo", input="x", tools=[{"type": "image_generation"}])
    assert "leave the tool out" in str(refused.value)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.create(model="nothing-like-this", input="x")
    poor = await gateway.customer("0")
    async with AsyncOpenAI(base_url=gateway.url + "/v1", api_key=poor.key) as client:
        with pytest.raises(openai.APIStatusError) as unpaid:
            await client.responses.create(model="gpt-4o-mini", input="x", stream=True)
    assert unpaid.value.status_code in (402, 404)


async def test_the_client_polls_a_background_response(make_gateway):
    gateway = await make_gateway(background_poll_s=0.05, background_lease_s=1.0)
    customer = await gateway.customer()
    async with AsyncOpenAI(base_url=gateway.url + "/v1", api_key=customer.key, max_retries=0) as client:
        made = await client.responses.create(
            model="demo", input="Count to 3", background=True, metadata={"delay_ms": "300"}
        )
        assert made.status == "queued"
        async with asyncio.timeout(BOUND_S):
            while made.status in ("queued", "in_progress"):
                await asyncio.sleep(0.05)
                made = await client.responses.retrieve(made.id)
        assert made.output_text == "1, 2, 3"
        stopped = await client.responses.create(
            model="demo", input="Count to 3", background=True, metadata={"delay_ms": "60000"}
        )
        assert (await client.responses.cancel(stopped.id)).status == "cancelled"

    async def all_done():
        return not await gateway.runtime.database.value("SELECT count(*) FROM background_jobs WHERE done_at IS NULL")

    await until(all_done)
    charged = [event for event in await customer.events() if event["output_tokens"]]
    assert len(charged) == 1
