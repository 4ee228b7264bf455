"""Alerts: budgets and how they stand, below what an account is told that its balance is low, and webhooks, with what
was delivered to each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from billing.api.credit import (
    create_budget,
    delete_budget,
    get_alert,
    get_budget,
    list_budgets,
    put_alert,
    update_budget,
)
from billing.api.errors import BadRequest
from billing.api.webhooks_out import (
    create_webhook,
    delete_webhook,
    get_webhook,
    list_deliveries,
    list_webhooks,
    redeliver,
    rotate_webhook,
    test_webhook,
    update_webhook,
)
from billing.identity.permissions import BILLING_READ, BILLING_SETUP
from billing.notices.letters import TYPES
from billing.pages import MAX_LIMIT
from billing.schemas.base import PageQuery
from billing.schemas.credit import AlertBody, BudgetPatch, NewBudget
from billing.schemas.webhooks import EndpointPatch, NewEndpoint
from billing.web.forms import count_typed, texts
from billing.web.visits import NOTICES, Page, View, Visit, key_names, member_names

if TYPE_CHECKING:
    from aiohttp import web

PERIODS: Final = (("month", "a month"), ("week", "a week"), ("day", "a day"), ("total", "in all"))
NOTICES.update(
    {
        "budget-deleted": "The budget is removed.",
        "webhook-deleted": "The webhook is removed, with its deliveries.",
        "test-sent": "A notice of the type test is on its way: it stands below with what becomes of it.",
        "sent-again": "It is sent again, with the same webhook-id.",
    }
)


async def alerts(visit: Visit) -> View:
    """Show budgets, the alert of a low balance, and webhooks."""
    call = visit.call
    values = {
        "budgets": (await list_budgets(call, PageQuery(limit=MAX_LIMIT))).data,
        "alert": await get_alert(call),
        "endpoints": (await list_webhooks(call, PageQuery(limit=MAX_LIMIT))).data,
        "keys": await key_names(visit),
        "members": await member_names(visit),
        "periods": PERIODS,
        "types": TYPES,
        "chosen": visit.form.getall("type", []),
    }
    return View("alerts.html", values)


def _terms(visit: Visit) -> dict[str, Any]:
    """Return what the forms of a new and of a changed budget have in common, as the API takes it."""
    thresholds = [count_typed(each) for each in texts(visit.typed("thresholds"))]
    if None in thresholds:
        raise BadRequest("Thresholds are whole percents, such as 50, 80, 100.", "thresholds")
    return {
        "period": visit.field("period"),
        "amount_usd": visit.field("amount_usd") or "",
        "thresholds": thresholds or None,
        "notify": texts(visit.typed("notify")),
    }


async def add_budget(visit: Visit) -> web.Response:
    """Make a budget of all, of a key, of a member, or of a tag."""
    kind, _, about = visit.typed("about", "account").partition(":")
    tag = visit.field("tag")
    subject: dict[str, Any] = {"subject": kind, "subject_id": about or None}
    if kind == "tag":
        subject = {"subject": "tag", "tag": tag or ""}
    await create_budget(visit.call, visit.body(NewBudget, **subject, **_terms(visit)))
    return visit.see("/alerts", "saved")


async def budget(visit: Visit) -> View:
    """Show a budget with the form that changes it."""
    values = {"budget": await get_budget(visit.call), "periods": PERIODS}
    return View("budget.html", {**values, "keys": await key_names(visit), "members": await member_names(visit)})


async def change_budget(visit: Visit) -> web.Response:
    """Change a budget."""
    await update_budget(visit.call, visit.body(BudgetPatch, **_terms(visit)))
    return visit.see("/alerts", "saved")


async def drop_budget(visit: Visit) -> web.Response:
    """Remove a budget."""
    await delete_budget(visit.call)
    return visit.see("/alerts", "budget-deleted")


async def set_alert(visit: Visit) -> web.Response:
    """Set below what the account is told that its balance is low; nothing typed: the usual amount."""
    await put_alert(visit.call, AlertBody(low_balance_usd=visit.field("low_balance_usd")))
    return visit.see("/alerts", "saved")


async def add_webhook(visit: Visit) -> View:
    """Make a webhook, and show its secret, this once."""
    types = visit.form.getall("type", []) or None
    given = {"url": visit.field("url") or "", "description": visit.field("description")}
    made = await create_webhook(visit.call, visit.body(NewEndpoint, types=types, **given))
    return View("webhook_secret.html", {"endpoint": made})


async def webhook(visit: Visit) -> View:
    """Show a webhook with its deliveries, newest first."""
    found, page = await get_webhook(visit.call), await list_deliveries(visit.call, visit.query(PageQuery))
    return View("webhook.html", {"endpoint": found, "page": page})


async def turn_webhook(visit: Visit) -> web.Response:
    """Turn a webhook on or off."""
    await update_webhook(visit.call, EndpointPatch(enabled=visit.typed("enabled") == "on"))
    return visit.see(f"/alerts/webhooks/{visit.call.id('endpoint_id')}", "saved")


async def try_webhook(visit: Visit) -> web.Response:
    """Send a notice of the type `test`."""
    await test_webhook(visit.call)
    return visit.see(f"/alerts/webhooks/{visit.call.id('endpoint_id')}", "test-sent")


async def renew_webhook(visit: Visit) -> View:
    """Give a webhook a new secret, and show it, this once."""
    return View("webhook_secret.html", {"endpoint": await rotate_webhook(visit.call)})


async def send_again(visit: Visit) -> web.Response:
    """Send a delivery again."""
    await redeliver(visit.call)
    return visit.see(f"/alerts/webhooks/{visit.call.id('endpoint_id')}", "sent-again")


async def drop_webhook(visit: Visit) -> web.Response:
    """Remove a webhook."""
    await delete_webhook(visit.call)
    return visit.see("/alerts", "webhook-deleted")


_BUDGET: Final = "/alerts/budgets/{budget_id}"
_WEBHOOK: Final = "/alerts/webhooks/{endpoint_id}"


def _changes(path: str, handler: object, again: object) -> Page:
    """Return what a form does for who sets up billing."""
    return Page("POST", path, handler, scope=BILLING_SETUP, again=again)  # type: ignore[arg-type]


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/alerts", alerts, scope=BILLING_READ),
    _changes("/alerts/low-balance", set_alert, alerts),
    _changes("/alerts/budgets", add_budget, alerts),
    Page("GET", _BUDGET, budget, scope=BILLING_READ),
    _changes(_BUDGET, change_budget, budget),
    _changes(f"{_BUDGET}/delete", drop_budget, budget),
    _changes("/alerts/webhooks", add_webhook, alerts),
    Page("GET", _WEBHOOK, webhook, scope=BILLING_READ),
    _changes(f"{_WEBHOOK}/turn", turn_webhook, webhook),
    _changes(f"{_WEBHOOK}/test", try_webhook, webhook),
    _changes(f"{_WEBHOOK}/rotate", renew_webhook, webhook),
    _changes(f"{_WEBHOOK}/delete", drop_webhook, webhook),
    _changes(f"{_WEBHOOK}/deliveries/{{delivery_id}}/redeliver", send_again, webhook),
)
