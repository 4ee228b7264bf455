"""/api/auth: registering, signing in, and one's own password, address, second factor and profile.

This file owns that wrong passwords and codes of an address are counted, and that every wrong one is answered alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

from billing.api.attempts import SIGN_INS
from billing.api.errors import InsufficientScope, Unauthorized
from billing.api.operations import PeopleOperations
from billing.api.route import Call, serves
from billing.identity.codes import TooManyTries
from billing.identity.credentials import WrongCredential
from billing.identity.people import Factor, Visitor
from billing.identity.permissions import ROLES
from billing.identity.sign_in import Refusal
from billing.schemas.people import (
    CodeAsked,
    FactorBody,
    Login,
    MailSent,
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
    Registration,
    TokenPairShape,
    TotpConfirmation,
    TotpEnrolment,
    TotpRemoval,
    Verification,
)

if TYPE_CHECKING:
    from billing.identity.sessions import TokenPair
    from billing.identity.users import User

_AGENT: Final = "User-Agent"
_MOST_AGENT: Final = 400
_WRONG: Final = "Wrong e-mail, password or code, or the code has expired. Each code works once."
_NEEDED: Final = (
    "This needs your second factor, too: send a code of your authenticator app as `totp`, or a `recovery_code`."
)
_WRONG_FACTOR: Final = "This second factor is wrong, or was used before: wait for the next code of your app."
_DISABLED: Final = "This user was disabled: ask whoever runs this service."
_SENT: Final = "If this address can be used here, a mail is on its way to it."
_NO_MAIL: Final = "This service sends no mail at present: ask whoever runs it to let you in, or to set up mail."

T = TypeVar("T")
BodyT = TypeVar("BodyT")
Handler = Callable[[Call, BodyT], Awaitable[T]]


def _visiting(handler: Handler[BodyT, T]) -> Handler[BodyT, T]:
    """Count the request of somebody whom nobody knows yet among the visits. Raises `TooManyVisits`."""

    @wraps(handler)
    async def visited(call: Call, body: BodyT) -> T:
        with call.services.visits.entered(visitor_of(call).network):
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
    """Change the caller's name."""
    return await _profile(call, await call.services.users.rename(call.caller.id, body.name.strip(), call.actor))


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
