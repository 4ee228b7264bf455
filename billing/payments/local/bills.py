"""Subscriptions of the local provider: invoices, renewals, changes and cancellations.

A period is paid in advance by the saved card, or by the one that the payer has shown. What is not paid leaves the
subscription past due, until a button of the portal pays its invoice.
"""

from __future__ import annotations

import calendar
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from billing.payments.local.cards import Card, card_of
from billing.payments.objects import CURRENCY, Event, Invoice, InvoiceLine, ObjectRef, Payment, Subscription
from billing.payments.port import PaymentRefused

if TYPE_CHECKING:
    from datetime import datetime

    from billing.payments.local.provider import LocalProvider
    from billing.payments.local.store import Change
    from billing.payments.port import Purchase

When = Literal["now", "period_end"]


async def subscribe(provider: LocalProvider, change: Change, purchase: Purchase, card: Card) -> Subscription:
    """Begin the subscription of a plan whose first month is paid by a card. Its payment is made anyway."""
    start, end = period_of(change.now, change.now)
    assert purchase.price_id is not None  # noqa: S101  (an order of a plan has one)
    made = Subscription(
        provider.new_id("subscription"),
        "incomplete",
        purchase.customer_id,
        purchase.order_id,
        provider.deployment,
        purchase.price_id,
        start,
        end,
        livemode=False,
        created_at=change.now,
    )
    lines = (_line(provider, "subscription", purchase.amount_cents, purchase.price_id, start, end),)
    invoice = await bill(provider, change, made, lines, card)
    status: Literal["active", "incomplete"] = "active" if invoice.status == "paid" else "incomplete"
    made = replace(made, status=status, latest_invoice_id=invoice.id)
    await provider.store.put(change, made, "subscription.created")
    return made


async def bill(
    provider: LocalProvider, change: Change, subscription: Subscription, lines: tuple[InvoiceLine, ...], card: Card
) -> Invoice:
    """Make an invoice and have it paid by a card, as far as that goes."""
    amount = max(0, sum(line.amount_cents for line in lines))
    invoice = Invoice(
        provider.new_id("invoice"),
        "open",
        subscription.customer_id,
        subscription.id,
        None,
        subscription.order_id,
        provider.deployment,
        amount,
        amount,
        CURRENCY,
        lines,
        livemode=False,
        created_at=change.now,
    )
    invoice = replace(invoice, number=invoice.id[-8:])
    return await pay(provider, change, invoice, card)


async def pay(provider: LocalProvider, change: Change, invoice: Invoice, card: Card) -> Invoice:
    """Have an open invoice paid by a card."""
    if invoice.amount_cents == 0:
        invoice = replace(invoice, status="paid")
    else:
        payment = Payment(
            provider.new_id("payment"),
            card.status,
            invoice.amount_cents,
            invoice.total_cents,
            CURRENCY,
            invoice.customer_id,
            invoice.order_id,
            provider.deployment,
            livemode=False,
            created_at=change.now,
            decline_code=card.decline_code,
            hard=card.hard,
            invoice_id=invoice.id,
        )
        paid = card.status == "paid"
        invoice = replace(
            invoice, status="paid" if paid else "open", payment_id=payment.id, attempts=invoice.attempts + 1
        )
        await provider.store.put(change, payment, f"payment.{payment.status}")
    await provider.store.put(change, invoice, "invoice.paid" if invoice.status == "paid" else "invoice.payment_failed")
    return invoice


async def renew(provider: LocalProvider, subscription_id: str) -> list[Event]:
    """Begin the next period of a subscription whose own is over, or end it; return the events."""
    async with provider.store.change() as change:
        found = await _locked(provider, change, subscription_id)
        if found.period_end > change.now or found.status not in ("active", "past_due"):
            return []
        ends_at = found.ends_at
        if ends_at is not None and ends_at <= found.period_end:
            ended = replace(found, status="canceled", ended_at=ends_at)
            await provider.store.put(change, ended, "subscription.deleted")
            return change.events
        price_id = found.next_price_id or found.price_id
        number = 1
        while period_start(found.created_at, number) <= found.period_end:
            number += 1
        start, end = found.period_end, period_start(found.created_at, number)
        card = card_of((await provider.customer(change, found.customer_id)).method)
        lines = (_line(provider, "subscription", provider.price_of(price_id), price_id, start, end),)
        found = replace(found, price_id=price_id, next_price_id=None, period_start=start, period_end=end)
        invoice = await bill(provider, change, found, lines, card)
        status: Literal["active", "past_due"] = "active" if invoice.status == "paid" else "past_due"
        await provider.store.put(
            change, replace(found, status=status, latest_invoice_id=invoice.id), "subscription.updated"
        )
        return change.events


async def change_plan(
    provider: LocalProvider, change: Change, subscription_id: str, price_id: str, when: When
) -> Subscription:
    """Change a subscription's price: now, with what is left of the month given back and the rest of it charged at once;
    or from the next period on. Raises `PaymentRefused` where the card does not pay the difference."""
    found = await _locked(provider, change, subscription_id)
    try:
        new_cents = provider.price_of(price_id)
    except KeyError as error:
        raise PaymentRefused("There is no such price.") from error
    if when == "period_end":
        found = replace(found, next_price_id=None if price_id == found.price_id else price_id)
        found = replace(found, cancel_at=None, cancel_at_period_end=False)
    elif price_id != found.price_id:
        span = (found.period_start, found.period_end)
        old = prorated_cents(provider.price_of(found.price_id), *span, change.now)
        new = prorated_cents(new_cents, *span, change.now)
        lines = (
            _line(provider, "proration", -old, found.price_id, change.now, found.period_end),
            _line(provider, "proration", new, price_id, change.now, found.period_end),
        )
        found = replace(found, price_id=price_id, next_price_id=None, cancel_at=None, cancel_at_period_end=False)
        card = card_of((await provider.customer(change, found.customer_id)).method)
        if new > old and card.status != "paid":
            raise PaymentRefused("The saved card did not pay the difference: the plan stays as it is.")
        invoice = await bill(provider, change, found, lines, card)
        found = replace(found, latest_invoice_id=invoice.id)
    await provider.store.put(change, found, "subscription.updated")
    return found


async def cancel(provider: LocalProvider, change: Change, subscription_id: str, when: When) -> Subscription:
    """Cancel a subscription. At the period's end it is told by `cancel_at`, as Stripe's portal does it."""
    found = await _locked(provider, change, subscription_id)
    if when == "now":
        found = replace(found, status="canceled", ended_at=change.now)
        await provider.store.put(change, found, "subscription.deleted")
    else:
        found = replace(found, cancel_at=found.period_end, next_price_id=None)
        await provider.store.put(change, found, "subscription.updated")
    return found


async def resume(provider: LocalProvider, change: Change, subscription_id: str) -> Subscription:
    """Take back what was to come at the period's end."""
    found = await _locked(provider, change, subscription_id)
    found = replace(found, cancel_at=None, cancel_at_period_end=False, next_price_id=None)
    await provider.store.put(change, found, "subscription.updated")
    return found


async def pay_overdue(provider: LocalProvider, change: Change, subscription_id: str) -> None:
    """Have the last invoice of a subscription that is past due paid by the card that is saved now."""
    found = await _locked(provider, change, subscription_id)
    ref = ObjectRef("invoice", found.latest_invoice_id or "none")
    invoice = await provider.store.read(change.connection, ref, lock=True)
    if found.status != "past_due" or not isinstance(invoice, Invoice) or invoice.status != "open":
        return
    card = card_of((await provider.customer(change, found.customer_id)).method)
    if (await pay(provider, change, invoice, card)).status == "paid":
        await provider.store.put(change, replace(found, status="active"), "subscription.updated")


async def _locked(provider: LocalProvider, change: Change, subscription_id: str) -> Subscription:
    found = await provider.store.read(change.connection, ObjectRef("subscription", subscription_id), lock=True)
    if not isinstance(found, Subscription) or found.status == "canceled":
        raise PaymentRefused("There is no such subscription, or it has ended.")
    return found


def _line(
    provider: LocalProvider,
    kind: Literal["subscription", "proration"],
    cents: int,
    price_id: str,
    start: datetime,
    end: datetime,
) -> InvoiceLine:
    return InvoiceLine(f"il_{provider.store.new_id()}", kind, cents, price_id, start, end)


def period_start(anchor: datetime, number: int) -> datetime:
    """Return when the `number`-th month since `anchor` begins: on its day, or on the last day of a month without it, so
    that a subscription of January 31 renews on February 28 and on March 31."""
    years, month = divmod(anchor.month - 1 + number, 12)
    year = anchor.year + years
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def period_of(anchor: datetime, at: datetime) -> tuple[datetime, datetime]:
    """Return the month of a subscription that `at` falls in."""
    number = max(0, (at.year - anchor.year) * 12 + at.month - anchor.month)
    if period_start(anchor, number) > at:
        number -= 1
    return period_start(anchor, max(0, number)), period_start(anchor, max(0, number) + 1)


def prorated_cents(cents: int, start: datetime, end: datetime, at: datetime) -> int:
    """Return what of a month's price the rest of the month from `at` on costs, to the cent below."""
    whole, rest = (end - start).total_seconds(), (end - at).total_seconds()
    return int(cents * max(0, int(rest)) // max(1, int(whole)))
