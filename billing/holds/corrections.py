"""Corrections: telling Redis, in order and each once, of changes of a balance that it has not made itself (rule R5)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from billing.database.connection import Database, Row, queries
from billing.holds.partitions import Partition
from billing.holds.redis import RedisClient, Script
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import CORRECTION, I8, NO_REQUEST, AccountState, pack_tags
from billing.quotas import Quota, parse_quotas

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
CORRECTIONS_AFTER: Final = _sql("corrections_after")
CORRECTED: Final = _sql("corrected")
CORRECTED_UNLOADED: Final = _sql("corrected_unloaded")
READ_XSEQ: Final = "SELECT xseq FROM accounts WHERE id = $1"
ROWS_PER_APPLY: Final = 100
ROUNDS: Final = 50


class Corrections:
    """`account_quotas(account_id)` answers the counters of an account, for debits that Redis has no entry of; `on_lost`
    is told where Redis and the ledger are of different epochs that have one number."""

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        account_quotas: Callable[[str], Awaitable[Sequence[Quota]]],
        on_lost: Callable[[Partition, int], None],
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._account_quotas = account_quotas
        self._on_lost = on_lost
        self._apply = Script("apply")
        self._locks: dict[str, asyncio.Lock] = {}

    async def sync(self, partition: Partition, account_id: str) -> bool:
        """Bring the account in Redis up to the ledger; whether it is there now. An account that Redis has not loaded
        needs nothing: loading reads the ledger. Raises `StoreError`.
        """
        lock = self._locks.setdefault(account_id, asyncio.Lock())
        try:
            async with lock:
                return await self._sync(partition, account_id)
        finally:
            if not lock.locked():
                self._locks.pop(account_id, None)

    async def _sync(self, partition: Partition, account_id: str) -> bool:
        account_key = self._keys.account(account_id)
        newest = await self._newest(account_id)
        quotas: Sequence[Quota] | None = None
        for _ in range(ROUNDS):
            epoch = partition.epoch
            raw = await self._link.command("GET", account_key)
            state = AccountState.unpack(raw) if raw is not None else None
            if epoch is None:
                return False
            if state is None or state.epoch != epoch:
                await self._database.execute(CORRECTED_UNLOADED, account_id, newest, partition.number)
                return True
            if state.xseq > newest and state.xseq > await self._newest(account_id):
                logger.error(
                    "account %s: Redis knows of correction %d, which the ledger has not", account_id, state.xseq
                )
                self._on_lost(partition, epoch)
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

    async def _newest(self, account_id: str) -> int:
        """The number of the last correction; -1 of an account that the ledger has not."""
        xseq: int | None = await self._database.value(READ_XSEQ, account_id)
        return -1 if xseq is None else xseq

    async def _send(
        self, partition: Partition, epoch: int, account_id: str, xseq: int, rows: list[Row], quotas: Sequence[Quota]
    ) -> Any:
        number = partition.number
        keys = [self._keys.meta(number), self._keys.journal(number), self._keys.account(account_id)]
        places: dict[str, int] = {}
        arguments: list[bytes | int] = [epoch, I8.pack(xseq)]
        for row in rows:
            key_id, place = row["key_id"], 0
            if key_id is not None:
                if key_id not in places:
                    keys.append(self._keys.key(account_id, key_id))
                    places[key_id] = len(keys)
                place = places[key_id]
            arguments.append(_pack(row, place, quotas))
        return await self._link.call(self._apply, keys, arguments)


def _pack(row: Row, key_place: int, quotas: Sequence[Quota]) -> bytes:
    request_id, model, feature = row["request_id"], row["model"] or "", row["feature"] or ""
    key_quotas = parse_quotas(row["key_quotas"]) if row["key_quotas"] is not None else ()
    return (
        CORRECTION.pack(
            row["xseq"],
            row["delta_nano"],
            request_id.encode() if request_id else NO_REQUEST,
            key_place,
            row["admitted_at_ms"] or 0,
            row["requests"],
            row["input_tokens"],
            row["output_tokens"],
            row["cost_nano"],
        )
        + pack_tags([quota.tag for quota in quotas if request_id and quota.applies_to(model, feature)])
        + pack_tags([quota.tag for quota in key_quotas if request_id and quota.applies_to(model, feature)])
    )
