"""Grants, refunds, adjustments: credit given or taken, in the one transaction of any change of a balance by people; and
lots: each raise of a balance, with what is left of it.

This file owns the transaction of such a change: lock the account, look for the same again, check the bound, then move
the balance, write the transfer, change the lots and number the correction by which Redis learns of it. Postgres goes
first; Redis is told after the commit and, should that fail, by the relay.

It owns what of an account's credit debits have drawn, too, and the rule that all its lots together have what its
balance has above zero; what is below zero is debt, which the next raise pays first. Debits touch no lot: between two
changes of an account's lots its balance is only debited, so that what the lots have above the balance is what debits
have taken since. It is drawn from them whenever they are read (the view `lots_now`, which has their order) and stored
before they change (`settle_lots`): lower priorities first, then what expires soonest, promotional credit before paid,
the oldest first. This is the order of https://docs.stripe.com/billing/subscriptions/usage-based/billing-credits.
Functions of lots that are given a connection work in the caller's transaction, which has locked the account.

LotNotFound               the account has no such lot
GrantError
+-- IdempotencyConflict   the idempotency key was used for something else
+-- BalanceOutOfBounds    the balance would leave its bound; nothing has changed
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, cast

import msgspec

from billing import audit
from billing.database.connection import Connection, Database, from_row, queries
from billing.errors import AccountNotFound, MetergateError
from billing.money import DEFAULT_PRIORITY, MAX_NANO, MOST_PRIORITY, MoneyError, check_bound, format_usd
from billing.pages import BEFORE_ALL, Page, page_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.change_notifier import ChangeNotifier
    from billing.database.connection import Row

ID_PREFIX: Final = "lot_"

LotKind = Literal["purchase", "grant", "refund", "adjustment", "dispute", "subscription"]

_query = queries("billing.accounts")


class LotNotFound(MetergateError):
    """The account has no such lot."""

    kind = "not_found"


@dataclass(frozen=True, slots=True)
class Terms:
    """How the credit of a raise is drawn: a lower `priority` first; `promotional` is what nobody has paid for. It
    expires at `expires_at`; None: never."""

    priority: int = DEFAULT_PRIORITY
    promotional: bool = False
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= MOST_PRIORITY:
            raise ValueError(f"a priority is 0 to {MOST_PRIORITY}, of which 0 is drawn first")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("the time at which credit expires has a time zone")


# The terms of credit that was paid for, or given back.
PAID: Final = Terms()
# The terms of credit that nobody has paid for.
PROMOTIONAL: Final = Terms(promotional=True)


@dataclass(frozen=True, slots=True)
class Lot:
    """A raise of a balance, and what is left of it now. `transfer_id` is None where there is no single transfer: what
    was there before lots were kept, and what a repricing has given back; `expired_nano` is what expired of it."""

    id: str
    account_id: str
    kind: LotKind
    transfer_id: str | None
    amount_nano: int
    left_nano: int
    expired_nano: int
    terms: Terms
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NextExpiry:
    """What of an account expires next, and when."""

    at: datetime
    left_nano: int


def lot_id(ulid: str) -> str:
    """Return the id of the lot that a transfer, or anything else with a ULID, has made."""
    return ID_PREFIX + ulid


async def settle_lots(connection: Connection, account_id: str) -> None:
    """Store what debits have drawn from the account's lots so far. It is done before its lots or its balance change
    otherwise."""
    await connection.execute(_query("lots_settle"), account_id)


async def add_lot(
    connection: Connection,
    account_id: str,
    ulid: str,
    kind: LotKind,
    amount_nano: int,
    terms: Terms = PAID,
    *,
    transfer_id: str | None,
) -> None:
    """Add the lot of a raise that the balance has already, after `settle_lots`: it pays debt first."""
    values = (kind, transfer_id, amount_nano, terms.priority, terms.promotional, terms.expires_at)
    await connection.execute(_query("lots_add"), lot_id(ulid), account_id, *values)


async def take_from_lot(
    connection: Connection, account_id: str, lot_or_transfer: str, amount_nano: int, *, expired: bool = False
) -> None:
    """Take from one lot, named by its id or its transfer's, what the balance has lost, after `settle_lots`: what it
    does not have is drawn from the others, and is debt where they have nothing."""
    await connection.execute(_query("lots_take"), account_id, lot_or_transfer, amount_nano, expired)


async def find_lot(connection: Connection, account_id: str, lot_or_transfer: str) -> Lot:
    """Return a lot of an account by its id or by that of its transfer, as it is now. Raises `LotNotFound`."""
    row = await connection.fetchrow(_query("lots_get"), account_id, lot_or_transfer)
    if row is None:
        raise LotNotFound(f"The account {account_id} has no lot {lot_or_transfer!r}.")
    return _lot(row)


class Lots:
    """Reads lots. Methods raise `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, account_id: str, limit: int, after: str | None = None, *, open_only: bool = False
    ) -> Page[Lot]:
        """Return an account's lots, newest first; `after` is the id that ended the page before, `open_only` leaves out
        those of which nothing is left."""
        given = (account_id, after or BEFORE_ALL, limit + 1, open_only)
        rows = await self._database.rows(_query("lots_page"), *given)
        return page_of([_lot(row) for row in rows], limit, lambda lot: lot.id)

    async def next_expiry(self, account_id: str) -> NextExpiry | None:
        """Return what of an account expires next; None where nothing does."""
        row = await self._database.row(_query("lots_next_expiry"), account_id)
        return None if row is None else NextExpiry(row["expires_at"], row["left_nano"])

    async def included_left_nano(self, account_id: str) -> int:
        """Return what is left of the credit that came with an account's plan, in nano-USD."""
        return int(await self._database.value(_query("lots_included"), account_id))


def _lot(row: Row) -> Lot:
    terms = Terms(row["priority"], row["promotional"], row["expires_at"])
    return from_row(Lot, row, left_nano=row["left_now"], terms=terms)


# The system account that grants come from.
PROMOTIONS: Final = "sys:promotions"
# The system account that payments come in at, whatever the provider, and that bought credit comes from.
PURCHASES: Final = "sys:stripe"
# The system account that charges go to, and that a refund takes from.
REVENUE: Final = "sys:revenue"

# The system account that adjustments go to and come from.
WRITE_OFF: Final = "sys:write_off"

Kind = Literal["purchase", "grant", "refund", "adjustment", "expiry", "dispute", "subscription"]


class GrantError(MetergateError):
    """The balance was not changed. The message is fit for a reader."""


class IdempotencyConflict(GrantError):
    """The idempotency key was used before, with another amount, note or kind."""

    kind, field = "conflict", "idempotency_key"


class BalanceOutOfBounds(GrantError):
    """The balance would leave ±`money.MAX_NANO`."""

    kind, field = "invalid", "amount_usd"


@dataclass(frozen=True, slots=True)
class GrantResult:
    """The result of a grant, in nano-USD; `replayed` says that an earlier call made it."""

    transfer_id: str
    amount_nano: int
    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of one account's balance: `delta_nano` above zero takes from `source`, and makes a lot of these `terms`;
    below zero it gives to `source`, and takes from the lot `of_lot`, or that of the purchase, first."""

    account_id: str
    delta_nano: int
    source: str
    kind: Kind
    idempotency_scope: str
    idempotency_key: str
    note: str | None
    purchase_id: str | None = None
    """The transfer of the purchase that this takes back, or gives back; None: it is about no purchase."""
    terms: Terms = PAID
    of_lot: str | None = None

    def __post_init__(self) -> None:
        if not self.delta_nano:
            raise ValueError("an amount of zero changes nothing")
        check_bound(self.delta_nano)

    def digest(self) -> bytes:
        """Return the SHA-256 of all that makes two requests with one idempotency key the same."""
        fields: list[object] = [self.account_id, self.delta_nano, self.source, self.kind, self.note]
        if self.kind == "grant" and self.terms != PROMOTIONAL:  # other kinds take terms from the time, not from a body
            fields += [self.terms.priority, self.terms.promotional, self.terms.expires_at]
        return hashlib.sha256(msgspec.json.encode(fields)).digest()


class Grants:
    """Gives credit to accounts. Methods also raise `database.connection.DatabaseError`."""

    def __init__(self, database: Database, effects: ChangeNotifier, new_id: Callable[[], str]) -> None:
        """`new_id` makes ULIDs that rise with time."""
        self._database, self._effects, self._new_id = database, effects, new_id

    async def grant(
        self,
        account_id: str,
        amount_nano: int,
        idempotency_key: str,
        note: str | None = None,
        *,
        scope: str = "admin",
        terms: Terms = PROMOTIONAL,
        actor: audit.Actor = audit.ADMIN,
    ) -> GrantResult:
        """Raise a balance by `amount_nano` (above zero), once per `idempotency_key` of a scope and account; the lot of
        it has these `terms`.

        The same again gets the first answer. Raises `accounts.AccountNotFound`, `IdempotencyConflict`,
        `BalanceOutOfBounds`, and `ValueError` for an amount that is not above zero. When `DatabaseUnavailable` is
        raised it is unknown whether the grant was made: repeat it with the same key.
        """
        named = f"{scope}:{account_id}", idempotency_key, note
        return await self._raise(Entry(account_id, amount_nano, PROMOTIONS, "grant", *named, terms=terms), actor)

    async def refund(
        self,
        account_id: str,
        amount_nano: int,
        idempotency_key: str,
        note: str | None = None,
        *,
        actor: audit.Actor = audit.ADMIN,
    ) -> GrantResult:
        """Give `amount_nano` (above zero) of what an account was charged back to its balance: as `grant`, from the
        revenue and of the kind `refund`. The idempotency keys of both are the account's own and so must differ."""
        named = f"admin:{account_id}", idempotency_key, note
        return await self._raise(Entry(account_id, amount_nano, REVENUE, "refund", *named), actor)

    async def adjust(
        self,
        account_id: str,
        delta_nano: int,
        idempotency_key: str,
        reason: str,
        *,
        source: str = WRITE_OFF,
        actor: audit.Actor = audit.ADMIN,
    ) -> GrantResult:
        """Change a balance by `delta_nano`, above or below zero, once per `idempotency_key` of the account, which must
        not be one of a grant's: as `grant`, of the kind `adjustment`. The balance may fall below zero, within its bound
        alone."""
        entry = Entry(account_id, delta_nano, source, "adjustment", f"admin:{account_id}", idempotency_key, reason)
        return await self._apply(entry, actor)

    async def _raise(self, entry: Entry, actor: audit.Actor) -> GrantResult:
        if entry.delta_nano < 0:
            raise ValueError("a grant's amount must be above zero")
        return await self._apply(entry, actor)

    async def _apply(self, entry: Entry, actor: audit.Actor) -> GrantResult:
        async with self._database.transaction() as connection:
            result = await self.record(connection, entry, actor)
        if not result.replayed:
            await self._effects.balance_changed(entry.account_id)
        return result

    async def record(self, connection: Connection, entry: Entry, actor: audit.Actor) -> GrantResult:
        """Record a change in the caller's transaction, once per idempotency key of its scope; unless the result is
        `replayed`, the caller tells `ChangeNotifier.balance_changed` of it after the commit. Raises as `grant`."""
        # The account's lock also orders those who come with the same idempotency key, which is the account's own.
        account = await connection.fetchrow(_query("accounts_lock"), entry.account_id)
        if account is None:
            raise AccountNotFound(f"There is no account {entry.account_id!r}.")
        first = await _first_answer(connection, entry)
        if first is not None:
            return first
        balance_nano = bounded_balance(account["balance_nano"] + entry.delta_nano)
        result = GrantResult(self._new_id(), entry.delta_nano, balance_nano, replayed=False)
        await self._move(connection, entry, result)
        before = {"balance_usd": format_usd(account["balance_nano"])}
        after = {"balance_usd": format_usd(balance_nano), "transfer_id": result.transfer_id, "note": entry.note}
        await audit.record(
            connection, actor, f"account.{entry.kind}", entry.account_id, before, after, account_id=entry.account_id
        )
        return result

    async def _move(self, connection: Connection, entry: Entry, result: GrantResult) -> None:
        """Write the change itself: the lots so far, the balance and its transfer, the lot that it makes or takes."""
        raises = entry.delta_nano > 0
        about = {} if entry.purchase_id is None else {"purchase_id": entry.purchase_id}
        await settle_lots(connection, entry.account_id)
        await connection.execute(
            _query("grants_apply"),
            entry.account_id,
            entry.delta_nano,
            result.transfer_id,
            entry.source if raises else entry.account_id,
            entry.account_id if raises else entry.source,
            entry.kind,
            entry.idempotency_scope,
            entry.idempotency_key,
            entry.digest(),
            entry.note,
            {"balance_nano": result.balance_nano, **about},
        )
        transfer_id, amount_nano = result.transfer_id, abs(entry.delta_nano)
        if raises:
            made = transfer_id, cast("LotKind", entry.kind), amount_nano, entry.terms
            await add_lot(connection, entry.account_id, *made, transfer_id=transfer_id)
        elif (first := entry.of_lot or entry.purchase_id) is not None:
            await take_from_lot(connection, entry.account_id, first, amount_nano, expired=entry.kind == "expiry")


def bounded_balance(balance_nano: int) -> int:
    """Return a balance that an account may have. Raises `BalanceOutOfBounds`."""
    try:
        return check_bound(balance_nano)
    except MoneyError as error:
        raise BalanceOutOfBounds(
            f"The account's balance would leave its bound of {format_usd(MAX_NANO)} USD; it stays as it is."
        ) from error


async def _first_answer(connection: Connection, entry: Entry) -> GrantResult | None:
    row = await connection.fetchrow(_query("grants_find"), entry.idempotency_scope, entry.idempotency_key)
    if row is None:
        return None
    if row["request_digest"] != entry.digest():
        raise IdempotencyConflict(
            "This idempotency key was used before, with another amount, note or kind: take a new one."
        )
    return GrantResult(row["id"], entry.delta_nano, row["metadata"]["balance_nano"], replayed=True)
