"""A provider is never asked for more output than was held, in whichever field it takes a maximum."""

import json
from dataclasses import replace
from datetime import date
from typing import get_args

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.money import parse_usd
from billing.pricing import PriceRow
from gateway.config.defaults import EstimateSettings
from gateway.config.settings import ProviderConfig, Secret
from gateway.dialects.body import BadRequest
from gateway.dialects.openai.dialect import CHAT, COMPLETIONS, MAX_FIELDS, OpenAIDialect, max_field, parse
from gateway.dialects.openai.vendors import MaxOutputField
from gateway.proxy.candidates import Candidate, Rates
from gateway.proxy.estimate import NotPriced, worst_case
from gateway.proxy.provider_request import provider_body
from tests.gateway.conftest import chat
from tests.support.answering import Provider, answer, saying, usage
from tests.support.gateways import ask

pytestmark = pytest.mark.slow

DIALECT = OpenAIDialect()
FIELDS = get_args(MaxOutputField)
STRICT = EstimateSettings()


def route(field: MaxOutputField, window: int | None = None, most: int | None = 1000, model: str = "m") -> Candidate:
    provider = ProviderConfig("p", "openai", "http://p/v1", max_output_field=field)
    row = PriceRow("p", model, date(2024, 1, 1), {"input": 1, "output": 1}, {}, (), None, None, most, window)
    return Candidate("m", provider, model, 0, "o200k_base", None, rates=Rates.of(row))


MAXIMA = st.dictionaries(
    st.sampled_from([*MAX_FIELDS, "max_output_tokens", "Max_Tokens"]),
    st.none() | st.integers(-1, 6000) | st.sampled_from([10**9, 10**400, 1.5, "5", True]),
    max_size=4,
)


@settings(max_examples=500)
@given(st.data(), MAXIMA, st.sampled_from(FIELDS), st.sampled_from([CHAT, COMPLETIONS]))
def test_what_is_forwarded_never_asks_for_more_than_was_held(data, maxima, field, endpoint):
    fields = {"model": "m", "messages": [], "prompt": "p", "stream": data.draw(st.booleans()), **maxima}
    items = data.draw(st.permutations(list(fields.items())))
    body = json.dumps(dict(items)).encode()
    way = route(field, data.draw(st.none() | st.integers(1, 5000)), data.draw(st.none() | st.integers(1, 5000)))
    try:
        parsed = parse(endpoint, body)
        need = worst_case(parsed, way, 0, STRICT)
    except (BadRequest, NotPriced):
        return
    held = data.draw(st.integers(need.least_output, need.most_output))
    granted = held if parsed.max_output_tokens is None and held < need.most_output else None
    sent = json.loads(provider_body(DIALECT, parsed, way, body, granted, max_field(field, endpoint), strict=True))
    given_fields = {name: sent[name] for name in MAX_FIELDS if sent.get(name) is not None}
    assert all(most <= held for most in given_fields.values())
    known = max_field(field, endpoint)
    if parsed.max_output_tokens is not None or granted is not None:
        assert known in given_fields  # a provider that knows nothing else is bounded, too
    else:
        assert not given_fields  # the model's own maximum is what was held
    unchanged = {name: value for name, value in fields.items() if name not in (*MAX_FIELDS, "stream_options")}
    assert {name: sent[name] for name in unchanged} == unchanged


@pytest.mark.parametrize("field", FIELDS)
def test_a_body_passes_byte_for_byte_where_its_maximum_stands_where_the_provider_takes_it(
    field,
):
    for maxima in ({field: 5}, dict.fromkeys(FIELDS, 5), {}, {field: None}, {"max_tokens": 5, field: 3}):
        body = json.dumps({"messages": [], **maxima, "model": "m"}, indent=1).encode()
        parsed = parse(CHAT, body)
        assert provider_body(DIALECT, parsed, route(field), body, None, max_field(field, CHAT), strict=True) is body


@pytest.mark.parametrize("field", FIELDS)
def test_a_maximum_is_translated(field):
    for name in set(FIELDS) - {field}:
        body = json.dumps({"messages": [], name: 7, "model": "m"}).encode()
        parsed = parse(CHAT, body)
        sent = json.loads(provider_body(DIALECT, parsed, route(field), body, None, max_field(field, CHAT), strict=True))
        assert sent == {"messages": [], field: 7, "model": "m"}


def test_completions_are_older_than_the_newer_field():
    assert [max_field(field, COMPLETIONS) for field in FIELDS] == ["max_tokens", "max_tokens", "n_predict"]
    assert [max_field(field, CHAT) for field in FIELDS] == list(FIELDS)


def knowing_only(field: str) -> Provider:
    """A provider that writes as much as this field allows, or 1,000 tokens."""
    provider = Provider(saying(b""))

    async def reply(request: web.Request) -> web.StreamResponse:
        wrote = min(1000, provider.sent[-1].json.get(field) or 1000)
        return await saying(answer(reported=usage(5, wrote)))(request)

    provider.reply = reply
    return provider


@pytest.mark.parametrize("field", FIELDS)
async def test_no_account_falls_below_zero_at_a_provider_that_knows_one_field(make_gateway, upstream, field):
    provider = knowing_only(field)
    url = await upstream(provider.serve)

    def change(found):
        own = ProviderConfig("openai", "openai", url, Secret("sk-upstream"), max_output_field=field)
        return replace(found, providers={**found.providers, "openai": own})

    gateway = await make_gateway(change=change)
    for maxima in ({}, *({name: 1} for name in MAX_FIELDS), {"max_tokens": 2, "max_completion_tokens": 1}):
        customer = await gateway.customer("0.0001")
        fetched = await ask(customer, chat("Hi", model="gpt-4o-mini", **maxima))
        assert fetched.status == 200
        assert 0 <= parse_usd((await customer.balance())["balance_usd"]) < 100_000
        if maxima:
            assert fetched.json["usage"]["completion_tokens"] <= 2
