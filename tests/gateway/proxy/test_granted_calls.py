"""Calls of tools that a request leaves open, through whole gateways: granted, told, held, counted, and cut."""

import asyncio
import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from billing.money import format_usd, parse_usd
from gateway.config.providers import ModelConfig
from tests.gateway.conftest import Customer, Handler
from tests.support.answering import SSE, Gate, Provider, saying, streaming, until
from tests.support.echo_dialect.served import HEARD, fault, say, speaking_echo
from tests.support.echo_dialect.served import echo_served as echo_served
from tests.support.echo_dialect.served import gateway_of as gateway_of
from tests.support.gateways import INPUT, OUTPUT, assert_free, held, journal, metric, spent_nano, the_event

CALL_TOKENS = 16_384
WINDOW = 128_000
HEADER = "x-metergate-granted-tool-calls"
SEARCH_NANO = 10_000_000


def body(*tools: str, **fields: Any) -> bytes:
    return json.dumps({"text": "Say something.", "limit": 9, "tools": tools, **fields}).encode()


def rounds(size: int, uses: int) -> int:
    """Input tokens of a body of so many bytes with so many uses."""
    return sum(min(size + CALL_TOKENS * number, WINDOW) for number in range(uses + 1))


def called(*tools: str) -> list[bytes]:
    return [f'event: call\ndata: {{"called":"{tool}"}}\n\n'.encode() for tool in tools]


def until_it_is_cut(*pieces: bytes) -> Handler:
    """Answers with these pieces of a stream, and goes on when nobody listens any more."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        await until(lambda: request.transport is None or request.transport.is_closing())
        return response

    return reply


BEGIN = b'event: begin\ndata: {"spent":{"read":10,"written":1}}\n\n'
WORD = b'event: word\ndata: {"word":"Good"}\n\n'
COUNT = b'event: count\ndata: {"spent":{"written":5,"read":null}}\n\n'
END = b'event: farewell\ndata: {"bye":true}\n\n'


def granting(first: int, least: int, uses: int) -> int:
    """What must be free of input for so many uses, of which the first call brings `least`: what the others add is a
    quarter of what it leaves."""
    return rounds(first, least) + 4 * (rounds(first, uses) - rounds(first, least))


@pytest.mark.parametrize("how", ["say", "stream"])
async def test_the_granted_number_goes_upstream_and_to_the_client(customer_of, how):
    provider = Provider(saying(HEARD) if how == "say" else streaming(BEGIN, *called("fetch"), WORD, COUNT, END))
    customer = await customer_of(provider.serve)
    fetched = await say(customer, how, body("fetch"))
    assert (fetched.status, fetched.headers[HEADER], fetched.cut) == (200, "8", False)
    assert provider.sent[0].json == {**json.loads(body("fetch")), "calls": 8}
    event = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert not event["estimated"]


async def test_what_is_granted_is_held_while_it_runs(gateway_of):
    gate = Gate(saying(HEARD))
    gateway = await gateway_of(gate.serve)
    customer = await gateway.customer("5.00")
    asked = body("fetch")
    serving = asyncio.create_task(say(customer, body=asked))
    await gate.reached()
    (request_id,) = await held(gateway)
    entry = (await journal(gateway))[request_id]
    tokens = rounds(len(asked), 8)
    assert (entry.input_tokens, entry.output_tokens) == (tokens, 9)
    assert entry.cost_nano == tokens * INPUT + 9 * OUTPUT
    gate.opened.set()
    assert (await serving).status == 200
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_small_balance_is_granted_fewer_calls_and_one_at_least(gateway_of):
    provider = Provider(saying(HEARD))
    gateway = await gateway_of(provider.serve)
    asked = body("fetch")
    for calls in (3, 1):
        needed_nano = granting(len(asked), 1, calls) * INPUT + 9 * OUTPUT
        customer = await gateway.customer(format_usd(needed_nano))
        assert (await say(customer, body=asked)).headers[HEADER] == str(calls)
    poor = await gateway.customer(format_usd(CALL_TOKENS * INPUT))
    told = fault(await say(poor, body=asked), 402, "billing_required")
    required_nano = parse_usd(told["billing"]["required_usd"])  # with the tokens of the body, which are below its bytes
    assert CALL_TOKENS * INPUT < required_nano < rounds(len(asked), 1) * INPUT + 9 * OUTPUT
    windowed = await gateway.customer(quotas=[{"window": "day", "metric": "tokens", "limit": 150_000}])
    assert (await say(windowed, body=asked)).headers[HEADER] == "2"


async def test_what_the_request_bounds_itself_is_no_grant(gateway_of):
    provider = Provider(saying(HEARD))
    gateway = await gateway_of(provider.serve)
    asked = body("fetch", calls=2)
    customer = await gateway.customer(format_usd(rounds(len(asked), 2) * INPUT + 9 * OUTPUT))
    fetched = await say(customer, body=asked)
    assert (fetched.status, HEADER in fetched.headers, provider.sent[0].body) == (200, False, asked)


async def test_a_number_for_each_tool_is_held_for_all_of_them(gateway_of):
    gateway = await gateway_of(saying(HEARD))
    asked = body("fetch", "other", each=True)
    customer = await gateway.customer(format_usd(granting(len(asked), 2, 4) * INPUT + 9 * OUTPUT))
    assert (await say(customer, body=asked)).headers[HEADER] == "2"


async def test_a_key_has_its_own_number_which_can_be_changed(gateway_of):
    gateway = await gateway_of(saying(HEARD))
    customer = await gateway.customer(default_tool_calls=3)
    assert (await say(customer, body=body("fetch"))).headers[HEADER] == "3"
    await gateway.admin("PATCH", f"/keys/{customer.key_id}", {"default_tool_calls": 2})
    shown = await gateway.admin("GET", f"/keys/{customer.key_id}")
    assert shown["default_tool_calls"] == 2
    assert (await say(customer, body=body("fetch"))).headers[HEADER] == "2"
    await gateway.admin("PATCH", f"/keys/{customer.key_id}", {"default_tool_calls": 65}, 400)


async def test_a_free_request_is_sent_as_it_is(customer_of):
    provider = Provider(saying(HEARD))
    customer = await customer_of(provider.serve)
    fetched = await say(customer, "measure", body("fetch"))
    assert (fetched.status, HEADER in fetched.headers) == (200, False)
    assert provider.sent[0].body == body("fetch")


async def test_a_tool_of_an_unknown_type_passes_and_is_counted(gateway_of, caplog):
    gateway = await gateway_of(saying(HEARD))
    customer = await gateway.customer("5.00")
    for _ in range(2):
        fetched = await say(customer, body=body("odd_new_tool", "odd_new_tool", "odd \n one"))
        assert (fetched.status, fetched.headers[HEADER]) == (200, "8")
    lines = [each for each in caplog.messages if "odd" in each]
    assert len(lines) == 1
    assert "odd_new_tool" in lines[0]
    shown = await gateway.metrics()
    assert b'metergate_unknown_tools_total{type="odd_new_tool"} 2.0' in shown
    assert b'metergate_unknown_tools_total{type="other"} 2.0' in shown


async def test_a_stream_with_too_many_calls_is_cut_and_costs_its_hold(gateway_of):
    """Twice the calls that were granted are let pass, and not one more."""
    gateway = await gateway_of(streaming(BEGIN, *called(*["fetch"] * 4), WORD, COUNT, END))
    customer = await gateway.customer(default_tool_calls=2)
    assert not (await say(customer, "stream", body("fetch"))).cut
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    gateway = await gateway_of(until_it_is_cut(BEGIN, *called(*["fetch"] * 5), WORD))
    overruns = await metric(gateway, "metergate_tool_overruns_total")
    customer = await gateway.customer(default_tool_calls=2)
    fetched = await say(customer, "stream", body("fetch"))
    assert (fetched.cut, END in fetched.body) == (True, False)
    held_nano = rounds(len(body("fetch")), 2) * INPUT + 9 * OUTPUT
    event = await the_event(customer, held_nano)
    assert (event["note"], event["status"], event["estimated"]) == ("tool_overrun", 502, True)
    assert await metric(gateway, "metergate_tool_overruns_total") == overruns + 1


async def test_a_stream_whose_usage_runs_away_is_cut_and_charged_as_reported(gateway_of):
    asked = body("fetch")
    held_nano = rounds(len(asked), 1) * INPUT + 9 * OUTPUT
    read = 2 * held_nano // INPUT + 100
    begins = f'event: begin\ndata: {{"spent":{{"read":{read}}}}}\n\n'.encode()
    gateway = await gateway_of(until_it_is_cut(begins, WORD))
    exceeded = await metric(gateway, "metergate_hold_exceeded_total")
    customer = await gateway.customer(default_tool_calls=1)
    fetched = await say(customer, "stream", asked)
    assert (fetched.cut, END in fetched.body) == (True, False)
    assert await spent_nano(customer) == read * INPUT
    assert await metric(gateway, "metergate_hold_exceeded_total") == exceeded + 1


async def test_a_stream_that_runs_away_in_tokens_is_cut_though_they_are_cheap(gateway_of):
    """Windows count tokens, whatever these cost."""
    asked = body("fetch", limit=5_000)
    held_tokens = rounds(len(asked), 1) + 5_000
    read = 2 * held_tokens + 1
    assert read * INPUT < 2 * (rounds(len(asked), 1) * INPUT + 5_000 * OUTPUT)
    begins = f'event: begin\ndata: {{"spent":{{"read":{read}}}}}\n\n'.encode()
    gateway = await gateway_of(until_it_is_cut(begins, WORD))
    fetched = await say(await gateway.customer(default_tool_calls=1), "stream", asked)
    assert (fetched.cut, END in fetched.body) == (True, False)


async def test_one_that_is_at_its_end_is_charged_as_it_is(gateway_of):
    """Nothing is saved by cutting it."""
    asked = body("fetch")
    read = 3 * rounds(len(asked), 1)
    last = f'event: count\ndata: {{"spent":{{"read":{read},"written":5}}}}\n\n'.encode() + END
    gateway = await gateway_of(streaming(WORD, last))
    customer = await gateway.customer(default_tool_calls=1)
    fetched = await say(customer, "stream", asked)
    assert (fetched.cut, fetched.body.endswith(END)) == (False, True)
    await the_event(customer, read * INPUT + 5 * OUTPUT)


async def test_unknown_tools_are_refused_where_the_operator_wants_it(gateway_of):
    provider = Provider(saying(HEARD))
    gateway = await gateway_of(provider.serve, unknown_tools="refuse")
    customer = await gateway.customer("5.00")
    told = fault(await say(customer, body=body("fetch", "odd_b", "odd_a")), 400, "invalid_request_error")
    assert "'odd_a', 'odd_b'" in told["said"]
    assert not provider.sent
    await assert_free(customer)
    assert b'metergate_unknown_tools_total{type="odd_a"} 1.0' in await gateway.metrics()
    assert (await say(customer, body=body("fetch"))).status == 200


async def test_an_estimate_grants_what_is_by_default(customer_of):
    provider = Provider(saying(HEARD))
    customer = await customer_of(provider.serve, "0.01", strict=False, default_tool_calls=5)
    fetched = await say(customer, body=body("fetch"))
    assert (fetched.status, fetched.headers[HEADER], provider.sent[0].json["calls"]) == (200, "5", 5)


async def test_windows_are_held_with_strict_tools(customer_of):
    poor = await customer_of(saying(HEARD), "0.01", strict_tools=True)
    told = fault(await say(poor, body=body("fetch")), 402, "billing_required")
    assert parse_usd(told["billing"]["required_usd"]) == 2 * 128_000 * INPUT + 9 * OUTPUT


async def test_a_model_and_a_plan_have_numbers_of_their_own(gateway_of):
    def change(settings):
        entry = ModelConfig("gpt-4o-mini", "openai", "gpt-4o-mini", default_tool_calls=4)
        plans = {**settings.plans, "few": replace(settings.plans["enterprise"], id="few", default_tool_calls=6)}
        return replace(settings, models={**settings.models, "gpt-4o-mini": entry}, plans=plans)

    gateway = await gateway_of(saying(HEARD), at=partial(speaking_echo, change=change))
    granted = [
        (await say(customer, body=body("fetch"))).headers[HEADER]
        for customer in (
            await gateway.customer(),
            await gateway.customer(account={"plan": "few"}),
            await gateway.customer(account={"plan": "few"}, default_tool_calls=7),
        )
    ]
    assert granted == ["4", "6", "7"]


# gpt-5.1-codex, in nano-USD per million tokens.
CODEX = {"input": 1_250_000_000, "output": 10_000_000_000}


async def test_the_free_plan_admits_a_coding_tool_with_a_search(gateway_of):
    """45 kB of JSON, as Codex sends it with a search that it can't bound, on 5 USD: a call at least, and a hold within
    twenty times of what such a turn costs. Its second turn, too."""

    def change(settings):
        row = settings.prices.find("openai", "gpt-5.1-codex", 2e9)
        assert row is not None
        assert row.per_million.items() >= CODEX.items()
        entry = ModelConfig("gpt-5.1-codex", "openai", "gpt-5.1-codex")
        return replace(settings, models={**settings.models, entry.name: entry})

    gate = Gate(saying({"words": "Done.", "spent": {"read": 12_000, "written": 500}}))
    gateway = await gateway_of(gate.serve, at=partial(speaking_echo, change=change))
    customer = await gateway.customer("5.00", account={"plan": "free"})
    asked = json.dumps({"text": "def add(a, b): return a + b  # " * 1450, "tools": ["search"]}).encode()
    assert 44_000 < len(asked) < 46_000
    costs_nano = 12_000 * 1250 + 500 * 10_000
    for _ in range(2):
        gate.opened.clear()
        serving = asyncio.create_task(say(customer, body=asked, model="gpt-5.1-codex"))
        await gate.reached()
        (request_id,) = await held(gateway)
        entry = (await journal(gateway))[request_id]
        assert costs_nano < entry.cost_nano <= 20 * costs_nano
        gate.opened.set()
        fetched = await serving
        assert (fetched.status, int(fetched.headers[HEADER]) >= 1) == (200, True)
        gate.came = 0


async def test_tokens_are_counted_where_the_bytes_of_one_call_do_not_fit(gateway_of):
    """And the calls are granted by what was counted: as many as add a quarter of what is free beside the first."""
    gateway = await gateway_of(saying(HEARD))
    asked = json.dumps({"text": "understanding " * 8500, "limit": 9, "tools": ["fetch"]}).encode()
    counted = 10_000  # tokens, and more; its bytes are 119,000
    for calls in (1, 2):
        limit = granting(counted, 1, calls) + 9
        assert limit < 2 * len(asked)
        customer = await gateway.customer(quotas=[{"window": "day", "metric": "tokens", "limit": limit}])
        assert (await say(customer, body=asked)).headers[HEADER] == str(calls)


async def test_no_provider_that_uses_everything_takes_an_account_below_zero(gateway_of):
    """Strict accounts, many requests at once: each provider makes all granted calls, each of which brings all that it
    may, and writes as much as it may."""

    async def use_everything(request):
        sent = await request.json()
        read = rounds(len(body("fetch")), sent["calls"])
        spent = {"read": read, "written": sent["limit"]}
        return await saying({"words": "x", "spent": spent})(request)

    gateway = await gateway_of(use_everything)
    customer: Customer = await gateway.customer("1.00")
    fetched = await asyncio.gather(*(say(customer, body=body("fetch")) for _ in range(40)))
    assert {each.status for each in fetched} <= {200, 402, 429}
    granted = [int(each.headers[HEADER]) for each in fetched if each.status == 200]
    assert len(granted) > 8
    balance = await customer.balance()
    assert 0 <= parse_usd(balance["balance_usd"]) <= 10**9 - sum(rounds(len(body("fetch")), n) for n in granted) * INPUT
