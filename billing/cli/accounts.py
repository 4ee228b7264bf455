"""What operators do to accounts and their money: `metergate operator account`, `grant`, `refund`, `adjust`, `suspend`,
`close`, `reopen`; `lots` and `coupon`, credit and codes that are credit; `plan`; and `order`: what was bought, money
given back, and payments that could not be credited."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import convert

from billing.api.operations import AccountOperations, CreditOperations, PaymentOperations, PlanOperations
from billing.cli.calls import add_calls, argument, command_of, ended, option, repeatable, switch
from billing.cli.commands import Connect, group
from billing.cli.keys import rule_option
from billing.cli.options import (
    FIRST_PAGE,
    AccountId,
    Paging,
    given,
    new_key,
    quota_text,
    quotas_of,
    quotas_text,
    some_change,
)
from billing.cli.output import REFUSED, CommandFailed, Shown, cell, columns, details, facts, listed, page_parts, says
from billing.cli.prompts import Yes, confirm
from billing.cli.tables import Table
from billing.money import MOST_PRIORITY, MoneyError, parse_usd
from billing.pages import MAX_LIMIT
from billing.schemas.accounts import Against, GrantShape
from billing.schemas.keys import RULES
from billing.schemas.quotas import QuotaShape

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.payments import PlanShape

_REASON: Final = "Why; the audit log keeps it."
_KEY: Final = "The same key does it only once; by default a new one, which is printed."
_QUOTAS: Final = rule_option(RULES["quotas"].option)
_LIMIT: Final = ("USD", "How far below zero its balance may go, such as 20.00.")
_FLAGS: Final = ("--credit-limit-usd", "--credit-limit")
_AMOUNT: Final = argument("How much, such as 12.50.")
_PRIORITY: Final = option(None, "The lowest is drawn first.", bounds=(0, MOST_PRIORITY))
_NOTE: Final = option("TEXT", "Why; the ledger keeps it.")
_PLAN: Final = argument("Of plans.yaml.", "PLAN")

shown_account: Final = facts(
    ("account", "id"),
    "name",
    "plan",
    "status",
    "balance_usd",
    "credit_limit_usd",
    ("quotas", lambda account: quotas_text(account.quotas)),
    ("plan's quotas", lambda account: quotas_text(account.plan_quotas)),
    "created_at",
)


def add_accounts(app: typer.Typer, connect: Connect) -> None:
    """Add the group `account`, and what is done to one account."""
    account = group("Accounts: who pays.")
    add_calls(
        account,
        connect,
        create=command_of(
            AccountOperations.create_account,
            "Create an account, with nothing on it.",
            shown_account,
            {
                "name": argument("Its name."),
                "plan": option("PLAN", "A plan of plans.yaml; else the default one."),
                "credit_limit_usd": option(*_LIMIT, *_FLAGS),
                "quotas": _QUOTAS,
            },
        ),
        show=command_of(AccountOperations.account, "Show an account.", shown_account),
        list=command_of(
            AccountOperations.accounts,
            "List accounts, newest first.",
            columns("id", "name", "plan", "status", "balance_usd"),
        ),
        set=command_of(
            AccountOperations.update_account,
            "Change an account. What is not given stays. Every gateway applies it within a second.",
            shown_account,
            {
                "name": option("NAME", "Its name."),
                "plan": option("PLAN", "A plan of plans.yaml."),
                "status": option(None, "Only an active account may spend, and one past due within PAYMENT_GRACE_DAYS."),
                "credit_limit_usd": option(*_LIMIT, *reversed(_FLAGS)),
            },
            changed=some_change,
        ),
        quotas=quotas,
    )
    app.add_typer(account, name="account")
    _add_changes(app, connect)


def _add_changes(app: typer.Typer, connect: Connect) -> None:
    add_calls(
        app,
        connect,
        grant=command_of(
            AccountOperations.grant,
            "Give credit to an account, once for an idempotency key. Asks before it gives much (`grant_confirm_usd`).",
            _shown_grant,
            {
                "amount_usd": _AMOUNT,
                "note": _NOTE,
                "expires_at": option("TIME", "When what is left of it is taken back; else never."),
                "priority": _PRIORITY,
                "promotional": switch("--paid", "It was paid for elsewhere: drawn after free credit.", False),
                "idempotency_key": option("KEY", _KEY),
            },
            confirmed=_much_credit,
            repeated="grant",
        ),
        refund=command_of(
            AccountOperations.refund,
            "Give an account back what it was charged. Once for an idempotency key.",
            _shown_grant,
            {
                "amount_usd": _AMOUNT,
                "note": _NOTE,
                "idempotency_key": option("KEY", _KEY),
            },
            confirmed="{amount_usd} USD of charges are given back to {account_id}, as credit.",
            repeated="refund",
        ),
        adjust=adjust,
        **{
            name: command_of(
                AccountOperations.update_account,
                summary,
                shown_account,
                {"reason": option("TEXT", _REASON, required=True)},
                fixed={"status": status},
            )
            for name, status, summary in (
                ("suspend", "suspended", "Let an account spend nothing until it is reopened. Its balance stays."),
                (
                    "close",
                    "closed",
                    "Close an account: it can spend nothing. Its balance stays, and can be read.",
                ),
                ("reopen", "active", "Let an account that was suspended or closed spend again."),
            )
        },
    )


async def quotas(
    client: "BillingCalls",
    account_id: AccountId,
    quota: Annotated[list[str] | None, _QUOTAS.declared] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of the account's own quotas.")] = False,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Those of a user, whose keys in the account share them.")
    ] = None,
) -> Shown:
    """Show an account's quotas: its own and its plan's. --quota replaces its own, --clear takes them away; with --user
    those of one user instead."""
    if clear and quota:
        raise typer.BadParameter("give --quota or --clear, not both", param_hint="--clear")
    wanted = quotas_of(quota or ())
    changes = clear or bool(wanted)
    if user is not None:
        of_user = await (
            client.set_user_quotas(account_id, user, quotas=wanted) if changes else client.user_quotas(account_id, user)
        )
        received, by = of_user.received, {f"user {user}": of_user.quotas}
    else:
        account = await (
            client.set_account_quotas(account_id, quotas=wanted) if changes else client.account(account_id)
        )
        received, by = account.received, {"account": account.quotas, f"plan {account.plan}": account.plan_quotas}
    rows = [(quota_text(each), of) for of, found in by.items() for each in found]
    return Shown(received, page_parts(Table(("quota", "of"), rows)))


async def _much_credit(client: "BillingCalls", given: Mapping[str, Any]) -> Sequence[str]:
    if not await _exceeds_confirmed(client, _nano(given["amount_usd"])):
        return ()
    how = "for free" if given.get("promotional", True) else "paid for elsewhere"
    return (f"{given['account_id']} is given {given['amount_usd']} USD of credit, {how}.",)


async def _exceeds_confirmed(client: "BillingCalls", nano: int | None) -> bool:
    """Return whether an amount is above what is given without asking; None is any amount."""
    return nano is None or nano > parse_usd((await client.operator_settings()).grant_confirm_usd)


def _nano(amount_usd: str) -> int:
    """Return an amount; what is none is left to the gateway to refuse."""
    try:
        return parse_usd(amount_usd)
    except MoneyError:
        return 0


async def adjust(
    client: "BillingCalls",
    account_id: AccountId,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help=_REASON, show_default=False)],
    add: Annotated[str | None, typer.Option("--add", metavar="USD", help="Raise the balance by so much.")] = None,
    take: Annotated[
        str | None, typer.Option("--take", metavar="USD", help="Lower the balance by so much, below zero if need be.")
    ] = None,
    against: Annotated[Against, typer.Option(help="The other side of the ledger.")] = "write_off",
    idempotency_key: Annotated[str | None, typer.Option(metavar="KEY", help=_KEY)] = None,
    yes: Yes = False,
) -> Shown:
    """Change a balance up or down, once for an idempotency key."""
    if (add is None) == (take is None):
        raise typer.BadParameter("give --add or --take", param_hint="--add")
    amount = add or take or ""
    if amount.startswith("-"):
        raise typer.BadParameter("an amount has no sign: --add raises the balance, --take lowers it")
    done = "added to" if take is None else "taken from"
    confirm((f"{amount} USD are {done} the balance of {account_id}, against {against}.",), yes=yes)
    signed, key = amount if take is None else f"-{amount}", idempotency_key or new_key()
    with repeatable("adjustment", key):
        done_so = await client.adjust(
            account_id, amount_usd=signed, idempotency_key=key, against=against, reason=reason
        )
    return _shown_grant(done_so, {"idempotency_key": key})


def _shown_grant(grant: GrantShape, given: Mapping[str, Any]) -> Shown:
    rows = [
        ("transfer", grant.transfer_id),
        ("amount USD", grant.amount_usd),
        ("balance USD", grant.balance_usd),
        ("idempotency key", given["idempotency_key"]),
    ]
    return details(grant, rows)


def add_credit(app: typer.Typer, connect: Connect) -> None:
    """Add `lots` and the group `coupon`."""
    lots = command_of(
        CreditOperations.account_lots,
        "List the grants and purchases of an account. Newest first, with what is left of each.",
        columns(
            "id",
            "kind",
            "state",
            "amount_usd",
            "left_usd",
            "priority",
            "promotional",
            "expires_at",
            folded=("promotional", "priority"),
        ),
        {"open": switch("--open", "Only those with something left.", "true")},
    )
    add_calls(app, connect, lots=lots)
    app.add_typer(_coupons(connect), name="coupon")


def _coupons(connect: Connect) -> typer.Typer:
    """Return the group `coupon`."""
    coupon = group("Codes that give credit, once for each account.")
    add_calls(
        coupon,
        connect,
        create=command_of(
            CreditOperations.create_coupon,
            "Create a coupon. Its code is printed once. Asks before it may give much (`grant_confirm_usd`).",
            facts(
                ("coupon", "id"),
                "code",
                "amount_usd",
                ("can be redeemed until", lambda made: made.expires_at or "for ever"),
                ("by", lambda made: f"{made.max_redemptions or 'all'} accounts"),
                ("credit lasts", lambda made: f"{made.credit_days} days" if made.credit_days else "for ever"),
            ),
            {
                "name": argument("Its name; the ledger keeps it."),
                "amount_usd": argument("How much for each account, such as 5.00."),
                "code": option("CODE", "6 to 64 letters and digits; by default one is generated."),
                "priority": _PRIORITY,
                "credit_days": option("DAYS", "For how long the credit lasts; else for ever.", bounds=(1, None)),
                "expires_at": option("TIME", "Until when it can be redeemed; else for ever."),
                "max_redemptions": option("N", "By how many accounts; else by all.", bounds=(1, None)),
            },
            confirmed=_much_of_coupon,
        ),
        list=command_of(
            CreditOperations.coupons,
            "List coupons, newest first, without their codes.",
            columns(
                "id",
                "name",
                "amount_usd",
                ("redeemed", lambda each: f"{each.redemptions}/{each.max_redemptions or '-'}"),
                ("until", "expires_at"),
                ("status", lambda each: "disabled" if each.disabled_at else "on"),
            ),
        ),
        disable=command_of(
            CreditOperations.disable_coupon,
            "Stop a coupon from being redeemed. What was redeemed stays.",
            ended("disabled", "can no longer be redeemed."),
        ),
    )
    return coupon


async def _much_of_coupon(client: "BillingCalls", given: Mapping[str, Any]) -> Sequence[str]:
    most = given.get("max_redemptions")
    if not await _exceeds_confirmed(client, None if most is None else _nano(given["amount_usd"]) * most):
        return ()
    accounts = "any number of accounts" if most is None else f"up to {most} accounts"
    return (f"The code gives {given['amount_usd']} USD of credit for free, to {accounts}.",)


def add_plans(app: typer.Typer, connect: Connect) -> None:
    """Add the group `plan`."""
    plan = group("Plans in force, and the plan of an account.")
    add_calls(
        plan,
        connect,
        list=command_of(
            PlanOperations.plans_in_force,
            "List the plans in force, the cheapest first.",
            columns(
                "id",
                "name",
                ("USD a month", "price_usd"),
                ("included USD", "included_credit_usd"),
                ("users", lambda each: _or_any(each.users)),
                ("quotas", lambda each: len(each.quotas)),
                "upgrade_to",
            ),
        ),
        show=show_plan,
        give=command_of(
            AccountOperations.update_account,
            "Give an account a plan that nobody pays for. It stays until a subscription of the account changes it.",
            shown_account,
            {"plan": _PLAN},
        ),
    )
    app.add_typer(plan, name="plan")


async def show_plan(client: "BillingCalls", plan: Annotated[str, _PLAN.declared]) -> Shown:
    """Show a plan: quotas, features, models, users, credit."""
    found = next((each for each in (await client.plans_in_force()).data if each.id == plan), None)
    if found is None:
        raise CommandFailed(f"There is no plan {plan!r}: `metergate operator plan list` lists them.", REFUSED)
    return Shown(found, (Table((), _of_plan(found)),))


def _of_plan(plan: "PlanShape") -> list[tuple[str, str]]:
    return [
        ("plan", plan.id),
        ("name", plan.name),
        ("USD a month", plan.price_usd),
        ("included USD", plan.included_credit_usd),
        ("users", _or_any(plan.users)),
        ("requests at once", _or_any(plan.max_parallel_requests)),
        ("upgrade to", cell(plan.upgrade_to)),
        ("models", "all" if plan.models is None else ", ".join(plan.models)),
        *(("quota", quota_text(convert(quota, QuotaShape))) for quota in plan.quotas),
        *(("feature", f"{name}: {str(units).lower()}") for name, units in plan.features.items()),
    ]


def _or_any(value: int | None) -> str:
    return "any" if value is None else str(value)


def add_orders(app: typer.Typer, connect: Connect) -> None:
    """Add the group `order`."""
    order = group("Orders, their refunds, and payments not credited.")
    parked_id = argument("The id of what waits, prk_..., or that of its order.")
    add_calls(
        order,
        connect,
        list=list_orders,
        show=command_of(
            PaymentOperations.order,
            "Show an order.",
            facts(
                ("order", "id"),
                "account_id",
                ("kind", lambda order: order.kind if order.plan is None else f"{order.kind} {order.plan}"),
                "amount_usd",
                "status",
                "reason",
                "refunded_usd",
                "disputed_usd",
                ("payment", lambda order: f"{order.provider} {order.payment_id or '-'}"),
                "transaction_id",
                "created_at",
            ),
        ),
        credit=command_of(
            PaymentOperations.credit_parked,
            "Give a payment that waits to its account.",
            says("{amount_usd} USD of {payment_id} are credited to {account_id}."),
            {
                "parked_id": parked_id,
                "account_id": option("ACCOUNT", "Whose it is, where that is not known.", "--account"),
                "note": _NOTE,
            },
            confirmed=_credit_of_parked,
        ),
        dismiss=command_of(
            PaymentOperations.dismiss_parked,
            "Decide that a payment that waits is not credited.",
            says("{payment_id} is dismissed: nothing is credited."),
            {
                "parked_id": parked_id,
                "note": option("TEXT", "Why.", required=True),
            },
        ),
        refund=command_of(
            PaymentOperations.refund_order,
            "Refund an order. At most what is left of its credit.",
            says("{amount_usd} USD are refunded: {refund_id} ({status})."),
            {
                "amount_usd": option("USD", "How much; else all that is left of its credit.", "--amount"),
                "idempotency_key": option("KEY", "The same key never refunds twice."),
            },
            confirmed=_refund_of_order,
            repeated="refund",
        ),
    )
    app.add_typer(order, name="order")


async def list_orders(
    client: "BillingCalls",
    account_id: Annotated[str | None, typer.Option("--account", metavar="ACCOUNT", help="Of one account.")] = None,
    status: Annotated[
        str | None,
        typer.Option(help="open, paid, credited, failed, expired, refunded, disputed or parked.", metavar="STATUS"),
    ] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Payments that wait for you, with the reason.")] = False,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List orders, newest first. With --parked payments that could not be credited."""
    if parked:
        amount = ("amount", lambda each: f"{each.amount_usd} {each.currency}")
        return listed(await client.parked(**page.asked), "id", "order_id", "account_id", amount, "reason")
    found = await client.orders(account_id=account_id, **page.asked, **given(status=status))
    return listed(found, "id", "account_id", "kind", "amount_usd", "refunded_usd", "status", "created_at")


async def _credit_of_parked(client: "BillingCalls", given: Mapping[str, Any]) -> Sequence[str]:
    parked_id, waiting = given["parked_id"], (await client.parked(limit=MAX_LIMIT)).data
    of = next((each for each in waiting if parked_id in (each.id, each.order_id)), None)
    amount = "its whole amount" if of is None else f"{of.amount_usd} {of.currency}"
    whose = given["account_id"] or (None if of is None else of.account_id) or "its account"
    return (f"{amount} of the payment {parked_id} is credited to {whose}.",)


async def _refund_of_order(client: "BillingCalls", given: Mapping[str, Any]) -> Sequence[str]:
    order, amount_usd = await client.order(given["order_id"]), given["amount_usd"]
    what = "All that is left of its credit is" if amount_usd is None else f"{amount_usd} USD are"
    paid = f"{order.id} of {order.account_id}: {order.amount_usd} USD were paid by {order.provider}."
    return paid, f"{what} refunded to the payment method, and taken from the balance."
