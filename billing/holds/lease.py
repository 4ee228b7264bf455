"""The lease: this gateway's sign of life in Postgres, kept by a thread with a connection of its own.

Neither an event loop that is busy nor a pool that is used up lets it lapse. But a process whose event loop is dead must
not live for ever: the thread stops to renew when the loop has not ticked for `stall_s`, and others end its holds then.
The same thread watches the leases of the others, for `Peers`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from billing.database.connection import Database, DatabaseError
from billing.holds.peers import Peers
from billing.holds.redis.layout import STATE_VERSION
from billing.ledger.leases import ENDED_CHANNEL, Fetch, LeaseRow, end_lease, renew_lease

logger = logging.getLogger(__name__)

RENEWALS: Final = 5
"""In the time of a lease."""
RETRIES: Final = 20
"""In the time of a lease, while it can't be renewed."""
TIMEOUT_SHARE: Final = 0.25
"""Of a lease: a statement that takes longer is given up, and the connection made anew."""
TICK_S: Final = 1.0
RESTART_S: Final = 1.0
JOIN_S: Final = 5.0


class Lease:
    """Renewed by `renew` once, before the first hold; then by the thread, from `start` to `stop`.

    `on_loss` is called in the event loop when another gateway is newly known to be dead, `on_judged` when others have
    ended holds of this one, `on_failure` when the thread failed and begins anew.
    """

    def __init__(
        self,
        database: Database,
        gateway_id: str,
        peers: Peers,
        *,
        lease_s: float,
        stall_s: float,
        on_loss: Callable[[], None],
        on_judged: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._database = database
        self._gateway_id = gateway_id
        self._peers = peers
        self._lease_s = lease_s
        self._stall_s = stall_s
        self._on_loss, self._on_judged, self._on_failure = on_loss, on_judged, on_failure
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
        self._look_at_own(rows[0])
        if new:
            self._tell(self._on_loss)

    def _look_at_own(self, row: LeaseRow) -> None:
        judged, self._judged = self._judged, row.judged
        if row.judged is not None and row.judged != judged:
            logger.error("this gateway was taken for dead: its lease had not been renewed for %g s", self._lease_s)
            self._tell(self._on_judged)

    def _tell(self, what: Callable[[], None]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
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
        self._ticker = self._loop.call_later(TICK_S, self._tick)

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
                logger.exception("the lease's thread failed and begins anew")
                failed = error
                self._tell(lambda error=failed: self._on_failure(error))  # type: ignore[misc]
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
            self._tell(self._on_loss)

    async def _turn(self, fetch: Fetch) -> None:
        if self._loop_lives():
            await self.renew(fetch)
            self.renewals += 1

    def _loop_lives(self) -> bool:
        """Whether the event loop has ticked of late. One that stood still together with this thread gets its time."""
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
    """Unless woken."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()
