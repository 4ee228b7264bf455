"""What a price row says, as canonical JSON, and the id that is a digest of it. Pure.

This file owns that equal rows have equal ids on every gateway and in every release: what only newer rows have is left
out where a row has none of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.prices import PriceRow
    from billing.rates import Tier

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


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
