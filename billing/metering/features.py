"""Features of plans: whether an account has one, and how many units of it are left in this period.

Units are counted in the period of the subscription that gives the account its plan, and by the calendar's months (UTC)
without one. A period that the provider has not told of yet is reckoned from the last one, so that its units are there
at once; month ends and leap days are the provider's: a subscription of the 31st renews on the last day of a month.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.database.connection import queries
from billing.errors import AccountNotFound
from billing.metering.charges import EventConflict
from billing.times import months_later

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.database.connection import Connection, Database
    from billing.plans import Plan, Plans

# Months that a period is reckoned ahead.
MOST_PERIODS: Final = 1200
_query = queries("billing.metering")


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` on and before `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class FeatureState:
    """A feature of an account's plan: `limit` units in the period, None: any number; `used` of them."""

    feature: str
    allowed: bool
    limit: int | None
    used: int
    period: Period

    @property
    def left(self) -> int | None:
        """Return how many units are left; None: any number."""
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Use:
    """What became of a use: counted, now or before (`replayed`), or it was not allowed, and nothing changed."""

    state: FeatureState
    replayed: bool = False


def month_of(now: datetime) -> Period:
    """Return the calendar month of a moment, in UTC."""
    start = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Period(start, months_later(start, 1))


def period_at(last: Period, anchor: datetime, now: datetime) -> Period:
    """Return the period of a moment, by the last one that is known of a subscription which began at `anchor`."""
    if now < last.end:
        return last
    passed = (last.end.year - anchor.year) * 12 + last.end.month - anchor.month
    start = last.end
    for months in range(passed + 1, passed + MOST_PERIODS):
        end = months_later(anchor, months)
        if end > start and now < end:
            return Period(start, end)
        start = max(start, end)
    return month_of(now)


@dataclass
class Features:
    """Counts units of features. `now` is an aware clock. Methods raise `DatabaseError` and `AccountNotFound`."""

    database: Database
    plans: Plans
    default_plan: str
    now: Callable[[], datetime]

    async def of_account(self, account_id: str) -> list[FeatureState]:
        """Return the features that an account's plan names, by name."""
        async with self.database.connection() as connection:
            plan, period = await self._standing(connection, account_id)
            rows = await connection.fetch(_query("features_used"), account_id, period.start)
        used = {row["feature"]: row["used"] for row in rows}
        return [_state(plan, name, used.get(name, 0), period) for name, _ in plan.features]

    async def use(self, account_id: str, feature: str, units: int, event_id: str) -> Use:
        """Count units of a feature, once for an event's id, if the plan allows it and as many are left. Raises
        `EventConflict` where the id was used for something else."""
        async with self.database.transaction() as connection:
            plan, period = await self._standing(connection, account_id)
            claim = (account_id, event_id, feature, units, period.start)
            if await connection.fetchval(_query("features_claim"), *claim) is None:
                known = await connection.fetchrow(_query("features_known"), account_id, event_id)
                if known is None or (known["feature"], known["units"]) != (feature, units):
                    raise EventConflict(
                        "This event_id was used for another feature or number of units: take a new one."
                    )
                return Use(_state(plan, feature, known["used"], period, allowed=True), replayed=True)
            limit = _limit(plan, feature)
            used = None
            if limit is None or limit >= units:
                asked = (account_id, feature, period.start, units, limit)
                used = await connection.fetchval(_query("features_use"), *asked)
            if used is not None:
                await connection.execute(_query("features_counted"), account_id, event_id, used)
                return Use(_state(plan, feature, used, period, allowed=True))
            await connection.execute("DELETE FROM feature_events WHERE account_id = $1 AND event_id = $2", *claim[:2])
            rows = await connection.fetch(_query("features_used"), account_id, period.start)
        before = next((row["used"] for row in rows if row["feature"] == feature), 0)
        return Use(_state(plan, feature, before, period, allowed=False))

    async def _standing(self, connection: Connection, account_id: str) -> tuple[Plan, Period]:
        row = await connection.fetchrow(_query("features_account"), account_id)
        if row is None:
            raise AccountNotFound(f"There is no account {account_id!r}.")
        plan, now = self.plans.get(row["plan"]) or self.plans[self.default_plan], self.now()
        if row["period_end"] is None:
            return plan, month_of(now)
        return plan, period_at(Period(row["period_start"], row["period_end"]), row["anchor"], now)


def _limit(plan: Plan, feature: str) -> int | None:
    """Return how many units a plan has; 0 where it does not name the feature."""
    allowed = plan.feature(feature)
    return None if allowed is True else int(allowed or 0)


def _state(plan: Plan, feature: str, used: int, period: Period, *, allowed: bool | None = None) -> FeatureState:
    limit = _limit(plan, feature)
    has = limit is None or used < limit
    return FeatureState(feature, has if allowed is None else allowed, limit, used, period)
