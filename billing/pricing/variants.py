"""Variants of a price row, their tiers, and the sheet of rates that holds for one request, with their checks. Pure.

This file owns how a row's standard prices, its tiers and its variants make one sheet. For each class the first variant
that applies and names it decides, with that variant's own tiers; else the standard price does, with the standard tiers.
A class that has no price then takes its parent's (`classes`). A variant with a `factor` multiplies every token rate of
the sheet; fees by the unit stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from billing.money import ceil_div
from billing.pricing.classes import CONDITIONS, NAMED_UNITS, TOKEN_CLASSES, UNIT_CLASSES, class_rate
from billing.pricing.scales import EIGHTEENTHS, FACTOR_SCALE, MILLION, PriceError

MINUTES_OF_DAY: Final = 24 * 60
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_VALUE: Final = re.compile(r"[A-Za-z0-9_./-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that apply to the whole request when its input is above `above_input_tokens`. A provider that counts from N
    on has a tier above N - 1."""

    above_input_tokens: int
    per_million: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.above_input_tokens <= 0:
            raise PriceError("above_input_tokens must be above zero")
        check_rates(self.per_million, TOKEN_CLASSES)


@dataclass(frozen=True, slots=True)
class Variant:
    """Rates that replace the standard ones where all of `when` holds: the service tier, processing, speed and region
    that the answer names, and hours of the UTC day of admission (`"16:30-00:30"`, the end excluded).

    A class that is missing keeps its standard price. `factor`, scaled by `FACTOR_SCALE`, stands in a variant by region
    alone, and multiplies all token rates.
    """

    when: Mapping[str, str]
    per_million: Mapping[str, int] = field(default_factory=dict)
    per_unit: Mapping[str, int] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = ()
    factor: int = FACTOR_SCALE
    name: str = ""

    def __post_init__(self) -> None:
        if not self.when or any(key not in CONDITIONS for key in self.when):
            raise PriceError(f"a variant says when it applies: one or more of {', '.join(CONDITIONS)}")
        for key, value in self.when.items():
            if key == "utc_hours":
                parse_hours(value)
            elif not _VALUE.fullmatch(value):
                raise PriceError(f"{key} of a variant is a name as the provider answers it")
        check_rates(self.per_million, TOKEN_CLASSES)
        check_units(self.per_unit)
        check_tiers(self.tiers)
        if self.factor <= 0 or (self.factor != FACTOR_SCALE and tuple(self.when) != ("region",)):
            raise PriceError("factor is above zero and stands in a variant by region alone")
        for tier in self.tiers:
            if not tier.per_million.keys() <= self.per_million.keys():
                raise PriceError("a tier of a variant has classes that the variant's per_million has")
        object.__setattr__(self, "name", ",".join(f"{key}={self.when[key]}" for key in CONDITIONS if key in self.when))

    def applies(self, conditions: Mapping[str, str | None], minute: int) -> bool:
        """Return whether it holds for an answer of these conditions, admitted in that minute of the UTC day."""
        for key, value in self.when.items():
            if key == "utc_hours":
                begins, ends = parse_hours(value)
                if not (begins <= minute < ends if begins < ends else minute >= begins or minute < ends):
                    return False
            elif conditions.get(key) != value:
                return False
        return True


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of a charge: `amount_scaled` is exact, in nano-USD / `COST_SCALE`. `rate_nano` is per million tokens
    where `per_million` is true, else per unit, per second, or per hour (the class is `hour` then). The quantity of
    seconds and hours is in milliseconds, of units and millions of units in thousandths of a unit. `model` is None
    for the model of the row that the debit names."""

    price_class: str
    quantity: int
    rate_nano: int
    per_million: bool
    amount_scaled: int
    model: str | None = None


class Sheet:
    """The rates of every class, all decided: nano-USD per million tokens, by the input of a request, and per unit.
    `factor` multiplies the whole charge, scaled by `FACTOR_SCALE`."""

    __slots__ = ("factor", "first", "tiers", "units")

    def __init__(
        self,
        per_million: Mapping[str, int],
        tiers: Iterable[Tier],
        per_unit: Mapping[str, int],
        variants: Iterable[Variant] = (),
        factor: int = FACTOR_SCALE,
    ) -> None:
        """Raises `PriceError` where a region's factor makes a rate with more than nine decimals."""
        standard = tuple(tiers)
        own: set[str] = set()
        sources: dict[str, tuple[int, tuple[Tier, ...]]] = {}
        for name in {*per_million, *(name for tier in standard for name in tier.per_million)}:
            sources[name] = per_million.get(name, -1), tuple(tier for tier in standard if name in tier.per_million)
        self.units, self.factor, region = dict(per_unit), factor, FACTOR_SCALE
        for variant in variants:
            for name, rate in variant.per_million.items():
                if name not in own:
                    own.add(name)
                    sources[name] = rate, tuple(tier for tier in variant.tiers if name in tier.per_million)
            for name, rate in variant.per_unit.items():
                if f"unit {name}" not in own:
                    own.add(f"unit {name}")
                    self.units[name] = rate
            if variant.factor != FACTOR_SCALE:
                region = variant.factor
        starts = sorted({tier.above_input_tokens for _, changed in sources.values() for tier in changed})
        self.first = _resolved(sources, 0, region)
        self.tiers = tuple((start, _resolved(sources, start + 1, region)) for start in starts)

    def rates(self, input_tokens: int) -> Mapping[str, int]:
        """Return nano-USD per million tokens of every class, for a request with that much input."""
        rates = self.first
        for above, dearer in self.tiers:
            if input_tokens > above:
                rates = dearer
        return rates

    def unit(self, name: str) -> int:
        """Return nano-USD of one unit; an image of a kind that has no price takes that of the wider kind."""
        while name not in self.units and name.startswith("image."):
            name = name.rpartition(".")[0]
        return self.units.get(name, 0)

    def dearest(self, classes: Collection[str], *, tiered: bool = True) -> int:
        """Return nano-USD per million tokens at the dearest of these classes and tiers, without `factor`; with `tiered`
        false, of a request that reaches no tier."""
        dearer = [rates for _, rates in self.tiers] if tiered else []
        return max(rates[name] for rates in (self.first, *dearer) for name in classes)

    def meter_line(self, quantity: int) -> PriceLine | None:
        """Return the line of what a meter has counted, in thousandths; None where it has no price."""
        for price_class, per in (("unit", 1), ("million", MILLION)):
            if rate := self.units.get(price_class, 0):
                amount = ceil_div(quantity * rate * self.factor * EIGHTEENTHS * MILLION, 1000 * per)
                return PriceLine(price_class, quantity, rate, False, amount)
        return None


def _resolved(sources: Mapping[str, tuple[int, tuple[Tier, ...]]], tokens: int, region: int) -> dict[str, int]:
    """Return the rate of every token class for so much input, its parent's where it has none."""
    known: dict[str, int] = {}
    for name, (rate, tiers) in sources.items():
        for tier in tiers:
            if tokens > tier.above_input_tokens:
                rate = tier.per_million[name]
        if rate >= 0:  # a class that only a tier names has no price below it
            known[name] = rate
    rates = {name: class_rate(known, name) for name in TOKEN_CLASSES}
    if region == FACTOR_SCALE:
        return rates
    if any(rate * region % FACTOR_SCALE for rate in rates.values()):
        raise PriceError("this factor makes a price with more than 9 decimals of USD per million")
    return {name: rate * region // FACTOR_SCALE for name, rate in rates.items()}


def parse_hours(text: str) -> tuple[int, int]:
    """Return the minutes of the UTC day at which hours begin and end. Raises `PriceError`."""
    match = _HOURS.fullmatch(text)
    if match is None:
        raise PriceError('utc_hours is a span of the day in UTC such as "16:30-00:30"')
    numbers = [int(group) for group in match.groups()]
    begins, ends = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
    if begins == ends:
        raise PriceError("utc_hours begins and ends at different minutes")
    return begins, ends


def check_tiers(tiers: Iterable[Tier]) -> None:
    """Raise `PriceError` where tiers do not rise."""
    if any(low.above_input_tokens >= high.above_input_tokens for low, high in pairwise(tiers)):
        raise PriceError("tiers must rise by above_input_tokens")


def check_rates(rates: Mapping[str, int], known: Collection[str]) -> None:
    """Raise `PriceError` for a class that does not exist or a rate below zero."""
    for name, rate in rates.items():
        if name not in known:
            raise PriceError(f"unknown price class {name!r}; known are {', '.join(known)}")
        if rate < 0:
            raise PriceError(f"the price of {name} must not be below zero")


def check_units(rates: Mapping[str, int]) -> None:
    """Raise `PriceError` for a unit that does not exist, a price below zero, or two for the same."""
    check_rates(
        {name: rate for name, rate in rates.items() if rate < 0 or not NAMED_UNITS.fullmatch(name)}, UNIT_CLASSES
    )
    if "second" in rates and "hour" in rates:
        raise PriceError("a price is by the second or by the hour")
    if "unit" in rates and "million" in rates:
        raise PriceError("a price is by the unit or by the million")


def check_standard(per_million: Mapping[str, int], per_unit: Mapping[str, int], tiers: Iterable[Tier]) -> None:
    """Raise `PriceError` for standard prices of a row that can't be."""
    check_rates(per_million, TOKEN_CLASSES)
    check_units(per_unit)
    if not per_million and not per_unit:
        raise PriceError("a price row needs a price: per_million or per_unit")
    check_tiers(tiers)


def check_amounts(what: str, amounts: Mapping[str, int], known: Collection[str]) -> None:
    """Raise `PriceError` for a name that does not exist or an amount that is not above zero."""
    for name, amount in amounts.items():
        if name not in known:
            raise PriceError(f"unknown name {name!r} in {what}; known are {', '.join(known)}")
        if amount <= 0:
            raise PriceError(f"{name} in {what} must be above zero")
