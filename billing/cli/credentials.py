"""`metergate auth forgot`, `auth reset` and `auth totp`: a new password by mail, an authenticator app."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli.commands import group
from billing.cli.output import USAGE, CommandFailed, Shown, Table
from billing.cli.people import add_place_call, ask_secret
from billing.cli.session import FindPlace, Place

if TYPE_CHECKING:
    from billing.shapes.people import FactorBody

Email = Annotated[str, typer.Option("--email", metavar="ADDRESS", help="Your address.", show_default=False)]
PASSWORD: Final = "METERGATE_PASSWORD"  # noqa: S105 - the name of a variable
NEW_PASSWORD: Final = "METERGATE_NEW_PASSWORD"  # noqa: S105 - the name of a variable
RESET: Final = "METERGATE_RESET_TOKEN"
SECOND_FACTOR: Final = "METERGATE_SECOND_FACTOR"
SecretsStdin = Annotated[bool, typer.Option("--stdin", help="Read what is asked for from stdin, a line each.")]
_RECOVERY_LENGTH: Final = 8
"""A second factor that is longer is a recovery code."""
_KEEP: Final = "Where the app is not at hand, each of these codes is good once; they are shown only now:"


def add_credentials(auth: typer.Typer, find: FindPlace) -> None:
    """Add the commands to the group `auth`."""
    add_place_call(auth, "forgot", forgot, find)
    add_place_call(auth, "reset", reset, find)
    totp = group("An authenticator app, as the second factor of a sign-in.")
    add_place_call(totp, "enrol", enrol, find)
    add_place_call(totp, "confirm", confirm, find)
    add_place_call(totp, "recovery-codes", recovery_codes, find)
    add_place_call(totp, "off", off, find)
    auth.add_typer(totp, name="totp")


async def forgot(place: Place, email: Email) -> Shown:
    """Have mailed what `auth reset` sets a new password with."""
    sent = await place.open_anew().forgot_password(email)
    said = f"If {email} is registered here, a mail is on its way to it. Then: metergate auth reset"
    return Shown(sent.received, (said,))


async def reset(
    place: Place,
    stdin: SecretsStdin = False,
    revoke_keys: Annotated[bool, typer.Option("--revoke-keys", help="Revoke your API keys, too.")] = False,
) -> Shown:
    """Set a new password by the token that was mailed. All your sessions end."""
    from billing.shapes.people import PasswordReset

    client = place.open_anew()
    token = ask_secret("mailed token", place.environ, RESET, from_stdin=stdin).strip()
    new = ask_secret("new password", place.environ, NEW_PASSWORD, from_stdin=stdin, twice=True)
    changed = await client.reset_password(PasswordReset(token=token, password=new, revoke_keys=revoke_keys))
    said = f"Your password is changed. Keys revoked: {changed.keys_revoked}. Then: metergate auth login"
    return Shown(changed.received, (said,))


async def enrol(place: Place, stdin: SecretsStdin = False) -> Shown:
    """Make the secret of an authenticator app, which counts once `auth totp confirm` has had a code of it."""
    client = await place.open_signed_in()
    password = None
    if (await client.who_am_i()).has_password:
        password = ask_secret("password", place.environ, PASSWORD, from_stdin=stdin)
    made = await client.enrol_totp(password)
    rows = [("secret", made.secret), ("address", made.uri)]
    then = "Give one of them to your app. Then: metergate auth totp confirm"
    return Shown(made.received, (Table((), rows), then), secret=True)


async def confirm(place: Place, stdin: SecretsStdin = False) -> Shown:
    """Have the app count from now on, by its first code. Prints the recovery codes, this once."""
    client = await place.open_signed_in()
    code = ask_secret("code of your authenticator app", place.environ, SECOND_FACTOR, from_stdin=stdin).strip()
    made = await client.confirm_totp(code)
    return Shown(made.received, ("The app counts from now on.", _KEEP, *made.recovery_codes), secret=True)


async def recovery_codes(place: Place, stdin: SecretsStdin = False) -> Shown:
    """Replace your recovery codes, by a code of the app or one of them. The new ones are printed this once."""
    client = await place.open_signed_in()
    made = await client.renew_recovery_codes(ask_factor(place, from_stdin=stdin))
    return Shown(made.received, (_KEEP, *made.recovery_codes), secret=True)


async def off(place: Place, stdin: SecretsStdin = False) -> Shown:
    """Remove the app, with a last code of it or a recovery code."""
    from billing.shapes.people import TotpRemoval

    client = await place.open_signed_in()
    password = None
    if (await client.who_am_i()).has_password:
        password = ask_secret("password", place.environ, PASSWORD, from_stdin=stdin)
    factor = ask_factor(place, from_stdin=stdin)
    await client.remove_totp(TotpRemoval(password=password, totp=factor.totp, recovery_code=factor.recovery_code))
    return Shown({"second_factor": False}, ("The app is removed: a password or a mailed code is enough.",))


def ask_factor(place: Place, *, from_stdin: bool = False) -> "FactorBody":
    """Return a second factor that is asked for. Raises `CommandFailed`."""
    from billing.shapes.people import FactorBody

    what = "code of your authenticator app, or recovery code"
    given = ask_secret(what, place.environ, SECOND_FACTOR, from_stdin=from_stdin).strip()
    if not given:
        raise CommandFailed("Without a code nothing was done.", USAGE)
    return FactorBody(recovery_code=given) if len(given) > _RECOVERY_LENGTH else FactorBody(totp=given)
