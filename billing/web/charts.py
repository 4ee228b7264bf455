"""Charts of bars, as numbers that a template draws, in whole units of the drawing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from billing.money import ceil_div

WIDTH: Final = 960
# Where bars begin, from the top.
FLOOR: Final = 220
HEIGHT: Final = FLOOR + 30
# Colours that there are: what is beyond is drawn together, in the last one.
MOST_SERIES: Final = 8
OTHER: Final = "others"
# Labels below the bars, at most.
TICKS: Final = 8
# One of so many parts of a bar's place is left free.
GAP: Final = 4
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: which series, from which height on, how high."""

    series: int
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its place, its parts, where it leads to, what it says, and what stands below."""

    x: int
    width: int
    shown: int
    parts: tuple[Part, ...]
    href: str
    label: str
    tick: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the grid and its amount, or a mark at a time and its words."""

    at: int
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn. `series` are the names of its colours."""

    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    marks: tuple[Line, ...]
    series: tuple[str, ...]
    width: int = WIDTH
    height: int = HEIGHT
    floor: int = FLOOR


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one bar is made of: amounts by the name of their series; `mark` is said where something changed in it."""

    amounts: dict[str, int]
    href: str
    label: str
    tick: str
    mark: str = ""


def stacked(buckets: Sequence[Bucket], names: Sequence[str], shown: Sequence[str] | None = None) -> Chart:
    """Return bars of amounts that are not below zero; `names` are the series, the largest first, which are called as
    `shown` says. Lines have their amounts as numbers: whoever draws them says them in a unit."""
    series = tuple(names) if len(names) <= MOST_SERIES else (*names[: MOST_SERIES - 1], OTHER)
    place = {name: min(at, len(series) - 1) for at, name in enumerate(names)}
    top, lines = _grid(max((sum(each.amounts.values()) for each in buckets), default=0))
    count = max(len(buckets), 1)
    every = ceil_div(count, TICKS)
    bars = tuple(
        _bar(each, at * WIDTH // count, (at + 1) * WIDTH // count, top, place, each.tick if at % every == 0 else "")
        for at, each in enumerate(buckets)
    )
    marks = tuple(Line(bar.x, each.mark) for bar, each in zip(bars, buckets, strict=True) if each.mark)
    places = series if shown is None else tuple(OTHER if each == OTHER else shown[names.index(each)] for each in series)
    return Chart(bars, lines, marks, places)


def _bar(bucket: Bucket, x: int, end: int, top: int, place: dict[str, int], tick: str) -> Bar:
    sums: dict[int, int] = {}
    for name, amount in bucket.amounts.items():
        series = place.get(name, MOST_SERIES - 1)  # one of those that the names are too few for
        sums[series] = sums.get(series, 0) + amount
    parts, below = [], 0
    for series, amount in sorted(sums.items()):
        lower, upper = below * FLOOR // top, (below + amount) * FLOOR // top
        below += amount
        if amount:
            height = max(1, upper - lower)  # so that every charge is visible
            parts.append(Part(series, FLOOR - lower - height, height))
    width = end - x
    return Bar(x, width, max(1, width - width // GAP), tuple(parts), bucket.href, bucket.label, tick)


def _grid(most: int) -> tuple[int, tuple[Line, ...]]:
    """Return the amount at the top, and up to five lines at round amounts."""
    if most <= 0:
        return 1, ()
    unit = 10 ** max(0, len(str(most)) - 2)
    step = next(factor * unit * ten for ten in (1, 10, 100) for factor in _STEPS if factor * unit * ten * 4 >= most)
    count = ceil_div(most, step)
    top = count * step
    return top, tuple(Line(FLOOR - at * step * FLOOR // top, str(at * step)) for at in range(1, count + 1))


TREND_WIDTH: Final = 300
TREND_HEIGHT: Final = 60


@dataclass(frozen=True, slots=True)
class TrendBar:
    """A bar of a trend, above its zero or `below` it, and what it says."""

    x: int
    y: int
    width: int
    height: int
    below: bool
    label: str


@dataclass(frozen=True, slots=True)
class Trend:
    """A small chart of one series, whose amounts may be below zero; `zero` is how far down that is."""

    bars: tuple[TrendBar, ...]
    zero: int
    width: int = TREND_WIDTH
    height: int = TREND_HEIGHT


def trend(amounts: Sequence[int], labels: Sequence[str]) -> Trend:
    """Return bars of amounts, with what each says."""
    most, least = max(0, *amounts, 0), min(0, *amounts, 0)
    room, count = max(1, most - least), max(1, len(amounts))
    zero = most * TREND_HEIGHT // room if most or least else TREND_HEIGHT
    bars = []
    for at, (amount, label) in enumerate(zip(amounts, labels, strict=True)):
        x, end = at * TREND_WIDTH // count, (at + 1) * TREND_WIDTH // count
        height = max(1, abs(amount) * TREND_HEIGHT // room) if amount else 0  # so that every amount is visible
        y = min(zero, TREND_HEIGHT - 1) if amount < 0 else max(0, zero - height)
        bars.append(TrendBar(x, y, max(1, (end - x) - (end - x) // GAP), height, amount < 0, label))
    return Trend(tuple(bars), zero)
