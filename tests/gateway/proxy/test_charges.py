"""What a request through a whole gateway costs, to the nano-USD."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from fractions import Fraction
from math import ceil
from typing import Any

import pytest

from billing.money import parse_usd
from billing.plans import Plan
from billing.pricing import FACTOR_SCALE, PriceRow, PriceTable, Tier
from gateway.config.settings import ModelConfig, Settings
from tests.gateway.conftest import chat
from tests.support.answering import Provider, answer, saying, usage
from tests.support.gateways import CACHED, INPUT, OUTPUT, ask, fetch, refusal, spent_nano, the_event


def priced(
    row: PriceRow, markup_scaled: int = 0, plan_markup_scaled: int = 0, own: int | None = None, **model: Any
) -> Callable[[Settings], Settings]:
    """A model `odd` with this price; `own` is its markup in the plan."""

    def change(settings: Settings) -> Settings:
        models = {**settings.models, "odd": ModelConfig("odd", "openai", "odd-1", markup_scaled=markup_scaled, **model)}
        plan = Plan(
            "marked",
            "Marked",
            0,
            markup_scaled=plan_markup_scaled,
            markups=() if own is None else (("odd", own), ("od*", 77), ("other", 99)),
        )
        prices = PriceTable([*settings.prices.rows, row])
        return replace(settings, models=models, prices=prices, plans={**settings.plans, "marked": plan})

    return change


ODD = PriceRow(
    "openai",
    "odd-1",
    date(2024, 1, 1),
    {
        "input": 37_512_345,
        "cached_input": 1,
        "cache_write": 46_890_431,
        "output": 333_333_333,
        "reasoning": 444_444_443,
    },
    {"request": 7},
    tiers=(Tier(1000, {"input": 75_024_691, "output": 500_000_003}),),
    multipliers={"priority": 1_700_000_001, "flex": 500_000_000},
    max_output_tokens=1000,
)


@pytest.mark.parametrize(
    ("markup", "plan_markup", "own"),
    [
        (0, 0, None),
        (0, 12_345_678_901, None),
        (33_333_333_333, 5, None),
        (0, 12_345_678_901, 0),
        (0, 0, 98_765_432_109),
        (33_333_333_333, 5, 6),
    ],
)
async def test_a_charge_is_exact_and_rounded_up_once(make_gateway, upstream, markup, plan_markup, own):
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), change=priced(ODD, markup, plan_markup, own))
    customer = await gateway.customer("5.00", account={"plan": "marked"})
    factor = 1 + Fraction(markup or (plan_markup if own is None else own), 100 * FACTOR_SCALE)
    spent = 0
    for tier, multiplier in ((None, 1), ("priority", Fraction(1_700_000_001, 10**9)), ("flex", Fraction(1, 2))):
        for prompt, rates in ((999, ODD.per_million), (1001, {**ODD.per_million, **ODD.tiers[0].per_million})):
            details = {
                "prompt_tokens_details": {"cached_tokens": 333, "cache_write_tokens": 111},
                "completion_tokens_details": {"reasoning_tokens": 77},
            }
            provider.reply = saying(answer(reported=usage(prompt, 501, **details), service_tier=tier))
            fetched = await ask(customer, chat("word " * 300, model="odd"))
            counts = {"cached_input": 333, "cache_write": 111, "input": prompt - 444, "output": 424, "reasoning": 77}
            exact = sum(Fraction(rates[name] * count, 10**6) for name, count in counts.items())
            cost = (exact + 7) * multiplier
            charged = ceil(cost * factor)
            assert parse_usd(fetched.headers["x-metergate-cost-usd"]) == charged
            spent += charged
            assert await spent_nano(customer) == spent
            event = (await customer.events())[-1]
            stored = await gateway.runtime.reports.priced_event(event["id"])
            assert stored is not None
            assert stored.event.cost_nano == ceil(cost)
            assert parse_usd(event["charge_usd"]) == charged
            assert (event["cached_input_tokens"], event["cache_write_tokens"]) == (333, 111)
            assert event["reasoning_tokens"] == 77
            lines = (await fetch(customer.get(f"/v1/generations/{event['id']}"))).json["lines"]
            assert sum(Fraction(line["amount_usd"]) for line in lines) == cost * factor / 10**9
            assert {line["class"]: line["quantity"] for line in lines} == {**counts, "request": 1}


async def test_cached_tokens_have_their_own_price(customer_of):
    counts = usage(100, 10, prompt_tokens_details={"cached_tokens": 60})
    customer = await customer_of(saying(answer(reported=counts)))
    await ask(customer)
    await the_event(customer, 40 * INPUT + 60 * CACHED + 10 * OUTPUT)


async def test_a_tier_without_a_price_is_refused(customer_of):
    provider = Provider(saying(answer(service_tier="default")))
    customer = await customer_of(provider.serve, change=priced(ODD))
    refusal(await ask(customer, chat(model="gpt-3.5-turbo", service_tier="priority")), 400, "model_not_priced")
    assert (await ask(customer, chat(model="odd", service_tier="priority"))).status == 200
    assert len(provider.sent) == 1


async def test_usage_above_the_hold_is_charged_as_reported(make_gateway, upstream):
    gateway = await make_gateway(await upstream(saying(answer(reported=usage(200, 300)))))
    customer = await gateway.customer("0.001")
    assert (await ask(customer, chat(model="gpt-4o-mini", max_tokens=20))).status == 200
    assert await spent_nano(customer, "0.001") == 200 * INPUT + 300 * OUTPUT
    shown = await gateway.metrics()
    assert b"metergate_hold_exceeded_total 1.0" in shown


async def test_a_credit_limit_lets_the_balance_go_below_zero(gateway_of):
    gateway = await gateway_of(saying(answer(reported=usage(10, 1000))))
    customer = await gateway.customer("0", account={"credit_limit_usd": "0.001"})
    body = chat(model="gpt-4o-mini", max_tokens=1000)
    fetched = await ask(customer, body)
    assert fetched.status == 200
    assert fetched.headers["x-metergate-balance-usd"] == "-0.0006015"
    billing = refusal(await ask(customer, body), 402, "billing_required")["billing"]
    assert billing["balance_usd"] == "-0.0006015"
    assert await spent_nano(customer, "0.00") == 601_500


def by_prefix(settings: Settings) -> Settings:
    """Settings in which names have prices by prefixes of two lengths, and by the provider's default."""
    rates = {"gpt-new-*": 7, "gpt-new-large-*": 11, "*": 13}
    sheets = {name: {"input": rate * 10**6, "output": rate * 10**6} for name, rate in rates.items()}
    rows = [PriceRow("openai", name, date(2025, 1, 1), sheets[name], {}, max_output_tokens=99) for name in rates]
    return replace(settings, prices=PriceTable([*settings.prices.rows, *rows]))


async def test_the_longest_prefix_of_a_model_prices_it(gateway_of):
    provider = Provider(saying(answer(reported=usage(10, 5))))
    gateway = await gateway_of(provider.serve, change=by_prefix)
    customer, spent = await gateway.customer("5.00"), 0
    for model, rate in (("gpt-new-1", 7), ("gpt-new-large-1", 11), ("gpt-other", 13), ("gpt-4o-mini", None)):
        assert (await ask(customer, chat(model=model, max_tokens=50))).status == 200
        assert provider.sent[-1].json["model"] == model
        spent += 10 * INPUT + 5 * OUTPUT if rate is None else 15 * rate
        assert await spent_nano(customer) == spent
