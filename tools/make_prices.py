"""Make config/prices.yaml: `make prices`, then review the diff.

Prices, tiers, variants and dates are those of the package genai-prices; limits, and prices of models that it does not
have, those of model_facts.json; rows that are written by hand stand in prices_head.yaml and go before all others. The
same inputs give the same file. Variants that began before AS_OF hold from the first day of their row, because what they
were before is not known.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from genai_prices.data import providers
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HERE: Final = Path(__file__).parent
TARGET: Final = HERE.parent / "gateway" / "config" / "shipped" / "prices.yaml"
AS_OF: Final = date(2026, 11, 22)
FIRST_DAY: Final = "2024-01-01"
CONDITIONS: Final = {"service_tier", "processing", "speed", "region", "utc_hours"}
# Providers of genai-prices, by their names in the shipped metergate.yaml.
NAMES: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gemini",
    "deepseek": "deepseek",
    "mistral": "mistral",
    "groq": "groq",
    "x-ai": "xai",
    "cohere": "cohere",
    "voyageai": "voyage",
}
CLASSES: Final = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "input_video_mtok": "video_input",
    "cache_audio_read_mtok": "cached_audio_input",
    "cache_image_read_mtok": "cached_image_input",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
    "output_video_mtok": "video_output",
}
UNITS: Final = {
    "requests_kcount": ("request", 1000),
    "audio_hours": ("hour", 1),
    "input_audio_hours": ("hour", 1),
    "input_mchars": ("character", 1_000_000),
    "rerank_searches_kcount": ("search", 1000),
    "web_searches_kcount": ("search", 1000),
    "input_document_kpages": ("page", 1000),
    "storage_searches_kcount": ("call.file_search", 1000),
}
# Models that bill thinking which their answers leave out or sum up.
HIDDEN: Final = re.compile(
    r"o\d|gpt-(?:5|6|oss)|codex|chat-latest|claude-(?:3-7|[4-9]|opus-[4-9]|sonnet-[4-9]|haiku-[4-9]|fable|mythos)"
    r"|gemini-(?:2\.5|[3-9])|grok-(?:3-mini|[4-9]|code)|magistral|deepseek-reasoner"
)
# The most tokens that one picture takes, by the first prefix that fits. Where a maker states no maximum, more than was
# measured for a picture of 12 megapixels with default settings: 4,005 on Claude 5.5, 1,661 on Claude Haiku 4.5, 14,364
# on GPT-6, 11,868 on GPT-5.5, 1,101 on Gemini 3 (2,240 at its highest resolution); https://huggingface.co/datasets/
# JOHNISKING/image-token-cost, https://ai.google.dev/gemini-api/docs/media-resolution.
IMAGE_TOKENS: Final = {
    **{"gpt-4o-mini": 48_169, "gpt-4o": 1_445, "gpt-4.1": 1_445, "gpt-5": 15_000, "gpt-6": 40_000},
    **dict.fromkeys(("claude-3", "claude-haiku-4-5"), 1_700),
    **dict.fromkeys(("claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-5"), 1_700),
    **dict.fromkeys(("claude-sonnet-4-0", "claude-sonnet-4-5"), 1_700),
    **dict.fromkeys(("claude-opus", "claude-sonnet", "claude-haiku", "claude-fable", "claude-mythos"), 5_000),
    **{"gemini-3": 2_500},
}
SEARCHING: Final = re.compile(
    r"(?:gpt-[4-9]|o[1-9]|codex|chatgpt|claude-)(?!.*(?:audio|image|realtime|transcribe|tts))"
)
# One search of OpenAI's or Anthropic's own tool, where genai-prices has none for the model: coding agents declare it
# with every request. https://platform.openai.com/docs/pricing, https://platform.claude.com/docs/en/about-claude/pricing
SEARCH_USD: Final = "0.01"
# Where model_facts.json has none: https://platform.claude.com/docs/en/about-claude/models/overview
OUTPUT_LIMITS: Final = {"claude-opus-4-0": 32000, "claude-opus-4-1": 32000, "claude-sonnet-4-0": 64000,
                        "claude-3-7-sonnet": 64000, "claude-3-5": 8192, "claude-3-": 4096}  # fmt: skip
# Anthropic's models before Opus 4.6, which cost the same wherever they run.
NO_REGION: Final = re.compile(r"claude-(?:v1|2|3|instant|(?:opus|sonnet|haiku)-4-[0-5]$)")
# https://platform.claude.com/docs/en/about-claude/pricing: `inference_geo: us` multiplies all token prices.
US: Final = {"region": "us", "factor": "1.1"}

Row = dict[str, Any]


def plain(amount: Decimal) -> str:
    """A decimal of USD as the file has it. Raises `ValueError` where it has more than nine decimals."""
    if amount != round(amount, 9):
        raise ValueError(f"{amount} has more than 9 decimals")
    whole, _, fraction = f"{amount:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def sheet_of(prices: ModelPrice) -> Row:
    """The per_million, per_unit and tiers of genai-prices' prices."""
    per_million: dict[str, str] = {}
    per_unit: dict[str, str] = {}
    tiers: dict[int, dict[str, str]] = {}
    for key, price in prices.__dict__.items():
        if price is None:
            continue
        if key in CLASSES:
            base = price.base if isinstance(price, TieredPrices) else price
            per_million[CLASSES[key]] = plain(base)
            for tier in price.tiers if isinstance(price, TieredPrices) else ():
                tiers.setdefault(tier.start, {})[CLASSES[key]] = plain(tier.price)
        elif key in UNITS:
            name, per = UNITS[key]
            per_unit[name] = plain(price / per)
    order = list(CLASSES.values())
    sheet: Row = {}
    if per_million:
        sheet["per_million"] = dict(sorted(per_million.items(), key=lambda pair: order.index(pair[0])))
    if per_unit:
        sheet["per_unit"] = per_unit
    if tiers:
        sheet["tiers"] = [
            {"at_or_above": start + 1, "per_million": rates}
            if start % 1000 == 999
            else {"above_input_tokens": start, "per_million": rates}
            for start, rates in sorted(tiers.items())
        ]
    return sheet


def hours_of(constraint: TimeOfDateConstraint) -> str:
    def text(at: time) -> str:
        return (datetime.combine(AS_OF, at).astimezone(UTC) if at.tzinfo else at).strftime("%H:%M")

    return f"{text(constraint.start_time)}-{text(constraint.end_time)}"


def rows_of(model: ModelInfo) -> Iterator[Row]:
    """One row for each day on which the standard prices or a variant of a model begin."""
    prices = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    starts = {one.constraint.start_date for one in prices if isinstance(one.constraint, StartDateConstraint)}
    for variant in model.price_variants or ():
        if isinstance(variant.constraint, StartDateConstraint) and variant.constraint.start_date > AS_OF:
            starts.add(variant.constraint.start_date)
    before: Row | None = None
    for day in (None, *sorted(starts)):
        row = _row_on(model, prices, day)
        if row != before and (row.get("per_million") or row.get("per_unit")):
            before = row
            yield {"effective_from": FIRST_DAY if day is None else day.isoformat(), **row}


def _row_on(model: ModelInfo, prices: list[ConditionalPrice], day: date | None) -> Row:
    standard, variants = prices[0].prices, []
    for one in prices:
        if one.constraint is None or (
            isinstance(one.constraint, StartDateConstraint) and day is not None and one.constraint.start_date <= day
        ):
            standard, variants = one.prices, []
        elif isinstance(one.constraint, TimeOfDateConstraint):
            variants.insert(0, {"utc_hours": hours_of(one.constraint), **sheet_of(one.prices)})
    latest = max(AS_OF, day or AS_OF)
    for variant in model.price_variants or ():
        sheet = sheet_of(variant.prices)
        began = not isinstance(variant.constraint, StartDateConstraint) or variant.constraint.start_date <= latest
        if sheet and began and variant.when != {"service_tier": "fast"}:  # the same as `priority`, under another name
            same = next((one for one in variants if {**one, **variant.when} == one and len(variant.when) == 1), None)
            if same is None or any(key in same for key in CONDITIONS - variant.when.keys()):
                variants.append({**variant.when, **sheet})
            else:  # the first one decides, class by class
                for key, value in sheet.items():
                    same[key] = value if key not in same or key == "tiers" else {**value, **same[key]}
    row = sheet_of(standard)
    if variants:
        row["variants"] = variants
    return row


def names_of(model: ModelInfo) -> Iterator[str]:
    """Names by which a model is found: exact ones, and prefixes with a star."""
    yield model.id
    clauses = [model.match]
    while clauses:
        clause = clauses.pop(0)
        if isinstance(clause, ClauseOr):
            clauses[:0] = clause.or_
        elif isinstance(clause, ClauseEquals):
            yield clause.equals
        elif isinstance(clause, ClauseStartsWith):
            yield f"{clause.starts_with}*"
        elif isinstance(clause, ClauseContains):
            yield f"{clause.contains}*"
        elif isinstance(clause, ClauseRegex):
            dated = re.fullmatch(r"\^([a-z0-9.-]+?)(?:\[-@\])?-?(?:\\d\{[48]\}).*", clause.regex)
            if dated:
                yield f"{dated[1]}-20*"
        elif isinstance(clause, ClauseAnd):
            continue  # its model has its id, and the names of model_facts.json


def found(name: str, claimed: Mapping[str, str]) -> str | None:
    """The model that a name leads to by the rule of the price table: exact, else the longest prefix."""
    if name in claimed:
        return claimed[name]
    prefixes = [one for one in claimed if one.endswith("*") and name.startswith(one[:-1])]
    return claimed[max(prefixes, key=len)] if prefixes else None


def provider_rows(provider: Any, facts: Mapping[str, Row], by_hand: Iterable[str]) -> Iterator[Row]:
    """The rows of one provider: models of genai-prices, then those that model_facts.json alone has."""
    name = NAMES[provider.id]
    models = {model.id: model for model in provider.models}
    claimed: dict[str, str] = dict.fromkeys(by_hand, "")
    for model in provider.models:
        claimed.setdefault(model.id, model.id)
    for model in provider.models:
        for alias in names_of(model):
            claimed.setdefault(alias, model.id)
    known = [*facts, *(alias for alias in claimed if not alias.endswith("*"))]
    for alias in known:
        matched = next((model.id for model in provider.models if model.is_match(alias)), None)
        if matched is not None and found(alias, claimed) != matched and alias not in claimed:
            claimed[alias] = matched
    for model_id in sorted(models):
        names = sorted(alias for alias, owner in claimed.items() if owner == model_id and alias != model_id)
        if claimed[model_id] != model_id:
            if not names:
                continue
            first, names = names[0], names[1:]
        else:
            first = model_id
        for row in rows_of(models[model_id]):
            yield complete(name, first, names, row, limits(models[model_id], names, facts), None)
    for alias, fact in sorted(facts.items()):
        sheet = sheet_of_facts(fact)
        if sheet and found(alias, claimed) is None:
            row = {"effective_from": FIRST_DAY, **sheet}
            yield complete(name, alias, [], row, fact, fact.get("source"))


def limits(model: ModelInfo, names: Iterable[str], facts: Mapping[str, Row]) -> Row:
    for alias in (model.id, *names):
        if alias in facts:
            return {"max_input_tokens": model.context_window, **facts[alias]}
    return {"max_input_tokens": model.context_window}


def sheet_of_facts(fact: Row) -> Row:
    """Per_million and per_unit of a model that genai-prices does not have; nothing where they can't be told."""
    fields = {
        "input": "input_cost_per_token",
        "cached_input": "cache_read_input_token_cost",
        "cache_write": "cache_creation_input_token_cost",
        "output": "output_cost_per_token",
    }
    if fact.get("mode") not in ("chat", "responses", "completion", "embedding", "moderation", "rerank",
                                "audio_speech", "audio_transcription"):  # fmt: skip
        return {}
    try:
        per_million = {name: plain(Decimal(str(fact[key])) * 1_000_000) for name, key in fields.items() if key in fact}
        units = {"character": "input_cost_per_character", "second": "input_cost_per_second",
                 "search": "input_cost_per_query"}  # fmt: skip
        per_unit = {name: plain(Decimal(str(fact[key]))) for name, key in units.items() if key in fact}
    except ValueError:
        return {}
    if per_unit:  # the tokens of such a model are a second price of the same thing, or zero
        return {"per_unit": per_unit}
    return {"per_million": per_million} if "input" in per_million else {}


def complete(provider: str, model: str, aliases: list[str], row: Row, fact: Mapping[str, Any], source: Any) -> Row:
    """A row with its names, limits and source."""
    made: Row = {"provider": provider, "model": model, "effective_from": row["effective_from"]}
    if aliases:
        made["aliases"] = aliases
    made.update({key: row[key] for key in ("per_million", "per_unit", "tiers") if key in row})
    variants = list(row.get("variants", ()))
    if provider == "anthropic" and not NO_REGION.match(model):
        variants.append(US)
    if variants:
        made["variants"] = variants
    if "output" in row.get("per_million", ()) and SEARCHING.match(model):
        made["per_unit"] = {"search": SEARCH_USD} | made.get("per_unit", {})
    images = [tokens for prefix, tokens in IMAGE_TOKENS.items() if model.startswith(prefix)]
    if images and "per_million" in row:
        made["part_tokens"] = {"image": images[0]}
    for key, limit in (("max_output_tokens", "max_output_tokens"), ("context_window", "max_input_tokens")):
        if fact.get(limit) and (key != "max_output_tokens" or "output" in row.get("per_million", ())):
            made[key] = int(fact[limit])
    written = [tokens for prefix, tokens in OUTPUT_LIMITS.items() if model.startswith(prefix)]
    if written and "max_output_tokens" not in made:
        made["max_output_tokens"] = written[0]
    if HIDDEN.match(model) and "output" in row.get("per_million", ()):
        made["hidden_reasoning"] = True
    if source:
        made["source"] = source
    return made


def flow(value: Any) -> str:
    """A value in YAML's flow style; what a reader may take for a number or a date stands in quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return (
        value if re.fullmatch(r"[a-z][a-z0-9_/-]*", value) and value not in ("on", "off", "yes", "no") else f'"{value}"'
    )


def text_of(row: Row) -> str:
    """A row as lines of at most 120 characters, where its parts allow it."""
    lines, line = [], "- {"
    for place, (key, value) in enumerate(row.items()):
        part = f"{key}: {flow(value)}" + ("}" if place == len(row) - 1 else ",")
        if len(line) + len(part) > 119 and line.strip(" -{"):
            lines.append(line.rstrip())
            line = "   "
        line += part + " "
    return "\n".join([*lines, line.rstrip()]) + "\n"


def make() -> str:
    """The whole file."""
    head = (HERE / "prices_head.yaml").read_text("utf-8")
    facts = json.loads((HERE / "model_facts.json").read_text("utf-8"))["providers"]
    by_hand: dict[str, list[str]] = {}
    for row in yaml.safe_load(head):
        by_hand.setdefault(row["provider"], []).append(row["model"])
    parts = [head]
    for provider in sorted((one for one in providers if one.id in NAMES), key=lambda one: list(NAMES).index(one.id)):
        name = NAMES[provider.id]
        parts.append(f"\n# {provider.name}: {provider.pricing_urls[0]}\n")
        parts += map(text_of, provider_rows(provider, facts.get(name, {}), by_hand.get(name, ())))
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(make(), "utf-8")
