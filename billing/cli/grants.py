"""`metergate operator grant`: credit for an account."""

from typing import Annotated

import typer
from ulid import ULID

from billing.cli.accounts import AccountId
from billing.cli.failures import UNREACHABLE, CommandFailed
from billing.cli.output import Shown, Table
from billing.client import BillingClient, Unreachable


async def grant(
    client: BillingClient,
    account_id: AccountId,
    amount_usd: Annotated[str, typer.Argument(help="How much, such as 12.50.", show_default=False)],
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the ledger keeps it.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key grants once; else a fresh one, which is printed.")
    ] = None,
) -> Shown:
    """Give credit to an account, once for an idempotency key."""
    key = idempotency_key or str(ULID())
    try:
        result = await client.grant(account_id, amount_usd, idempotency_key=key, note=note)
    except Unreachable as error:
        message = f"{error} The grant may have been made or not: repeat it with --idempotency-key {key}."
        raise CommandFailed(message, UNREACHABLE) from error
    rows = [
        ("transfer", result["transfer_id"]),
        ("amount USD", result["amount_usd"]),
        ("balance USD", result["balance_usd"]),
        ("idempotency key", key),
    ]
    return Shown(result, (Table((), rows),))
