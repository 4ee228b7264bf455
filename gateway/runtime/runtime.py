"""Everything that talks to the stores, as endpoints, background work and commands take it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from billing.accounts.accounts import Accounts
    from billing.accounts.grants import Grants
    from billing.api.attempts import Attempts
    from billing.api.services import Services
    from billing.collect.collector import Collector
    from billing.database.connection import Database
    from billing.database.replica import ReplicatedReads
    from billing.holds.engine import Engine
    from billing.holds.redis.client import RedisClient
    from billing.identity.credentials import People
    from billing.keys.keys import ApiKeys, Principals
    from billing.ledger.reports import Reports
    from billing.pricing import PriceTable
    from billing.refused_requests import RefusedRequests
    from billing.work import Periodic
    from gateway.config.plan_follower import PlanFollower
    from gateway.config.settings import Settings


@dataclass(slots=True)
class InForce:
    """The prices that requests are priced by now: those of the start, until the file has others."""

    prices: PriceTable

    def now(self) -> PriceTable:
        """Return the prices of this moment."""
        return self.prices


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that talks to the stores. `database` is the ledger's pool, which no call of the API uses. The
    `follower` has the plans in force, whatever the file here says."""

    settings: Settings
    follower: PlanFollower
    database: Database
    redis_client: RedisClient
    engine: Engine
    accounts: Accounts
    principals: Principals
    api_keys: ApiKeys
    grants: Grants
    reports: Reports
    refused: RefusedRequests
    services: Services
    people: People
    in_force: InForce
    attempts: Attempts
    collector: Collector
    deployment: str
    replica: ReplicatedReads | None
    admin_api_key: str = field(repr=False)

    def start(self, *work: Periodic) -> None:
        """Have work go on beside requests."""
        for each in work:
            self.engine.loops.start(each.name, each.run)
