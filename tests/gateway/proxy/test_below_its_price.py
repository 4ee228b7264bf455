"""Ways to an answer far below its price: what one parser here reads and another at the provider does not."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from billing.money import parse_usd
from billing.pricing import PriceRow, PriceTable
from gateway.config.settings import Settings
from gateway.dialects.openai.messages import CONTENT
from tests.gateway.conftest import Gateway, chat
from tests.support.answering import DONE, SSE, Provider, answer, delta, event, saying, streaming, usage, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ask, fetch, refusal, the_event

pytestmark = pytest.mark.slow

STREAM = chat(model="gpt-4o-mini", stream=True, max_tokens=4_000)
ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
WINDOW = 10_000
SEARCH_NANO = 25_000_000


def priced(*models: str, per_unit: dict[str, int] | None = None) -> Callable[[Settings], Settings]:
    """Makes settings in which these models of `openai` cost what gpt-4o-mini costs."""

    def change(settings: Settings) -> Settings:
        rates = {"input": INPUT * 10**6, "output": OUTPUT * 10**6}
        rows = [
            PriceRow("openai", model, date(2025, 1, 1), rates, per_unit or {}, (), None, None, 1000, WINDOW)
            for model in models
        ]
        return replace(settings, prices=PriceTable(rows))

    return change


# What the provider is told that the body is


HIDDEN = (
    b'{"model":"gpt-4o-mini","max_tokens":1,"messages":[{"role":"user","content":"x"}],'
    b'"metadata":{"x":"+ACIAfQ-,+ACI-n+ACI-:128,+ACI-max+AF8-tokens+ACI-:16000,+ACI-y+ACI-:+AHsAIg-z+ACI-:+ACI-"}}'
)


async def test_a_provider_is_told_that_the_body_is_what_was_read_here(customer_of):
    """`HIDDEN` has an `n` of 128 to whoever takes it for UTF-7, and servers that obey a charset do."""
    assert json.loads(HIDDEN)["max_tokens"] == 1
    assert json.loads(HIDDEN.decode("utf-7"))["n"] == 128
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    for content_type in (
        "application/json; charset=utf-7",
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-16",
        None,
    ):
        headers = {} if content_type is None else {"Content-Type": content_type}
        assert (await fetch(customer.post(data=HIDDEN, headers=headers))).status == 200, content_type
        assert provider.sent.pop().headers.getall("Content-Type") == ["application/json"], content_type
    assert not provider.sent


async def test_a_name_as_protobuf_spells_it_is_no_other_name(customer_of, subtests):
    """Servers that read JSON with protobuf take `maxTokens` for `max_tokens`, and of both the last one."""
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_tokens": 1, "maxTokens": 60_000}, "max_tokens"),
        ({"maxCompletionTokens": 60_000}, "max_completion_tokens"),
        ({"stream": True, "stream_options": {"include_usage": True, "includeUsage": False}}, "stream_options"),
        ({"webSearchOptions": {}}, "web_search_options"),
        ({"serviceTier": "priority"}, "service_tier"),
        ({"tools": [{"type": "web_search", "max_uses": 1, "maxUses": 90}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "imageUrl": {"url": "x"}}]}]}, CONTENT),
    )
    for fields, param in cases:
        with subtests.test(fields=fields):
            body = {**chat(model="gpt-4o-mini"), **fields}
            assert refusal(await ask(customer, body), 400, "invalid_request_error")["param"] == param
            assert not provider.sent


# Work that a model does by its name alone


async def test_a_model_that_always_searches_is_held_and_charged_a_search(gateway_of, subtests):
    name = "gpt-4o-mini-search-preview"
    gateway = await gateway_of(Provider(saying(answer())).serve, change=priced(name, per_unit={"search": SEARCH_NANO}))
    beside_nano = WINDOW * INPUT + SEARCH_NANO + OUTPUT  # the first round is what the body may be at most
    poor = await gateway.customer("0.001")
    for asked in ({}, {"web_search_options": {}}):
        with subtests.test(asked=asked):
            body = chat(model=f"openai/{name}", max_tokens=1, **asked)
            billing = refusal(await ask(poor, body), 402, "billing_required")["billing"]
            assert 0 < parse_usd(billing["required_usd"]) - beside_nano <= WINDOW * INPUT
            customer = await gateway.customer()
            assert (await ask(customer, body)).status == 200
            found = await the_event(customer, 10 * INPUT + 5 * OUTPUT + SEARCH_NANO)
            assert (found["units"], found["estimated"]) == ({"searches": 1}, False)


async def test_a_preset_is_no_other_model_and_a_search_needs_a_price(customer_of, subtests):
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve, change=priced("gpt-4o-mini", "*"))
    for field in ("models", "fallbacks"):
        for names in (["@preset/dear"], [{"model": "gpt-4o@preset/dear"}]):
            with subtests.test(field=field, names=names):
                body = chat(model="gpt-4o-mini", **{field: names})
                refusal(await ask(customer, body), 400, "invalid_request_error")
    body = chat(model="gpt-4o-mini", max_tokens=1, models=["gpt-4o:online"])
    refusal(await ask(customer, body), 400, "model_not_priced")
    assert not provider.sent


async def test_another_model_that_searches_and_has_a_price(gateway_of):
    provider = Provider(saying(answer()))
    body = chat(model="gpt-4o-mini", max_tokens=1, models=["gpt-4o:online"])
    change = priced("gpt-4o-mini", "*", per_unit={"search": SEARCH_NANO})
    gateway = await gateway_of(provider.serve, change=change)
    billing = refusal(await ask(await gateway.customer("0.001"), body), 402, "billing_required")["billing"]
    beside_nano = 5 * WINDOW * INPUT + 5 * SEARCH_NANO + OUTPUT  # the first round is the body's bytes
    assert 0 < parse_usd(billing["required_usd"]) - beside_nano < 200 * INPUT


async def test_what_is_not_in_the_body_is_held_as_the_window(gateway_of):
    """A provider that does not know the client's bound runs the tool all the same; and a few words of a template of the
    client's own make a prompt of any length (vLLM)."""
    provider = Provider(saying(answer(reported=usage(9_000, 5))))
    gateway = await gateway_of(provider.serve, change=priced("gpt-4o-mini"))
    tool = {"type": "openrouter:web_fetch"}
    cases: tuple[dict[str, Any], ...] = (
        {"tools": [{**tool, "max_uses": 0}]},
        {"tools": [tool], "max_tool_calls": 0},
        {"chat_template": "{% for i in range(9000) %}a {% endfor %}"},
    )
    for fields in cases:
        customer = await gateway.customer()
        assert (await ask(customer, chat(model="gpt-4o-mini", max_tokens=5, **fields))).status == 200
        assert not (await the_event(customer, 9_000 * INPUT + 5 * OUTPUT))["estimated"], fields


async def test_a_tier_that_the_answer_does_not_name_is_that_of_the_request(gateway_of, subtests):
    def tiers(settings):
        rates, factors = {"input": INPUT * 10**6, "output": OUTPUT * 10**6}, {"priority": 2 * 10**9, "flex": 10**9 // 2}
        row = PriceRow("openai", "gpt-4o-mini", date(2025, 1, 1), rates, {}, (), factors, None, 1000, WINDOW)
        return replace(settings, prices=PriceTable([row]))

    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, change=tiers)
    for tier, served, times, counted in (
        ("priority", None, 4, True),
        ("priority", None, 4, False),
        ("flex", None, 1, True),
        ("flex", None, 1, False),
        ("flex", "default", 2, True),
    ):
        with subtests.test(tier=tier, served=served, counted=counted):
            named = {"service_tier": served} if served else {}
            provider.reply = saying(answer("Good day.", usage(10, 4) if counted else {}, **named))
            customer = await gateway.customer()
            body = chat(model="gpt-4o-mini", max_tokens=100, service_tier=tier)
            assert (await ask(customer, body)).status == 200
            found = await the_event(customer)
            full = found["input_tokens"] * INPUT + found["output_tokens"] * OUTPUT
            assert (parse_usd(found["charged_usd"]), found["estimated"]) == (full * times // 2, not counted)


# Input that is not in the body


async def test_an_input_is_text_or_token_ids(customer_of, subtests):
    """A picture's address is short, and its tokens are many: nothing here could bound them."""
    provider = Provider(saying({"data": [], "usage": {"prompt_tokens": 8_000, "total_tokens": 8_000}}))
    customer = await customer_of(provider.serve, change=priced("gpt-4o-mini"))
    items = {"image": "https://example.com/a.png"}, [{"image": "x"}], ["words"], 1.5, None, True
    for path, field in (("/v1/embeddings", "input"), ("/v1/completions", "prompt")):
        for item in items:
            with subtests.test(path=path, item=item):
                body = {"model": "gpt-4o-mini", field: ["words", item]}
                assert refusal(await ask(customer, body, path), 400, "invalid_request_error")["param"] == field
                assert not provider.sent


# Output that is passed on and not read


async def charged_output(gateway: Gateway, provider: Provider, *pieces: bytes) -> int:
    """Output tokens charged for a stream of these pieces, whose provider reports nothing."""
    provider.reply = streaming(*pieces, delta(finish="stop"))
    customer = await gateway.customer()
    fetched = await ask(customer, STREAM)
    assert fetched.status == 200
    found = await the_event(customer)
    assert found["estimated"]
    return int(found["output_tokens"])


async def test_what_is_no_proper_event_is_output(gateway_of, subtests):
    """Nor one above its bound: two megabytes in one event, as pictures come, cut by the wire and after an event that
    says nothing. Nor one with numbers that Python's encoder writes, which a client can bring about by asking for
    `logprobs`."""
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    picture = delta("word " * 400_000)
    assert await charged_output(gateway, provider, ROLE, picture[: 1 << 20], picture[1 << 20 :]) == 4_000
    words = delta("word " * 300)
    for name, pieces in {
        "bom": [b"\xef\xbb\xbf" + words],
        "json": [json.dumps(answer("word " * 300, {})).encode()],
        "lines": [words[6:]] * 2,
        "two lines": [b"data: \n" + words],
        "returns": [words.replace(b"\n", b"\r")],
    }.items():
        with subtests.test(name):
            assert await charged_output(gateway, provider, *pieces) >= 300
    for number in (b"NaN", b"-Infinity", b"1e999"):
        with subtests.test(number=number):
            words = delta("Good day, my friend. ", logprobs=[0]).replace(b"[0]", b"[%b]" % number)
            assert json.loads(words[6:].strip())["choices"]
            assert await charged_output(gateway, provider, ROLE, *[words] * 20) >= 100


async def test_every_member_of_a_compressed_stream_is_read(gateway_of):
    """Servers that compress piece by piece, though nobody asked for it."""
    pieces = [
        gzip.compress(each) for each in (ROLE, delta("word " * 300), delta(finish="stop"), usage_chunk(10, 7), DONE)
    ]
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    for sent in (pieces, [b"".join(pieces)]):
        provider.reply = streaming(*sent, headers={**SSE, "Content-Encoding": "gzip"})
        customer = await gateway.customer()
        fetched = await ask(customer, STREAM)
        assert (fetched.status, fetched.cut) == (200, False)
        await the_event(customer, 10 * INPUT + 7 * OUTPUT)


async def test_text_that_no_report_covers_is_paid_for(gateway_of):
    """Beside an empty list of choices, and where a provider does not obey its maximum: its report is far above what can
    be believed of one token, but its text is here for everybody to see."""
    beside = {"choices": [], "message": {"role": "assistant", "content": "Good day, my friend. " * 20}}
    text, counts = "Good day, my friend. " * 500, usage(10, 3_000)
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    for stream in (False, True):
        provider.reply = streaming(event(beside), delta(finish="stop")) if stream else saying(beside)
        customer = await gateway.customer()
        assert (await ask(customer, chat(model="gpt-4o-mini", stream=stream, max_tokens=4_000))).status == 200
        assert (await the_event(customer))["output_tokens"] >= 100, stream
        streamed = streaming(delta(text), delta(finish="stop"), usage_chunk(10, 3_000), DONE)
        provider.reply = streamed if stream else saying(answer(text, counts))
        customer = await gateway.customer()
        assert (await ask(customer, chat(model="gpt-4o-mini", stream=stream, max_tokens=1))).status == 200
        found = await the_event(customer, 10 * INPUT + len(text) // 4 * OUTPUT)
        assert (found["output_tokens"], found["note"]) == (len(text) // 4, "implausible_usage"), stream
