"""Facts: points of a page, all that follows from them, and the checkpoint, in one transaction; and reading bytes, by
region, node, inbound tag and direction.

A process that dies before the commit has written nothing and the page is asked for again; after it, the page is known
and writes nothing. Two collectors of one source are told apart by the checkpoint's version: the second one's page is
rolled back. An advisory lock, shared by those who write points, lets whoever gives a subject its account read all that
was written without it (`subjects`).

Bytes come from the hours of an account's series; where a span cuts an hour, from the points in that, as long as they
are kept: older hours count whole, where they begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any, Final, cast

from billing.collect.snapshots import LEAST_DAYS, LOCK, METER, MOST_BACK, Checkpoint
from billing.database.connection import affected, queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing.collect.snapshots import Page, Source
    from billing.database.connection import Connection, Database, Row
    from billing.ledger.sums import Group
    from billing.settings import FirstPoint
_query = queries("billing.collect")

DELETED_AT_ONCE: Final = 50_000
# Points are looked up one by one by their keys, however many there are: no table is read whole.
_PLANNED: Final = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"


@dataclass(frozen=True, slots=True)
class Wrote:
    """What a page came to. A minute is one of a series; it is replayed where all of its points were known."""

    samples: int = 0
    written_minutes: int = 0
    replayed_minutes: int = 0
    conflicts: int = 0
    set_aside: int = 0

    def plus(self, other: Wrote) -> Wrote:
        """Return both together."""
        return Wrote(
            self.samples + other.samples,
            self.written_minutes + other.written_minutes,
            self.replayed_minutes + other.replayed_minutes,
            self.conflicts + other.conflicts,
            self.set_aside + other.set_aside,
        )


class Facts:
    """Writes what sources say. Methods raise `database.connection.DatabaseError`."""

    def __init__(self, database: Database, revision: str, first_point: FirstPoint, keep_days: int = LEAST_DAYS) -> None:
        """`revision` is what facts are marked with (SOURCE_REVISION); `first_point` holds for nodes that are new;
        points are kept for `keep_days`. Raises ValueError for fewer than `LEAST_DAYS`."""
        if keep_days < LEAST_DAYS:
            raise ValueError(f"points are kept for {LEAST_DAYS} days at least, not {keep_days}")
        self._database, self._keep_days = database, keep_days
        self._revision, self._first_point = revision, first_point

    async def checkpoint(self, source_id: str) -> Checkpoint:
        """Return how far a source was read."""
        row = await self._database.row(_query("get_checkpoint"), source_id)
        return Checkpoint(**dict(cast("Row", row)))

    async def failed(self, source_id: str, error: str, *, restart: bool) -> None:
        """Store the failure of a source; with `restart` its window begins again."""
        await self._database.execute(_query("fail_source"), source_id, error, restart)

    async def write(
        self, source: Source, page: Page, before: Checkpoint, after: Checkpoint, now: datetime
    ) -> Wrote | None:
        """Write a page and move the checkpoint; None where another collector has moved it."""
        async with self._database.transaction() as connection:
            moved = await connection.fetchrow(
                _query("move_checkpoint"),
                source.source_id,
                before.version,
                after.watermark,
                after.since,
                after.until,
                after.cursor,
                after.newest,
                now,
                LOCK,
            )
            if moved is None:
                return None
            wrote = await self._points(connection, source, page) if page.nodes else Wrote()
        return wrote.plus(Wrote(page.sent, 0, 0, page.conflicts, page.set_aside))

    async def _points(self, connection: Connection, source: Source, page: Page) -> Wrote:
        revision = await connection.fetchval(_query("name_revision"), self._revision)
        names = sorted(page.nodes)
        noted = await connection.fetch(
            _query("note_nodes"),
            source.source_id,
            names,
            [page.nodes[name][0] for name in names],
            [page.nodes[name][1] for name in names],
            source.region,
            self._first_point,
        )
        columns = _columns(page, {row["node"]: row for row in noted})
        row = cast("Row", await connection.fetchrow(_query("add_points"), *columns, source.region, revision))
        if row["lacking"]:
            await _make_series(connection, page, columns[0])
            row = cast("Row", await connection.fetchrow(_query("add_points"), *columns, source.region, revision))
        earlier = [row for row in noted if row["first_before"] is not None and row["first_at"] < row["first_before"]]
        if row["series"] or earlier:
            await connection.execute(_PLANNED)
            await connection.execute(
                _query("write_points"),
                *((row[name] or []) for name in ("series", "at", "up", "down")),
                revision,
                [each["id"] for each in earlier],
                [each["first_before"] for each in earlier],
            )
        return Wrote(0, row["written"], row["minutes"] - row["written"], row["conflicts"])

    async def forget(self, now: datetime, most: int = DELETED_AT_ONCE) -> int:
        """Remove old points, but for the last one of each series before the time that late ones may come from. Return
        how many; facts by hour stay."""
        return affected(await self._database.execute(_query("forget_points"), now, self._keep_days, most))


def _columns(page: Page, nodes: Mapping[str, Row]) -> tuple[Any, ...]:
    """Return a page as the arguments of `add_points`: its snapshots by column, then its samples. Counters are sent as
    text: the driver looks at each number of an array for whether that is an array in turn."""
    noted = [nodes[each.node] for each in page.snapshots]
    counted = [
        row["first_point"] == "zero" or (row["first_point"] == "new" and each.at > row["first_at"])
        for row, each in zip(noted, page.snapshots, strict=True)
    ]
    ends = accumulate((each.samples for each in page.snapshots), initial=1)
    places = [place for place, _ in zip(ends, page.snapshots, strict=False)]
    counters = ("{" + ",".join(map(str, column)) + "}" for column in (page.ups, page.downs))
    ids, times = [row["id"] for row in noted], [each.at for each in page.snapshots]
    return (ids, times, counted, places, page.uuids, page.inbound_tags, *counters)


async def _make_series(connection: Connection, page: Page, nodes: Sequence[int]) -> None:
    """Make the subjects and the series of a page that are not known yet."""
    owners = chain.from_iterable(repeat(node, each.samples) for node, each in zip(nodes, page.snapshots, strict=True))
    await connection.execute(_query("add_subjects"), page.uuids, page.emails)
    await connection.execute(_query("add_series"), list(owners), page.uuids, page.inbound_tags)


# What traffic is grouped by; not together with what requests are.
TRAFFIC_NAMES: Final = ("meter", "region", "node", "inbound_tag", "direction")


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of one span, by where they were counted."""

    span: int
    region: str
    node: str
    inbound_tag: str
    up: int
    down: int

    def by(self, names: Sequence[str]) -> dict[Group, int]:
        """Return its bytes by these names."""
        values = {"meter": METER, "region": self.region or None, "node": self.node, "inbound_tag": self.inbound_tag}
        found: dict[Group, int] = {}
        for direction, count in (("uplink", self.up), ("downlink", self.down)):
            group = tuple(direction if name == "direction" else values[name] for name in names)
            found[group] = found.get(group, 0) + count
        return found


async def read_traffic(database: Database, account_id: str, bounds: Sequence[datetime], now_s: float) -> list[Counted]:
    """Return the bytes of an account in each span between two bounds. Raises `DatabaseError`."""
    if len(bounds) < 2:
        return []
    oldest = datetime.fromtimestamp(now_s, UTC) - MOST_BACK
    cut = {at.astimezone(UTC).replace(minute=0, second=0, microsecond=0) for at in bounds if at.minute}
    rows = await database.rows(_query("read_traffic"), account_id, list(bounds), sorted(cut), oldest)
    return [Counted(**{**dict(row), "up": int(row["up"]), "down": int(row["down"])}) for row in rows]
