"""What the commands on keys have in common, of operators (`keys`) and of people (`own_keys`): the options for a key's
rules, and what a table shows of them. Both follow from `billing.schemas.keys.RULES`."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.cli.operator import quotas_of, quotas_text
from billing.cli.options import changes_of, given
from billing.cli.output import Shown, Table, listed
from billing.schemas.base import Listing
from billing.schemas.keys import RULES, KeyShape, NewKeyShape, Option

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

KeyId = Annotated[str, typer.Argument(help="The key's id, key_...", show_default=False)]
# What `--clear` can name, and the rule's field; scopes go back to the default ones.
_CLEARED: Final = {rule.option.called: name for name, rule in RULES.items()}
Clear = Annotated[
    list[str] | None,
    typer.Option(metavar=f"[{'|'.join(_CLEARED)}]", help="Take it from the key; may be given several times."),
]
# Kinds of options that may be given several times.
_REPEATED: Final = ("texts", "quotas", "pairs")


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


def key_changes(name: str | None, rules: dict[str, Any], clear: list[str] | None) -> dict[str, Any]:
    """Return the change of a key by the options of its command. Raises `typer.BadParameter`."""
    for called in clear or ():
        if called not in _CLEARED:
            raise typer.BadParameter(f"{called!r}: expected one of {', '.join(_CLEARED)}", param_hint="--clear")
        if _CLEARED[called] in rules:
            raise typer.BadParameter(f"{called} is given and cleared at once", param_hint="--clear")
        rules[_CLEARED[called]] = None
    return {**changes_of(name=name), **rules} if not rules else {**given(name=name), **rules}


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


def shown_key(key: KeyShape) -> Shown:
    """Return a key, and what may not be meant; of one with a new secret, which is shown this once, that too."""
    secret = (f"The key, shown only this once: {key.key}",) if isinstance(key, NewKeyShape) else ()
    return Shown(key.received, (key_table(key), *secret), tuple(key.warnings or ()), secret=bool(secret))


def listed_keys(page: Listing[KeyShape], *of: str) -> Shown:
    """Return a page of keys, with columns `of` behind their names."""
    return listed(
        page,
        "id",
        ("begins", "prefix"),
        "name",
        *of,
        ("state", key_state),
        ("quotas", lambda key: quotas_text(key.quotas)),
        ("last used", lambda key: key.last_used_at or "never"),
    )
