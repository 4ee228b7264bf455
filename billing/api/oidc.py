"""/api/auth/oidc: signing in elsewhere, in a browser.

`GET /api/auth/oidc/{provider}` sends a browser to the provider, which sends it back to `.../callback`. That answers the
tokens as JSON, or where FRONTEND_URL is set sends the browser on to that page, with a refresh token behind the `#`: it
is good once and for a minute, no server gets to see it, and the page exchanges it at `POST /api/auth/refresh`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from billing.api.errors import BadRequest, NotFound
from billing.api.route import Access, Call, Route, answer
from billing.attempts import SIGN_INS
from billing.identity.providers import BEGUN_S, SignInFailed, is_path
from billing.shapes.tokens import BeginQuery, SignInUrl, TokenPairShape, pair_shape

if TYPE_CHECKING:
    from billing.identity.oidc import OidcSignIn

PROVIDER: Final = "/api/auth/oidc/{provider}"
_COOKIE: Final = "mg_oidc"
_HOST_COOKIE: Final = f"__Host-{_COOKIE}"
"""Over https: no other host may have set it (RFC 6265bis, section 4.1.3)."""


def _oidc(call: Call) -> OidcSignIn:
    if call.services.oidc is None:
        raise NotFound("Nobody signs in elsewhere: no provider is configured.")
    return call.services.oidc


async def begin_sign_in(call: Call, query: BeginQuery) -> web.Response:
    """Send a browser to a provider, to sign in there."""
    oidc = _oidc(call)
    if query.return_to and not is_path(query.return_to):
        raise BadRequest("return_to is a path of the page that sign-ins lead to, such as /billing.", "return_to")
    url, cookie = await oidc.begin(call.id("provider"), return_to=query.return_to)
    response = web.Response(status=303, headers={"Location": url, "Cache-Control": "no-store"})
    _set_cookie(response, oidc, cookie)
    return response


async def link_sign_in(call: Call) -> web.Response:
    """Return where the person who asks has to go with the same browser to link an account elsewhere to theirs."""
    oidc = _oidc(call)
    url, cookie = await oidc.begin(call.id("provider"), user_id=call.caller.id)
    response = answer(SignInUrl(url=url))
    _set_cookie(response, oidc, cookie)
    return response


async def finish_sign_in(call: Call) -> web.Response:
    """Start the session of whom a provider has signed in: JSON, or where FRONTEND_URL is set a redirect to it."""
    oidc, request, attempts = _oidc(call), call.request, call.services.attempts
    peer = request.remote or "", request.headers
    attempts.refuse_blocked(*peer, SIGN_INS)  # each has the provider asked
    cookie = request.cookies.get(_HOST_COOKIE if _is_https(oidc) else _COOKIE)
    agent = request.headers.get("User-Agent")
    try:
        done = await oidc.finish(call.id("provider"), cookie, request.query, call.actor, agent)
    except SignInFailed as error:
        await attempts.failed(*peer, SIGN_INS)
        if oidc.frontend_url is None:
            raise
        failed = {"error": "sign_in_failed", "error_description": str(error)}
        return _sent_on(oidc, oidc.frontend_url, failed)
    if oidc.frontend_url is None:
        response = answer(pair_shape(done.pair))
        _drop_cookie(response, oidc)
        return response
    page = urlsplit(oidc.frontend_url)
    where = f"{page.scheme}://{page.netloc}{done.return_to}" if done.return_to else oidc.frontend_url
    return _sent_on(oidc, where.partition("#")[0], {"refresh_token": done.pair.refresh_token})


def _sent_on(oidc: OidcSignIn, where: str, said: dict[str, str]) -> web.Response:
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Location": f"{where}#{urlencode(said)}"}
    response = web.Response(status=303, headers=headers)
    _drop_cookie(response, oidc)
    return response


def _is_https(oidc: OidcSignIn) -> bool:
    return oidc.public_url.startswith("https://")


def _options(oidc: OidcSignIn) -> dict[str, Any]:
    return {"path": "/", "secure": _is_https(oidc), "httponly": True, "samesite": "Lax"}


def _set_cookie(response: web.Response, oidc: OidcSignIn, cookie: str) -> None:
    name = _HOST_COOKIE if _is_https(oidc) else _COOKIE
    response.set_cookie(name, cookie, max_age=BEGUN_S, **_options(oidc))


def _drop_cookie(response: web.Response, oidc: OidcSignIn) -> None:
    response.del_cookie(_HOST_COOKIE if _is_https(oidc) else _COOKIE, **_options(oidc))


ROUTES: Final = (
    Route(
        *("GET", PROVIDER, begin_sign_in, Access.anyone),
        query=BeginQuery,
        status=303,
        errors=(401, 404, 500, 503),
    ),
    Route("POST", PROVIDER, link_sign_in, Access.person, SignInUrl, whole=True, errors=(404, 503)),
    Route(
        *("GET", f"{PROVIDER}/callback", finish_sign_in, Access.anyone, TokenPairShape),
        errors=(401, 404, 409, 429, 500, 503),
    ),
)
