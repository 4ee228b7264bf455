"""What was used, by whatever it is grouped: the values that every report of sums is made of. `sums` reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import add, sub
from typing import Final, NamedTuple

from billing.errors import MetergateError

# What usage is grouped by, beside tags, in the order in which `usage_read.sql` has their columns.
DIMENSIONS: Final = ("key", "user", "model", "provider", "endpoint", "feature")
# What a group by the values of a tag begins with: `tag:team`.
TAG: Final = "tag:"
# Stands for the values of a tag beyond the first `TAG_VALUES` of an account. A client's own value that is written so
# has one pair of parentheses more.
OTHERS: Final = "(others)"
# Names of tags that are summed for one account, the first ones: clients choose them.
TAG_NAMES: Final = 16
# Values of one of them that are summed each by itself; the others are summed together.
TAG_VALUES: Final = 1000
MOST_GROUPED: Final = 2
BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)
END: Final = datetime(2200, 1, 1, tzinfo=UTC)

# Of what sums are kept, all of UTC.
MINUTE, HOUR, DAY, MONTH = range(4)
_MONTHLY: Final = timedelta(days=28)
_DAILY: Final = timedelta(hours=23)
_HOURLY: Final = timedelta(hours=1)

# A value for each name that usage is grouped by: None where a request has none.
Group = tuple[str | None, ...]


class UsageQueryError(MetergateError):
    """Usage can't be reported so; `field` names what of the question is wrong."""

    kind = "invalid"

    def __init__(self, message: str, field: str = "group_by") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Grouping:
    """The names that usage is grouped by, in their order: of `DIMENSIONS`, and at most one of a tag."""

    names: tuple[str, ...] = ()
    _tag_at: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or len(self.names) > MOST_GROUPED:
            raise UsageQueryError(f"group_by takes at most {MOST_GROUPED} different names.")
        if len([name for name in self.names if name.startswith(TAG)]) > 1:
            raise UsageQueryError("group_by takes one tag: ask for the other one by itself.")
        for name in self.names:
            if name not in DIMENSIONS and not (name.startswith(TAG) and len(name) > len(TAG)):
                raise UsageQueryError(f"group_by takes {', '.join(DIMENSIONS)}, or {TAG}NAME for a tag, not {name!r}.")
        object.__setattr__(
            self, "_tag_at", next((at for at, name in enumerate(self.names) if name.startswith(TAG)), None)
        )

    @property
    def tag(self) -> str | None:
        """Return the name of the tag that usage is grouped by, None where it is by none."""
        return None if self._tag_at is None else self.names[self._tag_at].removeprefix(TAG)

    @property
    def columns(self) -> tuple[int | None, int | None]:
        """Return the places of the names that are no tag."""
        found = [DIMENSIONS.index(name) + 1 for name in self.names if name in DIMENSIONS]
        return (*found, None, None)[:2]  # type: ignore[return-value]

    def group(self, first: str | None, second: str | None, name: str | None) -> Group:
        """Return the group of values of the columns and of the tag, in the order of the names."""
        match self._tag_at:
            case None:
                return (first or None, second or None)[: len(self.names)]
            case 0:
                return (name, first or None)[: len(self.names)]
        return (first or None, name)


@dataclass(frozen=True, slots=True)
class UsedBy:
    """Whose usage of an account, and of what: None is all."""

    key_id: str | None = None
    user_id: str | None = None
    feature: str | None = None


class Used(NamedTuple):
    """What was used by some requests. `cost_nano` is the providers', `charged_nano` what was charged, `bytes` those of
    traffic, which these sums do not have (`billing.api.usage_reports`)."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    charged_nano: int = 0
    bytes: int = 0

    @property
    def total_tokens(self) -> int:
        """Return input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: "Used", sign: int = 1) -> "Used":
        """Return both together, or without the other where `sign` is -1."""
        return Used._make(map(add if sign > 0 else sub, self, other))


NOTHING: Final = Used()
# What was used in one span of time, by group; groups that used nothing are not there.
Span = dict[Group, Used]


def total(span: Span) -> Used:
    """Return what all groups of a span have used."""
    return Used(*map(sum, zip(NOTHING, *span.values(), strict=True)))


def together(*spans: Span) -> Span:
    """Return what groups have used in several spans of time."""
    found: Span = {}
    for span in spans:
        for group, used in span.items():
            found[group] = found.get(group, NOTHING).plus(used)
    return found


class Piece(NamedTuple):
    """Whole minutes, hours, days or months (0 to 3) of UTC, from one on and before another."""

    granularity: int
    since: datetime
    until: datetime


class Part(NamedTuple):
    """A piece that a span has (`sign` 1) or has too much (-1)."""

    sign: int
    piece: Piece


def compose(bounds: Sequence[datetime]) -> list[list[Part]]:
    """Return the parts of each span between two bounds, which are whole minutes in rising order."""
    typical = (bounds[-1] - bounds[0]) / (len(bounds) - 1)
    level = MONTH if typical >= _MONTHLY else DAY if typical >= _DAILY else HOUR if typical >= _HOURLY else MINUTE
    anchors = [_nearest(bound, level) for bound in bounds]
    steps = [_steps(anchor, bound, level) for anchor, bound in zip(anchors, bounds, strict=True)]
    spans = []
    for index, (since, until) in enumerate(pairwise(anchors)):
        whole = [Part(1, Piece(level, since, until))] if since < until else []
        before = [Part(-part.sign, part.piece) for part in steps[index]]
        spans.append([*whole, *before, *steps[index + 1]])
    return spans


def _steps(anchor: datetime, bound: datetime, level: int) -> list[Part]:
    """Return what lies between a whole unit of a level and a bound, by ever smaller units."""
    parts = []
    for smaller in reversed(range(level)):
        at = _nearest(bound, smaller)
        if at != anchor:
            parts.append(Part(1, Piece(smaller, anchor, at)) if anchor < at else Part(-1, Piece(smaller, at, anchor)))
        anchor = at
    return parts


def _nearest(at: datetime, level: int) -> datetime:
    """Return the beginning of a minute, hour, day or month that is nearest, the earlier one of two."""
    if level == MINUTE:
        return at
    if level == HOUR:
        before = at.replace(minute=0)
        after = before + timedelta(hours=1)
    elif level == DAY:
        before = at.replace(hour=0, minute=0)
        after = before + timedelta(days=1)
    else:
        before = at.replace(day=1, hour=0, minute=0)
        after = (before + timedelta(days=32)).replace(day=1)
    return before if at - before <= after - at else after


def begins(at: datetime, level: int) -> datetime:
    """Return the first beginning of a day or month of UTC that is not before the beginning of an hour."""
    day = at.replace(hour=0)
    if day < at:
        day += timedelta(days=1)
    return day if level == DAY or day.day == 1 else (day.replace(day=1) + timedelta(days=32)).replace(day=1)
