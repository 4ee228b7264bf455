"""What usage costs: price rows, the table of them, and the exact arithmetic of a charge. Pure.

A rate is a whole number of nano-USD per million (tokens), per unit or per hour; a cost is summed exactly as an integer
over `COST_SCALE` and rounded up once.

A row's standard prices, its tiers and its variants make one sheet of rates for one request. For each class the first
variant that applies and names it decides, with that variant's own tiers; else the standard price does, with the
standard tiers. A class that has no price then takes its parent's. A variant with a `factor` multiplies every token rate
of the sheet; fees by the unit stay.

A row's id is a digest of what it says as canonical JSON, so that an edited file adds a row and never changes one that
has priced a debit. Equal rows have equal ids on every gateway and in every release: what only newer rows have is left
out where a row has none of it.

TrialRefused         the counts can't be a usage
+-- NoSuchPrice      no row is meant by the name, or more than one
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Final

from billing.errors import MetergateError
from billing.money import USD_DECIMALS, MoneyError, ceil_div, decimal, format_usd, parse_usd
from billing.usage import COUNT_NAMES, Usage, UsageError

MILLION: Final = 1_000_000
# Multipliers and markups are decimals of at most nine places, held as integers times this.
FACTOR_SCALE: Final = 10**9
# Decimals that a markup in percent adds to what it is put on.
MARKUP_DECIMALS: Final = len(str(100 * FACTOR_SCALE)) - 1
# What makes a millisecond of a price by the hour a whole number: 18 / 3.6 is 5.
EIGHTEENTHS: Final = 18
# An exact cost is an integer in nano-USD / COST_SCALE.
COST_SCALE: Final = EIGHTEENTHS * MILLION * FACTOR_SCALE
_REPORTED_DECIMALS: Final = 24


class PriceError(MetergateError, ValueError):
    """A price row that is impossible; the message names the field and what was expected."""


def parse_factor(text: object) -> int:
    """Return a multiplier or a percentage from a decimal string ("0.5"), times `FACTOR_SCALE`. Raises `PriceError`."""
    try:
        scaled = parse_usd(text)
    except MoneyError as error:
        raise PriceError('expected a decimal string with at most 9 decimals, such as "0.5"') from error
    if scaled < 0:
        raise PriceError("expected a number that is not below zero")
    return scaled


def reported_scaled(usd: str) -> int:
    """Return the exact cost in nano-USD / `COST_SCALE` of a plain decimal of USD with at most 24 decimals."""
    whole, _, fraction = usd.partition(".")
    return int(whole + fraction.ljust(_REPORTED_DECIMALS, "0")) * EIGHTEENTHS


def round_up(cost_scaled: int, markup_scaled: int = 0) -> int:
    """Return whole nano-USD of an exact cost plus a markup in percent (scaled by `FACTOR_SCALE`), rounded up once."""
    if not markup_scaled:
        return ceil_div(cost_scaled, COST_SCALE)
    return ceil_div(marked_up(cost_scaled, markup_scaled), COST_SCALE * 10**MARKUP_DECIMALS)


def marked_up(amount: int, markup_scaled: int) -> int:
    """Return an amount plus a markup in percent (scaled by `FACTOR_SCALE`), exact, times 10^`MARKUP_DECIMALS`."""
    return amount * (100 * FACTOR_SCALE + markup_scaled)


def marked_up_usd(rate_nano: int, markup_scaled: int) -> str:
    """Return a price plus a markup, exact, as a plain decimal of USD with at least two decimals."""
    if not markup_scaled:
        return format_usd(rate_nano)
    whole, _, fraction = decimal(marked_up(rate_nano, markup_scaled), USD_DECIMALS + MARKUP_DECIMALS).partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"


# A class without a price of its own takes its parent's.
PARENT: Final = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "video_input": "image_input",
    "cached_audio_input": "audio_input",
    "cached_image_input": "image_input",
    "reasoning": "output",
    "audio_output": "output",
    "image_output": "output",
    "video_output": "output",
}
INPUT_CLASSES: Final = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "video_input",
    "cached_audio_input",
    "cached_image_input",
)
OUTPUT_CLASSES: Final = ("output", "reasoning", "audio_output", "image_output", "video_output")
TOKEN_CLASSES: Final = INPUT_CLASSES + OUTPUT_CLASSES
# `hour` is a price of the class `second` where a provider names it by the hour, `million` one of the class `unit` where
# one of them costs less than a nano-USD; a row has one of the two.
UNIT_CLASSES: Final = ("request", "image", "second", "hour", "character", "search", "page", "unit", "million")
# Units with names of their own, as in `billing.usage`: `call.file_search`, `image.1024x1024.high`.
NAMED_UNITS: Final = re.compile(r"(?:call|image)(?:\.[a-z0-9_:-]{1,40}){1,3}", re.ASCII)
MULTIPLIERS: Final = ("batch", "flex", "priority")
# Service tiers at the standard price.
STANDARD_TIERS: Final = frozenset({"default", "standard", "auto", "on_demand", "scale", "standard_only"})
STANDARD_SPEEDS: Final = frozenset({"standard", "default"})
STANDARD_REGIONS: Final = frozenset({"global", "default", "not_available"})
# Other names of service tiers (OpenAI's `fast` is answered as `priority`; Google's `trafficType`).
TIER_NAMES: Final = {"fast": "priority", "on_demand_priority": "priority", "on_demand_flex": "flex"}
# Conditions that a request asks for; a hold counts on them only where it does.
ASKED_FOR: Final = frozenset({"service_tier", "processing", "speed"})
CONDITIONS: Final = ("service_tier", "processing", "speed", "region", "utc_hours")


def class_rate(rates: Mapping[str, int], price_class: str) -> int:
    """Return the rate of a class or of its nearest ancestor that has one; zero where none has."""
    name: str | None = price_class
    while name is not None:
        if name in rates:
            return rates[name]
        name = PARENT.get(name)
    return 0


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


PART_KINDS: Final = ("image", "audio_second", "file")
ANY_MODEL: Final = "*"
# In `tool_call_tokens`: every tool that has no entry of its own.
ANY_TOOL: Final = "*"
# The class of a line that is the provider's own cost.
REPORTED: Final = "reported_cost"
# Conditions of answers whose variants a row keeps; providers write them, so that they are bounded.
MAX_KNOWN: Final = 256
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What one provider's model costs from a day on. Rates in nano-USD per million tokens, or per unit. `model` is a
    name, a prefix with `*`, or `*` alone.

    `multipliers` are scaled by `FACTOR_SCALE`; `part_tokens` bounds one image, second of audio or file.
    `cost_reported` says that the provider's own cost is the charge where an answer has it. `hidden_reasoning` says that
    the model bills output that its answer does not show; `tool_call_tokens` bounds what one call of a tool at the
    provider adds to the input, by the tool's type (`*`: any other); `source` is the page of the prices. These three
    price nothing, so that they are no part of `id` and of what the ledger keeps.
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
    variants: tuple[Variant, ...] = ()
    cost_reported: bool = False
    tool_call_tokens: Mapping[str, int] | None = None
    source: str | None = field(default=None, compare=False)
    _id: str = field(default="", init=False, repr=False, compare=False)
    _sheets: dict[str | None, Sheet] = field(default_factory=dict, init=False, repr=False, compare=False)
    _known: dict[tuple[object, ...], str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_standard(self.per_million, self.per_unit, self.tiers)
        self._check_name()
        for name, known in (("multipliers", MULTIPLIERS), ("part_tokens", PART_KINDS)):
            check_amounts(name, getattr(self, name) or {}, known)
            object.__setattr__(self, name, getattr(self, name) or None)  # equal rows are equal in every spelling
        if any(tokens < 0 for tokens in (self.tool_call_tokens or {}).values()):
            raise PriceError("tool_call_tokens must not be below zero")
        for name in ("max_output_tokens", "context_window"):
            bound = getattr(self, name)
            if bound is not None and bound <= 0:
                raise PriceError(f"{name} must be above zero")
        self._check_variants()

    @property
    def id(self) -> str:
        """Return the row's name in the ledger, a digest of what it says; worked out when it is first asked for."""
        if not self._id:
            object.__setattr__(self, "_id", row_id(self))
        return self._id

    def alias(self, model: str) -> PriceRow:
        """Return the same row for another name: what was checked and worked out is shared. Raises `PriceError`."""
        row = copy(self)
        object.__setattr__(row, "model", model)
        row._check_name()
        object.__setattr__(row, "_id", "")
        return row

    def _check_name(self) -> None:
        if not self.provider or not self.model:
            raise PriceError("a price row names a provider and a model")
        if ANY_MODEL in self.model[:-1]:
            raise PriceError("a model is a name, a prefix that ends with one *, or * alone")

    def _check_variants(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise PriceError("two variants apply when the same holds")
        for short in self.multipliers or {}:
            if f"service_tier={short}" in names or f"processing={short}" in names:
                raise PriceError(f"{short} stands in multipliers and in variants")
        # A sheet is made where it is first used, unless a factor may make a rate of it that can't be.
        if any(variant.factor != FACTOR_SCALE for variant in self.variants):  # alone and with every other one
            for variant in self.variants:
                self._sheet(variant.name)
                self._sheet("+".join({variant.name: 0, **{v.name: 0 for v in self.variants if "region" in v.when}}))

    def variant(
        self,
        service_tier: str | None = None,
        processing: str | None = None,
        speed: str | None = None,
        region: str | None = None,
        minute: int = 0,
    ) -> str | None:
        """Return the name of what applies to an answer of these conditions that was admitted in that minute of the UTC
        day, as a debit keeps it; None for the standard price. A service tier that the row does not know is priced as
        the dearest one that it does, and so is a speed or a region."""
        if not self.variants and not self.multipliers:
            return None
        key = service_tier, processing, speed, region, minute
        try:
            return self._known[key]
        except KeyError:
            pass
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        found = self._known[key] = self._variant(service_tier, processing, speed, region, minute)
        return found

    def _variant(
        self, service_tier: str | None, processing: str | None, speed: str | None, region: str | None, minute: int
    ) -> str | None:
        tier = TIER_NAMES.get(service_tier.lower(), service_tier.lower()) if service_tier else None
        if tier == "batch" and processing is None:  # Anthropic names it as a tier
            processing = "batch"
        if tier in STANDARD_TIERS:
            tier = None
        tiers = self._conditions("service_tier") | (self.multipliers or {}).keys() - {"batch"}
        if tier is not None and tier not in tiers and tier != "batch" and tiers:
            tier = self._dearest(tiers, lambda tier: self._variant(tier, None, None, None, 0))
        speeds, regions = self._conditions("speed"), self._conditions("region")
        if speed in STANDARD_SPEEDS:
            speed = None
        elif speed is not None and speeds and speed not in speeds:
            speed = self._dearest(speeds, lambda speed: self._variant(None, None, speed, None, 0))
        if region in STANDARD_REGIONS:
            region = None
        elif region is not None and regions and region not in regions:
            region = self._dearest(regions, lambda region: self._variant(None, None, None, region, 0))
        conditions = {"service_tier": tier, "processing": processing, "speed": speed, "region": region}
        names = [variant.name for variant in self.variants if variant.applies(conditions, minute)]
        short = processing if processing in (self.multipliers or {}) else tier
        if short is not None and short in (self.multipliers or {}):
            names.insert(0, short)
        return "+".join(names) or None

    def _dearest(self, known: Collection[str], variant: Callable[[str], str | None]) -> str | None:
        """Return the dearest of some values of a condition by the variant that each makes; None where that is the
        standard."""

        def price(value: str | None) -> tuple[int, int]:
            sheet = self._sheet(None if value is None else variant(value))
            return sheet.dearest(("output",)) * sheet.factor, sheet.dearest(("input",)) * sheet.factor

        return max((None, *sorted(known)), key=price)

    def _conditions(self, name: str) -> set[str]:
        """Return the values of a condition that variants have."""
        return {variant.when[name] for variant in self.variants if name in variant.when}

    def knows_tier(self, service_tier: str) -> bool:
        """Return whether the row has a price of its own for a service tier."""
        tier = TIER_NAMES.get(service_tier, service_tier)
        return tier in (self.multipliers or {}) or tier in self._conditions("service_tier")

    def unknown(self, service_tier: str | None, speed: str | None, region: str | None) -> list[tuple[str, str]]:
        """Return which conditions that an answer names are neither standard nor in this row, each with its value."""
        tier = None if service_tier is None else service_tier.lower()
        asked = (
            ("service_tier", tier, tier is None or tier in STANDARD_TIERS or tier == "batch" or self.knows_tier(tier)),
            ("speed", speed, speed in STANDARD_SPEEDS or speed in self._conditions("speed")),
            ("region", region, region in STANDARD_REGIONS or region in self._conditions("region")),
        )
        return [(name, value) for name, value, known in asked if value is not None and not known]

    @property
    def changes_at(self) -> tuple[int, ...]:
        """Return the minutes of the UTC day at which a variant begins or ends to apply."""
        hours = (variant.when["utc_hours"] for variant in self.variants if "utc_hours" in variant.when)
        return tuple(sorted({minute for span in hours for minute in parse_hours(span)}))

    def _sheet(self, variant: str | None) -> Sheet:
        sheet = self._sheets.get(variant)
        if sheet is None:
            names = (variant or "").split("+")
            applying = [one for one in self.variants if one.name in names]
            known = self.multipliers or {}
            factor = next((known[name] for name in names if name in known), FACTOR_SCALE)
            if len(self._sheets) >= MAX_KNOWN:
                self._sheets.clear()
            sheet = self._sheets[variant] = Sheet(self.per_million, self.tiers, self.per_unit, applying, factor)
        return sheet

    def rate(self, price_class: str, input_tokens: int) -> int:
        """Return nano-USD per million tokens of a class, for a request with that much input; a class falls to its
        parent."""
        return self._sheet(None).rates(input_tokens)[price_class]

    def lines(self, usage: Usage, variant: str | None = None) -> list[PriceLine]:
        """Return the charge line by line; their sum is `cost_scaled` of the same usage."""
        if self.cost_reported and usage.reported_cost_usd is not None:
            scaled = reported_scaled(usage.reported_cost_usd)
            return [PriceLine(REPORTED, 1, ceil_div(scaled, COST_SCALE), False, scaled)]
        sheet = self._sheets.get(variant) or self._sheet(variant)
        rates, lines = sheet.rates(usage.input_tokens), []
        for price_class, quantity in usage.by_class().items():
            per_million, scale, rate = price_class in rates, EIGHTEENTHS * MILLION, 0
            if per_million:
                rate, scale = rates[price_class], EIGHTEENTHS
            elif price_class == "unit":
                line = sheet.meter_line(quantity)
                if line is not None:
                    lines.append(line)
                continue
            elif price_class != "second":
                rate = sheet.unit(price_class)
            elif "hour" in sheet.units:
                price_class, rate, scale = "hour", sheet.units["hour"], 5
            else:
                rate, scale = sheet.unit("second"), EIGHTEENTHS * 1000
            if rate or per_million:
                amount = quantity * rate * sheet.factor * scale
                lines.append(PriceLine(price_class, quantity, rate, per_million, amount))
        return lines

    def factor(self, variant: str | None) -> int:
        """Return what multiplies a whole charge, scaled by `FACTOR_SCALE`; 1 for a name that the row does not have."""
        return self._sheet(variant).factor

    def cost_scaled(self, usage: Usage, variant: str | None = None) -> int:
        """Return the exact cost in nano-USD / `COST_SCALE`."""
        if (self.cost_reported and usage.reported_cost_usd is not None) or not usage.is_usual:
            return sum(line.amount_scaled for line in self.lines(usage, variant))
        # Most requests: no line to be listed, a few products.
        sheet = self._sheets.get(variant) or self._sheet(variant)
        input_tokens, output_tokens, units = usage.input_tokens, usage.output_tokens, sheet.units
        rates = sheet.rates(input_tokens) if sheet.tiers else sheet.first
        if cached := usage.cached_input_tokens:
            input_tokens -= cached
            cached *= rates["cached_input"]
        if written := usage.cache_write_tokens:
            input_tokens -= written
            written *= rates["cache_write"]
        if reasoning := usage.reasoning_tokens:
            output_tokens -= reasoning
            reasoning *= rates["reasoning"]
        cost = input_tokens * rates["input"] + output_tokens * rates["output"] + cached + written + reasoning
        if units:
            cost += usage.requests * units.get("request", 0) * MILLION
        return cost * sheet.factor * EIGHTEENTHS

    @property
    def untiered_tokens(self) -> int | None:
        """Return up to how much input no tier applies, in any variant; None where there are no tiers."""
        sheets = [self._sheet(name) for name in (None, *(variant.name for variant in self.variants))]
        return min((above for sheet in sheets for above, _ in sheet.tiers), default=None)

    def dearest_nano(self, classes: Iterable[str], *, asked: bool = True, tiered: bool = True) -> int:
        """Return nano-USD per million at the dearest of these classes, tiers and variants: an upper bound for one
        token. With `asked` false, those variants count alone that apply to a request which asks for none; with `tiered`
        false, it is the bound for a request of at most `untiered_tokens` of input."""
        classes = tuple(classes)
        variants = [one for one in self.variants if asked or ASKED_FOR.isdisjoint(one.when)]
        # One that only multiplies multiplies what the others cost, and so is not a rate beside them.
        named = [variant.name for variant in variants if variant.per_million or variant.factor == FACTOR_SCALE]
        rate = max(self._sheet(name).dearest(classes, tiered=tiered) for name in (None, *named))
        factors = [variant.factor for variant in variants]
        return ceil_div(rate * max([FACTOR_SCALE, *factors]) * self._most(), FACTOR_SCALE**2)

    def dearest_unit(self, name: str) -> int:
        """Return nano-USD of one unit at the dearest of its kinds and variants."""
        sheets = [self.per_unit, *(variant.per_unit for variant in self.variants)]
        kinds = f"{name}."
        rate = max([0, *(nano for units in sheets for kind, nano in units.items() if f"{kind}.".startswith(kinds))])
        return ceil_div(rate * self._most(), FACTOR_SCALE)

    def _most(self) -> int:
        return max([FACTOR_SCALE, *(self.multipliers or {}).values()])


def row_id(row: PriceRow) -> str:
    """Return a digest of all that prices and bounds a request: equal rows have equal ids on every gateway."""
    return "price_" + hashlib.sha256(canonical_json(row).encode()).hexdigest()[:24]


def canonical_json(row: PriceRow) -> str:
    """Return the row as canonical JSON: what the ledger keeps, and what its id is a digest of."""
    values: dict[str, object] = {
        "provider": row.provider,
        "model": row.model,
        "effective_from": row.effective_from.isoformat(),
        "per_million_nano": dict(row.per_million),
        "per_unit_nano": dict(row.per_unit),
        "tiers": _tiers_as_json(row.tiers),
        "multipliers": dict(row.multipliers or {}),
        "part_tokens": dict(row.part_tokens or {}),
        "max_output_tokens": row.max_output_tokens,
        "context_window": row.context_window,
    }
    if row.variants:
        values["variants"] = [
            [dict(one.when), dict(one.per_million), dict(one.per_unit), _tiers_as_json(one.tiers), one.factor]
            for one in row.variants
        ]
    if row.cost_reported:
        values["cost"] = "reported"
    return _ENCODER.encode(values)


def _tiers_as_json(tiers: Iterable[Tier]) -> list[list[object]]:
    return [[tier.above_input_tokens, dict(tier.per_million)] for tier in tiers]


def from_canonical_json(text: str) -> PriceRow:
    """Return the row that `canonical_json` wrote."""
    values = json.loads(text)
    return PriceRow(
        provider=values["provider"],
        model=values["model"],
        effective_from=date.fromisoformat(values["effective_from"]),
        per_million=values["per_million_nano"],
        per_unit=values["per_unit_nano"],
        tiers=_tiers_of(values["tiers"]),
        multipliers=values["multipliers"],
        part_tokens=values["part_tokens"],
        max_output_tokens=values["max_output_tokens"],
        context_window=values["context_window"],
        variants=tuple(
            Variant(when, per_million, per_unit, _tiers_of(tiers), factor)
            for when, per_million, per_unit, tiers, factor in values.get("variants", ())
        ),
        cost_reported=values.get("cost") == "reported",
    )


def _tiers_of(values: Iterable[tuple[int, Mapping[str, int]]]) -> tuple[Tier, ...]:
    return tuple(Tier(above, rates) for above, rates in values)


# The provider of a meter's rows in the table of prices: the model is the meter's name.
METER_PROVIDER: Final = "meter"


class PriceTable:
    """All price rows, found by (provider, upstream model) and the day they take effect (00:00 UTC)."""

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        self.rows = tuple(rows)
        self._by_name: dict[tuple[str, str], list[PriceRow]] = {}
        prefixes: dict[str, set[str]] = {}
        for row in sorted(self.rows, key=lambda row: row.effective_from):
            same = self._by_name.setdefault((row.provider, row.model), [])
            if same and same[-1].effective_from == row.effective_from:
                raise PriceError(f"two rows for {row.provider}/{row.model} from {row.effective_from}")
            same.append(row)
            if row.model.endswith(ANY_MODEL):
                prefixes.setdefault(row.provider, set()).add(row.model)
        self._prefixes = {provider: sorted(names, key=len, reverse=True) for provider, names in prefixes.items()}

    def models(self, provider: str) -> list[str]:
        """Return the names of a provider's models that have a row of their own."""
        return [name for owner, name in self._by_name if owner == provider and not name.endswith(ANY_MODEL)]

    def find(self, provider: str, model: str, at_s: float) -> PriceRow | None:
        """Return the row in force at a Unix time: the model's own, else that of the longest prefix of its name, else
        the provider's default row, else None."""
        today = datetime.fromtimestamp(at_s, UTC).date()
        matching = (name for name in self._prefixes.get(provider, ()) if model.startswith(name[:-1]))
        for name in (model, *matching):
            in_force = [row for row in self._by_name.get((provider, name), ()) if row.effective_from <= today]
            if in_force:
                return in_force[-1]
        return None


MINUTE_S: Final = 60
# Of a count: more than any that can be priced.
MAX_DIGITS: Final = 18


class TrialRefused(MetergateError):
    """What was asked to be priced is no usage. The message is fit for a reader."""

    kind = "invalid"


class NoSuchPrice(TrialRefused):
    """No row, or no single one, is meant by a name."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a usage would cost: by this row and variant, in these lines; `cost_nano` is their sum, rounded up once."""

    row: PriceRow
    variant: str | None
    lines: tuple[PriceLine, ...]
    cost_nano: int


def find_row(table: PriceTable, model: str, now_s: float) -> PriceRow:
    """Return the row in force of `provider/model`. Without the provider: of the only one that has a row for that very
    name. Raises `NoSuchPrice`."""
    provider, slash, name = model.partition("/")
    row = table.find(provider, name, now_s) if slash else None
    if row is not None:
        return row
    named = sorted({each.provider for each in table.rows if each.model == model})
    found = [row for each in named if (row := table.find(each, model, now_s)) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        ways = ", ".join(f"{row.provider}/{model}" for row in found)
        raise NoSuchPrice(f"Several providers have {model}: name one of {ways}.")
    known = "See metergate operator price list." if slash else "Name it as provider/model, as price list does."
    raise NoSuchPrice(f"No row prices {model}. {known}")


def usage_of(counts: Sequence[str]) -> Usage:
    """Return the counts of a usage, each `NAME=NUMBER`. Raises `TrialRefused`."""
    values = {}
    for each in counts:
        name, _, number = each.partition("=")
        if name not in COUNT_NAMES:
            raise TrialRefused(f"There is no count {name!r}. Counts are {', '.join(COUNT_NAMES)}.")
        if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
            raise TrialRefused(f"{each!r} is no count: write {name} and a whole number, such as {name}=1000.")
        values[name] = int(number)
    try:
        return Usage(**values)  # type: ignore[arg-type]
    except UsageError as error:
        raise TrialRefused(f"These counts can't be: {error}.") from error


def try_usage(
    row: PriceRow,
    usage: Usage,
    now_s: float,
    service_tier: str | None = None,
    speed: str | None = None,
    region: str | None = None,
) -> Trial:
    """Return what a usage would cost now; tier, speed and region as an answer names them."""
    variant = row.variant(service_tier, None, speed, region, int(now_s // MINUTE_S % MINUTES_OF_DAY))
    return Trial(row, variant, tuple(row.lines(usage, variant)), round_up(row.cost_scaled(usage, variant)))
