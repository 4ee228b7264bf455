"""`metergate operator key`: API keys of accounts. A secret is printed once, by `create`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from billing.cli.accounts import AccountId, Cursor, Limit, Quotas, page_parts
from billing.cli.commands import Connect, add_call, group
from billing.cli.output import Shown, Table
from billing.cli.quotas import quotas_of, quotas_text
from billing.client_shapes import KeyChanges, KeyRules, KeyShape
from billing.money import MAX_NANO
from billing.pages import DEFAULT_LIMIT

if TYPE_CHECKING:
    from billing.client import BillingClient

KeyId = Annotated[str, typer.Argument(help="The key's id, key_...", show_default=False)]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="SCOPE", help="Such as llm:proxy or billing:read; may be given several times."),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="MODEL", help="A model that the key may use, or a prefix*; several times; else every model."
    ),
]
Parallel = Annotated[
    int | None, typer.Option("--max-parallel", min=1, metavar="N", help="Most requests at the same time.")
]
ExpiresAt = Annotated[
    str | None, typer.Option(metavar="TIME", help="A time such as 2027-01-31T12:00:00Z, or a day such as 2027-01-31.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME=VALUE", help="Kept with every request of the key; may be given several times."),
]


class Clearable(StrEnum):
    """What `update --clear` can take from a key; `scopes` go back to the default ones."""

    scopes = "scopes"
    quotas = "quotas"
    models = "models"
    max_parallel = "max-parallel"
    expires_at = "expires-at"
    tags = "tags"

    @property
    def field(self) -> str:
        return "max_parallel_requests" if self is Clearable.max_parallel else self.value.replace("-", "_")


def key_app(connect: Connect) -> typer.Typer:
    """The group."""
    app = group("API keys of accounts.")
    add_call(app, "create", create, connect)
    add_call(app, "list", index, connect)
    add_call(app, "update", update, connect)
    add_call(app, "revoke", revoke, connect)
    return app


async def create(
    client: "BillingClient",
    account_id: AccountId,
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    scope: Scopes = None,
    quota: Quotas = None,
    total_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, max=MAX_NANO, help="So many tokens for ever; 0 for no such quota.")
    ] = 0,
    model: Models = None,
    max_parallel: Parallel = None,
    expires_at: ExpiresAt = None,
    tag: Tags = None,
    user_id: Annotated[str | None, typer.Option(metavar="ID", help="Whose key it is within the account.")] = None,
) -> Shown:
    """Create a key. Its secret is printed this once and can't be had again; scripts take `.key` of --json."""
    rules = _rules(scope, quota, model, max_parallel, expires_at, tag)
    key = await client.create_key(account_id, name, rules=rules, total_tokens=total_tokens, user_id=user_id)
    secret = f"The key, shown only this once: {key['key']}"
    return Shown(key, (_table(key), secret), tuple(key.get("warnings", ())))


async def index(
    client: "BillingClient", account_id: AccountId, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Shown:
    """List an account's keys, newest first."""
    page = await client.keys(account_id, limit=limit, cursor=cursor)
    rows = [
        (key["id"], key["prefix"], key["name"], _state(key), quotas_text(key["quotas"]), key["last_used_at"] or "never")
        for key in page["data"]
    ]
    return Shown(page, page_parts(("id", "begins", "name", "state", "quotas", "last used"), rows, page["next_cursor"]))


async def update(
    client: "BillingClient",
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it.")] = None,
    scope: Scopes = None,
    quota: Quotas = None,
    model: Models = None,
    max_parallel: Parallel = None,
    expires_at: ExpiresAt = None,
    tag: Tags = None,
    clear: Annotated[
        list[Clearable] | None, typer.Option(help="Take it from the key; may be given several times.")
    ] = None,
) -> Shown:
    """Change a key: what is given replaces what it had, the rest stays. Felt by every gateway within a second."""
    changes = cast(KeyChanges, _rules(scope, quota, model, max_parallel, expires_at, tag))
    if name is not None:
        changes["name"] = name
    for what in clear or ():
        if what.field in changes:
            raise typer.BadParameter(f"{what} is given and cleared at once", param_hint="--clear")
        changes[what.field] = None  # type: ignore[literal-required]
    if not changes:
        raise typer.BadParameter("nothing to change was given; see --help")
    key = await client.update_key(key_id, changes)
    return Shown(key, (_table(key),), tuple(key.get("warnings", ())))


async def revoke(client: "BillingClient", key_id: KeyId) -> Shown:
    """Make a key invalid for good, on every gateway within a second."""
    await client.revoke_key(key_id)
    return Shown({"id": key_id, "revoked": True}, (f"{key_id} is revoked.",))


def _rules(
    scope: list[str] | None,
    quota: list[str] | None,
    model: list[str] | None,
    max_parallel: int | None,
    expires_at: str | None,
    tag: list[str] | None,
) -> KeyRules:
    """Only what was given."""
    rules = KeyRules()
    if scope:
        rules["scopes"] = scope
    if quota:
        rules["quotas"] = quotas_of(quota)
    if model:
        rules["models"] = model
    if max_parallel is not None:
        rules["max_parallel_requests"] = max_parallel
    if expires_at is not None:
        rules["expires_at"] = expires_at
    if tag:
        rules["tags"] = _tags(tag)
    return rules


def _tags(given: list[str]) -> dict[str, str]:
    tags = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint="--tag")
        tags[name] = value
    return tags


def _state(key: KeyShape) -> str:
    if key["revoked_at"]:
        return f"revoked {key['revoked_at']}"
    return f"until {key['expires_at']}" if key["expires_at"] else "valid"


def _table(key: KeyShape) -> Table:
    rows = [
        ("key", key["id"]),
        ("account", key["account_id"]),
        ("name", key["name"]),
        ("state", _state(key)),
        ("scopes", " ".join(key["scopes"])),
        ("models", "every model" if key["models"] is None else ", ".join(key["models"])),
        ("quotas", quotas_text(key["quotas"])),
        ("max parallel", "no bound" if key["max_parallel_requests"] is None else str(key["max_parallel_requests"])),
        ("tags", ", ".join(f"{name}={value}" for name, value in key["tags"].items()) or "none"),
    ]
    if key["user_id"] is not None:
        rows.insert(2, ("user", key["user_id"]))
    return Table((), rows)
