"""/api/admin/accounts: accounts, their quotas, grants and refunds. Behind the admin key."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from msgspec import UNSET

from billing.accounts.grants import GrantResult
from billing.api.models import AccountPatch, NewAccount, NewGrant, NewQuotas
from billing.api.requests import money, page_asked, path_id, positive_money, read_body
from billing.api.services import SERVICES, Route
from billing.api.shapes import account_shape, answer, grant_shape, page_shape
from billing.quotas import parse_quotas

REPLAYED_HEADER: Final = "idempotent-replayed"
"""On the first answer given again, as Stripe has it (https://docs.stripe.com/api/idempotent_requests)."""


async def create(request: web.Request) -> web.Response:
    """POST /api/admin/accounts -> 201"""
    services = request.app[SERVICES]
    body = await read_body(request, NewAccount)
    account = await services.accounts.create(
        body.name,
        services.default_plan if body.plan is None else body.plan,
        money("credit_limit_usd", body.credit_limit_usd),
        parse_quotas(body.quotas),
    )
    return answer(account_shape(account, services), 201)


async def index(request: web.Request) -> web.Response:
    """GET /api/admin/accounts"""
    services = request.app[SERVICES]
    limit, after = page_asked(request)
    page = await services.accounts.page(limit, after)
    data = [account_shape(account, services) for account in page.items]
    return answer(page_shape(data, page.next_after))


async def show(request: web.Request) -> web.Response:
    """GET /api/admin/accounts/{account_id}"""
    services = request.app[SERVICES]
    account = await services.accounts.get(path_id(request, "account_id"))
    return answer(account_shape(account, services))


async def change(request: web.Request) -> web.Response:
    """PATCH /api/admin/accounts/{account_id}"""
    services = request.app[SERVICES]
    body = await read_body(request, AccountPatch)
    account = await services.accounts.update(
        path_id(request, "account_id"),
        name=body.name or None,
        plan=None if body.plan is UNSET else body.plan,
        status=body.status or None,
        credit_limit_nano=None if body.credit_limit_usd is UNSET else money("credit_limit_usd", body.credit_limit_usd),
        quotas=None if body.quotas is UNSET else parse_quotas(body.quotas),
    )
    return answer(account_shape(account, services))


async def set_quotas(request: web.Request) -> web.Response:
    """PUT /api/admin/accounts/{account_id}/quotas"""
    services = request.app[SERVICES]
    body = await read_body(request, NewQuotas)
    account = await services.accounts.set_quotas(path_id(request, "account_id"), parse_quotas(body.quotas))
    return answer(account_shape(account, services))


async def grant(request: web.Request) -> web.Response:
    """POST /api/admin/accounts/{account_id}/grants -> 201, also when it is the first answer again"""
    return await _credit(request, request.app[SERVICES].grants.grant)


async def refund(request: web.Request) -> web.Response:
    """POST /api/admin/accounts/{account_id}/refunds -> 201, likewise"""
    return await _credit(request, request.app[SERVICES].grants.refund)


async def _credit(request: web.Request, give: Callable[..., Awaitable[GrantResult]]) -> web.Response:
    body = await read_body(request, NewGrant)
    amount_nano = positive_money("amount_usd", body.amount_usd)
    result = await give(path_id(request, "account_id"), amount_nano, body.idempotency_key, body.note)
    response = answer(grant_shape(result), 201)
    if result.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


ROUTES: Final[list[Route]] = [
    ("POST", "/admin/accounts", create),
    ("GET", "/admin/accounts", index),
    ("GET", "/admin/accounts/{account_id}", show),
    ("PATCH", "/admin/accounts/{account_id}", change),
    ("PUT", "/admin/accounts/{account_id}/quotas", set_quotas),
    ("POST", "/admin/accounts/{account_id}/grants", grant),
    ("POST", "/admin/accounts/{account_id}/refunds", refund),
]
