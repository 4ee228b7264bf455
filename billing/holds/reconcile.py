"""Reconciling: what Redis has of an account, compared with what the ledger says it should have.

This file owns invariants I2 to I4 of the protocol, checked on the running system: the balance, the sum of holds, every
window's counter, and that no debit of the epoch is missing. Redis is read at one moment, Postgres in one snapshot after
every debit up to that moment is in it; what changed meanwhile is told apart by the cursors. Accounts are surveyed in
batches; the few that seem to differ are looked at again alone, and only what differs then counts. Correcting means a
new epoch: everything is loaded again, no balance is ever written by hand.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from billing.database.connection import Connection, Database, Row, queries
from billing.holds.corrections import Corrections
from billing.holds.journal import entries
from billing.holds.loader import Loader
from billing.holds.partitions import Partition, Partitions
from billing.holds.redis import RedisClient
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import SETTLED, AccountState, Counter, Entry, KeyState
from billing.holds.snapshot import ATTEMPTS, AccountSnapshot, Snapshots, in_use, steady, window_name
from billing.holds.survey import Survey
from billing.holds.windows import Since, read_counters
from billing.quotas import Quota, parse_quotas, window_id

logger = logging.getLogger(__name__)

_sql = queries("billing.ledger")
ACCOUNTS: Final = _sql("reconcile_accounts")
ACCOUNT: Final = _sql("reconcile_account")
KEYS_OF_ACCOUNT: Final = _sql("keys_of_account")
READ_PARTITION: Final = _sql("partitions_read")
READ_CLOCK: Final = "SELECT clock_timestamp()"

PAGE: Final = 500
BATCH_SUBJECTS: Final = 300
"""Accounts and keys with windows that are surveyed at once; an account with more is a batch by itself."""
REST_SHARE: Final = 1.0
"""Of the time that a batch took, before the next begins: reconciling leaves half of a core to requests, at least."""
MOST_REST_S: Final = 0.5
SECOND_LOOK_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `what` is balance, held, running, a window of a subject, or debits; amounts in its unit."""

    account_id: str
    what: str
    redis: int
    ledger: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one run compared and found. `busy` accounts changed too fast for their holds and windows to be compared, or
    have debits that Postgres does not take for now."""

    accounts: int = 0
    busy: int = 0
    drifts: tuple[Drift, ...] = ()


@dataclass(slots=True)
class _Totals:
    """A report in the making."""

    accounts: int = 0
    busy: int = 0
    drifts: list[Drift] = field(default_factory=list)


class Reconciler:
    """Compares every account that Redis has been loaded with."""

    def __init__(
        self,
        database: Database,
        link: RedisClient,
        keyspace: Keyspace,
        partitions: Partitions,
        loader: Loader,
        corrections: Corrections,
    ) -> None:
        self._database = database
        self._link = link
        self._keys = keyspace
        self._partitions = partitions
        self._loader = loader
        self._corrections = corrections
        self._survey = Survey(database, Snapshots(link, keyspace, loader), loader)
        self.plans_changed = self._survey.plans_changed

    async def run(self) -> Report:
        """Compare everything. Raises `StoreError`, `TimeoutError`."""
        totals, took_s = _Totals(), 0.0
        async for partition, batch in self._batches():
            await asyncio.sleep(min(took_s * REST_SHARE, MOST_REST_S))
            began_s = time.monotonic()
            await self._compare_batch(partition, batch, totals)
            took_s = time.monotonic() - began_s
        for drift in totals.drifts:
            logger.error("drift: %s", drift)
        return Report(totals.accounts, totals.busy, tuple(totals.drifts))

    async def _batches(self) -> AsyncIterator[tuple[Partition, list[Row]]]:
        """Accounts that Redis was loaded with, by partition, in batches of about BATCH_SUBJECTS."""
        partitions = self._partitions.all
        epochs = [await self._partitions.ensure(partition) for partition in partitions]
        batches: list[list[Row]] = [[] for _ in partitions]
        sizes, distinct, after = [0] * len(partitions), sorted(set(epochs)), ""
        while rows := await self._database.rows(ACCOUNTS, after, distinct, PAGE):
            after = rows[-1]["id"]
            for row in rows:
                number = self._keys.partition_of(row["id"])
                if row["hyd_epoch"] != epochs[number]:
                    continue
                if batches[number] and sizes[number] + row["subjects"] > BATCH_SUBJECTS:
                    yield partitions[number], batches[number]
                    batches[number], sizes[number] = [], 0
                batches[number].append(row)
                sizes[number] += row["subjects"]
        for partition, batch in zip(partitions, batches, strict=True):
            if batch:
                yield partition, batch

    async def _compare_batch(self, partition: Partition, batch: Sequence[Row], totals: _Totals) -> None:
        """Survey these accounts, and look at those that seem to differ once more, after a moment, each alone."""
        await self._partitions.ensure(partition)
        for row in batch:
            if row["untold"]:
                await self._corrections.sync(partition, row["id"])
        found = await self._survey.compare(partition, [row["id"] for row in batch])
        for account_id in found.untold:
            await self._corrections.sync(partition, account_id)
        totals.accounts += len(batch)
        totals.busy += len(found.busy - found.suspects.keys())
        if found.suspects:
            await asyncio.sleep(SECOND_LOOK_S)
        for account_id, whats in found.suspects.items():
            again, compared = await self._check(partition, account_id)
            totals.busy += not compared
            totals.drifts += [drift for drift in again if drift.what in whats]

    async def _check(self, partition: Partition, account_id: str) -> tuple[list[Drift], bool]:
        await self._corrections.sync(partition, account_id)
        looked_at = await self._database.value(READ_CLOCK)
        seen = None
        for _ in range(ATTEMPTS):
            seen = await self._look(partition, account_id)
            if seen is None or seen.steady:
                break
        if seen is None:
            return [], True
        state = seen.state
        try:
            await self._loader.drained(partition, account_id, state.epoch, state.dseq)
        except TimeoutError:  # its row may be locked
            return [], False
        async with self._database.transaction(snapshot=True) as connection:
            row = await connection.fetchrow(READ_PARTITION, partition.number)
            if row is None or row["epoch"] != state.epoch:
                return [], True
            return await self._compare(connection, account_id, seen, row["began_at"], looked_at), seen.steady

    async def _look(self, partition: Partition, account_id: str) -> AccountSnapshot | None:
        account_key = self._keys.account(account_id)
        raw = await self._link.command("GET", account_key)
        before = AccountState.unpack(raw) if raw else None
        if before is None or before.epoch != partition.epoch:
            return None
        rows = await self._database.rows(KEYS_OF_ACCOUNT, account_id)
        holds = []
        async for _, entry in entries(self._link, self._keys, partition.number):
            if entry.state != SETTLED and entry.account_id == account_id and entry.epoch == before.epoch:
                holds.append(entry)
        keys = {}
        for row in rows:
            value = await self._link.command("GET", self._keys.key(account_id, row["id"]))
            if value is not None:
                keys[row["id"]] = KeyState.unpack(value)
        raw = await self._link.command("GET", account_key)
        after = AccountState.unpack(raw) if raw else None
        if after is None:
            return None
        return AccountSnapshot(before, keys, tuple(holds), steady(before, after))

    async def _compare(
        self, connection: Connection, account_id: str, seen: AccountSnapshot, began_at: datetime, looked_at: datetime
    ) -> list[Drift]:
        state = seen.state
        row = await connection.fetchrow(ACCOUNT, account_id, state.xseq, state.epoch, state.dseq, began_at)
        if row is None:
            return []
        expected = row["balance_nano"] - row["untold_nano"] + row["later_nano"]
        drifts = [Drift(account_id, "balance", state.balance_nano, expected)]
        drifts.append(Drift(account_id, "debits", state.dseq, row["debits"]))
        if seen.steady:
            drifts.append(Drift(account_id, "held", state.held_nano, sum(hold.cost_nano for hold in seen.holds)))
            drifts.append(Drift(account_id, "running", state.running, len(seen.holds)))
            since = Since(state.epoch, state.dseq, state.xseq, looked_at)
            quotas = self._loader.account_quotas(row["plan"], row["quotas"])
            if row["version"] == state.principal_version:
                drifts += await _windows(connection, account_id, None, quotas, state.counters, seen.holds, state, since)
            for key_row in await connection.fetch(KEYS_OF_ACCOUNT, account_id):
                key = seen.keys.get(key_row["id"])
                if key is not None and key.epoch == state.epoch:
                    holds = [hold for hold in seen.holds if hold.key_id == key_row["id"]]
                    key_quotas = parse_quotas(key_row["quotas"])
                    drifts += await _windows(
                        connection, account_id, key_row["id"], key_quotas, key.counters, holds, state, since
                    )
        return [drift for drift in drifts if drift.redis != drift.ledger]

    async def fix(self) -> int:
        """Begin a new epoch in every partition: all state is loaded from Postgres again, running requests are held
        again by their gateways. The number of partitions. Raises as `run`."""
        for partition in self._partitions.all:
            await self._partitions.renew(partition)
        return len(self._partitions.all)


async def _windows(
    connection: Connection,
    account_id: str,
    key_id: str | None,
    quotas: Sequence[Quota],
    counters: Sequence[Counter],
    holds: Sequence[Entry],
    state: AccountState,
    since: Since,
) -> list[Drift]:
    """Differences of one subject's counters in the windows that are current in Redis."""
    drifts = []
    by_tag = {quota.tag: quota for quota in quotas}
    for counter in counters:
        quota = by_tag.get(counter.tag)
        if quota is None or counter.pending or counter.window_id != window_id(quota.window, state.now_s):
            continue
        (base,) = await read_counters(connection, account_id, key_id, [quota], state.now_s, since)
        running, held = in_use(holds, quota, counter, key_id is not None)
        name = window_name(key_id, quota)
        drifts.append(Drift(account_id, name, counter.used, base.used + running))
        drifts.append(Drift(account_id, f"{name} held", counter.held, held))
    return drifts
