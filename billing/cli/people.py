"""What commands for people have in common: how they are connected, what their failures say, how they ask for secrets.

`add_person_call` makes a function of a `PersonCalls` a command, with the token of who is signed in; `add_place_call`
does so with one of a `Place`, for those that deal with tokens themselves. A secret is asked for at the terminal without
echo, or read from stdin or a variable: never from an argument, which every user of a machine may see.
"""

import functools
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from billing.cli.commands import add_command, interruptible
from billing.cli.options import REMOTE
from billing.cli.output import REFUSED, UNREACHABLE, USAGE, CommandFailed, Output, Shown, printable
from billing.cli.session import FindPlace, Place

if TYPE_CHECKING:
    from billing.answers import Refused

_UNAUTHORIZED, _AWAY = 401, 503
_SIGN_IN = "`metergate auth login`"
"""What the gateway says of a token that is refused, and not of a password."""


def add_person_call(app: typer.Typer, name: str, call: Callable[..., Awaitable[Shown]], find: FindPlace) -> None:
    """Make `call`, of a signed-in `PersonCalls` and a command's own options, the command `name` of `app`."""

    @functools.wraps(call)
    async def signed_in(place: Place, **given: Any) -> Shown:
        return await call(await place.open_signed_in(), **given)

    add_place_call(app, name, signed_in, find)


def add_place_call(app: typer.Typer, name: str, call: Callable[..., Awaitable[Shown]], find: FindPlace) -> None:
    """Make `call`, of a `Place` and a command's own options, the command `name` of `app`."""

    @functools.wraps(call)
    async def work(output: Output, **given: Any) -> None:
        place = find(output)
        with explained_to_people(place):
            shown = await call(place, **given)
        output.show(shown)

    add_command(app, name, work, REMOTE)


@contextmanager
def explained_to_people(place: Place) -> Iterator[None]:
    """Turn what the client raises into `CommandFailed`, with the command that mends it."""
    from billing.answers import ClientError, Refused, Unreachable

    try:
        yield
    except Refused as error:
        code = UNREACHABLE if error.status == _AWAY else REFUSED
        raise CommandFailed(printable(_refusal(error, place)), code) from error
    except Unreachable as error:
        message = f"{error} Check --api-url or METERGATE_API_URL, and that the gateway runs there."
        raise CommandFailed(message, UNREACHABLE) from error
    except ClientError as error:
        raise CommandFailed(f"{printable(str(error))} Check --api-url or METERGATE_API_URL.", UNREACHABLE) from error


def _refusal(error: "Refused", place: Place) -> str:
    said = f"{error.message} ({error.code})"
    if error.status == _UNAUTHORIZED and ("Authorization" in error.message or _SIGN_IN in error.message):
        return f"{error.message} {_renewing(place)}"
    match error.code:
        case "insufficient_scope" if place.given_token is None:
            kept = place.files.kept()
            if kept is not None and kept.scope is not None:
                said += f" The token was narrowed to {kept.scope!r}: `metergate auth token` takes that back."
        case "billing_required":
            billing = error.error.get("billing")
            next_command = billing.get("next") if isinstance(billing, dict) else None
            said += f"\nRun: {next_command}" if next_command else ""
        case "quota_exceeded" | "capacity_held":
            details = {name: error.error[name] for name in ("quota", "billing", "upgrade") if name in error.error}
            said += f"\n{msgspec.json.encode(details).decode()}" + _upgrade(details.get("upgrade"))
    return said


def _renewing(place: Place) -> str:
    if place.given_token is not None:
        return "The token is that of --token-file or METERGATE_API_TOKEN: make one with `metergate auth token --show`."
    return "Where only the token has ended: `metergate auth token`."


def _upgrade(upgrade: Any) -> str:
    if not isinstance(upgrade, dict):
        return ""
    said = f"\nUpgrade: {upgrade.get('name') or upgrade.get('plan')}, {upgrade.get('price_usd')} USD a month"
    return f"{said}: {upgrade['url']}" if upgrade.get("url") else said


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
