"""Budgets: sums that an account means to stay within, kept in Postgres and measured by the ledger's sums. They notify,
and refuse nothing: what refuses is a quota of cost. Each threshold of a period has one notice.

No request waits for any of this. A round compares each budget with what was spent about once a minute, in one gateway
of all; the notice and the note that it was written are one transaction.

BudgetError
+-- BudgetNotFound   none of this account's
+-- BudgetRefused    one can't be as asked
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

from billing import audit
from billing.database.connection import Connection, Database, DatabaseError, Row, from_row, queries
from billing.errors import MetergateError
from billing.ledger.sums import BEGINNING, END, OTHERS, TAG, Grouping, UsageQueryError, UsedBy, total
from billing.money import MAX_NANO, ceil_div, format_usd
from billing.notices.emit import emit
from billing.pages import BEFORE_ALL, Page, page_of
from billing.times import DEFAULT_ZONE, Period, day_begins, period_of, periods, rfc3339, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from zoneinfo import ZoneInfo

    from billing.ledger.sums import UsageSums

logger = logging.getLogger(__name__)

ID_PREFIX: Final = "bdg_"
# Budgets of one account.
MOST: Final = 100
# Budgets that one step of a round compares.
COMPARED: Final = 200
ROUND_STEPS: Final = 10
# Budgets of a round that may fail before it is taken for the database's fault, and ends.
MOST_FAILED: Final = 5
# A budget is compared again after as long.
EACH_S: Final = 60.0
DEFAULT_THRESHOLDS: Final = (50, 80, 100)
MOST_THRESHOLDS: Final = 10
MOST_PERCENT: Final = 1000
MOST_NOTIFIED: Final = 10
# Whole days before today that a forecast goes by.
HISTORY_DAYS: Final = 7
_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_query = queries("billing")


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
    the last of `days` is where that day begins. Times are of UTC; a total one ends at `ledger.sums.END`."""

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


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget of an account; `told` is the highest threshold that was told of in the period `told_period`."""

    id: str
    account_id: str
    terms: BudgetTerms
    created_at: datetime
    told_period: str
    told: int


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How a budget stands. `spent_nano` and `forecast_nano` are None where usage is not summed by its tag, `forecast`
    also for a budget without an end."""

    budget: Budget
    times: Times
    spent_nano: int | None
    forecast_nano: int | None

    @property
    def ends_at(self) -> datetime | None:
        """Return where the period ends; None: never."""
        return None if self.times.end == END else self.times.end


class Budgets:
    """Keeps budgets, measures and tells. Methods raise `DatabaseError`."""

    def __init__(
        self, database: Database, sums: UsageSums, new_id: Callable[[], str], clock: Callable[[], float]
    ) -> None:
        """`clock` gives Unix seconds."""
        self._database, self._sums, self._new_id, self._clock = database, sums, new_id, clock

    async def create(self, account_id: str, terms: BudgetTerms, *, actor: audit.Actor) -> Budget:
        """Make a budget. Raises `BudgetRefused`."""
        async with self._database.transaction() as connection:
            await connection.execute(_query("budgets_turn"), account_id)
            if await connection.fetchval(_query("budgets_count"), account_id) >= MOST:
                raise BudgetRefused(f"An account has at most {MOST} budgets: delete one.")
            await _check_known(connection, account_id, terms)
            row = await connection.fetchrow(
                _query("budgets_insert"), ID_PREFIX + self._new_id(), account_id, *_columns(terms)
            )
            made = _budget(cast("Row", row))
            await _record(connection, actor, "budget.create", None, made)
        return made

    async def get(self, budget_id: str, account_id: str) -> Budget:
        """Return a budget. Raises `BudgetNotFound`."""
        return _found(await self._database.row(_query("budgets_get"), budget_id, account_id), budget_id)

    async def page(self, account_id: str, limit: int, after: str | None = None) -> Page[Budget]:
        """Return budgets of an account, newest first; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("budgets_page"), account_id, after or BEFORE_ALL, limit + 1)
        return page_of([_budget(row) for row in rows], limit, lambda each: each.id)

    async def of_account(self, account_id: str) -> list[Budget]:
        """Return the budgets that are about the whole account."""
        return [_budget(row) for row in await self._database.rows(_query("budgets_of_subject"), account_id)]

    async def update(
        self, budget_id: str, account_id: str, change: Callable[[BudgetTerms], BudgetTerms], *, actor: audit.Actor
    ) -> Budget:
        """Change a budget. A threshold that was notified, and that the change keeps for the same sum, is not notified
        again. Raises `BudgetNotFound` and `BudgetRefused`."""
        async with self._database.transaction() as connection:
            before = _found(await connection.fetchrow(_query("budgets_lock"), budget_id, account_id), budget_id)
            terms = change(before.terms)
            await _check_known(connection, account_id, terms)
            row = await connection.fetchrow(_query("budgets_update"), budget_id, account_id, *_columns(terms))
            after = _found(row, budget_id)
            await _record(connection, actor, "budget.update", before, after)
        return after

    async def delete(self, budget_id: str, account_id: str, *, actor: audit.Actor) -> None:
        """Remove a budget. Raises `BudgetNotFound`."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("budgets_delete"), budget_id, account_id)
            await _record(connection, actor, "budget.delete", _found(row, budget_id), None)

    async def statuses(self, budgets: Sequence[Budget], zone: ZoneInfo) -> list[BudgetStatus]:
        """Return how budgets of one account stand, whose days begin in a zone."""
        return [await self._measure(each, zone) for each in budgets]

    async def round(self) -> int:
        """Compare budgets that were not for a while; return how many thresholds were told of. One that fails keeps
        none of the others back, until `MOST_FAILED` have: it is looked at again with the next ones."""
        told, failed = 0, 0
        for _ in range(ROUND_STEPS):
            rows = await self._database.rows(_query("budgets_claim"), EACH_S, COMPARED)
            for row in rows:
                try:
                    told += await self._compare(_budget(row), zone_of(row["tz"] or DEFAULT_ZONE), row["looked_at"])
                except DatabaseError as error:
                    failed += 1
                    if failed >= MOST_FAILED:
                        raise
                    logger.warning("budget %s is looked at later: %s", row["id"], error)
            if len(rows) < COMPARED:
                break
        return told

    async def _compare(self, budget: Budget, zone: ZoneInfo, taken_at: datetime) -> bool:
        """Tell of a budget, unless somebody else has taken or changed it since, or a gateway whose clock is ahead has
        told of a later period: both would be told of again and again, in turn."""
        status = await self._measure(budget, zone)
        spent_nano, name = status.spent_nano, status.times.name
        if spent_nano is None:
            logger.info("budget %s is not measured: usage is not summed by its tag", budget.id)
            return False
        threshold = crossed(budget.terms, spent_nano)
        if threshold <= (budget.told if budget.told_period == name else 0):
            return False
        async with self._database.transaction() as connection:
            arguments = budget.id, name, threshold, taken_at
            if await connection.fetchval(_query("budgets_told"), *arguments) is None:
                return False
            await emit(connection, budget.account_id, "budget.threshold", _told(status, spent_nano, threshold))
        return True

    async def _measure(self, budget: Budget, zone: ZoneInfo) -> BudgetStatus:
        times = times_of(budget.terms.period, zone, utc(self._clock()))
        spent = await self._spent(budget, times)
        if spent is None:
            return BudgetStatus(budget, times, None, None)
        spent_nano, days_nano = spent_within(times, spent)
        return BudgetStatus(budget, times, spent_nano, forecast(spent_nano, days_nano, times))

    async def _spent(self, budget: Budget, times: Times) -> list[int] | None:
        """Return what was spent between the bounds; None where that is not known."""
        tag = budget.terms.tag
        if tag is None:
            spans = await self._sums.spans(budget.account_id, times.bounds, only=budget.terms.only)
            return [total(span).charged_nano for span in spans]
        try:
            spans = await self._sums.spans(budget.account_id, times.bounds, Grouping((f"{TAG}{tag[0]}",)))
        except UsageQueryError:
            return None
        group = (tag[1],)
        if any((OTHERS,) in span for span in spans) and not any(group in span for span in spans):
            return None
        return [span[group].charged_nano if group in span else 0 for span in spans]


async def _check_known(connection: Connection, account_id: str, terms: BudgetTerms) -> None:
    """Refuse a key of another account, and addresses that are no member's: nobody else is ever mailed."""
    key_id = terms.only.key_id
    if key_id is not None and not await connection.fetchval(_query("budgets_has_key"), account_id, key_id):
        raise BudgetRefused(f"subject_id: {key_id} is no key of the account.", "subject_id")
    if terms.notify:
        strangers = await connection.fetch(_query("budgets_not_members"), account_id, list(terms.notify))
        if strangers:
            raise BudgetRefused(f"notify: {strangers[0]['address']} is no member of the organization.", "notify")


def _told(status: BudgetStatus, spent_nano: int, threshold: int) -> dict[str, Any]:
    """Return the data of the notice of a threshold."""
    budget, terms, ends_at = status.budget, status.budget.terms, status.ends_at
    return {
        "budget_id": budget.id,
        **fields_of(terms),
        "threshold": threshold,
        "percent": percent(terms, spent_nano),
        "spent_usd": format_usd(spent_nano),
        "forecast_usd": None if status.forecast_nano is None else format_usd(status.forecast_nano),
        "period_start": None if ends_at is None else rfc3339(status.times.start),
        "period_end": None if ends_at is None else rfc3339(ends_at),
    }


def fields_of(terms: BudgetTerms) -> dict[str, Any]:
    """Return what a budget is about, as notices and the audit log say it."""
    is_tag = terms.subject is Subject.tag
    return {
        "subject": terms.subject.value,
        "subject_id": None if is_tag else terms.about or None,
        "tag": terms.about if is_tag else None,
        "period": terms.period.value,
        "amount_usd": format_usd(terms.amount_nano),
    }


def _columns(terms: BudgetTerms) -> tuple[object, ...]:
    subject, period = terms.subject.value, terms.period.value
    return subject, terms.about, period, terms.amount_nano, list(terms.thresholds), list(terms.notify)


def _budget(row: Row) -> Budget:
    subject, period = Subject(row["subject"]), BudgetPeriod(row["period"])
    thresholds, notify = tuple(row["thresholds"]), tuple(row["notify"])
    terms = from_row(BudgetTerms, row, subject=subject, period=period, thresholds=thresholds, notify=notify)
    return from_row(Budget, row, terms=terms)


def _found(row: Row | None, budget_id: str) -> Budget:
    if row is None:
        raise BudgetNotFound(f"There is no budget {budget_id!r}.")
    return _budget(row)


async def _record(
    connection: Connection, actor: audit.Actor, action: str, before: Budget | None, after: Budget | None
) -> None:
    budget = after or before
    assert budget is not None  # noqa: S101 - one of them is there
    before_and_after = [
        None
        if each is None
        else {**fields_of(each.terms), "thresholds": list(each.terms.thresholds), "notify": list(each.terms.notify)}
        for each in (before, after)
    ]
    await audit.record(connection, actor, action, budget.id, *before_and_after, account_id=budget.account_id)
