"""What Redis has of many accounts: read with a few commands, each account at one moment.

All names are of one partition, and so of one slot: a cluster's server answers for all of them at once. Nothing here
decides on a difference; see `survey` and `reconcile`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from billing.holds.journal import entries, still_settled
from billing.holds.loader import Loader
from billing.holds.partitions import Partition
from billing.holds.redis import RedisClient
from billing.holds.redis.keyspace import Keyspace
from billing.holds.redis.layout import SETTLED, AccountState, Counter, Entry, KeyState
from billing.quotas import Metric, Quota, Window, window_id

ATTEMPTS: Final = 5
COMMAND_ITEMS: Final = 500
"""Values that one command asks for: Redis is held for well under a millisecond."""
STEPS_A_TURN: Final = 100
"""States unpacked, counters compared or rows read in one turn of the event loop: about half a millisecond."""
ACCOUNTS_A_TURN: Final = 10
"""The same, of whole accounts with their keys and counters."""

T = TypeVar("T")


async def gently(items: Iterable[T], at_once: int = STEPS_A_TURN) -> AsyncIterator[T]:
    """Every item; the event loop goes on with other things after every so many."""
    for place, item in enumerate(items, start=1):
        yield item
        if place % at_once == 0:
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """An account in Redis at one moment: its state, its keys' states, its open holds, and the requests whose settled
    debits lay in the journal, of those that the state has counted."""

    state: AccountState
    keys: dict[str, KeyState]
    holds: tuple[Entry, ...]
    steady: bool
    unwritten: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Journal:
    """Entries of some accounts in one epoch, by request id, for a scan may show one twice: open holds, and the places
    of settled debits."""

    holds: dict[str, dict[str, Entry]]
    settled: dict[str, dict[str, int]]


class Snapshots:
    """Looks at many accounts of one partition."""

    def __init__(self, link: RedisClient, keyspace: Keyspace, loader: Loader) -> None:
        self._link = link
        self._keys = keyspace
        self._loader = loader

    async def look(self, partition: Partition, keys_of: Mapping[str, Sequence[str]]) -> dict[str, AccountSnapshot]:
        """Accounts that Redis has in the partition's epoch, with those of the keys named. One that changed meanwhile is
        looked at again, at most ATTEMPTS times, and is not steady then. Raises `RedisAway`."""
        seen: dict[str, AccountSnapshot] = {}
        left = keys_of
        for _ in range(ATTEMPTS):
            found = await self._look(partition, left)
            for account_id in left:
                seen.pop(account_id, None)
            seen.update(found)
            left = {account_id: keys_of[account_id] for account_id, each in found.items() if not each.steady}
            if not left:
                break
        return seen

    async def _look(self, partition: Partition, keys_of: Mapping[str, Sequence[str]]) -> dict[str, AccountSnapshot]:
        """One look: accounts, keys, journal, and the accounts again; who is as before has stood still meanwhile."""
        epoch = partition.epoch
        if epoch is None:
            return {}
        names = [self._keys.account(account_id) for account_id in keys_of]
        subjects = [(account_id, key_id) for account_id, key_ids in keys_of.items() for key_id in key_ids]
        before = await self._read(names)
        of_keys = await self._read([self._keys.key(*subject) for subject in subjects])
        journal = await self._scan(partition, epoch, keys_of)
        after = await self._read(names)
        keys: dict[str, dict[str, KeyState]] = {}
        async for (account_id, key_id), raw in gently(zip(subjects, of_keys, strict=True)):
            if raw is not None:
                keys.setdefault(account_id, {})[key_id] = KeyState.unpack(raw)
        seen = {}
        async for account_id, raw, then in gently(zip(keys_of, before, after, strict=True)):
            state = AccountState.unpack(raw) if raw is not None else None
            if state is None or state.epoch != epoch or then is None:
                continue
            seen[account_id] = AccountSnapshot(
                state,
                keys.get(account_id, {}),
                tuple(journal.holds.get(account_id, {}).values()),
                raw == then or steady(state, AccountState.unpack(then)),
                tuple(
                    request_id for request_id, dseq in journal.settled.get(account_id, {}).items() if dseq <= state.dseq
                ),
            )
        return seen

    async def _read(self, names: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for start in range(0, len(names), COMMAND_ITEMS):
            values += await self._link.command("MGET", *names[start : start + COMMAND_ITEMS])
        return values

    async def _scan(self, partition: Partition, epoch: int, accounts: Mapping[str, object]) -> _Journal:
        journal = _Journal({}, {})
        async for request_id, entry in entries(self._link, self._keys, partition.number):
            if entry.epoch != epoch or entry.account_id not in accounts:
                continue
            if entry.state == SETTLED:
                journal.settled.setdefault(entry.account_id, {})[request_id] = entry.dseq
            else:
                journal.holds.setdefault(entry.account_id, {})[request_id] = entry
        return journal

    async def drained(self, partition: Partition, seen: Mapping[str, AccountSnapshot]) -> set[str]:
        """Wait until every debit that these states have counted is in Postgres; the accounts of which some are not
        there when that was waited for long enough, such as one whose row is locked.

        Raises `StoreError`.
        """
        late = False
        left = {request_id: account_id for account_id, each in seen.items() for request_id in each.unwritten}
        while left:
            account_id = next(iter(left.values()))
            state = seen[account_id].state
            try:  # others are written with it
                await self._loader.drained(partition, account_id, state.epoch, state.dseq)
            except TimeoutError:
                late = True
            waiting = await still_settled(self._link, self._keys, partition.number, list(left))
            left = {request_id: left[request_id] for request_id in waiting}
            if late:
                break
        return set(left.values())


def steady(before: AccountState, after: AccountState) -> bool:
    """Whether nothing was held, ended, settled or corrected between two readings of an account."""
    return (before.hold_version, before.dseq, before.xseq) == (after.hold_version, after.dseq, after.xseq)


def window_name(key_id: str | None, quota: Quota) -> str:
    """How a difference names a window: of a key, or of the account."""
    return f"{key_id or 'account'} {Window(quota.window).name}:{quota.metric.name}"


def in_use(holds: Iterable[Entry], quota: Quota, counter: Counter, of_key: bool) -> tuple[int, int]:
    """What open holds add to a counter, in the metric's unit: to what is used, and to what is held. A running request
    is used, and holds the rest."""
    counting = [hold for hold in holds if _counts(hold, quota, counter, of_key)]
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


def _counts(hold: Entry, quota: Quota, counter: Counter, of_key: bool) -> bool:
    tags = hold.key_tags if of_key else hold.account_tags
    return quota.tag in tags and window_id(quota.window, hold.at_ms // 1000) == counter.window_id
