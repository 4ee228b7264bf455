"""LocalProvider: a payment provider that takes no money, with the same port as one that does; and its subscriptions:
invoices, renewals, changes and cancellations.

A period is paid in advance by the saved card, or by the one that the payer has shown. What is not paid leaves the
subscription past due, until a button of the portal pays its invoice.

What the local provider keeps: its objects, idempotency keys, pages and events, in Postgres; and its test cards.

Objects are kept as the neutral ones that the port shows, refunds and disputes apart from their payment. A change and
its event are written in one transaction; the event is delivered afterwards, and again until it was taken.

What a payment by a test card comes to is as by Stripe's test cards of these numbers
(https://docs.stripe.com/testing#declined-payments).
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

import msgspec

from billing.database.connection import Connection, Database, queries
from billing.errors import MetergateError
from billing.payments.port import (
    CURRENCY,
    Checkout,
    Customer,
    CustomerGone,
    Dispute,
    Event,
    HostedPage,
    Invoice,
    InvoiceLine,
    NewCustomer,
    ObjectKind,
    ObjectRef,
    Payment,
    PaymentEventRefused,
    PaymentRefused,
    PaymentStatus,
    Purchase,
    Refund,
    ReturnUrls,
    Subscription,
)
from billing.times import months_later
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.payments.port import ProviderObject

_query = queries("billing.payments.local")


@dataclass(frozen=True, slots=True)
class Card:
    """A test card. `status` is that of a payment without the payer; `asks` has the payer confirm it on a page."""

    method: str
    label: str
    status: PaymentStatus
    decline_code: str | None = None
    hard: bool = False

    @property
    def asks(self) -> bool:
        """Return whether the payer has to confirm a payment by it."""
        return self.status == "requires_action"


GOOD: Final = Card("visa 4242", "A card that pays", "paid")
ASKS: Final = Card(
    "visa 3155", "A card that asks for confirmation (3-D Secure)", "requires_action", "authentication_required"
)
POOR: Final = Card("visa 9995", "A card without funds: declined", "failed", "insufficient_funds")
STOLEN: Final = Card("visa 9979", "A stolen card: declined for good", "failed", "stolen_card", hard=True)
NONE: Final = Card("", "No card", "failed", "no_payment_method", hard=True)

CARDS: Final[Mapping[str, Card]] = {card.method: card for card in (GOOD, ASKS, POOR, STOLEN)}


def card_of(method: str | None) -> Card:
    """Return the card that is saved as a method; one that is never paid by where none is."""
    return CARDS.get(method or "", NONE)


KINDS: Final[dict[ObjectKind, type[Any]]] = {
    each.kind: each for each in (Checkout, Payment, Refund, Dispute, Invoice, Subscription, Customer)
}
EVENTS_AT_ONCE: Final = 100
# How long events that were delivered, keys and expired pages are kept, as Stripe keeps its events.
KEPT_DAYS: Final = 30

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """A hosted page: what it is about, and where its visitor goes from it."""

    kind: str
    object_id: str
    urls: ReturnUrls


@dataclass(slots=True)
class Change:
    """A transaction of the provider's, and the events of what it has changed."""

    connection: Connection
    now: datetime
    events: list[Event] = field(default_factory=list)


@dataclass
class LocalStore:
    """Reads and writes the local provider's rows. Methods raise `DatabaseError`."""

    database: Database
    now: Callable[[], datetime]
    new_id: Callable[[], str]

    async def read(self, connection: Connection, ref: ObjectRef, *, lock: bool = False) -> Any | None:
        """Return an object as it is kept; with `lock` for the rest of the connection's transaction."""
        state = await connection.fetchval(_query("object_lock" if lock else "object_get"), ref.kind, ref.id)
        return None if state is None else _object(ref.kind, state)

    async def whole(self, ref: ObjectRef) -> ProviderObject | None:
        """Return an object as the port shows it: a payment with its refunds and disputes."""
        async with self.database.connection() as connection:
            found: ProviderObject | None = await self.read(connection, ref)
            if not isinstance(found, Payment):
                return found
            refunds = tuple(await self.parts(connection, "refund", found.id))
            return replace(found, refunds=refunds, disputes=tuple(await self.parts(connection, "dispute", found.id)))

    async def parts(self, connection: Connection, kind: ObjectKind, parent_id: str) -> list[Any]:
        """Return the objects of a kind that belong to another one, in the order of their making."""
        rows = await connection.fetch(_query("objects_of_parent"), kind, parent_id)
        return [_object(kind, row["state"]) for row in rows]

    async def of_customer(self, kind: ObjectKind, customer_id: str, limit: int) -> list[Any]:
        """Return a customer's objects of a kind, newest first."""
        rows = await self.database.rows(_query("objects_of_customer"), kind, customer_id, limit)
        return [_object(kind, row["state"]) for row in rows]

    async def of_order(self, kind: ObjectKind, order_id: str) -> Any | None:
        """Return the newest object of a kind that was made for an order."""
        state = await self.database.value(_query("object_of_order"), kind, order_id)
        return None if state is None else _object(kind, state)

    async def since(self, kind: ObjectKind, since: datetime, after: str, limit: int) -> list[tuple[str, datetime]]:
        """Return ids and times of objects that were made after a place."""
        rows = await self.database.rows(_query("objects_since"), kind, since, after, limit)
        return [(row["id"], row["created_at"]) for row in rows]

    async def due(self, kind: ObjectKind, limit: int) -> list[str]:
        """Return subscriptions whose period is over, or open checkouts that have expired."""
        query = _query("subscriptions_due" if kind == "subscription" else "checkouts_due")
        return [row["id"] for row in await self.database.rows(query, self.now(), limit)]

    async def put(self, change: Change, found: Any, event: str | None = None) -> None:
        """Write an object; with `event` as the type of what has happened to it."""
        state = msgspec.to_builtins(found)
        state.pop("refunds", None)
        state.pop("disputes", None)
        parent_id = getattr(found, "payment_id", None) if found.kind in ("refund", "dispute") else None
        parent_id = getattr(found, "subscription_id", None) if found.kind == "invoice" else parent_id
        customer_id = found.id if isinstance(found, Customer) else getattr(found, "customer_id", None)
        order_id = getattr(found, "order_id", None)
        values = (found.kind, found.id, customer_id, order_id, parent_id, state, found.created_at)
        await change.connection.execute(_query("object_put"), *values)
        if event is not None:
            told = Event(f"evt_{self.new_id()}", event, ObjectRef(found.kind, found.id), False, change.now)
            await change.connection.execute(_query("event_put"), told.id, event, found.kind, found.id, change.now)
            change.events.append(told)

    async def put_purchase(self, change: Change, checkout_id: str, purchase: Purchase) -> None:
        """Write what a checkout sells."""
        values = ("purchase", checkout_id, purchase.customer_id, None, None, msgspec.to_builtins(purchase), change.now)
        await change.connection.execute(_query("object_put"), *values)

    async def purchase(self, connection: Connection, checkout_id: str) -> Purchase | None:
        """Return what a checkout sells."""
        state = await connection.fetchval(_query("object_get"), "purchase", checkout_id)
        return None if state is None else msgspec.convert(state, Purchase)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """Yield a change in a transaction of its own; the events are delivered by the caller, afterwards."""
        async with self.database.transaction() as connection:
            yield Change(connection, self.now())

    async def once(
        self, key: str, asked: object, answer: type[T], make: Callable[[Change], Awaitable[T]]
    ) -> tuple[T, list[Event]]:
        """Return what `make` makes, once per key, and its events; the same key again gets the first answer. Raises
        `PaymentRefused` for a key that was used for something else."""
        digest = hashlib.sha256(msgspec.json.encode(asked)).digest()
        async with self.database.transaction() as connection:
            await connection.execute(_query("key_lock"), key)
            row = await connection.fetchrow(_query("key_get"), key)
            if row is not None:
                if row["digest"] != digest:
                    raise PaymentRefused("This idempotency key was used for another call.")
                return msgspec.convert(row["answer"], answer, strict=False), []
            change = Change(connection, self.now())
            made = await make(change)
            await connection.execute(_query("key_put"), key, digest, msgspec.to_builtins(made), change.now)
            return made, change.events

    async def open_page(
        self, connection: Connection, secret: str, kind: str, object_id: str, urls: ReturnUrls, expires_at: datetime
    ) -> None:
        """Write a page, which only whoever knows its secret finds."""
        values = (_digest(secret), kind, object_id, msgspec.to_builtins(urls), expires_at)
        await connection.execute(_query("page_put"), *values)

    async def page(self, secret: str) -> Page | None:
        """Return a page by its secret, None for one that there is not, or not any more."""
        row = await self.database.row(_query("page_get"), _digest(secret), self.now())
        return None if row is None else Page(row["kind"], row["object_id"], ReturnUrls(**row["urls"]))

    async def waiting(self) -> list[Event]:
        """Return events that were not taken yet, oldest first."""
        rows = await self.database.rows(_query("events_waiting"), EVENTS_AT_ONCE)
        return [
            Event(row["id"], row["type"], ObjectRef(row["object_kind"], row["object_id"]), False, row["created_at"])
            for row in rows
        ]

    async def delivered(self, event_id: str) -> None:
        """Note that an event was taken."""
        await self.database.execute(_query("event_delivered"), event_id)

    async def forget(self) -> None:
        """Delete what is not kept any longer."""
        await self.database.execute(_query("forget"), self.now() - timedelta(days=KEPT_DAYS), 1000)


def _object(kind: ObjectKind, state: Any) -> Any:
    return msgspec.convert(state, KINDS[kind], strict=False)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


logger = logging.getLogger(__name__)

# How often due work is done: renewals, expiry of pages, delivery of events.
EVERY_S: Final = 10.0
CHECKOUT_HOURS: Final = 24
PORTAL_HOURS: Final = 1
LISTED_AT_ONCE: Final = 200
_PREFIXES: Final[Mapping[ObjectKind, str]] = {
    "checkout": "cs",
    "payment": "pi",
    "refund": "re",
    "dispute": "dp",
    "invoice": "in",
    "subscription": "sub",
    "customer": "cus",
}

When = Literal["now", "period_end"]
# Returns what each price costs a month, in cents, by the price's id.
Catalogue = Callable[[], Mapping[str, int]]


@dataclass
class LocalProvider:
    """The local provider. `base_url` is where its pages are found, without a slash at its end; `receiver` is what
    an event is delivered to, and raises where it has to be delivered again."""

    name: ClassVar[Literal["local"]] = "local"
    livemode: ClassVar[bool] = False

    store: LocalStore
    base_url: str
    deployment: str
    catalogue: Catalogue
    receiver: Callable[[Event], Awaitable[object]] | None = None

    def new_id(self, kind: ObjectKind) -> str:
        """Return an id for a new object."""
        return f"{_PREFIXES[kind]}_{self.store.new_id()}"

    def price_of(self, price_id: str) -> int:
        """Return what a price costs a month, in cents. Raises `KeyError` for one that there is not."""
        return self.catalogue()[price_id]

    async def ensure_customer(self, customer: NewCustomer, key: str) -> str:
        """Create a customer, once per key, and return its id."""

        async def make(change: Change) -> str:
            made = Customer(
                self.new_id("customer"), customer.account_id, self.deployment, livemode=False, created_at=change.now
            )
            await self.store.put(change, made)
            return made.id

        return await self._once(key, customer, str, make)

    async def checkout(self, purchase: Purchase, urls: ReturnUrls, key: str) -> HostedPage:
        """Open a page at which the purchase is paid."""

        async def make(change: Change) -> HostedPage:
            await self.customer(change, purchase.customer_id)
            ends_at = change.now + timedelta(hours=CHECKOUT_HOURS)
            made = Checkout(
                self.new_id("checkout"),
                "open",
                purchase.order_id,
                self.deployment,
                purchase.customer_id,
                None,
                None,
                livemode=False,
                created_at=change.now,
                expires_at=ends_at,
            )
            await self.store.put(change, made)
            await self.store.put_purchase(change, made.id, purchase)
            return await self._page(change, "checkout", made.id, urls, ends_at)

        return await self._once(key, [purchase, urls], HostedPage, make)

    async def expire_checkout(self, checkout_id: str, key: str) -> None:
        """Close a page that was not paid."""

        async def make(change: Change) -> str:
            found = await self.store.read(change.connection, ObjectRef("checkout", checkout_id), lock=True)
            if found is None:
                raise PaymentRefused("There is no such checkout.")
            if found.status == "open":
                await self.store.put(change, replace(found, status="expired"), "checkout.expired")
            return checkout_id

        await self._once(key, checkout_id, str, make)

    async def setup(self, customer_id: str, urls: ReturnUrls, key: str) -> HostedPage:
        """Open a page at which a test card is saved without paying."""
        return await self._customer_page("setup", customer_id, urls, CHECKOUT_HOURS, key)

    async def portal(self, customer_id: str, return_url: str, key: str) -> HostedPage:
        """Open a page at which the customer manages the saved card and subscriptions."""
        return await self._customer_page("portal", customer_id, ReturnUrls(return_url, return_url), PORTAL_HOURS, key)

    async def charge(self, purchase: Purchase, key: str) -> Payment:
        """Charge the saved test card, which decides what comes of it."""

        async def make(change: Change) -> Payment:
            card = await self._saved_card(change, purchase.customer_id)
            return await self.pay_in(change, purchase, purchase.amount_cents, card)

        return await self._once(key, purchase, Payment, make)

    async def find_payment(self, order_id: str, customer_id: str | None = None) -> Payment | None:
        """Return the newest payment that was made for an order."""
        found = await self.store.of_order("payment", order_id)
        whole = None if found is None else await self.fetch(ObjectRef("payment", found.id))
        return whole if isinstance(whole, Payment) else None

    async def cancel_payment(self, payment_id: str, key: str) -> None:
        """Refuse it: a charge leaves none open here."""
        raise PaymentRefused("There is no such payment, or it has ended.")

    async def refund(self, payment_id: str, amount_cents: int, name: str, key: str | None = None) -> Refund:
        """Give back a part of a payment, or all of it: once by `name`, which is kept as a key is. Raises
        `PaymentRefused` for more than is left of it, and for one that is disputed."""
        asked = payment_id, amount_cents
        return await self._once(name, asked, Refund, lambda change: self.refund_in(change, *asked))

    async def refund_in(self, change: Change, payment_id: str, amount_cents: int) -> Refund:
        """Give back as `refund`, in a change of the provider's."""
        found = await self.store.read(change.connection, ObjectRef("payment", payment_id), lock=True)
        if found is None or found.status != "paid":
            raise PaymentRefused("There is no such payment, or it was not paid.")
        refunds = await self.store.parts(change.connection, "refund", payment_id)
        left = found.total_cents - sum(each.amount_cents for each in refunds if each.status != "failed")
        if any(each.status == "open" for each in await self.store.parts(change.connection, "dispute", payment_id)):
            raise PaymentRefused("The payment is disputed: it can't be refunded.")
        if not 0 < amount_cents <= left:
            raise PaymentRefused(f"Of this payment {left} cents are left to refund.")
        made = Refund(
            self.new_id("refund"), payment_id, "succeeded", amount_cents, found.currency, created_at=change.now
        )
        await self.store.put(change, made, "refund.created")
        return made

    async def change_plan(self, subscription_id: str, price_id: str, when: When, key: str) -> Subscription:
        """Change a subscription's price, now or from the next period on."""
        asked = subscription_id, price_id, when
        return await self._once(key, asked, Subscription, lambda change: self.change_plan_in(change, *asked))

    async def cancel(self, subscription_id: str, when: When, key: str) -> Subscription:
        """Cancel a subscription, now or when its period ends."""
        asked = subscription_id, "cancel", when
        return await self._once(key, asked, Subscription, lambda change: self.cancel_in(change, subscription_id, when))

    async def resume(self, subscription_id: str, key: str) -> Subscription:
        """Take back a cancellation or a change that has not come about yet."""
        asked = subscription_id, "resume"
        return await self._once(key, asked, Subscription, lambda change: self.resume_in(change, subscription_id))

    async def fetch(self, ref: ObjectRef) -> ProviderObject | None:
        """Return an object as it is now."""
        return await self.store.whole(ref)

    async def list_since(self, kind: ObjectKind, since: datetime) -> AsyncIterator[ObjectRef]:
        """Yield the objects of a kind that were made since then."""
        after = ""
        while page := await self.store.since(kind, since, after, LISTED_AT_ONCE):
            after, since = page[-1]
            for object_id, _ in page:
                yield ObjectRef(kind, object_id)

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        """Return the event of its own that a body holds. Nothing from outside is one: `PaymentEventRefused`."""
        raise PaymentEventRefused("The local provider delivers its events itself: it takes none from outside.")

    async def close(self) -> None:
        """Close nothing."""

    async def deliver(self, events: list[Event]) -> None:
        """Deliver events; one that is not taken waits for `run_once`."""
        for event in events:
            if self.receiver is None:
                return
            try:
                await self.receiver(event)
                await self.store.delivered(event.id)
            except MetergateError as error:
                logger.warning("an event of the local payment provider waits: %s: %s", event.type, error)

    async def run_once(self) -> None:
        """Do what is due: events that were not taken, checkouts and periods that are over, rows to forget."""
        await self.deliver(await self.store.waiting())
        for checkout_id in await self.store.due("checkout", LISTED_AT_ONCE):
            await self.expire_checkout(checkout_id, f"{checkout_id}:expired")
        for subscription_id in await self.store.due("subscription", LISTED_AT_ONCE):
            await self.deliver(await self._renew(subscription_id))
        await self.store.forget()

    def work(self) -> Periodic:
        """Return what does what is due."""
        return Periodic(name="local_payments", every_s=EVERY_S, round=self.run_once, expected=(MetergateError,))

    async def customer(self, change: Change, customer_id: str) -> Customer:
        """Return a customer, whose row is locked. Raises `CustomerGone`."""
        found = await self.store.read(change.connection, ObjectRef("customer", customer_id), lock=True)
        if not isinstance(found, Customer):
            raise CustomerGone("The payment provider does not know this customer any more.")
        return found

    async def _saved_card(self, change: Change, customer_id: str) -> Card:
        return card_of((await self.customer(change, customer_id)).method)

    async def pay_in(
        self,
        change: Change,
        asked: Purchase | Invoice,
        cents: int,
        card: Card,
        *,
        payment_id: str | None = None,
        invoice_id: str | None = None,
    ) -> Payment:
        """Make a payment by a card, in a change of the provider's, or try one that was declined again."""
        made = Payment(
            id=payment_id or self.new_id("payment"),
            status=card.status,
            amount_cents=cents,
            total_cents=cents,
            currency=asked.currency,
            customer_id=asked.customer_id,
            order_id=asked.order_id,
            deployment=self.deployment,
            livemode=False,
            created_at=change.now,
            decline_code=card.decline_code,
            hard=card.hard,
            invoice_id=invoice_id,
        )
        await self.store.put(change, made, f"payment.{made.status}")
        return made

    async def _customer_page(self, kind: str, customer_id: str, urls: ReturnUrls, hours: int, key: str) -> HostedPage:
        async def make(change: Change) -> HostedPage:
            await self.customer(change, customer_id)
            return await self._page(change, kind, customer_id, urls, change.now + timedelta(hours=hours))

        return await self._once(key, [kind, customer_id, urls], HostedPage, make)

    async def _page(self, change: Change, kind: str, object_id: str, urls: ReturnUrls, ends_at: datetime) -> HostedPage:
        secret = secrets.token_urlsafe(32)
        await self.store.open_page(change.connection, secret, kind, object_id, urls, ends_at)
        return HostedPage(object_id, f"{self.base_url}/pay/{secret}", ends_at)

    async def _once(self, key: str, asked: Any, answer: type[T], make: Callable[[Change], Awaitable[T]]) -> T:
        made, events = await self.store.once(key, msgspec.to_builtins(asked), answer, make)
        await self.deliver(events)
        return made

    async def subscribe(self, change: Change, purchase: Purchase, card: Card) -> Subscription:
        """Begin the subscription of a plan whose first month is paid by a card. Its payment is made anyway."""
        start, end = change.now, months_later(change.now, 1)
        assert purchase.price_id is not None  # noqa: S101  (an order of a plan has one)
        made = Subscription(
            self.new_id("subscription"),
            "incomplete",
            purchase.customer_id,
            purchase.order_id,
            self.deployment,
            purchase.price_id,
            start,
            end,
            livemode=False,
            created_at=change.now,
        )
        lines = (self._line("subscription", purchase.amount_cents, purchase.price_id, start, end),)
        invoice = await self._bill(change, made, lines, card)
        status: Literal["active", "incomplete"] = "active" if invoice.status == "paid" else "incomplete"
        made = replace(made, status=status, latest_invoice_id=invoice.id)
        await self.store.put(change, made, "subscription.created")
        return made

    async def _bill(
        self, change: Change, subscription: Subscription, lines: tuple[InvoiceLine, ...], card: Card
    ) -> Invoice:
        """Make an invoice and have it paid by a card, as far as that goes."""
        amount = max(0, sum(line.amount_cents for line in lines))
        invoice = Invoice(
            self.new_id("invoice"),
            "open",
            subscription.customer_id,
            subscription.id,
            None,
            subscription.order_id,
            self.deployment,
            amount,
            amount,
            CURRENCY,
            lines,
            livemode=False,
            created_at=change.now,
        )
        invoice = replace(invoice, number=invoice.id[-8:])
        return await self._pay(change, invoice, card)

    async def _pay(self, change: Change, invoice: Invoice, card: Card) -> Invoice:
        """Have an open invoice paid by a card."""
        if invoice.amount_cents == 0:
            invoice = replace(invoice, status="paid")
        else:
            payment = await self.pay_in(change, invoice, invoice.amount_cents, card, invoice_id=invoice.id)
            status: Literal["paid", "open"] = "paid" if card.status == "paid" else "open"
            invoice = replace(invoice, status=status, payment_id=payment.id, attempts=invoice.attempts + 1)
        await self.store.put(change, invoice, "invoice.paid" if invoice.status == "paid" else "invoice.payment_failed")
        return invoice

    async def _renew(self, subscription_id: str) -> list[Event]:
        """Begin the next period of a subscription whose own is over, or end it; return the events."""
        async with self.store.change() as change:
            found = await self._locked(change, subscription_id)
            if found.period_end > change.now or found.status not in ("active", "past_due"):
                return []
            ends_at = found.ends_at
            if ends_at is not None and ends_at <= found.period_end:
                ended = replace(found, status="canceled", ended_at=ends_at)
                await self.store.put(change, ended, "subscription.deleted")
                return change.events
            price_id = found.next_price_id or found.price_id
            number = 1
            while months_later(found.created_at, number) <= found.period_end:
                number += 1
            start, end = found.period_end, months_later(found.created_at, number)
            card = await self._saved_card(change, found.customer_id)
            lines = (self._line("subscription", self.price_of(price_id), price_id, start, end),)
            found = replace(found, price_id=price_id, next_price_id=None, period_start=start, period_end=end)
            invoice = await self._bill(change, found, lines, card)
            status: Literal["active", "past_due"] = "active" if invoice.status == "paid" else "past_due"
            await self.store.put(
                change, replace(found, status=status, latest_invoice_id=invoice.id), "subscription.updated"
            )
            return change.events

    async def change_plan_in(self, change: Change, subscription_id: str, price_id: str, when: When) -> Subscription:
        """Change a subscription's price: now, with what is left of the month given back and the rest of it charged at
        once; or from the next period on. Raises `PaymentRefused` where the card does not pay the difference."""
        found = await self._locked(change, subscription_id)
        try:
            new_cents = self.price_of(price_id)
        except KeyError as error:
            raise PaymentRefused("There is no such price.") from error
        if when == "period_end":
            found = replace(found, next_price_id=None if price_id == found.price_id else price_id)
            found = replace(found, cancel_at=None, cancel_at_period_end=False)
        elif price_id != found.price_id:
            span = (found.period_start, found.period_end)
            old = prorated_cents(self.price_of(found.price_id), *span, change.now)
            new = prorated_cents(new_cents, *span, change.now)
            lines = (
                self._line("proration", -old, found.price_id, change.now, found.period_end),
                self._line("proration", new, price_id, change.now, found.period_end),
            )
            found = replace(found, price_id=price_id, next_price_id=None, cancel_at=None, cancel_at_period_end=False)
            card = await self._saved_card(change, found.customer_id)
            if new > old and card.status != "paid":
                raise PaymentRefused("The saved card did not pay the difference: the plan stays as it is.")
            invoice = await self._bill(change, found, lines, card)
            found = replace(found, latest_invoice_id=invoice.id)
        await self.store.put(change, found, "subscription.updated")
        return found

    async def cancel_in(self, change: Change, subscription_id: str, when: When) -> Subscription:
        """Cancel a subscription. At the period's end it is told by `cancel_at`, as Stripe's portal does it."""
        found = await self._locked(change, subscription_id)
        if when == "now":
            found = replace(found, status="canceled", ended_at=change.now)
            await self.store.put(change, found, "subscription.deleted")
        else:
            found = replace(found, cancel_at=found.period_end, next_price_id=None)
            await self.store.put(change, found, "subscription.updated")
        return found

    async def resume_in(self, change: Change, subscription_id: str) -> Subscription:
        """Take back what was to come at the period's end."""
        found = await self._locked(change, subscription_id)
        found = replace(found, cancel_at=None, cancel_at_period_end=False, next_price_id=None)
        await self.store.put(change, found, "subscription.updated")
        return found

    async def pay_overdue(self, change: Change, subscription_id: str) -> None:
        """Have the last invoice of a subscription that is past due paid by the card that is saved now."""
        found = await self._locked(change, subscription_id)
        ref = ObjectRef("invoice", found.latest_invoice_id or "none")
        invoice = await self.store.read(change.connection, ref, lock=True)
        if found.status != "past_due" or not isinstance(invoice, Invoice) or invoice.status != "open":
            return
        card = await self._saved_card(change, found.customer_id)
        if (await self._pay(change, invoice, card)).status == "paid":
            await self.store.put(change, replace(found, status="active"), "subscription.updated")

    async def _locked(self, change: Change, subscription_id: str) -> Subscription:
        found = await self.store.read(change.connection, ObjectRef("subscription", subscription_id), lock=True)
        if not isinstance(found, Subscription) or found.status == "canceled":
            raise PaymentRefused("There is no such subscription, or it has ended.")
        return found

    def _line(
        self,
        kind: Literal["subscription", "proration"],
        cents: int,
        price_id: str,
        start: datetime,
        end: datetime,
    ) -> InvoiceLine:
        return InvoiceLine(f"il_{self.store.new_id()}", kind, cents, price_id, start, end)


def prorated_cents(cents: int, start: datetime, end: datetime, at: datetime) -> int:
    """Return what of a month's price the rest of the month from `at` on costs, to the cent below."""
    whole, rest = (end - start).total_seconds(), (end - at).total_seconds()
    return int(cents * max(0, int(rest)) // max(1, int(whole)))
