"""`metergate auth`: registering, signing in, tokens; a new password by mail, an authenticator app. What a sign-in
brings is kept as `billing.cli.session` says."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.cli.calls import UNAUTHORIZED, Org, add_person_calls, add_session_calls, org_of
from billing.cli.commands import group
from billing.cli.output import USAGE, CommandFailed, Shown, details
from billing.cli.prompts import ask_secret
from billing.cli.session import FindSession, Kept, Pending, Session
from billing.cli.tables import Table
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.client.calls import BillingCalls
    from billing.schemas.people import MailSent, ProfileShape, TokenPairShape

Email = Annotated[str, typer.Option("--email", metavar="ADDRESS", help="Your address.", show_default=False)]
PASSWORD: Final = "METERGATE_PASSWORD"  # noqa: S105 - the name of a variable
NEW_PASSWORD: Final = "METERGATE_NEW_PASSWORD"  # noqa: S105 - the name of a variable
RESET: Final = "METERGATE_RESET_TOKEN"
SECOND_FACTOR: Final = "METERGATE_SECOND_FACTOR"
SecretsStdin = Annotated[bool, typer.Option("--stdin", help="Read what is asked for from stdin, a line each.")]
# A second factor that is longer is a recovery code.
_RECOVERY_LENGTH: Final = 8
_KEEP: Final = "Without the app at hand, each of these codes works once. They are shown only now:"
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from stdin, else METERGATE_PASSWORD, else ask.")
]
OtpStdin = Annotated[bool, typer.Option("--otp-stdin", help="Read the code from stdin, else METERGATE_OTP, else ask.")]
OTP: Final = "METERGATE_OTP"


def add_auth(app: typer.Typer, find: FindSession) -> None:
    """Add the group `auth`."""
    auth = group("Registering, signing in and out, tokens.")
    add_session_calls(auth, find, register=register, login=login, verify=verify, token=token)
    add_session_calls(auth, find, status=status, logout=logout, password=password)
    add_person_calls(auth, find, sessions=sessions)
    add_session_calls(auth, find, forgot=forgot, reset=reset)
    totp = group("An authenticator app, as the second factor of a sign-in.")
    add_session_calls(totp, find, enrol=enrol, confirm=confirm, recovery_codes=recovery_codes, off=off)
    auth.add_typer(totp, name="totp")
    app.add_typer(auth, name="auth")


async def register(
    session: Session,
    email: Email,
    name: Annotated[str, typer.Option(metavar="NAME", help="Your name.")] = "",
    password_stdin: PasswordStdin = False,
    no_password: Annotated[bool, typer.Option("--no-password", help="Sign in only with mailed codes.")] = False,
) -> Shown:
    """Register an address. A code is mailed to it, which `auth verify` takes."""
    client = session.open_anew()
    secret = "" if no_password else _password(session, password_stdin, twice=True)
    sent = await client.register(email=email, name=name, password=secret or None)
    pending = Pending(url=client.base_url, email=email, purpose="verify", challenge=sent.challenge)
    return _mailed(session, client, pending, sent)


async def login(
    session: Session,
    email: Email,
    password_stdin: PasswordStdin = False,
    mail_code: Annotated[
        bool, typer.Option("--mail-code", help="Have a code mailed instead, which `auth verify` takes.")
    ] = False,
) -> Shown:
    """Sign in with your password."""
    client = session.open_anew()
    if mail_code:
        sent = await client.send_code(email=email, purpose="login")
        pending = Pending(url=client.base_url, email=email, purpose="login", challenge=sent.challenge)
        return _mailed(session, client, pending, sent)
    secret = _password(session, password_stdin)
    if not secret:
        raise CommandFailed("Without a password, have a code mailed: `metergate auth login --mail-code`.", USAGE)

    async def enter(factor: dict[str, str]) -> "TokenPairShape":
        return await client.login(email=email, password=secret, **factor)

    return await _enter(session, client, enter, from_stdin=password_stdin)


async def verify(
    session: Session,
    email: Annotated[str | None, typer.Option("--email", metavar="ADDRESS", help="Yours; else the last one.")] = None,
    otp_stdin: OtpStdin = False,
) -> Shown:
    """Sign in with the code that was mailed. The first time it proves your address."""
    client, pending = session.open_anew(), session.files.pending()
    if pending is not None and (email not in (None, pending.email) or pending.url != client.base_url):
        pending = None
    address = email or (pending and pending.email)
    if not address:
        raise CommandFailed("Say whose code it is: --email ADDRESS.", USAGE)
    code = ask_secret("mailed code", session.environ, OTP, from_stdin=otp_stdin).strip()
    challenge = None if pending is None else pending.challenge
    by_login = pending is not None and pending.purpose == "login"

    async def enter(factor: dict[str, str]) -> "TokenPairShape":
        if by_login:
            return await client.login(email=address, code=code, challenge=challenge, **factor)
        return await client.verify(email=address, code=code, challenge=challenge, **factor)

    return await _enter(session, client, enter, from_stdin=otp_stdin)


async def token(
    session: Session,
    scope: Annotated[
        str | None,
        typer.Option(metavar="SCOPES", help='Only these, such as "billing:read keys:read"; else all of your role.'),
    ] = None,
    org: Org = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the token, or write it to --output, and keep the one there is.")
    ] = False,
) -> Shown:
    """Make a token for the commands that follow. A fresh one, with fewer scopes, or for another organization."""
    if session.given_token is not None:
        if not show:
            raise CommandFailed("With --token-file or METERGATE_API_TOKEN, give --show: nothing is kept.", USAGE)
        client = await session.open_signed_in()
        org_id = None if org is None else org_of(await client.who_am_i(), org)
        narrow = await client.narrow_token(scope=scope, org_id=org_id)
        return Shown(narrow.received, (narrow.access_token,), secret=True)
    kept = session.kept()
    org_id = None if org is None else await _org_id(session, org)
    kept, made = await session.renewed(scope, org_id, keep=not show)
    if show:
        return Shown({"access_token": made, "scope": scope, "org_id": org_id}, (made,), secret=True)
    return await _signed_in(session, kept.url, made)


async def status(session: Session) -> Shown:
    """Show who is signed in, where, and what the token allows."""
    client = await session.open_signed_in()
    ends = None
    if session.given_token is None and (kept := session.files.kept()) is not None:
        ends = kept
    return _profile(await client.who_am_i(), client.base_url, ends)


async def logout(
    session: Session,
    local: Annotated[bool, typer.Option("--local", help="Remove the tokens here, whatever the gateway says.")] = False,
) -> Shown:
    """End the session, and remove its tokens. It ends on every gateway at once."""
    from billing.client.errors import Refused

    kept = session.files.kept()
    if kept is None:
        return Shown({"signed_out": False}, ("Nobody was signed in.",))
    if not local:
        try:
            await (await session.open_signed_in()).log_out()
        except Refused as error:
            if error.status != UNAUTHORIZED:
                raise
    session.files.forget()
    return Shown({"signed_out": True}, (f"You are signed out at {kept.url}.",))


async def password(
    session: Session,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the current and the new password from stdin, a line each.")
    ] = False,
    revoke_keys: Annotated[bool, typer.Option("--revoke-keys", help="Revoke your API keys, too.")] = False,
) -> Shown:
    """Change your password. Your other sessions end."""
    client = await session.open_signed_in()
    old = ask_secret("current password", session.environ, PASSWORD, from_stdin=password_stdin)
    new = ask_secret("new password", session.environ, NEW_PASSWORD, from_stdin=password_stdin, twice=True)
    changed = await client.change_password(current_password=old or None, password=new, revoke_keys=revoke_keys)
    return Shown(changed.received, (f"Your password is changed. Keys revoked: {changed.keys_revoked}.",))


async def sessions(
    client: "BillingCalls",
    end: Annotated[str | None, typer.Option(metavar="SESSION_ID", help="End this one.")] = None,
) -> Shown:
    """List your sessions, or end one."""
    if end is not None:
        await client.end_session(end)
        return Shown({"id": end, "ended": True}, (f"{end} has ended.",))
    page = await client.sessions(limit=1000)
    rows = [
        (each.id, "this one" if each.current else "", each.address or "-", each.last_used_at, each.expires_at)
        for each in page.data
    ]
    return Shown(page.received, (Table(("id", "", "address", "last used", "ends"), rows),))


async def _org_id(session: Session, org: str) -> str:
    return org_of(await (await session.open_signed_in()).who_am_i(), org)


def _password(session: Session, from_stdin: bool, *, twice: bool = False) -> str:
    return ask_secret("password", session.environ, PASSWORD, from_stdin=from_stdin, twice=twice)


def _mailed(session: Session, client: "BillingCalls", pending: Pending, sent: "MailSent") -> Shown:
    session.files.keep_pending(pending)
    data = {"status": "sent", "email": pending.email, "url": client.base_url, "sends_mail": sent.sends_mail}
    if not sent.sends_mail:
        return Shown(data, (sent.message,))
    text = f"If {pending.email} can be used here, a code is on its way to it. Then: metergate auth verify"
    return Shown(data, (text,))


async def _enter(
    session: Session,
    client: "BillingCalls",
    enter: "Callable[[dict[str, str]], Awaitable[TokenPairShape]]",
    *,
    from_stdin: bool,
) -> Shown:
    """Sign in; who needs a second factor is asked for it, or it is the next line of stdin where no variable has it."""
    from billing.client.errors import Refused

    try:
        pair = await enter({})
    except Refused as error:
        if error.error.get("second_factor") != "required":
            raise
        factor = ask_factor(session, from_stdin=from_stdin and SECOND_FACTOR not in session.environ)
        pair = await enter(factor)
    session.keep_signed_in(client.base_url, pair)
    return await _signed_in(session, client.base_url, pair.access_token)


async def _signed_in(session: Session, url: str, made: str) -> Shown:
    return _profile(await session.open(url, made).who_am_i(), url, session.files.kept())


def _profile(profile: "ProfileShape", url: str, kept: Kept | None) -> Shown:
    ends = kept and rfc3339(datetime.fromtimestamp(kept.expires_at_s, UTC))
    here = next((each for each in profile.organizations if each.id == profile.org_id), None)
    rows = [("signed in as", profile.email or profile.id), ("gateway", url), ("user", profile.id)]
    rows.append(("status", profile.status if profile.verified else f"{profile.status}, address not verified"))
    rows.append(("organization", f"{here.name} ({here.slug}), {here.id}" if here else "none"))
    rows += [("role", profile.role or "none"), ("scopes", " ".join(profile.scopes) or "none")]
    if ends is not None:
        rows.append(("token ends", f"{ends}, and is renewed by itself"))
    data: dict[str, Any] = {"url": url, "token_expires_at": ends, "user": profile.received}
    return Shown(data, (Table((), rows),))


async def forgot(session: Session, email: Email) -> Shown:
    """Have mailed what `auth reset` sets a new password with."""
    sent = await session.open_anew().forgot_password(email=email)
    if not sent.sends_mail:
        return Shown(sent.received, (sent.message,))
    text = f"If {email} is registered here, a mail is on its way to it. Then: metergate auth reset"
    return Shown(sent.received, (text,))


async def reset(
    session: Session,
    stdin: SecretsStdin = False,
    revoke_keys: Annotated[bool, typer.Option("--revoke-keys", help="Revoke your API keys, too.")] = False,
) -> Shown:
    """Set a new password by the token that was mailed. All your sessions end."""
    client = session.open_anew()
    token = ask_secret("mailed token", session.environ, RESET, from_stdin=stdin).strip()
    new = ask_secret("new password", session.environ, NEW_PASSWORD, from_stdin=stdin, twice=True)
    changed = await client.reset_password(token=token, password=new, revoke_keys=revoke_keys)
    text = f"Your password is changed. Keys revoked: {changed.keys_revoked}. Then: metergate auth login"
    return Shown(changed.received, (text,))


async def enrol(session: Session, stdin: SecretsStdin = False) -> Shown:
    """Make the secret of an authenticator app. It counts once `auth totp confirm` has had a code of it."""
    client = await session.open_signed_in()
    password = None
    if (await client.who_am_i()).has_password:
        password = ask_secret("password", session.environ, PASSWORD, from_stdin=stdin)
    made = await client.enrol_totp(password=password)
    rows = [("secret", made.secret), ("address", made.uri)]
    then = "Give one of them to your app. Then: metergate auth totp confirm"
    return details(made, rows, then, secret=True)


async def confirm(session: Session, stdin: SecretsStdin = False) -> Shown:
    """Have the app count from now on, by its first code. Prints the recovery codes, this once."""
    client = await session.open_signed_in()
    code = ask_secret("code of your authenticator app", session.environ, SECOND_FACTOR, from_stdin=stdin).strip()
    made = await client.confirm_totp(code=code)
    return Shown(made.received, ("The app is needed from now on.", _KEEP, *made.recovery_codes), secret=True)


async def recovery_codes(session: Session, stdin: SecretsStdin = False) -> Shown:
    """Replace your recovery codes. It takes a code of the app or one of them. The new ones are printed this once."""
    client = await session.open_signed_in()
    made = await client.renew_recovery_codes(**ask_factor(session, from_stdin=stdin))
    return Shown(made.received, (_KEEP, *made.recovery_codes), secret=True)


async def off(session: Session, stdin: SecretsStdin = False) -> Shown:
    """Remove the app, with a last code of it or a recovery code."""
    client = await session.open_signed_in()
    password = None
    if (await client.who_am_i()).has_password:
        password = ask_secret("password", session.environ, PASSWORD, from_stdin=stdin)
    factor = ask_factor(session, from_stdin=stdin)
    await client.remove_totp(password=password, **factor)
    return Shown({"second_factor": False}, ("The app is removed: a password or a mailed code is enough.",))


def ask_factor(session: Session, *, from_stdin: bool = False) -> dict[str, str]:
    """Return a second factor that is asked for, as the API takes it. Raises `CommandFailed`."""
    what = "code of your authenticator app, or recovery code"
    given = ask_secret(what, session.environ, SECOND_FACTOR, from_stdin=from_stdin).strip()
    if not given:
        raise CommandFailed("Nothing was done without a code.", USAGE)
    return {"recovery_code" if len(given) > _RECOVERY_LENGTH else "totp": given}
