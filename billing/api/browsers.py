"""Sessions of browsers: the cookie that carries one on; and /admin/login-links, by which an operator begins one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing.api.errors import Unauthorized
from billing.api.operations import BrowserOperations
from billing.api.route import Call, serves
from billing.schemas.people import LoginLinkShape

if TYPE_CHECKING:
    from aiohttp import web

    from billing.identity.browsers import BrowserRules


@serves(BrowserOperations.login_link)
async def make_login_link(call: Call) -> LoginLinkShape:
    """Make a link by which an operator signs in to the console, once and soon."""
    return LoginLinkShape.of(await call.services.browsers.make_link(call.actor))


async def set_session(response: web.Response, call: Call, session_id: str) -> None:
    """Have a session carried on by a cookie of the browser that asks, in place of the one that it had. Raises
    `Unauthorized`."""
    browsers = call.services.browsers
    secret = await browsers.bind(session_id)
    if secret is None:
        raise Unauthorized("This session has ended: sign in again.")
    await end_session_of(call, "signed in anew")
    set_session_cookie(response, browsers.rules, secret, browsers.rules.most_s)


def set_session_cookie(response: web.Response, rules: BrowserRules, secret: str, most_s: int) -> None:
    """Set the cookie of a session, which lasts for so long at most."""
    response.set_cookie(
        rules.cookie, secret, max_age=most_s, path="/", secure=rules.secure, httponly=True, samesite="Lax"
    )


async def end_session_of(call: Call, reason: str) -> None:
    """End the session whose cookie a request has."""
    browsers = call.services.browsers
    secret = call.request.cookies.get(browsers.rules.cookie)
    if secret is not None:
        await browsers.end(secret, reason, call.actor)
