"""How amounts and numbers are shown to people: the same in the console and by commands. Pure."""

from collections.abc import Iterable
from typing import Final

from billing.money import NANO_PER_USD, parse_usd

_CENT_NANO: Final = NANO_PER_USD // 100
_CENTS, _SOME, _SHORT, _ALL = 2, 4, 6, 9
# Amounts below a dollar are shown to a hundredth of a cent; below a cent to a millionth of a dollar, or to the first
# digits that there are.
_DIGITS: Final = ((NANO_PER_USD, _CENTS), (_CENT_NANO, _SOME), (10 ** (_ALL - _SHORT), _SHORT))


def usd_text(nano: int, least: int | None = None) -> str:
    """Return an amount as people read it: cents from a dollar on, more digits of less, rounded to the nearest; in a
    column with the column's digits at `least`. Never shows an amount that is there as none."""
    size = abs(nano)
    few = next((digits for least_nano, digits in _DIGITS if size >= least_nano), _ALL)
    step = 10 ** (_ALL - max(few, least or 0))
    rounded = (size + step // 2) // step * step
    whole, fraction = divmod(rounded, NANO_PER_USD)
    least = least or (_CENTS if rounded % _CENT_NANO == 0 else min(few, _SHORT))
    return f"{'-' if nano < 0 else ''}${whole:,}.{f'{fraction:09d}'.rstrip('0').ljust(least, '0')}"


def digits(amounts: Iterable[str | int | None]) -> int:
    """Return how many digits the amounts of one column have after their points, so that they stand below one another:
    as many as the one of them that needs most, from cents to millionths. A smaller amount has more for itself."""
    texts = (usd_text(nano_of(each)) for each in amounts if each not in (None, ""))
    needed = max((len(text.rpartition(".")[2].rstrip("0")) for text in texts), default=0)
    return min(max(needed, _CENTS), _SHORT)


def nano_of(amount: str | int) -> int:
    """Return an amount in nano-USD; of a price with more digits the first nine."""
    if isinstance(amount, int):
        return amount
    whole, point, fraction = amount.partition(".")
    return parse_usd(f"{whole}{point}{fraction[:_ALL]}")


def short_count(number: int) -> str:
    """Return a whole number for where there is little room: 1,234 as it is, then 12.3k, 4.5M, 6.7B."""
    for name, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 10 * 10**3 and number >= size:
            tenths = (number * 10 + size // 2) // size
            return f"{tenths // 10:,}.{tenths % 10}".removesuffix(".0") + name
    return f"{number:,}"
