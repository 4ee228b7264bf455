"""Budgets: kept in Postgres, measured by the ledger's sums, and told of once for each threshold and period.

Nothing here is on the way of a request. A round compares each budget with what was spent about once a minute, in one
gateway of all; the notice and the note that it was told are written in one transaction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from billing import audit
from billing.budgets.rules import (
    BudgetNotFound,
    BudgetPeriod,
    BudgetRefused,
    BudgetTerms,
    Subject,
    Times,
    crossed,
    forecast,
    percent,
    spent_within,
    times_of,
    utc,
)
from billing.database.connection import Connection, Database, DatabaseError, Row, queries
from billing.ledger.sums import END, OTHERS, TAG, Grouping, UsageQueryError, total
from billing.money import format_usd
from billing.notices.emit import emit
from billing.pages import BEFORE_ALL, Page, page_of
from billing.times import DEFAULT_ZONE, rfc3339, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from zoneinfo import ZoneInfo

    from billing.ledger.sums import UsageSums

logger = logging.getLogger(__name__)

ID_PREFIX: Final = "bdg_"
# Budgets of one account.
MOST: Final = 100
# Budgets that one step of a round compares.
LOOKED_AT: Final = 200
ROUND_STEPS: Final = 10
# Budgets of a round that may fail before it is taken for the database's fault, and ends.
MOST_FAILED: Final = 5
# A budget is compared again after as long.
EACH_S: Final = 60.0
_query = queries("billing.budgets")


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
class Standing:
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

    async def standings(self, budgets: Sequence[Budget], zone: ZoneInfo) -> list[Standing]:
        """Return how budgets of one account stand, whose days begin in a zone."""
        return [await self._standing(each, zone) for each in budgets]

    async def round(self) -> int:
        """Compare budgets that were not for a while; return how many thresholds were told of. One that fails keeps
        none of the others back, until `MOST_FAILED` have: it is looked at again with the next ones."""
        told, failed = 0, 0
        for _ in range(ROUND_STEPS):
            rows = await self._database.rows(_query("budgets_claim"), EACH_S, LOOKED_AT)
            for row in rows:
                try:
                    told += await self._look(_budget(row), zone_of(row["tz"] or DEFAULT_ZONE), row["looked_at"])
                except DatabaseError as error:
                    failed += 1
                    if failed >= MOST_FAILED:
                        raise
                    logger.warning("budget %s is looked at later: %s", row["id"], error)
            if len(rows) < LOOKED_AT:
                break
        return told

    async def _look(self, budget: Budget, zone: ZoneInfo, taken_at: datetime) -> bool:
        """Tell of a budget, unless somebody else has taken or changed it since, or a gateway whose clock is ahead has
        told of a later period: both would be told of again and again, in turn."""
        standing = await self._standing(budget, zone)
        spent_nano, name = standing.spent_nano, standing.times.name
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
            await emit(connection, budget.account_id, "budget.threshold", _told(standing, spent_nano, threshold))
        return True

    async def _standing(self, budget: Budget, zone: ZoneInfo) -> Standing:
        times = times_of(budget.terms.period, zone, utc(self._clock()))
        spent = await self._spent(budget, times)
        if spent is None:
            return Standing(budget, times, None, None)
        spent_nano, days_nano = spent_within(times, spent)
        return Standing(budget, times, spent_nano, forecast(spent_nano, days_nano, times))

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


def _told(standing: Standing, spent_nano: int, threshold: int) -> dict[str, Any]:
    """Return the data of the notice of a threshold."""
    budget, terms, ends_at = standing.budget, standing.budget.terms, standing.ends_at
    return {
        "budget_id": budget.id,
        **fields_of(terms),
        "threshold": threshold,
        "percent": percent(terms, spent_nano),
        "spent_usd": format_usd(spent_nano),
        "forecast_usd": None if standing.forecast_nano is None else format_usd(standing.forecast_nano),
        "period_start": None if ends_at is None else rfc3339(standing.times.start),
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
    return (
        terms.subject.value,
        terms.about,
        terms.period.value,
        terms.amount_nano,
        list(terms.thresholds),
        list(terms.notify),
    )


def _budget(row: Row) -> Budget:
    terms = BudgetTerms(
        Subject(row["subject"]),
        row["about"],
        BudgetPeriod(row["period"]),
        row["amount_nano"],
        tuple(row["thresholds"]),
        tuple(row["notify"]),
    )
    return Budget(row["id"], row["account_id"], terms, row["created_at"], row["told_period"], row["told"])


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
