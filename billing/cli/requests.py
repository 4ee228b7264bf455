"""`metergate operator requests`: requests that were refused."""

from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli.accounts import Limit
from billing.cli.output import Shown, Table
from billing.pages import DEFAULT_LIMIT

if TYPE_CHECKING:
    from billing.client import BillingClient


async def requests(
    client: "BillingClient",
    refused: Annotated[bool, typer.Option("--refused", help="Those that were refused, with the reason.")] = False,
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of this key, key_...")] = None,
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT_ID", help="Of this account's keys, acc_...")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Shown:
    """Show the last requests that were refused, newest first; `metergate explain` says more of one."""
    if not refused:
        raise typer.BadParameter("give --refused; requests that were served are in the usage events of their account")
    if key is not None and account is not None:
        raise typer.BadParameter("give --key or --account, not both", param_hint="--key")
    page = await client.refusals(key_id=key, account_id=account, limit=limit)
    rows = [
        (each["created_at"], each["id"], each["key_id"] or "-", each["model"] or "-", each["code"], each["message"])
        for each in page["data"]
    ]
    headers = ("time", "request", "key", "model", "code", "message")
    return Shown(page, (Table(headers, rows) if rows else "There are none.",))
