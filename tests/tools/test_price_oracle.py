"""What a request costs by the shipped table is what the package genai-prices says, to the nano-USD."""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from pathlib import Path

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Provider

from billing.prices import PriceRow, PriceTable, round_up
from billing.usage import Usage
from gateway.config.prices import read_prices
from gateway.config.problems import Problems
from gateway.config.settings import read_file
from tools.make_prices import AS_OF, NAMES, TARGET

NOON = datetime(AS_OF.year, AS_OF.month, AS_OF.day, 12, tzinfo=UTC)
MOMENTS = (
    NOON,
    NOON.replace(hour=2, minute=30),
    NOON.replace(hour=7),
    NOON.replace(hour=17),
    datetime(2026, 12, 15, 12, tzinfo=UTC),
    datetime(2027, 2, 1, 12, tzinfo=UTC),
)
TOKENS = (1, 999, 99_999, 100_001, 127_999, 199_999, 200_000, 200_001, 272_000, 272_001, 1_000_003)
DIFFERENT = {
    # https://ai.google.dev/gemini-api/docs/pricing: the name of Gemini 1.0 Pro is no longer served; the
    # row is a promise of ours about what the name costs where somebody routes it.
    ("gemini", "gemini-pro"),
    # https://platform.openai.com/docs/pricing: "web search preview" is 25 USD per 1,000 calls beside the tokens, which
    # they leave out.
    ("openai", "gpt-4o-search-preview"),
    ("openai", "gpt-4o-mini-search-preview"),
}
UNPRICED = {
    # https://ai.google.dev/gemini-api/docs/pricing: free, with no paid tier: nothing is sold that a row could price.
    *(("gemini", name) for name in ("gemma-3", "gemma-3n", "gemma-4-26b-a4b-it", "gemma-4-31b-it")),
    # Names of OpenRouter that they list under Mistral; https://mistral.ai/pricing has no such models.
    *(("mistral", f"{name}:free") for name in ("devstral-small", "mistral-nemo", "mistral-small-24b-instruct-2501")),
    # https://platform.openai.com/docs/guides/moderation: the models have names of their own, with rows of zero.
    ("openai", "moderation"),
}
"""Groq's whisper bills at least 10 seconds a request (https://groq.com/pricing), which a row does not say: shorter
recordings are not compared."""


@cache
def table() -> PriceTable:
    problems = Problems()
    value = read_file(Path(TARGET), "prices.yaml", {}, problems)
    assert value is not None
    prices = read_prices(value)
    assert len(problems) == 0
    return prices


def theirs(usage: Usage) -> TheirUsage:
    """Their counts overlap: each contains all that is more special."""
    counts = {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cached_input_tokens
        + usage.cached_audio_input_tokens
        + usage.cached_image_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "input_audio_tokens": usage.audio_input_tokens + usage.cached_audio_input_tokens,
        "cache_audio_read_tokens": usage.cached_audio_input_tokens,
        "input_image_tokens": usage.image_input_tokens + usage.cached_image_input_tokens,
        "cache_image_read_tokens": usage.cached_image_input_tokens,
        "input_video_tokens": usage.video_input_tokens,
        "output_tokens": usage.output_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
        "output_audio_tokens": usage.audio_output_tokens,
        "output_image_tokens": usage.image_output_tokens,
        "output_video_tokens": usage.video_output_tokens,
        "web_searches": usage.searches,
        "storage_searches": (usage.named or {}).get("call.file_search", 0),
        "input_document_pages": usage.pages,
        "input_characters": usage.characters,
    }
    made = {name: count for name, count in counts.items() if count}
    if usage.milliseconds:
        made["audio_seconds"] = made["input_audio_seconds"] = Decimal(usage.milliseconds) / 1000  # type: ignore[assignment]
    return TheirUsage(**made)


def usages_for(row: PriceRow) -> Iterator[Usage]:
    """Usages with every class that a row prices, at sizes around all thresholds."""
    prices, units = row.per_million, row.per_unit
    for tokens in TOKENS if prices else (0,):
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
            searches=3 if "search" in units else 0,
            milliseconds=tokens // 2 + 12_345 if {"hour", "second"} & units.keys() else 0,
            characters=tokens if "character" in units else 0,
            pages=7 if "page" in units else 0,
            named={"call.file_search": 2} if "call.file_search" in units else None,
            **special,
        )


def contexts_of(model: ModelInfo) -> list[dict[str, str]]:
    whens = [dict(when) for when in {tuple(one.when.items()): None for one in model.price_variants or ()}]
    return [{}, *whens]


CASES = [
    pytest.param(provider, model, id=f"{NAMES[provider.id]}/{model.id}")
    for provider in providers
    if provider.id in NAMES
    for model in provider.models
]


def same(provider: Provider, model: ModelInfo, name: str) -> int:
    """Compare one name with what they say of it; the number of (usage, moment, variant) that were compared."""
    compared = 0
    for at in MOMENTS:
        row = table().find(NAMES[provider.id], name, at.timestamp())
        assert row is not None, name
        for context in contexts_of(model):
            variant = row.variant(**context, minute=at.hour * 60 + at.minute)
            for usage in usages_for(row):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    price = model.calc_price(theirs(usage), provider, genai_request_timestamp=at, price_context=context)
                expected = (price.total_price * 10**9).to_integral_value(ROUND_CEILING)
                assert round_up(row.cost_scaled(usage, variant)) == expected, (name, at, context, variant, usage)
                compared += 1
    return compared


@pytest.mark.parametrize(("provider", "model"), CASES)
def test_every_model_costs_what_they_say(provider: Provider, model: ModelInfo) -> None:
    name = NAMES[provider.id], model.id
    if name in UNPRICED:
        assert table().find(*name, NOON.timestamp()) is None
    elif name not in DIFFERENT:
        assert same(provider, model, model.id) >= len(MOMENTS)


@pytest.mark.slow
def test_so_does_every_other_name_of_a_model() -> None:
    by_name = {NAMES[provider.id]: provider for provider in providers if provider.id in NAMES}
    names = dict.fromkeys((row.provider, row.model.rstrip("*")) for row in table().rows)
    compared = 0
    for provider, name in names:
        models = by_name[provider].models if provider in by_name else ()
        model = next((one for one in models if one.is_match(name)), None)
        if model is not None and (provider, name) not in DIFFERENT:
            compared += same(by_name[provider], model, name)
    assert compared > 50_000
