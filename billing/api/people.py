"""/api/auth: registering, signing in, one's own password, address, second factor and profile; tokens, sessions, and
signing in elsewhere. And sessions of browsers: the cookie that carries one on; /admin/login-links, by which an operator
begins one.

This file owns that wrong passwords and codes of an address are counted, and that every wrong one is answered alike.
Whoever shows an access token may end it, the session that it is of, or all sessions of its user, also with a token that
was narrowed: who finds a lost token may do no more than that with it.

`GET /api/auth/oidc/{provider}` sends a browser to a provider, which sends it back to `.../callback`. That answers the
tokens as JSON, or where FRONTEND_URL is set sends the browser on to that page, with a refresh token behind the `#`: it
is good once and for a minute, no server gets to see it, and the page exchanges it at `POST /api/auth/refresh`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

from aiohttp import web
from msgspec import UNSET

from billing.api.attempts import REFRESHES, SIGN_INS
from billing.api.auth import shown_token
from billing.api.operations import BrowserOperations, PeopleOperations, TokenOperations
from billing.api.requests import (
    BadRequest,
    InsufficientScope,
    NotFound,
    TooMany,
    Unauthorized,
    listing,
    page_asked,
    zone,
)
from billing.api.route import Call, answer, serves
from billing.identity.codes import TooManyTries
from billing.identity.credentials import Factor, Refusal, Visitor, WrongCredential
from billing.identity.devices import device_of
from billing.identity.providers import BEGUN_S, CONSOLE, SignInFailed, is_path
from billing.identity.sessions import REFRESH_PREFIX
from billing.identity.tokens import OPERATOR
from billing.permissions import ROLES
from billing.schemas.people import (
    MAX_REASON,
    AccessTokenShape,
    BeginQuery,
    CodeAsked,
    FactorBody,
    Login,
    LoginLinkShape,
    MailSent,
    NarrowBody,
    NewAddress,
    NewAddressCode,
    OwnOrganizationShape,
    PasswordChange,
    PasswordChanged,
    PasswordForgotten,
    PasswordReset,
    PasswordShown,
    ProfilePatch,
    ProfileShape,
    RecoveryCodes,
    RefreshBody,
    Registration,
    RevokeAllBody,
    RevokeBody,
    RevokedShape,
    SessionShape,
    SignInUrl,
    TokenPairShape,
    TotpConfirmation,
    TotpEnrolment,
    TotpRemoval,
    Verification,
)

if TYPE_CHECKING:
    from billing.identity.browsers import BrowserRules
    from billing.identity.oidc import OidcSignIn
    from billing.identity.sessions import Session, TokenPair
    from billing.identity.users import User, UserChanges
    from billing.principals import Caller
    from billing.schemas.base import Listing, PageQuery


_AGENT: Final = "User-Agent"
_MOST_AGENT: Final = 400
_WRONG: Final = "Wrong e-mail, password or code, or the code has expired. Each code works once."
_NEEDED: Final = (
    "This needs your second factor, too: send a code of your authenticator app as `totp`, or a `recovery_code`."
)
_WRONG_FACTOR: Final = "This second factor is wrong, or was used before: wait for the next code of your app."
_DISABLED: Final = "This user was disabled: ask whoever runs this service."
_SENT: Final = "If this address can be used here, a mail is on its way to it."
_NO_MAIL: Final = "This service does not send mail at present: ask whoever runs it to let you in, or to set up mail."

T = TypeVar("T")
BodyT = TypeVar("BodyT")
Handler = Callable[[Call, BodyT], Awaitable[T]]


def _visiting(handler: Handler[BodyT, T]) -> Handler[BodyT, T]:
    """Count the request of somebody whom nobody knows yet among the sign-ins. Raises `TooManySignIns`."""

    @wraps(handler)
    async def visited(call: Call, body: BodyT) -> T:
        with call.services.sign_in_limit.entered(visitor_of(call).network):
            return await handler(call, body)

    return visited


def _mailed(call: Call) -> dict[str, Any]:
    """Return the answer to a request for a mail; it does not depend on the address."""
    sends_mail = call.services.sends_mail
    return {"message": _SENT if sends_mail else _NO_MAIL, "sends_mail": sends_mail}


@serves(PeopleOperations.register)
@_visiting
async def register(call: Call, body: Registration) -> MailSent:
    """Add a user by an address, to which a code is mailed. The answer is the same for one that is registered, whose
    owner is told by mail."""
    challenge = await call.services.sign_in.register(body.email, body.name.strip(), body.password, visitor_of(call))
    return MailSent(status="verify", email=body.email, challenge=challenge, **_mailed(call))


@serves(PeopleOperations.send_code)
@_visiting
async def send_code(call: Call, body: CodeAsked) -> MailSent:
    """Send a code by mail, to verify an address or to sign in. The answer is the same for an address of nobody."""
    given = (body.email, body.purpose, visitor_of(call), body.challenge)
    challenge = await call.services.sign_in.send_code(*given)
    return MailSent(status="sent", email=body.email, challenge=challenge, **_mailed(call))


@serves(PeopleOperations.verify)
@_visiting
async def verify(call: Call, body: Verification) -> TokenPairShape:
    """Take the code that proves an address, and sign its owner in."""
    _refuse_blocked(call)
    sign_in, given = call.services.sign_in, (body.email, body.code, body.challenge)
    return await _entered(call, await sign_in.verify(*given, _factor(body), visitor_of(call)))


@serves(PeopleOperations.login)
@_visiting
async def login(call: Call, body: Login) -> TokenPairShape:
    """Begin a session, by a password or by a code that was mailed; with a second factor, where there is one."""
    _refuse_blocked(call)
    sign_in, factor, visitor = call.services.sign_in, _factor(body), visitor_of(call)
    if body.password is not None:
        return await _entered(call, await sign_in.by_password(body.email, body.password, factor, visitor))
    if body.code is None:
        raise Unauthorized("Send a password, or a code: POST /api/auth/otp mails one.", "password")
    return await _entered(call, await sign_in.by_code(body.email, body.code, body.challenge, factor, visitor))


@serves(PeopleOperations.forgot_password)
@_visiting
async def forgot_password(call: Call, body: PasswordForgotten) -> MailSent:
    """Mail a code to set a new password. The answer is the same for an unknown address."""
    await call.services.credentials.forgot(body.email, visitor_of(call))
    return MailSent(status="sent", email=body.email, **_mailed(call))


@serves(PeopleOperations.reset_password)
@_visiting
async def reset_password(call: Call, body: PasswordReset) -> PasswordChanged:
    """Set a new password by what was mailed. Every session ends; with `revoke_keys` every API key of the user, too."""
    credentials = call.services.credentials
    resetting = credentials.reset(body.token, body.password, revoke_keys=body.revoke_keys, visitor=visitor_of(call))
    return PasswordChanged(keys_revoked=await guessed(call, resetting))


@serves(PeopleOperations.change_password)
async def change_password(call: Call, body: PasswordChange) -> PasswordChanged:
    """Change the caller's password. All other sessions end; with `revoke_keys` the caller's API keys, too."""
    caller = call.caller
    changing = call.services.credentials.change_password(
        caller.id,
        body.current_password,
        body.password,
        revoke_keys=body.revoke_keys,
        visitor=visitor_of(call),
    )
    return PasswordChanged(keys_revoked=await guessed(call, changing))


@serves(PeopleOperations.change_email)
async def change_email(call: Call, body: NewAddress) -> MailSent:
    """Send a code to another address, which becomes one's own by `POST /api/auth/email/confirm`."""
    changing = call.services.credentials.change_email(call.caller.id, body.email, body.password, visitor_of(call))
    return MailSent(status="verify", email=body.email, challenge=await guessed(call, changing), **_mailed(call))


@serves(PeopleOperations.confirm_email)
async def confirm_email(call: Call, body: NewAddressCode) -> ProfileShape:
    """Make another address one's own, by the code that was mailed there. The old one is told."""
    given = (call.caller.id, body.email, body.code, body.challenge, visitor_of(call))
    await guessed(call, call.services.credentials.confirm_email(*given))
    return await who_am_i(call)


@serves(PeopleOperations.enrol_totp)
async def enrol_totp(call: Call, body: PasswordShown) -> TotpEnrolment:
    """Make the secret of an authenticator app, which counts once a code of it was confirmed."""
    made = await guessed(call, call.services.credentials.enrol(call.caller.id, body.password, visitor_of(call)))
    return TotpEnrolment(secret=made.secret, uri=made.uri)


@serves(PeopleOperations.confirm_totp)
async def confirm_totp(call: Call, body: TotpConfirmation) -> RecoveryCodes:
    """Take the first code of an authenticator app. Signing in needs it from now on."""
    confirming = call.services.credentials.confirm(call.caller.id, body.code, visitor_of(call))
    return RecoveryCodes(recovery_codes=await guessed(call, confirming))


@serves(PeopleOperations.remove_totp)
async def remove_totp(call: Call, body: TotpRemoval) -> None:
    """Remove the authenticator app, by a code of it or a recovery code."""
    given = (call.caller.id, body.password, _needed_factor(body), visitor_of(call))
    await guessed(call, call.services.credentials.disable(*given))


@serves(PeopleOperations.renew_recovery_codes)
async def renew_recovery_codes(call: Call, body: FactorBody) -> RecoveryCodes:
    """Replace one's recovery codes, by a code of the app or one of them."""
    renewing = call.services.credentials.renew_recovery_codes(call.caller.id, _needed_factor(body), visitor_of(call))
    return RecoveryCodes(recovery_codes=await guessed(call, renewing))


@serves(PeopleOperations.who_am_i)
async def who_am_i(call: Call) -> ProfileShape:
    """Return the caller, their organizations with the roles there, and the rights of this token."""
    return await _profile(call, await call.services.users.get(call.caller.id))


@serves(PeopleOperations.update_me)
async def update_me(call: Call, body: ProfilePatch) -> ProfileShape:
    """Change the caller's name, or the time zone that pages show times in."""
    if body.name is None and body.tz is UNSET:
        raise BadRequest("Name what is changed: name or tz.", "name")
    changes: UserChanges = {} if body.name is None else {"name": body.name.strip()}
    if body.tz is not UNSET:
        changes["tz"] = zone("tz", body.tz).key if body.tz else None
    return await _profile(call, await call.services.users.update(call.caller.id, call.actor, **changes))


async def _profile(call: Call, user: User) -> ProfileShape:
    own = await call.services.users.organizations(user.id)
    organizations = [OwnOrganizationShape.of(each, scopes=sorted(ROLES[each.role])) for each in own]
    left = await call.services.credentials.recovery_codes_left(user.id)
    return ProfileShape.of_user(user, call.caller, organizations, left)


def visitor_of(call: Call) -> Visitor:
    """Return where a call comes from."""
    actor, agent = call.actor, call.request.headers.get(_AGENT)
    return Visitor(actor, actor.address or "", agent and agent[:_MOST_AGENT], call.caller.session_id)


def _factor(body: FactorBody) -> Factor:
    return Factor(body.totp, body.recovery_code)


def _needed_factor(body: FactorBody) -> Factor:
    if body.totp is None and body.recovery_code is None:
        raise Unauthorized(_NEEDED, "totp", second_factor="required")
    return _factor(body)


def _refuse_blocked(call: Call) -> None:
    request = call.request
    call.services.attempts.refuse_blocked(request.remote or "", request.headers, SIGN_INS)


async def _note_failure(call: Call) -> None:
    """Count what was guessed wrong. Raises `TooManyAttempts` where it was one too many."""
    request = call.request
    await call.services.attempts.failed(request.remote or "", request.headers, SIGN_INS)


async def _entered(call: Call, outcome: TokenPair | Refusal) -> TokenPairShape:
    """Answer a sign-in. Raises `Unauthorized`, `InsufficientScope` and `TooManyAttempts`."""
    match outcome:
        case Refusal.second_factor:
            raise Unauthorized(_NEEDED, "totp", second_factor="required")
        case Refusal.disabled:
            raise InsufficientScope(_DISABLED)
        case Refusal.wrong_factor:
            await _note_failure(call)
            raise Unauthorized(_WRONG_FACTOR, "totp", second_factor="wrong")
        case Refusal.wrong:
            await _note_failure(call)
            raise Unauthorized(_WRONG)
        case _:
            return TokenPairShape.of_token(outcome)


async def guessed(call: Call, changing: Coroutine[Any, Any, T]) -> T:
    """Wait for what may be guessed at; a wrong guess is counted."""
    try:
        _refuse_blocked(call)
        return await changing
    except (WrongCredential, TooManyTries):
        await _note_failure(call)
        raise
    finally:
        changing.close()


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


REVOKED: Final = RevokedShape(success=True, message="Token revoked successfully")
ALL_REVOKED: Final = RevokedShape(success=True, message="All tokens revoked successfully")
_ANOTHERS: Final = "This token is somebody else's: only operators revoke those."
_NO_MEMBER: Final = "This session has ended, or you are not a member of that organization."
_ELSEWHERE: Final = "Another issuer has signed you in: ask it for a token with fewer scopes."
_TOO_MANY: Final = "You have revoked too many tokens one by one: `POST /api/auth/revoke-all` ends all of them."
_TOO_MANY_S: Final = 3600


@serves(TokenOperations.refresh)
async def refresh_token(call: Call, body: RefreshBody) -> TokenPairShape:
    """Return new tokens for a refresh token, which is good once: for some seconds it gives the same refresh token
    again, later its session ends, because somebody has a copy."""
    attempts, request = call.services.attempts, call.request
    peer = request.remote or "", request.headers
    attempts.refuse_blocked(*peer, REFRESHES)
    pair = await call.services.sessions.refresh(body.refresh_token, call.actor)
    if pair is None:
        await attempts.failed(*peer, REFRESHES)
        raise Unauthorized("This refresh token is wrong, used or expired. Sign in: `metergate auth login`.")
    return TokenPairShape.of_token(pair)


@serves(TokenOperations.narrow_token)
async def narrow_token(call: Call, body: NarrowBody) -> AccessTokenShape:
    """Return an access token with fewer scopes, or for another one of the person's organizations. It ends with the
    session of the token that asks, and not later than that token; it can't be refreshed."""
    caller, token = call.caller, shown_token(call.request)
    if caller.session_id is None or token is None:
        raise BadRequest(_ELSEWHERE)
    org_id = body.org_id or caller.org_id
    there = caller if org_id == caller.org_id else await call.services.sessions.caller(token, org_id)
    if there is None or (body.org_id is not None and there.org_id != body.org_id):
        raise NotFound(_NO_MEMBER)
    wanted = caller.narrowed if body.scope is None else _asked_for(there, body.scope)
    narrow = await call.services.sessions.narrow(token, wanted, org_id)
    if narrow is None:
        raise NotFound(_NO_MEMBER)
    return AccessTokenShape.of_token(narrow)


def _asked_for(caller: Caller, given: str | list[str]) -> frozenset[str]:
    """Return scopes that the caller has all. Raises `InsufficientScope` for others."""
    wanted = frozenset(given.split() if isinstance(given, str) else given)
    missing = sorted(wanted - caller.scopes - ({OPERATOR} if caller.operator else set()))
    if missing:
        message = f"Your token or your role lacks {' '.join(missing)[:MAX_REASON]}. {caller.hint}".rstrip()
        raise InsufficientScope(message, required_scope=missing[0][:MAX_REASON])
    if not wanted:
        raise BadRequest("Name at least one scope, or leave them out.", "scope")
    return wanted


@serves(TokenOperations.log_out)
async def log_out(call: Call) -> None:
    """End the session of the token that asks, with all of its tokens."""
    caller, sessions = call.caller, call.services.sessions
    if caller.session_id is None:
        await _revoke(call, caller.token_id, caller.user_id, "logout")
        return
    async with sessions.transaction() as connection:
        await sessions.end(connection, caller.session_id, "logout", actor=call.actor)


@serves(TokenOperations.revoke_token)
async def revoke_token(call: Call, body: RevokeBody) -> RevokedShape:
    """End one token: on every gateway from the next request on. A refresh token ends its session. One that is not valid
    anyway is answered the same."""
    if body.token is None and body.jti is None:
        raise BadRequest("Name what to revoke: token or jti.", "token")
    if body.jti is not None:
        await _revoke(call, body.jti, None if call.caller.operator else call.caller.user_id, body.reason)
    if body.token is not None and body.token.startswith(REFRESH_PREFIX):
        await _end_of_refresh_token(call, body.token, body.reason)
    elif body.token is not None:
        shown = await call.services.sessions.caller(body.token, None)
        if shown is not None:
            if shown.user_id != call.caller.user_id and not call.caller.operator:
                raise InsufficientScope(_ANOTHERS, required_scope="operator")
            await _revoke(call, shown.token_id, shown.user_id, body.reason)
    return REVOKED


async def _revoke(call: Call, jti: str | None, user_id: str | None, reason: str | None) -> None:
    if jti is None:
        raise BadRequest("This token has no id (jti): `POST /api/auth/revoke-all` ends all of yours.", "token")
    async with call.services.sessions.transaction() as connection:
        if not await call.services.sessions.revoke(connection, user_id, jti, reason, call.actor):
            raise TooMany(_TOO_MANY, _TOO_MANY_S)


async def _end_of_refresh_token(call: Call, token: str, reason: str | None) -> None:
    found = await call.services.sessions.of_refresh_token(token)
    if found is None:
        return
    session_id, user_id = found
    if user_id != call.caller.user_id and not call.caller.operator:
        raise InsufficientScope(_ANOTHERS, required_scope="operator")
    async with call.services.sessions.transaction() as connection:
        await call.services.sessions.end(connection, session_id, reason or "revoked", actor=call.actor)


@serves(TokenOperations.revoke_all_tokens)
async def revoke_all_tokens(call: Call, body: RevokeAllBody) -> RevokedShape:
    """End all sessions of the person who asks, and every token that was issued before now; an operator names another
    user."""
    user_id = body.user_id or call.caller.user_id
    if user_id is None or (user_id != call.caller.user_id and not call.caller.operator):
        raise InsufficientScope("Only operators revoke somebody else's tokens.", required_scope="operator")
    async with call.services.sessions.transaction() as connection:
        await call.services.sessions.end_all(connection, user_id, body.reason or "revoke-all", actor=call.actor)
    return ALL_REVOKED


@serves(TokenOperations.sessions)
async def list_sessions(call: Call, query: PageQuery) -> Listing[SessionShape]:
    """List the person's sessions that have not ended, newest first."""
    caller = call.caller
    page = await call.services.sessions.page(caller.id, *page_asked(query))
    return listing(page, lambda session: _session(session, caller.session_id))


def _session(session: Session, current: str | None) -> SessionShape:
    device = device_of(session.user_agent)
    return SessionShape.of(session, device=device, current=session.id == current)


@serves(TokenOperations.end_session)
async def end_session(call: Call) -> None:
    """End one of the person's sessions, with all of its tokens; one that has ended stays so."""
    session_id, sessions = call.id("session_id"), call.services.sessions
    async with sessions.transaction() as connection:
        if not await sessions.end(connection, session_id, "ended", of_user=call.caller.id, actor=call.actor):
            raise NotFound(f"There is no session {session_id!r} of yours.")


# Where the console is, seen from the callback: below whatever path a proxy takes off.
_PAGES: Final = f"../../../..{CONSOLE}"
_COOKIE: Final = "mg_oidc"
# Over https: no other host may have set it (RFC 6265bis, section 4.1.3).
_HOST_COOKIE: Final = f"__Host-{_COOKIE}"


def oidc_of(call: Call) -> OidcSignIn:
    """Return what signs people in elsewhere. Raises `NotFound` where nothing does."""
    if call.services.oidc is None:
        raise NotFound("There is no other way to sign in: no provider is configured.")
    return call.services.oidc


@serves(TokenOperations.begin_sign_in)
async def begin_sign_in(call: Call, query: BeginQuery) -> web.Response:
    """Send a browser to a provider, to sign in there."""
    oidc = oidc_of(call)
    if query.return_to and not is_path(query.return_to):
        raise BadRequest("return_to is a path of the page that sign-ins lead to, such as /billing.", "return_to")
    url, cookie = await oidc.begin(call.id("provider"), return_to=query.return_to)
    return sent_to_provider(oidc, url, cookie)


@serves(TokenOperations.link_sign_in)
async def link_sign_in(call: Call, body: PasswordShown) -> web.Response:
    """Return where the person who asks has to go with the same browser to link an account elsewhere to theirs."""
    oidc = oidc_of(call)
    await guessed(call, call.services.credentials.owner(call.caller.id, body.password, visitor_of(call)))
    url, cookie = await oidc.begin(call.id("provider"), user_id=call.caller.id)
    response = answer(SignInUrl(url=url))
    response.set_cookie(value=cookie, max_age=BEGUN_S, **_options(oidc))
    return response


@serves(TokenOperations.finish_sign_in)
async def finish_sign_in(call: Call) -> web.Response:
    """Start the session of whom a provider has signed in: JSON, or where FRONTEND_URL is set a redirect to it."""
    oidc, request, attempts = oidc_of(call), call.request, call.services.attempts
    peer = request.remote or "", request.headers
    attempts.refuse_blocked(*peer, SIGN_INS)  # each has the provider asked
    cookie = request.cookies.get(_options(oidc)["name"])
    agent = request.headers.get("User-Agent")
    try:
        done = await oidc.finish(call.id("provider"), cookie, request.query, call.actor, agent)
    except SignInFailed as error:
        await attempts.failed(*peer, SIGN_INS)
        if await oidc.is_of_console(call.id("provider"), cookie):
            return _sent_on(oidc, f"{_PAGES}/sign-in?notice=sign-in-failed")
        if oidc.frontend_url is None:
            raise
        failed = {"error": "sign_in_failed", "error_description": str(error)}
        return _sent_on(oidc, oidc.frontend_url, failed)
    if done.console:
        response = _sent_on(oidc, f"{_PAGES}{done.return_to or '/'}")
        await set_session(response, call, done.pair.session_id)
        return response
    if oidc.frontend_url is None:
        response = answer(TokenPairShape.of_token(done.pair))
        response.del_cookie(**_options(oidc))
        return response
    page = urlsplit(oidc.frontend_url)
    where = f"{page.scheme}://{page.netloc}{done.return_to}" if done.return_to else oidc.frontend_url
    return _sent_on(oidc, where.partition("#")[0], {"refresh_token": done.pair.refresh_token})


def _sent_on(oidc: OidcSignIn, where: str, fragment: dict[str, str] | None = None) -> web.Response:
    location = f"{where}#{urlencode(fragment)}" if fragment else where
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Location": location}
    response = web.Response(status=303, headers=headers)
    response.del_cookie(**_options(oidc))
    return response


def _options(oidc: OidcSignIn) -> dict[str, Any]:
    """Return the name of the cookie that a sign-in has begun with, and what else it is set and removed by."""
    secure = oidc.public_url.startswith("https://")
    name = _HOST_COOKIE if secure else _COOKIE
    return {"name": name, "path": "/", "secure": secure, "httponly": True, "samesite": "Lax"}


def sent_to_provider(oidc: OidcSignIn, url: str, cookie: str) -> web.Response:
    """Return what sends a browser to a provider, with what it has to bring back from there."""
    response = web.Response(status=303, headers={"Location": url, "Cache-Control": "no-store"})
    response.set_cookie(value=cookie, max_age=BEGUN_S, **_options(oidc))
    return response
