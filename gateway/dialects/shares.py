"""Parts of a count: cut down to their whole, and shared out where a provider does not say whose they are. Pure.

This file owns the two rules of `docs/providers.md` for counts that say too little or too much, and how a count that no
reader knows is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_MARK: Final = "token"
# Of one answer that are told.
MAX_ANOMALIES: Final = 8
# What of a usage could not be placed (`field`, `total`), and the name that it has there.
Anomaly = tuple[str, str]
# Of the anomaly `total`: the answer counts in total what none of its parts is. Some providers count thinking so.
MORE_IN_TOTAL: Final = "total_tokens above all that is named"


def cut_down(whole: int, parts: Iterable[int]) -> list[int]:
    """Return the parts in order, each cut down to what is left of the whole."""
    kept = []
    for part in parts:
        kept.append(min(part, whole))
        whole -= kept[-1]
    return kept


def shared_out(count: int, **shares: int) -> dict[str, int]:
    """Return how many of each share are meant by a count of all of them: the first ones first."""
    return dict(zip(shares, cut_down(count, shares.values()), strict=True))


def is_zero(count: object) -> bool:
    """Return whether a count is present and zero."""
    return type(count) is int and count == 0


def unknown_counts(counts: Mapping[str, Any], known: Collection[str], within: str = "") -> Iterator[Anomaly]:
    """Yield the names of counts of tokens above zero that are not `known`, in a usage object and its details."""
    for name, value in counts.items():
        if isinstance(value, dict):
            yield from unknown_counts(value, known, f"{name}.") if not within else ()
        elif type(value) is int and value > 0 and name not in known and _MARK in name.lower():
            yield "field", within + name
