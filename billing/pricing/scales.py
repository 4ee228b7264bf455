"""The scales of prices and exact costs, markups, and how a cost is rounded. Pure."""

from __future__ import annotations

from typing import Final

from billing.errors import MetergateError
from billing.money import USD_DECIMALS, MoneyError, ceil_div, decimal, format_usd, parse_usd

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
