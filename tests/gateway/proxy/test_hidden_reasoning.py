"""What a request costs that was given up before its usage came, where the model bills more than its answers show."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from billing.money import parse_usd
from billing.pricing import PriceTable
from gateway.config.settings import Settings
from gateway.proxy.detached import Detached
from tests.gateway.conftest import Gateway, chat
from tests.support.answering import BOUND_S, SSE, WORDS, delta, until, usage_chunk
from tests.support.clients import Slow, asking_by_hand, leave, noticed, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT
from tests.support.passed_answers import estimate_nano

OUTPUT_TOKENS = 10_000
BODY = chat(model="gpt-4o-mini", stream=True, max_tokens=OUTPUT_TOKENS)
JSON_BODY = chat(model="gpt-4o-mini", max_tokens=OUTPUT_TOKENS)
# An answer that says that it is over; usage is to come.
FINISHED = WORDS[0] + delta(finish="stop")


def hold_nano(body: dict[str, Any] = BODY) -> int:
    return len(json.dumps(body)) * INPUT + OUTPUT_TOKENS * OUTPUT


def hiding(settings: Settings) -> Settings:
    """Settings in which gpt-4o-mini does not show all that it bills."""
    rows = [replace(row, hidden_reasoning=row.model == "gpt-4o-mini") for row in settings.prices.rows]
    return replace(settings, prices=PriceTable(rows))


class Silent:
    """A provider that sends `begins` of an answer, and then nothing until nobody listens."""

    def __init__(self, begins: bytes | None, content_type: str = SSE["Content-Type"]) -> None:
        self.begun = asyncio.Event()
        self._begins, self._content_type = begins, content_type

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": self._content_type})
        if self._begins is not None:
            await response.prepare(request)
            await response.write(self._begins)
        self.begun.set()
        await until(lambda: request.transport is None)
        return response


GIVEN_UP = {
    "before its head": (None, BODY),
    "before its head, not a stream": (None, JSON_BODY),
    "in a stream": (WORDS[0], BODY),
    "behind the finish reason": (FINISHED, BODY),
    "after an early usage": (usage_chunk(10, 1) + WORDS[0], BODY),
    "in a JSON answer": (b'{"choices": [{"message": {"content": "Good', JSON_BODY),
}


async def given_up(gateway: Gateway, provider: Silent, body: dict[str, Any]) -> dict[str, Any]:
    """The event of a request whose client left once the provider had begun."""
    customer = await gateway.customer()
    await leave(customer, body, provider.begun.wait)
    return await the_event_in_the_end(customer)


@pytest.mark.parametrize(("begins", "body"), GIVEN_UP.values(), ids=GIVEN_UP)
@pytest.mark.parametrize(
    "limits",
    [{"reasoning_drain_s": 0.1}, {"reasoning_drain_s": BOUND_S, "upstream_timeout_s": 1.0}],
    ids=["not read on", "silent"],
)
async def test_a_client_that_leaves_pays_the_hold(gateway_of, begins, body, limits):
    provider = Silent(begins, SSE["Content-Type"] if body is BODY else "application/json")
    gateway = await gateway_of(provider.serve, change=hiding, **limits)
    found = await given_up(gateway, provider, body)
    assert parse_usd(found["charged_usd"]) == hold_nano(body)
    assert (found["output_tokens"], found["estimated"]) == (OUTPUT_TOKENS, True)
    assert (found["status"], found["note"]) == (499, "client_gone")


async def test_a_model_that_shows_all_costs_what_passed(gateway_of, tokenizer):
    provider = Silent(FINISHED)
    gateway = await gateway_of(provider.serve, disconnect_drain_s=0.1)
    found = await given_up(gateway, provider, BODY)
    assert parse_usd(found["charged_usd"]) == estimate_nano(tokenizer, "Good", BODY)


async def test_usage_that_comes_in_time_is_what_it_costs(gateway_of):
    """Also where the provider says nothing more, and keeps its connection."""
    provider = Silent(FINISHED + usage_chunk(10, 5_000))
    gateway = await gateway_of(provider.serve, change=hiding, reasoning_drain_s=0.1)
    found = await given_up(gateway, provider, BODY)
    assert parse_usd(found["charged_usd"]) == 10 * INPUT + 5_000 * OUTPUT
    assert found["estimated"] is False


async def test_a_request_that_takes_too_long_costs_the_hold(customer_of):
    provider = Silent(FINISHED)
    customer = await customer_of(provider.serve, change=hiding, max_request_s=1)
    async with asking_by_hand(customer, BODY) as (reader, _):
        await reader.readuntil(b"Good")
        found = await the_event_in_the_end(customer, hold_nano())
    assert (found["status"], found["note"]) == (504, "max_request_s")


async def breaks(request: web.Request) -> web.StreamResponse:
    """Begins an answer and breaks off."""
    response = web.StreamResponse(headers=SSE)
    await response.prepare(request)
    await response.write(WORDS[0])
    await asyncio.sleep(0)
    assert request.transport is not None
    request.transport.abort()
    return response


async def test_a_provider_that_breaks_off_is_not_the_customer_s_fault(customer_of, tokenizer):
    customer = await customer_of(breaks, change=hiding, reasoning_drain_s=BOUND_S)
    async with asking_by_hand(customer, BODY) as (reader, _):
        await reader.read()
    found = await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good", BODY))
    assert found["note"] == "upstream_cut"


async def test_neither_is_one_that_breaks_off_after_the_client_has_left(gateway_of, tokenizer):
    provider = Slow(WORDS[0])
    gateway = await gateway_of(provider.serve, change=hiding, reasoning_drain_s=BOUND_S)
    customer = await gateway.customer()
    await leave(customer, BODY, first=WORDS[0])
    await noticed(gateway)
    provider.let.set()  # its stream ends without a finish reason
    await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good", BODY))


async def test_neither_is_a_gateway_that_stops(make_gateway, upstream, tokenizer, monkeypatch):
    made = []
    begin = Detached.__init__
    monkeypatch.setattr(Detached, "__init__", lambda self, *given: (made.append(self), begin(self, *given))[1])
    provider = Silent(WORDS[0])
    gateway = await make_gateway(await upstream(provider.serve), change=hiding, reasoning_drain_s=600)
    customer = await gateway.customer()
    await leave(customer, BODY, provider.begun.wait, first=WORDS[0])
    await noticed(gateway)
    made[0].drain_now()
    await the_event_in_the_end(customer, estimate_nano(tokenizer, "Good", BODY))


@pytest.mark.parametrize(("policy", "charged_nano"), [("free", 0), ("hold", hold_nano())])
async def test_an_operator_s_own_policy_goes_before(gateway_of, policy, charged_nano):
    provider = Silent(FINISHED)
    gateway = await gateway_of(provider.serve, change=hiding, reasoning_drain_s=0.1, missing_usage=policy)
    found = await given_up(gateway, provider, BODY)
    assert parse_usd(found["charged_usd"]) == charged_nano


@pytest.mark.parametrize(("words", "dearer"), [(1, False), (3_000, True)], ids=["the hold", "what passed"])
async def test_a_hold_that_is_no_bound_is_the_least(customer_of, tokenizer, words, dearer):
    text, body = "Good" + " word" * words, chat(model="gpt-4o-mini", stream=True)
    provider = Silent(delta(text))
    customer = await customer_of(provider.serve, change=hiding, reasoning_drain_s=0.1, strict=False)
    seen = provider.begun.wait
    await leave(customer, body, seen, first=b'word"')
    found = await the_event_in_the_end(customer)
    passed_nano = estimate_nano(tokenizer, text, body)
    assert (found["output_tokens"] == 512) != dearer
    assert (parse_usd(found["charged_usd"]) == passed_nano) == dearer
    assert parse_usd(found["charged_usd"]) >= max(passed_nano, 512 * OUTPUT)
