"""Reports: what customers and operators read of the ledger.

Lists come newest first, in pages. Usage events are ordered by the moment of their admission and then by request id,
transactions by id.

Margins are what was charged, less what the providers cost: exact, from the ledger's sums, by account, model, provider
or day. What can't be taken as it stands is shown apart, too: estimated work, work whose cost no price row says, and
holds that were given back. Refunds and adjustments are what their transfers say, at the time when they were made; a
request's own charge is never rewritten.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from billing.database.connection import Database, Row, from_row, queries
from billing.ledger.debits import Debit, ModelShare, UsageEvent, decode_shares, decode_shares_of, usage_of
from billing.ledger.sums import (
    BEGINNING,
    DAY,
    END,
    HOUR,
    MONTH,
    PLANNED_EACH_TIME,
    UsageQueryError,
    UsageSums,
    Used,
    UsedBy,
    total,
)
from billing.pages import BEFORE_ALL, BadCursor, Page, check_seal, moment_cursor, moment_place, page_of, seal_of
from billing.pricing import PriceRow, from_canonical_json

if TYPE_CHECKING:
    from collections.abc import Sequence
_query = queries("billing.ledger")

# Groups of one answer that has all.
MOST_GROUPS: Final = 50_000
# Groups before a page.
MOST_BEFORE: Final = 2**31
_KINDS: Final = ("used", "estimated", "unpriced", "voided")


class _Piece(NamedTuple):
    """Days or months, as `level` says, from one on and before another, added or (`sign` -1) taken off."""

    level: int
    since: datetime
    until: datetime
    sign: int


class MarginBy(IntEnum):
    """What margins are grouped by, as `margin_read.sql` counts them."""

    account = 1
    model = 2
    provider = 3
    day = 4


class Work(NamedTuple):
    """The number of some requests, their cost at the providers, and their charge, in nano-USD."""

    requests: int = 0
    cost_nano: int = 0
    charged_nano: int = 0


NOTHING: Final = Work()


@dataclass(frozen=True, slots=True)
class Margin:
    """The margin of a group. `used` is all that was charged for, of it `estimated` is what counts are not the
    provider's, `unpriced` what no price row says the cost of; `voided` are holds that were given back, in none of
    these. `returned_nano` is what was refunded, less what was charged later; None where it is not told by this name."""

    used: Work = NOTHING
    estimated: Work = NOTHING
    unpriced: Work = NOTHING
    voided: Work = NOTHING
    returned_nano: int | None = 0

    @property
    def margin_nano(self) -> int:
        """Return the charge less the cost."""
        return self.used.charged_nano - self.used.cost_nano

    @property
    def net_nano(self) -> int:
        """Return the margin less what was given back."""
        return self.margin_nano - (self.returned_nano or 0)

    @property
    def hundredths_of_percent(self) -> int | None:
        """Return the margin in hundredths of a percent of what was charged, rounded down; None where nothing was."""
        charged_nano = self.used.charged_nano
        return self.margin_nano * 10_000 // charged_nano if charged_nano else None


@dataclass(frozen=True, slots=True)
class Margins:
    """The margins of groups, the highest charge first or days in their order, and of all together; `more` groups may
    follow."""

    groups: tuple[tuple[str, Margin], ...]
    total: Margin
    more: bool = False


@dataclass(frozen=True, slots=True)
class DryAccount:
    """An account whose credit runs out: what it has, its credit limit included, and spends in a day, in nano-USD.
    `recharges`: it buys credit by itself."""

    id: str
    name: str
    available_nano: int
    a_day_nano: int
    recharges: bool

    @property
    def hours_left(self) -> int:
        """Return how many hours its credit lasts; 0 where nothing is left."""
        return max(0, self.available_nano * 24 // self.a_day_nano)


@dataclass
class MarginReports:
    """Reads what many accounts were charged and have paid. Methods raise `DatabaseError`."""

    database: Database

    async def read(
        self, since: datetime, until: datetime, by: MarginBy, first: int = 0, limit: int | None = None
    ) -> Margins:
        """Return margins of the requests that were admitted from one day of UTC on and before another: `limit` groups
        after the `first` ones, or all. Raises `UsageQueryError` where all are too many."""
        async with self.database.transaction(snapshot=True) as connection:
            await connection.execute(PLANNED_EACH_TIME)
            pieces = _pieces(since, until, by, await connection.fetchval("SELECT now()"))
            most = MOST_GROUPS if limit is None else limit
            total, *groups = await connection.fetch(
                _query("margin_read"),
                *map(list, zip(*pieces, strict=True)),
                by.value,
                since,
                until,
                most + 1,
                min(first, MOST_BEFORE),
            )
        if limit is None and len(groups) > most:
            raise UsageQueryError("These are too many groups for one answer: ask for less time.", "by")
        told = by in (MarginBy.account, MarginBy.day)
        found = tuple((row["name"], _margin(row, told=told)) for row in groups[:most])
        return Margins(found, _margin(total, told=True), len(groups) > most)

    async def by_time(self, since: datetime, until: datetime, *, hourly: bool) -> dict[datetime, Work]:
        """Return what was charged and what it cost in each day of UTC, or each hour, from one on and before another;
        what had no request is not there."""
        level, unit = (HOUR, "hour") if hourly else (DAY, "day")
        rows = await self.database.rows(_query("used_by_time"), level, since, until, unit)
        return {row["start"]: Work(int(row["requests"]), int(row["cost"]), int(row["charged"])) for row in rows}

    async def running_dry(self, since: datetime, days: int, limit: int) -> list[DryAccount]:
        """Return accounts whose credit lasts no longer than so many days, at what they spent a day since a day of UTC
        (the mean of whole days and today); those that run out first come first."""
        rows = await self.database.rows(_query("accounts_dry"), since, days, limit)
        return [from_row(DryAccount, row) for row in rows]

    async def spent_by_keys(self, keys: Sequence[tuple[str, str]], month: datetime) -> dict[str, int]:
        """Return what keys, given with their accounts, were charged in the month of UTC that begins then, in
        nano-USD."""
        asked = [key_id for key_id, _ in keys], [account_id for _, account_id in keys]
        rows = await self.database.rows(_query("keys_spent"), *asked, month)
        spent = {row["key_id"]: int(row["charged_nano"]) for row in rows}
        return {key_id: spent.get(key_id, 0) for key_id, _ in keys}


def _pieces(since: datetime, until: datetime, by: MarginBy, now: datetime) -> list[_Piece]:
    """Return the sums that a time is put together from: whole months, with days that they lack or have too much, of
    those that are not to come the fewest."""
    ways = [[_Piece(DAY, since, until, 1)]]
    for first in (_month(since), _month(since, 1)) if by is not MarginBy.day else ():
        for end in (_month(until), _month(until, 1)):
            if first < end:
                days = [_between(first, since, -1), _between(until, end, -1)]
                ways.append([_Piece(MONTH, first, end, 1), *(piece for piece in days if piece.since < piece.until)])
    return min(
        ways, key=lambda way: sum(max(0, (min(each.until, now) - each.since).days) for each in way if each.level == DAY)
    )


def _month(at: datetime, ahead: int = 0) -> datetime:
    """Return when the month of a time begins, or the one `ahead` of it."""
    months = at.year * 12 + at.month - 1 + ahead
    return at.replace(year=months // 12, month=months % 12 + 1, day=1)


def _between(since: datetime, until: datetime, sign: int) -> _Piece:
    return _Piece(DAY, *((since, until, sign) if since < until else (until, since, -sign)))


def _margin(row: Row, *, told: bool) -> Margin:
    def work(kind: str) -> Work:
        return Work(*(int(row[name] or 0) for name in (kind, f"{kind}_cost", f"{kind}_charged")))

    used, estimated, unpriced, voided = map(work, _KINDS)
    return Margin(used, estimated, unpriced, voided, int(row["returned"] or 0) if told else None)


# Events that one page of them reads, however few of them are asked for: some 20 ms.
MOST_LOOKED_AT: Final = 10_000
_LATENCY_DIGITS: Final = 9
# A page that is not full yet is looked for no longer.
ENOUGH_S: Final = 0.1
# Characters of a list's moment that a cursor carries; of a longer one, with that many transactions under way, none.
MOST_MOMENT: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Fields of an event that are columns of the same name.
_COPIED: Final = tuple(field.name for field in fields(UsageEvent) if field.name not in ("usage", "tags", "shares"))


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transfer as its account sees it: `amount_nano` above zero raised the balance, to `balance_nano`; None in a list
    of some kinds alone. `moment` is that of the list's first page."""

    id: str
    kind: str
    amount_nano: int
    balance_nano: int | None
    request_id: str | None
    idempotency_key: str | None
    note: str | None
    created_at: datetime
    moment: str = ""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which usage events: admitted from `since` on and before `until`; of one key, one model as it was asked for, and
    so on; with the tag `tag`, whatever its value, or with `tag_value`; that took at least `min_latency_ms`."""

    since: datetime | None = None
    until: datetime | None = None
    key_id: str | None = None
    user_id: str | None = None
    model: str | None = None
    provider: str | None = None
    endpoint: str | None = None
    status: int | None = None
    estimated: bool | None = None
    end_user: str | None = None
    tag: str | None = None
    tag_value: str | None = None
    session: str | None = None
    tool: str | None = None
    min_latency_ms: int | None = None


class PricedEvent(NamedTuple):
    """What `explanations.explain` takes: an event, the price row that it names, None if the ledger has no such row, and
    the rows of the models that its shares name, by id."""

    event: UsageEvent
    price: PriceRow | None
    prices: Mapping[str, PriceRow]


class Reports:
    """Reads the ledger; `sums` reads sums of usage, `margins` charges less costs. Methods raise `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: bytes | None = None
        self.sums = UsageSums(database)
        self.margins = MarginReports(database)

    async def transactions(self, account_id: str, limit: int, after: str | None = None) -> Page[Transaction]:
        """Return the account's transfers, newest first, each with the balance after it. Raises `pages.BadCursor` for
        an `after` that no page has given."""
        sealing = await self._cursor_secret(), account_id
        before, *at = _balance_place(after, *sealing) if after else (BEFORE_ALL, None, None)
        rows = await self._database.rows(_query("reports_transactions"), account_id, before, limit + 1, *at)
        return page_of([Transaction(**dict(row)) for row in rows], limit, lambda last: _balance_cursor(last, *sealing))

    async def changes(
        self, account_id: str, limit: int, after: str | None = None, kinds: Sequence[str] | None = None
    ) -> Page[Transaction]:
        """Return what has changed the account's balance but usage, of some kinds or of all, newest first; `after` is
        the id that ended the page before."""
        given = (account_id, after or BEFORE_ALL, limit + 1, None if kinds is None else list(kinds))
        rows = await self._database.rows(_query("reports_changes"), *given)
        return page_of([Transaction(balance_nano=None, **dict(row)) for row in rows], limit, lambda last: last.id)

    async def _cursor_secret(self) -> bytes:
        if self._secret is None:
            self._secret = await self._database.value(_query("cursor_secret"))
        return self._secret

    async def usage_events(
        self, account_id: str | None, limit: int, after: str | None = None, only: EventFilter | None = None
    ) -> Page[UsageEvent]:
        """Return usage events of an account, or of all. Of those in the time that is asked for `MOST_LOOKED_AT` are
        looked at, and as many again until `ENOUGH_S` are over: where few match, a page has fewer than `limit`, and
        others may follow.

        Raises `pages.BadCursor` for an `after` that no page has given.
        """
        found: list[UsageEvent] = []
        only = only or EventFilter()
        if account_id is None and only.key_id is not None:  # its events are among its account's, which are far fewer
            account_id = await self._database.value(_query("reports_account_of_key"), only.key_id)
        until_s = time.monotonic() + ENOUGH_S
        while True:
            rows = await self._looked_at(account_id, limit - len(found), after, only)
            found += [event_of_row(row) for row in rows if row["matches"]]
            if len(found) > limit or not rows or not rows[-1]["is_last"]:
                return page_of(found, limit, _cursor)
            after = _cursor(event_of_row(rows[-1]))
            if len(found) == limit or time.monotonic() >= until_s:
                return Page(tuple(found), after)

    async def slowest_events(
        self, account_id: str | None, limit: int, after: str | None, only: EventFilter, now: datetime
    ) -> Page[UsageEvent]:
        """Return usage events of an account, or of all, those that took longest first: of the newest `MOST_LOOKED_AT`
        in the time that is asked for, at the first page's `now` where it has no end. Raises `pages.BadCursor`."""
        until, latency_ms, at, request_id = _slow_place(after) if after else (only.until or now, None, None, None)
        if account_id is None and only.key_id is not None:
            account_id = await self._database.value(_query("reports_account_of_key"), only.key_id)
        rows = await self._database.rows(
            _query("reports_all_slowest" if account_id is None else "reports_slowest"),
            account_id,
            only.since,
            until,
            MOST_LOOKED_AT,
            only.key_id,
            only.user_id,
            only.model,
            only.provider,
            only.endpoint,
            only.status,
            only.estimated,
            only.end_user,
            only.tag,
            only.tag_value,
            only.session,
            only.tool,
            latency_ms,
            at,
            request_id,
            limit + 1,
            only.min_latency_ms,
        )
        return page_of([event_of_row(row) for row in rows], limit, partial(_slow_cursor, until))

    async def _looked_at(self, account_id: str | None, limit: int, after: str | None, only: EventFilter) -> list[Row]:
        """Return the events that match among those that are looked at, one more than asked for, and the last of all."""
        before_at, before_id = moment_place(after) if after else (None, None)
        return await self._database.rows(
            _query("reports_all_events" if account_id is None else "reports_events"),
            account_id,
            only.since,
            only.until,
            before_at,
            MOST_LOOKED_AT,
            only.key_id,
            only.user_id,
            only.model,
            only.provider,
            only.endpoint,
            only.status,
            only.estimated,
            only.end_user,
            only.tag,
            only.tag_value,
            before_id,
            limit + 1,
            only.session,
            only.tool,
            only.min_latency_ms,
        )

    async def changed_by_kind(self, account_id: str, since: datetime, until: datetime) -> dict[str, int]:
        """Return what each kind of transfer but usage has changed the balance by within a time, in nano-USD."""
        rows = await self._database.rows(_query("reports_kinds"), account_id, since, until)
        return {row["kind"]: int(row["amount_nano"]) for row in rows}

    async def priced_event(self, request_id: str, account_id: str | None = None) -> PricedEvent | None:
        """Return a usage event and its price row; None if there is none, or it is not on `account_id`."""
        row = await self._database.row(_query("reports_event"), request_id, account_id)
        if row is None:
            return None
        event = event_of_row(row)
        return PricedEvent(event, _price(row["price_said"]), await self._prices(event.shares))

    async def priced_debit(self, debit: Debit) -> PricedEvent:
        """Return a debit that is not in the ledger yet as `priced_event` returns it once it is there."""
        event, row = _event_of(debit), await self._database.value(_query("reports_price"), debit.price_id)
        return PricedEvent(event, _price(row), await self._prices(event.shares))

    async def _prices(self, shares: tuple[ModelShare, ...]) -> dict[str, PriceRow]:
        """Return the price rows of the models that used something, by id; one that the ledger has not is missing."""
        stored = {
            share.price_id: await self._database.value(_query("reports_price"), share.price_id) for share in shares
        }
        return {price_id: from_canonical_json(row) for price_id, row in stored.items() if row is not None}

    async def usage_totals(
        self,
        account_id: str,
        *,
        key_id: str | None = None,
        user_id: str | None = None,
        since: datetime = BEGINNING,
        until: datetime = END,
    ) -> Used:
        """Return totals of an account, or of one of its keys, or of one user's keys; times are whole minutes."""
        (span,) = await self.sums.spans(account_id, (since, until), only=UsedBy(key_id, user_id))
        return total(span)


def _cursor(event: UsageEvent) -> str:
    return moment_cursor(event.admitted_at, event.request_id)


def _slow_cursor(until: datetime, last: UsageEvent) -> str:
    """Return where a page of the slowest ends; `until` is the end of the time that all its pages look at."""
    return moment_cursor(until, f"{last.latency_ms}.{_cursor(last)}")


def _slow_place(cursor: str) -> tuple[datetime, int, datetime, str]:
    until, rest = moment_place(cursor)
    latency, _, place = rest.partition(".")
    if not (latency.isascii() and latency.isdigit() and len(latency) <= _LATENCY_DIGITS):
        raise BadCursor("This cursor is not from this list.")
    return until, int(latency), *moment_place(place)


def _balance_cursor(last: Transaction, secret: bytes, account_id: str) -> str:
    """Return where a page ends: at this transfer and the balance before it, of the list as it was at its moment. It is
    sealed: the next page counts on from this balance, which is the ledger's and not the client's."""
    moment = last.moment if len(last.moment) <= MOST_MOMENT else ""
    balance_nano = (last.balance_nano or 0) - last.amount_nano  # a list that has this cursor has balances
    seal = seal_of(secret, account_id, f"{last.id}:{balance_nano}:{moment}")
    return f"{last.id}:{balance_nano}:{seal}:{moment}"


def _balance_place(cursor: str, secret: bytes, account_id: str) -> tuple[str, int, str | None]:
    found, balance, seal, moment = (*cursor.split(":", 3), "", "", "")[:4]
    check_seal(secret, account_id, f"{found}:{balance}:{moment}", seal)
    return found, int(balance), moment or None


def _price(stored: str | None) -> PriceRow | None:
    return None if stored is None else from_canonical_json(stored)


def _event_of(debit: Debit) -> UsageEvent:
    columns = msgspec.structs.asdict(debit)
    return UsageEvent(
        usage=usage_of(columns, msgspec.json.decode(debit.counts) if debit.counts else None),
        tags=msgspec.json.decode(debit.tags) if debit.tags else {},
        shares=tuple(decode_shares(debit.by_model)),
        admitted_at=_EPOCH + timedelta(milliseconds=debit.admitted_at_ms),
        **{name: columns[name] for name in _COPIED if name != "admitted_at"},
    )


def event_of_row(row: Row) -> UsageEvent:
    """Return the event that a row of usage_events is."""
    columns = dict(row)
    return UsageEvent(
        usage=usage_of(columns, row["counts"]),
        tags=row["tags"] or {},
        shares=tuple(decode_shares_of(row["by_model"])),
        **{name: columns[name] for name in _COPIED},
    )
