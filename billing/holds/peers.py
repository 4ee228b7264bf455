"""Peers: which other gateways live, as this one has seen for itself.

This file owns who is taken for dead. A lease's value means nothing but that it changes: a gateway is dead when the same
value has stood for `lease_s` of this process's own monotonic time, in which it has looked without a gap and could renew
its own, or when whoever saw its process end says so. No clock of a store or of another machine has a part in it.
A process that has just started, or stood still, or could not write to Postgres for a while, judges nobody until it has
watched for long enough again: whatever it missed, the others may have missed, too.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from billing.database.connection import Database, Row
from billing.holds.redis.layout import STATE_VERSION
from billing.ledger.leases import STANDING, LeaseRow, Lost

GAP_SHARE: Final = 0.5
"""Of a lease: a longer gap between two looks begins all judgments anew. What is left of the lease is time in which a
living gateway renews after an outage of Postgres."""
MOST_WATCHED: Final = 10_000
"""Gateways of which holds are left and that have no lease: more are watched later."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease's value (None: no row), and since when and until when it was seen to stand; seconds of the clock."""

    value: datetime | None
    since_s: float
    until_s: float


class Peers:
    """Fed with leases by one thread, asked by another. `clock` is monotonic, in seconds."""

    def __init__(
        self, database: Database, gateway_id: str, lease_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._database = database
        self._gateway_id = gateway_id
        self._lease_s = lease_s
        self._gap_s = lease_s * GAP_SHARE
        self._lock = threading.Lock()
        self._looked_s: float | None = None
        self._seen: dict[str, _Seen] = {}
        self._watched: set[str] = set()
        self._ended: frozenset[str] = frozenset()
        self._told: frozenset[str] = frozenset()

    def saw(self, begun_s: float, rows: Sequence[LeaseRow]) -> bool:
        """Take in all leases, read and the own one renewed since `begun_s`; whether anybody's loss is new."""
        now_s = self.clock()
        with self._lock:
            unbroken = self._looked_s is not None and now_s - self._looked_s <= self._gap_s
            known = self._seen if unbroken else {}
            values: dict[str, datetime | None] = {row.gateway_id: row.value for row in rows if not row.ended}
            self._ended = frozenset(row.gateway_id for row in rows if row.ended)
            self._watched -= values.keys() | self._ended
            values |= dict.fromkeys(self._watched)
            self._seen = {name: _stood(known.get(name), value, begun_s, now_s) for name, value in values.items()}
            self._looked_s = now_s
            return self._anything_new()

    def saw_end(self, gateway_id: str) -> bool:
        """Take in that a gateway has ended; whether that is new."""
        with self._lock:
            self._ended |= {gateway_id}
            return self._anything_new()

    def _anything_new(self) -> bool:
        lost = frozenset(name for name in (*self._seen, *self._ended) if self._lost(name) is not None)
        before, self._told = self._told, lost
        return not lost <= before

    def lost(self, gateways: Iterable[str]) -> dict[str, Lost]:
        """Those of these gateways that are dead. One without a lease is watched from now on."""
        with self._lock:
            asked = [name for name in gateways if name != self._gateway_id]
            unknown = [name for name in asked if name not in self._seen and name not in self._ended]
            self._watched.update(unknown[: max(0, MOST_WATCHED - len(self._watched))])
            found = {name: self._lost(name) for name in asked}
        return {name: lost for name, lost in found.items() if lost is not None}

    def _lost(self, name: str) -> Lost | None:
        seen = self._seen.get(name)
        if name in self._ended:
            return Lost(name, seen.value if seen is not None else None)
        if seen is None or name == self._gateway_id or self._looked_s is None:
            return None
        watching = self.clock() - self._looked_s <= self._gap_s
        return Lost(name, seen.value) if watching and seen.until_s - seen.since_s >= self._lease_s else None

    async def living(self) -> list[str]:
        """Gateways that have a lease now and are not known to be dead. Raises `DatabaseError`."""
        return [row["id"] for row in await self._living_rows()]

    async def look(self) -> None:
        """Look at all leases without one of one's own. Raises `DatabaseError`."""
        begun_s = self.clock()
        rows = await self._database.rows(STANDING)
        self.saw(begun_s, [LeaseRow(row["id"], row["lease_until"], ended=False) for row in rows])

    async def of_other_layouts(self) -> list[str]:
        """Those of the living that keep state in Redis in another layout than this release. Raises `DatabaseError`."""
        return [row["id"] for row in await self._living_rows() if row["layout"] != STATE_VERSION]

    async def _living_rows(self) -> list[Row]:
        rows = await self._database.rows(STANDING)
        lost = self.lost(row["id"] for row in rows)
        return [row for row in rows if row["id"] not in lost or lost[row["id"]].value != row["lease_until"]]


def _stood(seen: _Seen | None, value: datetime | None, begun_s: float, now_s: float) -> _Seen:
    """What was read at some moment from `begun_s` to `now_s`: it stands since the latest of the first such moment,
    until the earliest of the last."""
    if seen is None or seen.value != value:
        return _Seen(value, now_s, begun_s)
    return _Seen(value, seen.since_s, begun_s)
