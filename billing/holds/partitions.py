"""Partitions: the life of the Redis server behind each, and the epoch that numbers it.

This file owns rules R1 and R6 of the protocol: a server whose identity is new or changed, or that was loaded from
another ledger or from more than this one has, begins a new epoch in Postgres and is fenced. The epoch opens only when
every gateway with a living lease has brought its older debits to the ledger and holds its running requests again, and
only while the clocks of both stores agree. One that is open is closed when Redis's clock is found to be wrong.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final

from billing.database.connection import Database, Row, queries
from billing.errors import StoreError
from billing.holds.ledger_watch import LedgerWatch
from billing.holds.redis import RedisClient, RedisMoved, Script, ServerSession
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import AHEAD_S, STATE_VERSION
from billing.holds.redis_errors import NotReady as NotReady
from billing.holds.singleflight import SingleFlight

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
GREET: Final = _sql("partitions_greet")
MOVE_EPOCH: Final = _sql("partitions_move_epoch")

HANDSHAKE_ATTEMPTS: Final = 5
APART_MS: Final = AHEAD_S * 1000
"""Clocks that differ by more are not the same: windows and the ledger's months would not be."""
NAMED: Final = 5
"""Gateways that a message names."""


class Partition:
    """One partition as this gateway knows it.

    Its epoch is agreed on with one life of its server, and is None before, after that life, and once it was forgotten:
    a connection made anew never serves under an epoch that another one had agreed on. `clock_is_wrong`: what the server
    would admit now would count in windows that are not now. `apart`: its clock and Postgres's are not the same.

    `reached` is the newest epoch that was agreed on here: both stores may be set back to before it, and must not begin
    another one of its number, for debits and holds in this process are of it.

    `holding_back` are accounts that this gateway has not settled for the epoch that it has joined: nobody serves them.
    `held_back_by` are the gateways that held some back when this one joined, `holds_back` whether anybody does.
    `beside` are gateways of a release that keeps state in another layout: while they live they have the partition.
    """

    __slots__ = (
        "_epoch",
        "_ledger",
        "_set_back",
        "apart",
        "beside",
        "clock_is_wrong",
        "clock_offset_ms",
        "held_back_by",
        "holding_back",
        "holds_back",
        "joined_epoch",
        "life",
        "number",
        "overtaken_by",
        "reached",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.life: ServerSession | None = None
        self._epoch: int | None = None
        self.joined_epoch: int | None = None
        self.holding_back: frozenset[str] = frozenset()
        self.held_back_by: list[str] = []
        self.holds_back = False
        self.clock_offset_ms = 0
        self.apart = False
        self.beside: list[str] = []
        self.clock_is_wrong = False
        self.reached = 0
        self.overtaken_by: int | None = None
        self._ledger: str | None = None
        self._set_back = False

    @property
    def epoch(self) -> int | None:
        life = self.life
        return self._epoch if life is not None and life.stands else None

    def agree(self, life: ServerSession, epoch: int, ledger: str, *, set_back: bool) -> None:
        """The server is in this epoch, as it has said in this life, and so is the ledger under this name. `set_back`:
        the ledger is known to have been set back before."""
        self.life, self._epoch = life, epoch
        self.reached, self._ledger, self._set_back = epoch, ledger, set_back

    def may_agree(self, epoch: int, ledger: str) -> bool:
        """Whether it is a newer epoch than any before, or the one that was agreed on last."""
        return epoch > self.reached or (epoch, ledger) == (self.reached, self._ledger)

    def forget(self) -> None:
        """The epoch must be agreed on again before anything is sent."""
        self._epoch = None

    def doubt(self) -> None:
        """The ledger was set back: an epoch from before that is not agreed on again."""
        self.forget()
        if not self._set_back:
            self._ledger = None
        self._set_back = False

    def now_ms(self) -> int:
        """Redis's time as this process reckons it."""
        return int(time.monotonic() * 1000) + self.clock_offset_ms


class Partitions:
    """Every partition of the installation, and how this gateway agrees with the others on their epochs.

    `prepare(partition, epoch)` must bring this gateway's older debits to the ledger and hold its running requests again
    before it joins the epoch; it answers for which accounts that could not be done, because their rows are locked, and
    None where it is not done. `living()` names the gateways that are waited for, `lost` those of some that are dead,
    `of_other_layouts()` those that live and can't read this release's state, nor this one theirs.
    """

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        gateway_id: str,
        prepare: Callable[[Partition, int], Awaitable[frozenset[str] | None]],
        living: Callable[[], Awaitable[list[str]]],
        lost: Callable[[Iterable[str]], Collection[str]],
        of_other_layouts: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._gateway_id = gateway_id
        self._prepare = prepare
        self._living = living
        self._lost = lost
        self._of_other_layouts = of_other_layouts
        self._handshakes: SingleFlight[None] = SingleFlight()
        self._joins: SingleFlight[bool] = SingleFlight()
        self._renewals: SingleFlight[None] = SingleFlight()
        self._fence, self._join_script, self._beat = Script("fence"), Script("join"), Script("beat")
        self.ledger = LedgerWatch(database)
        self.all = [Partition(number) for number in range(keyspace.partitions)]

    def of(self, account_id: str) -> Partition:
        return self.all[self._keys.partition_of(account_id)]

    async def ensure(self, partition: Partition, stale: int | None = None) -> int:
        """The partition's epoch, agreed on now where it is unknown or still the `stale` one. Raises `NotReady`."""
        epoch = partition.epoch
        if epoch is None or epoch == stale:
            try:
                await self._handshakes.run(partition.number, lambda: self._handshake(partition))
            except StoreError as error:
                partition.forget()
                raise NotReady(str(error)) from error
            epoch = partition.epoch
        if epoch is None:
            raise NotReady(why_beside(partition.beside) if partition.beside else "the epoch is moving")
        return epoch

    async def _handshake(self, partition: Partition) -> None:
        """Agree on the epoch. Where the server is not the one to ask, its slot may just be moving: asked again, it is
        looked for again, REFRESH_AT_MOST_EVERY_S apart. Raises `StoreError`."""
        elsewhere: RedisMoved | None = None
        for _ in range(HANDSHAKE_ATTEMPTS):
            try:
                if await self._greet(partition):
                    return
            except RedisMoved as error:
                elsewhere = error
        if elsewhere is not None:
            raise elsewhere

    async def _greet(self, partition: Partition) -> bool:
        """One round of the handshake, all over one connection; whether the epoch is agreed on, or can't be for now."""
        number, meta_key = partition.number, self._keys.meta(partition.number)
        life = await self._link.connect(meta_key)
        identity = await _identity(life)
        counted = self.ledger.beat
        row = await self._ledger_row(number)  # first: Redis is never ahead of it, but where the ledger went back
        epoch, known, ledger, beat = await life.ask("HMGET", meta_key, "epoch", "identity", "ledger", "beat")
        agreed = (_number(epoch), known, ledger) == (row["epoch"], identity.encode(), row["ledger"].encode())
        agreed = agreed and partition.may_agree(row["epoch"], row["ledger"])
        if agreed and not await self._went_back(number, row, _number(beat)):
            await self._set_clock(partition, life)
            partition.agree(life, row["epoch"], row["ledger"], set_back=row["beat"] < counted)
            partition.beside = []
            return True
        partition.forget()
        if await self._is_beside(partition):
            return True
        await self._move(partition, row, identity, _number(epoch))
        return False

    async def _is_beside(self, partition: Partition) -> bool:
        """Whether gateways of a release with another layout live, which know of epochs but not of this: they have the
        partition until they end, for an epoch that each side begins anew serves nobody. Raises `DatabaseError`."""
        before, partition.beside = partition.beside, sorted(await self._of_other_layouts())
        if partition.beside and not before:
            logger.error("partition %d: %s", partition.number, why_beside(partition.beside))
        return bool(partition.beside)

    async def _ledger_row(self, number: int) -> Row:
        row = await self._database.row(GREET, number)
        assert row is not None  # noqa: S101  (the installation is one row, always)
        return row

    async def _went_back(self, number: int, row: Row, beat: int) -> bool:
        """Whether the ledger has counted less than Redis was told: it may just have gone on since it was read."""
        return beat > row["beat"] and bool(beat > (await self._ledger_row(number))["beat"])

    async def join(self, partition: Partition) -> bool:
        """Take part in the partition's epoch; whether it is open. Raises `NotReady`."""
        return await self._joins.run(partition.number, lambda: self._join(partition))

    async def _join(self, partition: Partition) -> bool:
        epoch = await self.ensure(partition)
        try:
            if self.ledger.now_ms() is None:
                await self.look_at_ledger()
            apart_ms, was_apart = self.clock_difference_ms(partition), partition.apart
            partition.apart = abs(apart_ms) > APART_MS
            if partition.apart and not was_apart:
                logger.error(
                    "partition %d: Redis's clock is %d s ahead of Postgres's", partition.number, apart_ms // 1000
                )
            if partition.apart:
                return False
            unready = await self._unready(partition, epoch)
            if unready is None:
                return False
            gone = list(self._lost(partition.held_back_by))
            number, back = partition.number, sorted(unready)
            keys = [self._keys.meta(number), self._keys.joined(number), self._keys.installed(number)]
            arguments: list[str | int] = [
                epoch,
                self._gateway_id,
                len(back),
                len(gone),
                *back,
                *gone,
                *await self._living(),
            ]
            is_open, *holding = await self._link.call(
                self._join_script, keys + [self._keys.account(each) for each in back], arguments
            )
        except StoreError as error:
            raise NotReady(str(error)) from error
        if is_open == -1:
            partition.forget()
            return False
        if unready and partition.joined_epoch != epoch:
            logger.error(
                "partition %d: the rows of %d accounts in Postgres are locked: not served for now", number, len(unready)
            )
        partition.joined_epoch, partition.holding_back = epoch, unready
        partition.held_back_by = [name.decode() for name in holding]
        return bool(is_open == 1)

    async def _unready(self, partition: Partition, epoch: int) -> frozenset[str] | None:
        """The accounts that this gateway holds back; None where it can't join yet. Once it has joined there are never
        more of them. Raises `StoreError`."""
        joined, before = partition.joined_epoch == epoch, partition.holding_back
        if joined and not before:
            return before
        unready = await self._prepare(partition, epoch)
        if not joined:
            return unready
        return before if unready is None else before & unready

    async def renew(self, partition: Partition, lost: int | None = None) -> None:
        """Begin a new epoch although the server is the same: everything is loaded again. With `lost`, only where that
        is still the newest one: another gateway may have done it. Done to its end though whoever asked gives up: Redis
        must be told of what the ledger has begun. Raises `NotReady`."""
        await self._renewals.run((partition.number, lost), lambda: self._renew(partition, lost))

    async def _renew(self, partition: Partition, lost: int | None) -> None:
        try:
            life = await self._link.connect(self._keys.meta(partition.number))
            identity = await _identity(life)
            row = await self._ledger_row(partition.number)
            if await self._is_beside(partition):
                raise NotReady(why_beside(partition.beside))
            if lost is None or row["epoch"] == lost:
                (epoch,) = await life.ask("HMGET", self._keys.meta(partition.number), "epoch")
                await self._move(partition, row, identity, _number(epoch))
        except StoreError as error:
            raise NotReady(str(error)) from error
        if lost is None or partition.epoch == lost:
            partition.forget()

    async def _move(self, partition: Partition, row: Row, identity: str, in_redis: int) -> None:
        """Begin an epoch that neither store has had: Redis may be ahead of a ledger that was restored. Nor has this
        process: both may have gone back."""
        number, stored = partition.number, row["epoch"]
        newest = max(stored, in_redis, partition.reached)
        moved = await self._database.row(MOVE_EPOCH, number, stored, identity, newest + 1)
        if moved is not None:
            before = f" (Redis was in {in_redis}, the ledger in {stored})" if in_redis > stored else ""
            logger.info("partition %d: epoch %d begins%s", number, moved["epoch"], before)
            keys = [self._keys.meta(number), self._keys.joined(number), self._keys.installed(number)]
            arguments = [moved["epoch"], identity, moved["ledger"], moved["beat"]]
            await self._link.call(self._fence, keys, arguments)

    async def look_at_ledger(self) -> None:
        """Look whether the ledger is still the one that the epochs were agreed on with, and has begun no newer ones;
        where it is not, they are agreed on again. Raises `DatabaseError`."""
        if not await self.ledger.look():
            for partition in self.all:
                if self.ledger.set_back:
                    partition.doubt()
                else:
                    partition.forget()  # another ledger says another name of its epochs
        for partition in self.all:
            self._look_at_epoch(partition)

    def _look_at_epoch(self, partition: Partition) -> None:
        """Whoever begins an epoch tells Redis at once. Where that is still not done at the next look it has died on the
        way, or has told another server, and no account can be loaded into the epoch that Redis is in."""
        newest, before = self.ledger.epochs.get(partition.number, 0), partition.overtaken_by
        partition.overtaken_by = newest if partition.epoch is not None and newest > partition.epoch else None
        if partition.overtaken_by is not None and partition.overtaken_by == before:
            logger.error("partition %d: Redis has not been told of epoch %d", partition.number, newest)
            partition.forget()

    async def is_current(self, partition: Partition) -> bool:
        """Whether the epoch in hand is still the server's, and open; refreshes the clock. Raises `RedisError`."""
        life, epoch = partition.life, partition.epoch
        if life is None or epoch is None:
            return False
        (known,) = await life.ask("HMGET", self._keys.meta(partition.number), "epoch")
        if _number(known) != epoch or await life.has_changed():
            partition.forget()
            return False
        await self._set_clock(partition, life)
        arguments = [epoch, self.ledger.beat, int(partition.clock_is_wrong)]
        keys = [self._keys.meta(partition.number), self._keys.installed(partition.number)]
        open_ = await self._link.call(self._beat, keys, arguments)
        partition.holds_back = open_ == 2
        return bool(open_ >= 1)

    def clock_difference_ms(self, partition: Partition) -> int:
        """How far Redis's clock is ahead of Postgres's; 0 while one of them is not known."""
        ledger_ms = self.ledger.now_ms()
        return partition.now_ms() - ledger_ms if ledger_ms is not None and partition.life is not None else 0

    @property
    def clock_difference_s(self) -> float:
        """The largest of all partitions, in seconds, whichever is ahead."""
        return max(abs(self.clock_difference_ms(partition)) for partition in self.all) / 1000

    async def _set_clock(self, partition: Partition, life: ServerSession) -> None:
        """Reckon by the server's clock, and find out whether that is wrong: where it is neither Postgres's nor this
        process's own."""
        partition.clock_offset_ms = await life.time_ms() - int(time.monotonic() * 1000)
        ledger_ms, now_ms = self.ledger.now_ms(), partition.now_ms()
        own_ms = int(time.time() * 1000)
        apart_ms = min(abs(now_ms - ledger_ms), abs(now_ms - own_ms)) if ledger_ms is not None else 0
        partition.clock_is_wrong = apart_ms > APART_MS


async def _identity(life: ServerSession) -> str:
    """What an epoch is agreed on with: a life of the server, and the layout of what is kept in it. Releases that keep
    another one take the epoch for another server's. Raises as `ServerSession.identity`."""
    return f"{await life.identity()}:{STATE_VERSION}"


def why_beside(gateways: Sequence[str]) -> str:
    """What to do about gateways that keep state in another layout and live."""
    named = ", ".join(gateways[:NAMED])
    return f"{len(gateways)} gateways of a release that can't run beside this one live: stop them first ({named})"


def _number(field: Any) -> int:
    """A field of `meta`; 0 where it is missing."""
    return int(field) if field is not None else 0
