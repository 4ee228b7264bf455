"""The recorder: takes events, which are on disk before it says so, and delivers them in the background.

What comes of an event is one of: recorded (or known from before), parked where the gateway refuses it for good, or kept
and tried again, with longer waits. A batch that is refused as a whole for what it says is halved, down to the event at
fault. An event that was not delivered when its process ends is on disk for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from billing.client.errors import BadAnswer, ClientError, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from billing.client.spool import EventSpool, SpoolRules
    from billing.schemas.service import EventError, UsageResults

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What one event of several is refused with that another try may take.
PASSING: Final = frozenset(("temporarily_unavailable", "server_error", "too_many_attempts", "capacity_held"))
_BATCH_AT_FAULT: Final = (400, 413)
_TOO_LARGE: Final = 413
# A file is written anew where it has at least this, and no more than half of it waits.
LEAST_REWRITTEN_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spooled:
    """What has come of events since the client was opened: how many wait now, were delivered, were parked, and were
    neither kept nor delivered, which the log has said of each."""

    waiting: int = 0
    delivered: int = 0
    parked: int = 0
    lost: int = 0


class Recorder:
    """Takes events as JSON, and sends some at a time with `send`, which gives a result for each."""

    def __init__(
        self, spool: EventSpool, rules: SpoolRules, send: Callable[[Sequence[bytes]], Awaitable[UsageResults]]
    ) -> None:
        self._spool = spool
        self._rules = rules
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._sending: list[bytes] = []
        self._incoming: list[tuple[bytes, asyncio.Future[None]]] = []
        self._file = asyncio.Lock()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._disk = ThreadPoolExecutor(1, "metergate-spool")
        self._loop_task: asyncio.Task[None] | None = None
        self._write_task: asyncio.Task[None] | None = None
        self._closed = self._fails = False
        self._counts = Spooled()
        self._bytes = 0

    @property
    def counts(self) -> Spooled:
        """Return what has come of the events so far."""
        return replace(self._counts, waiting=len(self._waiting) + len(self._sending))

    async def open(self) -> None:
        """Begin, with what processes have left that have ended. Raises OSError where the folder can't be used."""
        await self._on_disk(self._spool.open)
        await self._adopt()
        self._loop_task = asyncio.create_task(self._run())

    async def add(self, event: bytes) -> None:
        """Keep an event until it is delivered: it is on disk when this returns. Raises OSError where it is not."""
        if self._closed:
            raise OSError("the client is closed, or not open yet")
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._incoming.append((event, kept))
        if self._write_task is None:
            self._write_task = asyncio.create_task(self._write())
        await asyncio.shield(kept)

    def lost(self, event_id: str, why: object) -> None:
        """Count an event that is neither kept nor delivered, and say so."""
        self._counts = replace(self._counts, lost=self._counts.lost + 1)
        logger.critical("the event %s is lost: %s", event_id, why)

    async def close(self) -> None:
        """Send what can be delivered in `drain_s`, and leave the rest on disk."""
        self._closed = True
        try:
            if self._write_task is not None:
                await asyncio.wait([self._write_task])
            if not self._fails:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._rules.drain_s):
                        await self._idle.wait()
        finally:  # also where the caller is cancelled: a file that stays locked is adopted by nobody
            if self._loop_task is not None:
                self._loop_task.cancel()
                await asyncio.wait([self._loop_task])
            await self._on_disk(partial(self._spool.close, keep=bool(self._waiting)))
            self._disk.shutdown(wait=False)

    async def retry_parked(self) -> int:
        """Take parked events for new ones; return how many. Raises OSError."""
        async with self._file:
            events = await self._on_disk(self._spool.unpark, self._left())
        self._take(events)
        return len(events)

    async def _on_disk(self, do: Callable[..., T], *what: object) -> T:
        """Do something with the files, one thing after the other, also where nobody waits for it any more."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, do, *what)

    def _left(self) -> list[bytes]:
        return [*self._sending, *self._waiting]

    def _take(self, events: Sequence[bytes]) -> None:
        if events:
            self._waiting.extend(events)
            self._bytes += sum(map(len, events))
            self._idle.clear()
            self._wake.set()

    async def _write(self) -> None:
        """Write what has come: those that come meanwhile share the next write."""
        try:
            while self._incoming:
                some, self._incoming = self._incoming, []
                events = [event for event, _ in some]
                failed: OSError | None = None
                async with self._file:
                    try:
                        await self._on_disk(self._spool.append, events, self._left())
                    except OSError as error:
                        failed = error
                if failed is None:
                    self._take(events)
                for _, kept in some:
                    if failed is not None:
                        kept.set_exception(failed)
                        kept.exception()  # retrieved here: there may be no caller any more
                    elif not kept.done():
                        kept.set_result(None)
        finally:
            self._write_task = None

    async def _adopt(self) -> None:
        async with self._file:
            self._take(await self._on_disk(self._spool.adopt, self._left()))

    async def _run(self) -> None:
        tried = 0
        while True:
            wait_s = 0.0
            try:
                if not self._waiting:
                    await self._rest()
                    continue
                tried = 0 if await self._deliver() else tried + 1
            except ClientError as error:
                tried += 1
                wait_s = min(float(error.retry_after_s or 0), self._rules.longest_wait_s)
                logger.warning("%d events of this service wait to be delivered: %s", self.counts.waiting, error)
            except Exception:
                tried += 1
                logger.exception("events of this service could not be delivered, and are kept")
            finally:
                self._waiting.extendleft(reversed(self._sending))
                self._sending = []
            self._fails = tried > 0
            if tried and self._closed:
                self._idle.set()  # who closes waits for what can be delivered alone
            if tried:
                await asyncio.sleep(max(wait_s, self._wait_s(tried)))

    def _wait_s(self, tried: int) -> float:
        step_s = min(self._rules.longest_wait_s, self._rules.first_wait_s * 2.0 ** min(tried - 1, 30))
        return step_s * (1 + random.random()) / 2  # noqa: S311  (it spreads tries, and is no secret)

    async def _rest(self) -> None:
        """Empty the file, and wait for events; look for what others have left now and then."""
        async with self._file:
            if not self._waiting and self._spool.size:
                await self._on_disk(self._spool.empty)
        if self._waiting:
            return
        self._wake.clear()
        self._idle.set()
        try:
            async with asyncio.timeout(self._rules.adopt_every_s):
                await self._wake.wait()
        except TimeoutError:
            await self._adopt()

    def _batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._waiting and len(batch) < self._rules.batch_events:
            size += len(self._waiting[0]) + 1
            if batch and size > self._rules.batch_bytes:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _deliver(self) -> bool:
        """Send a batch; return whether some of it is finished. The rest stays in `_sending`. Raises `ClientError`."""
        self._sending = self._batch()
        todo, moved = [list(self._sending)], False
        while todo:
            some = todo.pop()
            try:
                results = await self._send(some)
            except (Refused, BadAnswer) as error:
                if not _is_at_fault(error):
                    raise
                if len(some) == 1:
                    moved |= await self._park(some[0], str(error))
                else:
                    todo += [some[len(some) // 2 :], some[: len(some) // 2]]
                continue
            for event, result in zip(some, results.data, strict=True):
                if result.status != "refused":
                    self._done(event)
                    self._counts = replace(self._counts, delivered=self._counts.delivered + 1)
                    moved = True
                else:
                    moved |= await self._refused(event, result.error)
        await self._compact()
        return moved

    async def _refused(self, event: bytes, error: EventError | None) -> bool:
        """Park an event that is refused for good, and put another one to the tail."""
        if error is not None and error.code not in PASSING:
            return await self._park(event, f"{error.code}: {error.message}")
        self._to_tail(event)
        return False

    async def _park(self, event: bytes, why: str) -> bool:
        try:
            async with self._file:
                await self._on_disk(self._spool.park, event, why)
        except OSError as error:
            logger.critical("an event that is refused (%s) can't be parked, and is kept: %s", why, error)
            self._to_tail(event)
            return False
        logger.error("an event of this service is refused, and parked in %s: %s", self._spool.parked_path, why)
        self._counts = replace(self._counts, parked=self._counts.parked + 1)
        self._done(event)
        return True

    def _done(self, event: bytes) -> None:
        self._sending.remove(event)
        self._bytes -= len(event)

    def _to_tail(self, event: bytes) -> None:
        self._sending.remove(event)
        self._waiting.append(event)

    async def _compact(self) -> None:
        if self._spool.size < LEAST_REWRITTEN_BYTES or self._bytes * 2 > self._spool.size:
            return
        async with self._file:
            with suppress(OSError):  # the file as it is serves as well
                await self._on_disk(self._spool.rewrite, self._left())


def _is_at_fault(error: Refused | BadAnswer) -> bool:
    """Return whether the event itself is wrong, rather than the service's key or the server."""
    return error.status == _TOO_LARGE or (isinstance(error, Refused) and error.status in _BATCH_AT_FAULT)
