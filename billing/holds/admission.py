"""Admission: asking Redis for a hold, and bringing about what it lacked to decide.

This file owns that an admission ends as a `Decision` within its time, whatever the stores do and however often its
principal changes; that one of unknown fate is given back once it can't be carried out any more; and that there is no
way out of an `Opening` that leaves a hold unresolved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from billing.holds import decision as decisions
from billing.holds.decision import Need
from billing.holds.hold import Hold
from billing.holds.items import AdmissionTarget, AdmitItem, VoidItem
from billing.holds.redis import layout
from billing.holds.redis.batcher import Batcher, StaleEpoch
from billing.holds.redis.connection import RedisError
from billing.holds.repairs import Repairs
from billing.ledger.debits import Debit, encode_debit
from billing.principals import MAX_KEPT, Principal

if TYPE_CHECKING:
    from types import TracebackType

    from billing.holds.admission_queue import AdmissionQueue, Ticket
    from billing.holds.epoch_start import EpochStart
    from billing.holds.loader import Loader
    from billing.holds.outbox import Backlog
    from billing.holds.partitions import Partitions
    from billing.holds.redis.state import Keyspace

VOID_MARGIN_MS: Final = 50
RENEWALS: Final = 2
"""A principal is read again at least so often, however long that takes, and more often within `wait_s`."""
RENEWAL_PAUSE_S: Final = 0.001
RENEWAL_PAUSE_MAX_S: Final = 0.05
"""The first renewal is at once; then come pauses, each longer than the one before, so that a key that changes all the
time, or a Redis that is ahead of its Postgres, costs some forty look-ups and not a thousand."""
SERVED: Final = frozenset(("held", "owed"))
"""States of a hold that the request which opened it must end."""

Lesser = Callable[[Need], Awaitable[tuple[Need, bytes] | None]]
"""A smaller need than this one, and the debit that its hold becomes should this process die, encoded; or None."""
Decision = Hold | decisions.Refused | decisions.Unavailable


class Renewal(NamedTuple):
    """What a request asks for by its principal and prices as they are now, and the seconds that it may wait in all."""

    principal: Principal
    model: str
    need: Need
    expired: Debit | bytes
    queue_s: float


class Renew(Protocol):
    """Makes a request anew; None where nothing that it was made from has changed. With `stale` the principal is read
    from Postgres. What it raises refuses the request."""

    def __call__(self, *, stale: bool) -> Awaitable[Renewal | None]: ...


class Admissions:
    """Admits for one gateway process. An answer of Redis's is waited for as long as the batcher does, and `timeout_s`
    is when Redis refuses to carry an admission out; all attempts together take `wait_s`. What was admitted is put into
    `live`; `resolve` ends what was left unresolved. Where the `backlog` is full Redis is not asked."""

    def __init__(
        self,
        batchers: Sequence[Batcher],
        keyspace: Keyspace,
        partitions: Partitions,
        epoch_start: EpochStart,
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
        self._keyspace = keyspace
        self._partitions = partitions
        self._repairs = Repairs(partitions, epoch_start, loader)
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
        renew: Renew | None = None,
    ) -> Decision | decisions.Reload:
        """Ask for a hold: one call to Redis where its state is warm. `meanwhile` is called while Redis is asked, where
        the call left at once: where many ask together it would only make the call later. What it raises is raised, and
        the hold is given back once Redis has answered.

        `lesser` is called, at most once, where the need does not fit: what may be asked for in its place. A request
        that only running ones keep out waits for them, at most `queue_s` seconds and behind those of its account that
        came before it; then `renew` is asked before Redis is. One that is larger than a whole limit waits for nothing.
        `Reload`: the request must be made anew."""
        target = principal.kept.get((self._gateway_id, model, feature)) or self._target(principal, model, feature)
        payload = expired if isinstance(expired, bytes) else encode_debit(expired)
        later = (request_id, principal, model, feature, target, need, payload)
        if queue_s > 0 and self._queue.keeps_waiting(target) and need.ever_fits(target.limits):
            return await self._admit_later(*later, None, lesser, queue_s, renew)
        if (backlog := self._backlog).full or backlog.full_of(principal.account_id):
            return decisions.Unavailable("too many debits wait for Postgres")
        partition, deadline = target.partition, self._loop.time() + self._wait_s
        backlog.asking += 1
        try:
            while True:
                until_ms = partition.now_ms() + self._timeout_ms
                answer = self._loop.create_future()
                item = AdmitItem(request_id, target, need, payload, until_ms, answer, self._void_late)
                if partition.epoch is not None:
                    is_out = self._batchers[partition.number].submit(item)
                    try:
                        if is_out and meanwhile is not None:
                            meanwhile()
                            meanwhile = None
                        reply, epoch = await answer
                    except BaseException:
                        item.abandon()
                        raise
                else:
                    reply, epoch = StaleEpoch("no epoch is agreed on"), -1
                if not isinstance(reply, RedisError) and reply[0] == layout.OK:
                    hold = self._live[request_id] = Hold(request_id, item.id, target, need, payload, reply, epoch)
                    return hold
                decision = await self._repairs.decide(reply, epoch, target, principal, need, deadline)
                if isinstance(decision, decisions.Refused):
                    refused = decision
                    break
                if decision is not None:
                    return decision
        finally:
            backlog.asking -= 1
        if lesser is None and queue_s <= 0:
            return refused
        return await self._admit_later(*later, refused, lesser, queue_s, renew)

    async def _admit_later(
        self,
        request_id: str,
        principal: Principal,
        model: str,
        feature: str,
        target: AdmissionTarget,
        need: Need,
        payload: bytes,
        refused: decisions.Refused | None,
        lesser: Lesser | None,
        queue_s: float,
        renew: Renew | None,
    ) -> Decision | decisions.Reload:
        """Decide on a request that was `refused`, or that others wait before."""
        began_s = self._loop.time()
        ticket = self._enter(target, refused, queue_s)
        decision: Decision | decisions.Reload | None = refused
        try:
            less = await lesser(need) if lesser is not None else None
            if less is not None:
                need, payload = less

            async def ask() -> Decision | decisions.Reload:
                if renew is not None and await renew(stale=False) is not None:
                    return decisions.Reload()
                return await self.admit(request_id, principal, model, feature, need, payload)

            if ticket is None and (less is not None or decision is None):
                decision = await ask()
                if isinstance(decision, decisions.Refused):
                    ticket = self._enter(target, decision, queue_s)
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

    async def admit_anew(
        self,
        request_id: str,
        asked: Renewal,
        feature: str,
        meanwhile: Callable[[], None] | None,
        lesser: Lesser | None,
        renew: Renew | None,
        began_s: float,
    ) -> Decision:
        """Ask again for a request whose principal or prices are not those that it was made from, until they stay the
        same: at most `wait_s` after `began_s`, on the monotonic clock."""
        renewals, pause_s = 0, 0.0
        while renew is not None:
            if renewals >= RENEWALS and time.monotonic() >= began_s + self._wait_s:
                return decisions.Unavailable("the principal has changed again and again")
            if renewals:
                pause_s = min(2 * pause_s + RENEWAL_PAUSE_S, RENEWAL_PAUSE_MAX_S)
                await asyncio.sleep(pause_s)
            renewals += 1
            asked = await renew(stale=True) or asked
            principal, model, need, expired, queue_s = asked
            late_s = time.monotonic() - began_s
            callbacks = (meanwhile, lesser, queue_s and queue_s - late_s, renew)
            decision = await self.admit(request_id, principal, model, feature, need, expired, *callbacks)
            if isinstance(decision, Hold):
                decision.waited_s += late_s
            if not isinstance(decision, decisions.Reload):
                return decision
        return decisions.Unavailable("the principal has changed since it was read")

    def _enter(self, target: AdmissionTarget, refused: decisions.Refused | None, queue_s: float) -> Ticket | None:
        may_wait = queue_s > 0 and (refused is None or refused.is_held)
        return self._queue.enter(target, refused) if may_wait else None

    def _target(self, principal: Principal, model: str, feature: str) -> AdmissionTarget:
        """Make what the holds of a key on a model have in common, and keep it with the principal."""
        partition = self._partitions.of(principal.account_id)
        target = AdmissionTarget(principal, self._keyspace, partition, model, feature, self._gateway_id)
        if len(principal.kept) >= MAX_KEPT:
            principal.kept.clear()
        principal.kept[self._gateway_id, model, feature] = target
        return target

    def _void_late(self, item: AdmitItem) -> None:
        """Give back what an admission of unknown fate may have held, once it can't be carried out any more."""
        batcher = self._batchers[item.target.partition.number]
        delay_s = self._timeout_s + VOID_MARGIN_MS / 1000
        void = VoidItem(item.id, item.account_key, item.key_key, item.target.any_user_key)
        self._loop.call_later(delay_s, lambda: batcher.submit(void))


class Opening:
    """The context manager of `Holds.open`: what it enters with is a `Decision`."""

    __slots__ = ("_admissions", "_arguments", "_hold")

    def __init__(self, admissions: Admissions, *arguments: Any) -> None:
        """Take the arguments of `Admissions.admit`, all of them."""
        self._admissions = admissions
        self._arguments = arguments
        self._hold: Hold | None = None

    async def __aenter__(self) -> Decision:
        began_s = time.monotonic()
        decision = await self._admissions.admit(*self._arguments)
        if isinstance(decision, decisions.Reload):
            request_id, principal, model, feature, need, expired, meanwhile, lesser, queue_s, renew = self._arguments
            asked = Renewal(principal, model, need, expired, queue_s)
            callbacks = (meanwhile, lesser, renew)
            decision = await self._admissions.admit_anew(request_id, asked, feature, *callbacks, began_s)
        if isinstance(decision, Hold):
            self._hold = decision
        return decision

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        if hold is not None and hold.state in SERVED:
            await self._admissions.resolve(hold)
