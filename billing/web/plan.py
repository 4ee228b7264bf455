"""The plan: all of them side by side, what a change costs today and at renewal before it is chosen, and what is left of
the one that there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aiohttp import web

from billing.api.errors import NotFound
from billing.api.payments import checkout, list_plans
from billing.api.plans import change_subscription, get_billing_status
from billing.identity.permissions import BILLING_READ, BILLING_SETUP
from billing.payments.in_force import plan_change
from billing.payments.objects import NANO_PER_CENT
from billing.shapes.payments import NewCheckout
from billing.shapes.subscriptions import PlanChange
from billing.web.forms import may_return, to_order
from billing.web.visits import NOTICES, Page, View, Visit

if TYPE_CHECKING:
    from billing.payments.in_force import Change, Seen
    from billing.plans import Plan

NOTICES.update({"plan-changed": "The plan is changed, as it says below."})


@dataclass(frozen=True, slots=True)
class Outlook:
    """What choosing a plan does: `how` it comes, what is paid today, in nano-USD (`about`, where the provider reckons
    it by the part of the period that is left), what each renewal costs, and when the next one is."""

    plan: Plan
    how: Change | str
    today_nano: int = 0
    about: bool = False
    renews_at: datetime | None = None


def outlook(plan: Plan, current: Seen | None, mine: str, plans: dict[str, Plan], now: datetime) -> Outlook:
    """Return what choosing a plan does, for an account on the plan `mine` by the subscription `current`. Pure."""
    if current is None:
        if plan.id == mine or not plan.price_nano:
            return Outlook(plan, "nothing")
        return Outlook(plan, "buy", plan.price_nano)
    how = plan_change(current, plan, plans)
    if plan.id == current.plan and how == "nothing":
        return Outlook(plan, how, renews_at=current.period_end)
    if how != "now":
        return Outlook(plan, how, renews_at=current.period_end)
    have = plans.get(current.plan or "")
    more_nano = plan.price_nano - (0 if have is None else have.price_nano)
    whole_s = int((current.period_end - current.period_start).total_seconds())
    left_s = min(max(0, int((current.period_end - now).total_seconds())), whole_s)
    cents = 0 if whole_s <= 0 else (more_nano * left_s // whole_s + NANO_PER_CENT // 2) // NANO_PER_CENT
    return Outlook(plan, how, cents * NANO_PER_CENT, about=True, renews_at=current.period_end)


async def _outlooks(visit: Visit) -> dict[str, Outlook]:
    """Return what choosing each plan does, the cheapest first."""
    services, payments = visit.services, visit.services.payments
    current = None if payments is None else await payments.changes.current(visit.account_id)
    mine = services.default_plan if visit.account is None else visit.account.plan
    now, plans = datetime.fromtimestamp(services.clock(), UTC), dict(services.plans)
    ordered = sorted(plans.values(), key=lambda each: (each.price_nano, each.id))
    return {each.id: outlook(each, current, mine, plans, now) for each in ordered}


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


async def choose(visit: Visit) -> web.Response:
    """Change to a plan: by an order, where there is no subscription yet."""
    found = await _chosen(visit)
    plan_id = found.plan.id
    if found.how != "buy":
        await change_subscription(visit.call, visit.body(PlanChange, plan=plan_id))
        return visit.see("/plan", "plan-changed")
    key = f"console:{visit.typed('once')}:{plan_id}"
    body = visit.body(
        NewCheckout, plan=plan_id, return_url=may_return(visit, "/plan"), save_method=True, idempotency_key=key
    )
    return to_order(visit, (await checkout(visit.call, body)).order)


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/plan", plans, scope=BILLING_READ),
    Page("GET", "/plan/{plan_id}", plan, scope=BILLING_READ),
    Page("POST", "/plan/{plan_id}", choose, scope=BILLING_SETUP, again=plan),
)
