"""What tests of collection share: snapshots, and what must follow from a set of them, computed plainly."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from billing.collect.debits import TrafficDebits, rate_of
from billing.collect.facts import Facts, Wrote
from billing.collect.snapshots import Checkpoint, Source, read_page
from billing.collect.subjects import SubjectRules, Subjects
from billing.pricing import PriceTable
from billing.settings import FirstPoint
from tests.billing.support import Billing

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
NOW = START + timedelta(days=2)


class Sample(NamedTuple):
    """One sample of one snapshot."""

    node: str
    at: datetime
    uuid: str
    tag: str
    up: int
    down: int


def page_of(given: Iterable[Sample], *, node: str = "n1", env: str = "prod", **more: Any) -> dict[str, Any]:
    """A page with a snapshot for each node and time, in the order in which they come."""
    snapshots: dict[tuple[str, datetime], list[Any]] = {}
    for each in given:
        snapshots.setdefault((each.node, each.at), []).append(
            {
                "uuid": each.uuid,
                "email": f"{each.uuid}@example.com",
                "inbound_tag": each.tag,
                "uplink_bytes_total": each.up,
                "downlink_bytes_total": each.down,
            }
        )
    shown = [
        {"collected_at": at.isoformat(), "node_id": name, "env": env, "samples": samples}
        for (name, at), samples in snapshots.items()
    ]
    return {"node_id": node, "env": env, "snapshots": shown, "has_more": False, **more}


def minutes_of(samples: Iterable[Sample], rule: FirstPoint) -> dict[tuple[str, str, str, datetime], tuple[int, int]]:
    """The facts that a set of samples comes to, by node, uuid, tag and minute."""
    series: dict[tuple[str, str, str], dict[datetime, tuple[int, int]]] = defaultdict(dict)
    first_of: dict[str, datetime] = {}
    for node, at, uuid, tag, up, down in samples:
        known = series[node, uuid, tag].get(at, (0, 0))
        series[node, uuid, tag][at] = max(up, known[0]), max(down, known[1])
        first_of[node] = min(at, first_of.get(node, at))
    facts: dict[tuple[str, str, str, datetime], tuple[int, int]] = {}
    for key, points in series.items():
        before: tuple[int, int] | None = None
        for at in sorted(points):
            counted = rule == "zero" or (rule == "new" and at > first_of[key[0]])
            grown = [
                (value if counted else 0) if before is None else value - was if value >= was else value
                for value, was in zip(points[at], before or (0, 0), strict=True)
            ]
            minute = at.replace(second=0, microsecond=0)
            up, down = facts.get((*key, minute), (0, 0))
            facts[(*key, minute)] = up + grown[0], down + grown[1]
            before = points[at]
    return facts


class Room:
    """The parts of collection on one database, with one source of its own."""

    def __init__(
        self,
        billing: Billing,
        source_id: str,
        *,
        rule: FirstPoint = "new",
        per_byte_scaled: int = 0,
        prices: PriceTable | None = None,
        rules: SubjectRules | None = None,
    ) -> None:
        self.billing, self.source = billing, Source(source_id, "http://exporter", None, "eu")
        self.facts = Facts(billing.database, "r1", rule)
        self.subjects = Subjects(billing.database, billing.grants, rules or SubjectRules(), billing.new_id)
        self.debits = TrafficDebits(
            billing.database,
            billing.grants,
            lambda region, at: rate_of(prices or PriceTable([]), per_byte_scaled, region, at),
            self._tell,
            billing.new_id,
        )
        self.checkpoint = Checkpoint()

    async def _tell(self, accounts: Any) -> None:
        for account_id in accounts:
            await self.billing.change_notifier.balance_changed(account_id)

    async def write(self, samples: Iterable[Sample]) -> Wrote:
        """Write a page in a transaction of its own."""
        page = read_page(json.dumps(page_of(samples)).encode(), self.source, NOW)
        before = await self.facts.checkpoint(self.source.source_id)
        wrote = await self.facts.write(self.source, page, before, before.after(page), NOW)
        assert wrote is not None
        return wrote

    async def minutes(self) -> Mapping[tuple[str, str, str, datetime], tuple[int, int]]:
        """The facts as they are stored."""
        rows = await self.billing.database.rows(
            "SELECT * FROM collected_minutes WHERE source = $1", self.source.source_id
        )
        key = ("node", "uuid", "inbound_tag", "minute")
        return {tuple(row[name] for name in key): (int(row["up_bytes"]), int(row["down_bytes"])) for row in rows}
