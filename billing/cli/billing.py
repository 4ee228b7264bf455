"""`metergate billing`: where the account stands, what to do about it, and the pages where that is done; what was
bought, and what happens when credit runs low."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from billing.cli.commands import group, lazy_group
from billing.cli.confirmation import Yes, confirm
from billing.cli.options import FIRST_PAGE, Paging, given
from billing.cli.output import Shown, Table, listed
from billing.cli.people import add_person_calls
from billing.cli.session import FindSession

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.credit import AlertShape
    from billing.schemas.payments import (
        FeatureShape,
        InvoiceShape,
        PageShape,
        PlanPreviewShape,
        StatusShape,
        SubscriptionShape,
    )
    from billing.schemas.quotas import WindowShape
    from billing.schemas.usage import BillingSummaryShape

ReturnUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the page leads to afterwards: an address on one of the operator's sites."),
]
PlanId = Annotated[str, typer.Argument(metavar="PLAN", help="As `billing plans` lists it.", show_default=False)]
OrderKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="A text of your own: the same again opens the same page."),
]
RECHARGE = dict.fromkeys(("show", "set", "off"), "billing.cli.auto_recharge:add_auto_recharge")
BUDGET = dict.fromkeys(("list", "create", "update", "delete"), "billing.cli.budgets:add_budgets")
# Invoices that are looked at for new ones.
MOST_NEW: Final = 20
# How long the bill of a change of plan is waited for, at most: some six seconds.
INVOICE_PAUSES_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2)
_WINDOWS = ("quota of", "window", "metric", "model", "limit", "used", "held", "left", "resets")
_FEATURES = ("feature", "allowed", "limit", "used", "left", "resets")


def add_billing(app: typer.Typer, find: FindSession) -> None:
    """Add the group `billing`."""
    billing = group("The account: what is left, and what comes next.")
    add_person_calls(
        billing,
        find,
        status=status,
        setup=setup,
        portal=portal,
        plans=plans,
        checkout=checkout,
        change_plan=change_plan,
        orders=orders,
        invoices=invoices,
        redeem=redeem,
        alert=alert,
    )
    recharge = lazy_group("The saved payment method is charged when credit runs low.", RECHARGE, find)
    billing.add_typer(recharge, name="auto-recharge")
    budget = lazy_group("Sums to stay within: they tell, and refuse nothing.", BUDGET, find)
    billing.add_typer(budget, name="budget")
    app.add_typer(billing, name="billing")


async def status(client: "BillingCalls") -> Shown:
    """Show the balance, the plan, what is left of quotas and features, this month, and what to do next."""
    found, month = await client.billing_status(), await client.billing_summary()
    parts: list[str | Table] = [Table((), [*_account(found), *_month(month), *_subscription(found.subscription)])]
    if found.windows:
        parts.append(Table(_WINDOWS, [_window(each) for each in found.windows]))
    if found.features:
        parts.append(Table(_FEATURES, [_feature(each) for each in found.features]))
    if found.state == "quota_exhausted":
        windows = [each for each in found.received["windows"] if _is_nothing(str(each["remaining"]))]
        parts.append(msgspec.json.encode(windows).decode())
    parts += _next(found)
    return Shown({**found.received, "month": month.received}, tuple(parts))


async def setup(
    client: "BillingCalls",
    amount: Annotated[
        str | None, typer.Option("--amount-usd", metavar="USD", help="How much credit to buy; else the usual amount.")
    ] = None,
    save_only: Annotated[
        bool, typer.Option("--save-only", help="Buy nothing now, but leave a payment method for later.")
    ] = False,
    return_url: ReturnUrl = None,
) -> Shown:
    """Open a page where credit is bought and the payment method kept, and print its address."""
    if save_only and amount is not None:
        raise typer.BadParameter("give --amount-usd or --save-only, not both", param_hint="--save-only")
    return _page(await client.setup_billing(return_url=return_url, save_only=save_only, **given(amount_usd=amount)))


async def portal(client: "BillingCalls", return_url: ReturnUrl = None) -> Shown:
    """Open a page where payment methods, invoices and the subscription are managed, and print its address."""
    return _page(await client.billing_portal(return_url=return_url))


async def plans(client: "BillingCalls") -> Shown:
    """List the plans, the cheapest first."""
    found = await client.plans()
    rows = [
        (each.id, each.name, each.price_usd, each.included_credit_usd, "any" if each.users is None else str(each.users))
        for each in found.data
    ]
    return Shown(found.received, (Table(("plan", "name", "USD a month", "included USD", "users"), rows),))


async def checkout(
    client: "BillingCalls",
    amount: Annotated[
        str | None, typer.Option("--amount-usd", metavar="USD", help="How much credit to buy, in whole cents.")
    ] = None,
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="Which plan to subscribe to.")] = None,
    save_method: Annotated[bool, typer.Option("--save-method", help="Keep the payment method for later.")] = False,
    return_url: ReturnUrl = None,
    idempotency_key: OrderKey = None,
    yes: Yes = False,
) -> Shown:
    """Open a page where an amount of credit or a plan is bought, and print its address. Asks before it orders a
    plan."""
    from billing.schemas.payments import preview_sentences

    if (amount is None) == (plan is None):
        raise typer.BadParameter("give --amount-usd or --plan, one of the two", param_hint="--plan")
    if plan is not None and not yes:
        confirm(preview_sentences(await client.preview_plan(plan)), yes=yes)
    page = await client.checkout(
        save_method=save_method,
        return_url=return_url,
        idempotency_key=idempotency_key,
        **given(amount_usd=amount, plan=plan),
    )
    return _page(page)


async def change_plan(client: "BillingCalls", plan: PlanId, yes: Yes = False) -> Shown:
    """Change the subscription: to a dearer plan at once, to a cheaper one with the next period; a free one ends it.
    Shows what is charged and by which means, and asks."""
    from billing.schemas.payments import preview_sentences

    preview = await client.preview_plan(plan)
    if preview.how not in ("buy", "nothing"):  # the first is refused, the second changes nothing
        confirm(preview_sentences(preview), yes=yes)
    known = {each.id for each in (await client.invoices(limit=MOST_NEW)).data}
    changed = await client.change_subscription(plan=plan)
    made = await _new_invoices(client, known) if preview.how == "now" else []
    rows = [("plan", changed.plan or "-"), *_subscription(changed)]
    rows += [("charged", _charged(each)) for each in made] or [("charged", _nothing_charged(preview))]
    data = {**changed.received, "invoices": [each.received for each in made]}
    return Shown(data, (Table((), rows),))


async def _new_invoices(client: "BillingCalls", known: Collection[str]) -> "list[InvoiceShape]":
    """Return the bills that a change has made; the payment provider may tell of them a moment later."""
    import asyncio

    for pause_s in (*INVOICE_PAUSES_S, None):
        found = (await client.invoices(limit=MOST_NEW)).data
        made = [each for each in found if each.id not in known]
        if made or pause_s is None:
            return made
        await asyncio.sleep(pause_s)
    return []


def _charged(invoice: "InvoiceShape") -> str:
    return f"{invoice.total_usd} {invoice.currency}: invoice {invoice.number or invoice.id}, {invoice.status}"


def _nothing_charged(preview: "PlanPreviewShape") -> str:
    if preview.how == "now":
        return "the bill is not there yet: metergate billing invoices"
    return "nothing today"


async def orders(
    client: "BillingCalls",
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="open, paid, credited, failed, expired, refunded, disputed or parked."),
    ] = None,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List orders, newest first."""
    return listed(
        await client.own_orders(**page.asked, **given(status=status)),
        "id",
        ("what", lambda order: order.plan or order.kind),
        "amount_usd",
        "refunded_usd",
        "status",
        "created_at",
    )


async def invoices(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List the bills of plans, newest first."""
    return listed(
        await client.invoices(**page.asked),
        ("number", lambda each: each.number or each.id),
        ("total", lambda each: f"{each.total_usd} {each.currency}"),
        "status",
        "created_at",
        ("page", "url"),
    )


async def redeem(
    client: "BillingCalls", code: Annotated[str, typer.Argument(help="The coupon's code.", show_default=False)]
) -> Shown:
    """Take the credit of a coupon, once for the account."""
    given = await client.redeem_coupon(code=code)
    lasts = "" if given.expires_at is None else f", until {given.expires_at}"
    return Shown(
        given.received, (f"{given.amount_usd} USD of {given.name}{lasts}: the balance is {given.balance_usd}.",)
    )


async def alert(
    client: "BillingCalls",
    low_balance_usd: Annotated[
        str | None, typer.Option("--low-balance-usd", metavar="USD", help="Tell when what may be spent is below it.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Below the operator's amount again.")] = False,
) -> Shown:
    """Show or set below what the account is told that its balance is low."""
    if default and low_balance_usd is not None:
        raise typer.BadParameter("give --low-balance-usd or --default, not both", param_hint="--default")
    if default or low_balance_usd is not None:
        return _alert(await client.set_alert(low_balance_usd=low_balance_usd))
    return _alert(await client.alert())


def _alert(found: "AlertShape") -> Shown:
    whose = " (the operator's amount)" if found.is_default else ""
    return Shown(found.received, (f"The account is told when less than {found.low_balance_usd} USD are left{whose}.",))


def _page(page: "PageShape") -> Shown:
    if page.url is None:
        return Shown(page.received, ("There is no page to open: see `metergate billing status`.",))
    order, notes = page.order, ["Open it in a browser. Then: metergate billing status"]
    if order is not None:
        what = "of credit" if order.plan is None else f"a month, for the plan {order.plan}"
        notes.insert(0, f"{order.amount_usd} USD {what}, as the order {order.id}.")
    return Shown(page.received, (page.url,), tuple(notes))


def _account(found: "StatusShape") -> list[tuple[str, str]]:
    return [
        ("account", found.account_id),
        ("organization", found.organization or "-"),
        ("state", found.state.replace("_", " ")),
        ("plan", f"{found.plan.name} ({found.plan.id}), {found.plan.price_usd} USD a month"),
        ("balance USD", found.balance_usd),
        ("available USD", found.available_usd),
    ]


def _month(month: "BillingSummaryShape") -> list[tuple[str, str]]:
    rows = [("spent this month USD", month.spent_usd), ("forecast USD", month.forecast_usd)]
    rows.append(("included left USD", f"{month.included_left_usd} of {month.included_usd}"))
    if month.budget is not None:
        rows.append(("budget left USD", f"{month.budget.left_usd} of {month.budget.limit_usd}"))
    return rows


def _subscription(found: "SubscriptionShape | None") -> list[tuple[str, str]]:
    if found is None:
        return []
    rows = [("subscription", f"{found.id}, {found.status}"), ("period ends", found.period_end)]
    if found.ends_at is not None:
        rows.append(("subscription ends", found.ends_at))
    if found.next_plan is not None:
        rows.append(("next plan", found.next_plan))
    if found.grace_until is not None:
        rows.append(("to be paid until", found.grace_until))
    return rows


def _window(each: "WindowShape") -> tuple[str, ...]:
    amounts = (each.limit, each.used, each.held, each.remaining)
    return each.subject, each.window, each.metric, each.model or "-", *map(str, amounts), each.resets_at or "never"


def _feature(each: "FeatureShape") -> tuple[str, ...]:
    left = "-" if each.remaining is None else str(each.remaining)
    limit = "-" if each.limit is None else str(each.limit)
    return each.feature, "yes" if each.allowed else "no", limit, str(each.used), left, each.resets_at


def _next(found: "StatusShape") -> list[str]:
    """Return what to do: the server's guidance, where the plan above is bought, the next command."""
    lines = [] if found.guidance is None else [found.guidance]
    upgrade = found.upgrade
    if found.state == "quota_exhausted" and upgrade is not None and upgrade.url is not None:
        lines.append(f"Upgrade: {upgrade.name}, {upgrade.price_usd} USD a month: {upgrade.url}")
    if found.next is not None:
        lines.append(f"Run: {found.next}")
    return lines


def _is_nothing(amount: str) -> bool:
    return amount.startswith("-") or not amount.strip("0.")
