"""The endpoints under /pay: hosted pages of the local provider, without scripts, and what their buttons do.

A page is found by a secret of 256 bits in its path; there is no other way to it. Links that it has were checked when it
was made.

Whoever knows a page's secret decides about what it shows: a checkout is paid, declined or confirmed there, and
afterwards disputed or refunded, as a bank and a payer would. A page changes the object that it was made for and no
other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from billing.errors import StoreError
from billing.payments.local import bills
from billing.payments.local.cards import ASKS, CARDS, GOOD, POOR, Card
from billing.payments.local.html import (
    HEADERS,
    CheckoutView,
    CustomerView,
    View,
    gone_page,
    refused_page,
    start_page,
    view_page,
)
from billing.payments.objects import (
    Checkout,
    Customer,
    Dispute,
    Movement,
    ObjectRef,
    Payment,
    ProviderObject,
    Subscription,
)
from billing.payments.port import PaymentError, PaymentRefused

if TYPE_CHECKING:
    from billing.payments.local.provider import LocalProvider
    from billing.payments.local.store import Change, Page
    from billing.payments.port import Purchase


# Subscriptions of a customer that the portal shows.
SHOWN: Final = 20
_REJECTED: Final = Card("", "", "failed", "authentication_failed")


class Acts:
    """Shows pages and does what their buttons say. Methods raise `DatabaseError`."""

    def __init__(self, provider: LocalProvider) -> None:
        self._provider, self._store = provider, provider.store

    async def view(self, secret: str) -> View | None:
        """Return what a page shows; None: there is no such page, or not any more."""
        page = await self._store.page(secret)
        if page is None:
            return None
        if page.kind == "checkout":
            return await self._checkout(page)
        customer = await self._store.whole(ObjectRef("customer", page.object_id))
        if not isinstance(customer, Customer):
            return None
        found = await self._store.of_customer("subscription", customer.id, SHOWN)
        shown = tuple(found) if page.kind == "portal" else ()
        prices = self._provider.catalogue()
        return CustomerView(page.kind, customer, shown, prices, page.urls.success_url)

    async def act(self, secret: str, action: str) -> None:
        """Do what a button of a page says, where that is possible now; otherwise nothing. Raises `PaymentRefused`."""
        page = await self._store.page(secret)
        if page is None:
            return
        async with self._store.change() as change:
            if page.kind == "checkout":
                await self._on_checkout(change, page.object_id, action)
            else:
                await self._on_customer(change, page, action)
        await self._provider.deliver(change.events)

    async def _checkout(self, page: Page) -> CheckoutView | None:
        async with self._store.database.connection() as connection:
            checkout = await self._store.read(connection, ObjectRef("checkout", page.object_id))
            purchase = await self._store.purchase(connection, page.object_id)
        if not isinstance(checkout, Checkout) or purchase is None:
            return None
        payment: ProviderObject | None = None
        if checkout.payment_id is not None:
            payment = await self._store.whole(ObjectRef("payment", checkout.payment_id))
        paid = payment if isinstance(payment, Payment) else None
        return CheckoutView(checkout, purchase, paid, page.urls.success_url, page.urls.cancel_url)

    async def _on_checkout(self, change: Change, checkout_id: str, action: str) -> None:
        checkout = await self._store.read(change.connection, ObjectRef("checkout", checkout_id), lock=True)
        purchase = await self._store.purchase(change.connection, checkout_id)
        if not isinstance(checkout, Checkout) or purchase is None:
            return
        cards = {"approve": GOOD, "decline": POOR, "confirm": replace(ASKS, status="paid"), "reject": _REJECTED}
        if action in cards:
            if checkout.status == "open" and checkout.expires_at > change.now:
                await self._pay(change, checkout, purchase, cards[action])
        elif checkout.payment_id is not None:
            await self._after_payment(change, checkout.payment_id, action)

    async def _pay(self, change: Change, checkout: Checkout, purchase: Purchase, card: Card) -> None:
        """Have a checkout paid by a card; a card that does not leaves it open for another one."""
        paid = card.status == "paid"
        if purchase.kind == "plan" and paid:
            subscription = await bills.subscribe(self._provider, change, purchase, card)
            invoices = await self._store.parts(change.connection, "invoice", subscription.id)
            ids = {"subscription_id": subscription.id, "payment_id": invoices[0].payment_id}
        else:
            ids = {"payment_id": await self._payment(change, checkout, purchase, card)}
        if paid and (purchase.save_method or purchase.kind == "plan"):
            customer = await self._provider.customer(change, purchase.customer_id)
            await self._store.put(change, replace(customer, method=card.method), "customer.updated")
        after: Any = replace(checkout, status="complete" if paid else "open", **ids)
        await self._store.put(change, after, "checkout.completed" if paid else None)

    async def _payment(self, change: Change, checkout: Checkout, purchase: Purchase, card: Card) -> str:
        payment = Payment(
            checkout.payment_id or self._provider.new_id("payment"),
            card.status,
            purchase.amount_cents,
            purchase.amount_cents,
            purchase.currency,
            purchase.customer_id,
            purchase.order_id,
            self._provider.deployment,
            livemode=False,
            created_at=change.now,
            decline_code=None if card.status == "paid" else card.decline_code,
            hard=card.hard,
        )
        await self._store.put(change, payment, f"payment.{payment.status}")
        return payment.id

    async def _after_payment(self, change: Change, payment_id: str, action: str) -> None:
        """Do what happens to a payment that was made: refunds that succeed and fail, disputes that are won and lost."""
        payment = await self._store.read(change.connection, ObjectRef("payment", payment_id), lock=True)
        refunds = await self._store.parts(change.connection, "refund", payment_id)
        disputes = await self._store.parts(change.connection, "dispute", payment_id)
        open_disputes = [each for each in disputes if each.status == "open"]
        kept = [each for each in refunds if each.status == "succeeded"]
        if not isinstance(payment, Payment) or payment.status != "paid":
            return
        left = payment.total_cents - sum(each.amount_cents for each in kept)
        if action in ("refund", "refund_half") and left:
            part = left if action == "refund" else max(1, left // 2)
            await self._provider.refund_in(change, payment_id, part)
        elif action == "fail_refund" and kept:
            await self._store.put(change, replace(kept[-1], status="failed"), "refund.failed")
        elif action == "dispute" and left and not disputes:
            taken = Movement(f"txn_{self._store.new_id()}", -left, change.now)
            made = Dispute(
                self._provider.new_id("dispute"), payment_id, "open", left, payment.currency, change.now, (taken,)
            )
            await self._store.put(change, made, "dispute.created")
        elif action in ("win", "lose") and open_disputes:
            dispute = open_disputes[-1]
            if action == "win":
                back = Movement(f"txn_{self._store.new_id()}", dispute.amount_cents, change.now)
                dispute = replace(dispute, status="won", movements=(*dispute.movements, back))
            else:
                dispute = replace(dispute, status="lost")
            await self._store.put(change, dispute, "dispute.closed")

    async def _on_customer(self, change: Change, page: Page, action: str) -> None:
        verb, _, rest = action.partition(":")
        customer = await self._provider.customer(change, page.object_id)
        if verb == "save" and rest in CARDS:
            await self._store.put(change, replace(customer, method=rest), "customer.updated")
        elif verb == "remove":
            await self._store.put(change, replace(customer, method=None), "customer.updated")
        elif page.kind == "portal":
            await self._on_subscription(change, customer, verb, rest)

    async def _on_subscription(self, change: Change, customer: Customer, verb: str, rest: str) -> None:
        subscription_id, _, price_id = rest.partition(":")
        found = await self._store.read(change.connection, ObjectRef("subscription", subscription_id), lock=True)
        if not isinstance(found, Subscription) or found.customer_id != customer.id:
            raise PaymentRefused("There is no such subscription of yours.")
        if verb == "cancel":
            await bills.cancel(self._provider, change, subscription_id, "period_end")
        elif verb == "resume":
            await bills.resume(self._provider, change, subscription_id)
        elif verb == "pay":
            await bills.pay_overdue(self._provider, change, subscription_id)
        elif verb in ("upgrade", "downgrade"):
            when: bills.When = "now" if verb == "upgrade" else "period_end"
            await bills.change_plan(self._provider, change, subscription_id, price_id, when)


PAY: Final = "/pay"
MOST_BODY_BYTES: Final = 4096
_MOST_SECRET: Final = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pay_routes(acts: Acts | None, setup_url: str | None) -> list[web.RouteDef]:
    """Return the endpoints under /pay; without `acts` only the page that says how credit is bought. `setup_url` is
    where customers find billing, None where there is no such page."""

    async def start(request: web.Request) -> web.StreamResponse:
        return _html(start_page(setup_url))

    routes = [web.get(PAY, start)]
    if acts is not None:
        routes += [web.get(PAY + "/{secret}", _shown(acts)), web.post(PAY + "/{secret}", _done(acts))]
    return routes


def _shown(acts: Acts) -> Handler:
    async def show(request: web.Request) -> web.StreamResponse:
        secret = request.match_info["secret"]
        try:
            view = await acts.view(secret) if len(secret) <= _MOST_SECRET else None
        except StoreError:
            return _away()
        if view is None:
            return _html(gone_page(), 404)
        return _html(view_page(view, request.query.get("step", "")))

    return show


def _done(acts: Acts) -> Handler:
    async def do(request: web.Request) -> web.StreamResponse:
        secret = request.match_info["secret"]
        if len(secret) > _MOST_SECRET or (request.content_length or 0) > MOST_BODY_BYTES:
            return _html(gone_page(), 404)
        action = (await request.post()).get("action", "")
        if action == "3ds":
            return _to(f"{request.path}?step=confirm")
        try:
            await acts.act(secret, action if isinstance(action, str) else "")
        except PaymentError as error:
            return _html(refused_page(str(error)), 400)
        except StoreError:
            return _away()
        return _to(request.path)

    return do


def _away() -> web.Response:
    response = _html(refused_page("The gateway can't reach its database now: try again in a moment."), 503)
    response.headers["Retry-After"] = "2"
    return response


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers={**HEADERS, "Location": path})


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", headers=dict(HEADERS))
