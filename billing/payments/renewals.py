"""Subscriptions and invoices applied, for `billing.payments.apply`: plans, included credit, and their notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing.database.connection import queries
from billing.money import format_usd
from billing.notices.emit import emit
from billing.payments import orders
from billing.payments.apply import NOBODY, After, Handler, Owner, account_of
from billing.payments.in_force import PAID
from billing.payments.objects import NANO_PER_CENT, Invoice, ObjectRef, Subscription
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.database.connection import Connection
    from billing.payments.subscriptions import Subscriptions

_query = queries("billing.payments")


def subscription_handler(provider: str, subscriptions: Subscriptions) -> Handler:
    """Return what applies a subscription: the plan of its account, and the order that began it."""

    async def apply(connection: Connection, before: Subscription | None, now: Subscription, after: After) -> Owner:
        account_id = await account_of(connection, provider, now.customer_id)
        if account_id is None:
            return NOBODY
        order = None  # its row is locked before the account's, as payments do
        if now.order_id is not None:
            order = await connection.fetchrow(_query("orders_lock"), now.order_id)
        await subscriptions.apply(connection, provider, account_id, now)
        after.accounts.add(account_id)
        whose = None if order is None or order["credited_at"] is not None else order["account_id"]
        if order is not None and whose == account_id and now.status in PAID:
            await orders.credited(connection, order["id"], subscription_id=now.id)
        return Owner(account_id, now.order_id)

    return apply


def invoice_handler(provider: str, subscriptions: Subscriptions) -> Handler:
    """Return what applies an invoice: the credit that its lines bring once it is paid. Its subscription is looked at
    next."""

    async def apply(connection: Connection, before: Invoice | None, now: Invoice, after: After) -> Owner:
        account_id = None if now.customer_id is None else await account_of(connection, provider, now.customer_id)
        if account_id is None:
            return NOBODY
        if await subscriptions.apply_invoice(connection, provider, account_id, now):
            after.balances.add(account_id)
            if now.payment_id is not None:  # what was refunded or disputed before takes the credit back now
                after.refs.append(ObjectRef("payment", now.payment_id))
        await _tell(connection, account_id, now)
        if now.subscription_id is not None:
            after.refs.append(ObjectRef("subscription", now.subscription_id))
        return Owner(account_id, now.order_id)

    return apply


async def _tell(connection: Connection, account_id: str, invoice: Invoice) -> None:
    """Tell of a payment that came or failed: once, and of each failed attempt once."""
    data = {
        "invoice_id": invoice.id,
        "amount_usd": format_usd(invoice.total_cents * NANO_PER_CENT),
        "url": invoice.hosted_url,
    }
    if invoice.status == "paid" and invoice.total_cents > 0:
        await emit(connection, account_id, "payment.succeeded", data, once=invoice.id)
    elif invoice.status == "open" and invoice.attempts > 0:
        again = invoice.next_attempt_at
        data["next_attempt_at"] = None if again is None else rfc3339(again)
        await emit(connection, account_id, "payment.failed", data, once=f"{invoice.id}:{invoice.attempts}")
