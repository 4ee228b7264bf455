"""OpenAI's own library on what is no text, and on errors inside streams."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.gateway.conftest import Customer, Handler, MakeGateway, Upstream
from tests.gateway.dialects.openai_responses.bodies import event as responses_event
from tests.support.answering import WORDS, Provider, event, saying, streaming
from tests.support.gateways import assert_free, spent_nano, the_event

MODEL = "gpt-4o-mini"
BROKEN = {"message": "It broke.", "type": "server_error", "param": None, "code": "server_error"}


@pytest.fixture
async def served(make_gateway: MakeGateway, upstream: Upstream) -> Any:
    """Makes a provider's customer and the library as its client."""

    async def make(reply: Handler) -> tuple[Provider, Customer, AsyncOpenAI]:
        provider = Provider(reply)
        gateway = await make_gateway(await upstream(provider.serve))
        customer = await gateway.customer()
        return provider, customer, AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=customer.key, max_retries=0)

    return make


async def test_embeddings(served):
    body = {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": [{"object": "embedding", "index": index, "embedding": "AACAPwAAAEA="} for index in range(2)],
        "usage": {"prompt_tokens": 14, "total_tokens": 14},
    }
    provider, customer, client = await served(saying(body))
    async with client:
        answer = await client.embeddings.create(model="text-embedding-3-small", input=["One.", "Two."])
        assert [each.embedding for each in answer.data] == [[1.0, 2.0]] * 2
        assert provider.sent[0].json["encoding_format"] == "base64"
        await the_event(customer, 14 * 20)
        provider.reply = saying({**BROKEN, "error": BROKEN}, 400)
        with pytest.raises(openai.BadRequestError, match="It broke"):
            await client.embeddings.create(model="text-embedding-3-small", input="One.")
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="no-such-embedding", input="One.")
        assert await spent_nano(customer) == 14 * 20


async def test_moderations(served):
    result = {"flagged": True, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
    _, customer, client = await served(saying({"id": "m", "model": "omni-moderation-latest", "results": [result]}))
    async with client:
        answer = await client.moderations.create(model="omni-moderation-latest", input="Say something.")
    assert answer.results[0].flagged
    await the_event(customer, 0)


async def test_an_error_in_a_stream_of_a_chat_is_raised(served):
    _, customer, client = await served(streaming(*WORDS[:2], event({"error": BROKEN})))
    async with client:
        chunks = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        with pytest.raises(openai.APIError, match="It broke"):
            async for _ in chunks:
                pass
    assert await spent_nano(customer) > 0


@pytest.mark.parametrize("nested", [True, False])
async def test_an_error_in_a_stream_of_a_response_is_raised_where_it_is_nested(served, nested):
    """The library raises none that stands flat, as OpenAI's own do: it hands the event over."""
    flat = {"code": "server_error", "message": "It broke.", "param": None}
    failure = responses_event("error", sequence_number=0, **({"error": BROKEN} if nested else flat))
    _, customer, client = await served(streaming(failure))
    async with client:
        events = await client.responses.create(model=MODEL, input="Hello", stream=True)
        if nested:
            with pytest.raises(openai.APIError, match="It broke"):
                await anext(aiter(events))
        else:
            assert (await anext(aiter(events))).type == "error"
            with pytest.raises(StopAsyncIteration):
                await anext(aiter(events))
    await assert_free(customer)
