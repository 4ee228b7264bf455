"""The local provider: determinism, usage, streams, pace."""

import asyncio
import json
import math
import struct
import threading
from base64 import b64decode
from typing import Any

import pytest

from gateway.tokens import CL100K, O200K, Tokenizer, VocabularyError, vocabulary_for
from gateway.upstream.base import UpstreamCut, UpstreamTimeout, UpstreamTooLarge
from gateway.upstream.local.provider import LocalTransport
from tests.support.local_answers import LIMIT_BYTES, ask, content, request

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBED = "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]


async def events(local: LocalTransport, path: str, **body: object) -> list[Any]:
    """The decoded events of a stream, after checking its frame."""
    answer = await local.send(request(path, {"stream": True} | body))
    assert answer.status == 200
    assert dict(answer.headers)[b"Content-Type"] == b"text/event-stream; charset=utf-8"
    chunks = [chunk async for chunk in answer.chunks()]
    answer.release()
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    assert all(chunk.count(b"\n") == 2 for chunk in chunks)
    assert chunks[-1] == b"data: [DONE]\n\n"
    return [json.loads(chunk[6:]) for chunk in chunks[:-1]]


async def test_the_same_request_gets_the_same_answer(local):
    first = await ask(local, CHAT, model="gpt-4o", messages=HELLO)
    assert await ask(local, CHAT, model="gpt-4o", messages=HELLO) == first
    other = await ask(local, CHAT, model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}])
    assert other[1]["choices"][0]["message"]["content"] != first[1]["choices"][0]["message"]["content"]
    assert other[1]["id"] != first[1]["id"]


async def test_another_time_is_another_id_but_the_same_text(tokenizer):
    clock = iter(range(1_000))
    local = LocalTransport(tokenizer, now=lambda: float(next(clock)))
    (_, first), (_, second) = [await ask(local, CHAT, model="gpt-4o", messages=HELLO) for _ in range(2)]
    assert first["id"] != second["id"]
    assert first["choices"] == second["choices"]


async def test_answers_have_a_natural_length(local):
    for model in ("gpt-4o", "gpt-4"):
        for number in range(100):
            messages = [{"role": "user", "content": f"Question {number}"}]
            _, answer = await ask(local, CHAT, model=model, messages=messages, max_tokens=1_000)
            assert 20 <= answer["usage"]["completion_tokens"] <= 60
            assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-3.5-turbo"])
async def test_usage_is_what_tiktoken_counts(local, tokenizer, model):
    vocabulary = vocabulary_for(model)
    messages = [
        {"role": "system", "content": "Sei höflich."},
        {"role": "user", "name": "bo", "content": [{"type": "text", "text": "Grüße! " * 3_000}]},
    ]
    _, answer = await ask(local, CHAT, model=model, messages=messages, n=3)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    assert answer["usage"]["prompt_tokens"] == tokenizer.count_chat_messages(messages, vocabulary)
    assert answer["usage"]["completion_tokens"] == sum(tokenizer.count(text, vocabulary) for text in texts)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_maximum_is_kept_exactly(local, tokenizer, name):
    _, whole = await ask(local, CHAT, model="gpt-4o", messages=HELLO)
    natural = whole["usage"]["completion_tokens"]
    for maximum in range(1, natural + 2):
        limit = {name: maximum}
        _, answer = await ask(local, CHAT, model="gpt-4o", messages=HELLO, **limit)
        text = answer["choices"][0]["message"]["content"]
        assert whole["choices"][0]["message"]["content"].startswith(text)
        assert answer["usage"]["completion_tokens"] == tokenizer.count(text, O200K) == min(maximum, natural)
        assert answer["choices"][0]["finish_reason"] == ("length" if maximum < natural else "stop")


@pytest.mark.parametrize("as_list", [True, False])
async def test_stop_sequences_end_the_answer(local, tokenizer, as_list):
    _, whole = await ask(local, CHAT, model="gpt-4o", messages=HELLO)
    text = whole["choices"][0]["message"]["content"]
    stop = text.split(" ")[5]
    _, answer = await ask(local, CHAT, model="gpt-4o", messages=HELLO, stop=["never said", stop] if as_list else stop)
    assert answer["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == tokenizer.count(text[: text.index(stop)], O200K)


async def test_a_stop_sequence_after_the_maximum_does_not_count(local):
    _, whole = await ask(local, CHAT, model="gpt-4o", messages=HELLO)
    last = whole["choices"][0]["message"]["content"].split(" ")[-1]
    _, answer = await ask(local, CHAT, model="gpt-4o", messages=HELLO, stop=last, max_tokens=3)
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_counting_is_done_on_request(local, tokenizer):
    messages = [
        {"role": "user", "content": "Please COUNT TO 25 now"},
        {"role": "assistant", "content": "count to 3"},
    ]
    _, answer = await ask(local, CHAT, model="gpt-4o", messages=messages)
    assert answer["choices"][0]["message"]["content"] == ", ".join(str(number) for number in range(1, 26))
    messages = [{"role": "user", "content": [{"type": "text", "text": "count to 999999999"}]}]
    chunks = await events(local, CHAT, model="gpt-4o", messages=messages, stream_options={"include_usage": True})
    text = content(chunks)
    assert text.endswith(", 9999, 10000")
    assert chunks[-1]["usage"]["completion_tokens"] == tokenizer.count(text, O200K)


async def test_chunks_without_usage_have_no_usage_member(local):
    chunks = await events(local, CHAT, model="gpt-4o", messages=HELLO)
    assert all("usage" not in chunk for chunk in chunks)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    declined = await events(local, CHAT, model="gpt-4o", messages=HELLO, stream_options={"include_usage": False})
    assert all("usage" not in chunk for chunk in declined)


@pytest.mark.parametrize(("path", "asked"), [(CHAT, {"messages": HELLO}), (TEXT, {"prompt": "Hello"})])
async def test_chunks_with_usage_have_it_null_but_for_the_last(local, path, asked):
    _, plain = await ask(local, path, model="gpt-4o", **asked)
    chunks = await events(local, path, model="gpt-4o", stream_options={"include_usage": True}, **asked)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == plain["usage"]


async def test_a_stream_says_what_the_plain_answer_says(local):
    asked = {"model": "gpt-4o", "messages": HELLO, "n": 3, "max_tokens": 9, "stop": "zz"}
    _, plain = await ask(local, CHAT, **asked)
    chunks = await events(local, CHAT, **asked)
    for index, choice in enumerate(plain["choices"]):
        assert content(chunks, index) == choice["message"]["content"]
        reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert reasons == [None] * (len(reasons) - 1) + [choice["finish_reason"]]


async def test_a_read_stream_is_all_of_its_events(local):
    body = {"model": "gpt-4o", "messages": HELLO, "stream": True}
    whole = await (await local.send(request(CHAT, body))).read(LIMIT_BYTES)
    answer = await local.send(request(CHAT, body))
    assert b"".join([chunk async for chunk in answer.chunks()]) == whole


async def test_a_long_stream_leaves_the_loop_its_turns(local):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await events(local, CHAT, model="gpt-4o", messages=[{"role": "user", "content": "count to 5000"}])
    beside.cancel()
    assert turns > 200


async def test_release_stops_the_answer(local):
    answer = await local.send(request(CHAT, {"model": "gpt-4o", "messages": HELLO, "stream": True}))
    chunks = answer.chunks()
    await anext(chunks)
    answer.release()
    with pytest.raises(UpstreamCut):
        await anext(chunks)


async def test_a_whole_answer_has_its_limit(local):
    answer = await local.send(request(CHAT, {"model": "gpt-4o", "messages": HELLO}))
    with pytest.raises(UpstreamTooLarge):
        await answer.read(10)


async def test_completions_have_sixteen_tokens_unless_told(local, tokenizer):
    _, answer = await ask(local, TEXT, model="gpt-3.5-turbo-instruct", prompt="Once")
    choice = answer["choices"][0]
    assert answer["object"] == "text_completion"
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == tokenizer.count(choice["text"], CL100K) == 16
    assert answer["usage"]["prompt_tokens"] == 1


async def test_each_prompt_has_its_choices(local):
    _, answer = await ask(local, TEXT, model="gpt-4o", prompt=["one", "two two"], n=2, max_tokens=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in answer["choices"]}) == 4
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 20


async def test_all_of_best_of_is_counted(local):
    _, answer = await ask(local, TEXT, model="gpt-4o", prompt="one", n=2, best_of=5, max_tokens=5)
    assert len(answer["choices"]) == 2
    assert answer["usage"]["completion_tokens"] == 25


@pytest.mark.parametrize(("prompt", "tokens", "choices"), [([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2)])
async def test_prompts_of_tokens(local, prompt, tokens, choices):
    _, answer = await ask(local, TEXT, model="gpt-4o", prompt=prompt)
    assert answer["usage"]["prompt_tokens"] == tokens
    assert len(answer["choices"]) == choices


@pytest.mark.parametrize("dimensions", [1, 3, 256, 1_536, 3_072])
async def test_vectors_have_length_one(local, dimensions):
    _, answer = await ask(local, EMBED, model="text-embedding-3-large", input="text", dimensions=dimensions)
    vector = answer["data"][0]["embedding"]
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5)


async def test_vectors_are_the_text_s_own(local):
    _, answer = await ask(local, EMBED, model="m", input=["a", "b", "a"], dimensions=8)
    first, second, third = (item["embedding"] for item in answer["data"])
    assert first == third != second
    assert answer["object"] == "list"
    assert [item["object"] for item in answer["data"]] == ["embedding"] * 3


async def test_base64_is_the_same_vector(local):
    _, plain = await ask(local, EMBED, model="m", input="a", dimensions=8)
    _, packed = await ask(local, EMBED, model="m", input="a", dimensions=8, encoding_format="base64")
    values = struct.unpack("<8f", b64decode(packed["data"][0]["embedding"]))
    assert values == pytest.approx(plain["data"][0]["embedding"], abs=1e-8)


@pytest.mark.parametrize(
    ("inputs", "tokens", "items"),
    [("one two", 2, 1), (["one", "two two"], 3, 2), ([5, 6, 7], 3, 1), ([[5], [6, 7]], 3, 2), ("a " * 4_000, 4_001, 1)],
)
async def test_inputs_of_each_kind_are_counted(local, inputs, tokens, items):
    _, answer = await ask(local, EMBED, model="m", input=inputs, dimensions=2)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert len(answer["data"]) == items


@pytest.fixture
def slept_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that were asked for; none of them takes time."""
    seen: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        if delay_s:
            seen.append(delay_s)
        await sleep(0)

    monkeypatch.setattr("gateway.upstream.local.provider.asyncio.sleep", note)
    return seen


async def test_delays_are_kept(tokenizer, slept_s):
    local = LocalTransport(tokenizer, delay_ms=1_500, chunk_delay_ms=20)
    chunks = await events(local, CHAT, model="gpt-4o", messages=HELLO)
    assert slept_s == [1.5] + [0.02] * len(chunks)  # one between each two, [DONE] is one more


async def test_a_request_s_metadata_overrides_the_delays(tokenizer, slept_s):
    local = LocalTransport(tokenizer, delay_ms=1_500, chunk_delay_ms=20)
    metadata = {"delay_ms": "600000", "chunk_delay_ms": "0", "other": "kept"}
    await events(local, CHAT, model="gpt-4o", messages=HELLO, metadata=metadata)
    assert slept_s == [600.0]


async def test_without_delays_nothing_sleeps(local, slept_s):
    await events(local, CHAT, model="gpt-4o", messages=HELLO)
    assert slept_s == []


@pytest.mark.parametrize("name", ["delay_ms", "chunk_delay_ms"])
async def test_a_delay_above_the_longest_silence_is_a_timeout(tokenizer, name):
    local = LocalTransport(tokenizer, timeout_s=0.05)
    body = {"model": "gpt-4o", "messages": HELLO, "stream": True, "metadata": {name: "10000"}}
    if name == "delay_ms":
        with pytest.raises(UpstreamTimeout):
            await local.send(request(CHAT, body))
        return
    answer = await local.send(request(CHAT, body))
    with pytest.raises(UpstreamTimeout):
        await answer.read(LIMIT_BYTES)


@pytest.mark.parametrize("delay_ms", [-1, 600_001])
def test_a_delay_out_of_bounds_is_refused_at_start(tokenizer, delay_ms):
    with pytest.raises(ValueError, match="a delay is from 0 to 600000 ms"):
        LocalTransport(tokenizer, delay_ms=delay_ms)


async def test_a_service_tier_is_the_answer_s(local):
    tiers = [
        (await ask(local, CHAT, model="m", messages=HELLO, service_tier=tier))[1]["service_tier"]
        for tier in ("auto", "default", "flex", "priority")
    ]
    assert tiers == ["default", "default", "flex", "priority"]


async def test_a_vocabulary_is_read_with_the_first_text_that_is_counted_by_it_and_off_the_loop():
    made = Tokenizer()
    made.verify()
    assert not made._encodings
    threads = []
    read = made._read
    made._read = lambda name: (threads.append(threading.get_ident()), read(name))[1]
    counts = await asyncio.gather(*(made.count_off_loop("Hello, world.", O200K) for _ in range(5)))
    assert counts == [4] * 5
    assert list(made._encodings) == [O200K]
    assert threading.get_ident() not in threads
    with pytest.raises(VocabularyError, match="no vocabulary"):
        made.count("x", "p50k_base")
    made.close()
