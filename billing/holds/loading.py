"""Loading state from Postgres into Redis: whole subjects (rule R2), new versions and new counters of known ones, and
corrections: changes of a balance that Redis has not made itself, applied to it in order and each once (rule R5).

An account is read under its row's lock, at one xseq, and marked as loaded for the epoch. Fresh usage is written in the
transaction that writes its debits, and rollups and fresh rows are read by one statement, so that counters and balance
are of one moment. A counter that a new quota adds counts from the moment of `adopt`, and is given what came before once
every debit up to that moment is in Postgres.

One load runs at a time for a subject in this process. An account whose row is locked keeps at most one connection
waiting, and is then not tried again for LOCKED_PAUSE_S, so that however many requests ask for it others can be loaded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from ulid import ULID

from billing.database.connection import (
    Connection,
    Database,
    DatabaseHindered,
    DatabaseLocked,
    Row,
    as_lock_timeout,
    queries,
)
from billing.holds.epochs import LostWrites, NotReady, Partition
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import (
    AHEAD_S,
    BASE,
    CORRECTION,
    I8,
    NO_REQUEST,
    SETTLED,
    STEP_S,
    AccountState,
    Counter,
    HoldTags,
    KeyState,
    pack_tags,
    pack_text,
)
from billing.quotas import GRANULARITY, Metric, Quota, parse_quotas, window_bounds_s, window_id
from billing.work import SingleFlight

if TYPE_CHECKING:
    from billing.holds.epochs import Partitions
    from billing.holds.redis.state import RedisState
    from billing.plans import Plan

logger = logging.getLogger(__name__)


LOAD_ACCOUNT: Final = queries("billing.holds")("load_account")
LEDGER_CLOCK: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

INSTALL_ATTEMPTS: Final = 5
# How long a load waits for a locked row before it queues with the others that wait for theirs.
AT_ONCE_S: Final = 0.001
LOCKED_PAUSE_S: Final = 0.5
# Locked accounts that are remembered.
MOST_LOCKED: Final = 1000
DRAIN_POLL_S: Final = 0.02
# The stages of `adopt`.
MARK, COUNT, COUNT_WHAT_IS_FOUND = 0, 1, 2
CALL_AGAIN: Final = 3
QUARANTINED, ACCOUNT_OLDER = 4, 5
# Attempts to find as many open holds as are running.
COUNT_ATTEMPTS: Final = 3


class Loader:
    """Brings accounts, keys and users into Redis. `plan_of` gives the plan of an id; `flush` writes this process's
    debits."""

    def __init__(
        self,
        database: Database,
        redis: RedisState,
        plan_of: Callable[[str], Plan],
        flush: Callable[[], Awaitable[None]],
        *,
        wait_s: float,
    ) -> None:
        self._database = database
        self._redis = redis
        self._client = redis.client
        self._keyspace = redis.keyspace
        self._plan_of = plan_of
        self._flush = flush
        self._wait_s = wait_s
        self._install_script, self._adopt_script, self._fill_script = Script("install"), Script("adopt"), Script("fill")
        self._retime_script = Script("retime")
        self._flights: SingleFlight[int | None] = SingleFlight()
        self._patient = asyncio.Lock()
        self._locked_until: dict[str, float] = {}
        self._clock = time.monotonic

    async def install(self, partition: Partition, account_id: str, key_id: str | None) -> bool:
        """Load an account, and a key of it, where Redis has not got them; return whether the ledger knows both. Raises
        `DatabaseError`, `DatabaseLocked` where the account's row is, `RedisError`, `LostWrites`, and `NotReady` while
        Redis's clock is wrong."""
        name = ("install", key_id or account_id)
        return bool(await self._flights.run(name, lambda: self._install(partition, account_id, key_id)))

    async def adopt_account(self, partition: Partition, account_id: str, version: int | None = None) -> int | None:
        """Send Redis the account's version and counters; return the version sent (a newer one may have come meanwhile),
        0 for an account that the ledger has not, None without an epoch. A caller that names a `version` does not wait
        for an older one's counters. Raises `StoreError`, `TimeoutError`, and `NotReady` where nothing was sent, because
        the account is quarantined: some gateway has debits or holds of it that it could not write, since the account's
        row in Postgres was locked."""
        name = ("adopt", account_id, version)
        return await self._flights.run(name, lambda: self._adopt_account(partition, account_id))

    async def adopt_key(
        self, partition: Partition, account_id: str, key_id: str, version: int | None = None
    ) -> int | None:
        """Send Redis the key's version and counters; takes, returns and raises as `adopt_account`."""
        name = ("adopt", key_id, version)
        return await self._flights.run(name, lambda: self._adopt_key(partition, account_id, key_id))

    async def adopt_user(self, partition: Partition, account_id: str, user_id: str) -> int | None:
        """Send Redis the counters of a user of the account, at the account's version. Where Redis has an older account,
        that is sent instead: ask again. Returns and raises as `adopt_account`."""
        name = ("adopt", f"{account_id}/{user_id}")
        return await self._flights.run(name, lambda: self._adopt_user(partition, account_id, user_id))

    def account_quotas(self, plan_id: str, quotas: object) -> tuple[Quota, ...]:
        """Return one quota for each counter of an account: its plan's and its own."""
        return account_quotas(self._plan_of(plan_id), quotas)

    async def _install(self, partition: Partition, account_id: str, key_id: str | None) -> bool:
        epoch = partition.epoch
        if epoch is None:
            return True
        if partition.clock_is_wrong:  # what is loaded into windows of another day is missing in those of this one
            raise NotReady("Redis's clock is wrong")
        self._check_unlocked(account_id)
        try:
            return await self._load(partition, epoch, account_id, key_id, AT_ONCE_S)
        except DatabaseLocked:
            async with self._patient:
                self._check_unlocked(account_id)
                try:
                    return await self._load(partition, epoch, account_id, key_id, self._database.lock_wait_s)
                except DatabaseLocked:
                    self._remember_locked(account_id)
                    raise

    def _check_unlocked(self, account_id: str) -> None:
        if self._locked_until and self._locked_until.get(account_id, 0.0) > self._clock():
            raise DatabaseLocked(f"the row of {account_id} is locked by another session")

    def _remember_locked(self, account_id: str) -> None:
        if len(self._locked_until) >= MOST_LOCKED:
            self._locked_until.clear()
        self._locked_until[account_id] = self._clock() + LOCKED_PAUSE_S

    async def _load(
        self, partition: Partition, epoch: int, account_id: str, key_id: str | None, lock_wait_s: float
    ) -> bool:
        lock_timeout = as_lock_timeout(lock_wait_s)
        for _ in range(INSTALL_ATTEMPTS):
            now_s = await self._now_s(partition, account_id)
            async with self._database.transaction() as connection:
                row = await connection.fetchrow(LOAD_ACCOUNT, account_id, epoch, partition.number, lock_timeout)
                if row is None:  # or the epoch has moved: whoever asked finds out with its next call
                    return await connection.fetchrow(READ_ACCOUNT, account_id) is not None
                quotas = self.account_quotas(row["plan"], row["quotas"])
                counters = await read_counters(connection, account_id, None, quotas, now_s)
                balance, xseq, version = row["balance_nano"], row["xseq"], row["version"]
                account = AccountState(epoch, balance, 0, 0, xseq, 0, version, now_s, 0, counters)
                keys: list[bytes] = [self._keyspace.account(account_id)]
                arguments: list[str | int | bytes] = [epoch, account_id, account.pack(), I8.pack(row["xseq"])]
                if key_id is not None:
                    row = await connection.fetchrow(READ_KEY, key_id)
                    if row is None:
                        return False
                    key_quotas = parse_quotas(row["quotas"])
                    counters = await read_counters(connection, account_id, [key_id], key_quotas, now_s)
                    keys.append(self._keyspace.key(account_id, key_id))
                    arguments += [key_id, KeyState(epoch, row["version"], 0, counters).pack()]
            fixed = [partition.meta, partition.installed]
            reply = await self._client.call(self._install_script, fixed + keys, arguments)
            if reply == 2:
                raise LostWrites(account_id, epoch)
            if reply in (0, 1):
                return True
            await asyncio.sleep(DRAIN_POLL_S)
        logger.warning("account %s changes too fast to be loaded; the request that asked tries again", account_id)
        return True

    async def _now_s(self, partition: Partition, account_id: str) -> int:
        """Return the account's time: Redis's, but never before what the account has seen, unless that is far ahead."""
        state, now_s = await self._state(partition, account_id), partition.now_ms() // 1000
        return now_s if state is None or state.now_s > now_s + AHEAD_S else max(now_s, state.now_s)

    async def _state(self, partition: Partition, account_id: str) -> AccountState | None:
        state = await self._redis.account(account_id)
        return state if state is not None and state.epoch == partition.epoch else None

    async def retime(self, partition: Partition, account_id: str) -> bool:
        """Correct an account's time that a wrong clock of Redis's has moved ahead by more than STEP_S, if Redis's clock
        and Postgres's agree now; return whether it was corrected. Raises `StoreError`."""
        state = await self._state(partition, account_id)
        if state is None or state.now_s <= partition.now_ms() // 1000 + STEP_S:
            return False
        latest_s = 0
        if state.running > 0:
            async for _, entry in self._redis.entries(partition.number):
                if entry.state != SETTLED and (entry.epoch, entry.account_id) == (state.epoch, account_id):
                    latest_s = max(latest_s, entry.at_ms // 1000)
        ledger_ms = await self._database.value(LEDGER_CLOCK)
        keys = [partition.meta, self._keyspace.account(account_id)]
        arguments = [state.epoch, state.hold_version, latest_s, ledger_ms]
        if await self._client.call(self._retime_script, keys, arguments) != 0:
            return False
        logger.warning("account %s: its time was %d s ahead", account_id, state.now_s - partition.now_ms() // 1000)
        return True

    async def tags(self, account_id: str, key_id: str, user_id: str | None, model: str, feature: str) -> HoldTags:
        """Return as `read_tags`."""
        return await read_tags(self._database, self._plan_of, (account_id, key_id, user_id), model, feature)

    async def _adopt_account(self, partition: Partition, account_id: str) -> int | None:
        row = await self._database.row(READ_ACCOUNT, account_id)
        if row is None:
            return 0
        quotas, state_key = self.account_quotas(row["plan"], row["quotas"]), self._keyspace.account(account_id)
        read = row["version"], quotas, row["now"]
        subject = Subject("account", account_id, account_id, state_key, None, *read)
        reply = await self._adopt(partition, subject)
        if reply == QUARANTINED:
            raise NotReady(f"account {account_id} is quarantined until its own debits are in the ledger")
        return None if reply is None else subject.version

    async def _adopt_key(self, partition: Partition, account_id: str, key_id: str) -> int | None:
        row = await self._database.row(READ_KEY, key_id)
        if row is None:
            return 0
        quotas, state_key = parse_quotas(row["quotas"]), self._keyspace.key(account_id, key_id)
        subject = Subject("key", key_id, account_id, state_key, (key_id,), row["version"], quotas, row["now"])
        return None if await self._adopt(partition, subject) is None else subject.version

    async def _adopt_user(self, partition: Partition, account_id: str, user_id: str) -> int | None:
        row = await self._database.row(READ_USER, account_id, user_id)
        if row is None:
            return 0
        name, state_key, key_ids = f"{account_id}/{user_id}", self._keyspace.user(account_id, user_id), row["key_ids"]
        read = (row["version"], parse_quotas(row["quotas"]), row["now"], row["since"])
        subject = Subject("user", name, account_id, state_key, tuple(key_ids), *read)
        reply = await self._adopt(partition, subject) if subject.quotas else ACCOUNT_OLDER
        if reply == ACCOUNT_OLDER:  # of a user without quotas whoever asks has an older account, too
            return await self.adopt_account(partition, account_id)
        return None if reply is None else subject.version

    async def _adopt(self, partition: Partition, subject: Subject) -> int | None:
        """Send Redis a subject's version and counters, and give new ones what the ledger has; return what the script
        answered first, None without an epoch."""
        epoch, account_id = partition.epoch, subject.account_id
        if epoch is None:
            return None
        token = str(ULID())
        keys = [partition.meta, partition.journal, self._keyspace.account(account_id), partition.installed]
        if subject.kind != "account":
            keys.append(subject.state_key)
        if subject.kind == "user":
            keys += (self._keyspace.key(account_id, key_id) for key_id in subject.key_ids or ())
        reply = await self._count(partition, subject, keys, [epoch, subject.id, subject.version, token])
        if reply[0] != 0 or reply[4] == 0:
            return reply[0]
        _, dseq, xseq, now_ms, _ = reply
        await self.drained(partition, account_id, epoch, dseq)
        since = Since(epoch, dseq, xseq, subject.read_at)
        async with self._database.transaction(snapshot=True) as connection:
            read = (connection, account_id, subject.key_ids, subject.quotas, now_ms // 1000, since)
            counters = await read_counters(*read)
        bases = b"".join(BASE.pack(counter.tag, counter.window_id, counter.used) for counter in counters)
        fill_keys = [partition.meta, partition.installed, subject.state_key]
        await self._client.call(self._fill_script, fill_keys, [epoch, subject.id, token, subject.kind, bases])
        return 0

    async def _count(
        self, partition: Partition, subject: Subject, keys: list[bytes], head: list[str | int]
    ) -> list[int]:
        """Mark the missing counters by `adopt`, and then count the subject's open holds in them. Redis is held for no
        longer than these few take, however large the journal is. Raises `RedisError`."""
        tail: list[str | int | bytes] = [subject.kind, subject.since]
        for quota in subject.quotas:
            tail.append(quota.tag.to_bytes(4, "little") + pack_text(quota.model or "") + pack_text(quota.feature))
        reply: list[int] = await self._client.call(self._adopt_script, keys, [*head, MARK, b"", *tail])
        for attempt in range(1, COUNT_ATTEMPTS + 1):
            if reply[0] != CALL_AGAIN:
                break
            key_ids = None if subject.key_ids is None else frozenset(subject.key_ids)
            held = await self._redis.open_holds(partition.number, subject.account_id, key_ids)
            stage = COUNT if attempt < COUNT_ATTEMPTS else COUNT_WHAT_IS_FOUND
            reply = await self._client.call(self._adopt_script, keys, [*head, stage, "".join(held), *tail])
        return reply

    async def drained(self, partition: Partition, account_id: str, epoch: int, dseq: int) -> None:
        """Wait until every debit of the account up to `dseq` is in Postgres: its entry leaves the journal then.

        Raises `StoreError`, `TimeoutError`.
        """
        with suppress(DatabaseHindered):  # by a debit of another account, maybe: what is waited for goes around it
            await self._flush()
        async with asyncio.timeout(self._wait_s):
            waiting = [
                request_id
                async for request_id, entry in self._redis.entries(partition.number)
                if entry.state == SETTLED and entry.account_id == account_id
                if entry.epoch == epoch and entry.dseq <= dseq
            ]
            while waiting := await self._redis.still_settled(partition.number, waiting):
                await asyncio.sleep(DRAIN_POLL_S)


_sql = queries("billing.holds")
READ_ACCOUNT: Final = _sql("read_account_principal")
READ_KEY: Final = _sql("read_key_principal")
READ_USER: Final = _sql("read_user_principal")
WINDOW_USAGE: Final = _sql("window_usage")
WINDOW_USAGE_AFTER: Final = _sql("window_usage_after")


@dataclass(frozen=True, slots=True)
class Since:
    """The moment at which Redis began to count by itself: debit `dseq` of `epoch`, correction `xseq`, and a time of
    Postgres before it."""

    epoch: int
    dseq: int
    xseq: int
    written_after: datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """An account, a key of it or a user of it, as the ledger has it: whose counters Redis is given.
    `key_ids` are the keys that count in them, None where all of the account's do; `since` is as in member_limits."""

    kind: Literal["account", "key", "user"]
    id: str
    account_id: str
    state_key: bytes
    key_ids: tuple[str, ...] | None
    version: int
    quotas: tuple[Quota, ...]
    read_at: datetime
    since: int = 0


def plan_lookup(plans: Mapping[str, Plan], default: str) -> Callable[[str], Plan]:
    """Return what finds a plan by its id; an account whose plan has left the configuration is on the default one, and
    the log says so."""

    def plan_of(plan_id: str) -> Plan:
        plan = plans.get(plan_id)
        if plan is None:
            logger.error("plan %s is in use but not in config/plans.yaml: %s applies", plan_id, default)
            return plans[default]
        return plan

    return plan_of


def account_quotas(plan: Plan, quotas: object) -> tuple[Quota, ...]:
    """Return one quota for each counter of an account: its plan's and its own, as the ledger stores them."""
    return tuple({quota.tag: quota for quota in plan.quotas + parse_quotas(quotas)}.values())


async def read_tags(
    database: Database, plan_of: Callable[[str], Plan], whose: tuple[str, str, str | None], model: str, feature: str
) -> HoldTags:
    """Return tags of the counters, of an account, a key of it and that key's user (None: of nobody's), that a request
    counts in by what the ledger has now. Raises `DatabaseError`."""
    account_id, key_id, user_id = whose
    row = await database.row(READ_ACCOUNT, account_id)
    account = account_quotas(plan_of(row["plan"]), row["quotas"]) if row is not None else ()
    row = await database.row(READ_KEY, key_id)
    key = parse_quotas(row["quotas"]) if row is not None else ()
    row = await database.row(READ_USER, account_id, user_id) if user_id is not None else None
    user = parse_quotas(row["quotas"]) if row is not None else ()

    def applying(quotas: tuple[Quota, ...]) -> list[int]:
        return [quota.tag for quota in quotas if quota.applies_to(model, feature)]

    return HoldTags(applying(account), applying(key), applying(user) if user else None)


async def read_counters(
    connection: Connection,
    account_id: str,
    key_ids: Sequence[str] | None,
    quotas: Sequence[Quota],
    at_s: int,
    since: Since | None = None,
) -> tuple[Counter, ...]:
    """Return one counter for each quota, in the window that holds `at_s`, of these keys or the whole account; with
    `since` only what came before it.

    The connection must be in a transaction in which no debit of the account can be written, or of one snapshot.
    """
    if not quotas:
        return ()
    starts, ends = zip(*(window_bounds_s(quota.window, at_s) for quota in quotas), strict=True)
    patterns, features = [quota.model or "" for quota in quotas], [quota.feature for quota in quotas]
    granularities = [GRANULARITY[quota.window] for quota in quotas]
    rows = await connection.fetch(WINDOW_USAGE, account_id, key_ids, granularities, starts, ends, patterns, features)
    used = {row["place"]: _by_metric(row) for row in rows}
    after: dict[int, tuple[int, ...]] = {}
    if since is not None:
        rows = await connection.fetch(
            WINDOW_USAGE_AFTER,
            account_id,
            key_ids,
            since.dseq,
            since.epoch,
            since.xseq,
            since.written_after,
            starts,
            ends,
            patterns,
            features,
        )
        after = {row["place"]: _by_metric(row) for row in rows}
    nothing = (0,) * len(Metric)
    return tuple(
        Counter(
            quota.tag,
            window_id(quota.window, at_s),
            used[number][quota.metric] - after.get(number, nothing)[quota.metric],
        )
        for number, quota in enumerate(quotas, start=1)
    )


def _by_metric(row: Row) -> tuple[int, ...]:
    tokens = row["input_tokens"] + row["output_tokens"]
    return (row["requests"], tokens, row["input_tokens"], row["output_tokens"], row["cost_nano"])


CORRECTIONS_AFTER: Final = _sql("corrections_after")
CORRECTIONS_OF_MANY: Final = _sql("corrections_of_many")
CORRECTED: Final = _sql("corrected")
CORRECTED_MANY: Final = _sql("corrected_many")
CORRECTED_UNLOADED: Final = _sql("corrected_unloaded")
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
