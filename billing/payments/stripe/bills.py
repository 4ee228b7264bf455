"""Stripe's invoices and subscriptions as neutral objects, and what reads fields of any object. Pure.

As API 2026-10-28.endive has them: a subscription's period stands on its item, an invoice's subscription under
`parent.subscription_details` and its payments in a list of their own. With flexible billing the portal ends a
subscription by `cancel_at`, and leaves `cancel_at_period_end` false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from billing.payments.objects import Invoice, InvoiceLine, LineKind, Subscription, SubscriptionStatus
from billing.payments.stripe.parameters import DEPLOYMENT, ORDER

Said = Mapping[str, Any]
"""An object as Stripe says it."""

_SUBSCRIPTIONS: Final[Mapping[str, SubscriptionStatus]] = {
    "incomplete": "incomplete",
    "incomplete_expired": "canceled",
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "canceled": "canceled",
    "unpaid": "unpaid",
    "paused": "paused",
}


def moment(seconds: int) -> datetime:
    """Return a time that Stripe says in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def id_of(value: str | Said | None) -> str | None:
    """Return the id of a field that holds an object or its id."""
    return value if value is None or isinstance(value, str) else value["id"]


def marks_of(said: Said) -> Said:
    """Return an object's metadata."""
    return said.get("metadata") or {}


def _subscription_details(invoice: Said) -> Said:
    return (invoice.get("parent") or {}).get("subscription_details") or {}


def invoice_marks(invoice: Said) -> Said:
    """Return the metadata that tells whose an invoice is: its subscription's, else its own."""
    return _subscription_details(invoice).get("metadata") or marks_of(invoice)


def before_taxes(invoice: Said) -> int:
    """Return what an invoice comes to without its taxes, in cents; below zero where it gives back."""
    without = invoice.get("total_excluding_tax")
    return int(invoice["total"] if without is None else without)


def invoice_of(said: Said, lines: Sequence[Said]) -> Invoice:
    """Return an invoice, with all of its lines and its payments expanded."""
    marks = invoice_marks(said)
    return Invoice(
        id=said["id"],
        status=said["status"] or "draft",
        customer_id=id_of(said.get("customer")),
        subscription_id=id_of(_subscription_details(said).get("subscription")),
        payment_id=_paid_by(said),
        order_id=marks.get(ORDER),
        deployment=marks.get(DEPLOYMENT),
        amount_cents=before_taxes(said),
        total_cents=said["total"],
        currency=said["currency"],
        lines=tuple(_line(each) for each in lines),
        livemode=said["livemode"],
        created_at=moment(said["created"]),
        number=said.get("number"),
        attempts=said.get("attempt_count") or 0,
        next_attempt_at=_moment(said.get("next_payment_attempt")),
        hosted_url=said.get("hosted_invoice_url"),
        pdf_url=said.get("invoice_pdf"),
    )


def _paid_by(invoice: Said) -> str | None:
    """Return the payment intent of an invoice: the one that has paid it, else the newest."""
    payments = (invoice.get("payments") or {}).get("data") or ()
    ordered = sorted(payments, key=lambda each: (each["status"] == "paid", each["created"]))
    found = [id_of(each["payment"].get("payment_intent")) for each in ordered]
    return found[-1] if found else None


def _line(said: Said) -> InvoiceLine:
    """Return a line of an invoice, without what taxes and discounts make of its amount."""
    parent = said.get("parent") or {}
    of_item = parent.get("subscription_item_details")
    details = of_item or parent.get("invoice_item_details") or {}
    kind: LineKind = "other" if of_item is None else "subscription"
    if details.get("proration"):
        kind = "proration"
    amount = said["amount"] - sum(each["amount"] for each in said.get("discount_amounts") or ())
    amount -= sum(each["amount"] for each in said.get("taxes") or () if each.get("tax_behavior") == "inclusive")
    pricing = (said.get("pricing") or {}).get("price_details") or {}
    period = said["period"]
    return InvoiceLine(
        *(said["id"], kind, amount, id_of(pricing.get("price"))), moment(period["start"]), moment(period["end"])
    )


def subscription_of(said: Said) -> Subscription:
    """Return a subscription of one price, with its schedule expanded where it has one."""
    marks, item = marks_of(said), said["items"]["data"][0]
    return Subscription(
        id=said["id"],
        status=_SUBSCRIPTIONS.get(said["status"], "unpaid"),
        customer_id=id_of(said["customer"]) or "",
        order_id=marks.get(ORDER),
        deployment=marks.get(DEPLOYMENT),
        price_id=item["price"]["id"],
        period_start=moment(item["current_period_start"]),
        period_end=moment(item["current_period_end"]),
        livemode=said["livemode"],
        created_at=moment(said["created"]),
        cancel_at=_moment(said.get("cancel_at")),
        cancel_at_period_end=bool(said.get("cancel_at_period_end")),
        ended_at=_moment(said.get("ended_at")),
        next_price_id=_next_price(said.get("schedule"), item["current_period_end"]),
        latest_invoice_id=id_of(said.get("latest_invoice")),
    )


def _next_price(schedule: str | Said | None, period_end: int) -> str | None:
    """Return the price that a schedule has from the next period on."""
    if not isinstance(schedule, Mapping) or schedule.get("status") not in ("active", "not_started"):
        return None
    later = [phase for phase in schedule["phases"] if phase["start_date"] >= period_end]
    return id_of(later[0]["items"][0]["price"]) if later else None
