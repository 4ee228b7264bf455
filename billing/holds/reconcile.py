"""Reconciling: what Redis has of an account, compared with what the ledger says it should have.

This file owns that invariants I2 to I4 of docs/protocol.md are checked on the running system. Accounts are compared in
batches; the few that seem to differ are looked at again, thoroughly, and only what differs then counts. Correcting
means a new epoch: everything is loaded again, no balance is ever written by hand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from billing.database.connection import Database, Row, queries
from billing.holds.ledger_snapshot import LedgerSnapshots
from billing.holds.redis.layout import SETTLED, AccountState, Entry, KeyState
from billing.holds.snapshot import ACCOUNTS_A_TURN, ATTEMPTS, AccountSnapshot, compare, gently
from billing.holds.snapshot import Drift as Drift

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from billing.holds.engine import Engine
    from billing.holds.loader import Loader
    from billing.holds.partition import Partition
    from billing.holds.partitions import Partitions
    from billing.holds.redis.state import RedisState
    from billing.holds.repairs import Corrections
    from billing.holds.snapshot import SubjectQuotas

logger = logging.getLogger(__name__)

_sql = queries("billing.holds")
ACCOUNTS: Final = _sql("reconcile_accounts")

PAGE: Final = 500
BATCH_SUBJECTS: Final = 300
"""Accounts, and keys and users with windows, that are compared at once; an account with more is a batch by itself."""
REST_SHARE: Final = 1.0
"""Of the time that a batch took, before the next begins: reconciling leaves half of a core to requests, at least."""
MOST_REST_S: Final = 0.5
SECOND_LOOK_S: Final = 0.3


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


@dataclass(slots=True)
class _Look:
    """`busy` accounts could not be compared, or not their holds and windows; `drifts` by account."""

    busy: set[str]
    drifts: dict[str, list[Drift]] = field(default_factory=dict)


class Reconciler:
    """Compares every account that Redis has been loaded with."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        partitions: Partitions,
        loader: Loader,
        corrections: Corrections,
    ) -> None:
        self._database = database
        self._keyspace = redis.keyspace
        self._partitions = partitions
        self._corrections = corrections
        self._redis = Snapshots(redis, loader)
        self._ledger = LedgerSnapshots(database, loader)
        self.plans_changed = self._ledger.plans_changed

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
        """Yield accounts that Redis was loaded with, by partition, in batches of about BATCH_SUBJECTS."""
        partitions = self._partitions.all
        epochs = [await self._partitions.ensure(partition) for partition in partitions]
        batches: list[list[Row]] = [[] for _ in partitions]
        sizes, distinct, after = [0] * len(partitions), sorted(set(epochs)), ""
        while rows := await self._database.rows(ACCOUNTS, after, distinct, PAGE):
            after = rows[-1]["id"]
            for row in rows:
                number = self._keyspace.partition_of(row["id"])
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
        """Compare these accounts, and those that seem to differ once more, after a moment: only what differs both times
        counts."""
        await self._partitions.ensure(partition)
        for row in batch:
            if row["pending"]:
                await self._corrections.sync(partition, row["id"])
        first = await self._look(partition, [row["id"] for row in batch], thorough=False)
        totals.accounts += len(batch)
        totals.busy += len(first.busy - first.drifts.keys())
        if not first.drifts:
            return
        await asyncio.sleep(SECOND_LOOK_S)
        for account_id in first.drifts:
            await self._corrections.sync(partition, account_id)
        second = await self._look(partition, list(first.drifts), thorough=True)
        totals.busy += len(second.busy)
        for account_id, drifts in second.drifts.items():
            suspected = {drift.what for drift in first.drifts[account_id]}
            totals.drifts += [drift for drift in drifts if drift.what in suspected]

    async def _look(self, partition: Partition, account_ids: Sequence[str], *, thorough: bool) -> _Look:
        """Look at accounts in Redis, and compare them with one snapshot of Postgres in which all is that they have
        counted. Accounts of which that does not come there are busy."""
        subjects = await self._ledger.subject_quotas(account_ids)
        snapshots = await self._redis.look(partition, subjects)
        late = await self._redis.drained(partition, snapshots)
        snapshots = {account_id: each for account_id, each in snapshots.items() if account_id not in late}
        ledger = await self._ledger.look(partition, snapshots, subjects, thorough=thorough)
        found = _Look(late)
        async for account_id, of_ledger in gently(ledger.accounts.items(), ACCOUNTS_A_TURN):
            if not snapshots[account_id].steady:
                found.busy.add(account_id)
            drifts = [each async for each in gently(compare(account_id, snapshots[account_id], of_ledger)) if each]
            if drifts:
                found.drifts[account_id] = drifts
        for account_id in ledger.uncorrected:
            await self._corrections.sync(partition, account_id)
        return found

    async def fix(self) -> int:
        """Begin a new epoch in every partition: all state is loaded from Postgres again, running requests are held
        again by their gateways. The number of partitions. Raises as `run`."""
        for partition in self._partitions.all:
            await self._partitions.renew(partition)
        return len(self._partitions.all)


async def reconcile_once(engine: Engine, *, fix: bool) -> Report:
    """Write what was left in the journals, then compare; with `fix` begin a new epoch then, also where there are no
    differences or they can't be looked for: what is wrong may be that Redis has not got what it is compared in.

    Raises `StoreError`, `TimeoutError`.
    """
    try:
        for partition in engine.partitions.all:
            await engine.partitions.ensure(partition)
            await engine.recovery.sweep(partition, others=False)
        return await engine.reconciler.run()
    finally:
        if fix:
            await engine.reconciler.fix()


@dataclass(frozen=True, slots=True)
class _Journal:
    """Entries of some accounts in one epoch, by request id, for a scan may show one twice: open holds, and the places
    of settled debits."""

    holds: dict[str, dict[str, Entry]]
    settled: dict[str, dict[str, int]]


class Snapshots:
    """Looks at many accounts of one partition."""

    def __init__(self, redis: RedisState, loader: Loader) -> None:
        self._redis = redis
        self._loader = loader

    async def look(self, partition: Partition, subjects_of: Mapping[str, SubjectQuotas]) -> dict[str, AccountSnapshot]:
        """Return accounts that Redis has in the partition's epoch, with those of the keys and users named. One that
        changed meanwhile is looked at again, at most ATTEMPTS times, and is not steady then. Raises `RedisError`."""
        found: dict[str, AccountSnapshot] = {}
        left = subjects_of
        for _ in range(ATTEMPTS):
            some = await self._look(partition, left)
            for account_id in left:
                found.pop(account_id, None)
            found.update(some)
            left = {account_id: subjects_of[account_id] for account_id, each in some.items() if not each.steady}
            if not left:
                break
        return found

    async def _look(self, partition: Partition, subjects_of: Mapping[str, SubjectQuotas]) -> dict[str, AccountSnapshot]:
        """Read accounts, keys, users, the journal, and the accounts again: one that reads the same twice is steady."""
        epoch = partition.epoch
        if epoch is None:
            return {}
        key_names = [(account_id, key_id) for account_id, each in subjects_of.items() for key_id in each.keys]
        user_names = [(account_id, user_id) for account_id, each in subjects_of.items() for user_id in each.users]
        before = await self._redis.packed_accounts(subjects_of)
        keys = await _unpacked(key_names, await self._redis.packed_keys(key_names))
        users = await _unpacked(user_names, await self._redis.packed_users(user_names))
        journal = await self._scan(partition, epoch, subjects_of)
        after = await self._redis.packed_accounts(subjects_of)
        found = {}
        async for account_id, raw, then in gently(zip(subjects_of, before, after, strict=True)):
            state = AccountState.unpack(raw) if raw is not None else None
            if state is None or state.epoch != epoch or then is None:
                continue
            settled = journal.settled.get(account_id, {})
            found[account_id] = AccountSnapshot(
                state,
                keys.get(account_id, {}),
                tuple(journal.holds.get(account_id, {}).values()),
                raw == then or _steady(state, AccountState.unpack(then)),
                tuple(request_id for request_id, dseq in settled.items() if dseq <= state.dseq),
                users.get(account_id, {}),
            )
        return found

    async def _scan(self, partition: Partition, epoch: int, accounts: Mapping[str, object]) -> _Journal:
        journal = _Journal({}, {})
        async for request_id, entry in self._redis.entries(partition.number):
            if entry.epoch != epoch or entry.account_id not in accounts:
                continue
            if entry.state == SETTLED:
                journal.settled.setdefault(entry.account_id, {})[request_id] = entry.dseq
            else:
                journal.holds.setdefault(entry.account_id, {})[request_id] = entry
        return journal

    async def drained(self, partition: Partition, snapshots: Mapping[str, AccountSnapshot]) -> set[str]:
        """Wait until every debit that these states have counted is in Postgres; return the accounts of which some are
        not there when that was waited for long enough, such as one whose row is locked.

        Raises `StoreError`.
        """
        late = False
        left = {request_id: account_id for account_id, each in snapshots.items() for request_id in each.unwritten}
        while left:
            account_id = next(iter(left.values()))
            state = snapshots[account_id].state
            try:  # others are written with it
                await self._loader.drained(partition, account_id, state.epoch, state.dseq)
            except TimeoutError:
                late = True
            waiting: Sequence[str] = await self._redis.still_settled(partition.number, list(left))
            left = {request_id: left[request_id] for request_id in waiting}
            if late:
                break
        return set(left.values())


async def _unpacked(names: Sequence[tuple[str, str]], packed: Sequence[bytes | None]) -> dict[str, dict[str, KeyState]]:
    """Return the states that there are, by account, and by key or user."""
    found: dict[str, dict[str, KeyState]] = {}
    async for (account_id, name), raw in gently(zip(names, packed, strict=True)):
        if raw is not None:
            found.setdefault(account_id, {})[name] = KeyState.unpack(raw)
    return found


def _steady(before: AccountState, after: AccountState) -> bool:
    """Return whether nothing was held, ended, settled or corrected between two readings of an account."""
    return (before.hold_version, before.dseq, before.xseq) == (after.hold_version, after.dseq, after.xseq)
