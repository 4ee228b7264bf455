"""All price rows, found by provider, model and day. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from billing.pricing.rows import ANY_MODEL, PriceRow
from billing.pricing.scales import PriceError

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
