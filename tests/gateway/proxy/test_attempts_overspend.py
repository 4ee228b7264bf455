"""No overspending with retries, targets and fallbacks on: many requests at once, providers that fail at random."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from aiohttp import web

from billing.money import parse_usd
from billing.pricing import PriceRow, PriceTable
from gateway.config.providers import ModelConfig, ProviderConfig, TargetConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from gateway.upstream.health import Cooldown
from tests.gateway.conftest import chat
from tests.support.answering import DONE, SSE, answer, delta, until, usage, usage_chunk
from tests.support.gateways import ask

pytestmark = pytest.mark.slow

REQUESTS = 120
MOST_OUTPUT = 50
INPUT, OUTPUT = 150, 600


class Flaky:
    """A provider that gives all the output that it may, or fails: refused, 5xx, cut off, too slow."""

    def __init__(self, seed: int, failing: float) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - faults, not a secret
        self._failing = failing
        self.answered = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self._chance.random() < self._failing:
            return await self._fail(request)
        output = body.get("max_tokens") or body.get("max_completion_tokens") or 4_000
        self.answered += 1
        if not body.get("stream"):
            return web.json_response(answer(reported=usage(10, output)))
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        for piece in (delta("Good"), usage_chunk(10, output), DONE):
            await response.write(piece)
        await response.write_eof()
        return response

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        how = self._chance.choice((429, 500, 503, "cut", "slow"))
        if how == "slow":
            await asyncio.sleep(30)
        if isinstance(how, int):
            return web.Response(status=how, headers={"Retry-After": "0"})
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)


def change(first: str, second: str) -> Callable[[Settings], Settings]:
    """Two keys of one provider, and a fallback that is three times as dear."""

    def changed(settings: Settings) -> Settings:
        targets = tuple(TargetConfig(first, Secret(f"sk-{number}"), number + 1) for number in range(2))
        openai = ProviderConfig("openai", "openai", first, targets=targets, cooldown=Cooldown(3, 0.2, 0.2))
        (own,) = [row for row in settings.prices.rows if (row.provider, row.model) == ("openai", "gpt-4o-mini")][:1]
        rates = {"input": 3 * INPUT * 1_000_000, "output": 3 * OUTPUT * 1_000_000}
        dear = PriceRow("second", "dear", own.effective_from, rates, {}, max_output_tokens=4_000)
        models = {
            "gpt-4o-mini": ModelConfig("gpt-4o-mini", "openai", "gpt-4o-mini", ("dear",)),
            "dear": ModelConfig("dear", "second", "dear"),
        }
        return replace(
            settings,
            providers={
                **settings.providers,
                "openai": openai,
                "second": ProviderConfig("second", "openai", second, Secret("sk-second")),
            },
            models={**settings.models, **models},
            prices=PriceTable([*settings.prices.rows, dear]),
        )

    return changed


@pytest.mark.parametrize(
    ("seed", "maximum"),
    [(1, MOST_OUTPUT), (2, None), pytest.param(3, MOST_OUTPUT, marks=pytest.mark.slow)],
)
async def test_a_balance_is_never_overspent_and_each_answer_is_charged_once(make_gateway, upstream, seed, maximum):
    first, second = Flaky(seed, 0.75), Flaky(-seed, 0.2)
    gateway = await make_gateway(
        change=change(await upstream(first.serve), await upstream(second.serve)),
        retries=1,
        retry_backoff_ms=5,
        attempt_timeout_s=10,
        max_attempts=5,
        elastic_output_tokens=0,  # a quarter of what is free each
    )
    granted = "0.0015"  # less than what a third of the requests may cost
    customer = await gateway.customer(granted)
    chance = random.Random(seed)  # noqa: S311 - load, not a secret
    bodies = [chat(model="gpt-4o-mini", stream=chance.random() < 0.5) for _ in range(REQUESTS)]
    bodies = [body if maximum is None else {**body, "max_tokens": maximum} for body in bodies]
    answers = await asyncio.gather(*(ask(customer, body) for body in bodies))
    await until(lambda: not gateway.runtime.engine.holds.live)
    whole = [each for each in answers if each.status == 200]
    assert {each.status for each in answers} <= {200, 402, 429, 500, 502, 503, 504}
    assert len(whole) > 3
    assert any(each.status in (402, 429) for each in answers), "too little load to prove anything"
    events = await customer.events()
    assert sorted(event["id"] for event in events) == sorted(each.headers["x-request-id"] for each in whole)
    assert len(whole) == first.answered + second.answered
    assert {event["model"] for event in events} == {"gpt-4o-mini"}
    by_provider = {"openai": 1, "second": 3}
    for event in events:
        factor = by_provider[event["provider"]]
        cost = factor * (event["input_tokens"] * INPUT + event["output_tokens"] * OUTPUT)
        assert parse_usd(event["charged_usd"]) == cost
    assert {event["provider"] for event in events} == set(by_provider) or maximum is None
    charged = sum(parse_usd(event["charged_usd"]) for event in events)
    balance = await customer.balance()
    assert parse_usd(granted) - charged == parse_usd(balance["balance_usd"]) >= 0
    assert parse_usd(balance["held_usd"]) == 0
