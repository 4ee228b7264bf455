"""Repricing: requests of a period charged by another price, as correcting transfers. No charge is ever rewritten.

A request's debit, its event and the rollups stay as they are. What it would have cost is worked out from its stored
usage as the debit was, exactly; the difference from what it costs by now (the debit and earlier corrections) becomes
one transfer: a `refund` out of the revenue, or an `adjustment` to it. So doing it twice changes nothing, whatever was
broken off. Each account of a batch is one transaction, under the account's lock.

A request whose amount does not follow from its counts (a hold that was charged whole, free usage) is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from billing import audit
from billing.accounts.grants import REVENUE, add_lot, bounded_balance, settle_lots
from billing.database.connection import Connection, Database, queries
from billing.errors import MetergateError
from billing.ledger.catalogue import PriceHistory
from billing.ledger.debits import REPRICE
from billing.ledger.explanations import explain
from billing.ledger.reports import event_of_row
from billing.money import format_usd
from billing.pages import BadCursor
from billing.pricing import ANY_MODEL, from_canonical_json, round_up
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from billing.change_notifier import ChangeNotifier
    from billing.ledger.debits import UsageEvent
    from billing.pricing import PriceRow, PriceTable

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST: Final = "", _EPOCH, ""
_query = queries("billing.accounts")


class PriceNotFound(MetergateError):
    """The ledger has no price row of this id, or it is of another model."""

    kind = "not_found"


@dataclass(frozen=True, slots=True)
class Period:
    """Which requests: served by a provider with a model, as prices name it, admitted from `since` on and before
    `until`; of one account, or of all. `price_id` is the row to charge them by; None: that which the present table has
    in force at each request's admission."""

    provider: str
    model: str
    since: datetime
    until: datetime
    account_id: str | None = None
    price_id: str | None = None


@dataclass(frozen=True, slots=True)
class Repriced:
    """A request with its charge so far, and its charge by another price. `left` says why it is not corrected;
    `transfer_id` is the correction that was made."""

    request_id: str
    account_id: str
    admitted_at: datetime
    price_id_before: str
    price_id: str | None
    charged_nano: int
    would_be_nano: int
    left: str | None = None
    transfer_id: str | None = None

    @property
    def difference_nano(self) -> int:
        """Return the amount still to be charged; below zero it is to be given back."""
        return self.would_be_nano - self.charged_nano


@dataclass(frozen=True, slots=True)
class Batch:
    """Some requests, and where the next batch begins; None after the last."""

    lines: tuple[Repriced, ...]
    next_after: str | None


class Repricing:
    """Compares and corrects charges. `table` gives the prices in force, `stored` has all that the ledger keeps. Methods
    also raise `DatabaseError`."""

    def __init__(
        self, database: Database, effects: ChangeNotifier, new_id: Callable[[], str], table: Callable[[], PriceTable]
    ) -> None:
        """`new_id` makes ULIDs that rise with time."""
        self._database, self._effects, self._new_id, self.table = database, effects, new_id, table
        self.stored = PriceHistory(database)

    async def compare(self, period: Period, limit: int, after: str | None = None) -> Batch:
        """Return what a batch of at most `limit` requests would cost, and change nothing. Raises `PriceNotFound`,
        `BadCursor`."""
        async with self._database.transaction(snapshot=True) as connection:
            events, prices, next_after = await self._read(connection, period, limit, after)
            corrected = await _corrected(connection, [event.request_id for event in events])
        return Batch(self._lines(period, events, prices, corrected), next_after)

    async def correct(
        self,
        period: Period,
        limit: int,
        after: str | None = None,
        *,
        reason: str | None = None,
        actor: audit.Actor = audit.ADMIN,
    ) -> Batch:
        """Change what a batch of at most `limit` requests costs as `compare` says, account by account; return it.
        Raises as `compare`, and `BalanceOutOfBounds`: the accounts before stay corrected then."""
        async with self._database.transaction(snapshot=True) as connection:
            events, prices, next_after = await self._read(connection, period, limit, after)
        lines: list[Repriced] = []
        for account_id, own in groupby(events, lambda event: event.account_id):
            done, changed = await self._correct_account(account_id, tuple(own), period, prices, reason, actor)
            lines += done
            if changed:
                await self._effects.balance_changed(account_id)
        return Batch(tuple(lines), next_after)

    async def _read(
        self, connection: Connection, period: Period, limit: int, after: str | None
    ) -> tuple[list[UsageEvent], dict[str, PriceRow], str | None]:
        """Return a batch of events in the order of accounts, every price row that they or the period name, and where
        the next batch begins."""
        position = _FIRST if after is None else _position(after)
        asked = period.provider, period.model, [{"model": period.model}], period.since, period.until, period.account_id
        rows = await connection.fetch(_query("reprice_events"), *asked, *position, limit + 1)
        events = [event_of_row(row) for row in rows[:limit]]
        ids = {event.price_id for event in events} | {share.price_id for event in events for share in event.shares}
        if period.price_id is not None:
            ids.add(period.price_id)
        stored = await connection.fetch(_query("reprice_prices"), sorted(ids))
        prices = {row["id"]: from_canonical_json(row["said"]) for row in stored}
        if period.price_id is not None and not _names(prices.get(period.price_id), period):
            raise PriceNotFound(f"The ledger has no price row {period.price_id!r} of {period.provider}/{period.model}.")
        return events, prices, _cursor(events[-1]) if len(rows) > limit else None

    def _lines(
        self,
        period: Period,
        events: Iterable[UsageEvent],
        prices: Mapping[str, PriceRow],
        corrected: Mapping[str, _Corrected],
    ) -> tuple[Repriced, ...]:
        return tuple(self._line(period, event, prices, corrected.get(event.request_id, _NEVER)) for event in events)

    def _line(self, period: Period, event: UsageEvent, prices: Mapping[str, PriceRow], before: _Corrected) -> Repriced:
        now_nano = event.charged_nano + before.nano
        named, at_s = period.price_id, event.admitted_at.timestamp()
        price = self.table().find(period.provider, period.model, at_s) if named is None else prices[named]
        left = _why_left(period, event, prices, price)
        would_be_nano = now_nano if left or price is None else _would_be(period, event, prices, price)
        about = event.request_id, event.account_id, event.admitted_at, before.price_id or event.price_id
        return Repriced(*about, None if price is None else price.id, now_nano, would_be_nano, left)

    async def _correct_account(
        self,
        account_id: str,
        events: tuple[UsageEvent, ...],
        period: Period,
        prices: Mapping[str, PriceRow],
        reason: str | None,
        actor: audit.Actor,
    ) -> tuple[list[Repriced], bool]:
        """Correct one account in one transaction; return its lines and whether anything has changed."""
        async with self._database.transaction() as connection:
            account = await connection.fetchrow(_query("accounts_lock"), account_id)
            assert account is not None  # noqa: S101  (its events are there, and accounts are never deleted)
            corrected = await _corrected(connection, [event.request_id for event in events])
            lines = self._lines(period, events, prices, corrected)
            wrong = [replace(each, transfer_id=self._new_id()) for each in lines if each.difference_nano]
            if wrong:
                delta_nano = -sum(each.difference_nano for each in wrong)
                balance_nano = bounded_balance(account["balance_nano"] + delta_nano)
                transfers = [_transfer(each, corrected.get(each.request_id, _NEVER), reason) for each in wrong]
                await settle_lots(connection, account_id)
                await connection.execute(_query("reprice_apply"), account_id, delta_nano, transfers)
                if delta_nano > 0:
                    await add_lot(connection, account_id, self._new_id(), "refund", delta_nano, transfer_id=None)
                before = {"balance_usd": format_usd(account["balance_nano"])}
                after = {"balance_usd": format_usd(balance_nano), **_audited(period, wrong, reason)}
                change = "account.reprice", account_id, before, after
                await audit.record(connection, actor, *change, account_id=account_id)
        made = {each.request_id: each for each in wrong}
        return [made.get(each.request_id, each) for each in lines], bool(wrong)


@dataclass(frozen=True, slots=True)
class _Corrected:
    """How earlier corrections have changed what a request costs, how many they are, and by which price the last was."""

    nano: int = 0
    times: int = 0
    price_id: str | None = None


_NEVER: Final = _Corrected()


async def _corrected(connection: Connection, request_ids: list[str]) -> dict[str, _Corrected]:
    rows = await connection.fetch(_query("reprice_corrected"), request_ids)
    return {row["request_id"]: _Corrected(int(row["nano"]), row["times"], row["price_id"]) for row in rows}


def _names(price: PriceRow | None, period: Period) -> bool:
    """Return whether a row is of the period's model: another one may have no price of what was used, which would then
    be free."""
    if price is None or price.provider != period.provider:
        return False
    return price.model == period.model or (
        price.model.endswith(ANY_MODEL) and period.model.startswith(price.model.removesuffix(ANY_MODEL))
    )


def _why_left(period: Period, event: UsageEvent, prices: Mapping[str, PriceRow], price: PriceRow | None) -> str | None:
    """Return why a request can't be charged by another price; None where it can."""
    if price is None:
        return f"the prices have no row for {period.provider}/{period.model} at its time"
    is_nothing = not (event.cost_nano or event.charged_nano or event.usage.input_tokens or event.usage.output_tokens)
    if is_nothing and (event.outcome == "expired" or event.estimated):
        return "nothing was charged for it"
    if not explain(event, prices.get(event.price_id), prices).adds_up:
        return "its amount was not made from its counts"
    known = {variant.name for variant in price.variants} | set(price.multipliers or {})
    shares = [share.variant for share in event.shares if share.model == period.model]
    for variant in shares if event.shares else [event.multiplier]:
        unknown = set((variant or "").split("+")) - known - {""}
        if unknown:
            return f"the price row has no variant {min(unknown)}"
    return None


def _would_be(period: Period, event: UsageEvent, prices: Mapping[str, PriceRow], price: PriceRow) -> int:
    """Return what the request would have been charged, in nano-USD: of several models, the period's alone by another
    price."""
    if not event.shares:
        return round_up(price.cost_scaled(event.usage, event.multiplier), event.markup_scaled)
    rows = [(price if share.model == period.model else prices[share.price_id], share) for share in event.shares]
    return round_up(sum(row.cost_scaled(share.usage, share.variant) for row, share in rows), event.markup_scaled)


def _transfer(line: Repriced, before: _Corrected, reason: str | None) -> dict[str, Any]:
    """Return a correcting transfer. A price that a request comes back to has another idempotency key then."""
    key = f"{REPRICE}:{line.request_id}:{line.price_id}" + (f":{before.times}" if before.times else "")
    raises = line.difference_nano < 0
    return {
        "id": line.transfer_id,
        "debit_account": REVENUE if raises else line.account_id,
        "credit_account": line.account_id if raises else REVENUE,
        "amount_nano": abs(line.difference_nano),
        "kind": "refund" if raises else "adjustment",
        "idempotency_key": key,
        "request_id": line.request_id,
        "note": reason,
        "metadata": {"price_id_before": line.price_id_before, "price_id": line.price_id},
    }


def _audited(period: Period, wrong: list[Repriced], reason: str | None) -> dict[str, object]:
    return {
        "provider": period.provider,
        "model": period.model,
        "since": rfc3339(period.since),
        "until": rfc3339(period.until),
        "price_ids": sorted({str(each.price_id) for each in wrong}),
        "requests": len(wrong),
        "charged_more_usd": format_usd(sum(each.difference_nano for each in wrong)),
        "reason": reason,
    }


def _cursor(event: UsageEvent) -> str:
    return f"{(event.admitted_at - _EPOCH) // _MICROSECOND}.{event.request_id}.{event.account_id}"


def _position(cursor: str) -> tuple[str, datetime, str]:
    micros, _, rest = cursor.partition(".")
    request_id, _, account_id = rest.partition(".")
    try:
        return account_id, _EPOCH + int(micros) * _MICROSECOND, request_id
    except (ValueError, OverflowError) as error:
        raise BadCursor("This cursor is not from this call.") from error
