"""The Responses API through a whole gateway: metered whole and streamed, refused, and as OpenAI's client reads it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.gateway.conftest import Customer, Gateway, MakeGateway
from tests.gateway.dialects.openai_responses.test_answer import event, response, stream
from tests.support.answering import BOUND_S, Provider, saying, streaming, until
from tests.support.gateways import CACHED, INPUT, OUTPUT, Fetched, ask, assert_free, refusal, spent_nano, the_event
from tests.support.stories import OneGateway, Stories, Tell

PATH = "/v1/responses"
ASKED = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 200}
COST = 22 * INPUT + 10 * CACHED + 4 * INPUT + 87 * OUTPUT
"""Of the usage that `response` reports; gpt-4o-mini has no price of its own for cache writes and reasoning."""


Serve = Callable[..., Awaitable[Customer]]
SEARCH_NANO = 10_000_000
stories = Stories()


def served_by(one: OneGateway) -> Serve:
    """Makes a customer whose provider is this."""

    async def make(provider: Provider, usd: str = "5.00") -> Customer:
        await one.upstream(provider.serve)
        return await one.gateway.customer(usd)

    return make


async def respond(customer: Customer, path: str = PATH, **fields: Any) -> Fetched:
    return await ask(customer, {**ASKED, **fields}, path)


@stories
async def a_whole_answer_is_metered(served: Serve) -> None:
    provider = Provider(saying(response(service_tier="default")))
    customer = await served(provider)
    fetched = await respond(customer)
    assert (fetched.status, fetched.json["id"]) == (200, "resp_1")
    assert (provider.sent[0].path, provider.sent[0].json) == ("/v1/responses", ASKED)
    found = await the_event(customer, COST)
    assert (found["endpoint"], found["reasoning_tokens"], found["cached_input_tokens"]) == (PATH, 60, 10)


@stories
@pytest.mark.parametrize("last", ["response.completed", "response.incomplete", "response.failed"])
async def a_stream_passes_byte_for_byte_and_is_metered(served: Serve, last: str) -> None:
    whole = stream(last, service_tier="default")
    provider = Provider(streaming(whole[:700], whole[700:]))
    customer = await served(provider)
    fetched = await respond(customer, stream=True)
    assert (fetched.status, fetched.body, fetched.cut) == (200, whole, False)
    assert provider.sent[0].json == {**ASKED, "stream": True}
    assert (await the_event(customer, COST))["stream"]


@stories
async def without_a_maximum_the_granted_one_is_sent(served: Serve) -> None:
    provider = Provider(saying(response()))
    customer = await served(provider, "0.01")
    fetched = await respond(customer, max_output_tokens=None)
    assert fetched.status == 200
    granted = int(fetched.headers["x-metergate-granted-output-tokens"])
    assert provider.sent[0].json["max_output_tokens"] == granted


@stories
async def a_stream_that_breaks_off_costs_what_passed(served: Serve) -> None:
    delta = event("response.output_text.delta", delta="Good day to you", item_id="msg_1")
    customer = await served(
        Provider(streaming(event("response.created", response=response(usage=None)), delta, cut=True))
    )
    fetched = await respond(customer, stream=True)
    assert fetched.cut
    found = await the_event(customer)
    assert (found["estimated"], found["output_tokens"]) == (True, 4)


@stories
@pytest.mark.parametrize("calls", [0, 3, 20])
async def calls_that_passed_of_a_stream_without_usage_are_charged(served: Serve, calls: int) -> None:
    """Each search has its price, and each round has read the request again; no more than was held for."""
    done = event("response.output_item.done", item={"type": "web_search_call", "status": "completed", "id": "ws_1"})
    delta = event("response.output_text.delta", delta="Good day to you", item_id="msg_1")
    begun = event("response.created", response=response(usage=None))
    charged = []
    for passed in (0, calls):
        customer = await served(Provider(streaming(begun, *[done] * passed, delta, cut=True)))
        await respond(customer, stream=True, tools=[{"type": "web_search"}], max_tool_calls=5)
        found = await the_event(customer)
        charged.append((found["input_tokens"], await spent_nano(customer)))
    (plain, plain_nano), (read, nano) = charged
    held = min(calls, 5)
    assert read == plain * (1 + held)
    assert nano - plain_nano == held * (plain * INPUT + SEARCH_NANO)


@stories
async def an_error_before_any_output_is_free(served: Serve) -> None:
    error = event("error", code="server_error", message="It failed.", param=None, sequence_number=0)
    customer = await served(Provider(streaming(error)))
    fetched = await respond(customer, stream=True)
    assert (fetched.status, fetched.body) == (200, error)
    await assert_free(customer)
    customer = await served(Provider(saying(response(status="failed", usage=None, output=[], error={"code": "x"}))))
    assert (await respond(customer)).status == 200
    await assert_free(customer)


@stories
async def an_answer_without_usage_is_estimated(served: Serve) -> None:
    customer = await served(Provider(saying(response(usage=None))))
    assert (await respond(customer)).status == 200
    assert (await the_event(customer))["estimated"]
    assert await spent_nano(customer) > 0


@stories
async def a_compaction_is_billed_and_a_count_is_free(served: Serve) -> None:
    provider = Provider(saying({"object": "response.compaction", "output": [], "usage": response()["usage"]}))
    customer = await served(provider)
    asked = {"model": "gpt-4o-mini", "input": "Hello"}
    assert (await ask(customer, asked, PATH + "/compact")).status == 200
    assert (provider.sent[0].path, provider.sent[0].json) == (PATH + "/compact", asked)
    assert (await the_event(customer, COST))["endpoint"] == PATH + "/compact"
    provider = Provider(saying({"object": "response.input_tokens", "input_tokens": 11}))
    customer = await served(provider)
    assert (await ask(customer, asked, PATH + "/input_tokens")).json["input_tokens"] == 11
    await the_event(customer, 0)


@stories
async def refusals_have_openai_s_envelope(served: Serve) -> None:
    provider = Provider(saying(response()))
    customer = await served(provider)
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


async def client_of(one: OneGateway) -> AsyncOpenAI:
    """OpenAI's client, by base URL alone, on the local provider."""
    key = (await one.customer()).key
    return AsyncOpenAI(base_url=one.gateway.url + "/v1", api_key=key, max_retries=0)


@stories
async def the_client_reads_a_response_whole_and_streamed(sdk: AsyncOpenAI) -> None:
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


@stories
async def the_client_sends_tools_and_counts_tokens(sdk: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
    made = await sdk.responses.create(model="demo", input=[{"role": "user", "content": "Hi"}], tools=[tool])
    assert made.output_text
    counted = await sdk.responses.input_tokens.count(model="demo", input="Hello")
    assert counted.input_tokens > 0


@stories
async def the_client_reads_structured_output(served: Serve) -> None:
    text = {"type": "output_text", "text": json.dumps({"word": "good"}), "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    customer = await served(Provider(saying({**response(output=[message]), "created_at": 1, "tools": []})))
    url = customer.gateway.url + "/v1"
    async with AsyncOpenAI(base_url=url, api_key=customer.key, max_retries=0) as client:
        parsed = await client.responses.parse(model="gpt-4o-mini", input="x", text_format=Answer)
    assert parsed.output_parsed == Answer(word="good")


@stories
async def the_client_raises_its_own_errors(gateway: Gateway, sdk: AsyncOpenAI) -> None:
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


async def test_on_one_gateway(tell: Tell) -> None:
    await tell(stories, makers={"served": served_by, "sdk": client_of})


async def test_the_client_polls_a_background_response(make_gateway: MakeGateway) -> None:
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

    async def all_done() -> bool:
        return not await gateway.runtime.database.value("SELECT count(*) FROM background_jobs WHERE done_at IS NULL")

    await until(all_done)
    charged = [event for event in await customer.events() if event["output_tokens"]]
    assert len(charged) == 1
