"""Reading bytes, by region, node, inbound tag and direction.

Bytes come from the hours of an account's series; where a span cuts an hour, from the points in that, as long as they
are kept: older hours count whole, where they begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.collect.charging import METER
from billing.collect.snapshots import MOST_BACK
from billing.database.connection import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.database.connection import Database
    from billing.ledger.used import Group

_query = queries("billing.collect")
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
