"""The catalogue: price rows and plans of the configuration, stored in Postgres at start.

Two rules hold. A change of a plan raises the version of every account that it applies to. And one file of
plans is in force for all gateways, that of the highest revision: each content that Postgres does not have is a new
revision, unless its file has a `version` below that of the revision in force. A gateway with a file of an older
revision, which a rollout has not reached yet or which starts again in the middle of one, follows the one in force.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from billing.database.connection import Connection, Database, affected, queries
from billing.plans import DEFAULT_PLAN, Plan, Plans
from billing.pricing import PriceRow, PriceTable, canonical_json, from_canonical_json

_query = queries("billing.ledger")
# Rows that are read at a time: a model has a few, and a file that was replaced whole thousands.
MOST_PRICES: Final = 200
NEWEST_REVISION: Final = "SELECT max(revision) FROM plan_revisions"


@dataclass(frozen=True, slots=True)
class Revision:
    """A content of plans.yaml as Postgres has it; `version` is the file's own, 0 if it has none."""

    revision: int
    version: int
    plans: Plans


@dataclass(frozen=True, slots=True)
class SyncedPlans:
    """The outcome of `sync_plans`: the revision in force, that of the file (None: it was not taken, for its version is
    below that in force), and the accounts whose versions were raised."""

    in_force: Revision
    file_revision: int | None
    raised: tuple[str, ...] = ()

    @property
    def follows(self) -> bool:
        """Return whether another file than this one is in force."""
        return self.file_revision != self.in_force.revision


async def sync_prices(database: Database, prices: PriceTable) -> int:
    """Add the price rows that the ledger does not have yet and return how many; a stored row never changes.

    Raises `DatabaseError`.
    """
    found = await database.rows(_query("catalogue_prices_known"), [row.id for row in prices.rows])
    known = {row["id"] for row in found}
    rows = [row for row in prices.rows if row.id not in known]  # none where a gateway starts again
    if not rows:
        return 0
    tag = await database.execute(
        _query("catalogue_prices"),
        [row.id for row in rows],
        [row.provider for row in rows],
        [row.model for row in rows],
        [row.effective_from for row in rows],
        [canonical_json(row) for row in rows],
    )
    return affected(tag)


@dataclass(frozen=True, slots=True)
class StoredPrice:
    """A price row as the ledger keeps it, and since when. `price_id` names it in debits: that of a row which an older
    release has stored may differ from the one that this release would give it."""

    price_id: str
    row: PriceRow
    stored_at: datetime


@dataclass
class PriceHistory:
    """Reads the price rows that the ledger keeps, at most `MOST_PRICES`. Methods raise `DatabaseError`."""

    database: Database

    async def of_model(self, provider: str, model: str) -> list[StoredPrice]:
        """Return all rows of a model, as prices name it, those that take effect last first."""
        rows = await self.database.rows(_query("catalogue_prices_of"), provider, model, MOST_PRICES)
        return [StoredPrice(row["id"], from_canonical_json(row["said"]), row["created_at"]) for row in rows]

    async def only_stored(self, prices: PriceTable) -> list[StoredPrice]:
        """Return rows that a file does not have, those that were stored last first: no request is priced by them."""
        ids = [row.id for row in prices.rows]
        rows = await self.database.rows(_query("catalogue_prices_left"), ids, MOST_PRICES)
        found = [StoredPrice(row["id"], from_canonical_json(row["said"]), row["created_at"]) for row in rows]
        return [each for each in found if each.row.id not in ids]  # which an older release has called otherwise

    async def not_stored(self, prices: PriceTable) -> list[PriceRow]:
        """Return rows of a file that the ledger does not have."""
        found = await self.database.rows(_query("catalogue_prices_known"), [row.id for row in prices.rows])
        known = {row["id"] for row in found}
        return [row for row in prices.rows if row.id not in known][:MOST_PRICES]


async def sync_plans(
    database: Database,
    plans: Plans,
    default_plan: str = DEFAULT_PLAN,
    *,
    version: int = 0,
    take_over: bool = False,
) -> SyncedPlans:
    """Store a file's plans, and put them in force where they are the newest, or with `take_over`, for a caller that
    knows that no other file is in use. Raises the version of the accounts whose plans change by that.

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
            content = {plan_id: msgspec.to_builtins(plan) for plan_id, plan in plans.items()}
            own = await connection.fetchval(_query("catalogue_revision_store"), digest, version, content)
            newest = Revision(own, version, plans)
        assert newest is not None  # noqa: S101  (there was one, or this is it)
        if own != newest.revision:
            return SyncedPlans(newest, own)
        return SyncedPlans(newest, own, await _raise_versions(connection, plans, default_plan))


async def _raise_versions(connection: Connection, plans: Plans, default_plan: str) -> tuple[str, ...]:
    digests = {plan_id: plan_digest(plan) for plan_id, plan in plans.items()}
    stored = {row["id"]: row["digest"] for row in await connection.fetch(_query("catalogue_plans"))}
    changed = [plan_id for plan_id in {**stored, **digests} if stored.get(plan_id) != digests.get(plan_id)]
    if not changed:
        return ()
    await connection.execute(_query("catalogue_plans_store"), list(digests), list(digests.values()))
    await connection.execute(_query("catalogue_plans_forget"), list(digests))
    rows = await connection.fetch(_query("catalogue_plans_accounts"), changed, default_plan in changed, list(digests))
    return tuple(sorted(row["id"] for row in rows))


async def newest_revision(database: Database) -> int | None:
    """Return the number of the revision in force, None before the first. Raises `DatabaseError`."""
    revision: int | None = await database.value(NEWEST_REVISION)
    return revision


async def plans_in_force(database: Database) -> Revision | None:
    """Return the revision in force, None before the first. Raises `DatabaseError`, and `ValueError` where they are a
    newer release's and this one can't read them."""
    async with database.connection() as connection:
        return await _newest(connection)


async def revision_of(database: Database, plans: Plans, version: int) -> int | None:
    """Return the revision of a file's content, None where it was never taken. Raises `DatabaseError`."""
    revision: int | None = await database.value(_query("catalogue_revision_of"), _file_digest(plans, version))
    return revision


async def _newest(connection: Connection, unreadable: Plans | None = None) -> Revision | None:
    """Return the revision in force; `unreadable` takes the place of plans that this release can't read."""
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
    """Return the SHA-256 of a file's version and plans, independent of their order."""
    content = [version, [[plan_id, plan_digest(plan)] for plan_id, plan in sorted(plans.items())]]
    return hashlib.sha256(msgspec.json.encode(content)).digest()


def plan_digest(plan: Plan) -> str:
    """Return the SHA-256 of a plan's fields: equal plans have equal digests on every gateway."""
    return hashlib.sha256(msgspec.json.encode(plan)).hexdigest()
