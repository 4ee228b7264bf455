"""Ways to an answer far below its price: what one parser here reads and another at the provider does not."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from billing.money import parse_usd
from billing.price_table import PriceTable
from billing.prices import PriceRow
from gateway.config.settings import Settings
from gateway.dialects.openai.parts import CONTENT
from tests.gateway.conftest import Handler, MakeGateway, chat
from tests.support.answering import DONE, SSE, Provider, answer, delta, event, saying, streaming, usage, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ask, fetch, refusal, the_event

Upstream = Callable[[Handler], Any]
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


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-7", "application/x-www-form-urlencoded", "text/plain;charset=UTF-16", None],
)
async def test_a_provider_is_told_that_the_body_is_what_was_read_here(
    make_gateway: MakeGateway, upstream: Upstream, content_type: str | None
) -> None:
    """`HIDDEN` has an `n` of 128 to whoever takes it for UTF-7, and servers that obey a charset do."""
    assert json.loads(HIDDEN)["max_tokens"] == 1
    assert json.loads(HIDDEN.decode("utf-7"))["n"] == 128
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert (await fetch(customer.post(data=HIDDEN, headers=headers))).status == 200
    (sent,) = provider.sent
    assert sent.headers.getall("Content-Type") == ["application/json"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 1, "maxTokens": 60_000}, "max_tokens"),
        ({"maxCompletionTokens": 60_000}, "max_completion_tokens"),
        ({"stream": True, "stream_options": {"include_usage": True, "includeUsage": False}}, "stream_options"),
        ({"webSearchOptions": {}}, "web_search_options"),
        ({"serviceTier": "priority"}, "service_tier"),
        ({"tools": [{"type": "web_search", "max_uses": 1, "maxUses": 90}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "imageUrl": {"url": "x"}}]}]}, CONTENT),
    ],
)
async def test_a_name_as_protobuf_spells_it_is_no_other_name(
    make_gateway: MakeGateway, upstream: Upstream, fields: dict[str, Any], param: str
) -> None:
    """Servers that read JSON with protobuf take `maxTokens` for `max_tokens`, and of both the last one."""
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    body = {**chat(model="gpt-4o-mini"), **fields}
    assert refusal(await ask(customer, body), 400, "invalid_request_error")["param"] == param
    assert not provider.sent


# Work that a model does by its name alone


@pytest.mark.parametrize("asked", [{}, {"web_search_options": {}}])
async def test_a_model_that_always_searches_is_held_and_charged_a_search(
    make_gateway: MakeGateway, upstream: Upstream, asked: dict[str, Any]
) -> None:
    name = "gpt-4o-mini-search-preview"
    gateway = await make_gateway(
        await upstream(Provider(saying(answer())).serve), change=priced(name, per_unit={"search": SEARCH_NANO})
    )
    body = chat(model=f"openai/{name}", max_tokens=1, **asked)
    held_nano = 2 * WINDOW * INPUT + SEARCH_NANO + OUTPUT
    poor = await gateway.customer("0.001")
    billing = refusal(await ask(poor, body), 402, "billing_required")["billing"]
    assert parse_usd(billing["required_usd"]) == held_nano
    customer = await gateway.customer()
    assert (await ask(customer, body)).status == 200
    found = await the_event(customer, 10 * INPUT + 5 * OUTPUT + SEARCH_NANO)
    assert (found["units"], found["estimated"]) == ({"searches": 1}, False)


@pytest.mark.parametrize("field", ["models", "fallbacks"])
async def test_a_preset_is_no_other_model(make_gateway: MakeGateway, upstream: Upstream, field: str) -> None:
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve), change=priced("gpt-4o-mini", "*"))
    customer = await gateway.customer()
    for names in (["@preset/dear"], [{"model": "gpt-4o@preset/dear"}]):
        assert refusal(await ask(customer, chat(model="gpt-4o-mini", **{field: names})), 400, "invalid_request_error")
    assert not provider.sent


async def test_another_model_that_searches_is_held_with_its_searches(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    provider = Provider(saying(answer()))
    url = await upstream(provider.serve)
    body = chat(model="gpt-4o-mini", max_tokens=1, models=["gpt-4o:online"])
    gateway = await make_gateway(url, change=priced("gpt-4o-mini", "*"))
    refusal(await ask(await gateway.customer(), body), 400, "model_not_priced")
    assert not provider.sent


async def test_another_model_that_searches_and_has_a_price(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer()))
    body = chat(model="gpt-4o-mini", max_tokens=1, models=["gpt-4o:online"])
    change = priced("gpt-4o-mini", "*", per_unit={"search": SEARCH_NANO})
    gateway = await make_gateway(await upstream(provider.serve), change=change)
    billing = refusal(await ask(await gateway.customer("0.001"), body), 402, "billing_required")["billing"]
    assert parse_usd(billing["required_usd"]) == 6 * WINDOW * INPUT + 5 * SEARCH_NANO + OUTPUT


@pytest.mark.parametrize("bound", [{"max_uses": 0}, {}])
async def test_a_tool_that_may_not_be_used_is_held_as_one_that_is(
    make_gateway: MakeGateway, upstream: Upstream, bound: dict[str, int]
) -> None:
    """A provider that does not know the client's bound runs the tool all the same."""
    provider = Provider(saying(answer(reported=usage(9_000, 5))))
    gateway = await make_gateway(await upstream(provider.serve), change=priced("gpt-4o-mini"))
    customer = await gateway.customer()
    tools = [{"type": "openrouter:web_fetch", **bound}]
    fields = {"tools": tools, **({} if bound else {"max_tool_calls": 0})}
    assert (await ask(customer, chat(model="gpt-4o-mini", max_tokens=5, **fields))).status == 200
    assert not (await the_event(customer, 9_000 * INPUT + 5 * OUTPUT))["estimated"]


@pytest.mark.parametrize(
    ("tier", "served", "times", "counted"),
    [
        ("priority", None, 4, True),
        ("priority", None, 4, False),
        ("flex", None, 1, True),
        ("flex", None, 1, False),
        ("flex", "default", 2, True),
    ],
)
async def test_a_tier_that_the_answer_does_not_name_is_that_of_the_request(
    make_gateway: MakeGateway, upstream: Upstream, tier: str, served: str | None, times: int, counted: bool
) -> None:
    def tiers(settings: Settings) -> Settings:
        rates, factors = {"input": INPUT * 10**6, "output": OUTPUT * 10**6}, {"priority": 2 * 10**9, "flex": 10**9 // 2}
        row = PriceRow("openai", "gpt-4o-mini", date(2025, 1, 1), rates, {}, (), factors, None, 1000, WINDOW)
        return replace(settings, prices=PriceTable([row]))

    answered = answer("Good day.", usage(10, 4) if counted else {}, **({"service_tier": served} if served else {}))
    gateway = await make_gateway(await upstream(saying(answered)), change=tiers)
    customer = await gateway.customer()
    body = chat(model="gpt-4o-mini", max_tokens=100, service_tier=tier)
    assert (await ask(customer, body)).status == 200
    found = await the_event(customer)
    full = found["input_tokens"] * INPUT + found["output_tokens"] * OUTPUT
    assert (parse_usd(found["charged_usd"]), found["estimated"]) == (full * times // 2, not counted)


# Input that is not in the body


@pytest.mark.parametrize(("path", "field"), [("/v1/embeddings", "input"), ("/v1/completions", "prompt")])
@pytest.mark.parametrize("item", [{"image": "https://example.com/a.png"}, [{"image": "x"}], ["words"], 1.5, None, True])
async def test_an_input_is_text_or_token_ids(
    make_gateway: MakeGateway, upstream: Upstream, path: str, field: str, item: object
) -> None:
    """A picture's address is short, and its tokens are many: nothing here could bound them."""
    provider = Provider(saying({"data": [], "usage": {"prompt_tokens": 8_000, "total_tokens": 8_000}}))
    gateway = await make_gateway(await upstream(provider.serve), change=priced("gpt-4o-mini"))
    customer = await gateway.customer()
    body = {"model": "gpt-4o-mini", field: ["words", item]}
    assert refusal(await ask(customer, body, path), 400, "invalid_request_error")["param"] == field
    assert not provider.sent


async def test_a_template_of_the_client_s_own_is_held_as_the_window(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    """A few words of a template make a prompt of any length (vLLM)."""
    provider = Provider(saying(answer(reported=usage(9_000, 1))))
    gateway = await make_gateway(await upstream(provider.serve), change=priced("gpt-4o-mini"))
    template = "{% for i in range(9000) %}a {% endfor %}"
    customer = await gateway.customer()
    assert (await ask(customer, chat(model="gpt-4o-mini", max_tokens=1, chat_template=template))).status == 200
    assert not (await the_event(customer, 9_000 * INPUT + OUTPUT))["estimated"]


# Output that is passed on and not read


async def charged_output(make_gateway: MakeGateway, upstream: Upstream, *pieces: bytes, body: Any = STREAM) -> int:
    """Output tokens charged for a stream of these pieces, whose provider reports nothing."""
    gateway = await make_gateway(await upstream(streaming(*pieces, delta(finish="stop"))))
    customer = await gateway.customer()
    fetched = await ask(customer, body)
    assert fetched.status == 200
    found = await the_event(customer)
    assert found["estimated"]
    return int(found["output_tokens"])


async def test_an_event_above_its_bound_is_output(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """Two megabytes in one event, as pictures come, cut by the wire and after an event that says nothing."""
    picture = delta("word " * 400_000)
    halves = picture[: 1 << 20], picture[1 << 20 :]
    assert await charged_output(make_gateway, upstream, ROLE, *halves) == 4_000


@pytest.mark.parametrize(
    "pieces",
    [
        [b"\xef\xbb\xbf" + delta("word " * 300)],
        [json.dumps(answer("word " * 300, {})).encode()],
        [delta("word " * 300)[6:]] * 2,
        [b"data: \n" + delta("word " * 300)],
        [delta("word " * 300).replace(b"\n", b"\r")],
    ],
    ids=["bom", "json", "lines", "two-lines", "returns"],
)
async def test_what_is_no_proper_event_is_output(
    make_gateway: MakeGateway, upstream: Upstream, pieces: list[bytes]
) -> None:
    assert await charged_output(make_gateway, upstream, *pieces) >= 300


async def test_every_member_of_a_compressed_stream_is_read(make_gateway: MakeGateway, upstream: Upstream) -> None:
    """Servers that compress piece by piece, though nobody asked for it."""
    pieces = [
        gzip.compress(each) for each in (ROLE, delta("word " * 300), delta(finish="stop"), usage_chunk(10, 7), DONE)
    ]
    for sent in (pieces, [b"".join(pieces)]):
        gateway = await make_gateway(await upstream(streaming(*sent, headers={**SSE, "Content-Encoding": "gzip"})))
        customer = await gateway.customer()
        fetched = await ask(customer, STREAM)
        assert (fetched.status, fetched.cut) == (200, False)
        await the_event(customer, 10 * INPUT + 7 * OUTPUT)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
async def test_an_event_that_is_no_json_is_output(make_gateway: MakeGateway, upstream: Upstream, number: bytes) -> None:
    """Python's encoder writes such numbers, which a client can bring about by asking for `logprobs`."""
    words = delta("Good day, my friend. ", logprobs=[0]).replace(b"[0]", b"[%b]" % number)
    assert json.loads(words[6:].strip())["choices"]
    assert await charged_output(make_gateway, upstream, ROLE, *[words] * 20) >= 100


@pytest.mark.parametrize("stream", [False, True])
async def test_text_beside_an_empty_list_of_choices_is_output(
    make_gateway: MakeGateway, upstream: Upstream, stream: bool
) -> None:
    body = {"choices": [], "message": {"role": "assistant", "content": "Good day, my friend. " * 20}}
    reply = streaming(event(body), delta(finish="stop")) if stream else saying(body)
    gateway = await make_gateway(await upstream(reply))
    customer = await gateway.customer()
    assert (await ask(customer, chat(model="gpt-4o-mini", stream=stream, max_tokens=4_000))).status == 200
    assert (await the_event(customer))["output_tokens"] >= 100


# A report that is far above the hold, and true


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_does_not_obey_its_maximum_is_paid_for_what_passed(
    make_gateway: MakeGateway, upstream: Upstream, stream: bool
) -> None:
    """The report is more than can be believed of one token, but its text is here for everybody to see."""
    text, counts = "Good day, my friend. " * 500, usage(10, 3_000)
    reply = streaming(delta(text), delta(finish="stop"), usage_chunk(10, 3_000), DONE) if stream else None
    gateway = await make_gateway(await upstream(reply or saying(answer(text, counts))))
    customer = await gateway.customer()
    assert (await ask(customer, chat(model="gpt-4o-mini", stream=stream, max_tokens=1))).status == 200
    found = await the_event(customer, 10 * INPUT + len(text) // 4 * OUTPUT)
    assert (found["output_tokens"], found["note"]) == (len(text) // 4, "implausible_usage")
