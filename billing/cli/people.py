"""What commands for people have in common: how they are connected, what their failures say, how they ask for secrets.

`add_person_calls` makes functions of a `BillingCalls` commands, with the token of who is signed in;
`add_session_calls` does so with those of a `Session`, which deal with tokens themselves. A secret is asked for at the
terminal without echo, or read from stdin or a variable: never from an argument, which every user of a machine may see.
And `metergate auth forgot`, `auth reset` and `auth totp`: a new password by mail, an authenticator app.
"""

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from billing.cli.commands import Call, Work, add_command, group, interruptible
from billing.cli.options import REMOTE
from billing.cli.output import REFUSED, UNREACHABLE, USAGE, CommandFailed, Output, Shown, details, printable
from billing.cli.session import FindSession, Session

if TYPE_CHECKING:
    from billing.client.errors import Refused
    from billing.schemas.people import ProfileShape

_UNAUTHORIZED, _AWAY = 401, 503
# What the gateway says of a token that is refused, and not of a password.
_SIGN_IN = "`metergate auth login`"

Org = Annotated[str | None, typer.Option("--org", metavar="ORG", help="An organization of yours: its id or slug.")]


def add_person_calls(app: typer.Typer, find: FindSession, **calls: Call) -> None:
    """Make calls, of a signed-in `BillingCalls` and a command's own options, commands of `app`, by their names."""
    add_session_calls(app, find, **{name: _signed_in(call) for name, call in calls.items()})


def _signed_in(call: Call) -> Call:
    @functools.wraps(call)
    async def signed_in(session: Session, **given: Any) -> Shown:
        return await call(await session.open_signed_in(), **given)

    return signed_in


def add_session_calls(app: typer.Typer, find: FindSession, **calls: Call) -> None:
    """Make calls, of a `Session` and a command's own options, commands of `app`, by their names."""
    for name, call in calls.items():
        add_command(app, name.replace("_", "-"), _in_session(call, find), REMOTE)


def _in_session(call: Call, find: FindSession) -> Work:
    @functools.wraps(call)
    async def work(output: Output, **given: Any) -> None:
        session = find(output)
        with explained_to_people(session):
            shown = await call(session, **given)
        output.show(shown)

    return work


@contextmanager
def explained_to_people(session: Session) -> Iterator[None]:
    """Turn what the client raises into `CommandFailed`, with the command that mends it."""
    from billing.client.errors import ClientError, Refused, Unreachable

    try:
        yield
    except Refused as error:
        code = UNREACHABLE if error.status == _AWAY else REFUSED
        raise CommandFailed(printable(_refusal(error, session)), code) from error
    except Unreachable as error:
        message = f"{error} Check --api-url or METERGATE_API_URL, and that the gateway runs there."
        raise CommandFailed(message, UNREACHABLE) from error
    except ClientError as error:
        raise CommandFailed(f"{printable(str(error))} Check --api-url or METERGATE_API_URL.", UNREACHABLE) from error


def _refusal(error: "Refused", session: Session) -> str:
    text = f"{error.message} ({error.code})"
    if error.status == _UNAUTHORIZED:  # its code is that of keys, whatever was wrong: a password, a code, a token
        text = error.message
    if error.status == _UNAUTHORIZED and ("Authorization" in error.message or _SIGN_IN in error.message):
        return f"{error.message} {_renewing(session)}"
    match error.code:
        case "insufficient_scope" if session.given_token is None:
            kept = session.files.kept()
            if kept is not None and kept.scope is not None:
                text += f" The token was narrowed to {kept.scope!r}: `metergate auth token` takes that back."
        case "billing_required":
            billing = error.error.get("billing")
            next_command = billing.get("next") if isinstance(billing, dict) else None
            text += f"\nRun: {next_command}" if next_command else ""
        case "quota_exceeded" | "capacity_held":
            details = {name: error.error[name] for name in ("quota", "billing", "upgrade") if name in error.error}
            text += f"\n{msgspec.json.encode(details).decode()}" + _upgrade(details.get("upgrade"))
    return text


def _renewing(session: Session) -> str:
    if session.given_token is not None:
        return "The token is that of --token-file or METERGATE_API_TOKEN: make one with `metergate auth token --show`."
    return "Where only the token has ended: `metergate auth token`."


def _upgrade(upgrade: Any) -> str:
    if not isinstance(upgrade, dict):
        return ""
    text = f"\nUpgrade: {upgrade.get('name') or upgrade.get('plan')}, {upgrade.get('price_usd')} USD a month"
    return f"{text}: {upgrade['url']}" if upgrade.get("url") else text


def ask_secret(
    what: str, environ: Mapping[str, str], variable: str, *, from_stdin: bool = False, twice: bool = False
) -> str:
    """Return a secret: a line of stdin, else that of a variable, else what is typed without echo; it may be empty.

    Raises `CommandFailed` where there is nobody to ask, and for two that are not the same.
    """
    if from_stdin:
        line = sys.stdin.readline()
        if not line.strip():
            raise CommandFailed(f"There is no line with the {what} on stdin.", USAGE)
        return line.rstrip("\r\n")
    if variable in environ:
        return environ[variable]
    if not sys.stdin.isatty():
        way = f"set {variable}, or pipe it in and give the option for stdin that --help names"
        raise CommandFailed(f"There is no terminal to ask for the {what} at: {way}.", USAGE)
    import getpass

    try:
        with interruptible():
            given = getpass.getpass(f"{what.capitalize()}: ")
            again = getpass.getpass(f"{what.capitalize()} again: ") if twice and given else given
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandFailed("Nothing was done.", REFUSED) from error
    if again != given:
        raise CommandFailed("These are not the same: nothing was done.", USAGE)
    return given


Email = Annotated[str, typer.Option("--email", metavar="ADDRESS", help="Your address.", show_default=False)]
PASSWORD: Final = "METERGATE_PASSWORD"  # noqa: S105 - the name of a variable
NEW_PASSWORD: Final = "METERGATE_NEW_PASSWORD"  # noqa: S105 - the name of a variable
RESET: Final = "METERGATE_RESET_TOKEN"
SECOND_FACTOR: Final = "METERGATE_SECOND_FACTOR"
SecretsStdin = Annotated[bool, typer.Option("--stdin", help="Read what is asked for from stdin, a line each.")]
# A second factor that is longer is a recovery code.
_RECOVERY_LENGTH: Final = 8
_KEEP: Final = "Where the app is not at hand, each of these codes is good once; they are shown only now:"


def add_credentials(auth: typer.Typer, find: FindSession) -> None:
    """Add the commands to the group `auth`."""
    add_session_calls(auth, find, forgot=forgot, reset=reset)
    totp = group("An authenticator app, as the second factor of a sign-in.")
    add_session_calls(totp, find, enrol=enrol, confirm=confirm, recovery_codes=recovery_codes, off=off)
    auth.add_typer(totp, name="totp")


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
    """Make the secret of an authenticator app, which counts once `auth totp confirm` has had a code of it."""
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
    return Shown(made.received, ("The app counts from now on.", _KEEP, *made.recovery_codes), secret=True)


async def recovery_codes(session: Session, stdin: SecretsStdin = False) -> Shown:
    """Replace your recovery codes, by a code of the app or one of them. The new ones are printed this once."""
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
        raise CommandFailed("Without a code nothing was done.", USAGE)
    return {"recovery_code" if len(given) > _RECOVERY_LENGTH else "totp": given}


def org_of(profile: "ProfileShape", org: str) -> str:
    """Return the id of an organization of somebody's by its id or slug. Raises `CommandFailed`."""
    for each in profile.organizations:
        if org in (each.id, each.slug):
            return each.id
    yours = ", ".join(each.slug for each in profile.organizations) or "none"
    raise CommandFailed(f"{org!r} is no organization of yours; those are {yours}.")
