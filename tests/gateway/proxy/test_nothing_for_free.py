"""What an answer costs where something of ours fails, and what of a stream is output; never nothing."""

from typing import Any

import pytest

from billing.money import parse_usd
from gateway.proxy.course import Course
from gateway.proxy.detached import Detached
from gateway.proxy.settlement.settlements import Settlements
from gateway.tokens import Tokenizer
from tests.gateway.conftest import chat
from tests.support.answering import DONE, WORDS, Gate, answer, event, saying, streaming, usage_chunk
from tests.support.clients import Slow, leave, the_event_in_the_end
from tests.support.compiled import on_sources
from tests.support.gateways import INPUT, OUTPUT, ask, asking, assert_free, refusal
from tests.support.passed_answers import PLAIN, STREAM
from tests.support.unreported_costs import IMAGE_TOKENS, held_nano, input_nano, pictures, repriced

pytestmark = pytest.mark.slow

DATA = "A" * 100_000


async def test_a_failure_while_estimating_charges_the_hold(make_gateway, upstream, monkeypatch):
    """The client hangs up before the usage comes, and what counts its tokens has no threads any more."""
    made = []
    verify = Tokenizer.verify
    monkeypatch.setattr(Tokenizer, "verify", lambda self: (made.append(self), verify(self))[1])
    provider = Slow(WORDS[0], *WORDS[1:], usage_chunk(), DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=0)
    customer = await gateway.customer()
    made[-1].close()
    held = []

    async def note():
        held.append(await held_nano(gateway))

    await leave(customer, chat("Hello. " * 2_000, model="gpt-4o-mini", stream=True), note, first=WORDS[0])
    found = await the_event_in_the_end(customer, held[0])
    assert (found["estimated"], found["note"]) == (True, "client_gone")


async def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("a fault of ours")


@on_sources
async def test_a_fault_of_ours_within_an_answer_charges_the_hold(gateway_of, monkeypatch):
    gate = Gate(saying(b""))
    gateway = await gateway_of(gate.serve)
    for patched, then, body in (
        ("ended", streaming(*WORDS, usage_chunk(), DONE), STREAM),
        ("whole", saying(answer("Yes.", {})), PLAIN),
        ("reported", saying(answer()), PLAIN),
    ):
        gate.opened.clear()
        gate._then = then
        customer = await gateway.customer()
        with monkeypatch.context() as patch:
            patch.setattr(Settlements, patched, broken if patched == "whole" else broken_at_once)
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


@on_sources
@pytest.mark.parametrize(
    ("patched", "body"),
    [((Course, "stream_on", broken_at_once), STREAM), ((Detached, "_until", broken), PLAIN)],
    ids=["a stream", "before a head"],
)
async def test_a_fault_of_ours_after_the_client_has_left_charges_the_hold(
    gateway_of,
    monkeypatch,
    patched,
    body,
):
    """What goes on without the client ends its hold, too."""
    gate = Gate(saying(answer()))
    provider = Slow(WORDS[0], DONE)
    gateway = await gateway_of(provider.serve if body is STREAM else gate.serve)
    customer = await gateway.customer()
    monkeypatch.setattr(*patched)
    held = []

    async def note():
        held.append(await held_nano(gateway))
        if body is PLAIN:
            await gate.reached()

    await leave(customer, body, note, first=WORDS[0] if body is STREAM else b"")
    assert (await the_event_in_the_end(customer, held[0]))["note"] == "internal_error"
    gate.opened.set()


def chunk(delta: dict[str, Any]) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


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
async def test_any_delta_is_output(customer_of, what):
    delta, tokens = OUTPUTS[what]
    first = chunk(delta) if delta else event({"type": "content_block_delta", "delta": {"text": LONG_TEXT}})
    provider = Slow(first, DONE)
    customer = await customer_of(provider.serve, change=pictures, disconnect_drain_s=0)
    await leave(customer, STREAM, first=first[-100:])
    found = await the_event_in_the_end(customer)
    assert found["output_tokens"] in tokens
    assert (found["estimated"], found["note"]) == (True, "client_gone")


async def test_sound_is_counted_by_its_seconds_and_priced_as_sound(customer_of):
    def talking(settings):
        rates = {"input": INPUT, "output": OUTPUT, "audio_output": 10 * OUTPUT}
        return repriced(settings, rates, part_tokens={"audio_second": 20}, max_output_tokens=16_000)

    sound = chunk({"audio": {"id": "audio_1", "data": "A" * 32_000}})
    provider = Slow(sound, DONE)
    customer = await customer_of(provider.serve, change=talking, disconnect_drain_s=0)
    await leave(customer, STREAM, first=sound[-100:])
    found = await the_event_in_the_end(customer)
    assert found["output_tokens"] == 12 * 20  # 24,000 bytes are at most twelve seconds
    assert parse_usd(found["charged_usd"]) == found["input_tokens"] * INPUT + 240 * 10 * OUTPUT


async def test_names_numbers_and_nothing_are_no_output(customer_of, tokenizer):
    empty = {
        **{"role": "assistant", "content": None, "refusal": "", "tool_calls": [], "images": [], "audio": None},
        **{"id": "msg_1", "item_id": "item_1", "index": 3},
    }
    provider = Slow(chunk(empty), *[b": keep-alive\n\n" * 1000] * 1000)
    customer = await customer_of(provider.serve, disconnect_drain_s=0)
    await leave(customer, STREAM, first=b"msg_1")
    found = await the_event_in_the_end(customer, input_nano(tokenizer, STREAM))
    assert (found["output_tokens"], found["note"]) == (0, "client_gone")


@pytest.mark.parametrize("size", [500_000, 3_000_000])
async def test_an_event_that_broke_off_is_counted(customer_of, size):
    """It has no end by which it could be read, but most of it has passed."""
    begun = chunk({"content": "word " * (size // 5) + "the-last-word" + " word" * 20})[:-60]
    provider = Slow(begun, DONE)
    customer = await customer_of(provider.serve, disconnect_drain_s=0)
    await leave(customer, {**STREAM, "stream_options": {"include_usage": True}}, first=b"the-last-word")
    assert (await the_event_in_the_end(customer))["output_tokens"] == 16_384  # the model's own maximum


async def test_a_stream_that_nobody_here_can_read_is_not_passed_on(customer_of):
    """Brotli, although identity was asked for: its provider is stopped before anything of it has passed."""
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "br"}
    customer = await customer_of(streaming(*WORDS, DONE, headers=headers))
    refusal(await ask(customer, STREAM), 502, "upstream_error")
    await assert_free(customer)
