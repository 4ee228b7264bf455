"""Holds: admission and settlement for whoever serves requests.

    async with holds.open(request_id, principal, model, feature, need, debit) as decision:
        if isinstance(decision, Hold): ... await holds.settle(decision, debit)

There is no way out of the block that leaves a hold unresolved: one that was not settled is given back.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from billing.holds import decision as decisions
from billing.holds.batcher import Batcher, Item, StaleEpoch
from billing.holds.codec import pack_text
from billing.holds.connection import Link, RedisAway, RedisError, RedisMoved, Script
from billing.holds.decision import Exhausted, Need
from billing.holds.hold import AdmitItem, Hold, Settled, SettleItem, SettlementLost, VoidItem, at_place
from billing.holds.keyspace import Keyspace
from billing.holds.loader import Loader, LostWrites
from billing.holds.outbox import Outbox
from billing.holds.partitions import NotReady, Partition, Partitions
from billing.holds.sync import Corrections
from billing.ledger.debits import Debit, encode_debit, write_debits
from billing.ledger.postgres import Database, DatabaseError, DatabaseUnavailable
from billing.principals import Limits, Principal

logger = logging.getLogger(__name__)

OK, BALANCE, QUOTA, CONCURRENCY, MISSING, RELOAD, PUSH, WAITING, CLOSED, LATE, FULL, GONE = range(12)

RETRY_PAUSE_S: Final = 0.01
LEDGER_RETRY_S: Final = 0.1
VOID_MARGIN_MS: Final = 50
MAX_NAMES: Final = 10_000

Decision = Hold | decisions.Refused | decisions.Unavailable | decisions.Reload


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """Bounds of admission and settlement."""

    batch_items: int = 32
    max_unsettled: int = 100_000
    redis_timeout_s: float = 0.5
    settle_timeout_s: float = 0.5
    ledger_timeout_s: float = 10.0
    admission_wait_s: float = 2.0


class Holds:
    """The hot path of one gateway process."""

    def __init__(
        self,
        database: Database,
        link: Link,
        keyspace: Keyspace,
        partitions: Partitions,
        loader: Loader,
        outbox: Outbox,
        corrections: Corrections,
        gateway_id: str,
        settings: HoldSettings,
    ) -> None:
        self._database = database
        self._keys = keyspace
        self._partitions = partitions
        self._loader = loader
        self._outbox = outbox
        self._corrections = corrections
        self._gateway = pack_text(gateway_id)
        self._settings = settings
        script = Script("hot")
        self._batchers = [
            Batcher(
                link,
                keyspace,
                partition,
                script=script,
                max_items=settings.batch_items,
                max_unsettled=settings.max_unsettled,
                timeout_s=min(settings.redis_timeout_s, settings.settle_timeout_s),
            )
            for partition in partitions.all
        ]
        self._loop = asyncio.get_running_loop()
        self._names: dict[tuple[str, str, str], tuple[bytes, bytes, bytes, Partition]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.live: dict[str, Hold] = {}

    def open(
        self, request_id: str, principal: Principal, model: str, feature: str, need: Need, expired: Debit | bytes
    ) -> "Opening":
        """Ask for a hold; `expired` is the debit that the request becomes should this process die (charged or not by
        `expired_hold`), or that debit encoded, where it is the same for many. A context manager: what it enters with
        is a `Decision`."""
        return Opening(self, request_id, principal, model, feature, need, expired)

    async def admit(
        self, request_id: str, principal: Principal, model: str, feature: str, need: Need, expired: Debit | bytes
    ) -> Decision:
        """One call to Redis where its state is warm. Use `open`: it can't leave a hold behind."""
        account_key, key_key, names, partition = self._names_of(principal, model, feature)
        limits = principal.limits_for(model, feature)
        payload = expired if isinstance(expired, bytes) else encode_debit(expired)
        tail = b"".join((limits.packed, names, payload))
        deadline = self._loop.time() + self._settings.admission_wait_s
        while True:
            item = self._admit_item(request_id, principal, need, partition, account_key, key_key, tail)
            if partition.epoch is not None:
                self._batchers[partition.number].submit(item)
                reply, epoch = await item.answer
            else:
                reply, epoch = StaleEpoch("no epoch is agreed on"), -1
            if not isinstance(reply, RedisError):
                code = reply[0]
                if code == OK:
                    hold = Hold(request_id, item, partition, need, limits, names[2:], payload, reply, epoch)
                    self.live[request_id] = hold
                    return hold
                if code in _DECIDED:
                    return _refusal(reply, limits)
            stop = await self._mend(reply, epoch, partition, principal, deadline)
            if stop is not None or self._loop.time() >= deadline:
                return stop or decisions.Unavailable("admission took longer than it may")

    def _admit_item(
        self,
        request_id: str,
        principal: Principal,
        need: Need,
        partition: Partition,
        account_key: bytes,
        key_key: bytes,
        tail: bytes,
    ) -> AdmitItem:
        not_after = partition.now_ms() + int(self._settings.redis_timeout_s * 1000)
        head = (
            principal.account_version,
            principal.key_version,
            principal.credit_limit_nano,
            need.input_cost_nano,
            need.unit_nano,
            need.input_tokens,
            need.choices,
            need.least_output,
            need.most_output,
            not_after,
            principal.plan.max_parallel_requests or 0,
            principal.max_parallel_requests or 0,
        )
        raw_id = request_id.encode()
        return AdmitItem(
            raw_id, account_key, key_key, head, tail, lambda: self._void_late(partition, raw_id, account_key, key_key)
        )

    async def _mend(
        self, reply: list[Any] | RedisError, epoch: int, partition: Partition, principal: Principal, deadline: float
    ) -> decisions.Unavailable | decisions.Reload | None:
        """Bring about what an admission lacked, by a deadline of the loop's clock; None: ask again."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._mend_reply(reply, epoch, partition, principal)
        except (NotReady, RedisError, DatabaseError, TimeoutError) as error:
            return decisions.Unavailable(f"{type(error).__name__}: {error}")

    async def _mend_reply(
        self, reply: list[Any] | RedisError, epoch: int, partition: Partition, principal: Principal
    ) -> decisions.Unavailable | decisions.Reload | None:
        try:
            if isinstance(reply, StaleEpoch | RedisMoved):
                await self._partitions.ensure(partition, stale=epoch)
                if not await self._partitions.join(partition):
                    await asyncio.sleep(RETRY_PAUSE_S)
                return None
            if isinstance(reply, RedisError):
                return decisions.Unavailable(str(reply))
            return await self._mend_state(reply[0], partition, principal)
        except LostWrites as error:
            logger.error("%s: a new epoch begins", error)
            await self._partitions.renew(partition, error.epoch)
            return None

    async def _mend_state(
        self, code: int, partition: Partition, principal: Principal
    ) -> decisions.Unavailable | decisions.Reload | None:
        if code == MISSING:
            await self._loader.install(partition, principal.account_id, principal.key_id)
            return None
        if code == RELOAD:
            return decisions.Reload()
        if code in (PUSH, WAITING):
            await self._loader.adopt_account(partition, principal.account_id)
            await self._loader.adopt_key(partition, principal.account_id, principal.key_id)
            await asyncio.sleep(RETRY_PAUSE_S if code == WAITING else 0)
            return None
        if code == LATE:
            await self._partitions.is_current(partition)
            return None
        if code == CLOSED:
            if not await self._partitions.join(partition):
                await asyncio.sleep(RETRY_PAUSE_S)
            return None
        return decisions.Unavailable("too many debits wait for Postgres")

    def _names_of(self, principal: Principal, model: str, feature: str) -> tuple[bytes, bytes, bytes, Partition]:
        """The account's and the key's place in Redis, the names that a hold's entry carries (length, then each), and
        the account's partition."""
        known = self._names.get((principal.key_id, model, feature))
        if known is None:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            names = b"".join((*map(pack_text, (principal.account_id, principal.key_id, model, feature)), self._gateway))
            known = self._names[principal.key_id, model, feature] = (
                self._keys.account(principal.account_id),
                self._keys.key(principal.account_id, principal.key_id),
                len(names).to_bytes(2, "little") + names,
                self._partitions.of(principal.account_id),
            )
        return known

    async def settle(self, hold: Hold, debit: Debit) -> Settled:
        """End a hold as this debit, and answer when the debit is outside this process.

        Raises `SettlementLost` when neither store could be told in time, or when the ledger has decided that the hold
        had expired: the answer must be cut then. The debit still reaches the ledger if anything here survives.
        """
        outcome: asyncio.Future[Settled] = self._loop.create_future()

        def replied(reply: list[Any] | RedisError, epoch: int) -> None:
            if not isinstance(reply, RedisError) and reply[0] == OK:
                self._outbox.add(at_place(debit, epoch, reply[1]))
                self.live.pop(hold.id, None)
                if not outcome.done():
                    outcome.set_result(Settled(reply[2]))
            else:
                self.spawn(self._ledger_way(hold, debit, outcome))

        item = SettleItem(hold, debit, replied)
        hold.ending = True

        def send(_: object = None) -> None:
            partition = hold.partition
            if partition.epoch == hold.epoch:
                self._batchers[partition.number].submit(item)
            else:
                replied(RedisAway("the hold is of an older epoch"), -1)

        if hold.reholding is None:
            send()
        else:
            hold.reholding.add_done_callback(send)
        return await outcome

    async def _ledger_way(self, hold: Hold, debit: Debit, outcome: asyncio.Future[Settled]) -> None:
        """Write the debit to Postgres as a correction, until it is there; then let Redis know."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._settings.ledger_timeout_s
        while True:
            try:
                stored = (await write_debits(self._database, [debit])).get(debit.request_id)
                break
            except DatabaseUnavailable as error:
                if loop.time() >= give_up and not outcome.done():
                    logger.error("debit %s could not leave this process in time: %s", hold.id, error)
                    outcome.set_exception(SettlementLost("neither Redis nor Postgres could be told in time"))
                await asyncio.sleep(LEDGER_RETRY_S)
        if not outcome.done():
            if stored is not None and stored.outcome == "settled":
                outcome.set_result(Settled(None))
            else:
                outcome.set_exception(SettlementLost("the hold had expired"))
        if not outcome.cancelled():
            outcome.exception()  # looked at: nobody may be waiting any more
        self.live.pop(hold.id, None)
        try:
            await self._corrections.sync(hold.partition, debit.account_id)
        except (RedisError, DatabaseError) as error:
            logger.info("correction of %s reaches Redis later: %s", debit.account_id, error)

    async def void(self, hold: Hold) -> None:
        """Give a hold back. When Redis does not answer, the sweep finds it."""
        if hold.reholding is not None:
            await asyncio.shield(hold.reholding)
        hold.ending = True
        self.live.pop(hold.id, None)
        item = VoidItem(hold.id_bytes, hold.account_key, hold.key_key)
        self._batchers[hold.partition.number].submit(item)
        await item.answer

    def _void_late(self, partition: Partition, raw_id: bytes, account_key: bytes, key_key: bytes) -> None:
        """Give back what an admission of unknown fate may have held, once it can't be carried out any more."""
        delay_s = self._settings.redis_timeout_s + VOID_MARGIN_MS / 1000
        batcher = self._batchers[partition.number]
        asyncio.get_running_loop().call_later(delay_s, lambda: batcher.submit(VoidItem(raw_id, account_key, key_key)))

    def submit(self, partition: Partition, item: Item) -> None:
        """Send an item of another part of the engine on the hot path."""
        self._batchers[partition.number].submit(item)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must finish even if whoever began it is cancelled; `drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hand_over(self, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        """Whoever served this hold was cancelled: `work` goes on, and must settle or void it. Should it do neither,
        the hold is given back."""
        hold.handed_over = True

        async def finish() -> None:
            try:
                await work
            finally:
                if not hold.ending:
                    await self.void(hold)

        self.spawn(finish())

    async def drain(self, timeout_s: float) -> bool:
        """Wait for what is still being settled, then write what waits. Whether all of it was done in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._outbox.flush()
        except (TimeoutError, DatabaseError):
            return False
        return True


_DECIDED: Final = frozenset((BALANCE, QUOTA, CONCURRENCY))


def _refusal(reply: list[Any], limits: Limits) -> decisions.Refused:
    if reply[0] == BALANCE:
        return decisions.InsufficientBalance(reply[1], reply[2])
    if reply[0] == CONCURRENCY:
        return decisions.TooManyRunning("key" if reply[1] else "plan")
    exhausted = []
    for at in range(2, len(reply), 4):
        subject, place, used, requested = reply[at : at + 4]
        limit = (limits.key if subject else limits.account)[place]
        exhausted.append(Exhausted(limit, used, requested))
    return decisions.QuotaExceeded(tuple(exhausted), reply[1])


class Opening:
    """The context manager of `Holds.open`."""

    __slots__ = ("_arguments", "_hold", "_holds")

    def __init__(self, holds: Holds, *arguments: Any) -> None:
        self._holds = holds
        self._arguments = arguments
        self._hold: Hold | None = None

    async def __aenter__(self) -> Decision:
        decision = await self._holds.admit(*self._arguments)
        if isinstance(decision, Hold):
            self._hold = decision
        return decision

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        if hold is not None and not hold.ending and not hold.handed_over:
            await self._holds.void(hold)
