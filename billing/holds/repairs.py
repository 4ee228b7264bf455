"""What Redis lacks is brought about: for an admission, so that it can be asked for again, and changes of a balance.

A repair ends by the admission's own deadline. Corrections let Redis know, in order and each once, of changes of a
balance that it has not made itself (rule R5).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import Database, Row, queries
from billing.errors import StoreError
from billing.holds import decision as decisions
from billing.holds.partition import LostWrites
from billing.holds.redis import layout
from billing.holds.redis.batcher import StaleEpoch
from billing.holds.redis.connection import RedisError, RedisMoved, Script
from billing.holds.redis.layout import CORRECTION, I8, NO_REQUEST, AccountState, pack_tags
from billing.holds.windows import account_quotas
from billing.quotas import Quota, parse_quotas

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.holds.decision import Need
    from billing.holds.epoch_start import EpochStart
    from billing.holds.items import AdmissionTarget
    from billing.holds.loader import Loader
    from billing.holds.partitions import Partition, Partitions
    from billing.holds.redis.state import RedisState
    from billing.plans import Plan
    from billing.principals import Principal

logger = logging.getLogger(__name__)

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


_sql = queries("billing.holds")
CORRECTIONS_AFTER: Final = _sql("corrections_after")
CORRECTIONS_OF_MANY: Final = _sql("corrections_of_many")
CORRECTED: Final = _sql("corrected")
CORRECTED_MANY: Final = _sql("corrected_many")
CORRECTED_UNLOADED: Final = _sql("corrected_unloaded")
READ_ACCOUNT: Final = _sql("read_account_principal")
READ_XSEQ: Final = "SELECT xseq FROM accounts WHERE id = $1"
ROWS_PER_APPLY: Final = 100
ROUNDS: Final = 50


class Corrections:
    """`plan_of` gives the plan of an id: debits that Redis has no entry of count in their account's counters. Where
    Redis and the ledger are of different epochs that have one number, `partitions` begins another one."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        partitions: Partitions,
        plan_of: Callable[[str], Plan],
    ) -> None:
        self._database = database
        self._redis = redis
        self._client = redis.client
        self._keyspace = redis.keyspace
        self._partitions = partitions
        self._plan_of = plan_of
        self._apply = Script("apply")
        self._locks: dict[str, asyncio.Lock] = {}

    async def sync(self, partition: Partition, account_id: str) -> bool:
        """Bring the account in Redis up to the ledger; return whether it is there now. An account that Redis has not
        loaded needs nothing: loading reads the ledger. Raises `StoreError`."""
        lock = self._locks.setdefault(account_id, asyncio.Lock())
        try:
            async with lock:
                return await self._sync(partition, account_id)
        finally:
            if not lock.locked():
                self._locks.pop(account_id, None)

    async def _sync(self, partition: Partition, account_id: str) -> bool:
        newest = await self._newest(account_id)
        quotas: Sequence[Quota] | None = None
        for _ in range(ROUNDS):
            epoch = partition.epoch
            state = await self._redis.account(account_id)
            if epoch is None:
                return False
            if state is None or state.epoch != epoch:
                await self._database.execute(CORRECTED_UNLOADED, account_id, newest, partition.number)
                return True
            if state.xseq > newest and state.xseq > await self._newest(account_id):
                logger.error("account %s: Redis knows of correction %d, not the ledger", account_id, state.xseq)
                self._partitions.lost_writes(partition, epoch)
                return False
            if state.xseq >= newest:
                await self._database.execute(CORRECTED, account_id, newest)
                return True
            rows = await self._database.rows(CORRECTIONS_AFTER, account_id, state.xseq, ROWS_PER_APPLY)
            if not rows:
                await self._database.execute(CORRECTED, account_id, newest)
                return True
            if quotas is None:
                quotas = await self._account_quotas(account_id)
            reply = await self._send(partition, epoch, account_id, state.xseq, rows, quotas)
            if reply == [0, state.xseq]:  # the next row ends a hold of a newer release, whose gateways apply it
                return False
        logger.warning("account %s has more corrections than one round takes; the next one goes on", account_id)
        return False

    async def sync_together(self, partition: Partition, account_ids: Sequence[str]) -> list[str]:
        """Bring accounts of one partition up to where the ledger is now, with a look at each store for all of them;
        return those that `sync` has to look at, because Redis has not loaded them, say. Raises `StoreError`."""
        epoch, left = partition.epoch, list(account_ids)
        if epoch is None:
            return left
        packed = zip(account_ids, await self._redis.packed_accounts(account_ids), strict=True)
        states = {account_id: AccountState.unpack(raw) for account_id, raw in packed if raw is not None}
        known = {account_id: state.xseq for account_id, state in states.items() if state.epoch == epoch}
        found: dict[str, list[Row]] = {}
        values = list(known), list(known.values()), ROWS_PER_APPLY
        for row in await self._database.rows(CORRECTIONS_OF_MANY, *values) if known else ():
            found.setdefault(row["account_id"], []).append(row)
        replies = await asyncio.gather(
            *(
                self._send(partition, epoch, account_id, known[account_id], rows, self._quotas_of(rows[0]))
                for account_id, rows in found.items()
            )
        )
        told = {
            account_id: rows[-1]["xseq"]
            for (account_id, rows), reply in zip(found.items(), replies, strict=True)
            if reply == [0, rows[-1]["xseq"]]
        }
        if told:
            await self._database.execute(CORRECTED_MANY, list(told), list(told.values()))
        return [each for each in left if each not in told]

    def _quotas_of(self, row: Row) -> Sequence[Quota]:
        return account_quotas(self._plan_of(row["plan"]), row["account_quotas"])

    async def _account_quotas(self, account_id: str) -> Sequence[Quota]:
        row = await self._database.row(READ_ACCOUNT, account_id)
        return account_quotas(self._plan_of(row["plan"]), row["quotas"]) if row is not None else ()

    async def _newest(self, account_id: str) -> int:
        """Return the number of the last correction; -1 of an account that the ledger has not."""
        xseq: int | None = await self._database.value(READ_XSEQ, account_id)
        return -1 if xseq is None else xseq

    async def _send(
        self, partition: Partition, epoch: int, account_id: str, xseq: int, rows: list[Row], quotas: Sequence[Quota]
    ) -> Any:
        number = partition.number
        keys = [self._keyspace.meta(number), self._keyspace.journal(number), self._keyspace.account(account_id)]
        places: dict[bytes, int] = {}

        def place_of(key: bytes) -> int:
            if key not in places:
                keys.append(key)
                places[key] = len(keys)
            return places[key]

        arguments: list[bytes | int] = [epoch, I8.pack(xseq)]
        for row in rows:
            key_id, user_id = row["key_id"], row["user_id"]
            key_place = place_of(self._keyspace.key(account_id, key_id)) if key_id is not None else 0
            user_place = place_of(self._keyspace.user(account_id, user_id)) if user_id is not None else 0
            arguments.append(_pack(row, (key_place, user_place), quotas))
        return await self._client.call(self._apply, keys, arguments)


def _pack(row: Row, places: tuple[int, int], quotas: Sequence[Quota]) -> bytes:
    request_id, model, feature = row["request_id"], row["model"] or "", row["feature"] or ""
    key_quotas, user_quotas = (parse_quotas(row[name] or ()) for name in ("key_quotas", "user_quotas"))

    def applying(quotas: Sequence[Quota]) -> bytes:
        return pack_tags([quota.tag for quota in quotas if request_id and quota.applies_to(model, feature)])

    return (
        CORRECTION.pack(
            row["xseq"],
            row["delta_nano"],
            request_id.encode() if request_id else NO_REQUEST,
            *places,
            row["admitted_at_ms"] or 0,
            row["requests"],
            row["input_tokens"],
            row["output_tokens"],
            row["cost_nano"],
        )
        + applying(quotas)
        + applying(key_quotas)
        + applying(user_quotas)
    )
