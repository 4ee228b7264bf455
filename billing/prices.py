"""Prices: rows of a provider price table, the exact cost of a usage, and its upper bound. Pure.

This file owns the arithmetic of a charge. A rate is a whole number of nano-USD per million (tokens) or per unit; a cost
is summed exactly as an integer over `COST_SCALE` and rounded up once. A row's id is a digest of what it says, so that
an edited file adds a row and never changes one that has priced a debit.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Final

from billing.errors import MetergateError
from billing.money import MoneyError, ceil_div, parse_usd
from billing.usage import Usage

TOKEN_CLASSES: Final = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
)
UNIT_CLASSES: Final = ("request", "image", "second", "character", "search")
PARENT: Final = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}
"""A class without a price of its own takes its parent's."""
INPUT_CLASSES: Final = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUT_CLASSES: Final = ("output", "reasoning", "audio_output")
MULTIPLIERS: Final = ("batch", "flex", "priority")
PART_KINDS: Final = ("image", "audio_second", "file")

MILLION: Final = 1_000_000
FACTOR_SCALE: Final = 10**9
"""Multipliers and markups are decimals of at most nine places, held as integers times this."""
COST_SCALE: Final = MILLION * FACTOR_SCALE
"""An exact cost is an integer in nano-USD / COST_SCALE."""
ANY_MODEL: Final = "*"


class PriceError(MetergateError, ValueError):
    """A price row that says something impossible; the message names the field and what was expected."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that apply to the whole request when its input is above `above_input_tokens`."""

    above_input_tokens: int
    per_million: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.above_input_tokens <= 0:
            raise PriceError("above_input_tokens must be above zero")
        check_rates(self.per_million, TOKEN_CLASSES)


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of a charge: `amount_scaled` is exact, in nano-USD / `COST_SCALE`."""

    price_class: str
    quantity: int
    rate_nano: int
    per_million: bool
    amount_scaled: int


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What one provider's model costs from a day on. Rates in nano-USD per million tokens, or per unit.

    `multipliers` are scaled by `FACTOR_SCALE`; `part_tokens` bounds one image, second of audio or file.
    `hidden_reasoning` says that the model bills output that its answer does not show. It prices nothing, so that it is
    no part of `id` and of what the ledger keeps.
    """

    provider: str
    model: str
    effective_from: date
    per_million: Mapping[str, int]
    per_unit: Mapping[str, int]
    tiers: tuple[Tier, ...] = ()
    multipliers: Mapping[str, int] | None = None
    part_tokens: Mapping[str, int] | None = None
    max_output_tokens: int | None = None
    context_window: int | None = None
    hidden_reasoning: bool = False
    id: str = ""

    def __post_init__(self) -> None:
        check_rates(self.per_million, TOKEN_CLASSES)
        check_rates(self.per_unit, UNIT_CLASSES)
        if not self.per_million and not self.per_unit:
            raise PriceError("a price row needs a price: per_million or per_unit")
        if not self.provider or not self.model:
            raise PriceError("a price row names a provider and a model")
        if any(low.above_input_tokens >= high.above_input_tokens for low, high in pairwise(self.tiers)):
            raise PriceError("tiers must rise by above_input_tokens")
        for name, known in (("multipliers", MULTIPLIERS), ("part_tokens", PART_KINDS)):
            check_amounts(name, getattr(self, name) or {}, known)
            object.__setattr__(self, name, getattr(self, name) or None)  # equal rows are equal in every spelling
        for name in ("max_output_tokens", "context_window"):
            bound = getattr(self, name)
            if bound is not None and bound <= 0:
                raise PriceError(f"{name} must be above zero")
        object.__setattr__(self, "id", row_id(self))

    def rate(self, price_class: str, input_tokens: int) -> int:
        """Nano-USD per million tokens of a class, for a request with that much input; a class falls to its parent."""
        rates = self.per_million
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens:
                rates = {**rates, **tier.per_million}
        return class_rate(rates, price_class)

    def lines(self, usage: Usage, multiplier: str | None = None) -> list[PriceLine]:
        """The charge line by line; their sum is `cost_scaled` of the same usage."""
        factor = self.factor(multiplier)
        lines = []
        for price_class, quantity in usage.by_class().items():
            per_million = price_class in TOKEN_CLASSES
            rate = self.rate(price_class, usage.input_tokens) if per_million else self.per_unit.get(price_class, 0)
            if not rate and not per_million:
                continue
            amount = quantity * rate * factor * (1 if per_million else MILLION)
            lines.append(PriceLine(price_class, quantity, rate, per_million, amount))
        return lines

    def factor(self, multiplier: str | None) -> int:
        """A multiplier by name, scaled by `FACTOR_SCALE`; one for a name that this row does not have."""
        return (self.multipliers or {}).get(multiplier or "", FACTOR_SCALE)

    def cost_scaled(self, usage: Usage, multiplier: str | None = None) -> int:
        """The exact cost in nano-USD / `COST_SCALE`."""
        if usage.is_plain and not self.tiers:  # most requests: no line to be listed, two products
            rates, units = self.per_million, usage.requests * self.per_unit.get("request", 0) * MILLION
            tokens = usage.input_tokens * rates.get("input", 0) + usage.output_tokens * rates.get("output", 0)
            return (tokens + units) * self.factor(multiplier)
        return sum(line.amount_scaled for line in self.lines(usage, multiplier))

    def dearest_nano(self, classes: Iterable[str]) -> int:
        """Nano-USD per million at the dearest of these classes, tiers and multipliers: an upper bound for one token."""
        sheets = [dict(self.per_million)]
        for tier in self.tiers:
            sheets.append({**sheets[-1], **tier.per_million})
        rate = max(class_rate(sheet, price_class) for sheet in sheets for price_class in classes)
        factor = max([FACTOR_SCALE, *(self.multipliers or {}).values()])
        return ceil_div(rate * factor, FACTOR_SCALE)


def class_rate(rates: Mapping[str, int], price_class: str) -> int:
    """The rate of a class or of its nearest ancestor that has one; zero where none has."""
    name: str | None = price_class
    while name is not None:
        if name in rates:
            return rates[name]
        name = PARENT.get(name)
    return 0


def round_up(cost_scaled: int, markup_scaled: int = 0) -> int:
    """Whole nano-USD of an exact cost plus a markup in percent (scaled by `FACTOR_SCALE`), rounded up once."""
    if not markup_scaled:
        return ceil_div(cost_scaled, COST_SCALE)
    whole = 100 * FACTOR_SCALE
    return ceil_div(cost_scaled * (whole + markup_scaled), COST_SCALE * whole)


def check_rates(rates: Mapping[str, int], known: Iterable[str]) -> None:
    """Raises `PriceError` for a class that does not exist or a rate below zero."""
    for name, rate in rates.items():
        if name not in known:
            raise PriceError(f"unknown price class {name!r}; known are {', '.join(known)}")
        if rate < 0:
            raise PriceError(f"the price of {name} must not be below zero")


def check_amounts(what: str, amounts: Mapping[str, int], known: Collection[str]) -> None:
    """Raises `PriceError` for a name that does not exist or an amount that is not above zero."""
    for name, amount in amounts.items():
        if name not in known:
            raise PriceError(f"unknown name {name!r} in {what}; known are {', '.join(known)}")
        if amount <= 0:
            raise PriceError(f"{name} in {what} must be above zero")


def parse_factor(text: object) -> int:
    """A multiplier or a percentage from a decimal string ("0.5"), times `FACTOR_SCALE`. Raises `PriceError`."""
    try:
        scaled = parse_usd(text)
    except MoneyError as error:
        raise PriceError('expected a decimal string with at most 9 decimals, such as "0.5"') from error
    if scaled < 0:
        raise PriceError("expected a number that is not below zero")
    return scaled


def row_id(row: PriceRow) -> str:
    """A digest of all that prices and bounds a request: equal rows have equal ids on every gateway."""
    return "price_" + hashlib.sha256(canonical_json(row).encode()).hexdigest()[:24]


def canonical_json(row: PriceRow) -> str:
    """The row as canonical JSON: what the ledger keeps, and what its id is a digest of."""
    return json.dumps(
        {
            "provider": row.provider,
            "model": row.model,
            "effective_from": row.effective_from.isoformat(),
            "per_million_nano": dict(row.per_million),
            "per_unit_nano": dict(row.per_unit),
            "tiers": [[tier.above_input_tokens, dict(tier.per_million)] for tier in row.tiers],
            "multipliers": dict(row.multipliers or {}),
            "part_tokens": dict(row.part_tokens or {}),
            "max_output_tokens": row.max_output_tokens,
            "context_window": row.context_window,
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def from_canonical_json(text: str) -> PriceRow:
    """The row that `canonical_json` wrote."""
    said = json.loads(text)
    return PriceRow(
        provider=said["provider"],
        model=said["model"],
        effective_from=date.fromisoformat(said["effective_from"]),
        per_million=said["per_million_nano"],
        per_unit=said["per_unit_nano"],
        tiers=tuple(Tier(above, rates) for above, rates in said["tiers"]),
        multipliers=said["multipliers"],
        part_tokens=said["part_tokens"],
        max_output_tokens=said["max_output_tokens"],
        context_window=said["context_window"],
    )


class PriceTable:
    """All price rows, found by (provider, upstream model) and the day they take effect (00:00 UTC)."""

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        self.rows = tuple(rows)
        self._by_name: dict[tuple[str, str], list[PriceRow]] = {}
        for row in sorted(self.rows, key=lambda row: row.effective_from):
            same = self._by_name.setdefault((row.provider, row.model), [])
            if same and same[-1].effective_from == row.effective_from:
                raise PriceError(f"two rows for {row.provider}/{row.model} from {row.effective_from}")
            same.append(row)

    def find(self, provider: str, model: str, at_s: float) -> PriceRow | None:
        """The row in force at a Unix time: the model's own, else the provider's default row, else None."""
        today = datetime.fromtimestamp(at_s, UTC).date()
        for name in (model, ANY_MODEL):
            in_force = [row for row in self._by_name.get((provider, name), ()) if row.effective_from <= today]
            if in_force:
                return in_force[-1]
        return None
