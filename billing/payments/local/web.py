"""The endpoints under /pay: hosted pages of the local provider, and what their buttons do.

Pages are HTML without scripts or outside resources, and everything in them is escaped. A page is found by a secret of
256 bits in its path; there is no other way to it. Links that it has were checked when it was made.

Whoever knows a page's secret decides about what it shows: a checkout is paid, declined or confirmed there, and
afterwards disputed or refunded, as a bank and a payer would. A page changes the object that it was made for and no
other.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from billing.errors import StoreError
from billing.money import format_cents
from billing.payments.local.provider import ASKS, CARDS, GOOD, POOR, Card, card_of
from billing.payments.port import (
    Checkout,
    Customer,
    Dispute,
    Movement,
    ObjectRef,
    Payment,
    PaymentError,
    PaymentRefused,
    ProviderObject,
    Purchase,
    Subscription,
)

if TYPE_CHECKING:
    from billing.payments.local.provider import Change, LocalProvider, Page, When

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:2rem auto;padding:0 1rem;color:#1c2024;"
    "background:#fff}h1{font-size:1.4rem}form{margin:.5rem 0}button{font:inherit;padding:.5rem 1rem;margin:.2rem .3rem "
    ".2rem 0;border:1px solid #5b6470;border-radius:.4rem;background:#f3f4f6;color:inherit;cursor:pointer}"
    ".main{background:#14532d;border-color:#14532d;color:#fff}.note{background:#fef3c7;padding:.5rem .8rem;"
    "border-radius:.4rem}dt{font-weight:600}dd{margin:0 0 .5rem}"
    "@media(prefers-color-scheme:dark){body{background:#15181c;color:#e6e8eb}button{background:#262b31}"
    ".note{background:#4a3b10}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# What keeps the pages to themselves: nothing is loaded, framed, kept, or told to where their links lead.
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# Where the console sells credit, seen from /pay: relative, below whatever path a proxy takes off.
_CONSOLE: Final = "console/credit"
NOTE: Final = "This is the local payment provider: no money moves, and no card number is asked for."


@dataclass(frozen=True, slots=True)
class CheckoutView:
    """What the page of a checkout shows."""

    checkout: Checkout
    purchase: Purchase
    payment: Payment | None
    success_url: str
    cancel_url: str


@dataclass(frozen=True, slots=True)
class CustomerView:
    """What the page of a customer shows: `kind` is setup or portal."""

    kind: str
    customer: Customer
    subscriptions: tuple[Subscription, ...]
    prices: Mapping[str, int]
    return_url: str


View = CheckoutView | CustomerView


def start_page(setup_url: str | None) -> str:
    """Return the page at which somebody arrives without a page of their own."""
    here = escape(setup_url or _CONSOLE)
    ways = f'<p>Whoever has signed in: <a href="{here}">Buy credit</a>.</p>'
    ways += "<p>Others run <code>metergate billing setup</code>: it prints the address of a page to pay on.</p>"
    ways += "<p>What was just paid is there a moment later: <code>metergate billing status</code> shows it.</p>"
    return _page("Add credit", ways, note=False)


def framed(title: str, body: str) -> str:
    """Return a page of the gateway's own, of HTML whose texts are escaped."""
    return _page(title, body, note=False)


def gone_page() -> str:
    """Return the page for an address that leads nowhere, or not any more."""
    return _page(
        "This page is not there",
        "<p>The address is wrong or has expired. Run <code>metergate billing setup</code> for another one.</p>",
    )


def refused_page(message: str) -> str:
    """Return the page for what could not be done."""
    return _page("That was not possible", f"<p>{escape(message)}</p>")


def view_page(view: View, step: str) -> str:
    """Return the page of a checkout or of a customer; the `step` `confirm` asks the payer of a checkout."""
    if isinstance(view, CheckoutView):
        return _checkout(view, step)
    return _customer(view)


def _checkout(view: CheckoutView, step: str) -> str:
    checkout, purchase, payment = view.checkout, view.purchase, view.payment
    facts = _facts({"For": purchase.description, "Amount": _usd(purchase.amount_cents), "Order": purchase.order_id})
    cancel = f'<p><a href="{escape(view.cancel_url)}">Go back without paying</a></p>'
    if checkout.status == "expired":
        return _page("This page has expired", f"{facts}{cancel}")
    if checkout.status == "complete":
        done = f'<p><a id="return" href="{escape(view.success_url)}">Go back</a></p>'
        return _page("Paid", facts + done + ("" if payment is None else _afterwards(payment)))
    if step == "confirm":
        buttons = _button("confirm", "Confirm the payment", main=True) + _button("reject", "It was not me")
        return _page("Your bank asks: is it you?", facts + _form(buttons))
    failed = ""
    if payment is not None and payment.status == "failed":
        failed = f'<p class="note" role="alert">Declined: {escape(payment.decline_code or "no reason given")}.</p>'
    buttons = _button("approve", f"Pay {_usd(purchase.amount_cents)}", main=True)
    buttons += _button("3ds", "Pay by a card that asks (3-D Secure)") + _button(
        "decline", "Pay by a card without funds"
    )
    return _page("Pay", failed + facts + _form(buttons) + cancel)


def _afterwards(payment: Payment) -> str:
    """Return what a bank or a shop may do to a payment later."""
    history = "".join(f"<p>Refund of {_usd(each.amount_cents)}: {each.status}.</p>" for each in payment.refunds)
    history += "".join(f"<p>Dispute of {_usd(each.amount_cents)}: {each.status}.</p>" for each in payment.disputes)
    kept = sum(each.amount_cents for each in payment.refunds if each.status == "succeeded")
    buttons = ""
    if any(each.status == "open" for each in payment.disputes):
        buttons += _button("win", "The dispute is won") + _button("lose", "The dispute is lost")
    else:
        if kept < payment.total_cents:
            buttons += _button("refund", "Refund the rest") + _button("refund_half", "Refund half of it")
            buttons += "" if payment.disputes else _button("dispute", "Dispute the payment")
        if kept:
            buttons += _button("fail_refund", "The last refund fails")
    return f"<h2>What may happen later</h2>{history}{_form(buttons)}"


def _customer(view: CustomerView) -> str:
    method = card_of(view.customer.method)
    saved = f"{method.label} ({method.method})" if method.method else "none"
    cards = "".join(_button(f"save:{card.method}", card.label) for card in CARDS.values())
    cards += _button("remove", "Remove the card") if method.method else ""
    body = f"{_facts({'Saved card': saved})}<h2>Save a card</h2>{_form(cards)}"
    body += "".join(_subscription(each, view.prices) for each in view.subscriptions)
    body += f'<p><a id="return" href="{escape(view.return_url)}">Go back</a></p>'
    return _page("Your billing" if view.kind == "portal" else "Save a card", body)


def _subscription(found: Subscription, prices: Mapping[str, int]) -> str:
    ends = found.ends_at
    facts = _facts(
        {
            "Plan": found.price_id,
            "State": found.status.replace("_", " "),
            "Ends" if ends else "Renews": f"{ends or found.period_end:%Y-%m-%d}",
        }
    )
    if found.status in ("canceled", "incomplete"):
        return f"<h2>Subscription</h2>{facts}"
    buttons = _button(f"pay:{found.id}", "Pay the open invoice", main=True) if found.status == "past_due" else ""
    buttons += _button(f"resume:{found.id}", "Keep it") if ends or found.next_price_id else ""
    buttons += "" if ends else _button(f"cancel:{found.id}", "Cancel when the period ends")
    now = prices.get(found.price_id, 0)
    for price_id, cents in sorted(prices.items(), key=lambda item: item[1]):
        if price_id != found.price_id and cents:
            verb = "upgrade" if cents > now else "downgrade"
            when = "now" if verb == "upgrade" else "when the period ends"
            buttons += _button(f"{verb}:{found.id}:{price_id}", f"Change to {price_id} ({_usd(cents)}) {when}")
    return f"<h2>Subscription</h2>{facts}{_form(buttons)}"


def _facts(facts: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()) + "</dl>"


def _button(action: str, label: str, *, main: bool = False) -> str:
    look = ' class="main"' if main else ""
    return f'<button{look} name="action" value="{escape(action)}">{escape(label)}</button>'


def _form(buttons: str) -> str:
    return f'<form method="post">{buttons}</form>' if buttons else ""


def _page(title: str, body: str, *, note: bool = True) -> str:
    told = f'<p class="note">{NOTE}</p>' if note else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{told}{body}</main></body></html>"
    )


def _usd(cents: int) -> str:
    return f"{format_cents(cents)} USD"


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
            subscription = await self._provider.subscribe(change, purchase, card)
            invoices = await self._store.parts(change.connection, "invoice", subscription.id)
            ids = {"subscription_id": subscription.id, "payment_id": invoices[0].payment_id}
        else:
            payment = await self._provider.pay_in(
                change, purchase, purchase.amount_cents, card, payment_id=checkout.payment_id
            )
            ids = {"payment_id": payment.id}
        if paid and (purchase.save_method or purchase.kind == "plan"):
            customer = await self._provider.customer(change, purchase.customer_id)
            await self._store.put(change, replace(customer, method=card.method), "customer.updated")
        after: Any = replace(checkout, status="complete" if paid else "open", **ids)
        await self._store.put(change, after, "checkout.completed" if paid else None)

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
            await self._provider.cancel_in(change, subscription_id, "period_end")
        elif verb == "resume":
            await self._provider.resume_in(change, subscription_id)
        elif verb == "pay":
            await self._provider.pay_overdue(change, subscription_id)
        elif verb in ("upgrade", "downgrade"):
            when: When = "now" if verb == "upgrade" else "period_end"
            await self._provider.change_plan_in(change, subscription_id, price_id, when)


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
