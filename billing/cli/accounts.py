"""`metergate operator account`: who pays."""

from collections.abc import Sequence
from typing import Annotated

import typer

from billing.cli.commands import Connect, add_call, group
from billing.cli.output import Shown, Table
from billing.cli.quotas import quotas_of, quotas_text
from billing.client import BillingClient
from billing.client_shapes import AccountShape
from billing.pages import DEFAULT_LIMIT, MAX_LIMIT

AccountId = Annotated[str, typer.Argument(help="The account's id, acc_...", show_default=False)]
Quotas = Annotated[
    list[str] | None,
    typer.Option(
        "--quota",
        metavar="WINDOW:METRIC=LIMIT[@MODEL]",
        help="Such as day:tokens=100000, month:cost=12.50, minute:requests=60@gpt-4*; may be given several times.",
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most to show.")]
Cursor = Annotated[
    str | None, typer.Option(metavar="CURSOR", help="Where the page before ended, as it was printed there.")
]


def account_app(connect: Connect) -> typer.Typer:
    """The group."""
    app = group("Accounts: who pays.")
    add_call(app, "create", create, connect)
    add_call(app, "show", show, connect)
    add_call(app, "list", index, connect)
    add_call(app, "quotas", set_quotas, connect)
    return app


async def create(
    client: BillingClient,
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    plan: Annotated[
        str | None, typer.Option(metavar="PLAN", help="A plan of plans.yaml; else the default one.")
    ] = None,
    credit_limit_usd: Annotated[
        str, typer.Option(metavar="USD", help="How far below zero its balance may go, such as 20.00.")
    ] = "0",
    quota: Quotas = None,
) -> Shown:
    """Create an account, with nothing on it."""
    quotas = quotas_of(quota or ())
    account = await client.create_account(name, plan=plan, credit_limit_usd=credit_limit_usd, quotas=quotas)
    return _one(account)


async def show(client: BillingClient, account_id: AccountId) -> Shown:
    """Show an account."""
    return _one(await client.account(account_id))


async def index(client: BillingClient, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Shown:
    """List accounts, newest first."""
    page = await client.accounts(limit=limit, cursor=cursor)
    rows = [
        (account["id"], account["name"], account["plan"], account["status"], account["balance_usd"])
        for account in page["data"]
    ]
    return Shown(page, page_parts(("id", "name", "plan", "status", "balance USD"), rows, page["next_cursor"]))


async def set_quotas(client: BillingClient, account_id: AccountId, quota: Quotas = None) -> Shown:
    """Replace an account's own quotas; without --quota it has none afterwards."""
    return _one(await client.set_account_quotas(account_id, quotas_of(quota or ())))


def page_parts(
    headers: tuple[str, ...], rows: Sequence[tuple[str, ...]], cursor: str | None
) -> tuple[str | Table, ...]:
    """A page of a list, and how to get the next one."""
    parts: list[str | Table] = [Table(headers, rows)] if rows else ["There are none."]
    if cursor is not None:
        parts.append(f"There are more: --cursor {cursor}")
    return tuple(parts)


def _one(account: AccountShape) -> Shown:
    rows = [
        ("account", account["id"]),
        ("name", account["name"]),
        ("plan", account["plan"]),
        ("status", account["status"]),
        ("balance USD", account["balance_usd"]),
        ("credit limit USD", account["credit_limit_usd"]),
        ("quotas", quotas_text(account["quotas"])),
        ("created", account["created_at"]),
    ]
    return Shown(account, (Table((), rows),))
