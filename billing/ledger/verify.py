"""Verification: the ledger's promises, proved from one snapshot. Nothing here writes.

    balances    every account's balance is the sum of its transfers
    sum         all balances, those of system accounts included, sum to zero
    lots        the lots of every account have no less than its balance, and each has the amount of its transfer
    transfers   every charged event has exactly one transfer, of its amount and account; every usage transfer an event
    prices      every event's amount follows from its counts and the price row that it names
    rollups     every sum of usage is that of its events, but for those that are fresh: each has a row of its own
    dropped     of months whose events were dropped by age, the sums of each account are what these came to; so are the
                transfers that have no event
    of all      what all accounts used, by account and by model and provider, is what their sums say
    by names    what accounts used by one dimension, one tag, or both is what their sums by hour say

Everything is read through cursors, and differences are counted while a bounded number of them is named, so that
millions of rows take time but no memory.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from billing.database.connection import Connection, Database, Row, queries
from billing.ledger.debits import NAMED, decode_shares_of, usage_of
from billing.money import format_usd
from billing.pricing import PriceError, PriceRow, from_canonical_json, round_up
from billing.times import rfc3339
from billing.usage import UsageError

BATCH_ROWS: Final = 2000
# Differences of one check that are named; the others are counted.
EXAMPLES_LIMIT: Final = 20
# For the database that `verify` is given: one statement reads a whole table.
STATEMENT_TIMEOUT_S: Final = 3600.0

# Before and after every event.
_EVER: Final = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_GRANULARITIES: Final = ("minute", "hour", "day", "month")
_query = queries("billing.ledger")


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of one check. `examples` name the first differing rows, a sentence each."""

    name: str
    looked_at: int
    differences: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcomes of all checks."""

    checks: tuple[Checked, ...]

    @property
    def ok(self) -> bool:
        """Return whether no check has found a difference."""
        return not any(check.differences for check in self.checks)


async def verify(database: Database) -> Verified:
    """Check everything in one snapshot, while gateways go on writing. Raises `DatabaseError`.

    A database that is to be large needs a timeout of `STATEMENT_TIMEOUT_S`.
    """
    async with database.transaction(snapshot=True) as connection:
        counts = await connection.fetchrow(_query("verify_counts"))
        assert counts is not None  # noqa: S101  (a row of counts, always)
        accounts, events = counts["accounts"], counts["events"]
        return Verified(
            (
                await _check(connection, "balances", accounts, "verify_balances", _balance),
                await _check(connection, "sum", accounts, "verify_sum", _sum),
                await _check(connection, "lots", counts["lots"], "verify_lots", _lot),
                await _check(connection, "transfers", counts["transfers"], "verify_transfers", _transfer),
                await _check_prices(connection, events),
                await _check(connection, "rollups", counts["rollups"], *_ROLLED[0], *_EVER),
                await _check(connection, "dropped", counts["dropped"], *_ROLLED[1], *_EVER),
                await _check(connection, "of all", counts["of_all"], "verify_of_all", _of_all),
                await _check(connection, "by names", counts["by_names"], "verify_by_names", _by_names),
            )
        )


async def first_difference(connection: Connection, since: datetime, until: datetime) -> str | None:
    """Return one thing that sums from `since` on and before `until` differ in from their events; None where there is
    none. Raises `DatabaseError`."""
    for query, describe in _ROLLED:
        row = await connection.fetchrow(f"SELECT * FROM ({_query(query)}) AS found LIMIT 1", since, until)  # noqa: S608
        if row is not None:
            return describe(row)
    return None


class _Found:
    """Counts differences and keeps the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES_LIMIT:
            self.examples.append(example)

    def checked(self, name: str, looked_at: int) -> Checked:
        return Checked(name, looked_at, self.count, tuple(self.examples))


async def _batches(connection: Connection, query: str, *arguments: object) -> AsyncIterator[list[Row]]:
    cursor = await connection.cursor(query, *arguments)
    while rows := await cursor.fetch(BATCH_ROWS):
        yield rows


async def _check(
    connection: Connection, name: str, looked_at: int, query: str, describe: Callable[[Row], str], *arguments: object
) -> Checked:
    """Run a check whose query returns the differing rows."""
    found = _Found()
    async for rows in _batches(connection, _query(query), *arguments):
        for row in rows:
            found.add(describe(row))
    return found.checked(name, looked_at)


async def _check_prices(connection: Connection, events: int) -> Checked:
    found = _Found()
    stored = await connection.fetch(_query("verify_prices"))
    prices = {row["id"]: price for row in stored if (price := _price(row, found)) is not None}
    async for rows in _batches(connection, _query("verify_events")):
        for row in rows:
            wrong = _wrong_amount(row, prices)
            if wrong is not None:
                found.add(f"request {row['request_id']}: {wrong}")
    return found.checked("prices", events)


def _price(row: Row, found: _Found) -> PriceRow | None:
    """Return a stored price row, whose id is the digest of its content; None where it is broken."""
    try:
        price = from_canonical_json(row["said"])
    except (PriceError, ValueError, LookupError, TypeError):
        found.add(f"price row {row['id']}: its content is no price row")
        return None
    if price.id != row["id"]:
        found.add(f"price row {row['id']}: it has the content of {price.id}")
        return None
    return price


def _wrong_amount(row: Row, prices: Mapping[str, PriceRow]) -> str | None:
    """Return what is wrong with an event's amount; None for one that is right.

    An event that charged nothing because its request was given back or its usage was free is not made from its counts.
    """
    cost_nano, charged_nano, price = row["cost_nano"], row["charged_nano"], prices.get(row["price_id"])
    is_nothing = not (cost_nano or charged_nano or row["input_tokens"] or row["output_tokens"])
    if is_nothing and row["outcome"] == "expired":  # its price may be unknown, too
        return None
    if row["price_id"] == NAMED:
        return None if cost_nano == charged_nano else "its amount was named by a service, which adds no markup"
    if price is None:
        return f"the ledger has no price row {row['price_id']!r} that could be used"
    if is_nothing and row["estimated"]:
        return None
    try:
        scaled = _cost_scaled(row, price, prices)
    except (UsageError, TypeError, msgspec.ValidationError):
        return "its counts can't be"
    except KeyError as error:
        return f"the ledger has no price row {error}"
    expected = round_up(scaled), round_up(scaled, row["markup_scaled"])
    if (cost_nano, charged_nano) == expected:
        return None
    if row["estimated"] and cost_nano == expected[0] and charged_nano > expected[1]:
        return None  # a hold that was charged whole, which has each token at the dearest that it could cost
    cost, charged = map(format_usd, expected)
    has = f"cost {format_usd(cost_nano)} and charged {format_usd(charged_nano)} USD"
    return f"has {has}; its counts and price row give {cost} and {charged}"


def _cost_scaled(row: Row, price: PriceRow, prices: Mapping[str, PriceRow]) -> int:
    """Return the exact cost by the counts of a row, or by the shares of its models. Raises `KeyError` for a price row
    that is not there."""
    shares = decode_shares_of(row["by_model"])
    if not shares:
        return price.cost_scaled(usage_of(dict(row), row["counts"]), row["multiplier"])
    return sum(prices[share.price_id].cost_scaled(share.usage, share.variant) for share in shares)


def _balance(row: Row) -> str:
    transfers = format_usd(int(row["transfers_nano"]))
    if row["balance_nano"] is None:
        return f"{row['account_id']}: transfers of {transfers} USD, and no such account"
    return f"{row['account_id']}: balance {format_usd(row['balance_nano'])} USD, transfers sum to {transfers}"


def _sum(row: Row) -> str:
    return f"all balances sum to {format_usd(int(row['sum_nano']))} USD, not to zero"


def _lot(row: Row) -> str:
    nano = format_usd(int(row["nano"]))
    if row["lot_id"] is None:
        return f"{row['account_id']}: lots of {nano} USD, and a balance of {_usd(row['expected_nano'])}"
    return f"{row['account_id']}: the lot {row['lot_id']} of {nano} USD, its transfer of {_usd(row['expected_nano'])}"


def _transfer(row: Row) -> str:
    request_id = row["request_id"]
    if row["charges"] is not None:
        had = f"the months that were dropped had {row['charges']} of {format_usd(int(row['charged_nano']))}"
        alone = f"{row['transfers']} transfers of {format_usd(int(row['amount_nano']))} USD without an event"
        return f"{row['account_id']}: {alone}, {had}"
    if row["times"] is None:
        return f"request {request_id}: a transfer of {format_usd(int(row['amount_nano']))} USD, and no event"
    if row["times"] != 1:
        return f"request {request_id}: {row['times']} events"
    event = f"an event of {format_usd(int(row['charged_nano']))} USD on {row['account_id']}"
    if row["amount_nano"] is None:
        return f"request {request_id}: {event}, and no transfer"
    sides = f"from {row['debit_account']} to {row['credit_account']}"
    return f"request {request_id}: {event}, and a transfer of {format_usd(int(row['amount_nano']))} USD {sides}"


def _rollup(row: Row) -> str:
    of = [row[name] for name in ("key_id", "user_id", "model", "provider", "endpoint", "feature") if row[name]]
    tag = [] if row["name"] is None else [f"tag {row['name']}={row['said'] or 'others'}"]
    named = ", ".join((row["account_id"], *(of or ["a combination without a row"]), *tag))
    bucket = f"{_GRANULARITIES[row['granularity']]} {rfc3339(row['bucket'])}"
    events = f"{row['events'] or 0} requests for {_usd(row['events_charged_nano'])} USD"
    has = f"{row['requests'] or 0} for {_usd(row['charged_nano'])}"
    return f"{named}, {bucket}: events say {events}, the rollup {has}"


def _dropped(row: Row) -> str:
    events = f"{row['events'] or 0} requests for {_usd(row['events_charged_nano'])} USD"
    has = f"{row['requests'] or 0} for {_usd(row['charged_nano'])}"
    month = rfc3339(row["month"])
    return f"{row['account_id']}, month {month}: its events, since dropped, said {events}, the rollups {has}"


def _of_all(row: Row) -> str:
    name = row["first"] if row["by_account"] else f"{row['first']} of {row['second'] or 'no provider'}"
    bucket = f"{_GRANULARITIES[row['granularity']]} {rfc3339(row['bucket'])}"
    sums = f"{row['sums'] or 0} requests for {_usd(row['sums_charged_nano'])} USD"
    of_all = f"{row['requests'] or 0} for {_usd(row['charged_nano'])}"
    return f"{name}, {bucket}: sums say {sums}, those of all accounts {of_all}"


def _by_names(row: Row) -> str:
    of = [] if row["dimension"] is None else [f"{row['dimension']}={row['dimension_value']}"]
    tag = [] if row["tag"] is None else [f"{row['tag']}={'others' if row['said'] is None else row['said']}"]
    bucket = f"{_GRANULARITIES[row['granularity']]} {rfc3339(row['bucket'])}"
    sums = f"{row['sums'] or 0} requests for {_usd(row['sums_charged_nano'])} USD"
    by_names = f"{row['requests'] or 0} for {_usd(row['charged_nano'])}"
    return f"{', '.join((row['account_id'], *of, *tag))}, {bucket}: sums say {sums}, those by names {by_names}"


def _usd(nano: int | None) -> str:
    return format_usd(int(nano or 0))


# What is compared with events of a time, and how a difference is told.
_ROLLED: Final = (("verify_rollups", _rollup), ("verify_dropped", _dropped))
