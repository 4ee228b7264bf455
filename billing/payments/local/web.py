"""The endpoints under /pay: hosted pages of the local provider, for browsers without scripts.

A page is found by a secret of 256 bits in its path; there is no other way to it. Links that it has were checked when it
was made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from billing.errors import StoreError
from billing.payments.local.html import HEADERS, gone_page, refused_page, start_page, view_page
from billing.payments.port import PaymentError

if TYPE_CHECKING:
    from billing.payments.local.acts import Acts

PAY: Final = "/pay"
MOST_BODY_BYTES: Final = 4096
_MOST_SECRET: Final = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pay_routes(acts: Acts | None, setup_url: str | None) -> list[web.RouteDef]:
    """Return the endpoints under /pay; without `acts` only the page that says how credit is bought. `setup_url` is
    where customers find billing, None where there is no such page."""

    async def start(request: web.Request) -> web.StreamResponse:
        return _html(start_page(setup_url))

    routes = [web.get(PAY, start)]
    if acts is not None:
        routes += [web.get(PAY + "/{secret}", _shown(acts)), web.post(PAY + "/{secret}", _done(acts))]
    return routes


def _shown(acts: Acts) -> Handler:
    async def show(request: web.Request) -> web.StreamResponse:
        secret = request.match_info["secret"]
        try:
            view = await acts.view(secret) if len(secret) <= _MOST_SECRET else None
        except StoreError:
            return _away()
        if view is None:
            return _html(gone_page(), 404)
        return _html(view_page(view, request.query.get("step", "")))

    return show


def _done(acts: Acts) -> Handler:
    async def do(request: web.Request) -> web.StreamResponse:
        secret = request.match_info["secret"]
        if len(secret) > _MOST_SECRET or (request.content_length or 0) > MOST_BODY_BYTES:
            return _html(gone_page(), 404)
        action = (await request.post()).get("action", "")
        if action == "3ds":
            return _to(f"{request.path}?step=confirm")
        try:
            await acts.act(secret, action if isinstance(action, str) else "")
        except PaymentError as error:
            return _html(refused_page(str(error)), 400)
        except StoreError:
            return _away()
        return _to(request.path)

    return do


def _away() -> web.Response:
    response = _html(refused_page("The gateway can't reach its database now: try again in a moment."), 503)
    response.headers["Retry-After"] = "2"
    return response


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers={**HEADERS, "Location": path})


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", headers=dict(HEADERS))
