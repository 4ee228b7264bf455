"""The console as an aiohttp application: its pages, who is let in, and its outermost edge.

This file owns that a form is only taken from a page of its own, that who is not signed in is led to where one signs in
and back, and that no page is framed, sniffed, kept, or loads anything from elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from multidict import MultiDict, MultiDictProxy

from billing.api.auth import ORG_IN_PATH
from billing.api.requests import BadRequest, Conflict, InsufficientScope, NotFound, of_failure, read_bounded
from billing.api.route import REQUEST_ID, REQUEST_ID_HEADER, TIME_LIMIT, HttpHandler, Table
from billing.api.services import SERVICES, Services
from billing.errors import MetergateError
from billing.identity.providers import CONSOLE
from billing.logs import log_about
from billing.permissions import BILLING_READ
from billing.principals import NOBODY, Caller
from billing.web import (
    alerts,
    credit,
    directory,
    keys,
    members,
    operator_accounts,
    operator_flows,
    operator_home,
    operator_house,
    operator_making,
    operator_money,
    operator_prices,
    operator_providers,
    operator_requests,
    operator_revenue,
    operator_search,
    overview,
    requests,
    security,
    sign_in,
    usage,
)
from billing.web.lists import named
from billing.web.operator_search import picked
from billing.web.pages import Handler, Page, View, Visit, Who, shows
from billing.web.render import STATIC, assets, compile_templates, render

_CUSTOMER: Final = (overview, usage, requests, keys, credit, members, directory, alerts, security)
_OPERATOR: Final = (
    operator_home,
    operator_house,
    operator_providers,
    operator_making,
    operator_accounts,
    operator_requests,
    operator_money,
    operator_revenue,
    operator_prices,
    operator_flows,
    operator_search,
)
# Every page.
ROUTES: Final[tuple[Page, ...]] = tuple(page for module in (sign_in, *_CUSTOMER, *_OPERATOR) for page in module.ROUTES)
MOST_FORM_BYTES: Final = 64 * 1024
MOST_FIELDS: Final = 500
# The field of a form that says which organization its page was about: another tab may have chosen another one.
ORGANIZATION: Final = "organization"
SIGN_IN: Final = "/sign-in"
# What browsers say of a request that a page of ours makes, or that somebody has typed (Fetch Metadata).
SAME_ORIGIN: Final = ("same-origin", "none")
_FORM: Final = "application/x-www-form-urlencoded"
# What every answer tells browsers that says nothing else. `no-referrer` would leave forms without an Origin.
_SECURED: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Cookie, HX-Request",
}
_FOREIGN: Final = (
    "This form was sent from another site, or by a browser that does not say from where: open the page here, and send "
    "it from there."
)
_ANOTHER: Final = (
    "Another organization was chosen in another tab since you opened this page: look again before you act."
)
_NOT_YOURS: Final = "You can't open this page."
_WRONG: Final = "Something went wrong on our side; it has been noted."

_log = logging.getLogger(__name__)


def setup(app: web.Application, services: Services, pages: tuple[Page, ...] = ROUTES) -> None:
    """Mount the pages under /console of `app`."""
    console = web.Application(middlewares=[_edge])
    console[SERVICES] = services
    console[operator_home.KEPT] = operator_home.Kept()
    console[PAGES] = {page.path: page for page in pages if page.method == "GET"}
    console.on_response_prepare.append(_secured)
    for asset in assets().values():
        console.router.add_get(f"/{STATIC}/{asset.name}", asset.serve)
    for page in pages:
        console.router.add_route(page.method, page.path, serving(page))
    app.router.add_get(CONSOLE, _to_first)
    app.add_subapp(CONSOLE, console)


PAGES: Final = web.AppKey("pages", Mapping[str, Page])


async def _to_first(request: web.Request) -> web.Response:
    """Lead to the first page: links are relative to a path that ends with a slash."""
    return web.Response(status=307, headers={"Location": f"{CONSOLE.removeprefix('/')}/"})


async def _secured(request: web.Request, response: web.StreamResponse) -> None:
    """Give the answer what browsers are told, and the id that the audit log has of the request."""
    if REQUEST_ID in request:
        response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
    for name, value in _SECURED.items():
        response.headers.setdefault(name, value)


@web.middleware
async def _edge(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a request within the time limit; what fails becomes a page that says so."""
    services = request.config_dict[SERVICES]
    request[REQUEST_ID] = services.new_id()
    log_about(request[REQUEST_ID])
    await compile_templates()
    try:
        async with asyncio.timeout(services.request_timeout_s) as limit:
            request[TIME_LIMIT] = limit
            return await handler(request)
    except web.HTTPNotFound:
        return _failed(_nobody(request), NotFound("There is no page at this address."))
    except web.HTTPException as error:
        allowed = error.allowed_methods - {"HEAD"} if isinstance(error, web.HTTPMethodNotAllowed) else ()
        return _problem(_nobody(request), error.status, error.reason, ", ".join(sorted(allowed)))
    except Exception as error:  # the outermost edge
        return _failed(_nobody(request), error)


def _nobody(request: web.Request) -> Visit:
    """Return a visit of which nothing is known yet."""
    return Visit(request, request.config_dict[SERVICES], Page("GET", "", shows("problem.html"), Who.anyone), NOBODY)


def _failed(visit: Visit, error: Exception) -> web.Response:
    """Return the page that says what was refused, or that something failed."""
    refusal = of_failure(error)
    if refusal is None:
        resource = visit.request.match_info.route.resource
        where = "a page" if resource is None else resource.canonical
        _log.error("%s %s failed", visit.request.method, where, exc_info=error)
        return _problem(visit, 500, _WRONG)
    response = _problem(visit, refusal.status, refusal.message)
    response.headers.update(refusal.headers)
    return response


def _problem(visit: Visit, status: int, message: str, allow: str = "") -> web.Response:
    view = View("problem.html", {"message": message, "code": status}, status)
    response = render(visit, view, visit.request.config_dict[PAGES])
    if allow:
        response.headers["Allow"] = allow
    return response


def serving(page: Page) -> HttpHandler:
    """Return the aiohttp handler of a page."""

    async def serve(request: web.Request) -> web.StreamResponse:
        services = request.config_dict[SERVICES]
        if page.method != "GET":
            refuse_foreign(request, services)
        visit = Visit(request, services, page, await _caller(request, services) or NOBODY)
        log_about(request[REQUEST_ID], visit.caller.account_id)
        seen = await operator_making.as_customer(visit)
        if seen is not None:
            visit.caller, visit.seeing = seen, True
        if page.who is not Who.anyone and not visit.signed_in:
            return _to_sign_in(visit)
        try:
            await _enter(visit)
            if page.who is Who.operator:
                await picked(visit)
            return await _shown(visit, page.handler)
        except Exception as error:
            return _failed(visit, error)

    return serve


async def _caller(request: web.Request, services: Services) -> Caller | None:
    """Return who shows a cookie. A page that looks again by itself keeps no session alive."""
    secret = request.cookies.get(services.browsers.rules.cookie)
    if secret is None:
        return None
    return await services.browsers.caller(secret, used="HX-Request" not in request.headers)


async def _enter(visit: Visit) -> None:
    """Read what a page needs of its visitor, and its form. Raises `InsufficientScope`, `Conflict` and `BadRequest`."""
    page, services, caller = visit.page, visit.services, visit.caller
    _refuse_nul(visit.request.query, "The address")
    visit.request.match_info[ORG_IN_PATH] = caller.org_id or ""  # for calls whose path names the organization
    if visit.seeing and caller.account_id is not None:
        visit.account = await services.accounts.get(caller.account_id)
    elif caller.kind == "person":
        visit.organizations = await services.users.organizations(caller.id)
        visit.own_zone = await services.users.zone(caller.id)
        if caller.account_id is not None:
            visit.account = await services.accounts.get(caller.account_id)
            if page.method == "GET" and BILLING_READ in caller.scopes:
                visit.badges = await alerts.badges(visit)
    if visit.seeing and page.method != "GET":
        raise InsufficientScope("You see this as a customer does, read-only: nothing can be changed.")
    if not page.admits(caller):
        raise InsufficientScope(_refusal(page, caller), required_scope=page.scope)
    if page.method != "GET":
        visit.form = await _form(visit.request)
        if visit.form.get(ORGANIZATION, caller.org_id or "") != (caller.org_id or ""):
            raise Conflict(_ANOTHER)


def _refusal(page: Page, caller: Caller) -> str:
    if caller.hint:
        return f"{_NOT_YOURS} {caller.hint}"
    if page.who is Who.operator:
        return f"{_NOT_YOURS} It is for operators of this gateway."
    if caller.kind == "admin":
        return f"{_NOT_YOURS} It is about an organization, and you are signed in as the operator."
    if caller.account_id is None:
        return f"{_NOT_YOURS} It is about an organization: you don't belong to one."
    return f"{_NOT_YOURS} It needs the right {page.scope}, which your role ({caller.role}) does not have."


async def _shown(visit: Visit, handler: Handler) -> web.StreamResponse:
    """Return what a page shows; what a form is refused with is said where it was filled in."""
    try:
        found = await handler(visit)
    except MetergateError as error:
        refusal, again = of_failure(error), visit.page.again
        if refusal is None or again is None or refusal.status >= 500 or visit.problem is not None:
            raise
        visit.problem, visit.wrong = refusal.message, refusal.param
        shown = await _shown(visit, again)
        shown.set_status(422 if refusal.status == BadRequest.status else refusal.status)
        return shown
    if isinstance(found, View):
        return render(visit, await named(visit, found), visit.request.config_dict[PAGES])
    return await found.send(visit.request) if isinstance(found, Table) else found


def _to_sign_in(visit: Visit) -> web.Response:
    """Lead to where one signs in, and from there back. A part of a page that looks again leads the whole page there."""
    back = visit.next if visit.page.method == "GET" else None
    where = visit.url(SIGN_IN, next=None if back == "/" else back)
    if "HX-Request" in visit.request.headers:
        return web.Response(headers={"HX-Redirect": where})
    return web.Response(status=303, headers={"Location": where})


def refuse_foreign(request: web.Request, services: Services) -> None:
    """Reject what no page of ours has sent: by Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata), which browsers
    send over TLS and to their own machine, else by Origin. Raises `InsufficientScope`."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site in SAME_ORIGIN:
            return
        raise InsufficientScope(_FOREIGN)
    origin = urlsplit(request.headers.get("Origin", ""))
    if not origin.netloc or origin.netloc not in (request.host, urlsplit(services.browsers.rules.url).netloc):
        raise InsufficientScope(_FOREIGN)


async def _form(request: web.Request) -> MultiDictProxy[str]:
    """Return the fields of a form. Raises `BadRequest` and `TooLarge`."""
    if request.content_type != _FORM and request.can_read_body:
        raise BadRequest("A form is sent as application/x-www-form-urlencoded.")
    body = await read_bounded(request, MOST_FORM_BYTES)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise BadRequest("The form can't be read: it is not UTF-8, or has too many fields.") from error
    form = MultiDictProxy(MultiDict(fields))
    _refuse_nul(form, "A form")
    return form


def _refuse_nul(given: Mapping[str, str], what: str) -> None:
    if any("\0" in text for pair in given.items() for text in pair):
        raise BadRequest(f"{what} must not contain NUL characters.")
