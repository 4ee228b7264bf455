"""/api/account and /api/billing/usage: what a customer reads of its own account, by an API key with `billing:read`.

This file owns the rule that a caller sees its own account only: every read is given the account of the caller's key.
Checks run in the order of all refusals: the key, then the query, then what is not found, then the scope.
"""

from typing import Final

from aiohttp import web

from billing.api.auth import BILLING_READ, caller, require_scope
from billing.api.errors import NotFound
from billing.api.requests import page_asked, path_id, query_text, query_time
from billing.api.services import SERVICES, Route
from billing.api.shapes import (
    answer,
    balance_shape,
    page_shape,
    totals_shape,
    transaction_shape,
)
from billing.effects import LiveBalance
from billing.event_shapes import event_shape, explanation_shape
from billing.ledger.reports import EventFilter


async def balance(request: web.Request) -> web.Response:
    """GET /api/account/balance: as Redis has it now, or as the ledger has it where Redis does not know."""
    services = request.app[SERVICES]
    principal = await caller(request)
    require_scope(principal, BILLING_READ)
    live = await services.effects.live_balance(principal.account_id)
    if live is None:
        live = LiveBalance((await services.accounts.get(principal.account_id)).balance_nano, held_nano=0)
    return answer(balance_shape(principal, live, services.credits_per_usd))


async def transactions(request: web.Request) -> web.Response:
    """GET /api/account/transactions"""
    principal = await caller(request)
    limit, after = page_asked(request)
    require_scope(principal, BILLING_READ)
    page = await request.app[SERVICES].reports.transactions(principal.account_id, limit, after)
    return answer(page_shape([transaction_shape(item) for item in page.items], page.next_after))


async def events(request: web.Request) -> web.Response:
    """GET /api/account/usage/events, with `since`, `until`, `key_id`, `model`"""
    principal = await caller(request)
    limit, after = page_asked(request)
    only = EventFilter(
        since=query_time(request, "since"),
        until=query_time(request, "until"),
        key_id=query_text(request, "key_id"),
        model=query_text(request, "model"),
    )
    require_scope(principal, BILLING_READ)
    page = await request.app[SERVICES].reports.usage_events(principal.account_id, limit, after, only)
    return answer(page_shape([event_shape(event) for event in page.items], page.next_after))


async def event(request: web.Request) -> web.Response:
    """GET /api/account/usage/events/{event_id}, with its lines; another account's is not found"""
    principal = await caller(request)
    event_id = path_id(request, "event_id")
    explanation = await request.app[SERVICES].reports.explain(event_id, principal.account_id)
    if explanation is None:
        raise NotFound(f"There is no usage event {event_id!r}.")
    require_scope(principal, BILLING_READ)
    return answer(explanation_shape(explanation))


async def totals(request: web.Request) -> web.Response:
    """GET /api/billing/usage: of the account, of one key with `key_id`, of one user's keys with `user_id`"""
    principal = await caller(request)
    key_id, user_id = query_text(request, "key_id"), query_text(request, "user_id")
    require_scope(principal, BILLING_READ)
    found = await request.app[SERVICES].reports.usage_totals(principal.account_id, key_id=key_id, user_id=user_id)
    return answer(totals_shape(found))


ROUTES: Final[list[Route]] = [
    ("GET", "/account/balance", balance),
    ("GET", "/account/transactions", transactions),
    ("GET", "/account/usage/events", events),
    ("GET", "/account/usage/events/{event_id}", event),
    ("GET", "/billing/usage", totals),
]
