"""/api/admin/refusals: requests that were refused, as long as they are kept. Behind the admin key."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from billing.api.errors import BadRequest, NotFound, Unavailable
from billing.api.requests import page_asked, path_id, query_text
from billing.api.services import SERVICES, Route
from billing.api.shapes import answer, page_shape
from billing.event_shapes import refusal_shape
from billing.holds.redis_errors import RedisError


async def index(request: web.Request) -> web.Response:
    """GET /api/admin/refusals, newest first, of one key with `key_id`, of one account with `account_id`"""
    limit, _ = page_asked(request)
    key_id, account_id = query_text(request, "key_id"), query_text(request, "account_id")
    if key_id is not None and account_id is not None:
        raise BadRequest("Give key_id or account_id, not both.", "key_id")
    with _redis_needed():
        found = await request.app[SERVICES].refused.newest(limit, key_id=key_id, account_id=account_id)
    return answer(page_shape([refusal_shape(each) for each in found], None))


async def show(request: web.Request) -> web.Response:
    """GET /api/admin/refusals/{request_id}"""
    request_id = path_id(request, "request_id")
    with _redis_needed():
        found = await request.app[SERVICES].refused.find(request_id)
    if found is None:
        raise NotFound(f"No refusal of {request_id!r} is kept.")
    return answer(refusal_shape(found))


@contextmanager
def _redis_needed() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise Unavailable("Redis, which has the refusals, is temporarily unavailable; try again.") from error


ROUTES: Final[list[Route]] = [
    ("GET", "/admin/refusals", index),
    ("GET", "/admin/refusals/{request_id}", show),
]
