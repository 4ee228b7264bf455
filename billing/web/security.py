"""Security: one's name, password, address and authenticator app, where one is signed in, and what was done to the
organization.

What is shown once (the secret of an app, recovery codes) is the answer to a form, and on no page that has an address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.oversight import list_own_audit
from billing.api.people import (
    change_email,
    change_password,
    confirm_email,
    confirm_totp,
    end_session,
    enrol_totp,
    list_sessions,
    remove_totp,
    renew_recovery_codes,
    revoke_all_tokens,
    update_me,
    who_am_i,
)
from billing.identity.permissions import AUDIT_READ
from billing.schemas.base import PageQuery
from billing.schemas.people import (
    FactorBody,
    NewAddress,
    NewAddressCode,
    PasswordChange,
    PasswordShown,
    ProfilePatch,
    RevokeAllBody,
    TotpConfirmation,
    TotpRemoval,
)
from billing.schemas.system import OwnAuditQuery
from billing.web.forms import factor_typed
from billing.web.visits import NOTICES, Page, View, Visit, Who

if TYPE_CHECKING:
    from aiohttp import web

# Sessions that the page has.
SESSIONS: Final = 50
NOTICES.update(
    {
        "password-changed": "Your password is changed, and your other sessions are ended.",
        "address-changed": "Your address is changed.",
        "totp-removed": "The authenticator app is removed: signing in does not ask for it any more.",
        "session-ended": "The session is ended, with all of its tokens.",
    }
)


async def security(visit: Visit) -> View:
    """Show who one is, what one signs in with, and where one is signed in."""
    visit.wrong = _field_of(visit)
    sessions = await list_sessions(visit.call, PageQuery(limit=SESSIONS))
    return View("security.html", {"me": await who_am_i(visit.call), "sessions": sessions})


def _field_of(visit: Visit) -> str | None:
    """Return the field of the form that what is wrong was typed into: several forms of the page have a password."""
    wrong = "factor" if visit.wrong in ("totp", "recovery_code", "code") else visit.wrong
    if wrong is None or wrong in visit.form:
        return wrong
    return next((name for name in visit.form if name.endswith(f"_{wrong}")), wrong)


async def rename(visit: Visit) -> web.Response:
    """Change the caller's name."""
    await update_me(visit.call, visit.body(ProfilePatch, name=visit.field("name") or ""))
    return visit.see("/security", "saved")


async def set_password(visit: Visit) -> web.Response:
    """Change one's password, and with it end all other sessions."""
    body = visit.body(
        PasswordChange,
        current_password=visit.typed("current_password") or None,
        password=visit.typed("password"),
        revoke_keys=visit.field("revoke_keys") is not None,
    )
    await change_password(visit.call, body)
    return visit.see("/security", "password-changed")


async def ask_address(visit: Visit) -> View:
    """Send a code to another address, and show where it is typed in."""
    body = visit.body(NewAddress, email=visit.field("email") or "", password=visit.typed("email_password") or None)
    sent = await change_email(visit.call, body)
    return View("address_code.html", {"email": sent.email, "challenge": sent.challenge or ""})


async def again_address(visit: Visit) -> View:
    """Show again where the code of another address is typed in."""
    return View("address_code.html", {"email": visit.typed("email"), "challenge": visit.typed("challenge")})


async def set_address(visit: Visit) -> web.Response:
    """Make another address one's own, by the code that was mailed there."""
    given = {"email": visit.field("email") or "", "code": visit.field("code") or ""}
    await confirm_email(visit.call, visit.body(NewAddressCode, **given, challenge=visit.field("challenge")))
    return visit.see("/security", "address-changed")


async def enrol(visit: Visit) -> View:
    """Make the secret of an authenticator app, and show it with where its first code is typed in."""
    made = await enrol_totp(visit.call, visit.body(PasswordShown, password=visit.typed("totp_password") or None))
    return View("totp.html", {"secret": made.secret, "uri": made.uri})


async def again_confirm(visit: Visit) -> View:
    """Show again where the first code of an app is typed in."""
    return View("totp.html", {"secret": "", "uri": ""})


async def confirm(visit: Visit) -> View:
    """Take the first code of an app, and show recovery codes, this once."""
    made = await confirm_totp(visit.call, visit.body(TotpConfirmation, code=visit.field("code") or ""))
    return View("recovery_codes.html", {"codes": made.recovery_codes})


async def renew_codes(visit: Visit) -> View:
    """Replace the recovery codes, and show the new ones, this once."""
    made = await renew_recovery_codes(visit.call, visit.body(FactorBody, **factor_typed(visit, "factor")))
    return View("recovery_codes.html", {"codes": made.recovery_codes})


async def remove_app(visit: Visit) -> web.Response:
    """Remove the authenticator app."""
    given = factor_typed(visit, "remove_factor")
    await remove_totp(visit.call, visit.body(TotpRemoval, password=visit.typed("remove_password") or None, **given))
    return visit.see("/security", "totp-removed")


async def end_one(visit: Visit) -> web.Response:
    """End a session."""
    await end_session(visit.call)
    return visit.see("/security", "session-ended")


async def end_all(visit: Visit) -> web.Response:
    """End all sessions, this one too."""
    await revoke_all_tokens(visit.call, RevokeAllBody())
    return visit.see("/sign-in", "signed-out")


async def audit(visit: Visit) -> View:
    """Show what was done to the organization, newest first."""
    page = await list_own_audit(visit.call, visit.query(OwnAuditQuery))
    asked, ids = visit.request.query, (text for each in page.data for text in (each.actor, each.subject))
    names = await visit.services.audit.names(ids, visit.account_id)
    filters = {name: asked.get(name, "") for name in FILTERS}
    return View("audit.html", {"page": page, "names": names, "filters": filters})


FILTERS: Final = ("action", "actor", "since", "until")
_CODE: Final = "/security/address/confirm"


def _own(path: str, handler: object, again: object = security) -> Page:
    """Return what a form does to the visitor themself, which a session of narrowed rights does not."""
    return Page("POST", path, handler, Who.person, again=again, whole=True)  # type: ignore[arg-type]


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/security", security, Who.person),
    _own("/security/name", rename),
    _own("/security/password", set_password),
    _own("/security/address", ask_address),
    _own(_CODE, set_address, again_address),
    _own("/security/totp", enrol),
    _own("/security/totp/confirm", confirm, again_confirm),
    _own("/security/totp/recovery-codes", renew_codes),
    _own("/security/totp/remove", remove_app),
    Page("POST", "/security/sessions/{session_id}/end", end_one, Who.person, again=security),
    Page("POST", "/security/end-all", end_all, Who.person, again=security),
    Page("GET", "/security/audit", audit, scope=AUDIT_READ),
)
