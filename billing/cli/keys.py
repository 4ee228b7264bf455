"""`metergate operator key` and `metergate keys`: API keys of any account, and of one's own.

A secret is printed once, where it is made. The options for a key's rules, and what a table shows of them, follow from
`billing.schemas.keys.RULES`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.api.operations import KeyOperations, OwnKeyOperations
from billing.cli.calls import (
    Parameter,
    add_calls,
    add_person_calls,
    add_session_calls,
    argument,
    command_of,
    option,
    revoked,
)
from billing.cli.commands import Connect, group
from billing.cli.options import quotas_of, quotas_text, some_change
from billing.cli.output import Column, Shown, columns
from billing.cli.prompts import ask_secret
from billing.cli.session import FindSession, Session
from billing.cli.tables import Table
from billing.money import MAX_NANO
from billing.schemas.keys import RULES, KeyShape, NewKeyShape, Option

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

# What `--clear` can name, and the rule's field; scopes go back to the default ones.
_CLEARED: Final = {rule.option.called: name for name, rule in RULES.items()}
_UPDATE: Final = (
    "Change a key. Given options replace its values, the rest stays. Every gateway applies it within a second."
)
_CREATE: Final = "Create a key. Its secret is printed only once; scripts take `.key` of --json."
_REVOKE: Final = "Make a key invalid for good. On every gateway within a second."


def rule_option(of: Option) -> Parameter:
    """Return the option for a rule of a key."""
    readers = {"quotas": quotas_of, "pairs": lambda given: dict(_pair(of, text) for text in given)}
    kind = int if of.kind == "number" else list[str] if of.kind in ("texts", *readers) else str
    bounds = (1 if of.kind == "number" else None), None
    return option(of.metavar, of.help, of.flag, kind=kind, bounds=bounds, read=readers.get(of.kind))


def _pair(of: Option, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint=of.flag)
    return name, value


_RULES: Final = {name: rule_option(rule.option) for name, rule in RULES.items()}
_NEW: Final = {
    "name": argument("Its name."),
    "quota": option(
        "N", "A quota of so many tokens in total; 0 for none.", "--total-tokens", kind=int, bounds=(0, MAX_NANO)
    ),
}
_CHANGED: Final = {
    "name": option("NAME", "Its name."),
    "clear": option(f"[{'|'.join(_CLEARED)}]", "Remove it from the key; may be given several times.", kind=list[str]),
}


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return the change of a key by the options of its command. Raises `typer.BadParameter`."""
    changes = {name: value for name, value in given.items() if name != "clear"}
    for called in given.get("clear", ()):
        if called not in _CLEARED:
            raise typer.BadParameter(f"{called!r}: expected one of {', '.join(_CLEARED)}", param_hint="--clear")
        if _CLEARED[called] in changes:
            raise typer.BadParameter(f"{called} is given and cleared at once", param_hint="--clear")
        changes[_CLEARED[called]] = None
    return some_change(changes)


def _state(key: KeyShape) -> str:
    if key.revoked_at:
        return f"revoked {key.revoked_at}"
    return f"until {key.expires_at}" if key.expires_at else "valid"


def _table(key: KeyShape) -> Table:
    rows = [("key", key.id), ("account", key.account_id), ("name", key.name), ("state", _state(key))]
    rows += [
        (rule.option.called.replace("-", " "), _text(rule.option, getattr(key, name)))
        for name, rule in RULES.items()
        if rule.option.kind != "time"
    ]
    if key.user_id is not None:
        rows.insert(2, ("user", key.user_id))
    return Table((), rows)


def _text(of: Option, value: Any) -> str:
    """Return a rule of a key in one cell."""
    if not value:
        return of.none
    match of.kind:
        case "quotas":
            return quotas_text(value)
        case "pairs":
            return ", ".join(f"{name}={each}" for name, each in value.items())
        case "texts":
            return ", ".join(value)
    return str(value)


def _shown(key: KeyShape, _: Mapping[str, Any]) -> Shown:
    """Return a key, and what may not be meant; of one with a new secret, which is shown this once, that too."""
    secret = (f"The key, shown only once: {key.key}",) if isinstance(key, NewKeyShape) else ()
    return Shown(key.received, (_table(key), *secret), tuple(key.warnings or ()), secret=bool(secret))


_LISTED: Final[tuple[Column, ...]] = (
    ("state", _state),
    ("quotas", lambda key: quotas_text(key.quotas)),
    ("last used", lambda key: key.last_used_at or "never"),
)


def add_keys(app: typer.Typer, connect: Connect) -> None:
    """Add the group `key`."""
    key, account_id = group("API keys of accounts."), argument("The account: its id, its name, or how these begin.")
    user_id = option("ID", "Whose key it is within the account.")
    add_calls(
        key,
        connect,
        create=command_of(
            KeyOperations.create_key,
            _CREATE,
            _shown,
            {
                "account_id": account_id,
                **_NEW,
                "user_id": user_id,
                **_RULES,
            },
        ),
        list=command_of(
            KeyOperations.keys,
            "List an account's keys, newest first.",
            columns("id", ("begins", "prefix"), "name", *_LISTED, folded=("begins",)),
            {
                "account_id": account_id,
            },
        ),
        update=command_of(
            KeyOperations.update_key,
            _UPDATE,
            _shown,
            {
                **_CHANGED,
                **_RULES,
            },
            changed=_changes,
        ),
        revoke=command_of(KeyOperations.revoke_key, _REVOKE, revoked),
    )
    app.add_typer(key, name="key")


def add_own_keys(app: typer.Typer, find: FindSession) -> None:
    """Add the group `keys`."""
    keys = group("API keys of your account.")
    add_person_calls(
        keys,
        find,
        create=command_of(
            OwnKeyOperations.create_own_key,
            _CREATE,
            _shown,
            {
                **_NEW,
                "user_id": option("USER_ID", "Whose key it is; else your own.", "--user"),
                **_RULES,
            },
        ),
        list=command_of(
            OwnKeyOperations.own_keys,
            "List the account's keys, newest first. Revoked ones stay listed.",
            columns("id", ("begins", "prefix"), "name", "user_id", *_LISTED, folded=("user", "begins")),
            {
                "user_id": option("USER_ID", "Those of one user.", "--user"),
            },
        ),
        show=show,
        update=command_of(
            OwnKeyOperations.update_own_key,
            _UPDATE,
            _shown,
            {
                **_CHANGED,
                **_RULES,
            },
            changed=_changes,
        ),
        rotate=command_of(
            OwnKeyOperations.rotate_own_key,
            "Give a key a new secret, which is printed only once.",
            _shown,
            {
                "grace_seconds": option(
                    "SECONDS", "How long the previous secret stays valid.", "--grace", bounds=(0, None)
                ),
            },
        ),
        revoke=command_of(OwnKeyOperations.revoke_own_key, _REVOKE, revoked),
    )
    add_session_calls(keys, find, revoke_leaked=revoke_leaked)
    app.add_typer(keys, name="keys")


async def show(
    client: "BillingCalls",
    key_id: Annotated[str, typer.Argument(help="The key's id, key_...", show_default=False)],
) -> Shown:
    """Show a key, and what it has used."""
    key, used = await client.own_key(key_id), await client.own_key_usage(key_id)
    rows = [("requests", str(used.events)), ("tokens", str(used.total_tokens)), ("charge USD", used.charge_usd)]
    return Shown({**key.received, "usage": used.received}, (_table(key), Table((), rows)))


async def revoke_leaked(
    session: Session,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the secret from stdin, else METERGATE_LEAKED_KEY, else ask.")
    ] = False,
) -> Shown:
    """Revoke a leaked key by its secret. Whose it is does not matter, and nobody need sign in."""
    secret = ask_secret("secret of the key", session.environ, "METERGATE_LEAKED_KEY", from_stdin=key_stdin)
    done = await session.open_anew().revoke_leaked_key(key=secret.strip())
    return Shown(done.received, (done.message,))
