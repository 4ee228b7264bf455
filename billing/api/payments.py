"""/api/billing: setup, portal, checkout, orders, invoices, plans; /api/admin/orders, /api/admin/payments/parked.

And /api/webhooks/stripe, where Stripe delivers events, and /api/admin/payments: what became of them, and the
comparison with the payment provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from billing.api.errors import BadRequest, NotFound
from billing.api.operations import PaymentOperations
from billing.api.requests import listing, moment, page_asked, positive_money, read_bounded
from billing.api.route import Call, serves
from billing.identity.permissions import BILLING_SETUP
from billing.money import NANO_PER_CENT, format_cents
from billing.payments.flows import Wanted
from billing.schemas.payments import (
    AdminOrderShape,
    AdminOrdersQuery,
    ChargeShape,
    ChargesQuery,
    ComparisonShape,
    CreditParked,
    DismissParked,
    InvoiceShape,
    NewCheckout,
    NewComparison,
    NewOrderRefund,
    NewPortal,
    NewSetup,
    OrderRefundShape,
    OrderShape,
    OrdersQuery,
    PageShape,
    ParkedQuery,
    ParkedShape,
    PaymentEventShape,
    PaymentEventsQuery,
    PlanShape,
    PlansShape,
    ReceivedShape,
)

if TYPE_CHECKING:
    from billing.api.services import PaymentOversight
    from billing.payments.assembly import Payments
    from billing.schemas.base import Listing, PageQuery


KEY_HEADER: Final = "Idempotency-Key"
MOST_KEY: Final = 255


def payments_of(call: Call) -> Payments:
    """Return what takes payments. Raises `NotFound` where they are off."""
    found = call.services.payments
    if found is None:
        raise NotFound("This gateway takes no payments: its operator sets PAYMENT_PROVIDER.")
    return found


def may_pay(call: Call) -> bool:
    """Return whether the caller may have the addresses of pages at which the account pays: they need no other key."""
    return BILLING_SETUP in call.caller.scopes


@serves(PaymentOperations.setup_billing)
async def setup_billing(call: Call, body: NewSetup) -> PageShape:
    """Open a page where credit is bought and the payment method kept, or with `save_only` the method kept alone."""
    payments = payments_of(call)
    if body.save_only:
        return PageShape.of(await payments.flows.save_method(call.account_id, body.return_url), order=None)
    wanted = Wanted(
        call.account_id,
        _key(call, body.idempotency_key),
        _amount(body.amount_usd),
        success_url=body.return_url,
        cancel_url=body.return_url,
        save_method=True,
    )
    return PageShape.of_order(await payments.flows.checkout(wanted))


@serves(PaymentOperations.billing_portal)
async def open_portal(call: Call, body: NewPortal) -> PageShape:
    """Open a page where payment methods, invoices and subscriptions are managed."""
    return PageShape.of(await payments_of(call).flows.portal(call.account_id, body.return_url), order=None)


@serves(PaymentOperations.checkout)
async def checkout(call: Call, body: NewCheckout) -> PageShape:
    """Open a page where an amount of credit, or a plan, is bought. The same idempotency key again opens the same."""
    payments, amount_nano = payments_of(call), _amount(body.amount_usd)
    plan = None if body.plan is UNSET else body.plan
    if (amount_nano is None) == (plan is None):
        raise BadRequest("Name amount_usd or plan: one of the two.", "amount_usd")
    wanted = Wanted(
        call.account_id,
        _key(call, body.idempotency_key),
        amount_nano,
        plan=plan,
        success_url=body.success_url or body.return_url,
        cancel_url=body.cancel_url or body.return_url,
        save_method=body.save_method,
    )
    return PageShape.of_order(await payments.flows.checkout(wanted))


@serves(PaymentOperations.own_orders)
async def list_orders(call: Call, query: OrdersQuery) -> Listing[OrderShape]:
    """List the account's orders, newest first."""
    found = payments_of(call).orders
    page = await found.page(*page_asked(query), account_id=call.account_id, status=query.status)
    return listing(page, lambda order: OrderShape.of_order(order, may_pay=may_pay(call)))


@serves(PaymentOperations.own_order)
async def get_order(call: Call) -> OrderShape:
    """Return an order of the account."""
    order = await payments_of(call).orders.get(call.id("order_id"), call.account_id)
    return OrderShape.of_order(order, may_pay=may_pay(call))


@serves(PaymentOperations.invoices)
async def list_invoices(call: Call, query: PageQuery) -> Listing[InvoiceShape]:
    """List the account's invoices, newest first, as the provider last showed them."""
    page = await payments_of(call).orders.invoices(call.account_id, *page_asked(query))
    return listing(page, InvoiceShape.of_invoice)


@serves(PaymentOperations.plans)
async def list_plans(call: Call) -> PlansShape:
    """List the plans, the cheapest first."""
    plans = sorted(call.services.plans.values(), key=lambda plan: (plan.price_nano, plan.id))
    return PlansShape(data=[PlanShape.of_plan(plan) for plan in plans])


@serves(PaymentOperations.orders)
async def list_all_orders(call: Call, query: AdminOrdersQuery) -> Listing[AdminOrderShape]:
    """List orders of all accounts or of one, newest first."""
    found = payments_of(call).orders
    page = await found.page(*page_asked(query), account_id=query.account_id, status=query.status)
    return listing(page, lambda order: AdminOrderShape.of_order(order, may_pay=True))


@serves(PaymentOperations.order)
async def get_any_order(call: Call) -> AdminOrderShape:
    """Return an order of any account."""
    return AdminOrderShape.of_order(await payments_of(call).orders.get(call.id("order_id")), may_pay=True)


@serves(PaymentOperations.refund_order)
async def refund_order(call: Call, body: NewOrderRefund) -> OrderRefundShape:
    """Give money of an order back to the payer, at most what is left of its credit, once for an idempotency key."""
    nano = _amount(body.amount_usd)
    cents, rest = (None, 0) if nano is None else divmod(nano, NANO_PER_CENT)
    if rest:
        raise BadRequest("amount_usd must be whole cents.", "amount_usd")
    given = (call.id("order_id"), cents, body.idempotency_key)
    refund = await payments_of(call).desk.refund(*given, actor=call.actor)
    amount_usd = format_cents(refund.amount_cents)
    return OrderRefundShape(refund_id=refund.id, amount_usd=amount_usd, status=refund.status)


@serves(PaymentOperations.charges)
async def list_charges(call: Call, query: ChargesQuery) -> Listing[ChargeShape]:
    """List what customers were charged: every payment that was paid, newest first."""
    since, until = moment("since", query.since), moment("until", query.until)
    charges = payments_of(call).charges
    page = await charges.page(*page_asked(query), account_id=query.account_id, since=since, until=until)
    return listing(page, ChargeShape.of_charge)


@serves(PaymentOperations.parked)
async def list_parked(call: Call, query: ParkedQuery) -> Listing[ParkedShape]:
    """List money that came in and could not be credited, newest first."""
    page = await payments_of(call).orders.parked(*page_asked(query), state=query.state)
    return listing(page, ParkedShape.of_parked)


@serves(PaymentOperations.credit_parked)
async def credit_parked(call: Call, body: CreditParked) -> ParkedShape:
    """Give parked money to its account, or to this one where it has none."""
    given = (call.id("parked_id"), body.account_id, body.note or "")
    return ParkedShape.of_parked(await payments_of(call).desk.credit(*given, actor=call.actor))


@serves(PaymentOperations.dismiss_parked)
async def dismiss_parked(call: Call, body: DismissParked) -> ParkedShape:
    """Decide that parked money is not credited."""
    return ParkedShape.of_parked(
        await payments_of(call).desk.dismiss(call.id("parked_id"), body.note, actor=call.actor)
    )


def _key(call: Call, of_body: str | None) -> str:
    """Return the idempotency key of a call, of its body or its header; without one, one that no other call has."""
    given = call.request.headers.get(KEY_HEADER)
    if given is not None and not (0 < len(given) <= MOST_KEY and given.isascii() and given.isprintable()):
        raise BadRequest(f"{KEY_HEADER} must be 1 to {MOST_KEY} printable ASCII characters.", KEY_HEADER)
    if of_body is not None and given is not None and of_body != given:
        raise BadRequest(f"idempotency_key and the header {KEY_HEADER} differ: send one of them.", "idempotency_key")
    return of_body or given or f"call:{call.services.new_id()}"


def _amount(given: object) -> int | None:
    return None if given is UNSET else positive_money("amount_usd", given)


STRIPE: Final = "stripe"


def _oversight(call: Call) -> PaymentOversight:
    found = call.services.payment_oversight
    if found is None:
        raise NotFound("This gateway takes no payments.")
    return found


@serves(PaymentOperations.receive_stripe_event)
async def receive_stripe_event(call: Call) -> ReceivedShape:
    """Take in an event of Stripe's, whose body is signed as it is (`Stripe-Signature`). It is stored before it is
    acknowledged, once by its id, and looked into afterwards; types that we don't act on are acknowledged, too."""
    found = call.services.payment_oversight
    if found is None or found.events.provider != STRIPE:
        raise NotFound("Stripe is not this gateway's payment provider.")
    body = await read_bounded(call.request, call.services.max_body_bytes)
    headers = {name.lower(): value for name, value in call.request.headers.items()}
    await found.events.receive(body, headers)
    return ReceivedShape()


@serves(PaymentOperations.payment_events)
async def list_payment_events(call: Call, query: PaymentEventsQuery) -> Listing[PaymentEventShape]:
    """List events of the payment provider, those that came last first."""
    page = await _oversight(call).events.page(*page_asked(query), state=query.state)
    return listing(page, PaymentEventShape.of_event)


@serves(PaymentOperations.replay_payment_event)
async def replay_payment_event(call: Call) -> PaymentEventShape:
    """Process an event again: the object that it names is fetched anew, and nothing is credited twice."""
    return PaymentEventShape.of_event(await _oversight(call).events.replay(call.id("event_id"), call.actor))


@serves(PaymentOperations.compare_payments)
async def compare_payments(call: Call, body: NewComparison) -> ComparisonShape:
    """Have everything that was made since then compared with the payment provider, soon, by one gateway. What differs
    is brought up to date; GET tells what still differs."""
    since = moment("since", body.since)
    if since is None or since.timestamp() > call.services.clock():
        raise BadRequest("since must be in the past.", "since")
    comparisons = _oversight(call).comparisons
    await comparisons.ask(since, call.actor)
    return ComparisonShape.of_comparison(comparisons.provider, await comparisons.last(), await comparisons.listed())


@serves(PaymentOperations.payment_comparison)
async def payment_differences(call: Call) -> ComparisonShape:
    """Return the last comparison with the payment provider, and what still differs."""
    comparisons = _oversight(call).comparisons
    return ComparisonShape.of_comparison(comparisons.provider, await comparisons.last(), await comparisons.listed())
