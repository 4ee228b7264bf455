"""Stripe's objects as neutral ones, and what is sent to Stripe as parameters of its API. Pure.

As API 2026-10-28.endive has them: charges list no refunds, and intents don't name the invoice that they pay; a
subscription's period stands on its item, an invoice's subscription under `parent.subscription_details` and its payments
in a list of their own. With flexible billing the portal ends a subscription by `cancel_at`, and leaves
`cancel_at_period_end` false. Enumerations are open at Stripe's side: a state that is not known here is taken for one
that moves no money.

Everything that is made carries `metadata`, by which it is recognised as ours later; refunds and disputes see only that
of the payment, invoices only that of the subscription, so that it is given there as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from billing.payments.port import (
    Checkout,
    Customer,
    Dispute,
    DisputeStatus,
    Invoice,
    InvoiceLine,
    LineKind,
    Movement,
    Payment,
    PaymentProviderUnavailable,
    PaymentStatus,
    Refund,
    RefundStatus,
    Subscription,
    SubscriptionStatus,
)

if TYPE_CHECKING:
    from billing.payments.port import NewCustomer, Purchase, ReturnUrls

ACCOUNT: Final = "metergate_account"
ORDER: Final = "metergate_order"
KIND: Final = "metergate_kind"
DEPLOYMENT: Final = "metergate_deployment"
REFUND: Final = "metergate_refund"

LIVE_KEYS: Final = ("sk_live_", "rk_live_")
# What secret and restricted keys of each mode begin with (https://docs.stripe.com/keys).
TEST_KEYS: Final = ("sk_test_", "rk_test_")
KEY_EXPECTED: Final = "a key that begins with sk_live_, rk_live_, sk_test_ or rk_test_"

Params = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CheckoutRules:
    """What pages do beside taking the money. Taxes are added on top and never credited."""

    automatic_tax: bool = False
    tax_id_collection: bool = False
    invoice_creation: bool = False


def metadata_of(purchase: Purchase, deployment: str) -> dict[str, str]:
    """Return what everything that is made for a purchase is marked with."""
    return {
        ACCOUNT: purchase.account_id,
        ORDER: purchase.order_id,
        KIND: purchase.kind,
        DEPLOYMENT: deployment,
    }


def customer_params(customer: NewCustomer, deployment: str) -> Params:
    """Return the parameters of a new customer."""
    return {"name": customer.name, "metadata": {ACCOUNT: customer.account_id, DEPLOYMENT: deployment}}


def checkout_params(purchase: Purchase, urls: ReturnUrls, deployment: str, rules: CheckoutRules) -> Params:
    """Return the parameters of a page at which a purchase is paid. The price is ours alone: no other currency is
    offered (adaptive pricing) and no promotion code taken."""
    metadata = metadata_of(purchase, deployment)
    params: Params = {
        "customer": purchase.customer_id,
        "client_reference_id": purchase.order_id,
        "metadata": metadata,
        "success_url": urls.success_url,
        "cancel_url": urls.cancel_url,
        "adaptive_pricing": {"enabled": False},
    }
    if purchase.price_id is not None:
        params |= {
            "mode": "subscription",
            "line_items": [{"price": purchase.price_id, "quantity": 1}],
            "subscription_data": {"metadata": metadata},
        }
    else:
        params |= {"mode": "payment", "line_items": [_line_item(purchase, rules)]}
        params["payment_intent_data"] = {"metadata": metadata, "description": purchase.description}
        if purchase.save_method:
            params["payment_intent_data"]["setup_future_usage"] = "off_session"
        if rules.invoice_creation:
            params["invoice_creation"] = {"enabled": True, "invoice_data": {"metadata": metadata}}
    return params | _taxes(rules)


def _line_item(purchase: Purchase, rules: CheckoutRules) -> Params:
    price: Params = {
        "currency": purchase.currency,
        "unit_amount": purchase.amount_cents,
        "product_data": {"name": purchase.description},
    }
    if rules.automatic_tax:
        price["tax_behavior"] = "exclusive"
    return {"price_data": price, "quantity": 1}


def _taxes(rules: CheckoutRules) -> Params:
    params: Params = {}
    if rules.automatic_tax:
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto", "name": "auto"}}
    if rules.tax_id_collection:
        params |= {"tax_id_collection": {"enabled": True}}
        params["customer_update"] = params.get("customer_update", {}) | {"name": "auto"}
    return params


def setup_params(customer_id: str, urls: ReturnUrls, currency: str, deployment: str) -> Params:
    """Return the parameters of a page at which a payment method is saved."""
    return {
        "mode": "setup",
        "customer": customer_id,
        "currency": currency,
        "metadata": {DEPLOYMENT: deployment},
        "success_url": urls.success_url,
        "cancel_url": urls.cancel_url,
    }


def charge_params(purchase: Purchase, method_id: str, deployment: str) -> Params:
    """Return the parameters of a payment without the payer: it is confirmed at once, and where the payer would have to
    act nothing is left behind that waits for them."""
    return {
        "amount": purchase.amount_cents,
        "currency": purchase.currency,
        "customer": purchase.customer_id,
        "payment_method": method_id,
        "description": purchase.description,
        "metadata": metadata_of(purchase, deployment),
        "off_session": True,
        "confirm": True,
        "error_on_requires_action": True,
        "expand": ["latest_charge"],
    }


def refund_params(payment_id: str, amount_cents: int, name: str, deployment: str) -> Params:
    """Return the parameters of a refund, which is found by its name again."""
    marks = {DEPLOYMENT: deployment, REFUND: name}
    return {"payment_intent": payment_id, "amount": amount_cents, "metadata": marks}


def upgrade_params(item_id: str, price_id: str) -> Params:
    """Return the change of a subscription's price at once: the invoice of the difference is made now, and the change
    waits for its payment (https://docs.stripe.com/billing/subscriptions/pending-updates)."""
    return {
        "items": [{"id": item_id, "price": price_id}],
        "proration_behavior": "always_invoice",
        "payment_behavior": "pending_if_incomplete",
    }


def downgrade_params(schedule: Mapping[str, Any], price_id: str) -> Params:
    """Return the phases of a schedule by which a subscription has another price from its next period on."""
    now = schedule["phases"][0]
    phase: Params = {
        "items": [{"price": each["price"], "quantity": each.get("quantity", 1)} for each in now["items"]],
        "start_date": now["start_date"],
        "end_date": now["end_date"],
        "proration_behavior": "none",
    }
    later: Params = {
        "items": [{"price": price_id, "quantity": 1}],
        "duration": {"interval": "month", "interval_count": 1},
        "proration_behavior": "none",
    }
    return {"phases": [phase, later], "end_behavior": "release", "proration_behavior": "none"}


def resume_params(subscription: Mapping[str, Any]) -> Params:
    """Return what takes back an end that was set in either of the two ways; empty: none was."""
    if subscription.get("cancel_at_period_end"):
        return {"cancel_at_period_end": False}
    return {"cancel_at": ""} if subscription.get("cancel_at") is not None else {}


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


# Codes after which the same method won't ever work (https://docs.stripe.com/declines/codes), and our own for none.
HARD_DECLINES: Final = frozenset(
    {
        "card_not_supported",
        "currency_not_supported",
        "do_not_try_again",
        "expired_card",
        "fraudulent",
        "incorrect_number",
        "invalid_account",
        "invalid_number",
        "lost_card",
        "merchant_blacklist",
        "new_account_information_available",
        "no_payment_method",
        "pickup_card",
        "restricted_card",
        "revocation_of_all_authorizations",
        "revocation_of_authorization",
        "security_violation",
        "stolen_card",
        "stop_payment_order",
        "transaction_not_allowed",
    }
)
NEEDS_PAYER: Final = "authentication_required"
_PAYMENTS: Final[Mapping[str, PaymentStatus]] = {
    "succeeded": "paid",
    "processing": "processing",
    "requires_capture": "processing",
    "requires_action": "requires_action",
    "requires_confirmation": "open",
    "canceled": "canceled",
}
_REFUNDS: Final[Mapping[str, RefundStatus]] = {"succeeded": "succeeded", "failed": "failed", "canceled": "canceled"}
_DISPUTES: Final[Mapping[str, DisputeStatus]] = {
    "warning_needs_response": "warning",
    "warning_under_review": "warning",
    "warning_closed": "warning",
    "won": "won",
    "lost": "lost",
    "prevented": "prevented",
}


def payment_of(
    intent: StripeObject,
    session: StripeObject | None = None,
    invoice: StripeObject | None = None,
    refunds: Sequence[StripeObject] = (),
    disputes: Sequence[StripeObject] = (),
) -> Payment:
    """Return a payment intent with what belongs to it: the checkout session or the invoice that it was made for, its
    refunds and disputes. The session knows what was sold before taxes; a payment of an invoice is marked as that."""
    marks = marks_of(intent) or ({} if invoice is None else invoice_marks(invoice))
    error = intent.get("last_payment_error") or {}
    code = error.get("decline_code") or error.get("code")
    charge = intent.get("latest_charge")
    status, created_at = _payment_status(intent, session, error), moment(intent["created"])
    # An intent lives through declines, perhaps for weeks: the money came with the charge.
    if status == "paid" and isinstance(charge, Mapping):
        created_at = max(created_at, moment(charge["created"]))
    return Payment(
        id=intent["id"],
        status=status,
        amount_cents=_sold(intent, session, invoice),
        total_cents=intent["amount"],
        currency=intent["currency"],
        customer_id=id_of(intent.get("customer")),
        order_id=marks.get(ORDER),
        deployment=marks.get(DEPLOYMENT),
        livemode=intent["livemode"],
        created_at=created_at,
        decline_code=code,
        hard=code in HARD_DECLINES or error.get("advice_code") == "do_not_try_again",
        invoice_id=None if invoice is None else invoice["id"],
        refunds=tuple(sorted(map(refund_of, refunds), key=lambda each: (each.created_at, each.id))),
        disputes=tuple(sorted(map(dispute_of, disputes), key=lambda each: (each.created_at, each.id))),
        receipt_url=charge.get("receipt_url") if isinstance(charge, Mapping) else None,
    )


def _payment_status(intent: StripeObject, session: StripeObject | None, error: StripeObject) -> PaymentStatus:
    """Return where a payment stands. One that waits for a method may still be paid while its page is open; without a
    page nobody is there to give another."""
    if intent["status"] != "requires_payment_method":
        return _PAYMENTS.get(intent["status"], "processing")
    if NEEDS_PAYER in (error.get("code"), error.get("decline_code")):
        return "requires_action"
    if session is None:
        return "failed" if error and marks_of(intent).get(KIND) == "recharge" else "open"
    return {"complete": "failed", "expired": "canceled"}.get(session["status"], "open")  # type: ignore[return-value]


def _sold(intent: StripeObject, session: StripeObject | None, invoice: StripeObject | None) -> int:
    """Return what was sold, in cents, before taxes and reductions."""
    if session is not None and session.get("amount_subtotal") is not None:
        return int(session["amount_subtotal"])
    return int(intent["amount"] if invoice is None else max(before_taxes(invoice), 0))


def not_charged(purchase: Purchase, code: str, livemode: bool, now: datetime) -> Payment:
    """Return the payment of a purchase that no payment was made for."""
    return Payment(
        id=f"none_{purchase.order_id}",
        status="requires_action" if code == NEEDS_PAYER else "failed",
        amount_cents=purchase.amount_cents,
        total_cents=purchase.amount_cents,
        currency=purchase.currency,
        customer_id=purchase.customer_id,
        order_id=purchase.order_id,
        deployment=None,
        livemode=livemode,
        created_at=now,
        decline_code=code,
        hard=code in HARD_DECLINES,
    )


def refund_of(refund: StripeObject) -> Refund:
    """Return a refund. One that needs an action of the payer is pending."""
    return Refund(
        refund["id"],
        id_of(refund.get("payment_intent")) or "",
        _REFUNDS.get(refund.get("status") or "", "pending"),
        refund["amount"],
        refund["currency"],
        moment(refund["created"]),
    )


def refund_made(refunds: Sequence[StripeObject], name: str) -> StripeObject | None:
    """Return the refund that was made by a name."""
    return next((each for each in refunds if marks_of(each).get(REFUND) == name), None)


def dispute_of(dispute: StripeObject) -> Dispute:
    """Return a dispute, with the balance transactions that it has made: their amounts are the disputed ones, signed;
    the fee stands beside them and is ours."""
    return Dispute(
        dispute["id"],
        id_of(dispute.get("payment_intent")) or "",
        _DISPUTES.get(dispute["status"], "open"),
        dispute["amount"],
        dispute["currency"],
        moment(dispute["created"]),
        tuple(_movement(each, dispute) for each in dispute.get("balance_transactions") or ()),
    )


def _movement(movement: StripeObject, dispute: StripeObject) -> Movement:
    """Return a balance transaction. Its own currency is that in which we are paid out: where it is another, the
    dispute's amount is what the payer got or gave."""
    amount = movement["amount"]
    if movement["currency"] != dispute["currency"]:
        amount = dispute["amount"] if amount > 0 else -dispute["amount"]
    return Movement(movement["id"], amount, moment(movement["created"]))


def checkout_of(session: StripeObject) -> Checkout:
    """Return a checkout session."""
    marks = marks_of(session)
    return Checkout(
        session["id"],
        session["status"] or "open",
        marks.get(ORDER),
        marks.get(DEPLOYMENT),
        id_of(session.get("customer")),
        id_of(session.get("payment_intent")),
        id_of(session.get("subscription")),
        session["livemode"],
        moment(session["created"]),
        moment(session["expires_at"]),
    )


def customer_of(customer: StripeObject, method: StripeObject | None) -> Customer | None:
    """Return a customer with the method that it would be charged by; None for one that was deleted."""
    if customer.get("deleted"):
        return None
    marks = marks_of(customer)
    return Customer(
        customer["id"],
        marks.get(ACCOUNT),
        marks.get(DEPLOYMENT),
        customer["livemode"],
        moment(customer["created"]),
        None if method is None else method_name(method),
    )


def method_name(method: StripeObject) -> str:
    """Return how a payment method is shown: `visa 4242`, or its type alone."""
    card = method.get("card") if method["type"] == "card" else None
    return method["type"] if card is None else f"{card['brand']} {card['last4']}"
