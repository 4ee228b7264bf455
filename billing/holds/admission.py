"""Admission: asking Redis for a hold, and bringing about what it lacked to decide.

This file owns that an admission ends as a `Decision` within its time, whatever the stores do and however often its
principal changes; that one of unknown fate is given back once it can't be carried out any more; and that there is no
way out of an `Opening` that leaves a hold unresolved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from billing.errors import StoreError
from billing.holds import model as decisions
from billing.holds.batch import Batcher, StaleEpoch
from billing.holds.model import AdmissionTarget, AdmitItem, Hold, Need, VoidItem
from billing.holds.partition import LostWrites
from billing.holds.redis import layout
from billing.holds.redis.connection import RedisError, RedisMoved
from billing.ledger.debits import Debit, encode_debit
from billing.principals import MAX_KEPT, Principal

if TYPE_CHECKING:
    from billing.holds.epoch_start import EpochStart
    from billing.holds.epochs import Partitions
    from billing.holds.loading import Loader
    from billing.holds.model import AdmissionTarget, Need
    from billing.holds.partition import Partition
    from billing.holds.redis.layout import Keyspace
    from billing.holds.wait_queue import AdmissionQueue, Ticket
    from billing.principals import Principal

logger = logging.getLogger(__name__)

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


# --- x


RETRY_PAUSE_S: Final = 0.01


_DECIDED: Final = frozenset((layout.BALANCE, layout.QUOTA, layout.CONCURRENCY))


class Repairs:
    """Repairs for the admissions of one gateway process."""

    def __init__(self, partitions: Partitions, epoch_start: EpochStart, loader: Loader) -> None:
        self._partitions = partitions
        self._epoch_start = epoch_start
        self._loader = loader

    async def decide(
        self,
        reply: list[Any] | RedisError,
        epoch: int,
        target: AdmissionTarget,
        principal: Principal,
        need: Need,
        deadline: float,
    ) -> decisions.Refused | decisions.Unavailable | decisions.Reload | None:
        """Return what a reply that admits nothing means, by a `deadline` of the loop's clock; None: what it lacked is
        there now, ask again."""
        partition = target.partition
        if not isinstance(reply, RedisError) and reply[0] in _DECIDED:
            if reply[0] == layout.QUOTA and await self._set_time_right(reply, partition, principal, deadline):
                return None
            return decisions.refusal(reply, target.limits, need)
        try:
            async with asyncio.timeout_at(deadline):
                stop = await self._repair_reply(reply, epoch, partition, principal)
        except (StoreError, TimeoutError) as error:
            return decisions.Unavailable(f"{type(error).__name__}: {error}")
        if stop is None and asyncio.get_running_loop().time() >= deadline:
            return decisions.Unavailable("admission took longer than it may")
        return stop

    async def _set_time_right(
        self, reply: list[Any], partition: Partition, principal: Principal, deadline: float
    ) -> bool:
        """Set the account's time right where a wrong clock of Redis's has taken it ahead: its windows would stay shut
        until real time has caught up. Return whether it was, so that Redis is to be asked again."""
        if reply[1] <= partition.now_ms() + layout.STEP_S * 1000:
            return False
        try:
            async with asyncio.timeout_at(deadline):
                return await self._loader.retime(partition, principal.account_id)
        except (StoreError, TimeoutError) as error:
            logger.info("the time of %s could not be set right: %s", principal.account_id, error)
            return False

    async def _repair_reply(
        self, reply: list[Any] | RedisError, epoch: int, partition: Partition, principal: Principal
    ) -> decisions.Unavailable | decisions.Reload | None:
        try:
            if isinstance(reply, StaleEpoch | RedisMoved):
                await self._partitions.ensure(partition, stale=epoch)
                if not await self._epoch_start.join(partition):
                    await asyncio.sleep(RETRY_PAUSE_S)
                return None
            if isinstance(reply, RedisError):
                return decisions.Unavailable(str(reply))
            return await self._repair_state(reply[0], partition, principal)
        except LostWrites as error:
            logger.error("%s: a new epoch begins", error)
            await self._partitions.renew(partition, error.epoch)
            return None

    async def _repair_state(
        self, code: int, partition: Partition, principal: Principal
    ) -> decisions.Unavailable | decisions.Reload | None:
        if code == layout.MISSING:
            known = await self._loader.install(partition, principal.account_id, principal.key_id)
            return None if known else decisions.Reload()
        if code == layout.RELOAD:
            return decisions.Reload()
        if code in (layout.PUSH, layout.WAITING):
            if code == layout.WAITING:
                await self._loader.retime(partition, principal.account_id)
            account = await self._loader.adopt_account(partition, principal.account_id)
            key = await self._loader.adopt_key(partition, principal.account_id, principal.key_id)
            if _older(account, principal.account_version) or _older(key, principal.key_version):
                return decisions.Reload()
            await asyncio.sleep(RETRY_PAUSE_S if code == layout.WAITING else 0)
            return None
        if code == layout.USER and principal.user_id is not None:
            user = await self._loader.adopt_user(partition, principal.account_id, principal.user_id)
            if _older(user, principal.account_version):
                return decisions.Reload()
            await asyncio.sleep(RETRY_PAUSE_S)
            return None
        if code == layout.LATE:
            await self._partitions.is_current(partition)
            return None
        if code == layout.CLOSED:
            if not await self._epoch_start.join(partition):
                await asyncio.sleep(RETRY_PAUSE_S)
            return None
        return decisions.Unavailable("too many debits wait for Postgres")


def _older(stored: int | None, known: int) -> bool:
    """Return whether the ledger has an older version than this process knows: it was restored."""
    return stored is not None and stored < known


# --- x


LOCKED_SHARE: Final = 16
"""One of so many parts of all is what the debits of one locked account may take up in one process."""


class Waiting(Sized, Protocol):
    """The outbox."""

    def count_aside(self, account_id: str) -> int: ...


class Backlog:
    """`live` are this process's running holds, `outbox` its debits that Postgres has not; `most` entries are allowed in
    the installation. `asking` admissions are on their way to Redis."""

    __slots__ = ("_journals", "_live", "_most", "_others", "_outbox", "_partitions", "_sizes", "asking")

    def __init__(self, partitions: Partitions, keyspace: Keyspace, live: Sized, outbox: Waiting, most: int) -> None:
        self._partitions = partitions
        self._journals = [keyspace.journal(partition.number) for partition in partitions.all]
        self._sizes = [0] * len(self._journals)
        self._live = live
        self._outbox = outbox
        self._most = most
        self._others = 0
        self.asking = 0

    @property
    def full(self) -> bool:
        """Return whether nothing more may be admitted."""
        return self._others + len(self._live) + len(self._outbox) + self.asking >= self._most

    def full_of(self, account_id: str) -> bool:
        """Return whether nothing more of this account may be admitted, because its row is locked."""
        return self._outbox.count_aside(account_id) * LOCKED_SHARE >= self._most

    async def look(self) -> None:
        """See what other gateways have in the journals; of a server that does not answer what it had last."""
        own = len(self._live) + len(self._outbox)
        await asyncio.gather(*map(self._look_at, self._partitions.all))
        own = max(own, len(self._live) + len(self._outbox))
        self._others = max(0, sum(self._sizes) - own)

    async def _look_at(self, partition: Partition) -> None:
        life = partition.life
        if life is not None and life.stands:
            with suppress(RedisError):
                self._sizes[partition.number] = await life.ask("HLEN", self._journals[partition.number])
