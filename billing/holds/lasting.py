"""Holds that outlast the process that made them: rows in Postgres, held in Redis by no gateway.

Such a hold is neither lost nor leaked. It is admitted as every hold, but its entry in the journal names LASTING as its
gateway, which never dies, so that no sweep ends it; then its row is written. A process that is killed in between leaves
an entry without a row, which is given back once it is so old that no row can come any more. Whatever ends a hold
changes its row first, once: a settlement in the transaction of its debit, whose correction ends the entry (rule R5); a
void or an expiry before the entry is given back. A process that is killed in between leaves an entry whose row has
ended: `tidy` ends it, too. In a new epoch each gateway holds the open rows again before it joins, so that none is
missing when admission opens.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import queries
from billing.errors import StoreError
from billing.holds.model import LASTING, StateKeys, VoidItem
from billing.holds.redis.layout import HELD, HoldTags, pack_hold, pack_text
from billing.ledger.debits import Debit, Unreadable, decode_debit
from billing.work import until_next_s

if TYPE_CHECKING:
    from billing.holds.batch import RunningHolds
    from billing.holds.epochs import Partition
    from billing.holds.loading import Corrections
    from billing.holds.redis.layout import Keyspace
    from billing.pending import Pending

logger = logging.getLogger(__name__)

_sql = queries("billing.holds")
_ledger_query = queries("billing.ledger")
OPEN: Final = _sql("service_holds_open")
STILL_HELD: Final = _sql("service_holds_held")
EXPIRE: Final = _sql("service_holds_expire")
COUNT: Final = _sql("service_holds_count")
TAKE_LEASE: Final = _ledger_query("jobs_take")

LEASE: Final = "service holds"
# Rows that are read, and held again, at once; so many expire in one statement.
PAGE: Final = 100
ROUND_S: Final = 2.0
# Entries are compared with the rows in every such round.
TIDY_EVERY: Final = 15
# An entry older than this without an open row has none to come: a row is written within `postgres_timeout_s`.
ORPHAN_AGE_MS: Final = 60_000


class LastingHold:
    """An open hold of a row, as it can be held again."""

    __slots__ = ("debit", "id", "payload", "target")

    def __init__(self, hold_id: str, payload: bytes, keyspace: Keyspace) -> None:
        """Raises `Unreadable` for a payload of a newer release."""
        self.id = hold_id
        self.payload = payload
        self.debit: Debit = decode_debit(payload)
        account_id, key_id = self.debit.account_id, self.debit.key_id
        self.target = StateKeys(keyspace.account(account_id), keyspace.key(account_id, key_id))

    def entry(self, epoch: int, tags: HoldTags) -> bytes:
        """Return its entry in the journal, as it stands in an epoch, in these counters."""
        debit = self.debit
        names = (debit.account_id, debit.key_id, debit.model, debit.feature, LASTING)
        amounts = (debit.charged_nano, debit.input_tokens, debit.output_tokens)
        return pack_hold(
            epoch,
            debit.admitted_at_ms,
            amounts,
            b"".join(map(pack_text, names)),
            tags._replace(user=None),
            self.payload,
        )


class LastingHolds:
    """What keeps the entries of lasting holds with their rows; `open_of` is how many each account has, as of late."""

    def __init__(self, corrections: Corrections, running: RunningHolds, gateway_id: str, pending: Pending) -> None:
        self._partitions = partitions = corrections.partitions
        self._database, self._redis, self._keyspace = partitions.database, partitions.redis, partitions.keyspace
        self._corrections = corrections
        self._running = running
        self._gateway_id = gateway_id
        self._pending = pending
        self.open_of: Counter[str] = Counter()

    async def held(self, partition: Partition) -> AsyncIterator[list[LastingHold]]:
        """Yield the open holds of a partition, some at a time. Raises `DatabaseError`."""
        after = ""
        while rows := await self._database.rows(OPEN, partition.number, after, PAGE):
            after = rows[-1]["id"]
            found = []
            for row in rows:
                try:
                    found.append(LastingHold(row["id"], row["payload"], self._keyspace))
                except Unreadable as error:
                    logger.error("hold %s is one of a newer release, whose gateways hold it: %s", row["id"], error)
            yield found

    async def release_ended(self, partition: Partition, holds: Sequence[LastingHold]) -> None:
        """Give back those that have ended since they were read: they were held again too late. Raises `StoreError`."""
        held = {row["id"] for row in await self._database.rows(STILL_HELD, [hold.id for hold in holds])}
        for hold in holds:
            if hold.id not in held:
                await self._end(partition, hold.id, hold.debit.account_id, hold.debit.key_id)

    def give_back(self, hold_id: str, account_id: str, key_id: str) -> None:
        """Give back the entry of a hold whose row has ended without a debit. What is not given back is tidied later."""
        self._submit(self._partitions.of(account_id), hold_id, account_id, key_id)

    async def run(self) -> None:
        """Let holds expire, and tidy what processes have left behind, in one gateway at a time."""
        rounds = idle = 0
        while True:
            await asyncio.sleep(until_next_s(ROUND_S))
            try:
                rows = await self._database.rows(COUNT) if self._pending.work.service_holds else []
                self.open_of = Counter({row["account_id"]: row["open"] for row in rows})
                if not rows and idle < TIDY_EVERY:
                    idle += 1
                    continue
                idle = 0
                if await self._database.row(TAKE_LEASE, LEASE, self._gateway_id, ROUND_S * 0.9) is None:
                    continue
                await self.expire()
                rounds += 1
                if rounds % TIDY_EVERY == 0:
                    await self.tidy()
            except StoreError as error:
                logger.info("holds of services are not maintained for now: %s", error)

    async def expire(self) -> int:
        """Let holds expire whose time is over; return how many. Raises `DatabaseError`."""
        expired = 0
        while rows := await self._database.rows(EXPIRE, PAGE):
            for row in rows:
                self.give_back(row["id"], row["account_id"], row["key_id"])
            expired += len(rows)
            if len(rows) < PAGE:
                break
        if expired:
            logger.info("%d holds of services have expired and are given back", expired)
        return expired

    async def tidy(self, age_ms: int = ORPHAN_AGE_MS) -> int:
        """Give back entries of at least this age that have no open row; return how many. Raises `StoreError`."""
        ended = 0
        for partition in self._partitions.all:
            left: dict[str, Any] = {}
            if partition.epoch is None:
                continue
            async for request_id, entry in self._redis.entries(partition.number):
                old = partition.now_ms() - entry.at_ms >= age_ms
                if entry.state == HELD and entry.gateway == LASTING and entry.epoch == partition.epoch and old:
                    left[request_id] = entry
            for start in range(0, len(left), PAGE):
                ids = list(left)[start : start + PAGE]
                held = {row["id"] for row in await self._database.rows(STILL_HELD, ids)}
                for request_id in ids:
                    if request_id not in held:
                        entry = left[request_id]
                        await self._end(partition, request_id, entry.account_id, entry.key_id)
                        ended += 1
        return ended

    async def _end(self, partition: Partition, hold_id: str, account_id: str, key_id: str) -> None:
        """End an entry whose row has ended, or never came: by its debit's correction where it has one, for given back
        before that is known it would leave room for a moment."""
        if await self._corrections.sync(partition, account_id):
            self._submit(partition, hold_id, account_id, key_id)

    def _submit(self, partition: Partition, hold_id: str, account_id: str, key_id: str) -> None:
        keys = StateKeys(self._keyspace.account(account_id), self._keyspace.key(account_id, key_id))
        self._running.submit(partition, VoidItem(hold_id.encode(), keys))
