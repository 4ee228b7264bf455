"""Credit: what there is of it in which lots, buying more, auto-recharge in words, coupons, orders, invoices, and all
that has changed the balance; and the plans side by side, with what a change charges before it is chosen.

A form that begins a payment ends on the page of its order, which has the link to the provider's page: a form may not
lead there itself (`form-action`). That page looks again by itself until the order is credited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from billing.api.credit import get_auto_recharge, list_lots, put_auto_recharge, redeem_coupon
from billing.api.payments import (
    change_subscription,
    checkout,
    get_billing_status,
    get_order,
    get_plan_prices,
    list_invoices,
    list_orders,
    list_plans,
    list_receipts,
    open_portal,
    setup_billing,
)
from billing.api.requests import NotFound
from billing.api.route import Table
from billing.api.usage import get_balance, list_transactions
from billing.identity.providers import is_path
from billing.money import format_cents
from billing.pages import MAX_LIMIT
from billing.payments.in_force import Outlook, outlook
from billing.permissions import BILLING_READ, BILLING_SETUP
from billing.schemas.base import PageQuery
from billing.schemas.credit import CouponCodeBody, LotsQuery, RechargeBody
from billing.schemas.payments import NewCheckout, NewPortal, NewSetup, OrdersQuery, PlanChange
from billing.schemas.usage import TransactionsQuery
from billing.web.forms import may_return, to_order
from billing.web.pages import NOTICES, Page, View, Visit, does, filled, page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from billing.payments.assembly import Payments
    from billing.schemas.credit import LotShape

# Where the payment provider sends payers back to.
NEWEST: Final = "/credit/orders/newest"
# Orders that the first page has.
LAST: Final = 5
# Dollars that are proposed, as far as that much may be bought at once.
AMOUNTS: Final = ("10", "25", "50", "100")

# States of a bill that is not paid yet.
DUE: Final = ("open", "uncollectible")
# States of an order in which nothing comes by itself any more.
SETTLED: Final = ("credited", "refunded", "disputed", "expired")
# Kinds of transactions that are chosen from: the value, and its words.
CHANGES, EVERYTHING = "changes", "all"
KINDS: Final = (
    (CHANGES, "Credit and money"),
    ("purchase", "Purchases"),
    ("subscription", "Included in plans"),
    ("grant", "Grants and coupons"),
    ("refund", "Refunds"),
    ("dispute", "Disputes"),
    ("expiry", "Expired"),
    ("adjustment", "Adjustments"),
    (EVERYTHING, "All, with usage"),
)
NOTICES.update(
    {
        "coupon-redeemed": "The coupon is redeemed, and its credit added.",
        "recharge-on": "Auto-recharge is on.",
        "recharge-off": "Auto-recharge is off: nothing is charged automatically.",
    }
)


async def credit(visit: Visit) -> View:
    """Show the balance by lots, and all by which there is more of it."""
    payments = visit.services.payments
    lots = await list_lots(visit.call, LotsQuery(open="true", limit=MAX_LIMIT))
    values = {
        "balance": await get_balance(visit.call),
        "lots": in_order(lots.data),
        "more_lots": lots.next_cursor is not None,
        "sells": payments is not None,
        "recharge": await get_auto_recharge(visit.call),
        "method": await _method(visit),
        "orders": [] if payments is None else (await list_orders(visit.call, OrdersQuery(limit=LAST))).data,
        "once": visit.services.new_id(),
        "back": _back(visit),
        **_bounds(payments),
    }
    return View("credit.html", values)


def _back(visit: Visit) -> str:
    """Return the page that somebody came from to pay, which the page of the order leads back to; empty: none."""
    asked = visit.typed("back") or visit.request.query.get("back", "")
    return asked if is_path(asked) else ""


def in_order(lots: Sequence[LotShape]) -> list[LotShape]:
    """Return lots in the order in which requests draw on them."""
    return sorted(
        lots, key=lambda lot: (lot.priority, lot.expires_at or "~", not lot.promotional, lot.created_at, lot.id)
    )


def _bounds(payments: Payments | None) -> dict[str, Any]:
    """Return what may be bought at once, in dollars."""
    if payments is None:
        return {"amounts": [], "least": None, "most": None, "usual": None}
    rules = payments.flows.rules
    fits = [each for each in AMOUNTS if rules.min_cents <= int(each) * 100 <= rules.max_cents]
    least, most, usual = map(format_cents, (rules.min_cents, rules.max_cents, rules.setup_cents))
    return {"amounts": fits, "least": least, "most": most, "usual": usual}


async def _method(visit: Visit) -> str | None:
    """Return what the saved payment method is called; None where there is none."""
    payments = visit.services.payments
    return None if payments is None else await payments.customers.method(visit.account_id)


async def buy(visit: Visit) -> web.Response:
    """Begin an order of credit. A form that is sent twice begins one."""
    given = visit.field("amount_usd")
    body = visit.body(
        NewCheckout,
        amount_usd=given or "0",
        return_url=may_return(visit, f"{NEWEST}{_asked_back(visit)}"),
        save_method=visit.field("save_method") is not None,
        idempotency_key=f"console:{visit.typed('once')}:{given}",
    )
    return to_order(visit, (await checkout(visit.call, body)).order, back=_back(visit))


def _asked_back(visit: Visit) -> str:
    back = _back(visit)
    return f"?{urlencode({'back': back})}" if back else ""


async def newest(visit: Visit) -> web.Response:
    """Lead to the order that was made last: the payment provider sends payers here, who have just paid it."""
    found = (await list_orders(visit.call, OrdersQuery(limit=1))).data
    return to_order(visit, found[0] if found else None, back=_back(visit))


async def order(visit: Visit) -> View:
    """Show an order: where it is paid, and what has become of it."""
    found = await get_order(visit.call)
    return View("order.html", {"order": found, "settled": found.status in SETTLED, "back": _back(visit)})


async def orders(visit: Visit) -> View:
    """Show orders, newest first."""
    return View("orders.html", {"page": await list_orders(visit.call, visit.query(OrdersQuery))})


async def invoices(visit: Visit) -> View:
    """Show what was paid, newest first, with the provider's documents, and bills that are not paid yet."""
    bills = await list_invoices(visit.call, PageQuery(limit=MAX_LIMIT))
    due = [each for each in bills.data if each.status in DUE]
    return View("invoices.html", {"due": due, "page": await list_receipts(visit.call, visit.query(PageQuery))})


async def transactions(visit: Visit) -> View | Table:
    """Show what has changed the balance, newest first: what was bought, given and taken, unless all is asked for, with
    the balance after each; or give it as a table."""
    kind = visit.request.query.get("kind", CHANGES)
    asked = {} if kind in ("", EVERYTHING) else {"kind": kind}
    given = {name: value for name, value in visit.request.query.items() if value and name != "kind"}
    found = await list_transactions(visit.call, visit.query_of({**given, **asked}, TransactionsQuery))
    if isinstance(found, Table):
        return found
    return View("transactions.html", {"page": found, "kind": kind or EVERYTHING, "kinds": KINDS})


async def recharge(visit: Visit) -> View:
    """Show the form of auto-recharge."""
    values = {"recharge": await get_auto_recharge(visit.call), "method": await _method(visit)}
    return View("recharge.html", values | _bounds(visit.services.payments))


async def put_recharge(visit: Visit) -> web.Response:
    """Turn auto-recharge on with its amounts, or off with those that it had."""
    amounts = {name: visit.field(name) or "" for name in ("threshold_usd", "amount_usd", "monthly_cap_usd")}
    body = visit.body(RechargeBody, enabled=visit.typed("enabled") == "on", **amounts)
    await put_auto_recharge(visit.call, body)
    return visit.see("/credit", "recharge-on" if body.enabled else "recharge-off")


async def portal(visit: Visit) -> View:
    """Show the link to where payment methods, invoices and subscriptions are managed."""
    page = await open_portal(visit.call, visit.body(NewPortal, return_url=may_return(visit, "/credit")))
    return View("link.html", {"page": page, "what": "Payment methods, invoices and subscriptions"})


async def save_method(visit: Visit) -> View:
    """Show the link to where a payment method is saved, with nothing charged."""
    body = visit.body(NewSetup, return_url=may_return(visit, "/credit/auto-recharge"), save_only=True)
    return View("link.html", {"page": await setup_billing(visit.call, body), "what": "Save a payment method"})


NOTICES.update({"plan-changed": "Your plan is changed, as shown below."})


async def _outlooks(visit: Visit) -> dict[str, Outlook]:
    """Return what choosing each plan does, the cheapest first."""
    services, payments = visit.services, visit.services.payments
    current = None if payments is None else await payments.changes.current(visit.account_id)
    mine = services.default_plan if visit.account is None else visit.account.plan
    plans = dict(services.plans)
    ordered = sorted(plans.values(), key=lambda each: (each.price_nano, each.id))
    return {each.id: outlook(each, current, mine, plans, visit.now) for each in ordered}


async def _chosen(visit: Visit) -> Outlook:
    """Return what choosing the plan of the path does. Raises `NotFound`."""
    found = (await _outlooks(visit)).get(visit.request.match_info["plan_id"])
    if found is None:
        raise NotFound("There is no such plan.")
    return found


async def plans(visit: Visit) -> View:
    """Show the account's plan, what is left of it, and all plans side by side."""
    values = {
        "status": await get_billing_status(visit.call),
        "plans": (await list_plans(visit.call)).data,
        "outlooks": await _outlooks(visit),
        "sells": visit.services.payments is not None,
    }
    return View("plans.html", values)


async def plan(visit: Visit) -> View:
    """Show what choosing a plan changes today and at renewal, and the button that does it."""
    found = await _chosen(visit)
    values = {
        "status": await get_billing_status(visit.call),
        "outlook": found,
        "sells": visit.services.payments is not None,
        "once": visit.services.new_id(),
    }
    return View("plan.html", values)


async def plan_prices(visit: Visit) -> View:
    """Show the price list of a plan."""
    found = await get_plan_prices(visit.call)
    return View("models.html", {"models": found.data, "plan": found.name})


async def choose(visit: Visit) -> web.Response:
    """Change to a plan: by an order, where there is no subscription yet."""
    found = await _chosen(visit)
    plan_id = found.plan.id
    if found.how != "buy":
        await change_subscription(visit.call, visit.body(PlanChange, plan=plan_id))
        return visit.see("/plan", "plan-changed")
    key = f"console:{visit.typed('once')}:{plan_id}"
    body = visit.body(
        NewCheckout, plan=plan_id, return_url=may_return(visit, NEWEST), save_method=True, idempotency_key=key
    )
    return to_order(visit, (await checkout(visit.call, body)).order)


_COUPON: Final = does(redeem_coupon, "/credit", "coupon-redeemed", filled(CouponCodeBody, code=""))
ROUTES: Final[tuple[Page, ...]] = (
    *page(
        "/credit",
        credit,
        ("/buy", buy),
        ("/coupon", _COUPON),
        ("/portal", portal),
        scope=BILLING_READ,
        changes=BILLING_SETUP,
    ),
    Page("POST", "/credit/method", save_method, scope=BILLING_SETUP, again=recharge),
    *page("/credit/auto-recharge", recharge, ("", put_recharge), scope=BILLING_READ, changes=BILLING_SETUP),
    Page("GET", "/credit/orders", orders, scope=BILLING_READ),
    Page("GET", NEWEST, newest, scope=BILLING_READ),
    Page("GET", "/credit/orders/{order_id}", order, scope=BILLING_READ),
    Page("GET", "/credit/invoices", invoices, scope=BILLING_READ),
    Page("GET", "/credit/transactions", transactions, scope=BILLING_READ, csv=True),
    Page("GET", "/plan", plans, scope=BILLING_READ),
    Page("GET", "/plan/{plan_id}/prices", plan_prices, scope=BILLING_READ),
    *page("/plan/{plan_id}", plan, ("", choose), scope=BILLING_READ, changes=BILLING_SETUP),
)
