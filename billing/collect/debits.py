"""Debits: what has grown becomes due by account, region and hour, and is charged like any other usage.

The charge of an account is a function of its bytes by price, whenever and in whatever portions they came: bytes that
are included are taken off of the dearest ones first, what is left costs its rate, rounded up to the nano-USD once for
each price. A debit is what that has risen by. More bytes never cost less: those that are included only move to
dearer ones.

What is due is taken, charged, and its debit written in one transaction: a process that dies leaves it due, or charged.
A debit is a correction (rule R3 of docs/protocol.md): Redis is notified of it after the commit, or later by the relay.
An account whose row is locked, or that the ledger refuses, stays due until the next run and keeps no other waiting. A
charge that has fallen (a counter was found larger, before which it had fallen) is a refund.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from billing import audit
from billing.accounts.grants import PAID, REVENUE, BalanceOutOfBounds, Entry
from billing.collect.snapshots import METER
from billing.database.connection import DatabaseLocked, DatabaseRefused, MissingPartition, queries
from billing.ledger.debits import NAMED, Debit, other_counts
from billing.ledger.writer import create_months, write_within
from billing.money import ceil_div
from billing.pricing import COST_SCALE, FACTOR_SCALE, METER_PROVIDER
from billing.principals import SERVICE_KEY
from billing.usage import MAX_UNIT_THOUSANDTHS, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterable, Sequence

    from billing.accounts.grants import Grants
    from billing.database.connection import Connection, Database, Row
    from billing.pricing import PriceTable

logger = logging.getLogger(__name__)
_query = queries("billing.collect")

# What debits of traffic name as their endpoint.
ENDPOINT: Final = "/v1/jobs/collect-and-rate"
# Stands for the key of debits of traffic, which has none.
KEY: Final = f"{SERVICE_KEY}collector"
PER_BYTE: Final = "per_byte"
_MINUTES_OF_HOUR: Final = 60


@dataclass(frozen=True, slots=True)
class ByteRate:
    """A price of a byte: `scaled` in nano-USD times `COST_SCALE`; `key` names it for good, `price_id` is the row of the
    table of prices, and `variant` that of the row."""

    key: str
    scaled: int
    price_id: str = NAMED
    variant: str | None = None


def rate_of(prices: PriceTable, per_byte_scaled: int, region: str, at: datetime) -> ByteRate:
    """Return the price of a byte in a region at a time: by the row of the meter `bytes` and its variants by region,
    else `per_byte_scaled` (PRICE_PER_BYTE, in nano-USD times `FACTOR_SCALE`)."""
    row = prices.find(METER_PROVIDER, METER, at.timestamp())
    if row is None or row.per_unit.keys().isdisjoint(("unit", "million")):
        return ByteRate(f"{PER_BYTE}:{per_byte_scaled}", per_byte_scaled * (COST_SCALE // FACTOR_SCALE))
    minute = at.hour * _MINUTES_OF_HOUR + at.minute
    variant = row.variant(region=region or None, minute=minute)
    scaled = row.cost_scaled(Usage(requests=0, unit_thousandths=1000), variant)
    return ByteRate(f"{row.id}|{variant or ''}", scaled, row.id, variant)


def charge(bytes_by_rate: Mapping[tuple[int, str], int], included_bytes: int) -> int:
    """Return nano-USD of all bytes of an account, by (rate, key of the price)."""
    total = 0
    for (rate, _), count in sorted(bytes_by_rate.items(), reverse=True):
        free = min(max(included_bytes, 0), count) if count > 0 else 0
        included_bytes -= free
        total += ceil_div((count - free) * rate, COST_SCALE)
    return total


@dataclass(slots=True)
class Charged:
    """What an account has used by price, and was charged for it. `changed` has the prices that more was used of."""

    included_bytes: int
    charged_nano: int
    bytes_by_rate: dict[tuple[int, str], int]

    def add(self, rate: ByteRate, count: int) -> int:
        """Count so many bytes of a price; return what the charge has risen by, below zero where it has fallen. Bytes
        that were counted too many, and were charged by a price that has changed since, are taken off of the dearest
        ones: nothing is given back that was not charged."""
        key = rate.scaled, rate.key
        have = self.bytes_by_rate.get(key, 0) + count
        self.bytes_by_rate[key], lacking = max(have, 0), max(-have, 0)
        for other in sorted(self.bytes_by_rate, reverse=True):
            taken = min(lacking, max(self.bytes_by_rate[other], 0))
            self.bytes_by_rate[other] -= taken
            lacking -= taken
        before, self.charged_nano = self.charged_nano, charge(self.bytes_by_rate, self.included_bytes)
        return self.charged_nano - before


# The price of a byte in a region at a time.
RateOf = Callable[[str, datetime], ByteRate]


ACCOUNTS_AT_ONCE: Final = 200
GROWTH_AT_ONCE: Final = 200_000
# What is folded at once: rows of growth, and pages of it.
PAGES_AT_ONCE: Final = 200
VACUUM_ROWS: Final = 50_000
THOUSANDTHS: Final = 1000
# Of one debit, 9 TB; more come in further ones.
MOST_BYTES: Final = MAX_UNIT_THOUSANDTHS // THOUSANDTHS
# Of one account, region and hour at once: nobody has moved more than 900 TB in one, whatever an exporter says.
MOST_DEBITS: Final = 100


@dataclass(slots=True)
class Rated:
    """What a run has charged: how many debits, which accounts, and which stay due."""

    debits: int = 0
    accounts: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Due:
    """Bytes of an account that are to be charged, of one region and hour, with their price; `at` is when the last of
    them were counted. Below zero where more were charged before than there are."""

    account_id: str
    hour: datetime
    region: str
    rate: ByteRate
    at: datetime
    bytes: int

    @property
    def kind(self) -> tuple[str, str, str]:
        """Return what it has in common with bytes that cost the same."""
        return self.account_id, self.region, self.rate.key


@dataclass
class TrafficDebits:
    """Charges what has grown. Methods raise `database.connection.DatabaseError`. `tell` lets Redis know of accounts'
    new corrections."""

    database: Database
    grants: Grants
    rate_of: RateOf
    tell: Callable[[Collection[str]], Awaitable[None]]
    new_id: Callable[[], str]

    async def round(self, now: datetime) -> Rated:
        """Charge all that has grown."""
        if await self._fold() >= VACUUM_ROWS:
            await self.database.execute("VACUUM collected_growth")
        rated, after = Rated(), ""
        while found := await self.database.rows(_query("due_accounts"), after, ACCOUNTS_AT_ONCE):
            accounts = [row["account_id"] for row in found]
            after = accounts[-1]
            await self._charge(accounts, now, rated)
        return rated

    async def _fold(self) -> int:
        """Have all that has grown become due, to the accounts whose it was then; return how many rows that was."""
        folded, moved = 0, 1
        while moved:
            moved = await self.database.value(_query("fold_growth"), GROWTH_AT_ONCE, PAGES_AT_ONCE)
            folded += moved
        return folded

    async def publish(self, accounts: Collection[str]) -> None:
        """Let Redis know of accounts whose balances have changed otherwise."""
        await self.tell(accounts)

    async def _charge(self, accounts: Sequence[str], now: datetime, rated: Rated) -> None:
        """Charge some accounts; where that fails for one of them, by halves."""
        try:
            debits = await self._charged(accounts, now)
        except (DatabaseLocked, DatabaseRefused, BalanceOutOfBounds) as error:
            if len(accounts) > 1:
                half = len(accounts) // 2
                await self._charge(accounts[:half], now, rated)
                await self._charge(accounts[half:], now, rated)
                return
            logger.warning("traffic of account %s stays due: %s", accounts[0], error)
            rated.left.update(accounts)
            return
        rated.debits += debits
        rated.accounts.update(accounts)
        await self.tell(accounts)

    async def _charged(self, accounts: Sequence[str], now: datetime, *, months: bool = True) -> int:
        debits: list[Debit] = []
        try:
            async with self.database.transaction() as connection:
                due = await connection.fetch(_query("take_due"), accounts)
                taken = list({row["account_id"] for row in due})  # locked by that: others may be charged meanwhile
                charged = _read(await connection.fetch(_query("read_charges"), taken))
                refunds: list[Entry] = []
                for each in netted([self._due(row, now) for row in due]):
                    self._count(charged[each.account_id], each, debits, refunds)
                await _store(connection, charged)
                if debits:
                    await write_within(connection, debits, self.database.lock_wait_s)
                for entry in refunds:
                    await self.grants.record(connection, entry, audit.SYSTEM)
        except MissingPartition:
            if not months:
                raise
            await create_months(self.database, debits)
            return await self._charged(accounts, now, months=False)
        return len(debits)

    def _due(self, row: Row, now: datetime) -> Due:
        rate = self.rate_of(row["region"], row["hour"].astimezone(UTC))
        return Due(row["account_id"], row["hour"], row["region"], rate, min(row["at"], now), int(row["bytes"]))

    def _count(self, charged: Charged, due: Due, debits: list[Debit], refunds: list[Entry]) -> None:
        rise_nano, left = charged.add(due.rate, due.bytes), due.bytes
        if rise_nano < 0:
            reason = f"{-due.bytes} bytes of {due.region or 'traffic'} were counted too many"
            scope, reference = f"collect:{due.account_id}", self.new_id()
            refunds.append(Entry(due.account_id, -rise_nano, REVENUE, "refund", scope, reference, reason, terms=PAID))
        for _ in range(MOST_DEBITS):
            if left > 0:
                debits.append(_debit(self.new_id(), due, min(left, MOST_BYTES), rise_nano))
                rise_nano, left = 0, left - MOST_BYTES


def netted(due: Iterable[Due]) -> list[Due]:
    """Return what is to be charged, the oldest first. Bytes that were counted too many in one hour are taken off those
    of the same price and region in others: a late snapshot moves bytes between hours, and nobody has used more."""
    rows = sorted(due, key=lambda each: (each.account_id, each.hour, each.region))
    surplus: Counter[tuple[str, str, str]] = Counter()
    deficit: Counter[tuple[str, str, str]] = Counter()
    for each in rows:
        (surplus if each.bytes > 0 else deficit)[each.kind] += abs(each.bytes)
    moved = surplus & deficit
    to_add, to_take = moved.copy(), moved
    found: list[Due] = []
    for each in rows:
        left = to_add if each.bytes > 0 else to_take
        part = min(abs(each.bytes), left[each.kind])
        left[each.kind] -= part
        if rest := abs(each.bytes) - part:
            found.append(replace(each, bytes=rest if each.bytes > 0 else -rest))
    return found


def _read(rows: Sequence[Row]) -> dict[str, Charged]:
    """Return what accounts were charged, by id."""
    found: dict[str, Charged] = {}
    for row in rows:
        charged = found.setdefault(row["account_id"], Charged(row["included_bytes"], int(row["charged_nano"]), {}))
        if row["price"] is not None:
            charged.bytes_by_rate[int(row["rate_scaled"]), row["price"]] = int(row["bytes"])
    return found


async def _store(connection: Connection, charged: dict[str, Charged]) -> None:
    prices = [
        (account_id, price, rate, count)
        for account_id, each in charged.items()
        for (rate, price), count in each.bytes_by_rate.items()
    ]
    columns = zip(*prices, strict=True) if prices else ((), (), (), ())
    await connection.execute(
        _query("write_charges"),
        list(charged),
        [each.charged_nano for each in charged.values()],
        *(list(column) for column in columns),
    )


def _debit(request_id: str, due: Due, count: int, charged_nano: int) -> Debit:
    return Debit(
        request_id=request_id,
        admitted_at_ms=int(due.at.timestamp() * 1000),
        outcome="settled",
        account_id=due.account_id,
        key_id=KEY,
        endpoint=ENDPOINT,
        feature=METER,
        model=METER,
        provider=METER_PROVIDER,
        provider_model=METER,
        counts=other_counts(Usage(requests=0, unit_thousandths=count * THOUSANDTHS)),
        cost_nano=charged_nano,
        charged_nano=charged_nano,
        price_id=due.rate.price_id,
        multiplier=due.rate.variant,
        status=200,
        tags=msgspec.json.encode({"region": due.region}).decode() if due.region else None,
        note=_note(count, due.rate),
    )


def _note(count: int, rate: ByteRate) -> str:
    """Return how the amount came about, which no single debit's counts give."""
    price = "PRICE_PER_BYTE" if rate.price_id == NAMED else "the row's price"
    return (
        f"{count} bytes at {price}: what all traffic of the account costs, without its included bytes, less what was "
        "charged before"
    )
