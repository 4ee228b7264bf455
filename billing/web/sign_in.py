"""Signing in and out: by a password or a mailed code, with a second factor, or elsewhere; registering; a forgotten
password; the operator's link; and which organization the pages are about.

What is typed goes to the functions that /api/auth calls, so that tries are counted and audited the same. A sign-in ends
in the session of a browser: its tokens are shown to nobody, and the cookie carries it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from billing.api import people
from billing.api.attempts import SIGN_INS
from billing.api.people import end_session_of, oidc_of, sent_to_provider, set_session, set_session_cookie
from billing.api.requests import Conflict, NotFound, Unauthorized
from billing.identity.providers import is_path
from billing.schemas.people import CodeAsked, Login, PasswordForgotten, PasswordReset, Registration, Verification
from billing.web.forms import factor_typed
from billing.web.pages import Page, View, Visit, Who

if TYPE_CHECKING:
    from billing.schemas.people import AccessTokenShape

_GONE: Final = "This link is wrong, used or expired: `metergate operator login-link` makes another one."


def next_of(visit: Visit) -> str:
    """Return the page that a sign-in leads to: the one that was asked for, else the first."""
    asked = visit.typed("next") or visit.request.query.get("next", "")
    return asked if is_path(asked) else "/"


def _to(visit: Visit, path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": visit.url(path)})


async def sign_in(visit: Visit) -> View | web.Response:
    """Show where one signs in; who is signed in is led on."""
    if visit.signed_in and visit.problem is None:
        return _to(visit, next_of(visit))
    oidc = visit.services.oidc
    return View("sign_in.html", {"next": next_of(visit), "providers": [] if oidc is None else sorted(oidc.providers)})


async def by_password(visit: Visit) -> web.Response:
    """Sign in by a password."""
    body = visit.body(
        Login, email=visit.field("email"), password=visit.typed("password") or None, **factor_typed(visit, "factor")
    )
    return await _entered(visit, await people.login(visit.call, body))


async def ask_code(visit: Visit) -> View:
    """Show where one asks for a code by mail."""
    return View("sign_in_code.html", {"next": next_of(visit)})


async def send_code(visit: Visit) -> View:
    """Send a code, and show where it is typed in."""
    purpose = "verify" if visit.typed("purpose") == "verify" else "login"
    body = visit.body(CodeAsked, email=visit.field("email"), purpose=purpose, challenge=visit.field("challenge"))
    sent = await people.send_code(visit.call, body)
    return _code_view(visit, purpose, sent.challenge)


async def enter_code(visit: Visit) -> View:
    """Show where a code is typed in."""
    return _code_view(visit, visit.typed("purpose", "login"), visit.field("challenge"))


def _code_view(visit: Visit, purpose: str, challenge: str | None) -> View:
    email = visit.field("email") or visit.request.query.get("email", "")
    values = {"email": email, "purpose": purpose, "challenge": challenge or "", "next": next_of(visit)}
    return View("enter_code.html", values)


async def by_code(visit: Visit) -> web.Response:
    """Sign in by a code that was mailed, which may prove the address."""
    given: dict[str, Any] = {
        "email": visit.field("email"),
        "code": visit.field("code"),
        **factor_typed(visit, "factor"),
    }
    given["challenge"] = visit.field("challenge")
    if visit.typed("purpose") == "verify":
        return await _entered(visit, await people.verify(visit.call, visit.body(Verification, **given)))
    return await _entered(visit, await people.login(visit.call, visit.body(Login, **given)))


async def _entered(visit: Visit, token: AccessTokenShape) -> web.Response:
    response = _to(visit, next_of(visit))
    await set_session(response, visit.call, token.session_id)
    return response


async def show_registration(visit: Visit) -> View:
    """Show where one registers."""
    return View("register.html", {"next": next_of(visit)})


async def register(visit: Visit) -> View:
    """Register an address, and show where the code is typed in that was mailed there."""
    password, name = visit.typed("password") or None, visit.field("name") or ""
    body = visit.body(Registration, email=visit.field("email"), password=password, name=name)
    sent = await people.register(visit.call, body)
    return _code_view(visit, "verify", sent.challenge)


async def show_forgotten(visit: Visit) -> View:
    """Show where one asks for another password."""
    return View("forgot.html", {"sent": False})


async def forgot(visit: Visit) -> View:
    """Send by mail what another password is set with."""
    await people.forgot_password(visit.call, visit.body(PasswordForgotten, email=visit.field("email")))
    return View("forgot.html", {"sent": True})


async def show_reset(visit: Visit) -> View:
    """Show where another password is set."""
    return View("reset.html")


async def reset(visit: Visit) -> web.Response:
    """Set a new password, by the mailed code."""
    body = visit.body(PasswordReset, token=visit.field("token"), password=visit.typed("password"))
    await people.reset_password(visit.call, body)
    return visit.see("/sign-in", "password-set")


async def elsewhere(visit: Visit) -> web.Response:
    """Send a browser to a provider, to sign in there."""
    oidc = oidc_of(visit.call)
    url, cookie = await oidc.begin(visit.call.id("provider"), return_to=next_of(visit), console=True)
    return sent_to_provider(oidc, url, cookie)


async def sign_out(visit: Visit) -> web.Response:
    """End the browser's session."""
    await end_session_of(visit.call, "logout")
    rules, response = visit.services.browsers.rules, visit.see("/sign-in", "signed-out")
    response.del_cookie(rules.cookie, path="/", secure=rules.secure, httponly=True, samesite="Lax")
    return response


async def show_link(visit: Visit) -> View:
    """Show the button of an operator's link: to look at it does not use it up, as a mail's preview would."""
    if not await visit.services.browsers.link_stands(visit.request.match_info["secret"]):
        raise NotFound(_GONE)
    return View("operator_link.html")


async def enter_by_link(visit: Visit) -> web.Response:
    """Begin the session of an operator by a link, which is good once."""
    call, browsers = visit.call, visit.services.browsers
    peer = visit.request.remote or "", visit.request.headers
    visit.services.attempts.refuse_blocked(*peer, SIGN_INS)
    secret = await browsers.enter(visit.request.match_info["secret"], people.visitor_of(call))
    if secret is None:
        await visit.services.attempts.failed(*peer, SIGN_INS)
        raise Unauthorized(_GONE)
    await end_session_of(call, "signed in anew")
    response = _to(visit, "/")
    set_session_cookie(response, browsers.rules, secret, browsers.rules.operator_s)
    return response


async def choose_organization(visit: Visit) -> web.Response:
    """Have the pages be about another one of one's organizations."""
    session_id, org_id = visit.caller.session_id, visit.field("choose")
    if session_id is None or org_id is None or not await visit.services.browsers.choose(session_id, org_id):
        raise Conflict("You are no longer a member of that organization.")
    return visit.see("/", "switched")


def _open(path: str, show: Any, send: Any) -> tuple[Page, Page]:
    """Return a page with a form that anybody may send."""
    return Page("GET", path, show, Who.anyone), Page("POST", path, send, Who.anyone, again=show)


ROUTES: Final[tuple[Page, ...]] = (
    *_open("/sign-in", sign_in, by_password),
    *_open("/sign-in/code", ask_code, send_code),
    *_open("/sign-in/enter", enter_code, by_code),
    *_open("/register", show_registration, register),
    *_open("/forgot", show_forgotten, forgot),
    *_open("/reset", show_reset, reset),
    *_open("/enter/{secret}", show_link, enter_by_link),
    Page("GET", "/sign-in/with/{provider}", elsewhere, Who.anyone),
    Page("POST", "/sign-out", sign_out, Who.anyone),
    Page("POST", "/organization", choose_organization, Who.person),
)
