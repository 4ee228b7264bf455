"""Money: whole nano-USD inside, decimal strings at the edges; no float ever holds money.

One nano-USD is 1e-9 USD. Balances and single transfers stay within `MAX_NANO` (2**53 - 1, about 9.007 million USD),
inside which the doubles of Redis's Lua are exact. Everything here is pure.
"""

import re
from typing import Final

from billing.errors import MetergateError

NANO_PER_USD: Final = 1_000_000_000
NANO_PER_CENT: Final = 10_000_000
DEFAULT_PRIORITY: Final = 50
# Of credit, among the lots of an account: the lowest is drawn first.
MOST_PRIORITY: Final = 100
USD_DECIMALS: Final = 9
MAX_NANO: Final = 2**53 - 1

_DECIMAL = re.compile(r"(?P<sign>-?)(?P<whole>\d{1,10})(?:\.(?P<fraction>\d{1,9}))?", re.ASCII)


class MoneyError(MetergateError, ValueError):
    """An amount that is not a decimal string of USD, or is out of bounds. The message is fit for a reader."""


def parse_usd(text: object) -> int:
    """Parse nano-USD from a decimal string of USD such as `"12.50"`: at most 9 decimals, no exponent, no sign but `-`.

    Raises `MoneyError` for anything else: numbers (a float is never money), empty strings, amounts beyond `MAX_NANO`.
    """
    if not isinstance(text, str):
        raise MoneyError(f'an amount is a decimal string of USD such as "12.50", not {type(text).__name__}')
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise MoneyError('an amount is a decimal string of USD with at most 9 decimals, such as "12.50"')
    fraction = (match["fraction"] or "").ljust(USD_DECIMALS, "0")
    nano = int(match["whole"]) * NANO_PER_USD + int(fraction)
    return check_bound(-nano if match["sign"] else nano)


def parse_positive_usd(text: object) -> int:
    """Parse as `parse_usd`, for amounts that must be above zero. Raises `MoneyError`."""
    nano = parse_usd(text)
    if nano <= 0:
        raise MoneyError("the amount must be above zero")
    return nano


def check_bound(nano: int) -> int:
    """Return `nano`. Raises `MoneyError` unless it is within ±`MAX_NANO`."""
    if not -MAX_NANO <= nano <= MAX_NANO:
        raise MoneyError(f"an amount or balance is bounded by {format_usd(MAX_NANO)} USD")
    return nano


def format_usd(nano: int) -> str:
    """Return a plain decimal of USD with at least two decimals and no exponent: 12_500_000_000 -> `"12.50"`."""
    if nano < 0:
        return "-" + format_usd(-nano)
    digits = f"{nano:010d}"
    return f"{digits[:-9]}.{digits[-9:-7]}{digits[-7:].rstrip('0')}"


def format_cents(cents: int) -> str:
    """Return an amount in cents as a decimal of USD."""
    return format_usd(cents * NANO_PER_CENT)


def format_credits(nano: int, credits_per_usd: int) -> str:
    """Return an amount in credits as a plain decimal: with 1000 credits a USD, 12_500_000_000 -> `"12500"`."""
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano) * credits_per_usd, NANO_PER_USD)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def decimal(scaled: int, decimals: int) -> str:
    """Return a plain decimal of an integer that is not below zero and is scaled by 10^`decimals`."""
    if not decimals:
        return str(scaled)
    whole, fraction = divmod(scaled, 10**decimals)
    digits = f"{fraction:0{decimals}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def ceil_div(numerator: int, denominator: int) -> int:
    """Return the quotient rounded up; `denominator` is above zero."""
    return -(-numerator // denominator)


MILLION: Final = 1_000_000
_SHARE: Final = re.compile(r"(0?\.\d{1,6}|0|1(?:\.0{1,6})?)", re.ASCII)


def parse_share(text: str) -> int:
    """Return millionths of a decimal above 0 to 1, such as "0.25". Raises `ValueError`."""
    if not _SHARE.fullmatch(text):
        raise ValueError("expected a decimal above 0 to 1 with at most 6 decimals")
    whole, _, decimals = text.partition(".")
    millionths = int(whole or "0") * MILLION + int(decimals.ljust(6, "0"))
    if millionths == 0:
        raise ValueError("a share must be above zero")
    return millionths
