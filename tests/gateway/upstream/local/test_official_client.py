"""The local provider's wire format as OpenAI's own client reads it."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from openai import AsyncOpenAI, OpenAI

from gateway.upstream.local.provider import LocalTransport
from tests.support.local_answers import request


@pytest.fixture
async def base_url(local: LocalTransport) -> AsyncIterator[str]:
    """The local provider behind a server."""

    async def handle(incoming: web.Request) -> web.StreamResponse:
        answer = await local.send(request(incoming.path, await incoming.read(), incoming.method))
        headers = CIMultiDict((name.decode(), value.decode()) for name, value in answer.headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(incoming)
        async for chunk in answer.chunks():
            await response.write(chunk)
        answer.release()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as made:
        yield made


async def test_the_client_reads_a_chat(client):
    answer = await client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}], n=2
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert (answer.model, answer.created) == ("gpt-4o-mini", 1_700_000_000)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content != answer.choices[1].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert answer._request_id is not None


async def test_the_client_reads_a_streamed_chat(client):
    messages = [{"role": "user", "content": "Hello"}]
    plain = await client.chat.completions.create(model="gpt-4o", messages=messages)
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage


async def test_the_client_s_own_stream_helper_is_content(client):
    messages = [{"role": "user", "content": "Hello"}]
    async with client.chat.completions.stream(model="gpt-4o", messages=messages, n=2) as stream:
        final = await stream.get_final_completion()
    plain = await client.chat.completions.create(model="gpt-4o", messages=messages, n=2)
    assert [choice.message.content for choice in final.choices] == [choice.message.content for choice in plain.choices]
    assert [choice.finish_reason for choice in final.choices] == ["stop", "stop"]


async def test_the_synchronous_client_reads_all_three(base_url):
    def talk():
        with OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
            chat = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
            assert chat.choices[0].message.content
            streamed = client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
            assert "".join(pieces) == chat.choices[0].message.content
            text = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", max_tokens=8)
            assert text.object == "text_completion"
            assert text.choices[0].finish_reason == "length"
            parts = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", max_tokens=8, stream=True)
            assert "".join(part.choices[0].text for part in parts) == text.choices[0].text
            vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
            assert [len(item.embedding) for item in vectors.data] == [1_536, 1_536]
            assert [item.index for item in vectors.data] == [0, 1]
            assert vectors.usage.prompt_tokens == vectors.usage.total_tokens == 2

    await asyncio.to_thread(talk)


async def test_the_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError) as error:
        await client.chat.completions.create(model="gpt-4o", messages=[])
    assert (error.value.param, error.value.code, error.value.type) == (
        "messages",
        "empty_array",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError):
        await client.models.list()
