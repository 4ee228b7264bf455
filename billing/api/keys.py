"""/api/admin/keys: keys of any account. Behind the admin key. A secret is in the answer to a creation, nowhere else."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from msgspec import UNSET

from billing.api.errors import BadRequest
from billing.api.models import KeyPatch, NewKey
from billing.api.requests import page_asked, path_id, query_text, read_body, time
from billing.api.services import SERVICES, Route, Services
from billing.api.shapes import answer, key_shape, page_shape
from billing.keys.rows import KeyChanges, parse_scopes, total_tokens_quota
from billing.quotas import parse_quotas


async def create(request: web.Request) -> web.Response:
    """POST /api/admin/keys -> 201 with `key`, the secret"""
    services = request.app[SERVICES]
    body = await read_body(request, NewKey)
    expires_at = None if body.expires_at is None else time("expires_at", body.expires_at)
    if expires_at is not None and expires_at <= datetime.fromtimestamp(services.clock(), UTC):
        raise BadRequest("expires_at has passed.", "expires_at")
    key, secret = await services.keys.create(
        body.account_id,
        body.name,
        scopes=parse_scopes(body.scopes),
        models=None if body.models is None else tuple(body.models),
        quotas=parse_quotas(body.quotas) + total_tokens_quota(body.quota),
        max_parallel_requests=body.max_parallel_requests,
        expires_at=expires_at,
        tags=body.tags,
        user_id=body.user_id,
    )
    return answer({"key": secret, **key_shape(key), "warnings": _warnings(services, body.models)}, 201)


async def index(request: web.Request) -> web.Response:
    """GET /api/admin/keys, of one account with `account_id`"""
    limit, after = page_asked(request)
    page = await request.app[SERVICES].keys.page(query_text(request, "account_id"), limit, after)
    return answer(page_shape([key_shape(key) for key in page.items], page.next_after))


async def show(request: web.Request) -> web.Response:
    """GET /api/admin/keys/{key_id}"""
    return answer(key_shape(await request.app[SERVICES].keys.get(path_id(request, "key_id"))))


async def change(request: web.Request) -> web.Response:
    """PATCH /api/admin/keys/{key_id}"""
    services = request.app[SERVICES]
    changes = _changes(await read_body(request, KeyPatch))
    key = await services.keys.update(path_id(request, "key_id"), changes)
    return answer({**key_shape(key), "warnings": _warnings(services, changes.get("models"))})


def _warnings(services: Services, models: Iterable[str] | None) -> list[str]:
    """What is allowed and may not be meant: a model that this gateway does not know may be configured later."""
    return [
        f"The model {name!r} is none of this gateway's: the key can't use it until it is configured."
        for name in services.unknown_models(models or ())
    ]


async def revoke(request: web.Request) -> web.Response:
    """DELETE /api/admin/keys/{key_id} -> 204, also when it is revoked already"""
    await request.app[SERVICES].keys.revoke(path_id(request, "key_id"))
    return web.Response(status=204)


def _changes(body: KeyPatch) -> KeyChanges:
    """What the patch says; null means the default scopes, and elsewhere nothing."""
    changes = KeyChanges()
    if body.name is not UNSET:
        changes["name"] = body.name
    if body.scopes is not UNSET:
        changes["scopes"] = parse_scopes(body.scopes)
    if body.models is not UNSET:
        changes["models"] = None if body.models is None else tuple(body.models)
    if body.quotas is not UNSET:
        changes["quotas"] = parse_quotas(() if body.quotas is None else body.quotas)
    if body.max_parallel_requests is not UNSET:
        changes["max_parallel_requests"] = body.max_parallel_requests
    if body.expires_at is not UNSET:
        changes["expires_at"] = None if body.expires_at is None else time("expires_at", body.expires_at)
    if body.tags is not UNSET:
        changes["tags"] = body.tags or {}
    return changes


ROUTES: Final[list[Route]] = [
    ("POST", "/admin/keys", create),
    ("GET", "/admin/keys", index),
    ("GET", "/admin/keys/{key_id}", show),
    ("PATCH", "/admin/keys/{key_id}", change),
    ("DELETE", "/admin/keys/{key_id}", revoke),
]
