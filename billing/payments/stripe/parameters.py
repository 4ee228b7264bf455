"""What is sent to Stripe: purchases, pages and changes of subscriptions as parameters of its API. Pure.

Everything that is made carries `metadata`, by which it is recognised as ours later; refunds and disputes see only that
of the payment, invoices only that of the subscription, so that it is given there as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        params |= {"mode": "payment", "line_items": [_line(purchase, rules)]}
        params["payment_intent_data"] = {"metadata": metadata, "description": purchase.description}
        if purchase.save_method:
            params["payment_intent_data"]["setup_future_usage"] = "off_session"
        if rules.invoice_creation:
            params["invoice_creation"] = {"enabled": True, "invoice_data": {"metadata": metadata}}
    return params | _taxes(rules)


def _line(purchase: Purchase, rules: CheckoutRules) -> Params:
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
