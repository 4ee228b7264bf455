"""The catalogue: price rows and plans of the configuration, made known to Postgres at start.

This file owns the rule that a change of a plan raises the version of every account that it applies to.
"""

import hashlib

import msgspec

from billing.ledger.postgres import Database, affected, queries
from billing.plans import DEFAULT_PLAN, Plan, Plans
from billing.prices import PriceTable, canonical_json

_query = queries("billing.ledger")


async def sync_prices(database: Database, prices: PriceTable) -> int:
    """Add the price rows that the ledger does not have yet and answer how many; a stored row never changes.

    Raises `DatabaseError`.
    """
    rows = prices.rows
    tag = await database.execute(
        _query("catalogue_prices"),
        [row.id for row in rows],
        [row.provider for row in rows],
        [row.model for row in rows],
        [row.effective_from for row in rows],
        [canonical_json(row) for row in rows],
    )
    return affected(tag)


async def sync_plans(database: Database, plans: Plans, default_plan: str = DEFAULT_PLAN) -> list[str]:
    """Note what each plan says and raise the version of the accounts to which something else applies than before.

    Answers their ids. A plan that has gone leaves its accounts with the default plan. Raises `DatabaseError`.
    """
    said = {plan_id: plan_digest(plan) for plan_id, plan in plans.items()}
    async with database.transaction() as connection:
        # Gateways that start at the same moment come one after another, so that one of them raises the versions.
        await connection.execute("LOCK TABLE plans IN EXCLUSIVE MODE")
        stored = {row["id"]: row["digest"] for row in await connection.fetch(_query("catalogue_plans"))}
        changed = [plan_id for plan_id in {**stored, **said} if stored.get(plan_id) != said.get(plan_id)]
        if not changed:
            return []
        await connection.execute(_query("catalogue_plans_store"), list(said), list(said.values()))
        await connection.execute(_query("catalogue_plans_forget"), list(said))
        rows = await connection.fetch(_query("catalogue_plans_accounts"), changed, default_plan in changed, list(said))
        return sorted(row["id"] for row in rows)


def plan_digest(plan: Plan) -> str:
    """SHA-256 of all that a plan says: equal plans have equal digests on every gateway."""
    return hashlib.sha256(msgspec.json.encode(plan)).hexdigest()
