"""`metergate operator account`: who pays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli.commands import Connect, add_call, group
from billing.cli.output import Shown, Table
from billing.cli.quotas import quota_text, quotas_of, quotas_text
from billing.client_shapes import AccountChanges, AccountShape
from billing.pages import DEFAULT_LIMIT, MAX_LIMIT
from billing.principals import Status

if TYPE_CHECKING:
    from billing.client import BillingClient

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
    add_call(app, "set", change, connect)
    add_call(app, "quotas", quotas, connect)
    return app


async def create(
    client: "BillingClient",
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    plan: Annotated[
        str | None, typer.Option(metavar="PLAN", help="A plan of plans.yaml; else the default one.")
    ] = None,
    credit_limit_usd: Annotated[
        str,
        typer.Option(
            "--credit-limit-usd",
            "--credit-limit",
            metavar="USD",
            help="How far below zero its balance may go, such as 20.00.",
        ),
    ] = "0",
    quota: Quotas = None,
) -> Shown:
    """Create an account, with nothing on it."""
    quotas = quotas_of(quota or ())
    account = await client.create_account(name, plan=plan, credit_limit_usd=credit_limit_usd, quotas=quotas)
    return _one(account)


async def show(client: "BillingClient", account_id: AccountId) -> Shown:
    """Show an account."""
    return _one(await client.account(account_id))


async def index(client: "BillingClient", limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Shown:
    """List accounts, newest first."""
    page = await client.accounts(limit=limit, cursor=cursor)
    rows = [
        (account["id"], account["name"], account["plan"], account["status"], account["balance_usd"])
        for account in page["data"]
    ]
    return Shown(page, page_parts(("id", "name", "plan", "status", "balance USD"), rows, page["next_cursor"]))


async def change(
    client: "BillingClient",
    account_id: AccountId,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it.")] = None,
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="A plan of plans.yaml.")] = None,
    status: Annotated[
        Status | None,
        typer.Option(help="Only an active account may spend, and one past due within PAYMENT_GRACE_DAYS."),
    ] = None,
    credit_limit: Annotated[
        str | None,
        typer.Option(
            "--credit-limit",
            "--credit-limit-usd",
            metavar="USD",
            help="How far below zero its balance may go, such as 20.00.",
        ),
    ] = None,
) -> Shown:
    """Change an account: what is given, the rest stays. Felt by every gateway within a second."""
    changes = AccountChanges()
    if name is not None:
        changes["name"] = name
    if plan is not None:
        changes["plan"] = plan
    if status is not None:
        changes["status"] = status
    if credit_limit is not None:
        changes["credit_limit_usd"] = credit_limit
    if not changes:
        raise typer.BadParameter("nothing to change was given; see --help")
    return _one(await client.update_account(account_id, changes))


async def quotas(
    client: "BillingClient",
    account_id: AccountId,
    quota: Quotas = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all of the account's own quotas away.")] = False,
) -> Shown:
    """Show an account's quotas: its own and its plan's. --quota replaces its own, --clear takes them away."""
    if clear and quota:
        raise typer.BadParameter("give --quota or --clear, not both", param_hint="--clear")
    wanted = quotas_of(quota or ())
    if clear or wanted:
        account = await client.set_account_quotas(account_id, wanted)
    else:
        account = await client.account(account_id)
    rows = [(quota_text(each), "account") for each in account["quotas"]]
    rows += [(quota_text(each), f"plan {account['plan']}") for each in account.get("plan_quotas", ())]
    return Shown(account, (Table(("quota", "of"), rows) if rows else "There are none.",))


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
        ("plan's quotas", quotas_text(account.get("plan_quotas", ()))),
        ("created", account["created_at"]),
    ]
    return Shown(account, (Table((), rows),))
