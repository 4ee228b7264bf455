"""Rates: the classes that usage is priced in, tiers and variants of a price row, and their checks. Pure.

The scales of exact costs, and how one is rounded, stand here too. `billing.sheets` makes one sheet of a row's rates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from billing.errors import MetergateError
from billing.money import MoneyError, ceil_div, parse_usd

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
"""A class without a price of its own takes its parent's."""
INPUT_CLASSES: Final = (
    *("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input", "video_input"),
    *("cached_audio_input", "cached_image_input"),
)
OUTPUT_CLASSES: Final = ("output", "reasoning", "audio_output", "image_output", "video_output")
TOKEN_CLASSES: Final = INPUT_CLASSES + OUTPUT_CLASSES
UNIT_CLASSES: Final = ("request", "image", "second", "hour", "character", "search", "page", "unit", "million")
"""`hour` is a price of the class `second` where a provider names it by the hour, `million` one of the class `unit`
where one of them costs less than a nano-USD; a row has one of the two."""
NAMED_UNITS: Final = re.compile(r"(?:call|image)(?:\.[a-z0-9_:-]{1,40}){1,3}", re.ASCII)
"""Units with names of their own, as in `billing.usage`: `call.file_search`, `image.1024x1024.high`."""
MULTIPLIERS: Final = ("batch", "flex", "priority")
STANDARD_TIERS: Final = frozenset({"default", "standard", "auto", "on_demand", "scale", "standard_only"})
"""Service tiers at the standard price."""
STANDARD_SPEEDS: Final = frozenset({"standard", "default"})
STANDARD_REGIONS: Final = frozenset({"global", "default", "not_available"})
TIER_NAMES: Final = {"fast": "priority", "on_demand_priority": "priority", "on_demand_flex": "flex"}
"""Other names of service tiers (OpenAI's `fast` is answered as `priority`; Google's `trafficType`)."""
ASKED_FOR: Final = frozenset({"service_tier", "processing", "speed"})
"""Conditions that a request asks for; a hold counts on them only where it does."""
CONDITIONS: Final = ("service_tier", "processing", "speed", "region", "utc_hours")

MILLION: Final = 1_000_000
FACTOR_SCALE: Final = 10**9
"""Multipliers and markups are decimals of at most nine places, held as integers times this."""
MINUTES_OF_DAY: Final = 24 * 60
MAX_VARIANTS: Final = 64
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_VALUE: Final = re.compile(r"[A-Za-z0-9_./-]{1,64}", re.ASCII)
EIGHTEENTHS: Final = 18
"""What makes a millisecond of a price by the hour a whole number: 18 / 3.6 is 5."""
COST_SCALE: Final = EIGHTEENTHS * MILLION * FACTOR_SCALE
"""An exact cost is an integer in nano-USD / COST_SCALE."""
_REPORTED_DECIMALS: Final = 24


class PriceError(MetergateError, ValueError):
    """A price row that says something impossible; the message names the field and what was expected."""


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
    whole = 100 * FACTOR_SCALE
    return ceil_div(cost_scaled * (whole + markup_scaled), COST_SCALE * whole)
