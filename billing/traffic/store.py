"""Adds counts in Postgres, and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from billing.database.connection import Database, Row, queries
from billing.traffic.counts import (
    ERRORS,
    Change,
    CircuitChange,
    Counted,
    Failure,
    LastFailure,
    ProviderTraffic,
    Step,
    add_buckets,
)

_query = queries("billing.traffic")

FORGET_TRAFFIC: Final = _query("traffic_forget")
FORGET_CHANGES: Final = _query("provider_changes_forget")
# As long counts are kept by five minutes.
FINE: Final = timedelta(days=2)
FIVE_MINUTES, HOUR = range(2)
# The circuit's changes that are shown of a provider.
CHANGES: Final = 20


@dataclass(frozen=True, slots=True)
class Traffic:
    """Adds counts and reads them. Methods raise `DatabaseError`."""

    database: Database

    async def add(self, counted: Sequence[Counted], changes: Sequence[Change], failures: Sequence[Failure]) -> None:
        """Add what one process has counted since it last did. Of processes that have seen the same circuit open, the
        first one's change is kept."""
        if counted:
            rows = msgspec.json.encode([each._asdict() for each in counted]).decode()
            await self.database.execute(_query("traffic_add"), rows)
        for failure in failures:
            await self.database.execute(_query("provider_failed"), *failure)
        if changes:
            async with self.database.transaction() as connection:
                await connection.execute(_query("provider_changes_turn"))
                for change in changes:
                    await connection.execute(_query("provider_changed"), *change)

    async def steps(self, since: datetime, until: datetime, unit: str) -> dict[datetime, Step]:
        """Return what was refused and has failed in each `hour` or `day` of UTC from one time on and before another;
        steps without either are not there."""
        rows = await self.database.rows(_query("traffic_steps"), since, until, unit, sorted(ERRORS))
        return {row["start"]: Step(row["start"], int(row["refused"]), int(row["errors"])) for row in rows}

    async def refusals(self, since: datetime, until: datetime) -> dict[str, int]:
        """Return how often each code was refused, the most frequent first."""
        rows = await self.database.rows(_query("traffic_refusals"), since, until)
        return {row["name"]: int(row["count"]) for row in rows}

    async def providers(self, since: datetime, until: datetime) -> dict[str, ProviderTraffic]:
        """Return how providers have answered, by name: from whole five minutes where these are kept, else from whole
        hours."""
        level = FIVE_MINUTES if until - since < FINE else HOUR
        found: dict[str, ProviderTraffic] = {}
        for row in await self.database.rows(_query("traffic_providers"), level, since, until):
            _add(found.setdefault(row["name"], ProviderTraffic()), row)
        return found

    async def changes(self, provider: str | None = None, limit: int = CHANGES) -> list[CircuitChange]:
        """Return when circuits opened and closed, of one provider or of all, newest first."""
        rows = await self.database.rows(_query("provider_changes_last"), provider, limit)
        return [CircuitChange(**dict(row)) for row in rows]

    async def failures(self) -> dict[str, LastFailure]:
        """Return the last failure of each provider."""
        rows = await self.database.rows(_query("provider_failures_all"))
        return {row["provider"]: LastFailure(row["at"], row["reason"]) for row in rows}


def _add(into: ProviderTraffic, row: Row) -> None:
    count, buckets = int(row["count"]), row["buckets"]
    match row["what"]:
        case "failed":
            into.failed[row["detail"]] = into.failed.get(row["detail"], 0) + count
        case "passed_on":
            into.passed_on[row["detail"]] = into.passed_on.get(row["detail"], 0) + count
        case "head":
            into.head = add_buckets(into.head, buckets)
        case "first_byte":
            into.first_byte = add_buckets(into.first_byte, buckets)
