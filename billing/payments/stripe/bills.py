"""Stripe's invoices and subscriptions as neutral objects, and what reads fields of any object. Pure.

As API 2026-10-28.endive has them: a subscription's period stands on its item, an invoice's subscription under
`parent.subscription_details` and its payments in a list of their own. With flexible billing the portal ends a
subscription by `cancel_at`, and leaves `cancel_at_period_end` false.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from billing.payments.objects import Invoice, InvoiceLine, LineKind, Subscription, SubscriptionStatus
from billing.payments.port import PaymentProviderUnavailable
from billing.payments.stripe.parameters import DEPLOYMENT, ORDER

# An object of the API, as its JSON is parsed.
StripeObject = Mapping[str, Any]

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

# What reading an object raises that is not as the API says: fields missing, of other types, or out of bounds.
UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@asynccontextmanager
async def readable() -> AsyncIterator[None]:
    """Convert what reading Stripe's objects raises where they are not as the API says, to the port's error; also a
    decorator. Only what reads answers stands inside: the same errors would hide faults of ours elsewhere."""
    try:
        yield
    except UNREADABLE as error:
        # An error's text may hold what the object has. Of a field that is missing it is the field's name.
        why = f"it lacks {error}" if isinstance(error, KeyError) else type(error).__name__
        raise PaymentProviderUnavailable(
            f"Stripe answered with an object that can't be read ({why}): try again in a moment. If that does not help, "
            "STRIPE_API_BASE is not Stripe's, or this version does not know Stripe's API as it is now."
        ) from error


def moment(seconds: int) -> datetime:
    """Return a time that Stripe says in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def id_of(value: str | StripeObject | None) -> str | None:
    """Return the id of a field that holds an object or its id."""
    return value if value is None or isinstance(value, str) else value["id"]


def marks_of(found: StripeObject) -> StripeObject:
    """Return an object's metadata."""
    return found.get("metadata") or {}


def _subscription_details(invoice: StripeObject) -> StripeObject:
    return (invoice.get("parent") or {}).get("subscription_details") or {}


def invoice_marks(invoice: StripeObject) -> StripeObject:
    """Return the metadata that tells whose an invoice is: its subscription's, else its own."""
    return _subscription_details(invoice).get("metadata") or marks_of(invoice)


def before_taxes(invoice: StripeObject) -> int:
    """Return what an invoice comes to without its taxes, in cents; below zero where it gives back."""
    without = invoice.get("total_excluding_tax")
    return int(invoice["total"] if without is None else without)


def invoice_of(invoice: StripeObject, lines: Sequence[StripeObject]) -> Invoice:
    """Return an invoice, with all of its lines and its payments expanded."""
    marks = invoice_marks(invoice)
    return Invoice(
        id=invoice["id"],
        status=invoice["status"] or "draft",
        customer_id=id_of(invoice.get("customer")),
        subscription_id=id_of(_subscription_details(invoice).get("subscription")),
        payment_id=_paid_by(invoice),
        order_id=marks.get(ORDER),
        deployment=marks.get(DEPLOYMENT),
        amount_cents=before_taxes(invoice),
        total_cents=invoice["total"],
        currency=invoice["currency"],
        lines=tuple(_line(each) for each in lines),
        livemode=invoice["livemode"],
        created_at=moment(invoice["created"]),
        number=invoice.get("number"),
        attempts=invoice.get("attempt_count") or 0,
        next_attempt_at=_moment(invoice.get("next_payment_attempt")),
        hosted_url=invoice.get("hosted_invoice_url"),
        pdf_url=invoice.get("invoice_pdf"),
    )


def _paid_by(invoice: StripeObject) -> str | None:
    """Return the payment intent of an invoice: the one that has paid it, else the newest."""
    payments = (invoice.get("payments") or {}).get("data") or ()
    ordered = sorted(payments, key=lambda each: (each["status"] == "paid", each["created"]))
    found = [id_of(each["payment"].get("payment_intent")) for each in ordered]
    return found[-1] if found else None


def _line(line: StripeObject) -> InvoiceLine:
    """Return a line of an invoice, without what taxes and discounts make of its amount."""
    parent = line.get("parent") or {}
    of_item = parent.get("subscription_item_details")
    details = of_item or parent.get("invoice_item_details") or {}
    kind: LineKind = "other" if of_item is None else "subscription"
    if details.get("proration"):
        kind = "proration"
    amount = line["amount"] - sum(each["amount"] for each in line.get("discount_amounts") or ())
    amount -= sum(each["amount"] for each in line.get("taxes") or () if each.get("tax_behavior") == "inclusive")
    pricing = (line.get("pricing") or {}).get("price_details") or {}
    period = line["period"]
    return InvoiceLine(
        line["id"], kind, amount, id_of(pricing.get("price")), moment(period["start"]), moment(period["end"])
    )


def subscription_of(subscription: StripeObject) -> Subscription:
    """Return a subscription of one price, with its schedule expanded where it has one."""
    marks, item = marks_of(subscription), subscription["items"]["data"][0]
    return Subscription(
        id=subscription["id"],
        status=_SUBSCRIPTIONS.get(subscription["status"], "unpaid"),
        customer_id=id_of(subscription["customer"]) or "",
        order_id=marks.get(ORDER),
        deployment=marks.get(DEPLOYMENT),
        price_id=item["price"]["id"],
        period_start=moment(item["current_period_start"]),
        period_end=moment(item["current_period_end"]),
        livemode=subscription["livemode"],
        created_at=moment(subscription["created"]),
        cancel_at=_moment(subscription.get("cancel_at")),
        cancel_at_period_end=bool(subscription.get("cancel_at_period_end")),
        ended_at=_moment(subscription.get("ended_at")),
        next_price_id=_next_price(subscription.get("schedule"), item["current_period_end"]),
        latest_invoice_id=id_of(subscription.get("latest_invoice")),
    )


def _next_price(schedule: str | StripeObject | None, period_end: int) -> str | None:
    """Return the price that a schedule has from the next period on."""
    if not isinstance(schedule, Mapping) or schedule.get("status") not in ("active", "not_started"):
        return None
    later = [phase for phase in schedule["phases"] if phase["start_date"] >= period_end]
    return id_of(later[0]["items"][0]["price"]) if later else None
