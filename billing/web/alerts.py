"""Alerts: budgets and how they stand, below what an account is told that its balance is low, and webhooks, with what
was delivered to each.
"""

from __future__ import annotations

from typing import Any, Final

from billing.api.credit import (
    create_budget,
    delete_budget,
    get_alert,
    get_budget,
    list_budgets,
    put_alert,
    update_budget,
)
from billing.api.requests import BadRequest
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
from billing.notices.mail_templates import OF_OPERATORS, TYPES
from billing.pages import MAX_LIMIT
from billing.permissions import BILLING_READ, BILLING_SETUP
from billing.schemas.base import PageQuery
from billing.schemas.credit import AlertBody, BudgetPatch, NewBudget
from billing.schemas.webhooks import EndpointPatch, NewEndpoint
from billing.web.forms import count_typed, texts
from billing.web.pages import NOTICES, Page, View, Visit, does, key_names, member_names, page

PERIODS: Final = (("month", "a month"), ("week", "a week"), ("day", "a day"), ("total", "in total"))
NOTICES.update(
    {
        "budget-deleted": "The budget is removed.",
        "webhook-deleted": "The webhook is removed, with its deliveries.",
        "test-sent": "A test notice is on its way: its delivery is listed below.",
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
        "types": [each for each in TYPES if each not in OF_OPERATORS],
        "chosen": visit.form.getall("type", []),
    }
    return View("alerts.html", values)


async def badges(visit: Visit) -> dict[str, str]:
    """Return what the navigation says beside this page: how many webhooks fail, or are off since they did."""
    failing = await visit.services.endpoints.failing(visit.account_id)
    return {"/alerts": f"{failing} failing"} if failing else {}


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


def _new_budget(visit: Visit) -> NewBudget:
    """Return a budget of all, of a key, of a member, or of a tag."""
    kind, _, about = visit.typed("about", "account").partition(":")
    is_tag = kind == "tag"
    tag, subject_id = visit.field("tag") or "" if is_tag else None, None if is_tag else about or None
    return visit.body(NewBudget, subject=kind, subject_id=subject_id, tag=tag, **_terms(visit))


async def budget(visit: Visit) -> View:
    """Show a budget with the form that changes it."""
    values = {"budget": await get_budget(visit.call), "periods": PERIODS}
    return View("budget.html", {**values, "keys": await key_names(visit), "members": await member_names(visit)})


async def add_webhook(visit: Visit) -> View:
    """Make a webhook, and show its secret, this once."""
    types = visit.form.getall("type", []) or None
    given = {name: visit.field(name) for name in ("description", "format", "routing_key")}
    given["url"] = visit.field("url") or ""
    made = await create_webhook(visit.call, visit.body(NewEndpoint, types=types, **given))
    return View("webhook_secret.html", {"endpoint": made})


async def webhook(visit: Visit) -> View:
    """Show a webhook with its deliveries, newest first."""
    deliveries = await list_deliveries(visit.call, visit.query(PageQuery))
    return View("webhook.html", {"endpoint": await get_webhook(visit.call), "page": deliveries})


async def renew_webhook(visit: Visit) -> View:
    """Give a webhook a new secret, and show it, this once."""
    return View("webhook_secret.html", {"endpoint": await rotate_webhook(visit.call)})


def _low_balance(visit: Visit) -> AlertBody:
    """Return the amount that was typed; nothing: the usual one."""
    return AlertBody(low_balance_usd=visit.field("low_balance_usd"))


def _turned(visit: Visit) -> EndpointPatch:
    return EndpointPatch(enabled=visit.typed("enabled") == "on")


_BUDGET: Final = "/alerts/budgets/{budget_id}"
_WEBHOOK: Final = "/alerts/webhooks/{endpoint_id}"
ROUTES: Final[tuple[Page, ...]] = (
    *page(
        "/alerts",
        alerts,
        ("/low-balance", does(put_alert, "/alerts", "saved", _low_balance)),
        ("/budgets", does(create_budget, "/alerts", "saved", _new_budget)),
        ("/webhooks", add_webhook),
        scope=BILLING_READ,
        changes=BILLING_SETUP,
    ),
    *page(
        _BUDGET,
        budget,
        ("", does(update_budget, "/alerts", "saved", lambda visit: visit.body(BudgetPatch, **_terms(visit)))),
        ("/delete", does(delete_budget, "/alerts", "budget-deleted")),
        scope=BILLING_READ,
        changes=BILLING_SETUP,
    ),
    *page(
        _WEBHOOK,
        webhook,
        ("/turn", does(update_webhook, _WEBHOOK, "saved", _turned)),
        ("/test", does(test_webhook, _WEBHOOK, "test-sent")),
        ("/rotate", renew_webhook),
        ("/delete", does(delete_webhook, "/alerts", "webhook-deleted")),
        ("/deliveries/{delivery_id}/redeliver", does(redeliver, _WEBHOOK, "sent-again")),
        scope=BILLING_READ,
        changes=BILLING_SETUP,
    ),
)
