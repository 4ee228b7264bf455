"""prices.yaml into a `PriceTable`. The rows' own rules are `billing.prices`'; this file owns how the file says them.

A row's keys are named relative to the row, whose line says which one it is.
"""

from collections.abc import Collection
from datetime import date
from typing import Final

from billing.money import MoneyError, parse_usd
from billing.prices import (
    MULTIPLIERS,
    PART_KINDS,
    TOKEN_CLASSES,
    UNIT_CLASSES,
    PriceError,
    PriceRow,
    PriceTable,
    Tier,
    parse_factor,
)
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
    "max_output_tokens",
    "context_window",
    "hidden_reasoning",
)


def read_prices(at: Value) -> PriceTable:
    """The table of all rows that can be read; every other row, and one that stands there twice, is a problem."""
    rows: list[PriceRow] = []
    lines: dict[tuple[str, str, date], int] = {}
    for item in at.items():
        value = Value(item.file, "", item.node, item.line)
        row = _read_row(value)
        if row is None:
            continue
        name = (row.provider, row.model, row.effective_from)
        if name in lines:
            value.problem(f"{row.provider}/{row.model} from {row.effective_from} stands in line {lines[name]} already")
            continue
        lines[name] = value.line
        rows.append(row)
    return PriceTable(rows)


def _read_row(value: Value) -> PriceRow | None:
    section = value.section(_ROW_KEYS, ("provider", "model", "effective_from"))
    provider, model = section.read("provider", Value.text, ""), section.read("model", Value.text, "")
    effective_from = section.maybe("effective_from", Value.day)
    per_million = section.maybe("per_million", lambda said: _rates(said, TOKEN_CLASSES, "0.15")) or {}
    per_unit = section.maybe("per_unit", lambda said: _rates(said, UNIT_CLASSES, "0.04")) or {}
    tiers = section.maybe("tiers", _tiers) or ()
    multipliers = section.maybe("multipliers", _multipliers)
    part_tokens = section.maybe("part_tokens", _part_tokens)
    max_output_tokens = _tokens(section, "max_output_tokens")
    context_window = _tokens(section, "context_window")
    hidden_reasoning = section.read("hidden_reasoning", Value.truth, False)
    if not section.ok or effective_from is None:
        return None
    try:
        return PriceRow(
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
        )
    except PriceError as error:
        value.problem(str(error))
        return None


def _tokens(section: Section, name: str) -> int | None:
    return section.maybe(name, lambda said: said.whole(1, MAX_TOKENS))


def parse_rate(said: object) -> int:
    """Nano-USD of a decimal string of USD that is not below zero. Raises `MoneyError`."""
    nano = parse_usd(said)
    if nano < 0:
        raise MoneyError("a price is not below zero")
    return nano


def _rates(value: Value, classes: Collection[str], example: str) -> dict[str, int]:
    section = value.section(classes)
    rates = {name: section.values[name].decimal(parse_rate, example) for name in classes if name in section.values}
    return {name: rate for name, rate in rates.items() if rate is not None}


def _tiers(value: Value) -> tuple[Tier, ...]:
    tiers = []
    for item in value.items():
        section = item.section(("above_input_tokens", "per_million"), ("above_input_tokens", "per_million"))
        above = section.maybe("above_input_tokens", lambda said: said.whole(1, MAX_TOKENS))
        rates = section.maybe("per_million", lambda said: _rates(said, TOKEN_CLASSES, "0.15")) or {}
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
