"""The sheet of rates that holds for one request, and the lines of a charge by it. Pure.

This file owns how a row's standard prices, its tiers and its variants make one sheet. For each class the first variant
that applies and names it decides, with that variant's own tiers; else the standard price does, with the standard tiers.
A class that has no price then takes its parent's. A variant with a `factor` multiplies every token rate of the sheet;
fees by the unit stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from billing.money import ceil_div
from billing.rates import EIGHTEENTHS, FACTOR_SCALE, MILLION, PARENT, TOKEN_CLASSES, PriceError, Tier, Variant


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

    def dearest(self, classes: Collection[str]) -> int:
        """Return nano-USD per million tokens at the dearest of these classes and tiers, without `factor`."""
        return max(rates[name] for rates in (self.first, *(dearer for _, dearer in self.tiers)) for name in classes)

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


def class_rate(rates: Mapping[str, int], price_class: str) -> int:
    """Return the rate of a class or of its nearest ancestor that has one; zero where none has."""
    name: str | None = price_class
    while name is not None:
        if name in rates:
            return rates[name]
        name = PARENT.get(name)
    return 0
