"""Medians, percentiles and ratios. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure of several rounds: its median and extremes."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises `ValueError` for no values."""
        if not values:
            raise ValueError("a figure needs at least one round")
        return cls(median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all are not above; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """Each round's value over its own base; rounds are in the same order."""
    return [value / base for value, base in zip(values, bases, strict=True) if base]
