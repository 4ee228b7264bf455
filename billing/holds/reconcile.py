"""Reconciling: what Redis has of accounts, compared with what the ledger says it should have (invariants I2 to I4).

Accounts are compared in batches. Redis is read with a few commands, the ledger with six statements in one snapshot that
has every debit which Redis had counted by then; debits and corrections that came later are told apart by the cursors. A
quick reading of the ledger leaves out what is expensive to find and almost never there (a request that ran for longer
than LONGEST_REQUEST), and does not count debits again that were found before: it may suspect an account that is right,
never pass one that is wrong. The few suspects are read again, thoroughly, and only what differs then counts.

Correcting means a new epoch: everything is loaded again, and no balance is ever written by hand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from billing.database.connection import Connection, Database, Row, queries
from billing.holds.redis.layout import SETTLED, AccountState, Entry, KeyState
from billing.quotas import GRANULARITY, Metric, Quota, Window, parse_quotas, window_bounds_s, window_id

if TYPE_CHECKING:
    from billing.holds.epochs import Partition, Partitions
    from billing.holds.loading import Corrections, Loader
    from billing.holds.redis.layout import Counter
    from billing.holds.redis.state import RedisState

logger = logging.getLogger(__name__)


# By tag.
Quotas = Mapping[int, Quota]
# By metric.
Amounts = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `what` is balance, held, running, a window of a subject, or debits; amounts in its unit."""

    account_id: str
    what: str
    redis: int
    ledger: int


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """An account in Redis at one moment: its state, its keys' and users' states, its open holds, and the requests whose
    settled debits the journal had, of those that the state has counted. `steady`: nothing changed while it was
    read."""

    state: AccountState
    keys: Mapping[str, KeyState]
    holds: Sequence[Entry]
    steady: bool
    unwritten: Sequence[str] = ()
    users: Mapping[str, KeyState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserQuotas:
    """A user of an account as the ledger has it: what it may use, by which keys, and the version of the account from
    which on Redis has counted all of it."""

    quotas: Quotas
    key_ids: Collection[str]
    since: int


@dataclass(frozen=True, slots=True)
class SubjectQuotas:
    """The keys and users of an account that have windows, by id."""

    keys: Mapping[str, Quotas] = field(default_factory=dict)
    users: Mapping[str, UserQuotas] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparedCounter:
    """A counter whose window is current in Redis, of the account, or of a key or a user of it, and the holds that may
    be part of it. `key_ids` are the keys that count in it, None where all do."""

    subject: Literal["account", "key", "user"]
    id: str
    key_ids: Collection[str] | None
    quota: Quota
    counter: Counter
    holds: Sequence[Entry]

    @property
    def name(self) -> str:
        """Return how a difference names it."""
        return f"{self.id} {Window(self.quota.window).name}:{self.quota.metric.name}"


class WindowUsage:
    """What an account's requests have used according to Postgres, by window, key (None: all of the account's) and the
    names that filters ask for. What a user has used is what its keys have."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[tuple[int, str | None], list[tuple[str, str, Amounts]]] = {}

    def add(self, window: int, key_id: str, model: str, feature: str, amounts: Amounts) -> None:
        """Add to the window of a key and to that of the account; negative amounts are taken off."""
        part = (model, feature, amounts)
        self._parts.setdefault((window, None), []).append(part)
        self._parts.setdefault((window, key_id), []).append(part)

    def used(self, compared: ComparedCounter) -> int:
        """Return what the counter should be without running requests, in its metric's unit."""
        quota, key_ids = compared.quota, (None,) if compared.key_ids is None else compared.key_ids
        return sum(
            amounts[quota.metric]
            for key_id in key_ids
            for model, feature, amounts in self._parts.get((quota.window, key_id), ())
            if quota.applies_to(model, feature)
        )


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """An account in Postgres as of the debits and corrections that Redis had counted: the balance that it should have,
    how many debits of the epoch up to Redis's last are there, and what the compared counters' windows have used."""

    balance_nano: int
    debits: int
    counters: Sequence[ComparedCounter] = ()
    usage: WindowUsage = field(default_factory=WindowUsage)


def current_counters(
    snapshot: AccountSnapshot, quotas: Quotas | None, of_subjects: SubjectQuotas
) -> Iterator[ComparedCounter]:
    """Yield the counters that can be compared: those of windows that are current by the account's own time. Of an
    account that changed while it was read there are none, nor of one whose quotas are newer in the ledger (None), nor
    of a user who had none for a while and has not been loaded since."""
    state = snapshot.state
    if not snapshot.steady:
        return
    current = {window: window_id(window, state.now_s) for window in Window}
    for found in _current(quotas or {}, state.counters, current):
        yield ComparedCounter("account", "account", None, *found, snapshot.holds)
    holds: dict[str, list[Entry]] = {}
    for hold in snapshot.holds:
        holds.setdefault(hold.key_id, []).append(hold)
    for key_id, key in snapshot.keys.items():
        if key.epoch == state.epoch:
            for found in _current(of_subjects.keys.get(key_id, {}), key.counters, current):
                yield ComparedCounter("key", key_id, (key_id,), *found, holds.get(key_id, ()))
    for user_id, user in snapshot.users.items():
        known = of_subjects.users.get(user_id)
        if known is not None and user.epoch == state.epoch and user.principal_version >= known.since:
            of_user = [hold for key_id in known.key_ids for hold in holds.get(key_id, ())]
            for found in _current(known.quotas, user.counters, current):
                yield ComparedCounter("user", user_id, known.key_ids, *found, of_user)


def _current(
    quotas: Quotas, counters: Iterable[Counter], current: Mapping[Window, int]
) -> Iterator[tuple[Quota, Counter]]:
    for counter in counters:  # one that is not counted yet has another tag than its quota
        quota = quotas.get(counter.tag)
        if quota is not None and counter.window_id == current[quota.window]:
            yield quota, counter


def compare(account_id: str, redis: AccountSnapshot, ledger: LedgerSnapshot) -> Iterator[Drift | None]:
    """Yield one item for each figure that was compared: the difference, or None. Holds and windows are compared of a
    steady account alone."""
    state = redis.state

    def figure(what: str, in_redis: int, in_ledger: int) -> Drift | None:
        return None if in_redis == in_ledger else Drift(account_id, what, in_redis, in_ledger)

    yield figure("balance", state.balance_nano, ledger.balance_nano)
    yield figure("debits", state.dseq, ledger.debits)
    if not redis.steady:
        return
    yield figure("held", state.held_nano, sum(hold.cost_nano for hold in redis.holds))
    yield figure("running", state.running, len(redis.holds))
    for each in ledger.counters:
        running, held = in_use(each)
        yield figure(each.name, each.counter.used, ledger.usage.used(each) + running)
        yield figure(f"{each.name} held", each.counter.held, held)


def in_use(compared: ComparedCounter) -> tuple[int, int]:
    """Return what open holds add to a counter, in the metric's unit: to what is used, and to what is held. A running
    request is used, and holds the rest."""
    quota = compared.quota
    counting = [hold for hold in compared.holds if _counts(hold, compared)]
    match quota.metric:
        case Metric.requests:
            return len(counting), 0
        case Metric.tokens:
            return 0, sum(hold.input_tokens + hold.output_tokens for hold in counting)
        case Metric.input_tokens:
            return 0, sum(hold.input_tokens for hold in counting)
        case Metric.output_tokens:
            return 0, sum(hold.output_tokens for hold in counting)
        case Metric.cost:
            return 0, sum(hold.cost_nano for hold in counting)


def _counts(hold: Entry, compared: ComparedCounter) -> bool:
    tags = {"account": hold.account_tags, "key": hold.key_tags, "user": hold.user_tags or ()}[compared.subject]
    quota = compared.quota
    return quota.tag in tags and window_id(quota.window, hold.at_ms // 1000) == compared.counter.window_id


_sql = queries("billing.holds")
ACCOUNTS: Final = _sql("reconcile_accounts")

PAGE: Final = 500
# Accounts, and keys and users with windows, that are compared at once; an account with more is a batch by itself.
BATCH_SUBJECTS: Final = 300
# Of the time that a batch took, before the next begins: reconciling leaves half of a core to requests, at least.
REST_SHARE: Final = 1.0
MOST_REST_S: Final = 0.5
SECOND_READING_S: Final = 0.3


ATTEMPTS: Final = 5
# States unpacked, counters compared or rows read in one turn of the event loop: about half a millisecond.
STEPS_A_TURN: Final = 100
# The same, of whole accounts with their keys and counters.
ACCOUNTS_A_TURN: Final = 10

T = TypeVar("T")


async def gently(items: Iterable[T], at_once: int = STEPS_A_TURN) -> AsyncIterator[T]:
    """Yield every item; the event loop goes on with other things after every so many."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % at_once == 0:
            await asyncio.sleep(0)


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
class _Reading:
    """`busy` accounts could not be compared, or not their holds and windows; `drifts` by account."""

    busy: set[str]
    drifts: dict[str, list[Drift]] = field(default_factory=dict)


class Reconciler:
    """Compares every account that Redis has been loaded with."""

    def __init__(self, partitions: Partitions, loader: Loader, corrections: Corrections) -> None:
        self._database, self._keyspace = partitions.database, partitions.keyspace
        self._partitions = partitions
        self._corrections = corrections
        self._redis = RedisSnapshots(partitions.redis, loader)
        self._ledger = LedgerSnapshots(partitions.database, loader)
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
        first = await self._compare(partition, [row["id"] for row in batch], thorough=False)
        totals.accounts += len(batch)
        totals.busy += len(first.busy - first.drifts.keys())
        if not first.drifts:
            return
        await asyncio.sleep(SECOND_READING_S)
        for account_id in first.drifts:
            await self._corrections.sync(partition, account_id)
        second = await self._compare(partition, list(first.drifts), thorough=True)
        totals.busy += len(second.busy)
        for account_id, drifts in second.drifts.items():
            suspected = {drift.what for drift in first.drifts[account_id]}
            totals.drifts += [drift for drift in drifts if drift.what in suspected]

    async def _compare(self, partition: Partition, account_ids: Sequence[str], *, thorough: bool) -> _Reading:
        """Read accounts from Redis, and compare them with one snapshot of Postgres that has all the debits which they
        have counted. Accounts of which some do not get there in time are busy."""
        subjects = await self._ledger.subject_quotas(account_ids)
        snapshots = await self._redis.read(partition, subjects)
        late = await self._redis.drained(partition, snapshots)
        snapshots = {account_id: each for account_id, each in snapshots.items() if account_id not in late}
        ledger = await self._ledger.read(partition, snapshots, subjects, thorough=thorough)
        found = _Reading(late)
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


@dataclass(frozen=True, slots=True)
class _Journal:
    """Entries of some accounts in one epoch, by request id, for a scan may show one twice: open holds, and the places
    of settled debits."""

    holds: dict[str, dict[str, Entry]]
    settled: dict[str, dict[str, int]]


class RedisSnapshots:
    """Reads many accounts of one partition."""

    def __init__(self, redis: RedisState, loader: Loader) -> None:
        self._redis = redis
        self._loader = loader

    async def read(self, partition: Partition, subjects_of: Mapping[str, SubjectQuotas]) -> dict[str, AccountSnapshot]:
        """Return accounts that Redis has in the partition's epoch, with those of the keys and users named. One that
        changed meanwhile is read again, at most ATTEMPTS times, and is not steady then. Raises `RedisError`."""
        found: dict[str, AccountSnapshot] = {}
        left = subjects_of
        for _ in range(ATTEMPTS):
            some = await self._read(partition, left)
            for account_id in left:
                found.pop(account_id, None)
            found.update(some)
            left = {account_id: subjects_of[account_id] for account_id, each in some.items() if not each.steady}
            if not left:
                break
        return found

    async def _read(self, partition: Partition, subjects_of: Mapping[str, SubjectQuotas]) -> dict[str, AccountSnapshot]:
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


KEYS: Final = _sql("reconcile_keys")
USERS: Final = _sql("reconcile_users")
MOMENT: Final = _sql("reconcile_moment")
BALANCES: Final = _sql("reconcile_balances")
WINDOWS: Final = _sql("reconcile_windows")
LATER: Final = _sql("reconcile_later")

# From admission to settlement, and what the clocks of Redis and Postgres differ by. One that took longer costs its
# account a second reading; the longer this is, the more debits are counted again each time.
LONGEST_REQUEST: Final = timedelta(minutes=15)
BEFORE_ALL: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Debits of an account in an epoch from which on it is remembered that all were found in Postgres, which keeps them: the
# next quick reading counts those after them. Fewer are counted each time.
REMEMBERED_FROM: Final = 1_000
REMEMBERED_ACCOUNTS: Final = 100_000
# To be counted by one query, for it ends in time; those of one account are counted together.
DEBITS_A_QUERY: Final = 100_000
# Different lists of quotas that are kept parsed.
KNOWN_QUOTAS: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Counted:
    """Debits 1 to `dseq` of an epoch were in Postgres at `at`, and no later ones of Redis a few seconds before."""

    epoch: int
    dseq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class _Account:
    """An account in a place of the batch, as both stores have it."""

    place: int
    id: str
    redis: AccountSnapshot
    row: Row
    ledger: LedgerSnapshot

    @property
    def is_behind(self) -> bool:
        """Return whether Postgres has debits or corrections that Redis had not counted."""
        return bool(self.row["later"] or self.row["newest_xseq"] > self.redis.state.xseq)


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """Accounts in Postgres. Redis was said to know of corrections that it does not know of `uncorrected` ones."""

    accounts: Mapping[str, LedgerSnapshot] = field(default_factory=dict)
    uncorrected: Sequence[str] = ()


class LedgerSnapshots:
    """Reads many accounts of one partition."""

    def __init__(self, database: Database, loader: Loader) -> None:
        self._database = database
        self._counted: dict[str, _Counted] = {}

        @lru_cache(KNOWN_QUOTAS)
        def account_quotas(plan: str, quotas: str) -> Quotas:
            return {quota.tag: quota for quota in loader.account_quotas(plan, msgspec.json.decode(quotas))}

        self._account_quotas = account_quotas
        # To be called when other plans are in force.
        self.plans_changed = account_quotas.cache_clear

    async def subject_quotas(self, account_ids: Sequence[str]) -> dict[str, SubjectQuotas]:
        """Return the keys and users of accounts that have windows, with their quotas. Raises `DatabaseError`."""
        keys: dict[str, dict[str, Quotas]] = {account_id: {} for account_id in account_ids}
        users: dict[str, dict[str, UserQuotas]] = {account_id: {} for account_id in account_ids}
        async for row in gently(await self._database.rows(KEYS, account_ids)):
            keys[row["account_id"]][row["id"]] = _by_tag(row["quotas"])
        async for row in gently(await self._database.rows(USERS, account_ids)):
            user = UserQuotas(_by_tag(row["quotas"]), frozenset(row["key_ids"]), row["since"])
            users[row["account_id"]][row["user_id"]] = user
        return {account_id: SubjectQuotas(keys[account_id], users[account_id]) for account_id in account_ids}

    async def read(
        self,
        partition: Partition,
        snapshots: Mapping[str, AccountSnapshot],
        subject_quotas: Mapping[str, SubjectQuotas],
        *,
        thorough: bool,
    ) -> LedgerReading:
        """Return these accounts, all of one epoch and with all their counted debits in Postgres, as the ledger has
        them; none where the partition's epoch has moved on. Raises `DatabaseError`."""
        if not snapshots:
            return LedgerReading()
        epoch = next(iter(snapshots.values())).state.epoch
        async with self._database.transaction(snapshot=True) as connection:
            moment = await connection.fetchrow(MOMENT, partition.number)
            if moment is None or moment["epoch"] != epoch:
                return LedgerReading()
            accounts = await self._read_accounts(connection, moment, snapshots, subject_quotas, thorough)
            later_from = BEFORE_ALL if thorough else moment["now"] - LONGEST_REQUEST
            await _read_usage(connection, accounts, later_from)
        return LedgerReading(
            {each.id: each.ledger for each in accounts},
            [each.id for each in accounts if each.row["pushed_xseq"] > each.redis.state.xseq],
        )

    async def _read_accounts(
        self,
        connection: Connection,
        moment: Row,
        snapshots: Mapping[str, AccountSnapshot],
        subject_quotas: Mapping[str, SubjectQuotas],
        thorough: bool,
    ) -> list[_Account]:
        ids, states = list(snapshots), [each.state for each in snapshots.values()]
        epoch = moment["epoch"]
        known = [self._known(account_id, epoch, snapshots[account_id].state.dseq, moment) for account_id in ids]
        if thorough:
            known = [_Counted(epoch, 0, BEFORE_ALL)] * len(ids)
        accounts: list[_Account] = []
        for some in _slices([state.dseq - before.dseq for state, before in zip(states, known, strict=True)]):
            rows = await connection.fetch(
                BALANCES,
                ids[some],
                [state.xseq for state in states[some]],
                [state.dseq for state in states[some]],
                [before.dseq for before in known[some]],
                [BEFORE_ALL if thorough else before.at - LONGEST_REQUEST for before in known[some]],
                epoch,
            )
            async for row in gently(rows, ACCOUNTS_A_TURN):
                place = some.start + row["place"] - 1
                redis, debits = snapshots[ids[place]], known[place].dseq + row["debits"]
                self._remember(ids[place], epoch, redis.state.dseq, debits, moment["now"])
                at_version = row["version"] == redis.state.principal_version
                quotas = self._account_quotas(row["plan"], row["quotas"]) if at_version else None
                compared = current_counters(redis, quotas, subject_quotas.get(ids[place], SubjectQuotas()))
                counters = [each async for each in gently(compared)]
                balance_nano = row["balance_nano"] - row["pending_nano"] + row["later_nano"]
                ledger = LedgerSnapshot(balance_nano, debits, counters)
                accounts.append(_Account(place, ids[place], redis, row, ledger))
        return accounts

    def _known(self, account_id: str, epoch: int, dseq: int, moment: Row) -> _Counted:
        known = self._counted.get(account_id)
        return (
            known
            if known is not None and known.epoch == epoch and known.dseq <= dseq
            else _Counted(epoch, 0, moment["began_at"])
        )

    def _remember(self, account_id: str, epoch: int, dseq: int, debits: int, at: datetime) -> None:
        if debits == dseq >= REMEMBERED_FROM:
            if len(self._counted) >= REMEMBERED_ACCOUNTS:
                self._counted.clear()
            self._counted[account_id] = _Counted(epoch, debits, at)


async def _read_usage(connection: Connection, accounts: Sequence[_Account], later_from: datetime) -> None:
    """Add what the compared counters' windows have used: all that the ledger has, less the debits that came after
    Redis's cursors, which were admitted at `later_from` or after.

    As `loading.read_counters`, which asks for one subject at a time. Here the window of an account is read once, by
    key, and its counters are sums of what they apply to.
    """
    by_model: dict[tuple[int, Window], bool] = {}
    async for at, each in gently(_counters(accounts)):
        name = (at, each.quota.window)
        by_model[name] = by_model.get(name, False) or each.quota.model is not None
    if not by_model:
        return
    by_place = {each.place: each for each in accounts}
    bounds = {(place, window): window_bounds_s(window, by_place[place].redis.state.now_s) for place, window in by_model}
    rows = await connection.fetch(
        WINDOWS,
        [place for place, _ in bounds],
        [by_place[place].id for place, _ in bounds],
        [int(window) for _, window in bounds],
        [GRANULARITY[window] for _, window in bounds],
        [begins_s for begins_s, _ in bounds.values()],
        [ends_s for _, ends_s in bounds.values()],
        list(by_model.values()),
    )
    async for row in gently(rows):
        _add(by_place[row["place"]].ledger.usage, row["code"], row, 1)
    behind = [each for each in accounts if each.is_behind]
    if not behind:
        return
    rows = await connection.fetch(
        LATER,
        [each.place for each in behind],
        [each.id for each in behind],
        [each.redis.state.dseq for each in behind],
        [each.redis.state.xseq for each in behind],
        behind[0].redis.state.epoch,
        later_from,
    )
    async for row in gently(rows):
        for window in Window:
            begins_s, ends_s = bounds.get((row["place"], window), (0, 0))
            if begins_s <= row["admitted_s"] < ends_s:
                _add(by_place[row["place"]].ledger.usage, window, row, -1)


def _counters(accounts: Iterable[_Account]) -> Iterator[tuple[int, ComparedCounter]]:
    return ((each.place, counter) for each in accounts for counter in each.ledger.counters)


def _add(usage: WindowUsage, window: int, row: Row, sign: int) -> None:
    tokens, requests, cost = (row["input_tokens"], row["output_tokens"]), row["requests"], row["cost_nano"]
    amounts: Amounts = (sign * requests, sign * sum(tokens), sign * tokens[0], sign * tokens[1], sign * cost)
    usage.add(window, row["key_id"], row["model"], row["feature"], amounts)


def _slices(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield slices of neighbours whose sizes come to DEBITS_A_QUERY at most, or one that is larger alone."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > DEBITS_A_QUERY:
            yield slice(start, place)
            start, total = place, 0
        total += size
    yield slice(start, len(sizes))


@lru_cache(KNOWN_QUOTAS)
def _by_tag(quotas: str) -> Quotas:
    return {quota.tag: quota for quota in parse_quotas(msgspec.json.decode(quotas))}
