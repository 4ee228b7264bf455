"""Charts of bars, as numbers that a template draws: across in hundredths of a percent, so that a chart is as wide as
its page, down in pixels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from billing.money import ceil_div

# The whole width, of which a template makes percents.
WIDTH: Final = 100_00
# How far down bars stand, and what is below for the times.
FLOOR: Final = 220
HEIGHT: Final = FLOOR + 24
# Room above the highest line, for its amount.
HEAD: Final = 8
# Colours that there are: what is beyond is drawn together, in the last one.
MOST_SERIES: Final = 8
OTHER: Final = "others"
# Times below the bars, at most. Narrow pages show each other one.
TICKS: Final = 8
# One of so many parts of a bar's place is left free.
GAP: Final = 4
# The widest that a bar becomes where there are few.
MOST_WIDE: Final = 8_00
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: which series, from which height on, how high."""

    series: int
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its place, where in it the bar stands, its parts, where it leads to, and what stands below. `label` says
    all of it in a line; `said` has its parts for who points at it, each with its series, the uppermost first."""

    x: int
    width: int
    left: int
    shown: int
    parts: tuple[Part, ...]
    href: str
    title: str
    label: str
    said: tuple[tuple[int, str, str], ...]
    tick: str
    often: bool
    mark: str

    @property
    def middle(self) -> int:
        """Return where its middle is."""
        return self.x + self.width // 2


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the grid and its amount."""

    at: int
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """A colour of the chart, its number among all: `key` is what amounts have it by, `name` what it is called."""

    at: int
    key: str
    name: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn."""

    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    series: tuple[Series, ...]
    height: int = HEIGHT
    floor: int = FLOOR
    head: int = HEAD


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one bar is made of: amounts by the key of their series; `mark` says what changed in its time, and `more`
    what else there is to say."""

    amounts: dict[str, int]
    href: str
    title: str
    tick: str
    mark: str = ""
    more: str = ""


def stacked(
    buckets: Sequence[Bucket],
    names: Sequence[tuple[str, str]],
    say: Callable[[int], str] = "{:,}".format,
    hidden: Collection[str] = (),
) -> Chart:
    """Return bars of amounts that are not below zero. `names` are the keys of the series and what they are called, the
    largest first; those in `hidden` are left out. `say` makes words of an amount."""
    few = names if len(names) <= MOST_SERIES else (*names[: MOST_SERIES - 1], (OTHER, OTHER))
    series = tuple(Series(at, key, name, key in hidden) for at, (key, name) in enumerate(few))
    place = {key: min(at, len(series) - 1) for at, (key, _) in enumerate(names)}
    sums = [_sums(each, place, series) for each in buckets]
    top, lines = _grid(max((sum(each.values()) for each in sums), default=0), say)
    count, drawn = max(len(buckets), 1), _Drawn(top, series, say)
    every = ceil_div(count, TICKS)
    bars = tuple(
        drawn.bar(bucket, sums[at], (at * WIDTH // count, (at + 1) * WIDTH // count), at // every, at % every == 0)
        for at, bucket in enumerate(buckets)
    )
    return Chart(bars, lines, series)


def _sums(bucket: Bucket, place: dict[str, int], series: tuple[Series, ...]) -> dict[int, int]:
    """Return the amounts of a bar by the number of their series, without those that are hidden or nothing."""
    sums: dict[int, int] = {}
    for key, amount in bucket.amounts.items():
        at = place.get(key, len(series) - 1)  # one of those that the names are too few for
        if amount and not series[at].hidden:
            sums[at] = sums.get(at, 0) + amount
    return dict(sorted(sums.items()))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What all bars of a chart share: the amount at the top, the series, and how amounts are said."""

    top: int
    series: tuple[Series, ...]
    say: Callable[[int], str]

    def bar(self, bucket: Bucket, sums: dict[int, int], place: tuple[int, int], number: int, ticks: bool) -> Bar:
        """Return a bar at its place; it is the one of the tick of a `number`, if it has one."""
        parts, below = [], 0
        room = FLOOR - HEAD
        for at, amount in sums.items():
            lower, upper = below * room // self.top, (below + amount) * room // self.top
            below += amount
            height = max(1, upper - lower)  # so that every charge is visible
            parts.append(Part(at, FLOOR - lower - height, height))
        x, end = place
        width = end - x
        shown = max(1, min(width - width // GAP, MOST_WIDE))
        said = tuple((at, self.series[at].name, self.say(amount)) for at, amount in reversed(sums.items()))
        whole = ", ".join(each for each in (self.say(below), bucket.more) if each)
        each = "; ".join(f"{name} {amount}" for _, name, amount in said) if len(self.series) > 1 else ""
        label = ". ".join(part for part in (f"{bucket.title}: {whole}", each, bucket.mark) if part)
        tick, often = (bucket.tick, number % 2 == 1) if ticks else ("", False)
        left = x + (width - shown) // 2
        title = f"{bucket.title}: {whole}"
        return Bar(x, width, left, shown, tuple(parts), bucket.href, title, label, said, tick, often, bucket.mark)


def _grid(most: int, say: Callable[[int], str]) -> tuple[int, tuple[Line, ...]]:
    """Return the amount at the top, and up to five lines at round amounts, of which the lowest is at none."""
    if most <= 0:
        return 1, (Line(FLOOR, say(0)),)
    unit = 10 ** max(0, len(str(most)) - 2)
    step = next(factor * unit * ten for ten in (1, 10, 100) for factor in _STEPS if factor * unit * ten * 4 >= most)
    count = ceil_div(most, step)
    top, room = count * step, FLOOR - HEAD
    return top, tuple(Line(FLOOR - at * step * room // top, say(at * step)) for at in range(count + 1))


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


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of the span: its change against the period before, and how it went over time. `mood` is what the change
    means."""

    label: str
    value: Any
    kind: str
    change: str
    mood: str
    trend: Trend
    href: str


def rise_of(now: int, before: int) -> int | None:
    """Return by how many percent something has risen, rounded; None where it came from nothing."""
    return None if before <= 0 else ((now - before) * 200 + before) // (2 * before)
