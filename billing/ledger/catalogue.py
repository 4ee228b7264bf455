"""The catalogue: price rows and plans of the configuration, made known to Postgres at start.

This file owns two rules. A change of a plan raises the version of every account that it applies to. And one file of
plans is in force for all gateways, that of the highest revision: each content that Postgres has not seen is a new
revision, unless its file says a `version` below that of the revision in force. A gateway with a file of an older
revision, which a rollout has not reached yet or which starts again in the middle of one, follows the one in force.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from billing.database.connection import Connection, Database, affected, queries
from billing.plans import DEFAULT_PLAN, Plan, Plans
from billing.prices import PriceTable, canonical_json

_query = queries("billing.ledger")
NEWEST_REVISION: Final = "SELECT max(revision) FROM plan_revisions"


@dataclass(frozen=True, slots=True)
class Revision:
    """A content of plans.yaml as Postgres knows it; `version` is what the file said, 0 where it said none."""

    revision: int
    version: int
    plans: Plans


@dataclass(frozen=True, slots=True)
class SyncedPlans:
    """What came of telling Postgres a file: the revision in force, that of the file (None: it was not taken, for its
    version is below that in force), and the accounts to which something else applies than before."""

    in_force: Revision
    file_revision: int | None
    raised: tuple[str, ...] = ()

    @property
    def follows(self) -> bool:
        """Whether another file than this one is in force."""
        return self.file_revision != self.in_force.revision


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


async def sync_plans(
    database: Database,
    plans: Plans,
    default_plan: str = DEFAULT_PLAN,
    *,
    version: int = 0,
    take_over: bool = False,
) -> SyncedPlans:
    """Make a file's plans known, and put them in force where they are the newest, or with `take_over`, for whoever
    knows that no other file is in use. Raises the version of the accounts to which something else applies then.

    A plan that has gone leaves its accounts with the default plan. Raises `DatabaseError`.
    """
    async with database.transaction() as connection:
        # Gateways that start at the same moment come one after another, so that one of them raises the versions.
        await connection.execute("LOCK TABLE plans IN EXCLUSIVE MODE")
        newest = await _newest(connection, plans)
        digest = _file_digest(plans, version)
        own = await connection.fetchval(_query("catalogue_revision_of"), digest)
        is_new = own is None and (newest is None or version >= newest.version)
        if is_new or (take_over and (newest is None or own != newest.revision)):
            said = {plan_id: msgspec.to_builtins(plan) for plan_id, plan in plans.items()}
            own = await connection.fetchval(_query("catalogue_revision_store"), digest, version, said)
            newest = Revision(own, version, plans)
        assert newest is not None  # noqa: S101  (there was one, or this is it)
        if own != newest.revision:
            return SyncedPlans(newest, own)
        return SyncedPlans(newest, own, await _raise_versions(connection, plans, default_plan))


async def _raise_versions(connection: Connection, plans: Plans, default_plan: str) -> tuple[str, ...]:
    said = {plan_id: plan_digest(plan) for plan_id, plan in plans.items()}
    stored = {row["id"]: row["digest"] for row in await connection.fetch(_query("catalogue_plans"))}
    changed = [plan_id for plan_id in {**stored, **said} if stored.get(plan_id) != said.get(plan_id)]
    if not changed:
        return ()
    await connection.execute(_query("catalogue_plans_store"), list(said), list(said.values()))
    await connection.execute(_query("catalogue_plans_forget"), list(said))
    rows = await connection.fetch(_query("catalogue_plans_accounts"), changed, default_plan in changed, list(said))
    return tuple(sorted(row["id"] for row in rows))


async def newest_revision(database: Database) -> int | None:
    """The number of the revision in force, None before the first. Raises `DatabaseError`."""
    revision: int | None = await database.value(NEWEST_REVISION)
    return revision


async def plans_in_force(database: Database) -> Revision | None:
    """The revision in force, None before the first. Raises `DatabaseError`, and `ValueError` where a newer release's
    plans say what this one can't read."""
    async with database.connection() as connection:
        return await _newest(connection)


async def revision_of(database: Database, plans: Plans, version: int) -> int | None:
    """The number of a file's content, None where it was never taken. Raises `DatabaseError`."""
    revision: int | None = await database.value(_query("catalogue_revision_of"), _file_digest(plans, version))
    return revision


async def _newest(connection: Connection, unreadable: Plans | None = None) -> Revision | None:
    """The revision in force; with `unreadable`, which stands for plans that this release can't read."""
    row = await connection.fetchrow(_query("catalogue_revision_newest"))
    if row is None:
        return None
    try:
        plans: Plans = msgspec.convert(row["said"], dict[str, Plan])
    except ValueError:
        if unreadable is None:
            raise
        plans = unreadable
    return Revision(row["revision"], row["version"], plans)


def _file_digest(plans: Plans, version: int) -> bytes:
    """SHA-256 of all that a file of plans says, in whatever order."""
    said = [version, [[plan_id, plan_digest(plan)] for plan_id, plan in sorted(plans.items())]]
    return hashlib.sha256(msgspec.json.encode(said)).digest()


def plan_digest(plan: Plan) -> str:
    """SHA-256 of all that a plan says: equal plans have equal digests on every gateway."""
    return hashlib.sha256(msgspec.json.encode(plan)).hexdigest()
