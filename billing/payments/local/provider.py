"""LocalProvider: a payment provider that takes no money, with the same port as one that does."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec

from billing.errors import MetergateError
from billing.payments.local import bills
from billing.payments.local.cards import card_of
from billing.payments.objects import Checkout, Customer, Event, ObjectKind, ObjectRef, Payment, Refund, Subscription
from billing.payments.port import (
    CustomerGone,
    HostedPage,
    NewCustomer,
    PaymentEventRefused,
    PaymentRefused,
    Purchase,
    ReturnUrls,
)
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.payments.local.store import Change, LocalStore
    from billing.payments.objects import ProviderObject

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

T = TypeVar("T")
logger = logging.getLogger(__name__)
# Returns what each price costs a month, in cents, by the price's id.
Catalogue = Callable[[], Mapping[str, int]]


class LocalProvider:
    """The local provider. `base_url` is where its pages are found, without a slash at its end; `take` is what an event
    is delivered to, and raises where it has to be delivered again."""

    name: Final[Literal["local"]] = "local"
    livemode: Final = False

    def __init__(
        self,
        store: LocalStore,
        base_url: str,
        deployment: str,
        catalogue: Catalogue,
        take: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        self.store, self.deployment, self.catalogue, self.take = store, deployment, catalogue, take
        self._base_url = base_url

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
            card = card_of((await self.customer(change, purchase.customer_id)).method)
            made = Payment(
                self.new_id("payment"),
                card.status,
                purchase.amount_cents,
                purchase.amount_cents,
                purchase.currency,
                purchase.customer_id,
                purchase.order_id,
                self.deployment,
                livemode=False,
                created_at=change.now,
                decline_code=card.decline_code,
                hard=card.hard,
            )
            await self.store.put(change, made, f"payment.{made.status}")
            return made

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

        async def make(change: Change) -> Refund:
            return await self.refund_in(change, payment_id, amount_cents)

        return await self._once(name, [payment_id, amount_cents], Refund, make)

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

    async def change_plan(
        self, subscription_id: str, price_id: str, when: Literal["now", "period_end"], key: str
    ) -> Subscription:
        """Change a subscription's price, now or from the next period on."""

        async def make(change: Change) -> Subscription:
            return await bills.change_plan(self, change, subscription_id, price_id, when)

        return await self._once(key, [subscription_id, price_id, when], Subscription, make)

    async def cancel(self, subscription_id: str, when: Literal["now", "period_end"], key: str) -> Subscription:
        """Cancel a subscription, now or when its period ends."""

        async def make(change: Change) -> Subscription:
            return await bills.cancel(self, change, subscription_id, when)

        return await self._once(key, [subscription_id, "cancel", when], Subscription, make)

    async def resume(self, subscription_id: str, key: str) -> Subscription:
        """Take back a cancellation or a change that has not come about yet."""

        async def make(change: Change) -> Subscription:
            return await bills.resume(self, change, subscription_id)

        return await self._once(key, [subscription_id, "resume"], Subscription, make)

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
            if self.take is None:
                return
            try:
                await self.take(event)
                await self.store.delivered(event.id)
            except MetergateError as error:
                logger.warning("an event of the local payment provider waits: %s: %s", event.type, error)

    async def run_once(self) -> None:
        """Do what is due: events that were not taken, checkouts and periods that are over, rows to forget."""
        await self.deliver(await self.store.waiting())
        for checkout_id in await self.store.due("checkout", LISTED_AT_ONCE):
            await self.expire_checkout(checkout_id, f"{checkout_id}:expired")
        for subscription_id in await self.store.due("subscription", LISTED_AT_ONCE):
            await self.deliver(await bills.renew(self, subscription_id))
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

    async def _customer_page(self, kind: str, customer_id: str, urls: ReturnUrls, hours: int, key: str) -> HostedPage:
        async def make(change: Change) -> HostedPage:
            await self.customer(change, customer_id)
            return await self._page(change, kind, customer_id, urls, change.now + timedelta(hours=hours))

        return await self._once(key, [kind, customer_id, urls], HostedPage, make)

    async def _page(self, change: Change, kind: str, object_id: str, urls: ReturnUrls, ends_at: datetime) -> HostedPage:
        secret = secrets.token_urlsafe(32)
        await self.store.open_page(change.connection, secret, kind, object_id, urls, ends_at)
        return HostedPage(object_id, f"{self._base_url}/pay/{secret}", ends_at)

    async def _once(self, key: str, asked: Any, answer: type[T], make: Callable[[Change], Awaitable[T]]) -> T:
        made, events = await self.store.once(key, msgspec.to_builtins(asked), answer, make)
        await self.deliver(events)
        return made
