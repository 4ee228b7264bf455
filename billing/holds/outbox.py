"""The outbox: debits that Redis has settled, on their way from this process to Postgres, with a second copy on disk.

A debit is in Redis's journal and here until Postgres has it. Then it is forgotten here, and acknowledged to Redis.

The journal serves when a process is lost, the process's memory when Redis is lost, and the spool when both are lost at
once. What a killed process wrote to a file the kernel keeps, so nothing is synced to the disk: a machine that loses
power loses the spool's last seconds with the process. A gateway appends to segments of its own (`billing.wal_segment`),
and removes each when Postgres has its debits. Whoever finds a segment that nobody has locked writes its debits to the
ledger, where their request ids make that harmless, and removes it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from billing.errors import MetergateError, StoreError
from billing.holds.debit_writer import DebitWriter
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import ACK
from billing.ledger.debits import Debit, NewerLayout, decode_debit, encode_debit
from billing.ledger.writer import write_batch
from billing.wal_segment import begin_segment, record_of, records_in, segments_in, taken

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.holds.epochs import Partition
    from billing.holds.loading import Corrections
    from billing.ledger.writer import Stored

logger = logging.getLogger(__name__)


# Entries that one call removes from Redis's journal: Redis is held for well under a millisecond.
ACKS_A_CALL: Final = 500
# So many debits are worth a transaction: what it costs is shared by enough of them.
GATHERED_ROWS: Final = 16
# Of `flush_s`: between the beginnings of two transactions, however many debits come.
LEAST_PAUSE_SHARE: Final = 0.25


class Outbox(DebitWriter[Debit]):
    """Writes debits in batches of at most `batch_rows`. A debit waits at most `flush_s` for its batch to begin, and not
    at all where the last one is as long ago. `spool`, where there is one, has a copy of what waits."""

    def __init__(
        self, corrections: Corrections, on_failure: Callable[[Exception], None], *, batch_rows: int, flush_s: float
    ) -> None:
        partitions = corrections.partitions
        super().__init__(partitions.database, attrgetter("account_id"), on_failure, batch_rows=batch_rows)
        self._corrections = corrections
        self._partitions = partitions
        self._flush_s = flush_s
        self._enough = asyncio.Event()
        self._begun_s = -flush_s
        self._ack = Script("ack")
        self.spool: Spool | None = None

    def request_ids(self) -> frozenset[str]:
        """Return the requests whose debits wait here."""
        return frozenset(debit.request_id for debit in self.waiting)

    def older_than(self, partition: Partition, epoch: int) -> set[str]:
        """Return accounts of this partition of which a debit of an older epoch still waits."""
        return {
            debit.account_id
            for debit in self.waiting
            if debit.epoch is not None and debit.epoch < epoch and self._partitions.of(debit.account_id) is partition
        }

    def add(self, debit: Debit) -> None:
        """Take a debit that Redis has settled."""
        if self.spool is not None:
            self.spool.add(debit)
        if not self.waiting.add(debit):
            return
        ready = len(self.waiting.ready)
        if ready == 1:
            self._arrived.set()
        elif ready == GATHERED_ROWS:
            self._enough.set()

    async def run(self) -> None:
        """Write for ever, with bounded back-off while Postgres is away."""
        while True:
            await self._until_due()
            await self._gather()
            await self._flush_or_pause()

    async def _gather(self) -> None:
        """Wait for more debits, for a transaction for each would cost more than serving it does: until `flush_s` after
        the last batch began at the latest."""
        loop, begun_s = self._loop, self._begun_s
        try:
            async with asyncio.timeout_at(begun_s + self._flush_s):
                await self._enough.wait()
        except TimeoutError:
            pass
        else:
            await asyncio.sleep(max(0.0, begun_s + self._flush_s * LEAST_PAUSE_SHARE - loop.time()))
        self._begun_s = loop.time()

    async def flush(self) -> None:
        """Write all that waits now, as `DebitWriter.flush`. Raises `DatabaseError`."""
        await super().flush()
        if len(self.waiting.ready) < GATHERED_ROWS:
            self._enough.clear()

    def _debits(self, items: list[Debit]) -> list[Debit]:
        return items

    async def _written(self, items: list[Debit], stored: dict[str, Stored]) -> None:
        try:
            if self.spool is not None:
                self.spool.written(items)
        finally:
            await self.acknowledge(items, stored)

    async def write(self, debits: Sequence[Debit], locked: set[str]) -> int:
        """Write and acknowledge debits that did not come by `add`, of ended processes, say; return how many were
        written. Accounts whose rows are locked are added to `locked`, and theirs are left out. Raises `StoreError`."""
        batch = [debit for debit in debits if debit.account_id not in locked]
        if not batch:
            return 0
        written = await write_batch(self._database, batch)
        locked |= written.locked
        done = [debit for debit in batch if debit.account_id not in locked]
        await self.acknowledge(done, written.stored)
        return len(done)

    async def acknowledge(self, debits: Iterable[Debit], stored: dict[str, Stored]) -> None:
        """Remove debits that Postgres has from the journal. One that stays, or a Redis that is away, is left to the
        sweep: acknowledging is never what makes a debit safe."""
        by_partition: dict[Partition, list[Debit]] = {}
        for debit in debits:
            by_partition.setdefault(self._partitions.of(debit.account_id), []).append(debit)
        for partition, group in by_partition.items():
            try:
                for start in range(0, len(group), ACKS_A_CALL):
                    await self._acknowledge(partition, group[start : start + ACKS_A_CALL], stored)
            except StoreError as error:
                logger.info("%d debits stay in the journal for now: %s", len(group), error)

    async def _acknowledge(self, partition: Partition, debits: list[Debit], stored: dict[str, Stored]) -> None:
        if partition.epoch is None:
            return
        keyspace = self._partitions.keyspace
        keys = [partition.meta, partition.journal]
        positions: dict[str, int] = {}
        arguments: list[bytes | int] = [partition.epoch]
        for debit in debits:
            row = stored.get(debit.request_id)
            position, xseq = 0, row.xseq if row is not None else None  # a dead letter is in Postgres, too
            if xseq is not None:
                if debit.account_id not in positions:
                    await self._corrections.sync(partition, debit.account_id)
                    keys.append(keyspace.account(debit.account_id))
                    positions[debit.account_id] = len(keys)
                position = positions[debit.account_id]
            arguments.append(ACK.pack(debit.request_id.encode(), position, xseq or 0))
        await self._partitions.redis.client.call(self._ack, keys, arguments)


SUFFIX: Final = ".debits"
SEGMENT_BYTES: Final = 4 * 1024 * 1024
# Of all segments of one process: `max_unsettled` debits by default, with room. What is beyond has no second copy.
MOST_BYTES: Final = 128 * 1024 * 1024
# When a segment begins, what is left of older ones is moved there, where that is no more than one of so many.
FEW_OF: Final = 4
# A smaller segment is not emptied each time that all of its debits are written: writing them again is harmless.
TRIMMED_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class _Segment:
    """One file. `left` are its debits that Postgres does not have yet, by request id, of `made` that it has."""

    path: Path
    fd: int
    size: int = 0
    made: int = 0
    left: dict[str, Debit] = field(default_factory=dict)


class Spool:
    """Appends the debits of one process to `folder`, which is made if missing, for its user alone. Raises OSError where
    it can't be used. Once it is made no method raises: without room there is no second copy, and the log says so."""

    def __init__(self, folder: Path, gateway_id: str) -> None:
        self.folder = folder
        self._gateway_id = gateway_id
        self._segments: list[_Segment] = []
        # By request id, of what Postgres does not have yet.
        self._segment_of: dict[str, _Segment] = {}
        self._made = self._waiting = self._bytes = 0
        self._failed = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._begin_segment()

    def _begin_segment(self) -> _Segment:
        path = self.folder / f"{self._gateway_id}.{self._made}{SUFFIX}"
        self._made += 1
        self._segments.append(_Segment(path, begin_segment(path)))
        return self._segments[-1]

    def add(self, debit: Debit) -> None:
        """Append a debit: one write(2) of some 600 bytes."""
        self._waiting += 1
        if not self._segments:  # closed: this process ends
            return
        if self._failed and self._waiting > 1:
            return
        payload = encode_debit(debit)
        try:
            self._append(record_of(payload), debit)
        except OSError as error:
            if not self._failed:
                logger.warning("debits have no second copy in %s for now: %s", self.folder, error)
            self._failed = True  # nothing follows a record that may be torn, until Postgres has all debits

    def _append(self, record: bytes, debit: Debit) -> None:
        segment = self._segments[-1]
        if self._failed or segment.size >= SEGMENT_BYTES:
            segment = self._begin_segment()
            self._failed = False
            self._remove_written()
            self._move_few_left(segment)
        self._write(segment, record, (debit,))

    def _move_few_left(self, newest: _Segment) -> None:
        """Write those that wait for long, as an account's row is locked, behind one another: else one of them would
        keep a whole segment, and few of them all the room there is."""
        for segment in self._segments[:-1]:
            if len(segment.left) * FEW_OF <= segment.made:
                left = tuple(segment.left.values())
                self._write(newest, b"".join(record_of(encode_debit(each)) for each in left), left)
                segment.left.clear()
        self._remove_written()

    def _write(self, segment: _Segment, record: bytes, debits: Sequence[Debit]) -> None:
        if self._bytes + len(record) > MOST_BYTES:
            raise OSError(errno.EFBIG, "too many wait for Postgres")
        segment.size += len(record)
        self._bytes += len(record)
        if os.write(segment.fd, record) != len(record):
            raise OSError(errno.ENOSPC, "a debit was written in part")
        segment.made += len(debits)
        for debit in debits:
            segment.left[debit.request_id] = debit
            self._segment_of[debit.request_id] = segment

    def written(self, debits: Iterable[Debit]) -> None:
        """Strike debits that Postgres has, each of which was added, in whatever order."""
        for debit in debits:
            self._waiting -= 1
            segment = self._segment_of.pop(debit.request_id, None)
            if segment is not None:
                segment.left.pop(debit.request_id, None)
        self._remove_written()
        last = self._segments[-1] if self._segments else None
        if last is not None and not last.left and last.size > TRIMMED_BYTES:
            with suppress(OSError):
                os.ftruncate(last.fd, 0)
                self._bytes -= last.size
                last.size = last.made = 0

    def _remove_written(self) -> None:
        for segment in self._segments[:-1]:
            if not segment.left:
                self._segments.remove(segment)
                self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        self._bytes -= segment.size
        with suppress(OSError):
            segment.path.unlink()
        os.close(segment.fd)

    def close(self) -> None:
        """Leave what Postgres does not have yet to whoever finds it."""
        segments, self._segments = self._segments, []
        for segment in segments:
            if segment.left:
                os.close(segment.fd)
            else:
                self._remove(segment)


def left_behind(folder: Path) -> list[Path]:
    """Return segments in a folder, of living processes too; none where there is no such folder."""
    return segments_in(folder, SUFFIX)


def read_debits(path: Path, on_newer: Callable[[], None] | None = None) -> list[Debit]:
    """Return the debits of a segment, up to the first record that is not whole; `on_newer` is called for each that a
    newer release wrote, and that is left out. Raises OSError."""
    raw, found = path.read_bytes(), list[Debit]()
    payloads, end = records_in(raw)
    for payload in payloads:
        try:
            found.append(decode_debit(payload))
        except NewerLayout:
            if on_newer is not None:
                on_newer()
        except (ValueError, msgspec.MsgspecError) as error:
            logger.critical("a debit in %s can't be read, and is skipped: %s", path, error)
    if end < len(raw):
        logger.warning("%s ends in a record that is not whole: its process was killed while writing it", path)
    return found


KNOWN_ACCOUNTS: Final = "SELECT id FROM accounts WHERE id = ANY ($1::text[])"
# Debits that are written and acknowledged at once.
REPLAYED_ROWS: Final = 500
# Spools that are left to others and remembered, so that they are not read again.
MOST_LEFT: Final = 1000


class LeftToOthers(MetergateError):
    """A spool of another ledger, such as one that was here before, or with debits of a newer release, which that one's
    gateways read: it stays where it is."""


class AccountsLocked(MetergateError):
    """Debits of these accounts could not be written, for their rows are locked: the spool stays where it is."""

    def __init__(self, accounts: frozenset[str]) -> None:
        super().__init__(f"the rows of {len(accounts)} accounts are locked")
        self.accounts = accounts


class Replay:
    """Writes the debits that ended processes of this machine have left in the folder of the outbox's own spool. Request
    ids make it harmless to write a debit twice, so nothing needs to know how far its process had come. `locked` are the
    accounts whose debits the last run could not write."""

    def __init__(self, outbox: Outbox, database: Database) -> None:
        self._database = database
        self._outbox = outbox
        self._left: set[Path] = set()
        self.locked: frozenset[str] = frozenset()
        self._running = asyncio.Lock()

    async def run(self) -> int:
        """Write the debits of spools whose processes have ended, and remove these; return how many debits. Waits for a
        run under way: whoever opens an epoch must have its debits in the ledger. Raises `DatabaseError`: what was not
        written stays then."""
        async with self._running:
            return await self._run()

    async def _run(self) -> int:
        spool, replayed = self._outbox.spool, 0
        locked: frozenset[str] = frozenset()
        for path in left_behind(spool.folder) if spool is not None else ():
            if path in self._left:
                continue
            try:
                with taken(path) as ours:
                    replayed += await self._write(path) if ours else 0
            except LeftToOthers as error:
                logger.critical("%s: it is left there", error)
                if len(self._left) < MOST_LEFT:
                    self._left.add(path)
            except AccountsLocked as error:
                locked |= error.accounts
            except OSError as error:
                logger.error("%s is replayed later: %s", path, error)
        self.locked = locked
        if replayed:
            logger.info("replayed %d debits of processes that have ended", replayed)
        return replayed

    async def _write(self, path: Path) -> int:
        newer: list[None] = []
        debits = await asyncio.to_thread(read_debits, path, lambda: newer.append(None))
        await self._check_known(path, debits)
        locked: set[str] = set()
        for start in range(0, len(debits), REPLAYED_ROWS):
            await self._outbox.write(debits[start : start + REPLAYED_ROWS], locked)
        if locked:
            raise AccountsLocked(frozenset(locked))
        if newer:
            raise LeftToOthers(f"{path} has {len(newer)} debits of a newer release")
        return len(debits)

    async def _check_known(self, path: Path, debits: Sequence[Debit]) -> None:
        """Raise `LeftToOthers` where this ledger has not got every account of these debits."""
        accounts = {debit.account_id for debit in debits}
        known = {row["id"] for row in await self._database.rows(KNOWN_ACCOUNTS, list(accounts))} if accounts else set()
        if accounts - known:
            raise LeftToOthers(f"{path} has debits of {len(accounts - known)} accounts that this ledger does not have")
