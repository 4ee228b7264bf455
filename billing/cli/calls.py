"""How commands call the billing API, and what a call that fails says.

An operation becomes a command by `command_of`, where that is all that the command does: the ids of its path are
arguments, the types and defaults of its options are those of the fields that it asks for. What else a command does is a
function of a client, or of a `Session`. `add_calls` and `add_person_calls` make commands of either: connected, its
result shown, and what the client raises told in a sentence.
"""

import copy
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
import typer
from msgspec import NODEFAULT, UNSET

from billing.api.operation import Operation
from billing.cli import names
from billing.cli.commands import Call, Connect, Work, add_command
from billing.cli.options import FIRST_PAGE, REMOTE, Paging, new_key
from billing.cli.output import REFUSED, UNREACHABLE, CommandFailed, Output, Show, Shown, printable
from billing.cli.prompts import Yes, confirm
from billing.cli.session import FindSession, Session
from billing.schemas.base import PageQuery

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.client.errors import Refused
    from billing.schemas.people import ProfileShape

# What is about to be done, as sentences to be confirmed: a template of what was given, or a function of the client and
# of that; none: nothing is asked.
Confirmed = str | Callable[["BillingCalls", Mapping[str, Any]], Awaitable[Sequence[str]]]

UNAUTHORIZED: Final = 401
_FAILED: Final = 500
_AWAY: Final = 503
_ORG: Final = "org_id"
_ORG_PREFIX: Final = "org_"
# What the gateway says of a token that is refused, and not of a password.
_SIGN_IN: Final = "`metergate auth login`"
# What the ids of paths are.
_IDS: Final = {
    "account_id": "The account: its id, its name, or how these begin.",
    "budget_id": "The budget's id, bdg_...",
    "coupon_id": "The coupon's id, cpn_...",
    "endpoint_id": "The endpoint's id, whe_...",
    "key_id": "The key: its id, its name, or how these begin.",
    "order_id": "The order's id, ord_...",
    "user_id": "The user: their id, their address, or how these begin.",
}

# What the gateway says to programs, and what a command says in its place.
_SAID: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (
            r",? (?:as|in) (?:`?Authorization: Bearer[^`.]*(?:\.\.\.)?`?|X-Admin-Key(?: or as Authorization: Bearer)?)",
            "",
        ),
        (
            r"There is nothing at (\S+)\. GET /docs/reference lists the endpoints\.",
            r"That gateway has no \1: is it the right address?",
        ),
        (r"`?POST /api/auth/otp`? mails one", "`metergate auth login` has one mailed"),
        (r"`?POST /api/auth/revoke-all`?", "the console's page Security"),
    )
)

Org = Annotated[str | None, typer.Option("--org", metavar="ORG", help="An organization of yours: its id or slug.")]


@dataclass(frozen=True, slots=True)
class Parameter:
    """How a field is given to a command. Its type is `kind`, else that of the field; `read` makes the field's value of
    what was given, None: it is not sent."""

    declared: Any
    kind: Any = None
    required: bool = False
    read: Callable[[Any], Any] | None = None


def argument(help_text: str, metavar: str | None = None, *, kind: Any = None, optional: bool = False) -> Parameter:
    """Return an argument."""
    return Parameter(typer.Argument(metavar=metavar, help=help_text, show_default=False), kind, not optional)


def option(
    metavar: str | None,
    help_text: str,
    *flags: str,
    kind: Any = None,
    bounds: tuple[int | None, int | None] = (None, None),
    read: Callable[[Any], Any] | None = None,
    required: bool = False,
) -> Parameter:
    """Return an option, whose flag is the field's name where none is given; without `metavar` its values are shown."""
    least, most = bounds
    declared = typer.Option(*flags, metavar=metavar, help=help_text, min=least, max=most, show_default=not required)
    return Parameter(declared, kind, required, read)


def switch(flag: str, help_text: str, value: Any) -> Parameter:
    """Return a flag, by which this value of the field is sent."""
    return Parameter(typer.Option(flag, help=help_text), bool, read=lambda on: value if on else None)


def command_of(
    operation: Operation[..., Any],
    summary: str,
    show: Show,
    parameters: Mapping[str, Parameter] = MappingProxyType({}),
    *,
    fixed: Mapping[str, Any] = MappingProxyType({}),
    changed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    confirmed: Confirmed | None = None,
    repeated: str = "",
) -> Call:
    """Return a call of an operation, to be made a command whose help is `summary`.

    `fixed` fields are sent always, beside what `changed` makes of those that were given, which are the fields of
    `parameters`. With `confirmed` the command asks first. What is `repeated` without harm has an idempotency key, made
    here where none is given.
    """
    of_path = [name for name in operation.ids if name != _ORG]
    of_path_and_fields = {name: argument(_IDS.get(name, "")) for name in of_path} | dict(parameters)

    async def call(client: "BillingCalls", **given: Any) -> Shown:
        own = {name: given[name] for name in of_path}
        fields = ((name, _read(each, given[name])) for name, each in parameters.items() if name not in of_path)
        sent = {**fixed, **changed({name: value for name, value in fields if value is not None})}
        if repeated:
            sent["idempotency_key"] = sent.get("idempotency_key") or new_key()
        told = {**given, **own, **sent}
        if confirmed is not None and not given["yes"]:
            text = (confirmed.format_map(told),) if isinstance(confirmed, str) else await confirmed(client, told)
            confirm(text)
        ids = [await organization_id(client, given["org"]) if name == _ORG else own[name] for name in operation.ids]
        page = given["page"].asked if "page" in given else {}
        with repeatable(repeated, sent["idempotency_key"]) if repeated else nullcontext():
            answer = await client.call(operation, *ids, **sent, **page)
        return show(ids[-1] if operation.answer is None else answer, told)

    client_first = inspect.Parameter("client", inspect.Parameter.POSITIONAL_ONLY)
    signature = [_parameter(operation, name, each) for name, each in of_path_and_fields.items()]
    asked = (
        ("yes", confirmed is not None, Yes, False),
        ("org", _ORG in operation.ids, Org, None),
        ("page", operation.query is not None and issubclass(operation.query, PageQuery), Paging, FIRST_PAGE),
    )
    signature += [_keyword(name, kind, default) for name, is_asked, kind, default in asked if is_asked]
    call.__signature__ = inspect.Signature([client_first, *signature])  # type: ignore[attr-defined]
    call.__doc__ = summary
    return call


def _read(parameter: Parameter, given: Any) -> Any:
    if given is None or given in ([], ()):
        return None
    return given if parameter.read is None else parameter.read(given)


def _parameter(operation: Operation[..., Any], name: str, parameter: Parameter) -> inspect.Parameter:
    fields = [each for asked in (operation.query, operation.body) if asked is not None for each in _fields(asked)]
    field = next((each for each in fields if each.name == name), None)
    kind = parameter.kind or (str if field is None else _kind(field.type, parameter.declared.metavar))
    declared = parameter.declared
    if declared.metavar is None and isinstance(declared, typer.models.ArgumentInfo):
        declared = copy.copy(declared)
        declared.metavar = (name.removesuffix("_id") if name in names.KINDS else name).upper()
    if parameter.required:
        return _keyword(name, Annotated[kind, declared])
    default = False if kind is bool else None if field is None or kind == list[str] else field.default
    if default is None or default is UNSET or default is NODEFAULT:
        return _keyword(name, Annotated[kind | None, declared], None)
    return _keyword(name, Annotated[kind, declared], default)


def _fields(asked: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(asked)


def _keyword(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _kind(annotation: Any, metavar: str | None) -> Any:
    """Return the type of an option for a field: without a `metavar` the values that the field may have."""
    parts = list(_parts(annotation))
    item = int if int in parts else str
    if any(get_origin(each) is list for each in parts):
        return list[item]  # type: ignore[valid-type]
    named = next((each for each in parts if get_origin(each) is Literal), None)
    return item if named is None or metavar is not None else named


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield a type, and those that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def ended(what: str, sentence: str, name: str = "id") -> Show:
    """Return what shows that something is no more, by its id."""
    return lambda ended_id, _: Shown({name: ended_id, what: True}, (f"{ended_id} {sentence}",))


revoked: Final = ended("revoked", "is revoked.")


async def organization_id(client: "BillingCalls", org: str | None) -> str:
    """Return the id of the organization that was named, else of the token's. Raises `CommandFailed`."""
    if org is not None and org.startswith(_ORG_PREFIX):
        return org
    profile = await client.who_am_i()
    if org is not None:
        return org_of(profile, org)
    if profile.org_id is None:
        raise CommandFailed("You belong to no organization: `metergate org create`.")
    return profile.org_id


def org_of(profile: "ProfileShape", org: str) -> str:
    """Return the id of an organization of somebody's by its id or slug. Raises `CommandFailed`."""
    for each in profile.organizations:
        if org in (each.id, each.slug):
            return each.id
    yours = ", ".join(each.slug for each in profile.organizations) or "none"
    raise CommandFailed(f"{org!r} is no organization of yours; those are {yours}.")


def add_calls(app: typer.Typer, connect: Connect, **calls: Call) -> None:
    """Make calls of operators commands of `app`, by their names."""
    for name, call in calls.items():
        add_command(app, name.replace("_", "-"), _connected(call, connect), REMOTE)


def _connected(call: Call, connect: Connect) -> Work:
    @functools.wraps(call)
    async def work(output: Output, **given: Any) -> None:
        with explained_answers():
            async with connect(output) as client:
                shown = await call(client, **await names.of_all(client, given))
                if output.shows_tables:
                    shown = await names.with_names(client, shown)
        output.show(shown)

    return work


def add_person_calls(app: typer.Typer, find: FindSession, **calls: Call) -> None:
    """Make calls of people, who are signed in, commands of `app`, by their names."""
    add_session_calls(app, find, **{name: _signed_in(call) for name, call in calls.items()})


def _signed_in(call: Call) -> Call:
    @functools.wraps(call)
    async def signed_in(session: Session, **given: Any) -> Shown:
        client = await session.open_signed_in()
        shown = await call(client, **await names.of_own_keys(client, given))
        return await names.with_own_names(client, shown) if session.shows_tables else shown

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
def repeatable(what: str, key: str) -> Iterator[None]:
    """Tell, where it is not known whether `what` was made, by which idempotency key it is repeated without harm."""
    from billing.client.errors import Refused, Unreachable

    unknown = f"The {what} may have been made or not: repeat it with --idempotency-key {key}."
    try:
        yield
    except Unreachable as error:
        raise CommandFailed(f"{error} {unknown}", UNREACHABLE) from error
    except Refused as error:
        if error.status < _FAILED:
            raise
        raise CommandFailed(f"{error.message} {unknown}", UNREACHABLE) from error


def said_to_people(text: str) -> str:
    """Return what the gateway says, without control characters, headers and HTTP calls."""
    for pattern, words in _SAID:
        text = pattern.sub(words, text)
    return printable(text)


def _of_operator(error: "Refused") -> str:
    if error.status == UNAUTHORIZED:
        return f"{error.message} Set ADMIN_API_KEY, or name a file that holds the admin key with --token-file."
    return f"{error.message} ({error.code})"


@contextmanager
def explained_answers(refusal: "Callable[[Refused], str]" = _of_operator) -> Iterator[None]:
    """Turn what the billing API's client raises into `CommandFailed`; `refusal` says what the gateway has refused."""
    from billing.client.errors import ClientError, Refused, Unreachable

    try:
        yield
    except Refused as error:
        code = UNREACHABLE if error.status == _AWAY else REFUSED
        raise CommandFailed(said_to_people(refusal(error)), code) from error
    except ClientError as error:
        runs = ", and that the gateway runs there" if isinstance(error, Unreachable) else ""
        message = f"{said_to_people(str(error))} Check --api-url or METERGATE_API_URL{runs}."
        raise CommandFailed(message, UNREACHABLE) from error


def explained_to_people(session: Session) -> Any:
    """Turn what the client raises into `CommandFailed`, with the command that mends it."""
    return explained_answers(functools.partial(_of_person, session))


def _of_person(session: Session, error: "Refused") -> str:
    text = f"{error.message} ({error.code})"
    if error.status == UNAUTHORIZED:  # its code is that of keys, whatever was wrong: a password, a code, a token
        text = error.message
        if "Authorization" in text or _SIGN_IN in text:
            return f"{text} {_renewing(session)}"
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
