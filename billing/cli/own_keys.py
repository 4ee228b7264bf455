"""`metergate keys`: the API keys of one's own account. A secret is printed once, by `create` and `rotate`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billing.cli.commands import group
from billing.cli.key_rules import Clear, KeyId, add_rules, key_changes, key_table, listed_keys, shown_key
from billing.cli.options import FIRST_PAGE, Paging
from billing.cli.output import Shown, Table, revoked
from billing.cli.people import add_person_calls, add_session_calls, ask_secret
from billing.cli.session import FindSession, Session
from billing.money import MAX_NANO

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls


def add_own_keys(app: typer.Typer, find: FindSession) -> None:
    """Add the group `keys`."""
    keys = group("API keys of your account.")
    add_person_calls(
        keys,
        find,
        create=add_rules(create),
        list=index,
        show=show,
        update=add_rules(update),
        rotate=rotate,
        revoke=revoke,
    )
    add_session_calls(keys, find, revoke_leaked=revoke_leaked)
    app.add_typer(keys, name="keys")


async def create(
    client: "BillingCalls",
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    rules: dict[str, Any],
    total_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, max=MAX_NANO, help="So many tokens for ever; 0 for no such quota.")
    ] = 0,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="Whose key it is; else your own.")] = None,
) -> Shown:
    """Create a key. Its secret is printed this once and can't be had again; scripts take `.key` of --json."""
    return shown_key(await client.create_own_key(name=name, quota=total_tokens, user_id=user, **rules))


async def index(
    client: "BillingCalls",
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="Those of one user.")] = None,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List the account's keys, newest first; revoked ones stay listed."""
    return listed_keys(await client.own_keys(user_id=user, **page.asked), "user_id")


async def show(client: "BillingCalls", key_id: KeyId) -> Shown:
    """Show a key, and what it has used."""
    key, used = await client.own_key(key_id), await client.own_key_usage(key_id)
    rows = [("requests", str(used.events)), ("tokens", str(used.total_tokens)), ("charge USD", used.charge_usd)]
    return Shown({**key.received, "usage": used.received}, (key_table(key), Table((), rows)))


async def update(
    client: "BillingCalls",
    key_id: KeyId,
    rules: dict[str, Any],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it.")] = None,
    clear: Clear = None,
) -> Shown:
    """Change a key: given options replace its values, the rest stays. Every gateway applies it within a second."""
    return shown_key(await client.update_own_key(key_id, **key_changes(name, rules, clear)))


async def rotate(
    client: "BillingCalls",
    key_id: KeyId,
    grace: Annotated[
        int, typer.Option(metavar="SECONDS", min=0, help="How long the secret before stays valid, too.")
    ] = 0,
) -> Shown:
    """Give a key a new secret, which is printed this once."""
    return shown_key(await client.rotate_own_key(key_id, grace_seconds=grace))


async def revoke(client: "BillingCalls", key_id: KeyId) -> Shown:
    """Make a key invalid for good, on every gateway within a second."""
    await client.revoke_own_key(key_id)
    return revoked(key_id)


async def revoke_leaked(
    session: Session,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the secret from stdin, else METERGATE_LEAKED_KEY, else ask.")
    ] = False,
) -> Shown:
    """Revoke a key by its secret, which somebody has found: whose it is does not matter, and nobody need sign in."""
    secret = ask_secret("secret of the key", session.environ, "METERGATE_LEAKED_KEY", from_stdin=key_stdin)
    done = await session.open_anew().revoke_leaked_key(key=secret.strip())
    return Shown(done.received, (done.message,))
