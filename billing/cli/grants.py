"""`metergate operator grant` and `metergate operator refund`: credit for an account."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli.accounts import AccountId
from billing.cli.failures import UNREACHABLE, CommandFailed
from billing.cli.output import Shown, Table
from billing.client_shapes import GrantShape

if TYPE_CHECKING:
    from billing.client import BillingClient

Amount = Annotated[str, typer.Argument(help="How much, such as 12.50.", show_default=False)]
Note = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the ledger keeps it.")]
IdempotencyKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="The same key does it once; else a fresh one, which is printed.")
]


async def grant(
    client: "BillingClient",
    account_id: AccountId,
    amount_usd: Amount,
    note: Note = None,
    idempotency_key: IdempotencyKey = None,
) -> Shown:
    """Give credit to an account, once for an idempotency key."""
    return await _give("grant", client.grant, account_id, amount_usd, note, idempotency_key)


async def refund(
    client: "BillingClient",
    account_id: AccountId,
    amount_usd: Amount,
    note: Note = None,
    idempotency_key: IdempotencyKey = None,
) -> Shown:
    """Give an account back what it was charged, once for an idempotency key."""
    return await _give("refund", client.refund, account_id, amount_usd, note, idempotency_key)


async def _give(
    what: str,
    call: Callable[..., Awaitable[GrantShape]],
    account_id: str,
    amount_usd: str,
    note: str | None,
    idempotency_key: str | None,
) -> Shown:
    from ulid import ULID

    from billing.client import Refused, Unreachable

    key = idempotency_key or str(ULID())
    unknown = f"The {what} may have been made or not: repeat it with --idempotency-key {key}."
    try:
        result = await call(account_id, amount_usd, idempotency_key=key, note=note)
    except Unreachable as error:
        raise CommandFailed(f"{error} {unknown}", UNREACHABLE) from error
    except Refused as error:
        if error.status < 500:
            raise
        raise CommandFailed(f"{error.message} {unknown}", UNREACHABLE) from error
    rows = [
        ("transfer", result["transfer_id"]),
        ("amount USD", result["amount_usd"]),
        ("balance USD", result["balance_usd"]),
        ("idempotency key", key),
    ]
    return Shown(result, (Table((), rows),))
