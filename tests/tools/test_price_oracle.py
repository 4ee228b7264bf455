"""The cost of a request by the shipped table equals that of the package genai-prices, to the nano-USD."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_CEILING

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from billing.pricing import PriceRow, round_up
from billing.usage import Usage
from tests.support.oracle import table, theirs
from tools.make_prices import AS_OF, NAMES

NOON = datetime(AS_OF.year, AS_OF.month, AS_OF.day, 12, tzinfo=UTC)
MOMENTS = (
    NOON,
    NOON.replace(hour=2, minute=30),
    NOON.replace(hour=7),
    NOON.replace(hour=17),
    datetime(2026, 12, 15, 12, tzinfo=UTC),
    datetime(2027, 2, 1, 12, tzinfo=UTC),
)
FIRST_AND_LAST = (MOMENTS[0], MOMENTS[-1])
TOKENS = (1, 99_999, 1_000_003)
DIFFERENT = {
    # The name of Gemini 1.0 Pro, which is no longer sold; the row is a promise of ours about what the name costs where
    # somebody routes it.
    ("gemini", "gemini-pro"),
    # https://developers.openai.com/api/docs/pricing: a search of the preview tool is 25 USD per 1,000 calls for models
    # that do not reason, beside the tokens. They leave it out.
    ("openai", "gpt-4o-search-preview"),
    ("openai", "gpt-4o-mini-search-preview"),
}
# Groq's whisper bills at least 10 seconds a request, as its clients' authors say, which a row does not: shorter
# recordings are not compared.
UNPRICED = {
    # The package lists them without a price: there is nothing that a row could be made of.
    *(("gemini", name) for name in ("gemma-3", "gemma-3n", "gemma-4-26b-a4b-it", "gemma-4-31b-it")),
    # Names of OpenRouter (":free" is its suffix) that they list under Mistral.
    *(("mistral", f"{name}:free") for name in ("devstral-small", "mistral-nemo", "mistral-small-24b-instruct-2501")),
    # Moderation models have names of their own (omni-moderation-latest), with rows of zero.
    ("openai", "moderation"),
}


def thresholds(model: ModelInfo) -> set[int]:
    """The counts of input above which they have another price."""
    conditions = model.prices if isinstance(model.prices, list) else []
    sheets = [one.prices for one in (*conditions, *(model.price_variants or ()))]
    if isinstance(model.prices, ModelPrice):
        sheets.append(model.prices)
    prices = [price for sheet in sheets for price in vars(sheet).values() if isinstance(price, TieredPrices)]
    return {tier.start for price in prices for tier in price.tiers}


def prices_searches(model: ModelInfo) -> bool:
    """Whether they have a price of searches for a model; where they have none, ours is that of the maker's other
    models."""
    conditions = [one.prices for one in model.prices] if isinstance(model.prices, list) else [model.prices]
    return any(
        getattr(sheet, name, None) is not None for sheet in conditions for name in vars(sheet) if "search" in name
    )


def usages_for(row: PriceRow, model: ModelInfo) -> Iterator[Usage]:
    """Usages with every class that a row prices, at sizes around all thresholds, ours and theirs."""
    prices, units = row.per_million, row.per_unit
    steps = {tier.above_input_tokens for sheet in (row, *row.variants) for tier in sheet.tiers} | thresholds(model)
    around = [tokens for above in sorted(steps) for tokens in (above, above + 1)]
    for tokens in (*TOKENS, *around) if prices else (0,):
        output = tokens // 3 if "output" in prices else 0
        special = {
            f"{name}_tokens": tokens // 11 + place
            for place, name in enumerate(prices)
            if name not in ("input", "output", "cached_input", "cache_write", "cache_write_1h") and tokens > 999
        }
        if not output:
            special = {name: count for name, count in special.items() if "input" in name}
        yield Usage(
            input_tokens=tokens,
            output_tokens=output,
            cached_input_tokens=tokens // 5 if "cached_input" in prices else 0,
            cache_write_tokens=tokens // 7 if "cache_write" in prices else 0,
            cache_write_1h_tokens=tokens // 13 if "cache_write_1h" in prices else 0,
            searches=3 if "search" in units and prices_searches(model) else 0,
            milliseconds=tokens // 2 + 12_345 if {"hour", "second"} & units.keys() else 0,
            characters=tokens if "character" in units else 0,
            pages=7 if "page" in units else 0,
            named={"call.file_search": 2} if "call.file_search" in units else None,
            **special,
        )


def contexts_of(model: ModelInfo) -> list[dict[str, str]]:
    whens = [dict(when) for when in {tuple(one.when.items()): None for one in model.price_variants or ()}]
    return [{}, *whens]


def same(provider: Provider, model: ModelInfo, name: str) -> int:
    """Compare one name with what they say of it; the number of (usage, moment, variant) that were compared."""
    compared = 0
    for at in MOMENTS if isinstance(model.prices, list) else FIRST_AND_LAST:
        row = table().find(NAMES[provider.id], name, at.timestamp())
        assert row is not None, name
        for context in contexts_of(model):
            variant = row.variant(**context, minute=at.hour * 60 + at.minute)
            for usage in usages_for(row, model):
                price = model.calc_price(theirs(usage), provider, genai_request_timestamp=at, price_context=context)
                expected = (price.total_price * 10**9).to_integral_value(ROUND_CEILING)
                assert round_up(row.cost_scaled(usage, variant)) == expected, (name, at, context, variant, usage)
                compared += 1
    return compared


BY_NAME = {NAMES[provider.id]: provider for provider in providers if provider.id in NAMES}


@pytest.mark.filterwarnings("error")
def test_every_model_costs_what_they_say():
    compared = dict.fromkeys(BY_NAME, 0)
    for owner, provider in BY_NAME.items():
        for model in provider.models:
            if (owner, model.id) in UNPRICED:
                assert table().find(owner, model.id, NOON.timestamp()) is None
            elif (owner, model.id) not in DIFFERENT:
                compared[owner] += same(provider, model, model.id)
    assert sum(compared.values()) >= 4_500
    assert all(compared.values())


@pytest.mark.filterwarnings("error")
def test_so_does_every_other_name_of_a_model():
    compared = 0
    for owner, name in dict.fromkeys((row.provider, row.model.rstrip("*")) for row in table().rows):
        models = BY_NAME[owner].models if owner in BY_NAME else ()
        model = next((one for one in models if one.is_match(name)), None)
        if model is not None and model.id != name and (owner, name) not in DIFFERENT:
            compared += same(BY_NAME[owner], model, name)
    assert compared >= 6_500
