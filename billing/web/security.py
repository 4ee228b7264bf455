"""Security: one's name, password, address and authenticator app, where one is signed in, and what was done to the
organization.

What is shown once (the secret of an app, recovery codes) is the answer to a form, and on no page that has an address.
"""

from __future__ import annotations

from typing import Final

import segno
from markupsafe import Markup

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
from billing.permissions import AUDIT_READ
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
from billing.web.pages import NOTICES, Handler, Page, View, Visit, Who, does, filled, page, shows

# Sessions that the page has.
SESSIONS: Final = 50
NOTICES.update(
    {
        "password-changed": "Your password is changed, and your other sessions are ended.",
        "address-changed": "Your address is changed.",
        "totp-removed": "The authenticator app is removed: signing in no longer asks for it.",
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


def _password(visit: Visit) -> PasswordChange:
    return visit.body(
        PasswordChange,
        current_password=visit.typed("current_password") or None,
        password=visit.typed("password"),
        revoke_keys=visit.field("revoke_keys") is not None,
    )


async def ask_address(visit: Visit) -> View:
    """Send a code to another address, and show where it is typed in."""
    body = visit.body(NewAddress, email=visit.field("email") or "", password=visit.typed("email_password") or None)
    sent = await change_email(visit.call, body)
    return View("address_code.html", {"email": sent.email, "challenge": sent.challenge or ""})


async def again_address(visit: Visit) -> View:
    """Show again where the code of another address is typed in."""
    return View("address_code.html", {"email": visit.typed("email"), "challenge": visit.typed("challenge")})


async def enrol(visit: Visit) -> View:
    """Make the secret of an authenticator app, and show it with where its first code is typed in."""
    made = await enrol_totp(visit.call, visit.body(PasswordShown, password=visit.typed("totp_password") or None))
    return View("totp.html", {"secret": made.secret, "uri": made.uri, "picture": _picture(made.uri)})


def _picture(text: str) -> Markup:
    """Return a text as a QR code: paths alone, which the policy of the pages allows."""
    code = segno.make(text, error="m", micro=False)
    return Markup(code.svg_inline(border=4, dark="#000", light="#fff", omitsize=True, svgclass="qr", lineclass=None))  # noqa: S704


async def confirm(visit: Visit) -> View:
    """Take the first code of an app, and show recovery codes, this once."""
    made = await confirm_totp(visit.call, visit.body(TotpConfirmation, code=visit.field("code") or ""))
    return View("recovery_codes.html", {"codes": made.recovery_codes})


async def renew_codes(visit: Visit) -> View:
    """Replace the recovery codes, and show the new ones, this once."""
    made = await renew_recovery_codes(visit.call, visit.body(FactorBody, **factor_typed(visit, "factor")))
    return View("recovery_codes.html", {"codes": made.recovery_codes})


async def audit(visit: Visit) -> View:
    """Show what was done to the organization, newest first."""
    page = await list_own_audit(visit.call, visit.query(OwnAuditQuery))
    asked, ids = visit.request.query, (text for each in page.data for text in (each.actor, each.subject))
    names = await visit.services.audit.names(ids, visit.account_id)
    filters = {name: asked.get(name, "") for name in FILTERS}
    return View("audit.html", {"page": page, "names": names, "filters": filters})


def _zone(visit: Visit) -> ProfilePatch:
    return ProfilePatch(tz=visit.field("tz"))


def _removal(visit: Visit) -> TotpRemoval:
    given = factor_typed(visit, "remove_factor")
    return visit.body(TotpRemoval, password=visit.typed("remove_password") or None, **given)


FILTERS: Final = ("action", "actor", "since", "until")
_NEW_ADDRESS: Final = filled(NewAddressCode, email="", code="", challenge=None)
_END_ALL: Final = does(revoke_all_tokens, "/sign-in", "signed-out", filled(RevokeAllBody))


def _own(path: str, handler: Handler, again: Handler = security) -> Page:
    """Return what a form does to the visitor themself, which a session of narrowed rights does not."""
    return Page("POST", path, handler, Who.person, again=again, whole=True)


ROUTES: Final[tuple[Page, ...]] = (
    *page(
        "/security",
        security,
        ("/sessions/{session_id}/end", does(end_session, "/security", "session-ended")),
        ("/end-all", _END_ALL),
        who=Who.person,
    ),
    _own("/security/name", does(update_me, "/security", "saved", filled(ProfilePatch, name=""))),
    _own("/security/zone", does(update_me, "/security", "saved", _zone)),
    _own("/security/password", does(change_password, "/security", "password-changed", _password)),
    _own("/security/address", ask_address),
    _own("/security/address/confirm", does(confirm_email, "/security", "address-changed", _NEW_ADDRESS), again_address),
    _own("/security/totp", enrol),
    _own("/security/totp/confirm", confirm, shows("totp.html", secret="", uri="", picture="")),
    _own("/security/totp/recovery-codes", renew_codes),
    _own("/security/totp/remove", does(remove_totp, "/security", "totp-removed", _removal)),
    Page("GET", "/security/audit", audit, scope=AUDIT_READ),
)
