"""What an answer costs that did not end well: its input at least, what passed of it, or the hold; never nothing."""

import asyncio
import gzip
import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from aiohttp import web

from billing.holds.hold import Hold
from billing.ledger.verify import verify
from billing.money import parse_usd
from billing.prices import PriceRow, PriceTable
from gateway.config.settings import Settings
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.proxy.remainder import Remainder
from gateway.proxy.settlement import Settlements
from gateway.tokens import O200K, Tokenizer
from tests.gateway.conftest import Gateway, Handler, MakeGateway, chat
from tests.support.clients import Slow, asking_by_hand, leave, noticed, the_event_in_the_end
from tests.support.gateways import (
    BOUND_S,
    DONE,
    INPUT,
    OUTPUT,
    WORDS,
    Gate,
    Provider,
    answer,
    ask,
    asking,
    assert_free,
    delta,
    event,
    refusal,
    saying,
    spent_nano,
    streaming,
    the_event,
    until,
    usage,
    usage_chunk,
)

Upstream = Callable[[Handler], Any]
PLAIN = chat(model="gpt-4o-mini")
STREAM = chat(model="gpt-4o-mini", stream=True)
ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
IMAGE_TOKENS = 1445
"""Of one picture, in `pictures`."""
DATA = "A" * 100_000


def repriced(settings: Settings, rates: dict[str, int], **fields: Any) -> Settings:
    """Settings in which gpt-4o-mini has these prices, in nano-USD a token."""
    per_million = {name: rate * 10**6 for name, rate in rates.items()}
    row = PriceRow("openai", "gpt-4o-mini", date(2025, 1, 1), per_million, {}, **fields)
    return replace(settings, prices=PriceTable([*settings.prices.rows, row]))


def pictures(settings: Settings) -> Settings:
    """Settings in which it is known what a picture counts as."""
    bounds = {"part_tokens": {"image": IMAGE_TOKENS}, "max_output_tokens": 16_384, "context_window": 10**6}
    return repriced(settings, {"input": INPUT, "output": OUTPUT}, **bounds)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer()
    made.load()
    return made


def input_nano(tokenizer: Tokenizer, body: dict[str, Any]) -> int:
    return tokenizer.count_chat_messages(body["messages"], O200K) * INPUT


async def held_nano(gateway: Gateway) -> int:
    """What the one running request holds."""
    await until(lambda: len(gateway.runtime.engine.holds.live) == 1)
    (hold,) = gateway.runtime.engine.holds.live.values()
    return hold.cost_nano


# Faults of ours


async def test_a_failure_while_estimating_charges_the_hold(
    make_gateway: MakeGateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client hangs up before the usage comes, and what counts its tokens has no threads any more."""
    made: list[Tokenizer] = []
    load = Tokenizer.load
    monkeypatch.setattr(Tokenizer, "load", lambda self: (made.append(self), load(self))[1])
    provider = Slow(WORDS[0], *WORDS[1:], usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0)
    customer = await gateway.customer()
    made[-1].close()
    held: list[int] = []

    async def note() -> None:
        held.append(await held_nano(gateway))

    await leave(customer, chat("Hello. " * 2_000, model="gpt-4o-mini", stream=True), note, first=WORDS[0])
    found = await the_event_in_the_end(customer, held[0])
    assert (found["estimated"], found["note"]) == (True, "client_gone")


async def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("a fault of ours")


async def test_a_fault_of_ours_within_an_answer_charges_the_hold(
    make_gateway: MakeGateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(saying(b""))
    gateway = await make_gateway(await upstream(gate.serve))
    for patched, then, body in (
        ("stream", streaming(*WORDS, usage_chunk(), DONE), STREAM),
        ("whole", saying(answer("Yes.", {})), PLAIN),
        ("reported", saying(answer()), PLAIN),
    ):
        gate.opened.clear()
        gate._then = then
        customer = await gateway.customer()
        with monkeypatch.context() as patch:
            patch.setattr(Settlements, patched, broken if patched != "reported" else broken_at_once)
            running = asking(customer, body)
            held = await held_nano(gateway)
            gate.opened.set()
            fetched = await running
        if body is STREAM:
            assert (fetched.status, fetched.cut) == (200, True)
        else:
            assert "was charged" in refusal(fetched, 502, "upstream_error")["message"]
        found = await the_event_in_the_end(customer, held)
        assert (found["estimated"], found["note"]) == (True, "internal_error")


def broken_at_once(*_: Any, **__: Any) -> None:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize(
    ("patched", "body"), [("_stream", STREAM), ("_unanswered", PLAIN)], ids=["a stream", "before a head"]
)
async def test_a_fault_of_ours_after_the_client_has_left_charges_the_hold(
    make_gateway: MakeGateway,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    patched: str,
    body: dict[str, Any],
) -> None:
    """What goes on without the client ends its hold, too."""
    gate = Gate(saying(answer()))
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve if body is STREAM else gate.serve))
    customer = await gateway.customer()
    monkeypatch.setattr(Remainder, patched, broken)
    held: list[int] = []

    async def note() -> None:
        held.append(await held_nano(gateway))
        if body is PLAIN:
            await gate.reached()

    await leave(customer, body, note, first=WORDS[0] if body is STREAM else b"")
    assert (await the_event_in_the_end(customer, held[0]))["note"] == "internal_error"
    gate.opened.set()


# Output, whatever it is called


def chunk(said: dict[str, Any]) -> bytes:
    return event({"choices": [{"index": 0, "delta": said, "finish_reason": None}]})


LONG_TEXT = "Good day to you, my friend. " * 200
OUTPUTS: dict[str, tuple[dict[str, Any], range]] = {
    "a custom tool's input": (
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "run", "input": LONG_TEXT}}]},
        range(1_000, 2_000),
    ),
    "a picture": (
        {"images": [{"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64," + DATA}}]},
        range(IMAGE_TOKENS, IMAGE_TOKENS + 1),
    ),
    "a picture without a name": ({"image": DATA}, range(IMAGE_TOKENS, IMAGE_TOKENS + 1)),
    "whatever comes next": ({"whatever_comes_next": [{"deep": {"down": LONG_TEXT}}]}, range(1_000, 2_000)),
    "events of another kind": ({}, range(1_000, 2_000)),
    "numbers": ({"scores": [0.25, 0.5]}, range(1, 20)),
    "thinking in parts": ({"reasoning_details": [{"type": "text", "text": LONG_TEXT}]}, range(1_000, 2_000)),
}


@pytest.mark.parametrize("what", OUTPUTS)
async def test_any_delta_is_output(make_gateway: MakeGateway, upstream: Upstream, what: str) -> None:
    said, tokens = OUTPUTS[what]
    first = chunk(said) if said else event({"type": "content_block_delta", "delta": {"text": LONG_TEXT}})
    provider = Slow(first, DONE)
    gateway = await make_gateway(await upstream(provider.serve), change=pictures, disconnect_drain_s=0)
    customer = await gateway.customer()
    await leave(customer, STREAM, first=first[-100:])
    found = await the_event_in_the_end(customer)
    assert found["output_tokens"] in tokens
    assert (found["estimated"], found["note"]) == (True, "client_gone")


async def test_sound_is_counted_by_its_seconds_and_priced_as_sound(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    def talking(settings: Settings) -> Settings:
        rates = {"input": INPUT, "output": OUTPUT, "audio_output": 10 * OUTPUT}
        return repriced(settings, rates, part_tokens={"audio_second": 20}, max_output_tokens=16_000)

    sound = chunk({"audio": {"id": "audio_1", "data": "A" * 32_000}})
    provider = Slow(sound, DONE)
    gateway = await make_gateway(await upstream(provider.serve), change=talking, disconnect_drain_s=0)
    customer = await gateway.customer()
    await leave(customer, STREAM, first=sound[-100:])
    found = await the_event_in_the_end(customer)
    assert found["output_tokens"] == 12 * 20  # 24,000 bytes are at most twelve seconds
    assert parse_usd(found["charged_usd"]) == found["input_tokens"] * INPUT + 240 * 10 * OUTPUT


async def test_names_numbers_and_nothing_are_no_output(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    empty = {
        **{"role": "assistant", "content": None, "refusal": "", "tool_calls": [], "images": [], "audio": None},
        **{"id": "msg_1", "item_id": "item_1", "index": 3},
    }
    provider = Slow(chunk(empty), *[b": keep-alive\n\n" * 1000] * 1000)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0)
    customer = await gateway.customer()
    await leave(customer, STREAM, first=b"msg_1")
    found = await the_event_in_the_end(customer, input_nano(tokenizer, STREAM))
    assert (found["output_tokens"], found["note"]) == (0, "client_gone")


@pytest.mark.parametrize("size", [500_000, 3_000_000])
async def test_an_event_that_broke_off_is_counted(make_gateway: MakeGateway, upstream: Upstream, size: int) -> None:
    """It has no end by which it could be read, but most of it has passed."""
    begun = chunk({"content": "word " * (size // 5) + "the-last-word" + " word" * 20})[:-60]
    provider = Slow(begun, DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0)
    customer = await gateway.customer()
    await leave(customer, {**STREAM, "stream_options": {"include_usage": True}}, first=b"the-last-word")
    assert (await the_event_in_the_end(customer))["output_tokens"] == 16_384  # the model's own maximum


async def test_a_stream_that_nobody_here_can_read_is_not_passed_on(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    """Brotli, although identity was asked for: its provider is stopped before anything of it has passed."""
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "br"}
    gateway = await make_gateway(await upstream(streaming(*WORDS, DONE, headers=headers)))
    customer = await gateway.customer()
    refusal(await ask(customer, STREAM), 502, "upstream_error")
    await assert_free(customer)


# What a cut answer costs


PROMPT = "The quick brown fox jumps over the lazy dog. " * 400


def tool(description: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "description": description, "parameters": {}}}


def calls(arguments: str) -> list[dict[str, Any]]:
    called = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Seen."},
    ]


BODIES: dict[str, dict[str, Any]] = {
    "a message": chat(PROMPT),
    "a part": chat([{"type": "text", "text": PROMPT}]),  # type: ignore[arg-type]
    "a tool": chat(tools=[tool(PROMPT)]),
    "a schema": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": PROMPT}}}
    ),
    "arguments": chat(messages=calls(json.dumps({"said": PROMPT}))),
    "a field that nobody knows": chat(preamble=PROMPT),
}


async def test_input_costs_the_same_wherever_it_stands(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    provider = Provider(streaming(WORDS[0], cut=True))
    gateway = await make_gateway(await upstream(provider.serve))
    alone = tokenizer.count(PROMPT, O200K)
    for what, body in BODIES.items():
        customer = await gateway.customer()
        await ask(customer, {**body, "model": "gpt-4o-mini", "stream": True})
        found = await the_event(customer)
        assert alone <= found["input_tokens"] <= alone + 100, what


async def test_pictures_cost_their_bound_each(make_gateway: MakeGateway, upstream: Upstream) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + DATA}}
    content: Any = [{"type": "text", "text": "What is this?"}, *[picture] * 20]
    gateway = await make_gateway(await upstream(streaming(WORDS[0], cut=True)), change=pictures)
    customer = await gateway.customer()
    await ask(customer, chat(content, model="gpt-4o-mini", stream=True))
    assert 20 * IMAGE_TOKENS <= (await the_event(customer))["input_tokens"] <= 20 * IMAGE_TOKENS + 50


async def test_what_is_no_number_is_counted_as_it_stands() -> None:
    body = b'{"messages": [], "tools": [{"function": {"parameters": {"maximum": 1e999}}}]}'
    dialect = OpenAIDialect()
    assert dialect.input_tokens(body, len) == (len(body), [])
    deep = b'{"messages": [], "tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert dialect.input_tokens(deep, len) == (len(deep), [])


async def test_a_client_that_leaves_before_the_answer_pays_its_input(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    gone = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        reached.set()
        await until(lambda: request.transport is None)
        gone.set()
        return web.Response()

    gateway = await make_gateway(await upstream(silent), disconnect_drain_s=0.05)
    for body in (PLAIN, STREAM):
        reached = asyncio.Event()
        gone.clear()
        customer = await gateway.customer()
        await leave(customer, body, reached.wait)
        found = await the_event_in_the_end(customer, input_nano(tokenizer, body))
        assert (found["estimated"], found["note"], found["output_tokens"]) == (True, "client_gone", 0)
        async with asyncio.timeout(BOUND_S):
            await gone.wait()  # the provider was stopped


@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["JSON", "a stream"])
async def test_an_answer_that_comes_after_its_client_has_left_is_charged_by_its_usage(
    make_gateway: MakeGateway, upstream: Upstream, body: dict[str, Any]
) -> None:
    gate = Gate(saying(answer()) if body is PLAIN else streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(gate.serve), disconnect_drain_s=BOUND_S)
    customer = await gateway.customer()
    await leave(customer, body, gate.reached)
    await noticed(gateway)
    gate.opened.set()
    assert (await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT))["estimated"] is False


@pytest.mark.parametrize(
    ("then", "refused"),
    [
        (saying({"error": {}}, 429), True),
        (saying({"error": {}}, 500), True),
        (saying(b"<html>"), False),
        (streaming(cut=True), False),
    ],
    ids=["refused", "failed", "garbage", "an empty stream"],
)
async def test_a_provider_that_refuses_after_the_client_has_left_costs_nothing(
    make_gateway: MakeGateway, upstream: Upstream, then: Handler, refused: bool
) -> None:
    gate = Gate(then)
    gateway = await make_gateway(await upstream(gate.serve), disconnect_drain_s=BOUND_S)
    customer = await gateway.customer()
    await leave(customer, PLAIN, gate.reached)
    await noticed(gateway)
    gate.opened.set()
    await until(lambda: not gateway.runtime.engine.holds.live)
    await assert_free(customer)
    assert (b'metergate_upstream_refusals_total{provider="openai"' in await gateway.metrics()) == refused


async def test_a_part_of_a_json_answer_is_counted(make_gateway: MakeGateway, upstream: Upstream) -> None:
    said = json.dumps(answer(PROMPT, usage())).encode()[:-200]

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(said)
        written.set()
        await until(lambda: request.transport is None)
        return response

    written = asyncio.Event()
    gateway = await make_gateway(await upstream(reply), disconnect_drain_s=0.3)
    customer = await gateway.customer()
    await leave(customer, PLAIN, written.wait)
    found = await the_event_in_the_end(customer)
    assert (found["estimated"], found["note"]) == (True, "client_gone")
    assert found["output_tokens"] > 3_000


def hiding(settings: Settings) -> Settings:
    """Settings in which gpt-4o-mini does not show all that it bills."""
    rows = [replace(row, hidden_reasoning=row.model == "gpt-4o-mini") for row in settings.prices.rows]
    return replace(settings, prices=PriceTable(rows))


def patient(settings: Settings) -> Settings:
    """Settings in which the provider says how long it is read on."""
    provider = replace(settings.providers["openai"], disconnect_drain_s=BOUND_S)
    return replace(settings, providers={**settings.providers, "openai": provider})


@pytest.mark.parametrize(("change", "drain_s"), [(hiding, BOUND_S), (patient, 0)], ids=["hidden reasoning", "its own"])
async def test_how_long_an_upstream_is_read_on_is_the_model_s_own(
    make_gateway: MakeGateway, upstream: Upstream, change: Callable[[Settings], Settings], drain_s: float
) -> None:
    reasoned = usage(10, 5_000, completion_tokens_details={"reasoning_tokens": 4_995})
    provider = Slow(ROLE, delta("Yes."), delta(finish="stop"), event({"choices": [], "usage": reasoned}), DONE)
    gateway = await make_gateway(
        await upstream(provider.serve), change=change, disconnect_drain_s=0, reasoning_drain_s=drain_s
    )
    customer = await gateway.customer()
    await leave(customer, STREAM, first=b"assistant")
    await noticed(gateway)
    provider.let.set()
    assert (await the_event_in_the_end(customer, 10 * INPUT + 5_000 * OUTPUT))["estimated"] is False


async def test_an_early_usage_is_not_the_last_word(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    """Neither where the answer was cut, nor where it ended without another one."""
    text = "word " * 2_000
    stale = usage_chunk(10, 1)
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve))
    for pieces, cut in (
        ((ROLE, stale, delta(text)), True),
        ((delta("x", usage=usage(10, 1)) + delta(text),), True),
        ((ROLE, stale, delta(text), delta(finish="stop"), DONE), False),
    ):
        provider.reply = streaming(*pieces, cut=cut)
        customer = await gateway.customer()
        await ask(customer, STREAM)
        found = await the_event(customer)
        assert found["output_tokens"] >= tokenizer.count(text, O200K)
        assert found["estimated"] is True
        assert found["input_tokens"] >= 10


async def test_a_cut_never_costs_less_than_its_input_nor_more_than_its_hold(
    make_gateway: MakeGateway, upstream: Upstream, tokenizer: Tokenizer
) -> None:
    """At any place, with an early usage that says little; the answer is longer than what the client asked for."""
    picked = random.Random(7)  # noqa: S311
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0)
    body = chat("How are you? " * 20, model="gpt-4o-mini", stream=True, max_tokens=60, n=2)
    most = 2 * (len(json.dumps(body)) * INPUT + 60 * OUTPUT)
    words = [delta(f"word{number} " * 5, index=number % 2) for number in range(40)]
    whole = b"".join([ROLE, usage_chunk(picked.randint(0, 5), 1), *words])
    for _ in range(25):
        cut_at = picked.randrange(1, len(whole))
        size = picked.choice([1 << 16, 1 << 16, 100, 17])
        provider.reply = streaming(*(whole[at : min(at + size, cut_at)] for at in range(0, cut_at, size)), cut=True)
        customer = await gateway.customer()
        fetched = await ask(customer, body)
        spent = await spent_nano(customer)
        if fetched.status == 502:  # nothing had passed: a refusal, which is free
            assert spent == 0
            continue
        assert spent <= most, cut_at
        if b"word" in fetched.body:
            assert spent >= input_nano(tokenizer, body) + OUTPUT, cut_at


# Whole answers that say nothing of their usage


async def test_an_answer_above_its_bound_is_refused_and_charged(make_gateway: MakeGateway, upstream: Upstream) -> None:
    packed = gzip.compress(json.dumps(answer("x" * 100_000)).encode())
    assert len(packed) < 4096
    gate = Gate(saying(b""))
    gateway = await make_gateway(await upstream(gate.serve), upstream_answer_bytes=4096)
    for then in (saying(answer("x" * 5000)), _in_chunks(answer("x" * 5000)), saying(packed, Content_Encoding="gzip")):
        gate.opened.clear()
        gate._then = then
        customer = await gateway.customer()
        running = asking(customer, chat(model="gpt-4o-mini", n=128, logprobs=True, top_logprobs=20, max_tokens=20))
        held = await held_nano(gateway)
        gate.opened.set()
        error = refusal(await running, 502, "upstream_error")
        assert "larger than 4096 bytes" in error["message"]
        assert "was charged" in error["message"]
        found = await the_event(customer, held)
        assert (found["estimated"], found["note"]) == (True, "answer_too_large")


def _in_chunks(said: dict[str, Any]) -> Handler:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(json.dumps(said).encode())
        return response

    return reply


async def test_a_json_answer_that_says_nothing_known_is_charged_as_held(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    gate = Gate(saying(b""))
    gateway = await make_gateway(await upstream(gate.serve))
    for said in ({}, {"object": "something", "result": "else"}, {"choices": "none"}):
        gate.opened.clear()
        gate._then = saying(said)
        customer = await gateway.customer()
        running = asking(customer, PLAIN)
        held = await held_nano(gateway)
        gate.opened.set()
        fetched = await running
        assert (fetched.status, fetched.json) == (200, said)
        found = await the_event(customer, held)
        assert (found["estimated"], found["note"]) == (True, "no_usage")


async def test_where_missing_usage_is_free_so_are_these(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), missing_usage="free", upstream_answer_bytes=4096)
    for said in ({"object": "something"}, answer("x" * 5000)):
        provider.reply = saying(said)
        customer = await gateway.customer()
        await ask(customer)
        assert (await the_event(customer, 0))["estimated"] is True


# Reports that can't be


@pytest.mark.parametrize(
    "reply",
    [saying(answer(said=usage(2_000_000_000, 5))), streaming(*WORDS, usage_chunk(10, 2_000_000_000), DONE)],
    ids=["JSON", "a stream"],
)
async def test_a_report_far_above_the_hold_is_not_believed(
    make_gateway: MakeGateway, upstream: Upstream, reply: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(reply)
    gateway = await make_gateway(await upstream(gate.serve))
    customer = await gateway.customer()
    running = asking(customer, chat("A secret prompt.", model="gpt-4o-mini", max_tokens=20))
    held = await held_nano(gateway)
    with caplog.at_level(logging.WARNING):
        gate.opened.set()
        assert (await running).status == 200
    found = await the_event(customer, held)
    assert (found["estimated"], found["note"]) == (True, "implausible_usage")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "gateway.proxy.settlement"]
    assert "2000000000" in line
    assert "secret" not in line
    assert b"metergate_implausible_usage_total 1.0" in await gateway.metrics()


async def test_up_to_the_factor_a_report_is_believed_in_money_and_in_tokens(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    body = chat(model="gpt-4o-mini", max_tokens=100)
    held = len(json.dumps(body)) + 100
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), max_usage_factor=3)
    for tokens, believed in ((3 * held, True), (3 * held + 1, False)):
        provider.reply = saying(answer(said=usage(tokens, 0)))  # cheap: it is the tokens that are too many
        customer = await gateway.customer()
        await ask(customer, body)
        found = await the_event(customer)
        assert (found["note"] is None, found["input_tokens"] == tokens) == (believed, believed)
    provider.reply = saying(answer(said=usage(10, 2 * held)))  # dear: it is the money that is too much
    customer = await gateway.customer()
    await ask(customer, body)
    assert (await the_event(customer))["note"] == "implausible_usage"


async def test_without_a_bound_the_model_s_window_is_what_can_be(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), strict=False)
    for tokens, believed in ((100_000, True), (20 * 128_000 + 1, False)):
        provider.reply = saying(answer(said=usage(tokens, 0)))
        customer = await gateway.customer()
        await ask(customer)
        assert ((await the_event(customer))["note"] is None) == believed


async def test_every_charge_follows_from_what_is_kept_of_it(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """The ledger's own proof, after estimates and holds that were charged whole."""
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), change=_dear_writes)
    customer = await gateway.customer()
    for reply in (
        saying({}),
        saying(answer(said=usage(2_000_000_000, 5))),
        saying(answer("Yes.", {})),
        saying(answer()),
    ):
        provider.reply = reply
        await ask(customer)
    await spent_nano(customer)
    await gateway.flush()
    verified = await verify(gateway.runtime.database)
    assert [check.examples for check in verified.checks if check.differences] == []


def _dear_writes(settings: Settings) -> Settings:
    """Settings in which a hold costs more than its counts at plain rates."""
    rates = {"input": INPUT, "cache_write": 2 * INPUT, "output": OUTPUT, "reasoning": 3 * OUTPUT}
    return repriced(settings, rates, max_output_tokens=1000)


async def test_a_gateway_that_stops_reads_nobody_on(
    make_gateway: MakeGateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its clients have left behind is settled by what has come until then."""
    made: list[Remainder] = []
    begin = Remainder.__init__
    monkeypatch.setattr(Remainder, "__init__", lambda self, *given: (made.append(self), begin(self, *given))[1])
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=600)
    customer = await gateway.customer()
    held: list[Hold] = []
    async with asking_by_hand(customer, STREAM) as (reader, _):
        await reader.readuntil(WORDS[0])
        held.extend(gateway.runtime.engine.holds.live.values())
    await noticed(gateway)
    made[0].hurry()
    found = await the_event_in_the_end(customer)
    assert (found["id"], found["note"]) == (held[0].id, "client_gone")
