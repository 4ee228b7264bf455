"""The recorder: takes events, which are on disk before it says so, and delivers them in the background.

What comes of an event is one of: recorded (or known from before), parked where the gateway refuses it for good, or kept
and tried again, with longer waits. A batch that is refused as a whole for what it says is halved, down to the event at
fault. An event that was not delivered when its process ends is on disk for the next one.

Events wait in a bounded file on disk, one process's own (`EventSpool`, of which nothing is async). An event is on the
disk (fsync) when `append` returns. Nothing is struck from the file one by one: sending an event twice is harmless, so
that the file is emptied when all of its events are delivered, and written anew, with those that are left, when most
are. What does not fit on the disk is taken back to the last whole record, and raised.

A process's file is locked for as long as it lives (`billing.wal_segment`). Those of processes that have ended are
adopted by others of the same gateway and service; the file's name says whose they are. An event that the gateway
refuses for good is parked: appended, with the reason, to a file of lines in JSON that all processes share. A damaged
file is kept under another name.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from billing.client.errors import BadAnswer, ClientError, Refused
from billing.wal_segment import begin_segment, is_torn, record_of, records_in, segments_in, taken

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from billing.schemas.service import EventError, UsageResults


logger = logging.getLogger(__name__)

SUFFIX: Final = ".events"
DAMAGED: Final = ".damaged"
PARKED: Final = "parked.jsonl"
# Of the digest of the gateway's URL in a file's name.
URL_CHARACTERS: Final = 8
# To open a parked file that others take away at the same moment.
TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class SpoolRules:
    """Where events wait, and bounds: bytes of those that wait in one process, and of the parked ones in the folder;
    how many and how many bytes one call takes; how long a client waits at its end for what is left."""

    folder: Path
    most_bytes: int = 64 * 1024 * 1024
    most_parked_bytes: int = 64 * 1024 * 1024
    batch_events: int = 500
    batch_bytes: int = 512 * 1024
    drain_s: float = 5.0
    first_wait_s: float = 0.2
    longest_wait_s: float = 60.0
    adopt_every_s: float = 30.0

    def __post_init__(self) -> None:
        if min(self.most_bytes, self.most_parked_bytes, self.batch_bytes) < 1 or not 1 <= self.batch_events <= 1000:
            raise ValueError("a spool's bytes are above zero, and a call has 1 to 1,000 events")
        if not 0 < self.first_wait_s <= self.longest_wait_s or self.drain_s < 0 or self.adopt_every_s <= 0:
            raise ValueError("waits of a spool are above zero, and first_wait_s is at most longest_wait_s")


class EventSpool:
    """The file of one process. Made by `open`, which raises OSError where the folder can't be used; methods raise
    OSError where an event is not on the disk. For one thread at a time."""

    def __init__(self, rules: SpoolRules, base_url: str, service_name: str, new_id: Callable[[], str]) -> None:
        self._rules = rules
        self._whose = f"{service_name}.{hashlib.sha256(base_url.encode()).hexdigest()[:URL_CHARACTERS]}"
        self._new_id = new_id
        self._path: Path | None = None
        self._fd = -1
        self._torn = False
        self.size = 0

    @property
    def parked_path(self) -> Path:
        """Return where parked events are."""
        return self._rules.folder / f"{self._whose}.{PARKED}"

    def open(self) -> None:
        """Begin a file, in a folder that is made if missing."""
        self._rules.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._rules.folder / f"{self._whose}.{self._new_id()}{SUFFIX}"
        self._fd, self._path, self.size, self._torn = begin_segment(path), path, 0, False
        self._sync_folder()

    def append(self, events: Sequence[bytes], left: Sequence[bytes] = ()) -> None:
        """Write events, all or none of them. `left` are those that wait already: where the file is torn or has no room
        for delivered ones, it is written anew with them."""
        records = b"".join(map(record_of, events))
        if self._torn or self.size + len(records) > self._rules.most_bytes:
            self.rewrite(left)
        if self.size + len(records) > self._rules.most_bytes:
            raise OSError(errno.EFBIG, "as many events wait in the spool as it may have")
        self._write(records)

    def _write(self, records: bytes) -> None:
        try:
            view = memoryview(records)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError:
            try:
                os.ftruncate(self._fd, self.size)
            except OSError:
                self._torn = True  # nothing may follow a record that is not whole
            raise
        self.size += len(records)

    def rewrite(self, left: Sequence[bytes]) -> None:
        """Begin a file with these events alone, and remove the one before."""
        before = self._fd, self._path, self.size, self._torn
        self.open()
        try:
            if left:
                self._write(b"".join(map(record_of, left)))
        except OSError:
            self._drop()
            self._fd, self._path, self.size, self._torn = before
            raise
        now = self._fd, self._path
        self._fd, self._path = before[:2]
        self._drop()
        self._fd, self._path = now

    def empty(self) -> None:
        """Forget all events: they are delivered."""
        with suppress(OSError):  # then they are delivered again
            os.ftruncate(self._fd, 0)
            self.size, self._torn = 0, False

    def adopt(self, left: Sequence[bytes]) -> list[bytes]:
        """Append the events of processes that have ended, as far as there is room, and return them."""
        found: list[bytes] = []
        for path in segments_in(self._rules.folder, SUFFIX):
            if path == self._path or not path.name.startswith(f"{self._whose}."):
                continue
            with suppress(OSError), taken(path) as mine:
                if not mine:
                    continue
                raw = path.read_bytes()
                events, end = records_in(raw)
                if not is_torn(raw[end:]):
                    _keep_damaged(path, len(raw) - end)
                elif end < len(raw):
                    logger.warning("%s ends in an event that is not whole: its process was killed in writing it", path)
                self.append(events, [*left, *found])  # raises where there is no room, and the file stays
                found += events
        return found

    def park(self, event: bytes, why: str) -> None:
        """Keep an event that the gateway refuses for good, with the reason, for somebody to look at. One that is no
        JSON is kept as a text."""
        line = msgspec.json.encode({"why": why, "event": _kept(event)}) + b"\n"
        fd = self._open_parked()
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a process was killed in writing a line
                line = b"\n" + line
            if size + len(line) > self._rules.most_parked_bytes:
                raise OSError(errno.EFBIG, f"{self.parked_path} is full")
            try:
                if os.write(fd, line) != len(line):
                    raise OSError(errno.ENOSPC, "an event was parked in part")
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)

    def _open_parked(self) -> int:
        """Return the parked file, locked: closing it unlocks it."""
        for _ in range(TRIES):
            fd = os.open(self.parked_path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)  # held for one line at a time
            with suppress(OSError):
                if os.stat(self.parked_path).st_ino == os.fstat(fd).st_ino:
                    return fd
            os.close(fd)
        raise OSError(errno.EBUSY, f"{self.parked_path} is taken away")

    def unpark(self, left: Sequence[bytes]) -> list[bytes]:
        """Append the parked events again, and return them."""
        events: list[bytes] = []
        with taken(self.parked_path) as mine:
            if mine:
                for line in self.parked_path.read_bytes().splitlines():
                    try:
                        events.append(_event_of(msgspec.json.decode(line, type=_Parked).event))
                    except msgspec.DecodeError:  # its event was not struck from the spool, and is parked again
                        logger.warning("%s has a line that is not whole, which is left out", self.parked_path)
                self.append(events, left)
        return events

    def close(self, *, keep: bool) -> None:
        """Let go of the file; with `keep` whoever comes next adopts it."""
        if keep:
            os.close(self._fd)
        else:
            self._drop()
        self._fd, self._path = -1, None

    def _drop(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._fd)

    def _sync_folder(self) -> None:
        fd = os.open(self._rules.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # else the file's name may be lost with the machine
        finally:
            os.close(fd)


def _keep_damaged(path: Path, left: int) -> None:
    kept = path.with_suffix(DAMAGED)
    with suppress(FileExistsError):  # by a try before
        os.link(path, kept)
    logger.critical("events are lost in %d bytes of %s, which can't be read: the file is kept", left, kept)


class _Parked(msgspec.Struct):
    event: dict[str, msgspec.Raw] | str


def _kept(event: bytes) -> msgspec.Raw | str:
    try:
        msgspec.json.decode(event, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return event.decode(errors="backslashreplace")
    return msgspec.Raw(event)


def _event_of(parked: dict[str, msgspec.Raw] | str) -> bytes:
    return parked.encode() if isinstance(parked, str) else msgspec.json.encode(parked)


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
