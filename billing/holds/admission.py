"""Admission: asking Redis for a hold, and bringing about what it lacked to decide.

This file owns that an admission ends as a `Decision` within its time, whatever the stores do; that one of unknown fate
is given back once it can't be carried out any more; and that there is no way out of an `Opening` that leaves a hold
unresolved.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final

from billing.errors import StoreError
from billing.holds import decision as decisions
from billing.holds.admission_queue import AdmissionQueue, Ticket
from billing.holds.backlog import Backlog
from billing.holds.decision import Exhausted, Need
from billing.holds.hold import AdmissionTarget, AdmitItem, Hold, VoidItem
from billing.holds.loader import Loader, LostWrites
from billing.holds.partitions import Partition, Partitions
from billing.holds.redis import RedisError, RedisMoved
from billing.holds.redis import layout as codec
from billing.holds.redis.batcher import Batcher, StaleEpoch
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import ADMIT, pack_text
from billing.ledger.debits import Debit, encode_debit
from billing.principals import MAX_KEPT, Principal, QuotaLimits
from billing.quotas import Metric

logger = logging.getLogger(__name__)

RETRY_PAUSE_S: Final = 0.01
VOID_MARGIN_MS: Final = 50
_DECIDED: Final = frozenset((codec.BALANCE, codec.QUOTA, codec.CONCURRENCY))

Lesser = Callable[[], Awaitable[tuple[Need, bytes] | None]]
"""A smaller need, and the debit that its hold becomes should this process die, encoded; None where there is none."""
Holding = Callable[[], Awaitable[bool]]
"""Whether what a request that has waited was made from holds still; what it raises refuses the request."""
Decision = Hold | decisions.Refused | decisions.Unavailable | decisions.Reload


class Admissions:
    """Admits for one gateway process. An answer of Redis's is waited for as long as the batcher does, and `timeout_s`
    is when Redis refuses to carry an admission out; all attempts together take `wait_s`. What was admitted is put into
    `live`; `resolve` ends what was left unresolved. Where the `backlog` is full Redis is not asked."""

    def __init__(
        self,
        batchers: Sequence[Batcher],
        keyspace: Keyspace,
        partitions: Partitions,
        loader: Loader,
        live: dict[str, Hold],
        backlog: Backlog,
        queue: AdmissionQueue,
        resolve: Callable[[Hold], Awaitable[None]],
        *,
        gateway_id: str,
        timeout_s: float,
        wait_s: float,
    ) -> None:
        self.resolve = resolve
        self._batchers = batchers
        self._keys = keyspace
        self._partitions = partitions
        self._loader = loader
        self._live = live
        self._backlog = backlog
        self._queue = queue
        self._gateway_id = gateway_id
        self._timeout_s = timeout_s
        self._timeout_ms = int(timeout_s * 1000)
        self._wait_s = wait_s
        self._loop = asyncio.get_running_loop()

    async def admit(
        self,
        request_id: str,
        principal: Principal,
        model: str,
        feature: str,
        need: Need,
        expired: Debit | bytes,
        meanwhile: Callable[[], None] | None = None,
        lesser: Lesser | None = None,
        queue_s: float = 0.0,
        holding: Holding | None = None,
    ) -> Decision:
        """One call to Redis where its state is warm. `meanwhile` is called while Redis is asked, where the call left at
        once: where many ask together it would only make the call later. What it raises is raised, and the hold is given
        back once Redis has answered.

        `lesser` is called, at most once, where the need does not fit: what may be asked for in its place. A request
        that only running ones keep out waits for them, at most `queue_s` seconds and behind those of its account that
        came before it. After that, `holding` is called before Redis is asked again: `Reload` where it says no."""
        place = principal.kept.get((self._gateway_id, model, feature)) or self._place_of(principal, model, feature)
        payload = expired if isinstance(expired, bytes) else encode_debit(expired)
        later = (request_id, principal, model, feature, place, need, payload)
        if queue_s > 0 and self._queue.keeps_waiting(place):
            return await self._admit_later(*later, None, lesser, queue_s, holding)
        backlog = self._backlog
        if backlog.full or backlog.full_of(principal.account_id):
            return decisions.Unavailable("too many debits wait for Postgres")
        partition, deadline = place.partition, self._loop.time() + self._wait_s
        backlog.asking += 1
        try:
            while True:
                item = self._item(request_id, place, need, payload)
                if partition.epoch is not None:
                    is_out = self._batchers[partition.number].submit(item)
                    try:
                        if is_out and meanwhile is not None:
                            meanwhile()
                            meanwhile = None
                        reply, epoch = await item.answer
                    except BaseException:
                        item.abandon()
                        raise
                else:
                    reply, epoch = StaleEpoch("no epoch is agreed on"), -1
                if not isinstance(reply, RedisError):
                    code = reply[0]
                    if code == codec.OK:
                        hold = self._live[request_id] = Hold(request_id, item.id, place, need, payload, reply, epoch)
                        return hold
                    if code in _DECIDED:
                        if code == codec.QUOTA and await self._set_right(reply, partition, principal, deadline):
                            continue
                        refused = _refusal(reply, place.limits, need)
                        break
                stop = await self._mend(reply, epoch, partition, principal, deadline)
                if stop is not None or self._loop.time() >= deadline:
                    return stop or decisions.Unavailable("admission took longer than it may")
        finally:
            backlog.asking -= 1
        if lesser is None and queue_s <= 0:
            return refused
        return await self._admit_later(*later, refused, lesser, queue_s, holding)

    async def _admit_later(
        self,
        request_id: str,
        principal: Principal,
        model: str,
        feature: str,
        place: AdmissionTarget,
        need: Need,
        payload: bytes,
        refused: decisions.Refused | None,
        lesser: Lesser | None,
        queue_s: float,
        holding: Holding | None,
    ) -> Decision:
        """What becomes of a request that was `refused`, or that others wait before."""
        began_s = self._loop.time()
        ticket = self._enter(place, refused, queue_s)
        decision: Decision | None = refused
        try:
            less = await lesser() if lesser is not None else None
            if less is not None:
                need, payload = less

            async def ask() -> Decision:
                if holding is not None and not await holding():
                    return decisions.Reload()
                return await self.admit(request_id, principal, model, feature, need, payload)

            if ticket is None and (less is not None or decision is None):
                decision = await ask()
                if isinstance(decision, decisions.Refused):
                    ticket = self._enter(place, decision, queue_s)
            while ticket is not None:
                in_time = await self._queue.turn(ticket, began_s + queue_s)
                decision = await ask()
                if not in_time or not isinstance(decision, decisions.Refused) or not decision.is_held:
                    break
                ticket.refused(decision)
            assert decision is not None  # noqa: S101  (who did not wait was asked about)
            if isinstance(decision, Hold):
                decision.waited_s = self._loop.time() - began_s
            return decision
        finally:
            if ticket is not None:
                self._queue.leave(ticket, admitted=isinstance(decision, Hold))

    def _enter(self, place: AdmissionTarget, refused: decisions.Refused | None, queue_s: float) -> Ticket | None:
        may_wait = queue_s > 0 and (refused is None or refused.is_held)
        return self._queue.enter(place, refused) if may_wait else None

    async def _set_right(self, reply: list[Any], partition: Partition, principal: Principal, deadline: float) -> bool:
        """Set the account's time right where a wrong clock of Redis's has taken it ahead: its windows would stay shut
        until real time has caught up. Whether it was, so that Redis is to be asked again."""
        if reply[1] <= partition.now_ms() + codec.STEP_S * 1000:
            return False
        try:
            async with asyncio.timeout_at(deadline):
                return await self._loader.retime(partition, principal.account_id)
        except (StoreError, TimeoutError) as error:
            logger.info("the time of %s could not be set right: %s", principal.account_id, error)
            return False

    def _place_of(self, principal: Principal, model: str, feature: str) -> AdmissionTarget:
        account_id, key_id = principal.account_id, principal.key_id
        names = b"".join(map(pack_text, (account_id, key_id, model, feature, self._gateway_id)))
        place = AdmissionTarget(
            principal,
            self._keys.account(account_id),
            self._keys.key(account_id, key_id),
            self._partitions.of(account_id),
            principal.limits_for(model, feature),
            names,
        )
        if len(principal.kept) >= MAX_KEPT:
            principal.kept.clear()
        principal.kept[self._gateway_id, model, feature] = place
        return place

    def _item(self, request_id: str, place: AdmissionTarget, need: Need, payload: bytes) -> AdmitItem:
        body = ADMIT.pack(
            *place.versions_and_credit,
            need.input_cost_nano,
            need.unit_nano,
            need.input_tokens,
            need.choices,
            need.least_output,
            need.most_output,
            place.partition.now_ms() + self._timeout_ms,
            *place.most_running,
        )
        answer = self._loop.create_future()
        return AdmitItem(request_id.encode(), place, body + place.tail + payload, answer, self._void_late)

    def _void_late(self, item: AdmitItem) -> None:
        """Give back what an admission of unknown fate may have held, once it can't be carried out any more."""
        batcher = self._batchers[item.place.partition.number]
        delay_s = self._timeout_s + VOID_MARGIN_MS / 1000
        self._loop.call_later(delay_s, lambda: batcher.submit(VoidItem(item.id, item.account_key, item.key_key)))

    async def _mend(
        self, reply: list[Any] | RedisError, epoch: int, partition: Partition, principal: Principal, deadline: float
    ) -> decisions.Unavailable | decisions.Reload | None:
        """Bring about what an admission lacked, by a deadline of the loop's clock; None: ask again."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._mend_reply(reply, epoch, partition, principal)
        except (StoreError, TimeoutError) as error:
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
        if code == codec.MISSING:
            known = await self._loader.install(partition, principal.account_id, principal.key_id)
            return None if known else decisions.Reload()
        if code == codec.RELOAD:
            return decisions.Reload()
        if code in (codec.PUSH, codec.WAITING):
            if code == codec.WAITING:
                await self._loader.retime(partition, principal.account_id)
            account = await self._loader.adopt_account(partition, principal.account_id)
            key = await self._loader.adopt_key(partition, principal.account_id, principal.key_id)
            if _older(account, principal.account_version) or _older(key, principal.key_version):
                return decisions.Reload()
            await asyncio.sleep(RETRY_PAUSE_S if code == codec.WAITING else 0)
            return None
        if code == codec.LATE:
            await self._partitions.is_current(partition)
            return None
        if code == codec.CLOSED:
            if not await self._partitions.join(partition):
                await asyncio.sleep(RETRY_PAUSE_S)
            return None
        return decisions.Unavailable("too many debits wait for Postgres")


def _older(told: int | None, known: int) -> bool:
    """Whether the ledger has an older version than this process knows: it was restored."""
    return told is not None and told < known


def _refusal(reply: list[Any], limits: QuotaLimits, need: Need) -> decisions.Refused:
    if reply[0] == codec.BALANCE:
        _, available, required, held = reply
        return decisions.InsufficientBalance(available, required, held, need.fitting_output(Metric.cost, available))
    if reply[0] == codec.CONCURRENCY:
        return decisions.TooManyRunning("key" if reply[1] else "plan")
    exhausted, fitting = [], []
    for at in range(2, len(reply), 5):
        subject, place, used, held, requested = reply[at : at + 5]
        limit = (limits.key if subject else limits.account)[place]
        exhausted.append(Exhausted(limit, used, held, requested))
        fitting.append(need.fitting_output(limit.quota.metric, limit.quota.limit - used - held))
    return decisions.QuotaExceeded(tuple(exhausted), reply[1], min(fitting))


class Opening:
    """The context manager of `Holds.open`: what it enters with is a `Decision`."""

    __slots__ = ("_admissions", "_arguments", "_hold")

    def __init__(self, admissions: Admissions, *arguments: Any) -> None:
        self._admissions = admissions
        self._arguments = arguments
        self._hold: Hold | None = None

    async def __aenter__(self) -> Decision:
        decision = await self._admissions.admit(*self._arguments)
        if isinstance(decision, Hold):
            self._hold = decision
        return decision

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        if hold is not None and not hold.ending and not hold.handed_over:
            await self._admissions.resolve(hold)
