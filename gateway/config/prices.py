"""prices.yaml into a `PriceTable`. The rows' own rules are `pricing.rows`'; this file owns how the file says them.

A row's keys are named relative to the row, whose line says which one it is. A row with `aliases` stands for one row of
each of these names, too.
"""

from collections.abc import Collection
from datetime import date
from typing import Final

from billing.money import MoneyError, parse_usd
from billing.pricing.rows import (
    ANY_TOOL,
    CONDITIONS,
    MULTIPLIERS,
    NAMED_UNITS,
    PART_KINDS,
    TOKEN_CLASSES,
    UNIT_CLASSES,
    PriceRow,
    Tier,
    Variant,
)
from billing.pricing.scales import FACTOR_SCALE, PriceError, parse_factor
from billing.pricing.table import PriceTable
from gateway.config.source import Section, Value

MAX_TOKENS: Final = 1_000_000_000
_ROW_KEYS: Final = (
    "provider",
    "model",
    "effective_from",
    "per_million",
    "per_unit",
    "tiers",
    "multipliers",
    "part_tokens",
    "tool_call_tokens",
    "max_output_tokens",
    "context_window",
    "hidden_reasoning",
    "variants",
    "cost",
    "source",
    "aliases",
)
MAX_TOOL_TYPES: Final = 64
_VARIANT_KEYS: Final = (*CONDITIONS, "per_million", "per_unit", "tiers", "factor")
_TIER_KEYS: Final = ("above_input_tokens", "at_or_above", "per_million")


def read_prices(at: Value) -> PriceTable:
    """Return the table of all rows that can be read; every other row, and one that stands there twice, is a problem."""
    rows: list[PriceRow] = []
    lines: dict[tuple[str, str, date], int] = {}
    for item in at.items():
        value = Value(item.file, "", item.node, item.line)
        for row in _read_rows(value):
            name = (row.provider, row.model, row.effective_from)
            if name in lines:
                value.problem(
                    f"{row.provider}/{row.model} from {row.effective_from} stands in line {lines[name]} already"
                )
                continue
            lines[name] = value.line
            rows.append(row)
    return PriceTable(rows)


def _read_rows(value: Value) -> list[PriceRow]:
    """Return the row, and one for each of its aliases; none and a problem for a wrong one."""
    section = value.section(_ROW_KEYS, ("provider", "model", "effective_from"))
    provider, model = section.read("provider", Value.text, ""), section.read("model", Value.text, "")
    effective_from = section.maybe("effective_from", _day)
    per_million = section.maybe("per_million", lambda value: _rates(value, TOKEN_CLASSES, "0.15")) or {}
    per_unit = section.maybe("per_unit", _units) or {}
    tiers = section.maybe("tiers", _tiers) or ()
    multipliers = section.maybe("multipliers", _multipliers)
    part_tokens = section.maybe("part_tokens", _part_tokens)
    tool_call_tokens = section.maybe("tool_call_tokens", _tool_call_tokens)
    max_output_tokens = _tokens(section, "max_output_tokens")
    context_window = _tokens(section, "context_window")
    hidden_reasoning = section.read("hidden_reasoning", Value.truth, False)
    variants = section.maybe("variants", _variants) or ()
    cost = section.maybe("cost", lambda value: value.choice(("reported",)))
    source = section.maybe("source", Value.text)
    aliases = section.maybe("aliases", lambda value: value.names("a model's name")) or ()
    if not section.ok or effective_from is None:
        return []
    try:
        first = PriceRow(
            provider,
            model,
            effective_from,
            per_million,
            per_unit,
            tiers,
            multipliers,
            part_tokens,
            max_output_tokens,
            context_window,
            hidden_reasoning,
            variants=variants,
            cost_reported=cost is not None,
            tool_call_tokens=tool_call_tokens,
            source=source,
        )
        return [first, *(first.alias(name) for name in aliases)]
    except PriceError as error:
        value.problem(str(error))
        return []


def _day(value: Value) -> date | None:
    """Return a date, `YYYY-MM-DD`."""
    what = 'a date such as "2024-07-18"'
    text = value.scalar(what)
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        value.expected(what)
        return None


def _tokens(section: Section, name: str) -> int | None:
    return section.maybe(name, lambda value: value.whole(1, MAX_TOKENS))


def parse_rate(value: object) -> int:
    """Return the nano-USD of a decimal string of USD that is not below zero. Raises `MoneyError`."""
    nano = parse_usd(value)
    if nano < 0:
        raise MoneyError("a price is not below zero")
    return nano


def _rates(value: Value, classes: Collection[str], example: str) -> dict[str, int]:
    section = value.section(classes)
    rates = {name: section.values[name].decimal(parse_rate, example) for name in classes if name in section.values}
    return {name: rate for name, rate in rates.items() if rate is not None}


def _units(value: Value) -> dict[str, int]:
    named = [name for name in value.child_names if NAMED_UNITS.fullmatch(name)]
    return _rates(value, (*UNIT_CLASSES, *named), "0.04")


def _variants(value: Value) -> tuple[Variant, ...]:
    variants = []
    for item in value.items():
        section = item.section(_VARIANT_KEYS)
        when = {name: text for name in CONDITIONS if (text := section.maybe(name, Value.text)) is not None}
        per_million = section.maybe("per_million", lambda value: _rates(value, TOKEN_CLASSES, "0.15")) or {}
        per_unit, tiers = section.maybe("per_unit", _units) or {}, section.maybe("tiers", _tiers) or ()
        factor = section.maybe("factor", lambda value: value.decimal(parse_factor, "1.1"))
        if section.ok:
            try:
                variants.append(Variant(when, per_million, per_unit, tiers, FACTOR_SCALE if factor is None else factor))
            except PriceError as error:
                item.problem(str(error))
    return tuple(variants)


def _tiers(value: Value) -> tuple[Tier, ...]:
    tiers = []
    for item in value.items():
        start = "at_or_above" if "at_or_above" in item.child_names else "above_input_tokens"
        section = item.section(_TIER_KEYS, (start, "per_million"))
        above = section.maybe("above_input_tokens", lambda value: value.whole(1, MAX_TOKENS))
        if start == "at_or_above":
            if above is not None:
                item.problem("a tier begins above a number of input tokens, or at it: give one of the two")
            at = section.maybe("at_or_above", lambda value: value.whole(2, MAX_TOKENS))
            above = None if at is None else at - 1
        rates = section.maybe("per_million", lambda value: _rates(value, TOKEN_CLASSES, "0.15")) or {}
        if section.ok and above is not None:
            tiers.append(Tier(above, rates))
    return tuple(tiers)


def _multipliers(value: Value) -> dict[str, int]:
    section = value.section(MULTIPLIERS)
    read = {name: section.values[name].decimal(parse_factor, "0.5") for name in MULTIPLIERS if name in section.values}
    return {name: factor for name, factor in read.items() if factor is not None}


def _part_tokens(value: Value) -> dict[str, int]:
    section = value.section(PART_KINDS)
    read = {name: section.values[name].whole(1, MAX_TOKENS) for name in PART_KINDS if name in section.values}
    return {name: tokens for name, tokens in read.items() if tokens is not None}


def _tool_call_tokens(value: Value) -> dict[str, int]:
    """Return the most input tokens that one call of a tool adds, by the tool's type; a number alone is that of all."""
    if not value.is_mapping:
        tokens = value.whole(0, MAX_TOKENS)
        return {} if tokens is None else {ANY_TOOL: tokens}
    entries = value.entries()
    if len(entries) > MAX_TOOL_TYPES:
        value.problem(f"at most {MAX_TOOL_TYPES} types of tools")
    read = {name: each.whole(0, MAX_TOKENS) for name, each in entries.items()}
    return {name: tokens for name, tokens in read.items() if tokens is not None}
