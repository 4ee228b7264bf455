"""Requests, rows and usages for tests of holds and charges: single ones, and any."""

from datetime import date
from typing import Any

from hypothesis import strategies as st

from billing.holds.model import Need
from billing.pricing import FACTOR_SCALE, TOKEN_CLASSES, PriceRow, Tier
from billing.usage import Usage
from gateway.config.defaults import EstimateSettings
from gateway.config.settings import ProviderConfig
from gateway.dialects.facts import ParsedRequest
from gateway.dialects.openai.vendors import MaxOutputField
from gateway.proxy.candidates import Candidate, Rates

PROVIDER = ProviderConfig("openai", "openai", "http://provider/v1")
STRICT, LOOSE = EstimateSettings(), EstimateSettings(strict=False)


def row(per_million: dict[str, int] | None = None, **fields: Any) -> PriceRow:
    rates = {"input": 150_000_000, "output": 600_000_000} if per_million is None else per_million
    fields = {"max_output_tokens": 1000, "per_unit": {}, **fields}
    return PriceRow("openai", "m", date(2024, 1, 1), rates, **fields)


def route(price: PriceRow | None, *, markup_scaled: int = 0, own_max_output: int | None = None) -> Candidate:
    rates = Rates.of(price) if price is not None else None
    return Candidate("m", PROVIDER, "m", markup_scaled, "o200k_base", own_max_output, rates=rates)


def request(**fields: Any) -> ParsedRequest:
    body: dict[str, Any] = {
        "operation": "/v1/chat/completions",
        "model": "m",
        "stream": False,
        "include_usage": False,
        "choices": 1,
        "max_output_tokens": None,
        "input_bound_tokens": 100,
        "end_user": None,
        "service_tier": None,
        "has_output": True,
    }
    return ParsedRequest(**{**body, **fields})


def hold_nano(need: Need, granted: int) -> int:
    """What is held for so many output tokens of each choice; `Hold.cost_nano` and the script say the same."""
    return need.input_cost_nano + need.unit_nano * granted


INPUT_PARTS = (
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "image_input_tokens",
)
OUTPUT_PARTS = ("reasoning_tokens", "audio_output_tokens")
OPTIONAL_CLASSES = [name for name in TOKEN_CLASSES if name not in ("input", "output")]
rates = st.integers(0, 10**12)
factors = st.integers(1, 5 * FACTOR_SCALE)
markups = st.one_of(st.just(0), st.integers(0, 300 * FACTOR_SCALE))
optional_rates = dict.fromkeys(OPTIONAL_CLASSES, rates)
sheets = st.fixed_dictionaries({"input": rates, "output": rates}, optional=optional_rates)
tier_sheets = st.fixed_dictionaries({}, optional={"input": rates, "output": rates, **optional_rates})
steps = st.lists(st.integers(1, 3000), max_size=2, unique=True)
unit_rates = st.fixed_dictionaries({}, optional={"request": rates})
tier_factors = st.dictionaries(st.sampled_from(["batch", "flex", "priority"]), factors)
bounds = st.one_of(st.none(), st.integers(1, 5000))


@st.composite
def price_rows(draw: st.DrawFn) -> PriceRow:
    above_tokens = sorted(draw(steps))
    return row(
        draw(sheets),
        per_unit=draw(unit_rates),
        tiers=tuple(Tier(above, draw(tier_sheets)) for above in above_tokens),
        multipliers=draw(tier_factors),
        max_output_tokens=draw(bounds),
        context_window=draw(bounds),
    )


orders = {parts: st.permutations(parts) for parts in (INPUT_PARTS, OUTPUT_PARTS)}
cuts = st.one_of(st.just(0), st.just(FACTOR_SCALE), st.integers(0, FACTOR_SCALE))


@st.composite
def usages(draw: st.DrawFn, most_input: int, most_output: int) -> Usage:
    """Any usage within these totals, cut into parts in any way."""
    counts = {"input_tokens": draw(st.integers(0, most_input)), "output_tokens": draw(st.integers(0, most_output))}
    for whole, parts in (("input_tokens", INPUT_PARTS), ("output_tokens", OUTPUT_PARTS)):
        left = counts[whole]
        for part in draw(orders[parts]):
            counts[part] = left * draw(cuts) // FACTOR_SCALE
            left -= counts[part]
    return Usage(**counts)


def priced(
    field: MaxOutputField = "max_tokens", per_million: dict[str, int] | None = None, model: str = "m", **more: Any
) -> Candidate:
    price: dict[str, Any] = {"per_unit": {}, "max_output_tokens": 1000, **more}
    row = PriceRow("p", model, date(2024, 1, 1), per_million or {"input": 150_000_000, "output": 600_000_000}, **price)
    provider = ProviderConfig("p", "openai", "http://p/v1", max_output_field=field)
    return Candidate("m", provider, model, 0, "o200k_base", None, rates=Rates.of(row))
