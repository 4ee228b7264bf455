"""The local provider's pages as HTML: no script, no outside resource, nothing that is not escaped. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from billing.money import format_cents
from billing.payments.local.cards import CARDS, card_of
from billing.payments.objects import Checkout, Customer, Payment, Subscription
from billing.payments.port import Purchase

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
        "<p>The address is wrong, or its time is over. Run <code>metergate billing setup</code> for another one.</p>",
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
