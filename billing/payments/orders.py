"""Orders: what an account asks to buy, as a row before anything is sent to a payment provider, and what operators do
with orders: refund them, and decide about money that could not be credited.

This module guarantees that an idempotency key makes one order, that its amount is what is credited, and that what could
not be credited waits for an operator as a dead letter: a row of its own.

Payments of orders are applied: credited once, taken back by refunds and disputes, or left to an operator as a dead
letter; and read again as what customers were charged.

What is decided depends on the order, on the payment's state and on what was unspent, never on which event came first:
states that are seen late, twice or not at all, but for the last one, lead to the same balance. So refunds take, in the
order in which they were made, what was unspent of their purchase, and not of what disputes had taken by then; one that
fails leaves its part to the next, and so does a dispute that is won. A dispute takes what it takes, below zero if need
be. These functions are pure and stand first; `Purchases` does what they say in the transaction that notes the state.
The transfer's key is the money's own id, so that whatever is tried twice is made once.

A charge is counted at the time at which its payment was made, by all that its payer paid, taxes included, as the
payment provider counts it. What went back (refunds, disputes) is counted with its payment.

OrderError
+-- OrderNotFound   no order, or nothing that waits, has this id
+-- OrderConflict   the idempotency key was used for something else, or the order is past that
+-- OrderRefused    what is asked for can't be bought
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from billing import audit
from billing.accounts.accounts import lift, suspend
from billing.accounts.grants import PAID, PROMOTIONS, PURCHASES, Entry, GrantError, Grants, Terms, find_lot
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.money import NANO_PER_CENT, format_cents
from billing.notices.emit import emit
from billing.pages import BEFORE_ALL, Page, page_of
from billing.payments.events import After, Owner, account_of, call_once
from billing.payments.port import (
    CURRENCY,
    Invoice,
    Movement,
    ObjectRef,
    OrderKind,
    OrderStatus,
    Payment,
    PaymentRefused,
    PaymentStatus,
    Refund,
    ReturnUrls,
    included_scope,
    money_key,
)
from billing.work import Periodic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from billing.change_notifier import ChangeNotifier
    from billing.payments.port import Dispute, HostedPage, PaymentProvider

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

    async def overdue(self, limit: int) -> list[ObjectRef]:
        """End orders that nothing comes of any more, and return the checkouts of those whose page has just ended."""
        await self.database.execute(_query("orders_expire"), self.provider)
        rows = await self.database.rows(_query("orders_overdue"), self.provider, limit)
        return [ObjectRef("checkout", row["checkout_id"]) for row in rows]

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
            raise OrderConflict("The order was not credited: there is nothing to refund.")
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
            message = f"Of this order {shown} USD are left: no more can be refunded."
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


_accounts = queries("billing.accounts")

# States of refunds whose money came back.
RETURNED: Final = ("failed", "canceled")
# Disputes that suspend the account.
TAKEN: Final = ("open", "lost")


@dataclass(frozen=True, slots=True)
class Moved:
    """What a refund, or a movement of a dispute, has moved so far: nano-USD below zero were taken from the account.
    `free_nano` is what would have been left of the purchase then, had nothing been moved; None: it was not noted."""

    nano: int = 0
    transfers: int = 0
    free_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A transfer to make: `delta_nano` below zero takes from the account. `number` counts those of the same object;
    `free_nano` is to be noted with it."""

    kind: Literal["refund", "dispute"]
    id: str
    amount_cents: int
    delta_nano: int
    number: int
    free_nano: int


MoveKey = tuple[str, str]


def refusal_reason(order: Order | None, payment: Payment) -> str | None:
    """Return why a paid payment can't be credited to its order; None: it can."""
    if order is None:
        return "no order of ours has this id"
    if order.credited_at is not None and order.payment_id != payment.id:
        return "the order was paid before, by another payment"
    if payment.currency != CURRENCY:
        return f"it was paid in {payment.currency}, not in {CURRENCY}"
    if payment.amount_cents != order.amount_cents:
        return f"{payment.amount_cents} cents were paid of an order of {order.amount_cents}"
    return None


def status_of(order: Order, payment: Payment, *, parked: bool) -> OrderStatus:
    """Return what the order is called, whatever it was before: once money came, it is never open, failed or expired.
    `parked` says that an operator has to decide about it."""
    if any(each.status in TAKEN for each in payment.disputes):
        return "disputed"
    if payment.status == "paid" and is_given_back(payment):
        return "refunded"
    if parked:
        return "parked"
    if order.credited_at is not None:
        return "credited"
    if payment.status == "paid":
        return order.status if order.status in ("credited", "parked") else "paid"
    if payment.status in RETURNED and order.status in ("open", "failed"):
        return "failed"
    return order.status


def is_given_back(payment: Payment) -> bool:
    """Return whether the whole of a payment was refunded, and none of that has failed."""
    refunded = sum(each.amount_cents for each in payment.refunds if each.status not in RETURNED)
    return 0 < payment.total_cents <= refunded


def is_lost(payment: Payment) -> bool:
    """Return whether the whole of a payment is gone, and disputes that were lost have taken of it."""
    lost = sum(each.amount_cents for each in payment.disputes if each.status == "lost")
    refunded = sum(each.amount_cents for each in payment.refunds if each.status not in RETURNED)
    return lost > 0 and payment.total_cents <= lost + refunded


def next_move(credit_nano: int, payment: Payment, moved: Mapping[MoveKey, Moved], left_nano: int) -> Move | None:
    """Return the first transfer that the refunds and disputes of a payment still need; None: they need none.

    `credit_nano` is what the payment has put on the balance, and `left_nano` what is left of that now. Each movement of
    a dispute is one transfer of its whole share of the credit. After each transfer it is asked again, with what is left
    then.
    """
    free_nano = _free_nano(moved, left_nano)
    takes = _refunds_take(credit_nano, payment, free_nano)
    for each in sorted(_parts(payment), key=lambda part: (part.created_at, part.id)):
        kind: Literal["refund", "dispute"] = "refund" if isinstance(each, Refund) else "dispute"
        before = moved.get((kind, each.id), Moved())
        if isinstance(each, Refund):
            delta_nano = -takes[each.id] - before.nano
        else:
            delta_nano = 0 if before.transfers else share_nano(credit_nano, payment, each.amount_cents)
        if delta_nano:
            return Move(kind, each.id, each.amount_cents, delta_nano, before.transfers + 1, free_nano)
    return None


def _parts(payment: Payment) -> list[Refund | Movement]:
    return [*payment.refunds, *(each for dispute in payment.disputes for each in dispute.movements)]


def _free_nano(moved: Mapping[MoveKey, Moved], left_nano: int) -> int:
    """Return what would be left of a purchase, had its refunds and disputes moved nothing. Debits alone make it less:
    so what was noted bounds it where a dispute has made debt, of which nothing is left."""
    now_nano = left_nano - sum(each.nano for each in moved.values())
    return min([now_nano, *(each.free_nano for each in moved.values() if each.free_nano is not None)])


def _refunds_take(credit_nano: int, payment: Payment, free_nano: int) -> dict[str, int]:
    """Return what each refund takes of what is free, one after the other; a dispute has its net share from when it
    began, which nothing is left of for refunds that were made later."""
    events: list[tuple[datetime, str, Refund | int]] = [(each.created_at, each.id, each) for each in payment.refunds]
    for dispute in payment.disputes:
        if dispute.movements:
            net_nano = sum(share_nano(credit_nano, payment, each.amount_cents) for each in dispute.movements)
            events.append((min(each.created_at for each in dispute.movements), dispute.id, net_nano))
    takes: dict[str, int] = {}
    # Times may be whole seconds; a payment that is disputed can't be refunded, so that its refund was earlier.
    for _, _, event in sorted(events, key=lambda each: (each[0], isinstance(each[2], int), each[1])):
        if isinstance(event, int):
            free_nano += event
        else:
            share = 0 if event.status in RETURNED else share_nano(credit_nano, payment, event.amount_cents)
            takes[event.id] = min(share, max(0, free_nano))
            free_nano -= takes[event.id]
    return takes


def share_nano(credit_nano: int, payment: Payment, amount_cents: int) -> int:
    """Return how much of a payment's total, which may include taxes, is credit, in nano-USD, rounded towards zero."""
    share = min(credit_nano, abs(amount_cents) * credit_nano // max(payment.total_cents, 1))
    return share if amount_cents > 0 else -share


def suspensions(before: Payment | None, now: Payment) -> tuple[list[Dispute], list[Dispute]]:
    """Return the disputes that suspend the account since `before`, and those that do not any more. One that suspended
    before is not named again: an operator may have lifted it."""
    known = {each.id: each.status for each in before.disputes} if before is not None else {}
    begun = [each for each in now.disputes if each.status in TAKEN and known.get(each.id) not in TAKEN]
    ended = [each for each in now.disputes if each.status not in TAKEN and known.get(each.id) in TAKEN]
    return begun, ended


@dataclass(frozen=True, slots=True)
class Raised:
    """What a payment has put on a balance, by these transfers from `source`, and its terms."""

    transfers: tuple[str, ...]
    credit_nano: int
    source: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Purchases:
    """Applies payments. `new_id` makes ULIDs that rise with time; `terms` are those of what is credited."""

    provider: str
    grants: Grants
    new_id: Callable[[], str]
    terms: Callable[[], Terms] = lambda: PAID

    async def apply(self, connection: Connection, before: Payment | None, now: Payment, after: After) -> Owner:
        """Apply a payment's state in the caller's transaction: an `apply.Handler`."""
        order = await self._order(connection, now)
        if order is None:
            return await self._without_order(connection, before, now, after)
        parked = await self._parked(connection, now)
        if now.status == "paid" and order.kind != "plan" and order.credited_at is None and parked is None:
            order, parked = await self._credit(connection, order, now, after)
        elif now.status == "paid" and order.kind != "plan" and order.payment_id != now.id and parked is None:
            await self._keep(connection, order, now, refusal_reason(order, now) or "it was paid twice")
        await self._take_back(connection, order.account_id, order, now, after)
        if order.payment_id in (None, now.id):
            await self._settle(connection, order, now, waits=parked == "parked")
        await self._suspend(connection, order.account_id, before, now, after)
        return Owner(order.account_id, order.id)

    async def _order(self, connection: Connection, payment: Payment) -> Order | None:
        """Return the payment's order, its row locked: by what was noted at its making, else by the payment's id."""
        if payment.order_id is not None:
            row = await connection.fetchrow(_query("orders_lock"), payment.order_id)
        else:
            row = await connection.fetchrow(_query("orders_lock_of_payment"), self.provider, payment.id)
        return None if row is None or row["provider"] != self.provider else order_of(row)

    async def _without_order(self, connection: Connection, before: Payment | None, now: Payment, after: After) -> Owner:
        """Park a payment that no order asked for; that of an invoice is its invoice's to apply. What an operator has
        credited of it is taken back like an order's."""
        customer_id = now.customer_id
        account_id = None if customer_id is None else await account_of(connection, self.provider, customer_id)
        if now.invoice_id is None and now.status == "paid":
            await self._keep(connection, None, now, refusal_reason(None, now) or "", account_id)
            credited_to = await connection.fetchval(_query("parked_credited"), self.provider, now.id)
            account_id = credited_to or account_id
        if account_id is not None:
            await self._take_back(connection, account_id, None, now, after)
            await self._suspend(connection, account_id, before, now, after)
        return Owner(account_id)

    async def _parked(self, connection: Connection, payment: Payment) -> str | None:
        """Return whether the payment waits for an operator, or what was decided; None: neither."""
        row = await connection.fetchrow(_query("parked_of_object"), self.provider, "payment", payment.id)
        return None if row is None else str(row["state"])

    async def _keep(
        self, connection: Connection, order: Order | None, payment: Payment, reason: str, account_id: str | None = None
    ) -> None:
        await connection.execute(
            _query("parked_add"),
            DEAD_LETTER_PREFIX + self.new_id(),
            self.provider,
            "payment",
            payment.id,
            account_id if order is None else order.account_id,
            None if order is None else order.id,
            payment.amount_cents,
            payment.currency,
            reason,
        )

    async def _credit(
        self, connection: Connection, order: Order, payment: Payment, after: After
    ) -> tuple[Order, str | None]:
        """Credit a paid order with its own amount, or park it; return the order as it is then, and whether it waits."""
        reason = refusal_reason(order, payment)
        account = await connection.fetchrow(_accounts("accounts_lock"), order.account_id)
        if account is not None and account["status"] == "closed":
            reason = reason or "the account is closed"
        if reason is None:
            try:
                order = await self.credit(connection, order, payment.id, audit.SYSTEM)
            except GrantError as error:  # raised before anything was written
                reason = str(error)
        if reason is not None:
            await self._keep(connection, order, payment, reason)
            return order, "parked"
        after.balances.add(order.account_id)
        await emit(connection, order.account_id, "payment.succeeded", _notice_data(order))
        return order, None

    async def credit(self, connection: Connection, order: Order, payment_id: str, actor: audit.Actor) -> Order:
        """Raise the balance by an order's amount, once per payment; the caller tells of the balance. Raises
        `grants.GrantError`."""
        key = money_key(self.provider, "payment", payment_id)
        named = SCOPE, key, f"order {order.id}"
        entry = Entry(order.account_id, order.amount_nano, PURCHASES, "purchase", *named, terms=self.terms())
        result = await self.grants.record(connection, entry, actor)
        return await credited(connection, order.id, transfer_id=result.transfer_id, payment_id=payment_id)

    async def _settle(self, connection: Connection, order: Order, now: Payment, *, waits: bool) -> None:
        """Bring the order's row to the payment's state."""
        status = status_of(order, now, parked=waits)
        refunded = sum(each.amount_cents for each in now.refunds if each.status not in ("failed", "canceled"))
        disputed = -sum(movement.amount_cents for dispute in now.disputes for movement in dispute.movements)
        reason = order.reason if status not in ("credited", "paid") else None
        if status == "failed":
            reason = now.decline_code or now.status
        values = (order.id, status, now.id, now.customer_id, refunded, disputed, reason)
        changed = found_order(await connection.fetchrow(_query("orders_settle"), *values), order.id)
        await self._tell_of_change(connection, order, changed)

    async def _take_back(
        self, connection: Connection, account_id: str, order: Order | None, now: Payment, after: After
    ) -> None:
        """Make what refunds and disputes of a payment need. One that is given back whole ends the plan that it paid
        for: the subscription is to be ended at the provider, too. So does one whose last part was lost in a dispute, of
        whatever period: the account stays suspended by that, and must not be charged for what it can't use. A part
        alone ends nothing."""
        raised = await self._raised(connection, account_id, now)
        if raised is not None:
            await self._move_all(connection, account_id, order, raised, now, after)
        lost = is_lost(now)
        if now.invoice_id is not None and now.status == "paid" and (lost or is_given_back(now)):
            ended = await connection.fetchval(_query("invoice_in_force"), self.provider, now.invoice_id, lost)
            if ended is not None:
                why = "lost" if lost else "refunded"
                after.ended[ObjectRef("subscription", ended)] = f"subscription:{ended}:{why}:{now.id}"

    async def _raised(self, connection: Connection, account_id: str, now: Payment) -> Raised | None:
        """Return what refunds and disputes of a payment take back: its credit, or what is included in the plan that an
        invoice was for. None: nothing, so far."""
        if not now.refunds and not now.disputes:
            return None
        scope, source, key = SCOPE, PURCHASES, money_key(self.provider, "payment", now.id)
        if now.invoice_id is not None:
            scope, source = included_scope(self.provider, account_id), PROMOTIONS
            key = money_key(self.provider, "invoice", now.invoice_id)
        rows = await connection.fetch(_query("raised_by"), scope, key, account_id)
        transfers, credit_nano = tuple(row["id"] for row in rows), sum(row["amount_nano"] for row in rows)
        if not transfers:
            return None
        terms = (await find_lot(connection, account_id, transfers[0])).terms
        return Raised(transfers, credit_nano, source, terms)

    async def _move_all(
        self,
        connection: Connection,
        account_id: str,
        order: Order | None,
        raised: Raised,
        now: Payment,
        after: After,
    ) -> None:
        """Make what refunds and disputes need, one transfer after the other."""
        parts = [each.id for each in now.refunds]
        parts += [each.id for dispute in now.disputes for each in dispute.movements]
        while True:
            rows = await connection.fetch(_query("movements_of"), self.provider, parts)
            moved = {
                (row["kind"], row["id"]): Moved(row["moved_nano"], row["transfers"], row["free_nano"]) for row in rows
            }
            left_nano = await left_of(connection, account_id, raised.transfers)
            move = next_move(raised.credit_nano, now, moved, left_nano)
            if move is None:
                return
            key = money_key(self.provider, move.kind, move.id)
            entry = Entry(
                account_id,
                move.delta_nano,
                raised.source,
                move.kind,
                SCOPE,
                key if move.number == 1 else f"{key}:{move.number}",
                f"payment {now.id}" if order is None else f"order {order.id}",
                purchase_id=raised.transfers[0],
                terms=raised.terms,
            )
            await self.grants.record(connection, entry, audit.SYSTEM)
            order_id = None if order is None else order.id
            values = (self.provider, move.kind, move.id, order_id, move.amount_cents, move.delta_nano, move.free_nano)
            await connection.execute(_query("movements_add"), *values)
            after.balances.add(account_id)

    async def _suspend(
        self, connection: Connection, account_id: str, before: Payment | None, now: Payment, after: After
    ) -> None:
        begun, ended = suspensions(before, now)
        for dispute in begun:
            if await suspend(connection, account_id, f"dispute:{dispute.id}"):
                after.accounts.add(account_id)
        for dispute in ended:
            if await lift(connection, account_id, f"dispute:{dispute.id}"):
                after.accounts.add(account_id)

    async def _tell_of_change(self, connection: Connection, before: Order, now: Order) -> None:
        """Write the notices of a failed payment, of a refund and of a dispute."""
        if now.status == "failed" and before.status != "failed":
            await emit(connection, now.account_id, "payment.failed", {**_notice_data(now), "reason": now.reason})
        if now.refunded_cents > before.refunded_cents:
            refunded = format_cents(now.refunded_cents - before.refunded_cents)
            data = {**_notice_data(now), "refunded_usd": refunded}
            await emit(connection, now.account_id, "payment.refunded", data)
        if now.status == "disputed" and before.status != "disputed":
            await emit(connection, now.account_id, "payment.disputed", _notice_data(now))


def _notice_data(order: Order) -> dict[str, Any]:
    return {"order_id": order.id, "kind": order.kind, "amount_usd": format_cents(order.amount_cents)}


ChargeKind = Literal["credit", "plan", "recharge", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One payment. `kind` is that of its order; payments of invoices are `plan`; those that nothing here has asked for
    are `other`. `reason` says why it failed, `tax_cents` what of the total is tax, `invoice_url` and `pdf_url` where
    the provider has its invoice."""

    id: str
    provider: str
    account_id: str | None
    order_id: str | None
    invoice_id: str | None
    kind: ChargeKind
    plan: str | None
    status: PaymentStatus
    reason: str | None
    total_cents: int
    tax_cents: int
    currency: str
    refunded_cents: int
    disputed_cents: int
    receipt_url: str | None
    invoice_number: str | None
    invoice_url: str | None
    pdf_url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeSums:
    """How many payments there were, what was paid, and what of it went back, in US cents."""

    payments: int
    paid_cents: int
    refunded_cents: int
    disputed_cents: int


@dataclass
class Charges:
    """Reads charges, of whichever provider. Methods raise `DatabaseError`."""

    database: Database

    async def page(
        self,
        limit: int,
        after: str | None = None,
        *,
        account_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        status: PaymentStatus = "paid",
    ) -> Page[Charge]:
        """Return charges, newest first; `after` is the id that ended the page before."""
        given = (account_id, after, since, until, status, limit + 1)
        rows = await self.database.rows(_query("charges_page"), *given)
        return page_of([_charge_of(row) for row in rows], limit, lambda charge: charge.id)

    async def sums(self, since: datetime, until: datetime) -> ChargeSums:
        """Return what was paid from `since` on and before `until`."""
        row = await self.database.row(_query("charges_sums"), since, until, CURRENCY)
        assert row is not None  # noqa: S101  (an aggregate always has a row)
        return ChargeSums(**dict(row))


def _charge_of(row: Row) -> Charge:
    fields = dict(row)
    of_order: ChargeKind | None = fields.pop("order_kind")
    of_bill, own = fields.pop("bill_tax_cents"), fields.pop("own_tax_cents")
    kind: ChargeKind = of_order or ("other" if fields["invoice_id"] is None else "plan")
    return Charge(kind=kind, tax_cents=own if of_bill is None else of_bill, **fields)
