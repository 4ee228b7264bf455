"""Trying a price: which row a name means, and what a usage comes to by it, line by line. Pure.

`metergate operator price try` and the console's page of prices both answer by it.

TrialRefused         the counts can't be a usage
+-- NoSuchPrice      no row is meant by the name, or more than one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError
from billing.pricing.scales import round_up
from billing.pricing.variants import MINUTES_OF_DAY
from billing.usage import COUNT_NAMES, Usage, UsageError

if TYPE_CHECKING:
    from billing.pricing.rows import PriceRow
    from billing.pricing.table import PriceTable
    from billing.pricing.variants import PriceLine

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
