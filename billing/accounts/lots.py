"""Lots: each raise of a balance, and what is left of it.

This file owns what of an account's credit debits have drawn, and the rule that all its lots together have what its
balance has above zero; what is below zero is debt, which the next raise pays first.

Debits touch no lot: between two changes of an account's lots its balance is only debited, so that what the lots have
above the balance is what debits have taken since. It is drawn from them whenever they are read (the view `lots_now`,
which has their order) and stored before they change (`settle`): lower priorities first, then what expires soonest,
promotional credit before paid, the oldest first. This is the order of
https://docs.stripe.com/billing/subscriptions/usage-based/billing-credits.

Every function that is given a connection works in the caller's transaction, which has locked the account.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from billing.database.connection import Connection, Database, from_row, queries
from billing.errors import MetergateError
from billing.money import DEFAULT_PRIORITY, MOST_PRIORITY
from billing.pages import BEFORE_ALL, Page, page_of

if TYPE_CHECKING:
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


async def settle(connection: Connection, account_id: str) -> None:
    """Store what debits have drawn from the account's lots so far. It is done before its lots or its balance change
    otherwise."""
    await connection.execute(_query("lots_settle"), account_id)


async def add(
    connection: Connection,
    account_id: str,
    ulid: str,
    kind: LotKind,
    amount_nano: int,
    terms: Terms = PAID,
    *,
    transfer_id: str | None,
) -> None:
    """Add the lot of a raise that the balance has already, after `settle`: it pays debt first."""
    values = (kind, transfer_id, amount_nano, terms.priority, terms.promotional, terms.expires_at)
    await connection.execute(_query("lots_add"), lot_id(ulid), account_id, *values)


async def take(
    connection: Connection, account_id: str, lot_or_transfer: str, amount_nano: int, *, expired: bool = False
) -> None:
    """Take from one lot, named by its id or its transfer's, what the balance has lost already, after `settle`: what it
    does not have is drawn from the others, and is debt where they have nothing."""
    await connection.execute(_query("lots_take"), account_id, lot_or_transfer, amount_nano, expired)


async def find(connection: Connection, account_id: str, lot_or_transfer: str) -> Lot:
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
