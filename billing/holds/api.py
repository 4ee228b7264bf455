"""Holds: admission and settlement for a server of requests.

    async with holds.open(HoldRequest(id=..., principal=..., ...)) as decision:
        if isinstance(decision, Hold): ... await holds.settle(decision, debit)

There is no way out of the block that leaves a hold unresolved: one that was not settled is given back, or becomes the
debit that it owes once a provider has worked for it (`Hold.owe`). An admission ends as a `Decision` within its time,
whatever the stores do and however often its principal changes. One of unknown fate is given back once it can't be
carried out any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace

from billing.database.connection import Database, DatabaseError, queries
from billing.errors import StoreError
from billing.holds.batch import RunningHolds, StaleEpoch
from billing.holds.epochs import LostWrites
from billing.holds.model import (
    LASTING,
    AdmissionTarget,
    Hold,
    HoldSettings,
    Refused,
    Reload,
    Settled,
    Settlement,
    Unavailable,
    VoidItem,
    as_counted,
    refusal,
)
from billing.holds.redis import layout
from billing.holds.redis.connection import RedisAway, RedisError, RedisMoved
from billing.holds.redis.layout import OK, VANISHED
from billing.holds.wait_queue import WaitQueues
from billing.principals import MAX_KEPT

if TYPE_CHECKING:
    from billing.holds.debit_writer import DirectLedgerWriter
    from billing.holds.epoch_start import EpochStart
    from billing.holds.epochs import Partition, Partitions
    from billing.holds.loading import Loader
    from billing.holds.model import Asker, Decision, HoldRequest, Need, Told
    from billing.holds.outbox import Outbox
    from billing.holds.wait_queue import Waiter
    from billing.ledger.debits import Debit
    from billing.principals import Principal

logger = logging.getLogger(__name__)


VOID_MARGIN_MS: Final = 50
# A principal is read again at least so often, however long that takes, and more often within `admission_wait_s`.
RENEWALS: Final = 2
# The first renewal is immediate. Then come pauses, each longer than the one before, so that a key that changes all the
# time, or a Redis that is ahead of its Postgres, costs some forty look-ups and not a thousand.
RENEWAL_PAUSE_S: Final = 0.001
RENEWAL_PAUSE_MAX_S: Final = 0.05
RETRY_PAUSE_S: Final = 0.01
# States of a hold that the request which opened it must end.
SERVED: Final = frozenset(("held", "owed"))
_DECIDED: Final = frozenset((layout.BALANCE, layout.QUOTA, layout.CONCURRENCY))
# The debits of one locked account may take up one of so many parts of all in one process.
LOCKED_SHARE: Final = 16


@dataclass(slots=True)
class Admissions:
    """Admits for one gateway process; holds name `gateway_id` as their owner.

    `redis_timeout_s` is when Redis refuses to carry an admission out; all attempts together take `admission_wait_s`. No
    admission is sent while the `backlog` is full. `resolve` ends a hold that was left unresolved.
    """

    gateway_id: str
    running: RunningHolds
    repairs: StateRepair
    backlog: Backlog
    queues: WaitQueues
    resolve: Callable[[Hold], Awaitable[None]]
    settings: HoldSettings
    _timeout_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self._timeout_ms = int(self.settings.redis_timeout_s * 1000)

    def target(self, principal: Principal, model: str, feature: str) -> AdmissionTarget:
        """Return what the holds of a key on a model share; it is kept with the principal."""
        kept: AdmissionTarget | None = principal.kept.get((self.gateway_id, model, feature))
        return kept or self._target(principal, model, feature)

    def must_wait(self, target: AdmissionTarget, need: Need, queue_s: float) -> bool:
        """Return whether nothing is to be asked for now, where `decide` knows what then: others wait before this
        request, or too many debits wait for Postgres."""
        return (queue_s > 0 and self._is_blocked(target, need, queue_s)) or self.backlog.full_for(target.account_id)

    def _is_blocked(self, target: AdmissionTarget, need: Need, queue_s: float) -> bool:
        return queue_s > 0 and self.queues.blocks(target) and need.ever_fits(target.limits)

    def ask(self, request_id: str, target: AdmissionTarget, need: Need, expired: bytes, asker: Asker) -> Hold:
        """Ask Redis for a hold, once and without waiting; `asker` is told. The item `left` at once where many do not
        ask together."""
        partition = target.partition
        hold = Hold(request_id, target, need, expired, asker, self)
        hold.ask_until(partition.now_ms() + self._timeout_ms)
        self.backlog.asking += 1
        if partition.epoch is None:
            hold.resolve(StaleEpoch("no epoch is agreed on"), -1)
        else:
            hold.left = self.running.batchers[partition.number].submit(hold)
        return hold

    def is_answered(self) -> None:
        """Note that Redis has answered an admission."""
        self.backlog.asking -= 1

    def begins(self, hold: Hold) -> None:
        """Note a hold that was admitted."""
        self.running.live[hold.id] = hold

    def void_late(self, request_id: bytes, target: AdmissionTarget) -> None:
        """Give back what an admission of unknown fate may have held, once it can't be carried out any more."""
        delay_s = self.settings.redis_timeout_s + VOID_MARGIN_MS / 1000
        self.running.loop.call_later(delay_s, self._void, request_id, target)

    def _void(self, request_id: bytes, target: AdmissionTarget) -> None:
        self.running.submit(target.partition, VoidItem(request_id, target))

    async def decide(self, request: HoldRequest) -> Decision:
        """Ask for a hold, anew where what the request was made from has changed. Raises what `meanwhile`, `lesser` and
        `renew` raise; the hold is given back then, once Redis has answered."""
        began_s = time.monotonic()
        decision = await self.admit(request)
        return await self.admit_anew(request, began_s) if isinstance(decision, Reload) else decision

    async def decide_after(
        self, request: HoldRequest, reply: list[Any] | RedisError, epoch: int, began_s: float
    ) -> Decision:
        """Return what becomes of a request that was asked for at `began_s`, and that Redis has not admitted."""
        target = self.target(request.principal, request.model, request.feature)
        deadline = self.running.loop.time() + self.settings.admission_wait_s + began_s - time.monotonic()
        decision = await self._after(_Question(self, request, target), reply, epoch, deadline)
        return await self.admit_anew(request, began_s) if isinstance(decision, Reload) else decision

    async def admit(self, request: HoldRequest) -> Decision | Reload:
        """Ask for a hold: one call to Redis where its state is warm. Raises as `decide`.

        A request that is larger than a whole limit waits for nothing. `Reload`: the request must be made anew.
        """
        target = self.target(request.principal, request.model, request.feature)
        if self._is_blocked(target, request.need, request.queue_s):
            return await self._admit_later(request, target, None)
        if self.backlog.full_for(target.account_id):
            return Unavailable("too many debits wait for Postgres")
        deadline = self.running.loop.time() + self.settings.admission_wait_s
        question = _Question(self, request, target)
        answer = await question.ask()
        return answer if isinstance(answer, Hold) else await self._after(question, *answer, deadline)

    async def _after(
        self, question: _Question, reply: list[Any] | RedisError, epoch: int, deadline: float
    ) -> Decision | Reload:
        """Decide on a request that a reply has not admitted; Redis is asked again once it has what it lacked."""
        request, target = question.request, question.target
        while True:
            decision = await self.repairs.decide(reply, epoch, request, target, deadline)
            if isinstance(decision, Refused):
                break
            if decision is not None:
                return decision
            answer = await question.ask()
            if isinstance(answer, Hold):
                return answer
            reply, epoch = answer
        if request.lesser is None and not request.queue_s > 0:
            return decision
        return await self._admit_later(request, target, decision)

    def give_back_late(self, hold: Hold) -> None:
        """Give back a hold that was admitted when nobody waited for it any more."""
        hold.enter("voided")
        self.running.live.pop(hold.id, None)
        self.void_late(hold.id_bytes, hold.target)

    async def _admit_later(
        self, request: HoldRequest, target: AdmissionTarget, refused: Refused | None
    ) -> Decision | Reload:
        """Decide on a request that was `refused`, or that others wait before."""
        loop, renew = self.running.loop, request.renew
        began_s = loop.time()
        waiter = self._join(request, target, refused)
        decision: Decision | Reload | None = refused
        try:
            less = await request.lesser(request.need) if request.lesser is not None else None
            need, expired = less or (request.need, request.expired)
            again = replace(request, need=need, expired=expired, queue_s=0.0, meanwhile=None, lesser=None, renew=None)

            async def ask() -> Decision | Reload:
                changed = renew is not None and await renew(stale=False) is not None
                return Reload() if changed else await self.admit(again)

            if waiter is None and (less is not None or decision is None):
                decision = await ask()
                if isinstance(decision, Refused):
                    waiter = self._join(request, target, decision)
            while waiter is not None:
                in_time = await self.queues.wait(waiter, began_s + request.queue_s)
                decision = await ask()
                if not in_time or not isinstance(decision, Refused) or not decision.is_held:
                    break
                waiter.refused(decision)
            assert decision is not None  # noqa: S101  (who did not wait was asked about)
            if isinstance(decision, Hold):
                decision.waited_s = loop.time() - began_s
            return decision
        finally:
            if waiter is not None:
                self.queues.leave(waiter, admitted=isinstance(decision, Hold))

    def _join(self, request: HoldRequest, target: AdmissionTarget, refused: Refused | None) -> Waiter | None:
        may_wait = request.queue_s > 0 and (refused is None or refused.is_held)
        return self.queues.join(target, refused) if may_wait else None

    async def admit_anew(self, request: HoldRequest, began_s: float) -> Decision:
        """Ask again for a request whose principal or prices have changed, until they stay the same: at most
        `admission_wait_s` after `began_s`, on the monotonic clock."""
        renewals, pause_s = 0, 0.0
        renew = request.renew
        while renew is not None:
            if renewals >= RENEWALS and time.monotonic() >= began_s + self.settings.admission_wait_s:
                return Unavailable("the principal has changed again and again")
            if renewals:
                pause_s = min(2 * pause_s + RENEWAL_PAUSE_S, RENEWAL_PAUSE_MAX_S)
                await asyncio.sleep(pause_s)
            renewals += 1
            request = await renew(stale=True) or request
            late_s = time.monotonic() - began_s
            decision = await self.admit(replace(request, queue_s=request.queue_s and request.queue_s - late_s))
            if isinstance(decision, Hold):
                decision.waited_s += late_s
            if not isinstance(decision, Reload):
                return decision
        return Unavailable("the principal has changed since it was read")

    def _target(self, principal: Principal, model: str, feature: str) -> AdmissionTarget:
        """Make what the holds of a key on a model share, and keep it with the principal."""
        partitions = self.repairs.partitions
        partition = partitions.of(principal.account_id)
        target = AdmissionTarget(principal, partitions.keyspace, partition, model, feature, self.gateway_id)
        if len(principal.kept) >= MAX_KEPT:
            principal.kept.clear()
        principal.kept[self.gateway_id, model, feature] = target
        return target


class _Question:
    """Asks for a hold, and waits for the answer; again where that was none. `meanwhile` is called once."""

    __slots__ = ("_admissions", "_answer", "_meanwhile", "request", "target")

    def __init__(self, admissions: Admissions, request: HoldRequest, target: AdmissionTarget) -> None:
        self._admissions = admissions
        self.request = request
        self.target = target
        self._meanwhile = request.meanwhile

    async def ask(self) -> Hold | tuple[list[Any] | RedisError, int]:
        """Return the hold, or the reply and the epoch that it is of."""
        request, admissions = self.request, self._admissions
        self._answer: asyncio.Future[Hold | tuple[list[Any] | RedisError, int]] = (
            admissions.running.loop.create_future()
        )
        item = admissions.ask(request.id, self.target, request.need, request.expired, self)
        try:
            if item.left and self._meanwhile is not None:
                self._meanwhile()
                self._meanwhile = None
            return await self._answer
        except BaseException:
            item.abandon()
            if not self._answer.cancel() and not self._answer.cancelled():
                answer = self._answer.result()
                if isinstance(answer, Hold):
                    admissions.give_back_late(answer)
            raise

    def admitted(self, hold: Hold) -> None:
        if self._answer.done():
            self._admissions.give_back_late(hold)
        else:
            self._answer.set_result(hold)

    def not_admitted(self, reply: list[Any] | RedisError, epoch: int) -> None:
        if not self._answer.done():
            self._answer.set_result((reply, epoch))


class Opening:
    """The context manager of `Holds.open`: what it enters with is a `Decision`."""

    __slots__ = ("_admissions", "_hold", "_request")

    def __init__(self, admissions: Admissions, request: HoldRequest) -> None:
        self._admissions = admissions
        self._request = request
        self._hold: Hold | None = None

    async def __aenter__(self) -> Decision:
        decision = await self._admissions.decide(self._request)
        if isinstance(decision, Hold):
            self._hold = decision
        return decision

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        if hold is not None and hold.state in SERVED:
            await self._admissions.resolve(hold)


class StateRepair:
    """Loads state that Redis is missing, so that an admission can be retried; ends by the admission's deadline."""

    def __init__(self, partitions: Partitions, epoch_start: EpochStart, loader: Loader) -> None:
        self.partitions = partitions
        self._epoch_start = epoch_start
        self._loader = loader

    async def decide(
        self,
        reply: list[Any] | RedisError,
        epoch: int,
        request: HoldRequest,
        target: AdmissionTarget,
        deadline: float,
    ) -> Refused | Unavailable | Reload | None:
        """Return what a reply that admits nothing means, by a `deadline` of the loop's clock; None: what it lacked is
        there now, ask again."""
        partition, principal = target.partition, request.principal
        if not isinstance(reply, RedisError) and reply[0] in _DECIDED:
            if reply[0] == layout.QUOTA and await self._retime(reply, partition, principal, deadline):
                return None
            return refusal(reply, target.limits, request.need)
        try:
            async with asyncio.timeout_at(deadline):
                stop = await self._repair(reply, epoch, partition, principal)
        except (StoreError, TimeoutError) as error:
            return Unavailable(f"{type(error).__name__}: {error}")
        if stop is None and asyncio.get_running_loop().time() >= deadline:
            return Unavailable("admission took longer than it may")
        return stop

    async def _retime(self, reply: list[Any], partition: Partition, principal: Principal, deadline: float) -> bool:
        """Correct the account's time if a wrong clock of Redis's has moved it ahead: its windows would stay shut until
        real time has caught up. Return whether it was corrected, so that Redis must be asked again."""
        if reply[1] <= partition.now_ms() + layout.STEP_S * 1000:
            return False
        try:
            async with asyncio.timeout_at(deadline):
                return await self._loader.retime(partition, principal.account_id)
        except (StoreError, TimeoutError) as error:
            logger.info("the time of %s could not be set right: %s", principal.account_id, error)
            return False

    async def _repair(
        self, reply: list[Any] | RedisError, epoch: int, partition: Partition, principal: Principal
    ) -> Unavailable | Reload | None:
        try:
            if isinstance(reply, StaleEpoch | RedisMoved):
                await self.partitions.ensure(partition, stale=epoch)
                await self._join_epoch(partition)
                return None
            if isinstance(reply, RedisError):
                return Unavailable(str(reply))
            return await self._load(reply[0], partition, principal)
        except LostWrites as error:
            logger.error("%s: a new epoch begins", error)
            await self.partitions.renew(partition, error.epoch)
            return None

    async def _join_epoch(self, partition: Partition) -> None:
        if not await self._epoch_start.join(partition):
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _load(self, code: int, partition: Partition, principal: Principal) -> Unavailable | Reload | None:
        loader, account_id, known = self._loader, principal.account_id, principal.account_version
        match code:
            case layout.MISSING:
                return None if await loader.install(partition, account_id, principal.key_id) else Reload()
            case layout.RELOAD:
                return Reload()
            case layout.PUSH | layout.WAITING:
                if code == layout.WAITING:
                    await loader.retime(partition, account_id)
                account = await loader.adopt_account(partition, account_id)
                key = await loader.adopt_key(partition, account_id, principal.key_id)
                if _older(account, known) or _older(key, principal.key_version):
                    return Reload()
                await asyncio.sleep(RETRY_PAUSE_S if code == layout.WAITING else 0)
            case layout.USER if principal.user_id is not None:
                if _older(await loader.adopt_user(partition, account_id, principal.user_id), known):
                    return Reload()
                await asyncio.sleep(RETRY_PAUSE_S)
            case layout.LATE:
                await self.partitions.is_current(partition)
            case layout.CLOSED:
                await self._join_epoch(partition)
            case _:
                return Unavailable("too many debits wait for Postgres")
        return None


def _older(stored: int | None, known: int) -> bool:
    """Return whether the ledger has an older version than this process knows: it was restored."""
    return stored is not None and stored < known


class Waiting(Sized, Protocol):
    """Debits that wait for Postgres."""

    def count_locked(self, account_id: str) -> int: ...


class Backlog:
    """The bound `max_unsettled` on entries of all journals: every hold and every settled debit is one, until Postgres
    has it.

    One partition's script sees its own journal alone, so each gateway adds them up: it knows its own entries at every
    moment, and reads the size of all journals each second for those of the others. So the bound is exact for one
    gateway, and several together exceed it by no more than the others admit within that second. An account whose row in
    Postgres is locked may fill a part of it alone: the rest is for the others.

    `live` are this process's running holds, `waiting` its debits that Postgres has not; `most` entries are allowed in
    the installation. `asking` admissions are on their way to Redis.
    """

    __slots__ = ("_live", "_most", "_others", "_partitions", "_sizes", "_waiting", "asking")

    def __init__(self, partitions: Partitions, live: Sized, waiting: Waiting, most: int) -> None:
        self._partitions = partitions
        self._sizes = [0] * len(partitions.all)
        self._live = live
        self._waiting = waiting
        self._most = most
        self._others = 0
        self.asking = 0

    def full_for(self, account_id: str) -> bool:
        """Return whether nothing more of this account may be admitted: nothing at all, or because its row is locked."""
        waiting, most = self._waiting, self._most
        if self._others + len(self._live) + len(waiting) + self.asking >= most:
            return True
        return waiting.count_locked(account_id) * LOCKED_SHARE >= most

    async def refresh(self) -> None:
        """Read the size of all journals; of a server that does not answer the last size stands."""
        own = len(self._live) + len(self._waiting)
        await asyncio.gather(*map(self._refresh, self._partitions.all))
        own = max(own, len(self._live) + len(self._waiting))
        self._others = max(0, sum(self._sizes) - own)

    async def _refresh(self, partition: Partition) -> None:
        session = partition.session
        if session is not None and session.stands:
            with suppress(RedisError):
                self._sizes[partition.number] = await session.ask("HLEN", partition.journal)


STORED_DEBITS: Final = queries("billing.ledger")("stored_debits")


class Holds:
    """The hot path of one gateway process."""

    def __init__(
        self,
        database: Database,
        repairs: StateRepair,
        running: RunningHolds,
        outbox: Outbox,
        direct: DirectLedgerWriter,
        *,
        gateway_id: str,
        settings: HoldSettings,
    ) -> None:
        self._database = database
        self._partitions = repairs.partitions
        self._outbox = outbox
        self._direct = direct
        self._batchers = running.batchers
        self._loop = running.loop
        self._tasks = running.tasks
        self.live = running.live
        self.spawn = running.spawn
        self.backlog = Backlog(repairs.partitions, self.live, outbox.waiting, settings.max_unsettled)
        self.queues = WaitQueues(settings.queue_requests)
        self.admissions, self._lasting = (
            Admissions(holder, running, repairs, self.backlog, self.queues, self.resolve, settings)
            for holder in (gateway_id, LASTING)
        )

    def open(self, request: HoldRequest) -> Opening:
        """Return a context manager that asks for a hold, and enters with a `Decision`."""
        return Opening(self.admissions, request)

    def open_lasting(self, request: HoldRequest) -> Opening:
        """Return a context manager as `open` does, for a hold that outlasts this process once it is `kept`."""
        return Opening(self._lasting, request)

    def kept(self, hold: Hold) -> None:
        """Give up a hold of `open_lasting` that has a row in Postgres, or may have one: it is not this process's any
        more."""
        hold.enter("lasting")
        self.live.pop(hold.id, None)

    def written(self, hold: Hold) -> None:
        """End a hold whose debit is in the ledger, by another way than `settle`. Its correction ends it in Redis, where
        it was not given back because this process ends."""
        if not hold.is_open:
            return
        hold.begin_settling(None)
        self._ended(hold)

    def _ended(self, hold: Hold) -> None:
        hold.enter("settled")
        self.live.pop(hold.id, None)
        self.queues.freed(hold.target.account_key)

    def settle(self, hold: Hold, debit: Debit, told: Told | None = None) -> Settlement:
        """End a hold with this debit. It is submitted when this returns, and outside this process when the settlement
        is over; whether anybody waits for that changes nothing. `told` is called with it then.

        It is lost when neither store took the debit in time, or when the ledger has decided that the hold had expired:
        the client's answer must be cut then. The debit still reaches the ledger if anything here survives.

        A hold is settled once: a second call gets the first one's settlement, for two debits of different amounts would
        be counted one in Redis and the other in the ledger. Raises `IllegalTransition` for one that was given back.
        """
        if hold.outcome is not None:
            return hold.outcome
        item = Settlement(hold, debit, self._settled, told)
        hold.begin_settling(item)
        partition = hold.target.partition
        if hold.moving is not None:
            hold.moving.add_done_callback(lambda _: self._send(hold, item))
        elif partition.epoch == hold.epoch:
            self._batchers[partition.number].submit(item)
        else:
            self._send(hold, item)
        return item

    def _send(self, hold: Hold, item: Settlement) -> None:
        """Submit a settlement whose hold has been held again, or could not be."""
        partition = hold.target.partition
        if partition.epoch == hold.epoch:
            self._batchers[partition.number].submit(item)
        else:
            self._settled(item, RedisAway("the hold is of an older epoch"), -1)

    def _settled(self, item: Settlement, reply: list[Any] | RedisError, epoch: int) -> None:
        """Act on Redis's reply to a settlement, whether or not anybody still waits for it."""
        hold = item.hold
        if hold is None:
            return  # it is over: who was told has failed, and the batch says so
        if isinstance(reply, RedisError) or reply[0] != OK:
            vanished = reply == VANISHED and epoch == hold.epoch
            self._direct.add(hold, item, epoch if vanished else None)
            return
        self._outbox.add(as_counted(item.debit, epoch, reply[1]))
        self._ended(hold)
        item.end(Settled(reply[2]))

    async def void(self, hold: Hold) -> None:
        """Give a hold back; one that is ending is left alone. When Redis does not answer, the sweep finds it."""
        if hold.state == "owed":
            hold.owe_nothing()  # who is cancelled while it moves must not leave it charged
        while hold.moving is not None:
            await asyncio.shield(hold.moving)
        if not hold.is_open:
            return
        hold.enter("voided")
        self.live.pop(hold.id, None)
        target = hold.target
        item = VoidItem(hold.id_bytes, target)
        self._batchers[target.partition.number].submit(item)
        await item.answer
        self.queues.freed(target.account_key)
        if item.vanished_in == hold.epoch:
            self.spawn(self.find_lost(target.partition, [hold.id], hold.epoch))

    async def find_lost(self, partition: Partition, request_ids: Sequence[str], epoch: int) -> None:
        """Find out why holds of this epoch, running until now, are not in Redis any more. Another gateway may have
        taken this one for dead and have them expired: the ledger has rows then. If not, Redis has lost them."""
        try:
            rows = await self._database.rows(STORED_DEBITS, request_ids)
            for row in rows:
                if row["request_id"] in self.live:
                    self.live[row["request_id"]].closed(row["outcome"])
            if len(rows) < len(request_ids):
                self._partitions.lost_writes(partition, epoch)
        except DatabaseError as error:
            logger.info("%d holds are not in Redis, and the ledger can't be asked: %s", len(request_ids), error)

    async def resolve(self, hold: Hold) -> None:
        """End a hold that was neither settled nor voided: with the debit that it owes, or given back."""
        if not hold.is_open:
            return
        if hold.owed_debit is None:
            await self.void(hold)
        else:
            await asyncio.wait([self.settle(hold, hold.owed_debit(hold)).outcome()])

    def leave(self, hold: Hold) -> None:
        """Resolve a hold, if the request that opened it has left that to us."""
        if hold.state in SERVED:
            self.spawn(self.resolve(hold))

    def hand_over(self, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` go on without the request that opened this hold. It must settle or void it, if nobody has begun
        to; should it do neither, the hold is resolved."""
        if hold.state in ("held", "owed"):
            hold.enter("handed_over")

        async def finish() -> None:
            try:
                await work
            finally:
                await self.resolve(hold)

        self.spawn(finish())

    async def resolve_rest(self, timeout_s: float) -> None:
        """Resolve what nobody has begun to settle or void, for this process ends: there is no time to count what it
        has used, and left open it would be given back. Waits at most so long for the stores."""
        rest = [hold for hold in self.live.values() if hold.is_open]
        if rest:
            logger.warning("%d requests end with this process, and cost what they hold", len(rest))
            await asyncio.wait([asyncio.ensure_future(self.resolve(hold)) for hold in rest], timeout=timeout_s)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for what is still being settled, and write what waits. Return whether all of it was done in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks or len(self._direct):
                    if len(self._direct):
                        self.spawn(self._direct.drain())
                    await asyncio.wait(self._tasks)
                await self._partitions.renewed()
                await self._outbox.drain()
        except (TimeoutError, DatabaseError):
            return False
        return True
