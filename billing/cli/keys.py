"""`metergate operator key`: API keys of accounts. A secret is printed once, by `create`. The options for a key's rules,
and what a table shows of them, follow from `billing.shapes.keys.RULES`."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import UNSET

from billing.cli.commands import Connect, group
from billing.cli.operator import add_call, quotas_of, quotas_text
from billing.cli.options import AccountId, Cursor, Limit
from billing.cli.output import Shown, Table, page_parts
from billing.money import MAX_NANO
from billing.pages import DEFAULT_LIMIT
from billing.shapes.keys import RULES, KeyPatch, KeyShape, NewKey
from billing.shapes.rules import Option

if TYPE_CHECKING:
    from billing.calls import BillingCalls

KeyId = Annotated[str, typer.Argument(help="The key's id, key_...", show_default=False)]
_CLEARED: Final = {rule.option.called: name for name, rule in RULES.items()}
"""What `--clear` can name, and the rule's field; scopes go back to the default ones."""
Clear = Annotated[
    list[str] | None,
    typer.Option(metavar=f"[{'|'.join(_CLEARED)}]", help="Take it from the key; may be given several times."),
]
_REPEATED: Final = ("texts", "quotas", "pairs")
"""Kinds of options that may be given several times."""


def add_keys(app: typer.Typer, connect: Connect) -> None:
    """Add the group `key`."""
    key = group("API keys of accounts.")
    add_call(key, "create", add_rules(create), connect)
    add_call(key, "list", index, connect)
    add_call(key, "update", add_rules(update), connect)
    add_call(key, "revoke", revoke, connect)
    app.add_typer(key, name="key")


def add_rules(call: Callable[..., Awaitable[Shown]]) -> Callable[..., Awaitable[Shown]]:
    """Return a call with an option for each rule in the place of its parameter `rules`, which gets what was given."""

    @functools.wraps(call)
    async def with_rules(client: "BillingCalls", **given: Any) -> Shown:
        rules = {name: given.pop(name) for name in RULES}
        told = {name: _read(RULES[name].option, value) for name, value in rules.items() if value not in (None, [])}
        return await call(client, **given, rules=told)

    own = [each for name, each in inspect.signature(call).parameters.items() if name != "rules"]
    options = [_parameter(name, rule.option) for name, rule in RULES.items()]
    with_rules.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return with_rules


def _parameter(name: str, option: Option) -> inspect.Parameter:
    kind: Any = int if option.kind == "number" else list[str] if option.kind in _REPEATED else str
    least = 1 if option.kind == "number" else None
    declared = typer.Option(option.flag, metavar=option.metavar, help=option.help, min=least)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=Annotated[kind | None, declared])


def _read(option: Option, given: Any) -> Any:
    """Return an option's value as the API takes it. Raises `typer.BadParameter`."""
    match option.kind:
        case "quotas":
            return quotas_of(given)
        case "pairs":
            return dict(_pair(option, text) for text in given)
    return given


def _pair(option: Option, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint=option.flag)
    return name, value


async def create(
    client: "BillingCalls",
    account_id: AccountId,
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    rules: dict[str, Any],
    total_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, max=MAX_NANO, help="So many tokens for ever; 0 for no such quota.")
    ] = 0,
    user_id: Annotated[str | None, typer.Option(metavar="ID", help="Whose key it is within the account.")] = None,
) -> Shown:
    """Create a key. Its secret is printed this once and can't be had again; scripts take `.key` of --json."""
    key = await client.create_key(
        NewKey(account_id=account_id, name=name, quota=total_tokens, user_id=user_id, **rules)
    )
    secret = f"The key, shown only this once: {key.key}"
    return Shown(key.received, (key_table(key), secret), tuple(key.warnings or ()), secret=True)


async def index(
    client: "BillingCalls", account_id: AccountId, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Shown:
    """List an account's keys, newest first."""
    page = await client.keys(account_id, limit=limit, cursor=cursor)
    rows = [
        (key.id, key.prefix, key.name, key_state(key), quotas_text(key.quotas), key.last_used_at or "never")
        for key in page.data
    ]
    headers = ("id", "begins", "name", "state", "quotas", "last used")
    return Shown(page.received, page_parts(headers, rows, page.next_cursor))


async def update(
    client: "BillingCalls",
    key_id: KeyId,
    rules: dict[str, Any],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it.")] = None,
    clear: Clear = None,
) -> Shown:
    """Change a key: what is given replaces what it had, the rest stays. Felt by every gateway within a second."""
    key = await client.update_key(key_id, key_patch(name, rules, clear))
    return Shown(key.received, (key_table(key),), tuple(key.warnings or ()))


def key_patch(name: str | None, rules: dict[str, Any], clear: list[str] | None) -> KeyPatch:
    """Return the change of a key by the options of its command. Raises `typer.BadParameter`."""
    for called in clear or ():
        if called not in _CLEARED:
            raise typer.BadParameter(f"{called!r}: expected one of {', '.join(_CLEARED)}", param_hint="--clear")
        if _CLEARED[called] in rules:
            raise typer.BadParameter(f"{called} is given and cleared at once", param_hint="--clear")
        rules[_CLEARED[called]] = None
    if name is None and not rules:
        raise typer.BadParameter("nothing to change was given; see --help")
    return KeyPatch(name=UNSET if name is None else name, **rules)


async def revoke(client: "BillingCalls", key_id: KeyId) -> Shown:
    """Make a key invalid for good, on every gateway within a second."""
    await client.revoke_key(key_id)
    return Shown({"id": key_id, "revoked": True}, (f"{key_id} is revoked.",))


def key_state(key: KeyShape) -> str:
    """Return whether a key is valid, and until when."""
    if key.revoked_at:
        return f"revoked {key.revoked_at}"
    return f"until {key.expires_at}" if key.expires_at else "valid"


def key_table(key: KeyShape) -> Table:
    """Return a key as a table."""
    rows = [("key", key.id), ("account", key.account_id), ("name", key.name), ("state", key_state(key))]
    rows += [
        (rule.option.called.replace("-", " "), _text(rule.option, getattr(key, name)))
        for name, rule in RULES.items()
        if rule.option.kind != "time"
    ]
    if key.user_id is not None:
        rows.insert(2, ("user", key.user_id))
    return Table((), rows)


def _text(option: Option, value: Any) -> str:
    """Return a rule of a key in one cell."""
    if not value:
        return option.none
    match option.kind:
        case "quotas":
            return quotas_text(value)
        case "pairs":
            return ", ".join(f"{name}={each}" for name, each in value.items())
        case "texts":
            return ", ".join(value)
    return str(value)
