"""What Postgres has of many accounts, as of what Redis had counted of each: six statements in one snapshot.

A quick look passes over what is dear to find and almost never there (a request that ran for longer than
LONGEST_REQUEST), and counts debits that were found before no more: it may find too few debits, and so suspect an
account that is right, never pass over one that is wrong. A thorough look reads an account's whole epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from billing.database.connection import Connection, Database, Row, queries
from billing.holds.comparison import (
    ACCOUNTS_A_TURN,
    AccountSnapshot,
    Amounts,
    ComparedCounter,
    LedgerSnapshot,
    Quotas,
    SubjectQuotas,
    UserQuotas,
    WindowUsage,
    current_counters,
    gently,
)
from billing.holds.windows import GRANULARITY, bounds_s
from billing.quotas import Window, parse_quotas

if TYPE_CHECKING:
    from billing.holds.loading import Loader
    from billing.holds.partition import Partition

_sql = queries("billing.holds")
KEYS: Final = _sql("reconcile_keys")
USERS: Final = _sql("reconcile_users")
MOMENT: Final = _sql("reconcile_moment")
BALANCES: Final = _sql("reconcile_balances")
WINDOWS: Final = _sql("reconcile_windows")
LATER: Final = _sql("reconcile_later")

LONGEST_REQUEST: Final = timedelta(minutes=15)
"""From admission to settlement, and what the clocks of Redis and Postgres differ by. One that took longer costs its
account a second look; the longer this is, the more debits are counted again each time."""
BEFORE_ALL: Final = datetime(1970, 1, 1, tzinfo=UTC)
REMEMBERED_FROM: Final = 1_000
"""Debits of an account in an epoch from which on it is remembered that all were found in Postgres, which keeps them:
the next quick look counts those after them. Fewer are counted each time."""
REMEMBERED_ACCOUNTS: Final = 100_000
DEBITS_A_QUERY: Final = 100_000
"""To be counted by one query, for it ends in time; those of one account are counted together."""
KNOWN_QUOTAS: Final = 1_000
"""Different lists of quotas that are kept parsed."""


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
class LedgerLook:
    """Accounts in Postgres. Redis was said to know of corrections that it does not know of `uncorrected` ones."""

    accounts: Mapping[str, LedgerSnapshot] = field(default_factory=dict)
    uncorrected: Sequence[str] = ()


class LedgerSnapshots:
    """Looks at many accounts of one partition."""

    def __init__(self, database: Database, loader: Loader) -> None:
        self._database = database
        self._counted: dict[str, _Counted] = {}

        @lru_cache(KNOWN_QUOTAS)
        def account_quotas(plan: str, quotas: str) -> Quotas:
            return {quota.tag: quota for quota in loader.account_quotas(plan, msgspec.json.decode(quotas))}

        self._account_quotas = account_quotas
        self.plans_changed = account_quotas.cache_clear
        """To be called when other plans are in force."""

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

    async def look(
        self,
        partition: Partition,
        snapshots: Mapping[str, AccountSnapshot],
        subject_quotas: Mapping[str, SubjectQuotas],
        *,
        thorough: bool,
    ) -> LedgerLook:
        """Return these accounts, all of one epoch and with all their counted debits in Postgres, as the ledger has
        them; none where the partition's epoch has moved on. Raises `DatabaseError`."""
        if not snapshots:
            return LedgerLook()
        epoch = next(iter(snapshots.values())).state.epoch
        async with self._database.transaction(snapshot=True) as connection:
            moment = await connection.fetchrow(MOMENT, partition.number)
            if moment is None or moment["epoch"] != epoch:
                return LedgerLook()
            accounts = await self._read_accounts(connection, moment, snapshots, subject_quotas, thorough)
            later_from = BEFORE_ALL if thorough else moment["now"] - LONGEST_REQUEST
            await _read_usage(connection, accounts, later_from)
        return LedgerLook(
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

    As `windows.read_counters`, which asks for one subject at a time. Here the window of an account is read once, by
    key, and its counters are sums of what they apply to.
    """
    by_model: dict[tuple[int, Window], bool] = {}
    async for at, each in gently(_counters(accounts)):
        name = (at, each.quota.window)
        by_model[name] = by_model.get(name, False) or each.quota.model is not None
    if not by_model:
        return
    by_place = {each.place: each for each in accounts}
    bounds = {(place, window): bounds_s(window, by_place[place].redis.state.now_s) for place, window in by_model}
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
