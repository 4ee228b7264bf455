"""The lease: this gateway's sign of life in Postgres; and which other gateways live, by this one's own observation.

The lease is renewed by a thread with a connection of its own: neither an event loop that is busy nor a pool that is
used up lets it lapse. But a process whose event loop is dead must not live for ever: the thread stops to renew when the
loop has not ticked for `stall_s`, and others end its holds then. The same thread watches the leases of the others.

`Peers` owns which gateway is taken for dead. A lease's value means nothing but that it changes: a gateway is dead when
the same value has stood for `lease_s` of this process's own monotonic time, in which it has read without a gap and
could renew its own, or when a process that saw the gateway's end says so. No clock of a store or of another machine has
a part in it. A process that has just started, or stood still, or could not write to Postgres for a while, judges nobody
until it has watched for long enough again: the others may have missed the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, DatabaseError
from billing.holds.redis.layout import STATE_VERSION
from billing.ledger.leases import ENDED_CHANNEL, STANDING, Fetch, LeaseRow, Lost, end_lease, renew_lease
from billing.work import until_next_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from billing.database.connection import Row

logger = logging.getLogger(__name__)

# In the time of a lease.
RENEWALS: Final = 5
# In the time of a lease, while it can't be renewed.
RETRIES: Final = 20
# Of a lease: a statement that takes longer is given up, and the connection made anew.
TIMEOUT_SHARE: Final = 0.25
TICK_S: Final = 1.0
RESTART_S: Final = 1.0
JOIN_S: Final = 5.0


class Lease:
    """Renewed by `renew` once, before the first hold; then by the thread, from `start` to `stop`.

    `sweep_now` is called in the event loop when another gateway is newly known to be dead, and when others have ended
    holds of this one; `on_failure` when the thread failed and is restarted.
    """

    def __init__(
        self,
        peers: Peers,
        *,
        stall_s: float,
        sweep_now: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._peers = peers
        self._database, self._gateway_id, self._lease_s = peers.database, peers.gateway_id, peers.lease_s
        self._stall_s = stall_s
        self._sweep_now, self._on_failure = sweep_now, on_failure
        self._judged: datetime | None = None
        self._ticked_s = self._turned_s = time.monotonic()
        self._stalled = False
        self.renewals = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._wake: Callable[[], None] | None = None

    async def renew(self, fetch: Fetch | None = None) -> None:
        """Renew now. Raises `DatabaseError`."""
        begun_s = self._peers.clock()
        rows = await renew_lease(fetch or self._database.rows, self._gateway_id, self._lease_s, STATE_VERSION)
        new = self._peers.saw(begun_s, rows)
        self._check_own(rows[0])
        if new:
            self._notify(self._sweep_now)

    def _check_own(self, row: LeaseRow) -> None:
        judged, self._judged = self._judged, row.judged
        if row.judged is not None and row.judged != judged:
            logger.error("this gateway was taken for dead: its lease had not been renewed for %g s", self._lease_s)
            self._notify(self._sweep_now)

    def _notify(self, what: Callable[[], None]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: there is nobody to notify
                self._loop.call_soon_threadsafe(what)

    def start(self) -> None:
        """Begin to renew by the thread. Called in the event loop that is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._ending.clear()
        self._turned_s = time.monotonic()
        self._tick()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        assert self._loop is not None  # noqa: S101  (set by start)
        self._ticked_s = time.monotonic()
        self._ticker = self._loop.call_later(until_next_s(TICK_S), self._tick)

    async def stop(self) -> None:
        """Renew no more. The lease stands until it lapses or is ended."""
        self._ending.set()
        wake = self._wake
        if wake is not None:
            wake()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_S)
            self._thread = None

    async def end(self) -> None:
        """Say that this gateway has ended. Raises `DatabaseError`."""
        await end_lease(self._database, self._gateway_id)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                asyncio.run(self._keep())
            except Exception as error:  # whatever it was: a gateway that lives must renew
                logger.exception("the lease's thread failed and is restarted")
                failed = error
                self._notify(lambda error=failed: self._on_failure(error))  # type: ignore[misc]
                self._ending.wait(RESTART_S)

    async def _keep(self) -> None:
        timeout_s = self._lease_s * TIMEOUT_SHARE
        database = self._database.another(size=1, timeout_s=timeout_s)
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: the thread has ended
                loop.call_soon_threadsafe(woken.set)

        self._wake = wake
        try:
            while not self._ending.is_set():
                try:
                    async with database.listening(ENDED_CHANNEL, self._heard) as connection:
                        while not self._ending.is_set():
                            await self._turn(connection.fetch)
                            await _sleep(woken, self._lease_s / RENEWALS)
                except (DatabaseError, TimeoutError) as error:
                    logger.info("the lease could not be renewed: %s: %s", type(error).__name__, error)
                    await _sleep(woken, self._lease_s / RETRIES)
        finally:
            self._wake = None
            await database.close()

    def _heard(self, gateway_id: str) -> None:
        if self._peers.saw_end(gateway_id):
            self._notify(self._sweep_now)

    async def _turn(self, fetch: Fetch) -> None:
        if self._loop_lives():
            await self.renew(fetch)
            self.renewals += 1

    def _loop_lives(self) -> bool:
        """Return whether the event loop has ticked of late. One that stood still together with this thread gets its
        time."""
        now_s = time.monotonic()
        if now_s - self._turned_s > max(self._stall_s / 2, self._lease_s):
            self._ticked_s = now_s
        self._turned_s = now_s
        stalled, self._stalled = self._stalled, now_s - self._ticked_s > self._stall_s
        if self._stalled and not stalled:
            logger.critical("the event loop has stood still for %g s: the lease is not renewed any more", self._stall_s)
        elif stalled and not self._stalled:
            logger.error("the event loop goes on: the lease is renewed again")
        return not self._stalled


async def _sleep(woken: asyncio.Event, seconds: float) -> None:
    """Sleep for so long, unless woken."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()


# Of a lease: after a longer gap between two readings all judgments begin anew. What is left of the lease is time in
# which a living gateway renews after an outage of Postgres.
GAP_SHARE: Final = 0.5
# Gateways of which holds are left and that have no lease: more are watched later.
MOST_WATCHED: Final = 10_000


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
        self.database = database
        self.gateway_id = gateway_id
        self.lease_s = lease_s
        self._gap_s = lease_s * GAP_SHARE
        self._lock = threading.Lock()
        self._refreshed_s: float | None = None
        self._seen: dict[str, _Seen] = {}
        self._watched: set[str] = set()
        self._ended: frozenset[str] = frozenset()
        self._reported: frozenset[str] = frozenset()

    def saw(self, begun_s: float, rows: Sequence[LeaseRow]) -> bool:
        """Take in all leases, read and the own one renewed since `begun_s`; return whether anybody's loss is new."""
        now_s = self.clock()
        with self._lock:
            unbroken = self._refreshed_s is not None and now_s - self._refreshed_s <= self._gap_s
            known = self._seen if unbroken else {}
            values: dict[str, datetime | None] = {row.gateway_id: row.value for row in rows if not row.ended}
            self._ended = frozenset(row.gateway_id for row in rows if row.ended)
            self._watched -= values.keys() | self._ended
            values |= dict.fromkeys(self._watched)
            self._seen = {name: _stood(known.get(name), value, begun_s, now_s) for name, value in values.items()}
            self._refreshed_s = now_s
            return self._anything_new()

    def saw_end(self, gateway_id: str) -> bool:
        """Take in that a gateway has ended; return whether that is new."""
        with self._lock:
            self._ended |= {gateway_id}
            return self._anything_new()

    def _anything_new(self) -> bool:
        lost = frozenset(name for name in (*self._seen, *self._ended) if self._lost(name) is not None)
        before, self._reported = self._reported, lost
        return not lost <= before

    def lost(self, gateways: Iterable[str]) -> dict[str, Lost]:
        """Return those of these gateways that are dead. One without a lease is watched from now on."""
        with self._lock:
            asked = [name for name in gateways if name != self.gateway_id]
            unknown = [name for name in asked if name not in self._seen and name not in self._ended]
            self._watched.update(unknown[: max(0, MOST_WATCHED - len(self._watched))])
            found = {name: self._lost(name) for name in asked}
        return {name: lost for name, lost in found.items() if lost is not None}

    def _lost(self, name: str) -> Lost | None:
        seen = self._seen.get(name)
        if name in self._ended:
            return Lost(name, seen.value if seen is not None else None)
        if seen is None or name == self.gateway_id or self._refreshed_s is None:
            return None
        watching = self.clock() - self._refreshed_s <= self._gap_s
        return Lost(name, seen.value) if watching and seen.until_s - seen.since_s >= self.lease_s else None

    async def living(self) -> list[str]:
        """Return gateways that have a lease now and are not known to be dead. Raises `DatabaseError`."""
        return [row["id"] for row in await self._living_rows()]

    async def refresh(self) -> None:
        """Read all leases without having one. Raises `DatabaseError`."""
        begun_s = self.clock()
        rows = await self.database.rows(STANDING)
        self.saw(begun_s, [LeaseRow(row["id"], row["lease_until"], ended=False) for row in rows])

    async def of_other_layouts(self) -> list[str]:
        """Return those of the living that keep state in Redis in another layout than this release. Raises
        `DatabaseError`."""
        return [row["id"] for row in await self._living_rows() if row["layout"] != STATE_VERSION]

    async def _living_rows(self) -> list[Row]:
        rows = await self.database.rows(STANDING)
        lost = self.lost(row["id"] for row in rows)
        return [row for row in rows if row["id"] not in lost or lost[row["id"]].value != row["lease_until"]]


def _stood(seen: _Seen | None, value: datetime | None, begun_s: float, now_s: float) -> _Seen:
    """Return what was read at some moment from `begun_s` to `now_s`: it stands since the latest of the first such
    moment, until the earliest of the last."""
    if seen is None or seen.value != value:
        return _Seen(value, now_s, begun_s)
    return _Seen(value, seen.since_s, begun_s)
