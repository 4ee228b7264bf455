"""Stripe's payments, refunds, disputes, pages and customers as neutral objects; `bills` has the others. Pure.

As API 2026-10-28.endive has them: charges list no refunds, and intents don't name the invoice that they pay.
Enumerations are open at Stripe's side: a state that is not known here is taken for one that moves no money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from billing.payments.objects import (
    Checkout,
    Customer,
    Dispute,
    DisputeStatus,
    Movement,
    Payment,
    PaymentStatus,
    Refund,
    RefundStatus,
)
from billing.payments.stripe.bills import StripeObject, before_taxes, id_of, invoice_marks, marks_of, moment
from billing.payments.stripe.parameters import ACCOUNT, DEPLOYMENT, KIND, ORDER, REFUND

if TYPE_CHECKING:
    from billing.payments.port import Purchase

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
    return Payment(
        id=intent["id"],
        status=_payment_status(intent, session, error),
        amount_cents=_sold(intent, session, invoice),
        total_cents=intent["amount"],
        currency=intent["currency"],
        customer_id=id_of(intent.get("customer")),
        order_id=marks.get(ORDER),
        deployment=marks.get(DEPLOYMENT),
        livemode=intent["livemode"],
        created_at=moment(intent["created"]),
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
