"""`metergate operator account`, `grant`, `refund`, `adjust`, `suspend`, `close`, `reopen`: who pays, and credit."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.cli.commands import Connect, group
from billing.cli.confirmation import Yes, confirm
from billing.cli.operator import add_calls, quota_text, quotas_of, repeatable, shown_account
from billing.cli.options import FIRST_PAGE, AccountId, Paging, Quotas, changes_of
from billing.cli.output import Shown, Table, details, listed
from billing.money import DEFAULT_PRIORITY, MOST_PRIORITY, MoneyError, parse_usd
from billing.principals import Status
from billing.schemas.accounts import Against, GrantShape

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

Amount = Annotated[str, typer.Argument(help="How much, such as 12.50.", show_default=False)]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; the audit log keeps it.", show_default=False)]
Note = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the ledger keeps it.")]
IdempotencyKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="The same key does it once; else a fresh one, which is printed.")
]


def add_accounts(app: typer.Typer, connect: Connect) -> None:
    """Add the group `account`, and what is done to one account."""
    account = group("Accounts: who pays.")
    add_calls(account, connect, create=create, show=show, list=index, set=change, quotas=quotas)
    app.add_typer(account, name="account")
    add_calls(app, connect, grant=grant, refund=refund, adjust=adjust, suspend=suspend, close=close, reopen=reopen)


async def create(
    client: "BillingCalls",
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
    account = await client.create_account(name=name, plan=plan, credit_limit_usd=credit_limit_usd, quotas=quotas)
    return shown_account(account)


async def show(client: "BillingCalls", account_id: AccountId) -> Shown:
    """Show an account."""
    return shown_account(await client.account(account_id))


async def index(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List accounts, newest first."""
    return listed(await client.accounts(**page.asked), "id", "name", "plan", "status", "balance_usd")


async def change(
    client: "BillingCalls",
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
    changes = changes_of(name=name, plan=plan, status=status, credit_limit_usd=credit_limit)
    return shown_account(await client.update_account(account_id, **changes))


async def quotas(
    client: "BillingCalls",
    account_id: AccountId,
    quota: Quotas = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all of the account's own quotas away.")] = False,
    user: Annotated[
        str | None, typer.Option(metavar="USER_ID", help="Those of a user, whose keys in the account share them.")
    ] = None,
) -> Shown:
    """Show an account's quotas: its own and its plan's. --quota replaces its own, --clear takes them away; with --user
    those of one user instead."""
    if clear and quota:
        raise typer.BadParameter("give --quota or --clear, not both", param_hint="--clear")
    wanted = quotas_of(quota or ())
    if user is not None:
        changes = clear or bool(wanted)
        of_user = await (
            client.set_user_quotas(account_id, user, quotas=wanted) if changes else client.user_quotas(account_id, user)
        )
        rows = [(quota_text(each), f"user {user}") for each in of_user.quotas]
        return Shown(of_user.received, (Table(("quota", "of"), rows) if rows else "There are none.",))
    if clear or wanted:
        account = await client.set_account_quotas(account_id, quotas=wanted)
    else:
        account = await client.account(account_id)
    rows = [(quota_text(each), "account") for each in account.quotas]
    rows += [(quota_text(each), f"plan {account.plan}") for each in account.plan_quotas]
    return Shown(account.received, (Table(("quota", "of"), rows) if rows else "There are none.",))


@dataclass(frozen=True, slots=True)
class Terms:
    """What kind of credit is given."""

    note: Note = None
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When what is left of it is taken back; else never.")
    ] = None
    priority: Annotated[int, typer.Option(min=0, max=MOST_PRIORITY, help="What is drawn first has the lowest.")] = (
        DEFAULT_PRIORITY
    )
    paid: Annotated[bool, typer.Option("--paid", help="It was paid for elsewhere: drawn after what was not.")] = False


USUAL_TERMS: Final = Terms()


async def grant(
    client: "BillingCalls",
    account_id: AccountId,
    amount_usd: Amount,
    terms: Terms = USUAL_TERMS,
    idempotency_key: IdempotencyKey = None,
    yes: Yes = False,
) -> Shown:
    """Give credit to an account, once for an idempotency key. Asks before it gives much (`grant_confirm_usd`)."""
    if not yes and await exceeds_confirmed(client, amount_nano(amount_usd)):
        how = "paid for elsewhere" if terms.paid else "for free"
        confirm((f"{account_id} is given {amount_usd} USD of credit, {how}.",), yes=yes)
    of_credit: dict[str, Any] = {"note": terms.note, "expires_at": terms.expires_at, "priority": terms.priority}
    call = functools.partial(client.grant, **of_credit, promotional=not terms.paid)
    return await _give("grant", call, account_id, amount_usd, idempotency_key)


async def exceeds_confirmed(client: "BillingCalls", nano: int | None) -> bool:
    """Return whether an amount is above what is given without asking; None is any amount."""
    return nano is None or nano > parse_usd((await client.operator_settings()).grant_confirm_usd)


def amount_nano(amount_usd: str) -> int:
    """Return an amount; what is none is left to the gateway to refuse."""
    try:
        return parse_usd(amount_usd)
    except MoneyError:
        return 0


async def refund(
    client: "BillingCalls",
    account_id: AccountId,
    amount_usd: Amount,
    note: Note = None,
    idempotency_key: IdempotencyKey = None,
    yes: Yes = False,
) -> Shown:
    """Give an account back what it was charged, once for an idempotency key."""
    confirm((f"{amount_usd} USD of charges are given back to {account_id}, as credit.",), yes=yes)
    call = functools.partial(client.refund, note=note)
    return await _give("refund", call, account_id, amount_usd, idempotency_key)


async def adjust(
    client: "BillingCalls",
    account_id: AccountId,
    reason: Reason,
    add: Annotated[str | None, typer.Option("--add", metavar="USD", help="Raise the balance by so much.")] = None,
    take: Annotated[
        str | None, typer.Option("--take", metavar="USD", help="Take so much, below zero where it has to be.")
    ] = None,
    against: Annotated[Against, typer.Option(help="The other side of the ledger.")] = "write_off",
    idempotency_key: IdempotencyKey = None,
    yes: Yes = False,
) -> Shown:
    """Change a balance up or down, once for an idempotency key."""
    if (add is None) == (take is None):
        raise typer.BadParameter("give --add or --take", param_hint="--add")
    amount = add if take is None else take
    if amount is None or amount.startswith("-"):
        raise typer.BadParameter("an amount has no sign: --add raises the balance, --take lowers it")
    done = "added to" if take is None else "taken from"
    confirm((f"{amount} USD are {done} the balance of {account_id}, against {against}.",), yes=yes)
    call = functools.partial(client.adjust, against=against, reason=reason)
    signed = amount if take is None else f"-{amount}"
    return await _give("adjustment", call, account_id, signed, idempotency_key)


async def suspend(client: "BillingCalls", account_id: AccountId, reason: Reason) -> Shown:
    """Let an account spend nothing until it is reopened. Its balance stays."""
    return shown_account(await client.update_account(account_id, status="suspended", reason=reason))


async def close(client: "BillingCalls", account_id: AccountId, reason: Reason) -> Shown:
    """Close an account: it spends nothing any more. Its balance stays, and can be read."""
    return shown_account(await client.update_account(account_id, status="closed", reason=reason))


async def reopen(client: "BillingCalls", account_id: AccountId, reason: Reason) -> Shown:
    """Let an account that was suspended or closed spend again."""
    return shown_account(await client.update_account(account_id, status="active", reason=reason))


async def _give(
    what: str,
    call: Callable[..., Awaitable[GrantShape]],
    account_id: str,
    amount_usd: str,
    idempotency_key: str | None,
) -> Shown:
    from ulid import ULID

    key = idempotency_key or str(ULID())
    with repeatable(what, key):
        result = await call(account_id, amount_usd=amount_usd, idempotency_key=key)
    rows = [
        ("transfer", result.transfer_id),
        ("amount USD", result.amount_usd),
        ("balance USD", result.balance_usd),
        ("idempotency key", key),
    ]
    return details(result, rows)
