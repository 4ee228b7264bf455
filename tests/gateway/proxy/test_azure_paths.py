"""Azure's client: its paths, its key, and the model that a path names."""

from typing import Any

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, NotFoundError, RateLimitError
from openai.types.create_embedding_response import CreateEmbeddingResponse

from tests.gateway.conftest import Gateway, chat
from tests.support.answering import Provider, answer, saying
from tests.support.gateways import ask, fetch, the_event

pytestmark = pytest.mark.slow


def azure(gateway: Gateway, key: str, **options: Any) -> AsyncAzureOpenAI:
    base = options.pop("base", "/azure")
    return AsyncAzureOpenAI(
        azure_endpoint=gateway.url + base, api_key=key, api_version="2024-10-21", max_retries=0, **options
    )


@pytest.mark.parametrize("base", ["", "/azure"])
@pytest.mark.parametrize("options", [{}, {"azure_deployment": "demo"}])
async def test_azure_s_client_by_its_endpoint_alone(gateway, base, options):
    customer = await gateway.customer("5.00")
    async with azure(gateway, customer.key, base=base, **options) as client:
        messages = [{"role": "user", "content": "Say something."}]
        whole = await client.chat.completions.create(model="demo", messages=messages, max_tokens=20)  # type: ignore[arg-type]
        assert whole.choices[0].message.content
        chunks = await client.chat.completions.create(model="demo", messages=messages, max_tokens=20, stream=True)  # type: ignore[call-overload]
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert text == whole.choices[0].message.content
    one, other = await customer.events()
    assert one["endpoint"] == f"{base}/openai/deployments/{{model}}/chat/completions"
    assert (
        (one["model"], one["total_tokens"]) == (other["model"], other["total_tokens"]) == ("demo", one["total_tokens"])
    )


async def test_its_embeddings_and_the_path_without_a_deployment(gateway):
    customer = await gateway.customer("5.00")
    async with azure(gateway, customer.key) as client:
        found: CreateEmbeddingResponse = await client.embeddings.create(model="demo-embedding", input="One.")
        assert len(found.data[0].embedding) == 1536
    async with AsyncOpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=customer.key, max_retries=0) as plain:
        messages: Any = [{"role": "user", "content": "Say something."}]
        assert (await plain.chat.completions.create(model="demo", messages=messages, max_tokens=5)).choices


async def test_its_responses_name_the_model_in_the_body(gateway):
    customer = await gateway.customer("5.00")
    async with azure(gateway, customer.key) as client:
        made = await client.responses.create(model="demo", input="Say something.", max_output_tokens=20)
    assert made.output_text
    assert (await the_event(customer))["endpoint"] == "/azure/openai/responses"


async def test_its_refusals_are_its_own_exceptions(gateway):
    quota = {"window": "day", "metric": "requests", "limit": 1}
    customer = await gateway.customer("5.00", quotas=[quota])
    messages: Any = [{"role": "user", "content": "Say something."}]
    async with azure(gateway, customer.key) as client:
        with pytest.raises(NotFoundError, match="does not exist here"):
            await client.chat.completions.create(model="nothing", messages=messages)
        await client.chat.completions.create(model="demo", messages=messages, max_tokens=5)
        with pytest.raises(RateLimitError) as refused:
            await client.chat.completions.create(model="demo", messages=messages, max_tokens=5)
    assert refused.value.code == "quota_exceeded"
    assert refused.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [{}, {"model": "gpt-4o"}, {"model": "gpt-4o-mini"}])
async def test_the_path_s_name_alone_reaches_the_provider(customer_of, body):
    """Whatever a client writes into the body: a provider would believe it."""
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    asked = {**chat(max_tokens=5), **body}
    if not body:
        del asked["model"]
    path = "/openai/deployments/openai%2Fgpt-4o-mini/chat/completions"
    assert (await ask(customer, asked, path=path)).status == 200
    (sent,) = provider.sent
    assert (sent.path, sent.json["model"]) == ("/v1/chat/completions", "gpt-4o-mini")
    assert (await the_event(customer))["model"] == "gpt-4o-mini"


async def test_a_model_of_the_wrong_type_is_refused_there_too(gateway):
    customer = await gateway.customer("5.00")
    for body in (b'{"model": 3, "messages": []}', b'{"model": "a", "model": "b", "messages": []}', b'{"Model": "a"}'):
        path = "/openai/deployments/demo/chat/completions"
        assert (await fetch(customer.post(path, data=body))).status == 400
