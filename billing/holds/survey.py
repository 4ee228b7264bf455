"""Surveying: comparing many accounts in Redis with the ledger at once, to find the few that seem to differ.

An account by itself costs Postgres dozens of queries, most of them for its windows; a batch costs six. What a survey
finds is a suspicion: `reconcile` looks at each suspect again, alone. So a survey may pass over what is dear to find and
almost never there (a request that ran for longer than LONGEST_REQUEST), where that makes it suspect too much, never too
little.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from billing.database.connection import Connection, Database, Row, queries
from billing.holds.loader import Loader
from billing.holds.partitions import Partition
from billing.holds.redis.layout import Counter, Entry
from billing.holds.snapshot import ACCOUNTS_A_TURN, AccountSnapshot, Snapshots, gently, in_use, window_name
from billing.holds.survey_windows import Behind, Compared, Used, read_used
from billing.quotas import Quota, Window, parse_quotas, window_id

_sql = queries("billing.ledger")
KEYS: Final = _sql("reconcile_keys")
MOMENT: Final = _sql("reconcile_moment")
BALANCES: Final = _sql("reconcile_balances")

LONGEST_REQUEST: Final = timedelta(minutes=15)
"""From admission to settlement, and what the clocks of Redis and Postgres differ by. One that took longer costs its
account a second look; the longer this is, the more debits are counted again each time."""
REMEMBERED_FROM: Final = 1_000
"""Debits of an account in an epoch from which on it is remembered that all were found in Postgres, which keeps them:
the next survey counts those after them. Fewer are counted each time."""
REMEMBERED_ACCOUNTS: Final = 100_000
DEBITS_A_QUERY: Final = 100_000
"""To be counted by one query, for it ends in time; those of one account are counted together."""
KNOWN_QUOTAS: Final = 1_000
"""Different lists of quotas that are kept parsed."""

Quotas = Mapping[int, Quota]
"""By tag."""


@dataclass(slots=True)
class Surveyed:
    """`suspects` are accounts with the names of what seems to differ; `busy` ones changed too fast for their holds and
    windows to be compared; Redis was said to know of corrections that it does not know of `untold` ones."""

    suspects: dict[str, set[str]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)

    def suspect(self, account_id: str, what: str) -> None:
        self.suspects.setdefault(account_id, set()).add(what)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Debits 1 to `dseq` of an epoch were in Postgres at `at`, and no later ones of Redis a few seconds before."""

    epoch: int
    dseq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class _Account:
    """An account as both stores have it. `counted` debits were not counted anew in `row`."""

    id: str
    seen: AccountSnapshot
    row: Row
    counted: int


class Survey:
    """Compares batches of accounts."""

    def __init__(self, database: Database, sightings: Snapshots, loader: Loader) -> None:
        self._database = database
        self._sightings = sightings
        self._counted: dict[str, _Counted] = {}

        @lru_cache(KNOWN_QUOTAS)
        def account_quotas(plan: str, quotas: str) -> Quotas:
            return {quota.tag: quota for quota in loader.account_quotas(plan, msgspec.json.decode(quotas))}

        self._account_quotas = account_quotas
        self.plans_changed = account_quotas.cache_clear
        """To be called when other plans are in force."""

    async def compare(self, partition: Partition, account_ids: Sequence[str]) -> Surveyed:
        """Look at accounts of a partition in Redis, and compare them with one snapshot of Postgres in which all is that
        they have counted; accounts of which that does not come there are busy. Raises `StoreError`.
        """
        quotas_of: dict[str, dict[str, str]] = {account_id: {} for account_id in account_ids}
        async for row in gently(await self._database.rows(KEYS, account_ids)):
            quotas_of[row["account_id"]][row["id"]] = row["quotas"]
        seen = await self._sightings.look(partition, {each: tuple(keys) for each, keys in quotas_of.items()})
        if not seen:
            return Surveyed()
        late = await self._sightings.drained(partition, seen)
        seen = {account_id: each for account_id, each in seen.items() if account_id not in late}
        if not seen:
            return Surveyed(busy=late)
        epoch = next(iter(seen.values())).state.epoch
        async with self._database.transaction(snapshot=True) as connection:
            moment = await connection.fetchrow(MOMENT, partition.number)
            if moment is None or moment["epoch"] != epoch:
                return Surveyed(busy=late)
            accounts = await self._read_accounts(connection, epoch, moment, seen)
            compared = await self._counters(accounts, quotas_of)
            behind = [
                Behind(place, each.id, each.seen.state)
                for place, each in enumerate(accounts)
                if each.row["later"] or each.row["newest_xseq"] > each.seen.state.xseq
            ]
            states = [(each.id, each.seen.state) for each in accounts]
            used = await read_used(connection, states, compared, behind, epoch, moment["now"] - LONGEST_REQUEST)
        found = Surveyed(
            busy=late | {account_id for account_id, each in seen.items() if not each.steady},
            untold={each.id for each in accounts if each.row["pushed_xseq"] > each.seen.state.xseq},
        )
        await self._compare_accounts(found, accounts, moment["now"])
        await _compare_counters(found, accounts, compared, used)
        return found

    async def _read_accounts(
        self, connection: Connection, epoch: int, moment: Row, seen: Mapping[str, AccountSnapshot]
    ) -> list[_Account]:
        ids, states = list(seen), [each.state for each in seen.values()]
        nothing = _Counted(epoch, 0, moment["began_at"])
        known = [self._counted.get(account_id, nothing) for account_id in ids]
        known = [
            before if before.epoch == epoch and before.dseq <= state.dseq else nothing
            for before, state in zip(known, states, strict=True)
        ]
        accounts = []
        for some in _slices([state.dseq - before.dseq for state, before in zip(states, known, strict=True)]):
            rows = await connection.fetch(
                BALANCES,
                ids[some],
                [state.xseq for state in states[some]],
                [state.dseq for state in states[some]],
                [before.dseq for before in known[some]],
                [before.at - LONGEST_REQUEST for before in known[some]],
                epoch,
            )
            places = ((row, some.start + row["place"] - 1) for row in rows)
            accounts += [_Account(ids[at], seen[ids[at]], row, known[at].dseq) for row, at in places]
        return accounts

    async def _counters(
        self, accounts: Sequence[_Account], quotas_of: Mapping[str, Mapping[str, str]]
    ) -> list[Compared]:
        """The counters that are current in Redis and can be compared."""
        compared: list[Compared] = []
        async for place, account in gently(enumerate(accounts), ACCOUNTS_A_TURN):
            seen, row = account.seen, account.row
            if not seen.steady:
                continue
            current = {window: window_id(window, seen.state.now_s) for window in Window}
            if row["version"] == seen.state.principal_version:
                quotas = self._account_quotas(row["plan"], row["quotas"])
                compared += _current(place, None, quotas, seen.state.counters, current, seen.holds)
            holds: dict[str, list[Entry]] = {}
            for hold in seen.holds:
                holds.setdefault(hold.key_id, []).append(hold)
            async for key_id, key in gently(seen.keys.items(), ACCOUNTS_A_TURN * 2):
                if key.epoch == seen.state.epoch:
                    quotas = _key_quotas(quotas_of[account.id][key_id])
                    compared += _current(place, key_id, quotas, key.counters, current, holds.get(key_id, ()))
        return compared

    async def _compare_accounts(self, found: Surveyed, accounts: Sequence[_Account], now: datetime) -> None:
        async for account in gently(accounts):
            state, row, debits = account.seen.state, account.row, account.counted + account.row["debits"]
            holds = account.seen.holds
            if state.balance_nano != row["balance_nano"] - row["untold_nano"] + row["later_nano"]:
                found.suspect(account.id, "balance")
            if state.dseq != debits:
                found.suspect(account.id, "debits")
            if account.seen.steady and state.held_nano != sum(hold.cost_nano for hold in holds):
                found.suspect(account.id, "held")
            if account.seen.steady and state.running != len(holds):
                found.suspect(account.id, "running")
            if debits == state.dseq >= REMEMBERED_FROM:
                if len(self._counted) >= REMEMBERED_ACCOUNTS:
                    self._counted.clear()
                self._counted[account.id] = _Counted(state.epoch, debits, now)


async def _compare_counters(
    found: Surveyed, accounts: Sequence[_Account], compared: Sequence[Compared], used: Used
) -> None:
    async for each in gently(compared):
        running, held = in_use(each.holds, each.quota, each.counter, each.key_id is not None)
        name = window_name(each.key_id, each.quota)
        if each.counter.used != used.of(each) + running:
            found.suspect(accounts[each.place].id, name)
        if each.counter.held != held:
            found.suspect(accounts[each.place].id, f"{name} held")


def _slices(sizes: Sequence[int]) -> Iterator[slice]:
    """Neighbours whose sizes come to DEBITS_A_QUERY at most, or one that is larger alone."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > DEBITS_A_QUERY:
            yield slice(start, place)
            start, total = place, 0
        total += size
    yield slice(start, len(sizes))


def _current(
    place: int,
    key_id: str | None,
    quotas: Quotas,
    counters: Sequence[Counter],
    current: Mapping[Window, int],
    holds: Sequence[Entry],
) -> list[Compared]:
    return [
        Compared(place, key_id, quota, counter, holds)
        for counter in counters
        if (quota := quotas.get(counter.tag)) is not None and counter.window_id == current[quota.window]
    ]


@lru_cache(KNOWN_QUOTAS)
def _key_quotas(quotas: str) -> Quotas:
    return {quota.tag: quota for quota in parse_quotas(msgspec.json.decode(quotas))}
