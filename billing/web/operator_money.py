"""Operators: payments from order to transfer, what could not be credited, plans and margins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.oversight import get_margin
from billing.api.payments import (
    get_any_order,
    list_all_orders,
    list_charges,
    list_parked,
    list_payment_events,
    list_plans_in_force,
    payment_differences,
    refund_order,
    replay_payment_event,
)
from billing.api.route import Table
from billing.schemas.margin import MarginQuery
from billing.schemas.payments import (
    AdminOrdersQuery,
    ChargesQuery,
    CreditParked,
    DismissParked,
    NewOrderRefund,
    ParkedQuery,
    PaymentEventsQuery,
)
from billing.web.lists import Act, Column, Field, Figure, Form, Listed, detailed, listed
from billing.web.pages import NOTICES, Page, View, Visit, Who

if TYPE_CHECKING:
    from aiohttp import web

NOTICES.update(
    {
        "refund-asked": "The provider was asked to refund it: the order shows when it has.",
        "parked-done": "Done: it no longer waits.",
        "event-again": "The event will be applied again within seconds.",
    }
)
TABS: Final = (
    ("Revenue", "/operator/payments/revenue"),
    ("Charges", "/operator/payments"),
    ("Refunds and disputes", "/operator/payments/returns"),
    ("Subscriptions", "/operator/payments/subscriptions"),
    ("Orders", "/operator/payments/orders"),
    ("Not credited", "/operator/payments/parked"),
    ("Events", "/operator/payments/events"),
    ("Differences", "/operator/payments/differences"),
)
ORDER: Final = "/operator/payments/orders/{order_id}"
_NO_PROVIDER: Final = "This gateway has no payment provider that sends events."
PARKED: Final = "/operator/payments/parked"
_CHARGES: Final = (
    Column("Time", "created_at", "time"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("For", "kind"),
    Column("Plan", "plan"),
    Column("Paid", "amount_usd", "money"),
    Column("Refunded", "refunded_usd", "money"),
    Column("Disputed", "disputed_usd", "money"),
    Column("Order", "order_id", "code", "/operator/payments/orders/{order_id}"),
    Column("Payment at the provider", "id", "code"),
)
# Of payments that have failed, in place of what was paid and went back.
_TRIED: Final = Column("Amount", "amount_usd", "money")
_WHY: Final = Column("Why", "reason", "state")
_STATUSES: Final = ("open", "paid", "credited", "failed", "expired", "refunded", "disputed", "parked")
_ORDERS: Final = (
    Column("Time", "created_at", "time"),
    Column("Order", "id", "code", "/operator/payments/orders/{id}"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("For", "kind"),
    Column("Amount", "amount_usd", "money"),
    Column("Refunded", "refunded_usd", "money"),
    Column("Status", "status", "state"),
)
_ORDER: Final = (
    *_ORDERS,
    Column("Plan", "plan"),
    Column("Why", "reason"),
    Column("Provider", "provider"),
    Column("Payment at the provider", "payment_id", "code"),
    Column("Subscription there", "subscription_id", "code"),
    Column("Transfer in the ledger", "transaction_id", "code"),
    Column("Disputed", "disputed_usd", "money"),
    Column("Changed", "updated_at", "time"),
    Column("Its page ends", "expires_at", "time"),
)
_EVENTS: Final = (
    Column("Time", "received_at", "time"),
    Column("Event", "id", "code"),
    Column("Type", "type"),
    Column("About", "object_id", "code"),
    Column("State", "state", "state"),
    Column("Tries", "attempts", "count"),
    Column("Why", "error"),
)
_PARKED: Final = (
    Column("Number", "id", "code"),
    Column("Time", "created_at", "time"),
    Column("Payment", "payment_id", "code"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Order", "order_id", "code", "/operator/payments/orders/{order_id}"),
    Column("Amount", "amount_usd", "money"),
    Column("Why", "reason"),
)
_DIFFERENCES: Final = (
    Column("Found", "found_at", "time"),
    Column("What", "object", "state"),
    Column("At the provider", "object_id", "code"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Order", "order_id", "code", "/operator/payments/orders/{order_id}"),
    Column("Difference", "difference"),
)
_PLANS: Final = (
    Column("Plan", "name", "text", "/operator/plans/{id}"),
    Column("Id", "id", "code"),
    Column("A month", "price_usd", "money"),
    Column("Included credit", "included_credit_usd", "money"),
    Column("Users", "users"),
    Column("At once", "max_parallel_requests"),
    Column("Models", "models"),
    Column("Upgrade", "upgrade_to"),
)
_MARGINS: Final = (
    Column("Requests", "events", "count"),
    Column("Charge", "charge_usd", "money"),
    Column("Cost", "cost_usd", "money"),
    Column("Margin", "margin_usd", "money"),
    Column("Margin %", "margin_percent", "number"),
    Column("Refunded", "returned_usd", "money"),
    Column("Estimated", "estimated_events", "count"),
    Column("Unpriced", "unpriced_events", "count"),
    Column("Voided", "voided_events", "count"),
)


async def charges(visit: Visit) -> View:
    """Show what customers were charged, newest first."""
    found = await list_charges(visit.call, visit.query(ChargesQuery))
    filters = (
        Field("account_id", "Account", "search", picks="account"),
        Field("status", "Which", options=(("paid", "paid"), ("failed", "failed"))),
        Field("since", "From", "date"),
        Field("until", "Until", "date", hint="the day after the last one"),
    )
    failed = visit.request.query.get("status") == "failed"
    columns = (*_CHARGES[:4], _TRIED, _WHY, *_CHARGES[7:]) if failed else _CHARGES
    empty = "No payment has failed then." if failed else "Nobody has paid anything then."
    table = Listed("Newest first", columns, found.data, found.next_cursor, empty=empty)
    return listed("Payments", table, filters=filters, tabs=TABS)


async def orders(visit: Visit) -> View:
    """Show orders of all accounts, newest first."""
    found = await list_all_orders(visit.call, visit.query(AdminOrdersQuery))
    filters = (
        Field("account_id", "Account", "search", picks="account"),
        Field("status", "Status", options=_choice(_STATUSES)),
    )
    table = Listed("Newest first", _ORDERS, found.data, found.next_cursor, empty="Nothing was ordered like that.")
    return listed("Payments", table, filters=filters, tabs=TABS)


def _choice(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return (("", "any"), *((name, name.replace("_", " ")) for name in names))


async def order(visit: Visit) -> View:
    """Show an order, its state at the provider, and its transfers in the ledger."""
    found = await get_any_order(visit.call)
    key = {"idempotency_key": visit.typed("idempotency_key") or visit.services.new_id()}
    amount = Field("amount_usd", "Amount (USD)", hint="empty: all that is left of it")
    refund = Form(
        "Refund it", f"/operator/payments/orders/{found.id}/refund", "Refund", (amount,), hidden=key, danger=True
    )
    return detailed(f"Order {found.id}", found, _ORDER, forms=(refund,) if found.payment_id else ())


async def refund(visit: Visit) -> web.Response:
    """Give money of an order back."""
    body = visit.body(
        NewOrderRefund, amount_usd=visit.field("amount_usd"), idempotency_key=visit.field("idempotency_key")
    )
    await refund_order(visit.call, body)
    return visit.see(f"/operator/payments/orders/{visit.call.id('order_id')}", "refund-asked")


async def parked(visit: Visit) -> View:
    """Show money that came and could not be credited, which waits for somebody's decision."""
    found = await list_parked(visit.call, visit.query(ParkedQuery))
    credit = Act("Credit its account", "/operator/payments/parked/{id}/credit", only="state", among=("parked",))
    table = Listed("Newest first", _PARKED, found.data, found.next_cursor, (credit,), empty="Nothing waits.")
    number = Field("parked_id", "Number", hint="of a row above", required=True)
    note = Field("note", "Why", hint="kept with the decision", required=True)
    forms = (
        Form(
            "Credit another account",
            f"{PARKED}/credit",
            "Credit",
            (number, Field("account_id", "Account", picks="account"), note),
        ),
        Form("Do not credit one", f"{PARKED}/dismiss", "Dismiss", (number, note), danger=True),
    )
    state = Field("state", "State", options=tuple((name, name) for name in ("parked", "credited", "dismissed")))
    intro = "Money that came in and could not be credited: it waits here for somebody's decision."
    return listed("Not credited", table, intro=intro, tabs=TABS, forms=forms if found.data else (), filters=(state,))


async def credit(visit: Visit) -> web.Response:
    """Credit parked money: to its own account, or to the one that the form names."""
    parked_id = visit.request.match_info.get("parked_id") or visit.field("parked_id") or ""
    body = visit.body(CreditParked, account_id=visit.field("account_id"), note=visit.field("note"))
    admin = visit.call.payments.admin
    await admin.credit(parked_id, body.account_id, body.note or "", actor=visit.call.actor)
    return visit.see(PARKED, "parked-done")


async def dismiss(visit: Visit) -> web.Response:
    """Decide that parked money is not credited."""
    body = visit.body(DismissParked, note=visit.field("note"))
    admin = visit.call.payments.admin
    await admin.dismiss(visit.field("parked_id") or "", body.note, actor=visit.call.actor)
    return visit.see(PARKED, "parked-done")


async def events(visit: Visit) -> View:
    """Show what the payment provider has told, and what became of it."""
    if visit.services.payment_oversight is None:
        return listed("Events of the payment provider", Listed("Events", _EVENTS, (), empty=_NO_PROVIDER), tabs=TABS)
    found = await list_payment_events(visit.call, visit.query(PaymentEventsQuery))
    again = Act("Apply again", "/operator/payments/events/{id}/replay")
    table = Listed("Newest first", _EVENTS, found.data, found.next_cursor, (again,), empty="No events yet.")
    states = Field("state", "State", options=_choice(("waiting", "done", "ignored", "parked")))
    return listed("Events of the payment provider", table, tabs=TABS, filters=(states,))


async def replay(visit: Visit) -> web.Response:
    """Process an event again."""
    await replay_payment_event(visit.call)
    return visit.see("/operator/payments/events", "event-again")


async def differences(visit: Visit) -> View:
    """Show where the payment provider and the ledger still differ."""
    if visit.services.payment_oversight is None:
        return listed("Differences", Listed("Differences", _DIFFERENCES, (), empty=_NO_PROVIDER), tabs=TABS)
    found = await payment_differences(visit.call)
    table = Listed("What still differs", _DIFFERENCES, found.differences, empty="Nothing differs.")
    figures = Figure("Compared since", found.since, "time"), Figure("Ended", found.ended_at, "time")
    return listed(f"Compared with {found.provider}", table, tabs=TABS, figures=figures)


async def plans(visit: Visit) -> View:
    """Show the plans in force."""
    found = await list_plans_in_force(visit.call)
    table = Listed("From plans.yaml, in force on every gateway", _PLANS, found.data)
    return listed("Plans", table)


async def margins(visit: Visit) -> View | Table:
    """Show charges less costs, or return them as CSV."""
    found = await get_margin(visit.call, visit.query(MarginQuery))
    if isinstance(found, Table):
        return found
    of_account = found.by == "account"
    group = Column(
        found.by, "group", "name" if of_account else "text", "/operator/accounts/{group}" if of_account else None
    )
    total = found.total
    figures = (
        Figure("Charge", total.charge_usd, "money"),
        Figure("Cost", total.cost_usd, "money"),
        Figure("Margin", total.margin_usd, "money", "" if total.margin_percent is None else f"{total.margin_percent}%"),
        Figure("Refunded", total.returned_usd, "money"),
    )
    ways = tuple((name, name) for name in ("account", "model", "provider", "day"))
    filters = (
        Field("by", "By", value=found.by, options=ways),
        *(Field(name, label, "date", getattr(found, name)) for name, label in (("since", "From"), ("until", "Before"))),
    )
    table = Listed(
        "The highest charge first", (group, *_MARGINS), found.data, found.next_cursor, empty="Nothing was used."
    )
    return listed("Margin", table, filters=filters, figures=figures, csv=True, intro="Days are those of UTC.")


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/payments", charges, Who.operator),
    Page("GET", "/operator/payments/orders", orders, Who.operator),
    Page("GET", ORDER, order, Who.operator),
    Page("POST", f"{ORDER}/refund", refund, Who.operator, again=order),
    Page("GET", PARKED, parked, Who.operator),
    Page("POST", f"{PARKED}/credit", credit, Who.operator, again=parked),
    Page("POST", f"{PARKED}/dismiss", dismiss, Who.operator, again=parked),
    Page("POST", f"{PARKED}/{{parked_id}}/credit", credit, Who.operator, again=parked),
    Page("GET", "/operator/payments/events", events, Who.operator),
    Page("POST", "/operator/payments/events/{event_id}/replay", replay, Who.operator, again=events),
    Page("GET", "/operator/payments/differences", differences, Who.operator),
    Page("GET", "/operator/plans", plans, Who.operator),
    Page("GET", "/operator/margin", margins, Who.operator, csv=True),
)
