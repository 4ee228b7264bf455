"""Orders: what an account asks to buy, as a row before anything is sent to a payment provider, and what operators do
with orders: refund them, and decide about money that could not be credited.

This module guarantees that an idempotency key makes one order, that its amount is what is credited, and that what could
not be credited waits for an operator as a dead letter: a row of its own.

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
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing import audit
from billing.accounts.grants import PURCHASES, Entry
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.money import NANO_PER_CENT, format_cents
from billing.pages import BEFORE_ALL, Page, page_of
from billing.payments.apply import call_once
from billing.payments.port import (
    CURRENCY,
    Invoice,
    ObjectRef,
    OrderKind,
    OrderStatus,
    PaymentRefused,
    Refund,
    ReturnUrls,
    money_key,
)
from billing.work import Periodic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from billing.accounts.grants import Grants
    from billing.change_notifier import ChangeNotifier
    from billing.payments.port import HostedPage, PaymentProvider

logger = logging.getLogger(__name__)
_query = queries("billing.payments")

ID_PREFIX: Final = "ord_"
DEAD_LETTER_PREFIX: Final = "prk_"

# Of the idempotency keys of transfers: the money's own ids, which are no account's.
SCOPE: Final = "payments"
WATCH_EVERY_S: Final = 30.0

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
class DeadLetter:
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


@dataclass
class Orders:
    """Makes and reads orders of one provider. Methods raise `OrderError` and `database.connection.DatabaseError`.
    `provider` is the name of the payment provider; `new_id` makes ULIDs that rise with time."""

    database: Database
    provider: str
    new_id: Callable[[], str]
    waiting: int = 0
    undecided: int = 0

    async def refresh_stats(self) -> None:
        """Count what waits for an operator (`waiting`), and automatic charges that are neither paid nor failed after a
        day (`undecided`)."""
        row = await self.database.row(_query("orders_standing"))
        if row is not None:
            self.waiting, self.undecided = row["parked"], row["undecided"]

    def work(self) -> Periodic:
        """Return what counts them again and again."""
        return Periodic(name="payments_parked", every_s=WATCH_EVERY_S, round=self.refresh_stats)

    async def create(self, asked: NewOrder) -> Order:
        """Create an order, once per idempotency key of the account: the same again returns the first one, as it is now.
        Raises `OrderConflict`."""
        urls = None if asked.urls is None else msgspec.to_builtins(asked.urls)
        row = await self.database.row(
            _query("orders_create"),
            ID_PREFIX + self.new_id(),
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
            row = await self.database.row(_query("orders_of_key"), asked.account_id, asked.idempotency_key)
            if row is None or row["request_digest"] != asked.digest():
                raise OrderConflict("This idempotency key was used before, for another order: take a new one.")
        return order_of(row)

    async def of_key(self, account_id: str, idempotency_key: str) -> Order | None:
        """Return the account's order of an idempotency key; None: there is none."""
        row = await self.database.row(_query("orders_of_key"), account_id, idempotency_key)
        return None if row is None else order_of(row)

    async def get(self, order_id: str, account_id: str | None = None) -> Order:
        """Return an order, of this account where one is given. Raises `OrderNotFound`."""
        row = await self.database.row(_query("orders_get"), order_id, account_id)
        if row is None:
            raise OrderNotFound(f"There is no order {order_id!r}.")
        return order_of(row)

    async def page(
        self, limit: int, after: str | None = None, *, account_id: str | None = None, status: str | None = None
    ) -> Page[Order]:
        """Return orders, newest first; `after` is the id that ended the page before."""
        rows = await self.database.rows(_query("orders_page"), after or BEFORE_ALL, account_id, status, limit + 1)
        return page_of([order_of(row) for row in rows], limit, lambda order: order.id)

    async def opened(self, order_id: str, customer_id: str, page: HostedPage) -> Order:
        """Note the page at which an order is paid. One that was noted before stays."""
        given = (order_id, customer_id, page.id, page.url, page.expires_at)
        return found_order(await self.database.row(_query("orders_opened"), *given), order_id)

    async def failed(self, order_id: str, reason: str) -> None:
        """Note that nothing will come of an open order."""
        await self.database.execute(_query("orders_failed"), order_id, reason)

    async def replaced(self, account_id: str) -> list[ObjectRef]:
        """Return the checkouts of an account's orders of plans that may be paid still, but for the newest order's."""
        rows = await self.database.rows(_query("orders_replaced"), account_id, self.provider)
        return [ObjectRef("checkout", row["checkout_id"]) for row in rows]

    async def abandoned(self, account_id: str, kept: int, limit: int) -> list[ObjectRef]:
        """Return the checkouts of an account's oldest orders that may be paid still, but for the newest `kept`. Orders
        without a page expire."""
        rows = await self.database.rows(_query("orders_abandoned"), account_id, self.provider, kept, limit)
        for row in rows:
            if row["checkout_id"] is None:
                await self.database.execute(_query("orders_unopened"), row["id"])
        return [ObjectRef("checkout", row["checkout_id"]) for row in rows if row["checkout_id"] is not None]

    async def dead_letters(self, limit: int, after: str | None = None, *, state: str = "parked") -> Page[DeadLetter]:
        """Return what waits for an operator, or was decided, newest first."""
        rows = await self.database.rows(_query("parked_page"), after or BEFORE_ALL, state, limit + 1)
        return page_of([dead_letter_of(row) for row in rows], limit, lambda parked: parked.id)

    async def invoices(self, account_id: str, limit: int, after: str | None = None) -> Page[Invoice]:
        """Return an account's invoices as they were last seen, newest first; `after` is the id that ended the page
        before."""
        given = (self.provider, "invoice", account_id, after, limit + 1)
        rows = await self.database.rows(_query("objects_page"), *given)
        found = [msgspec.convert(row["state"], Invoice, strict=False) for row in rows]
        return page_of(found, limit, lambda invoice: invoice.id)


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


def dead_letter_of(row: Row) -> DeadLetter:
    """Return a parked payment from its row."""
    return DeadLetter(**dict(row))


def found_order(row: Row | None, order_id: str) -> Order:
    """Return an order from its row. Raises `OrderNotFound` where there is none."""
    if row is None:
        raise OrderNotFound(f"There is no order {order_id!r}.")
    return order_of(row)


# Idempotency keys that one refusal names.
MOST_NAMED: Final = 5


@dataclass
class PaymentAdmin:
    """What operators do with orders. Methods raise `OrderError`, `GrantError`, `port.PaymentError` and
    `DatabaseError`."""

    database: Database
    provider: PaymentProvider
    orders: Orders
    grants: Grants
    effects: ChangeNotifier
    refresh: Callable[[ObjectRef], Awaitable[object]]

    async def refund(
        self, order_id: str, amount_cents: int | None, key: str, *, actor: audit.Actor = audit.ADMIN
    ) -> Refund:
        """Give back a part of a credited order, at most what is left of it; None: all that is left. Once per key."""
        order = await self.orders.get(order_id)
        if order.payment_id is None or order.credited_at is None:
            raise OrderConflict("The order was not credited: there is nothing to give back.")
        async with self.database.transaction() as connection:
            cents, made_before = await self._asked(connection, order, amount_cents, key, actor)
        if made_before is not None:  # the provider forgets its own keys: asked again, it would refund again
            found = await self.provider.fetch(ObjectRef("refund", made_before))
            if isinstance(found, Refund):
                return found
            raise OrderConflict("This refund was made before, and the provider does not know it any more.")
        refund = await self._made(order.id, order.payment_id, cents, key)
        await self.refresh(ObjectRef("payment", order.payment_id))
        # Only now: until its amount is taken from the balance, it counts as asked for against other keys.
        await self.database.execute(_query("refunds_made"), order.id, key, refund.id)
        return refund

    async def _made(self, order_id: str, payment_id: str, cents: int, key: str) -> Refund:
        """Return the refund of a key, made now unless it was before."""
        name = f"{order_id}:refund:{key}"
        try:
            return await call_once(self.database, name, partial(self.provider.refund, payment_id, cents, name))
        except PaymentRefused as refused:
            if refused.kind != "unavailable":  # nothing will come of it: its amount is free for another key
                await self.database.execute(_query("refunds_refused"), order_id, key)
            raise

    async def _asked(
        self, connection: Connection, order: Order, amount_cents: int | None, key: str, actor: audit.Actor
    ) -> tuple[int, str | None]:
        """Write what is to be given back, before the provider is asked; return it in cents, and the refund where it
        was made already. The same key again returns what was written first."""
        await connection.execute(_query("orders_lock"), order.id)
        rows = await connection.fetch(_query("refunds_asked"), order.id)
        first = next((row for row in rows if row["key"] == key), None)
        if first is not None:
            if amount_cents not in (None, first["amount_cents"]):
                raise OrderConflict("This idempotency key was used before, for another amount: take a new one.")
            return int(first["amount_cents"]), first["refund_id"]
        unknown = [row for row in rows if row["refund_id"] is None]
        left = await self._refundable(connection, order) - sum(row["amount_cents"] for row in unknown)
        cents = left if amount_cents is None else amount_cents
        if not 0 < cents <= left:
            shown = format_cents(max(0, left))
            message = f"Of this order {shown} USD are left: no more can be given back."
            if unknown:
                keys = ", ".join(row["key"] for row in unknown[:MOST_NAMED])
                message += f" Of earlier refunds it is not known whether they were made: ask again by the keys {keys}."
            raise OrderRefused(message, "amount_usd")
        await connection.execute(_query("refunds_ask"), order.id, key, cents)
        after = {"amount_usd": format_cents(cents)}
        await audit.record(connection, actor, "order.refund", order.id, None, after, account_id=order.account_id)
        return cents, None

    async def _refundable(self, connection: Connection, order: Order) -> int:
        """Return the whole cents that are left of an order; of a plan, what was not given back of its price."""
        if order.kind == "plan":
            return order.amount_cents - order.refunded_cents
        given = () if order.transfer_id is None else (order.transfer_id,)
        return await left_of(connection, order.account_id, given) // NANO_PER_CENT

    async def credit(
        self, parked_id: str, account_id: str | None, note: str, *, actor: audit.Actor = audit.ADMIN
    ) -> DeadLetter:
        """Give what waits to its account, or to this one where it has none, by the amount that came."""
        async with self.database.transaction() as connection:
            parked = await self._waiting(connection, parked_id)
            whose = parked.account_id or account_id
            if whose is None:
                raise OrderRefused("It is not known whose money this is: name an account_id.", "account_id")
            if account_id not in (None, whose):
                raise OrderRefused(f"This money is of the account {whose}.", "account_id")
            if parked.currency != CURRENCY or not parked.amount_cents:
                raise OrderRefused(f"It came in {parked.currency}: dismiss it, and grant what it is worth.")
            key = money_key(parked.provider, "payment", parked.object_id)
            nano = parked.amount_cents * NANO_PER_CENT
            order = None if parked.order_id is None else await self.orders.get(parked.order_id)
            entry = Entry(whose, nano, PURCHASES, "purchase", SCOPE, key, note or None)
            result = await self.grants.record(connection, entry, actor)
            if order is not None and order.credited_at is None:
                paid_by = parked.object_id
                await credited(connection, order.id, transfer_id=result.transfer_id, payment_id=paid_by)
            ended = await self._ended(connection, parked, "credited", result.transfer_id, note)
        await self.effects.balance_changed(whose)
        await self.refresh(ObjectRef("payment", parked.object_id))
        return ended

    async def dismiss(self, parked_id: str, note: str, *, actor: audit.Actor = audit.ADMIN) -> DeadLetter:
        """Decide that what waits is not credited, with the reason."""
        async with self.database.transaction() as connection:
            parked = await self._waiting(connection, parked_id)
            ended = await self._ended(connection, parked, "dismissed", None, note)
            change = {"state": parked.state}, {"state": "dismissed", "note": note}
            whose = parked.account_id
            await audit.record(connection, actor, "payment.dismiss", parked.id, *change, account_id=whose)
        await self.refresh(ObjectRef("payment", parked.object_id))
        return ended

    async def _waiting(self, connection: Connection, parked_id: str) -> DeadLetter:
        """Return what waits, by its own id or its order's; both are locked, the order first, as payments do."""
        order_id = await connection.fetchval(_query("parked_order"), parked_id)
        if order_id is not None:
            await connection.execute(_query("orders_lock"), order_id)
        row = await connection.fetchrow(_query("parked_lock"), parked_id)
        if row is None:
            raise OrderNotFound(f"Nothing of {parked_id!r} waits: `metergate operator order list --parked` lists it.")
        parked = dead_letter_of(row)
        if parked.state != "parked":
            raise OrderConflict(f"This was {parked.state} already.")
        return parked

    async def _ended(
        self, connection: Connection, parked: DeadLetter, state: str, transfer_id: str | None, note: str
    ) -> DeadLetter:
        row = await connection.fetchrow(_query("parked_end"), parked.id, state, transfer_id, note)
        if row is None:
            raise OrderNotFound(f"There is nothing parked with the id {parked.id!r}.")
        return dead_letter_of(row)
