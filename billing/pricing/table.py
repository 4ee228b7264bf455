"""All price rows, found by provider, model and day; and trying a price: which row a name means, and what a usage costs
by it, line by line. Pure.

TrialRefused         the counts can't be a usage
+-- NoSuchPrice      no row is meant by the name, or more than one
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError
from billing.pricing.rows import ANY_MODEL, MINUTES_OF_DAY, PriceRow
from billing.pricing.scales import PriceError, round_up
from billing.usage import COUNT_NAMES, Usage, UsageError

if TYPE_CHECKING:
    from billing.pricing.rows import PriceLine

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
