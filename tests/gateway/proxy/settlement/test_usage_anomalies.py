"""What is charged where a report counts nothing, and who is told of what can't be placed."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from billing.pricing import PriceRow, Variant
from billing.usage import Usage
from gateway.config.providers import ProviderConfig
from gateway.config.settings import Settings
from gateway.dialects.declarations import MORE_IN_TOTAL
from gateway.dialects.facts import Reported
from gateway.metrics.registry import Metrics
from gateway.proxy.candidates import Candidate, Rates
from gateway.proxy.settlement import usage_anomalies
from tests.gateway.conftest import MakeGateway, Upstream, chat
from tests.support.answering import DONE, WORDS, Provider, answer, saying, streaming, usage, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ask, the_event
from tests.support.unreported_costs import repriced

ZEROS = (saying(answer(reported=usage(0, 0))), streaming(*WORDS, usage_chunk(0, 0), DONE))


def trusting(settings: Settings) -> Settings:
    own = replace(settings.providers["openai"], zero_usage="trust")
    return replace(settings, providers={**settings.providers, "openai": own})


def free(settings: Settings) -> Settings:
    return repriced(settings, {"input": 0, "output": 0}, max_output_tokens=100, context_window=1000)


async def counted(make: MakeGateway, upstream: Upstream, change: Callable[[Settings], Settings] | None) -> list[Any]:
    """The events of a JSON answer and of a stream that count nothing, and wrote something."""
    provider = Provider(ZEROS[0])
    gateway = await make(await upstream(provider.serve), **({"change": change} if change else {}))
    events = []
    for reply, stream in zip(ZEROS, (False, True), strict=True):
        provider.reply = reply
        customer = await gateway.customer("5.00")
        assert (await ask(customer, chat(model="gpt-4o-mini", stream=stream, max_tokens=50))).status == 200
        events.append(await the_event(customer, None))
    return events


async def test_zeros_are_estimated(make_gateway, upstream):
    for event in await counted(make_gateway, upstream, None):
        assert (event["estimated"], event["note"]) == (True, "no_usage")
        assert event["output_tokens"] > 0


@pytest.mark.parametrize("change", [trusting, free])
async def test_zeros_are_believed_where_they_are_trusted_or_all_is_free(make_gateway, upstream, change):
    for event in await counted(make_gateway, upstream, change):
        assert (event["estimated"], event["input_tokens"], event["output_tokens"]) == (False, 0, 0)


ABOVE = Reported(Usage(10, 105), anomalies=(("total", MORE_IN_TOTAL),))
US = Reported(Usage(10, 5), region="us")
REGIONAL = Variant({"region": "eu"}, {"input": 2})


@pytest.mark.parametrize(
    ("kind", "reported", "variants", "anomaly"),
    [
        ("gemini", ABOVE, (), None),
        ("openai", ABOVE, (), "total"),
        ("anthropic", US, (), None),
        ("anthropic", replace_struct(US, region="mars"), (), "region"),
        ("anthropic", US, (REGIONAL,), "region"),
        ("openai", US, (), "region"),
    ],
)
def test_what_a_provider_is_known_to_do_is_no_anomaly(kind, reported, variants, anomaly):
    metrics, price = Metrics(), PriceRow("p", "m", date(2024, 1, 1), {"input": 1}, {}, variants=variants)
    way = Candidate("m", ProviderConfig("p", kind, "http://p"), "m", 0, "o200k_base", None, rates=Rates.of(price))
    usage_anomalies.UsageAnomalies(metrics).note(way, reported)
    told = re.findall(rb'usage_anomalies_total{anomaly="(.+?)"', metrics.render()[0])
    assert told == ([] if anomaly is None else [anomaly.encode()])


def test_a_router_that_names_none_of_its_models_is_an_anomaly():
    metrics, price = Metrics(), Rates.of(PriceRow("p", "m", date(2024, 1, 1), {"input": 1}, {}))
    own = ProviderConfig("p", "openai", "http://p")
    way = Candidate("m", own, "m", 0, "o200k_base", None, rates=price, others={"a": price}, answered_by=("a",))
    for served in ("a-2026", "b"):
        usage_anomalies.UsageAnomalies(metrics).note(way, Reported(Usage(10, 5), model=served))
    assert b'usage_anomalies_total{anomaly="model",provider="p"} 1.0' in metrics.render()[0]


def tiers(settings: Settings) -> Settings:
    dear = Variant({"service_tier": "priority"}, {"input": 9 * INPUT * 10**6, "output": 9 * OUTPUT * 10**6})
    rates = {"input": INPUT, "output": OUTPUT}
    return repriced(settings, rates, max_output_tokens=100, context_window=1000, variants=(dear,))


async def test_what_is_not_known_costs_the_dearest_and_is_told_once(make_gateway, upstream, caplog):
    counts = usage(10, 5, vision_tokens=3)
    provider = Provider(saying(answer(reported=counts, service_tier="warp")))
    gateway = await make_gateway(await upstream(provider.serve), change=tiers)
    with caplog.at_level(logging.WARNING, logger=usage_anomalies.__name__):
        for _ in range(2):
            customer = await gateway.customer("5.00")
            assert (await ask(customer, chat(model="gpt-4o-mini", max_tokens=50))).status == 200
            await the_event(customer, 9 * (10 * INPUT + 5 * OUTPUT))
    lines = [record.getMessage() for record in caplog.records if record.name == usage_anomalies.__name__]
    assert len(lines) == 2
    assert "'vision_tokens'" in lines[0]
    assert "'warp'" in lines[1]
    text = (await gateway.metrics()).decode()
    for anomaly in ("service_tier", "field"):
        assert f'metergate_usage_anomalies_total{{anomaly="{anomaly}",provider="openai"}} 2.0' in text
