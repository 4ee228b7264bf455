"""What a budget is, its periods, which threshold is crossed, and what will be spent by the end. Pure.

BudgetError
+-- BudgetNotFound   none of this account's
+-- BudgetRefused    one can't be as asked
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError
from billing.ledger.sums import BEGINNING, END, UsedBy
from billing.money import MAX_NANO, ceil_div
from billing.times import Period, day_begins, period_of, periods

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

DEFAULT_THRESHOLDS: Final = (50, 80, 100)
MOST_THRESHOLDS: Final = 10
MOST_PERCENT: Final = 1000
MOST_NOTIFIED: Final = 10
# Whole days before today that a forecast goes by.
HISTORY_DAYS: Final = 7
_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)


class BudgetError(MetergateError):
    """What was asked of a budget was not done."""


class BudgetNotFound(BudgetError):
    """There is no such budget."""

    kind = "not_found"


class BudgetRefused(BudgetError):
    """A budget can't be as asked; `field` names what of it is wrong."""

    kind = "invalid"


class Subject(Enum):
    """The account, key, user or tag whose spending a budget limits."""

    account = "account"
    key = "key"
    user = "user"
    tag = "tag"


class BudgetPeriod(Enum):
    """For how long the amount is; each but `total` is a calendar one, in the account's time zone."""

    day = "day"
    week = "week"
    month = "month"
    total = "total"


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """What a budget says. `about` is the id of the key or user, `NAME=VALUE` of a tag, and empty for the account;
    `thresholds` are percents of the amount, rising; `notify` addresses of members who are mailed, and none the owners
    and admins. Raises `BudgetRefused` for what can't be."""

    subject: Subject
    about: str
    period: BudgetPeriod
    amount_nano: int
    thresholds: tuple[int, ...] = DEFAULT_THRESHOLDS
    notify: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name, is_pair, value = self.about.partition("=")
        if (self.subject is Subject.account) != (not self.about):
            rule = "must be absent for the account" if self.about else "must name the key or user"
            raise BudgetRefused(f"subject_id {rule}.", "subject_id")
        if self.subject is Subject.tag and not (name and is_pair and value):
            raise BudgetRefused("tag must be a tag's name and value, such as team=a.", "tag")
        if not 0 < self.amount_nano <= MAX_NANO:
            raise BudgetRefused("amount_usd must be above zero.", "amount_usd")
        if not 1 <= len(self.thresholds) <= MOST_THRESHOLDS or list(self.thresholds) != sorted(set(self.thresholds)):
            raise BudgetRefused(f"thresholds must be 1 to {MOST_THRESHOLDS} different percents, rising.", "thresholds")
        if not all(1 <= each <= MOST_PERCENT for each in self.thresholds):
            raise BudgetRefused(f"thresholds must be percents from 1 to {MOST_PERCENT}.", "thresholds")
        if len(self.notify) > MOST_NOTIFIED:
            raise BudgetRefused(f"notify has at most {MOST_NOTIFIED} addresses.", "notify")

    @property
    def tag(self) -> tuple[str, str] | None:
        """Return the tag's name and value, None for another subject."""
        name, _, value = self.about.partition("=")
        return (name, value) if self.subject is Subject.tag else None

    @property
    def only(self) -> UsedBy:
        """Return whose usage counts, but for a tag."""
        return UsedBy(
            key_id=self.about if self.subject is Subject.key else None,
            user_id=self.about if self.subject is Subject.user else None,
        )


@dataclass(frozen=True, slots=True)
class Times:
    """The period that a moment lies in, by its name, and the local days before that moment's own, from `days[0]` on:
    the last of `days` is where that day begins. Times are of UTC; a total one ends at `ledger.used.END`."""

    name: str
    start: datetime
    now: datetime
    end: datetime
    days: tuple[datetime, ...]

    @property
    def bounds(self) -> list[datetime]:
        """Return where a sum has to begin or end."""
        return sorted({self.start, self.end, *self.days})


def times_of(period: BudgetPeriod, zone: ZoneInfo, now: datetime) -> Times:
    """Return the period of a budget that a moment lies in."""
    today = period_of(now, Period.day, zone)
    first = today.astimezone(zone).date()
    days = sorted({day_begins(first - timedelta(days=back), zone) for back in range(HISTORY_DAYS + 1)})
    if period is BudgetPeriod.total:
        return Times("total", BEGINNING, now, END, tuple(days))
    kind = Period[period.value]
    start = period_of(now, kind, zone)
    end = next(periods(now, kind, zone))
    return Times(start.astimezone(zone).date().isoformat(), start, now, end, tuple(days))


def spent_within(times: Times, spent_nano: Sequence[int]) -> tuple[int, list[int]]:
    """Return what was spent in the period, and in each of the whole days before this one, of what was spent between
    each two of `times.bounds`."""
    bounds = times.bounds

    def between(since: datetime, until: datetime) -> int:
        return sum(spent_nano[bounds.index(since) : bounds.index(until)])

    days = [between(*pair) for pair in zip(times.days, times.days[1:], strict=False)]
    return between(times.start, times.end), days


def forecast(spent_nano: int, days_nano: Sequence[int], times: Times) -> int | None:
    """Return what will be spent by the period's end, rounded up; None for one without an end.

    What was spent, and for what is left of the period the mean of the last `HISTORY_DAYS` whole days, of which those
    before the first one with any use do not count: of what is new there are fewer. Without such a day: as if as much
    were spent in each moment as in the period until now.
    """
    if times.end == END:
        return None
    left, passed = (times.end - times.now) // _MICROSECOND, (times.now - times.start) // _MICROSECOND
    used = next((at for at, day in enumerate(days_nano) if day), None)
    if used is not None:
        known = days_nano[used:]
        return spent_nano + ceil_div(sum(known) * left, len(known) * (_DAY // _MICROSECOND))
    return ceil_div(spent_nano * (passed + left), passed) if passed > 0 else spent_nano


def crossed(terms: BudgetTerms, spent_nano: int) -> int:
    """Return the highest threshold, in percent, that was reached; 0 for none."""
    return max((each for each in terms.thresholds if spent_nano * 100 >= terms.amount_nano * each), default=0)


def percent(terms: BudgetTerms, spent_nano: int) -> int:
    """Return how much of the amount is spent, in whole percents, rounded down."""
    return spent_nano * 100 // terms.amount_nano


def utc(at_s: float) -> datetime:
    """Return Unix seconds as a time of UTC."""
    return datetime.fromtimestamp(at_s, UTC)
