"""Epochs: they number the lives of the Redis server behind each partition (rule R1). A `Partition` is what this gateway
knows of one: the epoch that was agreed on, and with which server session.

A server whose identity is new or changed, or that was loaded from another ledger or from more than this one has, begins
a new epoch in Postgres and is fenced. `epoch_start` has how an epoch opens. One that is open is closed when Redis's
clock is found to be wrong.

A ledger that was restored from a backup, or replaced, is told from the one that Redis was loaded from by its identity
(`ledger_identity()`), and by its beats, which every gateway raises each second and some of which are noted in Redis:
those of a ledger that was set back are fewer, however it was done.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, Row, queries
from billing.errors import MetergateError, StoreError
from billing.holds.redis.connection import RedisMoved, Script
from billing.holds.redis.layout import AHEAD_S, STATE_VERSION
from billing.work import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.holds.lease import Peers
    from billing.holds.redis.connection import ServerSession
    from billing.holds.redis.layout import Keyspace
    from billing.holds.redis.state import RedisState

logger = logging.getLogger(__name__)


class NotReady(StoreError):
    """The partition's epoch could not be agreed on: Redis or Postgres is away."""


class LostWrites(MetergateError):
    """Redis had this account in this epoch and no longer has it: it has lost writes, and needs a new epoch."""

    def __init__(self, account_id: str, epoch: int) -> None:
        super().__init__(f"Redis has lost {account_id} in epoch {epoch}")
        self.epoch = epoch


class Partition:
    """One partition as this gateway knows it. `meta`, `journal`, `installed` and `joined` are the names of its own
    keys.

    An epoch is agreed on within one session with its server. It is None before, after that session, and once it was
    forgotten: a new connection never serves under an epoch that another one had agreed on. `reached` is the newest
    epoch that was agreed on here: both stores may be set back to before it, and must not begin another one of its
    number, for debits and holds in this process are of it. `overtaken_by` is a newer epoch that Redis does not know of.

    `clock_is_wrong`: what the server would admit now would count in windows that are not now. `apart`: its clock and
    Postgres's differ.

    `quarantined` are accounts that this gateway has not settled for the epoch that it has joined: nobody serves them.
    `quarantined_by` are the gateways that had such accounts when this one joined, `has_quarantined` whether any has.
    `incompatible_peers` are gateways that keep state in another layout: while they live they have the partition.
    """

    __slots__ = (
        "_epoch",
        "_ledger",
        "_set_back",
        "apart",
        "clock_is_wrong",
        "clock_offset_ms",
        "has_quarantined",
        "incompatible_peers",
        "installed",
        "joined",
        "joined_epoch",
        "journal",
        "meta",
        "number",
        "overtaken_by",
        "quarantined",
        "quarantined_by",
        "reached",
        "session",
    )

    def __init__(self, number: int, keyspace: Keyspace) -> None:
        self.number = number
        self.meta, self.journal = keyspace.meta(number), keyspace.journal(number)
        self.installed, self.joined = keyspace.installed(number), keyspace.joined(number)
        self.session: ServerSession | None = None
        self._epoch: int | None = None
        self.joined_epoch: int | None = None
        self.quarantined: frozenset[str] = frozenset()
        self.quarantined_by: list[str] = []
        self.has_quarantined = False
        self.clock_offset_ms = 0
        self.apart = False
        self.incompatible_peers: list[str] = []
        self.clock_is_wrong = False
        self.reached = 0
        self.overtaken_by: int | None = None
        self._ledger: str | None = None
        self._set_back = False

    @property
    def epoch(self) -> int | None:
        """Return the epoch that is agreed on; None where there is none, or where its session has ended."""
        session = self.session
        return self._epoch if session is not None and session.stands else None

    def agree(self, session: ServerSession, epoch: int, ledger: str, *, set_back: bool) -> None:
        """Accept the epoch that the server has named in this session, and the ledger's name. `set_back`: the ledger is
        known to have been set back before."""
        self.session, self._epoch = session, epoch
        self.reached, self._ledger, self._set_back = epoch, ledger, set_back

    def may_agree(self, epoch: int, ledger: str) -> bool:
        """Return whether it is a newer epoch than any before, or the one that was agreed on last."""
        return epoch > self.reached or (epoch, ledger) == (self.reached, self._ledger)

    def forget(self) -> None:
        """Require that the epoch is agreed on again before anything is sent."""
        self._epoch = None

    def forget_ledger(self) -> None:
        """Refuse the present epoch for good, if it is from before the ledger was set back."""
        self.forget()
        if not self._set_back:
            self._ledger = None
        self._set_back = False

    def now_ms(self) -> int:
        """Return Redis's time, as this process reckons it."""
        return int(time.monotonic() * 1000) + self.clock_offset_ms


_sql = queries("billing.holds")
GREET: Final = _sql("partitions_greet")
MOVE_EPOCH: Final = _sql("partitions_move_epoch")

HANDSHAKE_ATTEMPTS: Final = 5
# The third attempt waits for up to so long, the fourth for up to twice that: gateways that start together each begin an
# epoch before the other has published its own to Redis, for as long as they keep step.
HANDSHAKE_PAUSE_S: Final = 0.25
# Clocks that differ by more are not the same: windows and the ledger's months would not be.
APART_MS: Final = AHEAD_S * 1000
# Gateways that a message names.
NAMED: Final = 5


class Partitions:
    """Every partition of the installation, and the handshake that agrees on their epochs; with the stores that both are
    in. `peers` knows which gateways live, also those that keep state in another layout."""

    def __init__(self, database: Database, redis: RedisState, peers: Peers) -> None:
        self.database = database
        self.redis = redis
        self.keyspace = redis.keyspace
        self.peers = peers
        self._handshakes: SingleFlight[None] = SingleFlight()
        self._renewals: SingleFlight[None] = SingleFlight()
        self._lost: set[tuple[int, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Set when a new epoch was begun because writes were lost, so that it is joined at once.
        self.renewal = asyncio.Event()
        self._fence, self._beat = Script("fence"), Script("beat")
        self.ledger = LedgerWatch(database)
        self.all = [Partition(number, redis.keyspace) for number in range(redis.keyspace.partitions)]

    def of(self, account_id: str) -> Partition:
        """Return the partition of an account."""
        return self.all[self.keyspace.partition_of(account_id)] if len(self.all) > 1 else self.all[0]

    async def ensure(self, partition: Partition, stale: int | None = None) -> int:
        """Return the partition's epoch, agreed on now where it is unknown or still the `stale` one. Raises
        `NotReady`."""
        epoch = partition.epoch
        if epoch is None or epoch == stale:
            try:
                await self._handshakes.run(partition.number, lambda: self._handshake(partition))
            except StoreError as error:
                partition.forget()
                raise NotReady(str(error)) from error
            epoch = partition.epoch
        if epoch is None:
            raise NotReady(
                incompatible_message(partition.incompatible_peers)
                if partition.incompatible_peers
                else "the epoch is moving"
            )
        return epoch

    async def _handshake(self, partition: Partition) -> None:
        """Agree on the epoch. Where the server is not the one to ask, its slot may just be moving: asked again, it is
        looked for again, REFRESH_AT_MOST_EVERY_S apart. Raises `StoreError`."""
        elsewhere: RedisMoved | None = None
        for attempt in range(HANDSHAKE_ATTEMPTS):
            if attempt > 1:
                await asyncio.sleep(random.random() * HANDSHAKE_PAUSE_S * (attempt - 1))  # noqa: S311  # only to get out of step
            try:
                if await self._greet(partition):
                    return
            except RedisMoved as error:
                elsewhere = error
        if elsewhere is not None:
            raise elsewhere

    async def _greet(self, partition: Partition) -> bool:
        """Run one round of the handshake, all over one connection; return whether the epoch is agreed on, or can't be
        for now."""
        number = partition.number
        session = await self.redis.client.connect(partition.meta)
        identity = await _identity(session)
        counted = self.ledger.beat
        row = await self._ledger_row(number)  # first: Redis is never ahead of it, but where the ledger went back
        meta = await self.redis.meta(session, number)
        agreed = (meta.epoch, meta.identity, meta.ledger) == (row["epoch"], identity, row["ledger"])
        agreed = agreed and partition.may_agree(row["epoch"], row["ledger"])
        if agreed and not await self._went_back(number, row, meta.beat):
            await self._set_clock(partition, session)
            partition.agree(session, row["epoch"], row["ledger"], set_back=row["beat"] < counted)
            partition.incompatible_peers = []
            return True
        partition.forget()
        if await self._has_incompatible_peers(partition):
            return True
        await self._move(partition, row, identity, meta.epoch)
        return False

    async def _has_incompatible_peers(self, partition: Partition) -> bool:
        """Return whether gateways of a release with another layout live, which know of epochs but not of this: they
        have the partition until they end, for epochs that each side keeps beginning serve nobody. Raises
        `DatabaseError`."""
        before, partition.incompatible_peers = partition.incompatible_peers, sorted(await self.peers.of_other_layouts())
        if partition.incompatible_peers and not before:
            logger.error("partition %d: %s", partition.number, incompatible_message(partition.incompatible_peers))
        return bool(partition.incompatible_peers)

    async def _ledger_row(self, number: int) -> Row:
        row = await self.database.row(GREET, number)
        assert row is not None  # noqa: S101  (the installation is one row, always)
        return row

    async def _went_back(self, number: int, row: Row, beat: int) -> bool:
        """Return whether the ledger has counted less than Redis has noted: it may just have gone on since it was
        read."""
        return beat > row["beat"] and bool(beat > (await self._ledger_row(number))["beat"])

    async def renew(self, partition: Partition, lost: int | None = None) -> None:
        """Begin a new epoch although the server is the same: everything is loaded again. With `lost`, only where that
        is still the newest one: another gateway may have done it. It is completed even if the caller gives up: Redis
        must be fenced for what the ledger has begun. Raises `NotReady`."""
        await self._renewals.run((partition.number, lost), lambda: self._renew(partition, lost))

    async def _renew(self, partition: Partition, lost: int | None) -> None:
        try:
            session = await self.redis.client.connect(partition.meta)
            identity = await _identity(session)
            row = await self._ledger_row(partition.number)
            if await self._has_incompatible_peers(partition):
                raise NotReady(incompatible_message(partition.incompatible_peers))
            if lost is None or row["epoch"] == lost:
                in_redis = (await self.redis.meta(session, partition.number)).epoch
                await self._move(partition, row, identity, in_redis)
        except StoreError as error:
            raise NotReady(str(error)) from error
        if lost is None or partition.epoch == lost:
            partition.forget()

    def lost_writes(self, partition: Partition, epoch: int) -> None:
        """Begin a new epoch, in a task: Redis or the ledger has lost what it wrote in this one, and what Redis says of
        balances and holds is not believed any more."""
        name = (partition.number, epoch)
        if partition.epoch == epoch and name not in self._lost:
            logger.error("partition %d: writes of epoch %d are lost: a new one begins", *name)
            self._lost.add(name)
            task = asyncio.create_task(self._renew_lost(partition, epoch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _renew_lost(self, partition: Partition, epoch: int) -> None:
        try:
            await self.renew(partition, epoch)
            self.renewal.set()
        except NotReady as error:
            logger.info("partition %d: %s", partition.number, error)
        finally:
            self._lost.discard((partition.number, epoch))

    async def renewed(self) -> None:
        """Wait for new epochs that are being begun."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Give up new epochs that are being begun."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _move(self, partition: Partition, row: Row, identity: str, in_redis: int) -> None:
        """Begin an epoch that neither store has had: Redis may be ahead of a ledger that was restored. Nor has this
        process: both may have gone back."""
        number, stored = partition.number, row["epoch"]
        newest = max(stored, in_redis, partition.reached)
        moved = await self.database.row(MOVE_EPOCH, number, stored, identity, newest + 1)
        if moved is not None:
            before = f" (Redis was in {in_redis}, the ledger in {stored})" if in_redis > stored else ""
            logger.info("partition %d: epoch %d begins%s", number, moved["epoch"], before)
            keys = [partition.meta, partition.joined, partition.installed]
            arguments = [moved["epoch"], identity, moved["ledger"], moved["beat"]]
            await self.redis.client.call(self._fence, keys, arguments)

    async def refresh_ledger(self) -> None:
        """Check that the ledger is still the one that the epochs were agreed on with, and has begun no newer ones;
        otherwise they are agreed on again. Raises `DatabaseError`."""
        if not await self.ledger.refresh():
            for partition in self.all:
                if self.ledger.set_back:
                    partition.forget_ledger()
                else:
                    partition.forget()  # another ledger has other numbers of epochs
        for partition in self.all:
            self._check_epoch(partition)

    def _check_epoch(self, partition: Partition) -> None:
        """Check that Redis knows of the epoch. Whoever begins an epoch fences Redis at once. Where that is still not
        done at the next check it has died on the way, or has fenced another server, and no account can be loaded into
        the epoch that Redis is in."""
        newest, before = self.ledger.epochs.get(partition.number, 0), partition.overtaken_by
        partition.overtaken_by = newest if partition.epoch is not None and newest > partition.epoch else None
        if partition.overtaken_by is not None and partition.overtaken_by == before:
            logger.error("partition %d: Redis has not been told of epoch %d", partition.number, newest)
            partition.forget()

    async def is_current(self, partition: Partition) -> bool:
        """Return whether the epoch in hand is still the server's, and open; refreshes the clock. Raises
        `RedisError`."""
        session, epoch = partition.session, partition.epoch
        if session is None or epoch is None:
            return False
        meta, has_changed, _ = await asyncio.gather(  # they are sent together, and answered together
            self.redis.meta(session, partition.number), session.has_changed(), self._set_clock(partition, session)
        )
        if meta.epoch != epoch or has_changed:
            partition.forget()
            return False
        arguments = [epoch, self.ledger.beat, int(partition.clock_is_wrong)]
        keys = [partition.meta, partition.installed]
        open_ = await self.redis.client.call(self._beat, keys, arguments)
        partition.has_quarantined = open_ == 2
        return bool(open_ >= 1)

    def clock_difference_ms(self, partition: Partition) -> int:
        """Return how far Redis's clock is ahead of Postgres's; 0 while one of them is not known."""
        ledger_ms = self.ledger.now_ms()
        return partition.now_ms() - ledger_ms if ledger_ms is not None and partition.session is not None else 0

    @property
    def clock_difference_s(self) -> float:
        """Return the largest of all partitions, in seconds, whichever is ahead."""
        return max(abs(self.clock_difference_ms(partition)) for partition in self.all) / 1000

    async def _set_clock(self, partition: Partition, session: ServerSession) -> None:
        """Reckon by the server's clock, and find out whether that is wrong: where it is neither Postgres's nor this
        process's own."""
        partition.clock_offset_ms = await session.time_ms() - int(time.monotonic() * 1000)
        ledger_ms, now_ms = self.ledger.now_ms(), partition.now_ms()
        own_ms = int(time.time() * 1000)
        apart_ms = min(abs(now_ms - ledger_ms), abs(now_ms - own_ms)) if ledger_ms is not None else 0
        partition.clock_is_wrong = apart_ms > APART_MS


async def _identity(session: ServerSession) -> str:
    """Return what an epoch is agreed on with: a life of the server, and the layout of what is kept in it. Releases that
    keep another one take the epoch for another server's. Raises as `ServerSession.identity`."""
    return f"{await session.identity()}:{STATE_VERSION}"


def incompatible_message(gateways: Sequence[str]) -> str:
    """Return what to do about gateways that keep state in another layout and live."""
    named = ", ".join(gateways[:NAMED])
    return f"{len(gateways)} gateways of a release that can't run beside this one live: stop them first ({named})"


BEAT: Final = queries("billing.holds")("ledger_beat")


class LedgerWatch:
    """The ledger's last state. `beat` is how far it has counted, 0 before the first `refresh`; `set_back`
    whether that was less than before, of the same ledger. `epochs` are those of its partitions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._identity: str | None = None
        self._clock_offset_ms = 0
        self._refreshing = asyncio.Lock()
        self.beat = 0
        self.set_back = False
        self.epochs: dict[int, int] = {}

    async def refresh(self) -> bool:
        """Raise the beat; return whether it is still the same ledger. Raises `DatabaseError`."""
        async with self._refreshing:  # answers must come in the order of the beats
            row = await self._database.row(BEAT)
        assert row is not None  # noqa: S101  (the installation is one row, always)
        self._clock_offset_ms = row["now_ms"] - int(time.monotonic() * 1000)
        self.set_back = row["identity"] == self._identity and row["beat"] <= self.beat
        same = self._identity is None or (row["identity"] == self._identity and not self.set_back)
        if not same:
            logger.error(
                "the ledger is another one, or was set back: it was %s at %d, and is %s at %d",
                self._identity,
                self.beat,
                row["identity"],
                row["beat"],
            )
        self._identity, self.beat = row["identity"], row["beat"]
        self.epochs = dict(zip(row["numbers"], row["epochs"], strict=True))
        return same

    def now_ms(self) -> int | None:
        """Return Postgres's time as this process reckons it, in Unix milliseconds; None before the first `refresh`."""
        return None if self._identity is None else int(time.monotonic() * 1000) + self._clock_offset_ms
