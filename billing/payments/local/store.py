"""What the local provider keeps: its objects, idempotency keys, pages and events, in Postgres; and its test cards.

Objects are kept as the neutral ones that the port shows, refunds and disputes apart from their payment. A change and
its event are written in one transaction; the event is delivered afterwards, and again until it was taken.

What a payment by a test card comes to is as by Stripe's test cards of these numbers
(https://docs.stripe.com/testing#declined-payments).
"""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from billing.database.connection import Connection, Database, queries
from billing.payments.port import (
    Checkout,
    Customer,
    Dispute,
    Event,
    Invoice,
    ObjectKind,
    ObjectRef,
    Payment,
    PaymentRefused,
    PaymentStatus,
    Purchase,
    Refund,
    ReturnUrls,
    Subscription,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

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
