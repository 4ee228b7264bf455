"""`metergate operator key`: API keys of accounts. A secret is printed once, by `create`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billing.cli.commands import Connect, group
from billing.cli.key_rules import Clear, KeyId, add_rules, key_changes, listed_keys, shown_key
from billing.cli.operator import add_calls
from billing.cli.options import FIRST_PAGE, AccountId, Paging
from billing.cli.output import Shown, revoked
from billing.money import MAX_NANO

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls


def add_keys(app: typer.Typer, connect: Connect) -> None:
    """Add the group `key`."""
    key = group("API keys of accounts.")
    add_calls(key, connect, create=add_rules(create), list=index, update=add_rules(update), revoke=revoke)
    app.add_typer(key, name="key")


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
    key = await client.create_key(account_id=account_id, name=name, quota=total_tokens, user_id=user_id, **rules)
    return shown_key(key)


async def index(client: "BillingCalls", account_id: AccountId, page: Paging = FIRST_PAGE) -> Shown:
    """List an account's keys, newest first."""
    return listed_keys(await client.keys(account_id=account_id, **page.asked))


async def update(
    client: "BillingCalls",
    key_id: KeyId,
    rules: dict[str, Any],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it.")] = None,
    clear: Clear = None,
) -> Shown:
    """Change a key: given options replace its values, the rest stays. Every gateway applies it within a second."""
    return shown_key(await client.update_key(key_id, **key_changes(name, rules, clear)))


async def revoke(client: "BillingCalls", key_id: KeyId) -> Shown:
    """Make a key invalid for good, on every gateway within a second."""
    await client.revoke_key(key_id)
    return revoked(key_id)
