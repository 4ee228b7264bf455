"""Corrections: changes of a balance that Redis has not made itself, applied to it in order and each once (rule R5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import Row, queries
from billing.holds.loading import account_quotas
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import CORRECTION, I8, NO_REQUEST, AccountState, pack_tags
from billing.quotas import Quota, parse_quotas

if TYPE_CHECKING:
    from billing.holds.epochs import Partitions
    from billing.holds.partition import Partition
    from billing.plans import Plan

logger = logging.getLogger(__name__)

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
    """Brings accounts in Redis up to the ledger. `plan_of` gives the plan of an id: debits that Redis has no entry of
    count in their account's counters. Where Redis and the ledger are of different epochs that have one number, another
    one begins."""

    def __init__(self, partitions: Partitions, plan_of: Callable[[str], Plan]) -> None:
        self.partitions = partitions
        self._database = partitions.database
        self._redis = partitions.redis
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
                self.partitions.lost_writes(partition, epoch)
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
        """Bring accounts of one partition up to where the ledger is now, with one reading of each store for all of
        them; return those that need `sync`, because Redis has not loaded them, say. Raises `StoreError`."""
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
        applied = {
            account_id: rows[-1]["xseq"]
            for (account_id, rows), reply in zip(found.items(), replies, strict=True)
            if reply == [0, rows[-1]["xseq"]]
        }
        if applied:
            await self._database.execute(CORRECTED_MANY, list(applied), list(applied.values()))
        return [each for each in left if each not in applied]

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
        keyspace = self._redis.keyspace
        keys = [partition.meta, partition.journal, keyspace.account(account_id)]
        places: dict[bytes, int] = {}

        def place_of(key: bytes) -> int:
            if key not in places:
                keys.append(key)
                places[key] = len(keys)
            return places[key]

        arguments: list[bytes | int] = [epoch, I8.pack(xseq)]
        for row in rows:
            key_id, user_id = row["key_id"], row["user_id"]
            key_place = place_of(keyspace.key(account_id, key_id)) if key_id is not None else 0
            user_place = place_of(keyspace.user(account_id, user_id)) if user_id is not None else 0
            arguments.append(_pack(row, (key_place, user_place), quotas))
        return await self._redis.client.call(self._apply, keys, arguments)


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
