"""The official `openai` package works unchanged: only its base URL and key are ours."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from billing.money import parse_usd
from tests.gateway.conftest import Customer, Gateway, chat
from tests.support.answering import DONE, WORDS, Provider, answer, event, saying, streaming, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ULID_TEXT, ask, early_in_a_minute, spent_nano, the_event

pytestmark = pytest.mark.slow

MESSAGES: Any = [{"role": "user", "content": "Say something."}]


def client_of(customer: Customer, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{customer.gateway.url}/v1", api_key=customer.key, **options)


@pytest.fixture
async def customer(gateway: Gateway) -> Customer:
    return await gateway.customer()


@pytest.fixture
async def client(customer: Customer) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(customer) as made:
        yield made


async def test_a_chat(client, customer):
    completion = await client.chat.completions.create(model="demo", messages=MESSAGES)
    assert completion.choices[0].message.content
    assert completion.usage is not None
    reported = completion.usage
    await the_event(customer, reported.prompt_tokens * INPUT + reported.completion_tokens * OUTPUT)


async def test_a_stream(client, customer):
    stream = await client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    stream = await client.chat.completions.create(
        model="demo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    last = [chunk async for chunk in stream][-1]
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    assert await spent_nano(customer) > 0
    first, second = await customer.events()
    assert first["charged_usd"] == second["charged_usd"]


async def test_the_stream_helper_and_the_cost(client):
    async with client.chat.completions.stream(
        model="demo", messages=MESSAGES, extra_headers={"x-metergate-include-cost": "true"}
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert "content.done" in kinds
    assert parse_usd(final.usage.model_extra["charge_usd"]) > 0


async def test_a_completion_and_embeddings(client, customer):
    completion = await client.completions.create(model="demo", prompt="Say it.", max_tokens=8)
    assert completion.choices[0].text
    embeddings = await client.embeddings.create(model="demo-embedding", input=["One.", "Two."], dimensions=8)
    assert [len(item.embedding) for item in embeddings.data] == [8, 8]
    assert await spent_nano(customer) > 0
    assert [event["endpoint"] for event in await customer.events()] == ["/v1/completions", "/v1/embeddings"]


async def test_models(client):
    listed = [model.id async for model in client.models.list()]
    assert {"demo", "demo-embedding"} <= set(listed)
    assert (await client.models.retrieve("demo")).owned_by == "local"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


async def test_raw_responses(client, customer):
    response = await client.chat.completions.with_raw_response.create(model="demo", messages=MESSAGES)
    assert ULID_TEXT.fullmatch(response.request_id or "")
    assert response.headers["x-metergate-balance-usd"] == (await customer.balance())["balance_usd"]
    assert int(response.headers["x-ratelimit-remaining-requests"]) > 0
    assert response.parse().choices
    async with client.chat.completions.with_streaming_response.create(
        model="demo", messages=MESSAGES, stream=True
    ) as streamed:
        assert ULID_TEXT.fullmatch(streamed.headers["x-request-id"])
        assert [line async for line in streamed.iter_lines()][-2:] == ["data: [DONE]", ""]


async def test_the_synchronous_client(customer):
    def use():
        with OpenAI(base_url=f"{customer.gateway.url}/v1", api_key=customer.key) as client:
            whole = client.chat.completions.create(model="demo", messages=MESSAGES)
            stream = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return whole.choices[0].message.content or "", streamed, [model.id for model in client.models.list()]

    whole, streamed, models = await asyncio.to_thread(use)
    assert whole == streamed
    assert "demo" in models
    assert await spent_nano(customer) > 0
    assert len(await customer.events()) == 2


async def test_a_stream_that_is_closed_early(make_gateway, upstream):
    gateway = await make_gateway(await upstream(streaming(*WORDS * 2000, usage_chunk(10, 8000), DONE)))
    customer = await gateway.customer()
    async with client_of(customer) as client:
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
    await the_event(customer)


async def test_an_error_within_a_stream_is_raised_with_the_provider_s_words(make_gateway, upstream):
    error = event({"error": {"message": "The server is overloaded.", "type": "server_error", "code": "overloaded"}})
    gateway = await make_gateway(await upstream(streaming(*WORDS[:2], error)))
    customer = await gateway.customer()
    async with client_of(customer) as client:
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match=r"The server is overloaded\.") as raised:
            [chunk async for chunk in stream]
    assert (type(raised.value), raised.value.code) == (openai.APIError, "overloaded")


@pytest.mark.parametrize("base", ["", "/v1/v1"])
async def test_a_base_url_with_too_few_or_too_many_v1_is_told(customer, base):
    url = f"{customer.gateway.url}{base}"
    async with AsyncOpenAI(base_url=url, api_key=customer.key) as client:
        with pytest.raises(openai.NotFoundError, match=r"Did you mean /v1/chat/completions\? .* ends with /v1, once"):
            await client.chat.completions.create(model="demo", messages=MESSAGES)


async def test_a_provider_that_does_not_accept_the_operator_s_key_is_no_wrong_key_of_the_client_s(
    make_gateway, upstream
):
    gateway = await make_gateway(await upstream(saying({"error": {"message": "Incorrect API key provided"}}, 401)))
    counted = Counted(await gateway.customer())
    error = await counted.fails(openai.InternalServerError, model="gpt-4o-mini")
    assert (error.status_code, error.code, counted.requests) == (502, "upstream_error", 1)


async def test_a_cut_stream_raises(make_gateway, upstream):
    gateway = await make_gateway(await upstream(streaming(*WORDS, cut=True)))
    customer = await gateway.customer()
    async with client_of(customer) as client:
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIConnectionError):
            _ = [chunk async for chunk in stream]


# What is refused: each error is the class that its status has, and is tried again only where that can help


class Counted:
    """A customer whose requests that reach the gateway are counted."""

    def __init__(self, customer: Customer, **options: Any) -> None:
        self.requests = 0
        self.client = client_of(customer, **options)
        self.client._client.event_hooks["request"].append(self._count)

    async def _count(self, _: Any) -> None:
        self.requests += 1

    async def fails(self, error: type[openai.APIStatusError], model: str = "demo", **fields: Any) -> Any:
        """The refusal that a chat ends in."""
        async with self.client:
            with pytest.raises(error) as refused:
                await self.client.chat.completions.create(model=model, messages=MESSAGES, **fields)
        assert ULID_TEXT.fullmatch(refused.value.request_id or "")
        return refused.value


async def test_a_wrong_key(customer):
    wrong = Counted(Customer(customer.gateway, "", "", "sk-wrong"))
    error = await wrong.fails(openai.AuthenticationError)
    assert (error.status_code, error.code, wrong.requests) == (401, "invalid_api_key", 1)


async def test_an_empty_balance(gateway):
    counted = Counted(await gateway.customer("0"))
    error = await counted.fails(openai.APIStatusError)
    assert (error.status_code, error.code, counted.requests) == (402, "billing_required", 1)
    billing = error.response.json()["error"]["billing"]
    assert billing.keys() == {"status", "balance_usd", "required_usd", "setup_url", "next"}
    assert error.body["billing"] == billing


async def test_a_scope_and_a_model_that_are_not_there(gateway):
    counted = Counted(await gateway.customer(scopes=["billing:read"]))
    error = await counted.fails(openai.PermissionDeniedError)
    assert (error.code, error.body["required_scope"], counted.requests) == ("insufficient_scope", "llm:proxy", 1)
    counted = Counted(await gateway.customer(models=["gpt-4o"]))
    error = await counted.fails(openai.PermissionDeniedError)
    assert (error.code, error.param, counted.requests) == ("model_not_allowed", "model", 1)
    counted = Counted(await gateway.customer())
    error = await counted.fails(openai.NotFoundError, model="nothing")
    assert (error.code, error.param, counted.requests) == ("model_not_found", "model", 1)
    counted = Counted(await gateway.customer())
    error = await counted.fails(openai.BadRequestError, n=0)
    assert (error.code, error.param, counted.requests) == ("invalid_request_error", "n", 1)


@pytest.mark.parametrize("window", ["month", "total"])
async def test_a_window_that_stays_exhausted_is_not_tried_again(gateway, window):
    counted = Counted(await gateway.customer(quotas=[{"window": window, "metric": "requests", "limit": 0}]))
    error = await counted.fails(openai.RateLimitError)
    assert (error.code, error.body["quota"]["window"], counted.requests) == ("quota_exceeded", window, 1)


async def test_a_minute_s_window_is_tried_again_when_it_says(gateway, monkeypatch):
    waits = []

    async def noted(seconds):
        waits.append(seconds)

    monkeypatch.setattr("openai._base_client.anyio.sleep", noted)
    customer = await gateway.customer(quotas=[{"window": "minute", "metric": "requests", "limit": 1}])
    counted = Counted(customer)
    await early_in_a_minute()
    assert (await ask(customer, chat())).status == 200
    error = await counted.fails(openai.RateLimitError)
    assert (error.code, counted.requests) == ("quota_exceeded", 3)
    assert all(0 <= wait - int(error.response.headers["Retry-After"]) <= 5 for wait in waits)
    assert len(waits) == 2


async def test_too_many_at_once_is_tried_again(make_gateway, upstream):
    """The refusal says to wait for a second; by the first retry, the running request has ended."""
    ended = asyncio.Event()
    provider = Provider(saying(b""))

    async def slow(request):
        await ended.wait()
        return await saying(answer())(request)

    provider.reply = slow
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer(max_parallel_requests=1)
    async with client_of(customer) as first:
        running = asyncio.create_task(first.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES))
        while not provider.sent:
            await asyncio.sleep(0.005)
        counted = Counted(customer)
        refused = []

        async def note(response):
            refused.append(response.status_code)
            ended.set()
            await running

        counted.client._client.event_hooks["response"].append(note)
        async with counted.client:
            completion = await counted.client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert completion.choices[0].message.content == "Good day."
    assert (refused, counted.requests) == ([429, 200], 2)
    assert await spent_nano(customer) == 2 * (10 * INPUT + 5 * OUTPUT)


async def test_a_failing_provider_is_tried_again_and_costs_once(make_gateway, upstream):
    answers = [saying(b"<html>", Content_Type="text/html"), saying({"error": {"message": "busy"}}, 503)]

    async def reply(request):
        return await (answers.pop(0) if answers else saying(answer()))(request)

    provider = Provider(reply)
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    async with client_of(customer, max_retries=2) as client:
        await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert len(provider.sent) == 3
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)
