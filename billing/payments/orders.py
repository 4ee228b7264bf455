"""Orders: what an account asks to buy, as a row before anything is sent to a payment provider.

This file owns that an idempotency key makes one order, that its amount is what is credited, and that what could not be
credited waits for an operator as a row of its own.

OrderError
+-- OrderNotFound   no order, or nothing that waits, has this id
+-- OrderConflict   the idempotency key was used for something else, or the order is past that
+-- OrderRefused    what is asked for can't be bought
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.money import NANO_PER_CENT
from billing.pages import BEFORE_ALL, Page, page_of
from billing.payments.decisions import Standing
from billing.payments.objects import Invoice, ObjectRef, OrderKind, OrderStatus
from billing.payments.port import ReturnUrls
from billing.work import Periodic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.payments.port import HostedPage

ID_PREFIX: Final = "ord_"
PARKED_PREFIX: Final = "prk_"

# Of the idempotency keys of transfers: the money's own ids, which are no account's.
SCOPE: Final = "payments"
WATCH_EVERY_S: Final = 30.0

logger = logging.getLogger(__name__)
_query = queries("billing.payments")
_LOCK_ACCOUNT: Final = queries("billing.accounts")("accounts_lock")


class OrderError(MetergateError):
    """What was asked of an order can't be done. The message is fit for a reader."""


class OrderNotFound(OrderError):
    """No order, or nothing that waits for an operator, has this id."""

    kind = "not_found"


class OrderConflict(OrderError):
    """The idempotency key was used for something else, or the order is past what is asked."""

    kind = "conflict"


class OrderRefused(OrderError):
    """What is asked for can't be bought. `field` names what of the request is wrong."""

    kind = "invalid"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Order:
    """A row of orders. `url` is the page where it is paid, until `expires_at`; `reason` why it failed or waits."""

    id: str
    account_id: str
    kind: OrderKind
    amount_cents: int
    plan: str | None
    status: OrderStatus
    provider: str
    customer_id: str | None
    checkout_id: str | None
    payment_id: str | None
    subscription_id: str | None
    url: str | None
    urls: ReturnUrls | None
    save_method: bool
    expires_at: datetime | None
    transfer_id: str | None
    credited_at: datetime | None
    refunded_cents: int
    disputed_cents: int
    reason: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def amount_nano(self) -> int:
        """Return what is credited when it is paid."""
        return self.amount_cents * NANO_PER_CENT

    def standing(self, *, parked: bool = False) -> Standing:
        """Return what decisions need to know of it."""
        credited = self.credited_at is not None
        return Standing(self.id, self.kind, self.amount_cents, self.status, self.payment_id, credited, parked)


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What is asked for: an amount of credit, or a plan at its price of a month."""

    account_id: str
    kind: OrderKind
    amount_cents: int
    idempotency_key: str
    plan: str | None = None
    urls: ReturnUrls | None = None
    save_method: bool = False

    def digest(self) -> bytes:
        """Return the SHA-256 of what makes two requests with one idempotency key the same."""
        fields = [self.kind, self.amount_cents, self.plan, self.urls, self.save_method]
        return hashlib.sha256(msgspec.json.encode(fields)).digest()


@dataclass(frozen=True, slots=True)
class Parked:
    """Money that came in and was not credited: it waits (`parked`), or an operator has decided."""

    id: str
    provider: str
    kind: str
    object_id: str
    account_id: str | None
    order_id: str | None
    amount_cents: int
    currency: str
    reason: str
    state: str
    transfer_id: str | None
    note: str | None
    created_at: datetime
    ended_at: datetime | None


class Orders:
    """Makes and reads orders of one provider. Methods raise `OrderError` and `database.connection.DatabaseError`."""

    def __init__(self, database: Database, provider: str, new_id: Callable[[], str]) -> None:
        """`provider` is the name of the payment provider; `new_id` makes ULIDs that rise with time."""
        self._database, self.provider, self._new_id = database, provider, new_id
        self.waiting, self.undecided = 0, 0

    async def look(self) -> None:
        """Count what waits for an operator (`waiting`), and automatic charges that are neither paid nor failed after a
        day (`undecided`)."""
        row = await self._database.row(_query("orders_standing"))
        if row is not None:
            self.waiting, self.undecided = row["parked"], row["undecided"]

    def work(self) -> Periodic:
        """Return what counts them again and again."""
        return Periodic(name="payments_parked", every_s=WATCH_EVERY_S, round=self.look)

    async def create(self, asked: NewOrder) -> Order:
        """Create an order, once per idempotency key of the account: the same again returns the first one, as it is now.
        Raises `OrderConflict`."""
        urls = None if asked.urls is None else msgspec.to_builtins(asked.urls)
        row = await self._database.row(
            _query("orders_create"),
            ID_PREFIX + self._new_id(),
            asked.account_id,
            asked.kind,
            asked.amount_cents,
            asked.plan,
            self.provider,
            urls,
            asked.save_method,
            asked.idempotency_key,
            asked.digest(),
        )
        if row is None:
            row = await self._database.row(_query("orders_of_key"), asked.account_id, asked.idempotency_key)
            if row is None or row["request_digest"] != asked.digest():
                raise OrderConflict("This idempotency key was used before, for another order: take a new one.")
        return order_of(row)

    async def of_key(self, account_id: str, idempotency_key: str) -> Order | None:
        """Return the account's order of an idempotency key; None: there is none."""
        row = await self._database.row(_query("orders_of_key"), account_id, idempotency_key)
        return None if row is None else order_of(row)

    async def get(self, order_id: str, account_id: str | None = None) -> Order:
        """Return an order, of this account where one is given. Raises `OrderNotFound`."""
        row = await self._database.row(_query("orders_get"), order_id, account_id)
        if row is None:
            raise OrderNotFound(f"There is no order {order_id!r}.")
        return order_of(row)

    async def page(
        self, limit: int, after: str | None = None, *, account_id: str | None = None, status: str | None = None
    ) -> Page[Order]:
        """Return orders, newest first; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("orders_page"), after or BEFORE_ALL, account_id, status, limit + 1)
        return page_of([order_of(row) for row in rows], limit, lambda order: order.id)

    async def opened(self, order_id: str, customer_id: str, page: HostedPage) -> Order:
        """Note the page at which an order is paid. One that was noted before stays."""
        given = (order_id, customer_id, page.id, page.url, page.expires_at)
        return found_order(await self._database.row(_query("orders_opened"), *given), order_id)

    async def failed(self, order_id: str, reason: str) -> None:
        """Note that nothing will come of an open order."""
        await self._database.execute(_query("orders_failed"), order_id, reason)

    async def overdue(self, now: datetime, limit: int) -> list[str]:
        """Return the checkouts of open orders whose page has expired, longest ago first."""
        rows = await self._database.rows(_query("orders_overdue"), now, limit)
        return [row["checkout_id"] for row in rows if row["checkout_id"] is not None]

    async def replaced(self, account_id: str) -> list[ObjectRef]:
        """Return the checkouts of an account's orders of plans that may be paid still, but for the newest order's."""
        rows = await self._database.rows(_query("orders_replaced"), account_id, self.provider)
        return [ObjectRef("checkout", row["checkout_id"]) for row in rows]

    async def abandoned(self, account_id: str, kept: int, limit: int) -> list[ObjectRef]:
        """Return the checkouts of an account's oldest orders that may be paid still, but for the newest `kept`. Orders
        without a page expire."""
        rows = await self._database.rows(_query("orders_abandoned"), account_id, self.provider, kept, limit)
        for row in rows:
            if row["checkout_id"] is None:
                await self._database.execute(_query("orders_unopened"), row["id"])
        return [ObjectRef("checkout", row["checkout_id"]) for row in rows if row["checkout_id"] is not None]

    async def parked(self, limit: int, after: str | None = None, *, state: str = "parked") -> Page[Parked]:
        """Return what waits for an operator, or was decided, newest first."""
        rows = await self._database.rows(_query("parked_page"), after or BEFORE_ALL, state, limit + 1)
        return page_of([parked_of(row) for row in rows], limit, lambda parked: parked.id)

    async def invoices(self, account_id: str, limit: int, after: str | None = None) -> Page[Invoice]:
        """Return an account's invoices as they were last seen, newest first; `after` is the id that ended the page
        before."""
        given = (self.provider, "invoice", account_id, after, limit + 1)
        rows = await self._database.rows(_query("objects_page"), *given)
        found = [msgspec.convert(row["state"], Invoice, strict=False) for row in rows]
        return page_of(found, limit, lambda invoice: invoice.id)

    async def parked_count(self) -> int:
        """Return how much waits for an operator."""
        await self.look()
        return self.waiting


async def credited(
    connection: Connection,
    order_id: str,
    *,
    transfer_id: str | None = None,
    payment_id: str | None = None,
    subscription_id: str | None = None,
) -> Order:
    """Note in the caller's transaction that an order's amount is on the balance, or that its plan is in force."""
    values = (order_id, transfer_id, payment_id, subscription_id)
    return found_order(await connection.fetchrow(_query("orders_credited"), *values), order_id)


async def left_of(connection: Connection, account_id: str, transfers: Sequence[str]) -> int:
    """Return what is left of what transfers have put on an account's balance, in nano-USD: of their lots, and of what
    refunds and disputes gave back. The account stays locked, so that no debit draws on it meanwhile."""
    await connection.fetchrow(_LOCK_ACCOUNT, account_id)
    return int(await connection.fetchval(_query("purchase_left"), account_id, list(transfers)))


def order_of(row: Row) -> Order:
    """Return an order from its row."""
    fields: dict[str, Any] = {name: row[name] for name in Order.__slots__}
    urls = fields["urls"]
    return Order(**fields | {"urls": None if urls is None else ReturnUrls(**urls)})


def parked_of(row: Row) -> Parked:
    """Return a parked payment from its row."""
    return Parked(**dict(row))


def found_order(row: Row | None, order_id: str) -> Order:
    """Return an order from its row. Raises `OrderNotFound` where there is none."""
    if row is None:
        raise OrderNotFound(f"There is no order {order_id!r}.")
    return order_of(row)
