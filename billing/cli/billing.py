"""`metergate billing`: where the account stands, what to do about it, the pages where that is done; and its budgets."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import UNSET

from billing.cli.commands import group
from billing.cli.options import Cursor, Limit
from billing.cli.output import Shown, Table, page_parts
from billing.cli.people import add_person_call
from billing.cli.session import FindPlace
from billing.pages import DEFAULT_LIMIT

if TYPE_CHECKING:
    from billing.person_calls import PersonCalls
    from billing.shapes.budgets import OwnBudgetShape
    from billing.shapes.payments import PageShape
    from billing.shapes.quotas import WindowShape
    from billing.shapes.reports import BillingSummaryShape
    from billing.shapes.subscriptions import FeatureShape, StatusShape, SubscriptionShape

ReturnUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the page leads to afterwards: an address on one of the operator's sites."),
]
BudgetId = Annotated[str, typer.Argument(help="The budget's id, bdg_...", show_default=False)]
Period = Annotated[str | None, typer.Option(metavar="PERIOD", help="day, week, month or total.")]
Thresholds = Annotated[
    list[int] | None,
    typer.Option("--threshold", metavar="PERCENT", help="When to tell, such as 80; may be given several times."),
]
Notified = Annotated[
    list[str] | None,
    typer.Option("--notify", metavar="ADDRESS", help="A member to mail, instead of the owners; several times."),
]
_WINDOWS = ("quota of", "window", "metric", "model", "limit", "used", "held", "left", "resets")
_BUDGETS = ("id", "of", "period", "amount USD", "spent USD", "percent", "forecast USD", "ends")
_FEATURES = ("feature", "allowed", "limit", "used", "left", "resets")


def add_billing(app: typer.Typer, find: FindPlace) -> None:
    """Add the group `billing`."""
    billing = group("The account: what is left, and what comes next.")
    add_person_call(billing, "status", status, find)
    add_person_call(billing, "setup", setup, find)
    add_person_call(billing, "portal", portal, find)
    budget = group("Sums to stay within: they tell, and refuse nothing.")
    add_person_call(budget, "list", list_budgets, find)
    add_person_call(budget, "create", create_budget, find)
    add_person_call(budget, "update", update_budget, find)
    add_person_call(budget, "delete", delete_budget, find)
    billing.add_typer(budget, name="budget")
    app.add_typer(billing, name="billing")


async def status(client: "PersonCalls") -> Shown:
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
    client: "PersonCalls",
    amount: Annotated[
        str | None, typer.Option("--amount-usd", metavar="USD", help="How much credit to buy; else the usual amount.")
    ] = None,
    save_only: Annotated[
        bool, typer.Option("--save-only", help="Buy nothing now, but leave a payment method for later.")
    ] = False,
    return_url: ReturnUrl = None,
) -> Shown:
    """Open a page where credit is bought and the payment method kept, and print its address."""
    from billing.shapes.payments import NewSetup

    if save_only and amount is not None:
        raise typer.BadParameter("give --amount-usd or --save-only, not both", param_hint="--save-only")
    body = NewSetup(return_url=return_url, amount_usd=UNSET if amount is None else amount, save_only=save_only)
    return _page(await client.setup_billing(body))


async def portal(client: "PersonCalls", return_url: ReturnUrl = None) -> Shown:
    """Open a page where payment methods, invoices and the subscription are managed, and print its address."""
    return _page(await client.billing_portal(return_url))


def _page(page: "PageShape") -> Shown:
    if page.url is None:
        return Shown(page.received, ("There is no page to open: see `metergate billing status`.",))
    return Shown(page.received, (page.url,), ("Open it in a browser. Then: metergate billing status",))


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
    said = [] if found.guidance is None else [found.guidance]
    upgrade = found.upgrade
    if found.state == "quota_exhausted" and upgrade is not None and upgrade.url is not None:
        said.append(f"Upgrade: {upgrade.name}, {upgrade.price_usd} USD a month: {upgrade.url}")
    if found.next is not None:
        said.append(f"Run: {found.next}")
    return said


def _is_nothing(amount: str) -> bool:
    return amount.startswith("-") or not amount.strip("0.")


async def list_budgets(client: "PersonCalls", limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Shown:
    """List budgets, newest first, with what was spent of each and a forecast."""
    page = await client.budgets(limit=limit, cursor=cursor)
    return Shown(page.received, page_parts(_BUDGETS, [_budget(each) for each in page.data], page.next_cursor))


async def create_budget(
    client: "PersonCalls",
    amount_usd: Annotated[str, typer.Argument(help="The sum, such as 100.00.", show_default=False)],
    period: Period = "month",
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of one key; else of the account.")] = None,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="Of one user's keys.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="Of requests with this tag.")] = None,
    threshold: Thresholds = None,
    notify: Notified = None,
) -> Shown:
    """Make a budget. It tells when a threshold is reached; a quota of cost would refuse."""
    from billing.shapes.budgets import NewBudget

    if len([each for each in (key, user, tag) if each is not None]) > 1:
        raise typer.BadParameter("give one of --key, --user and --tag", param_hint="--key")
    subject = "key" if key else "user" if user else "tag" if tag else "account"
    made = await client.create_budget(
        NewBudget(
            subject=subject,  # type: ignore[arg-type]
            subject_id=key or user,
            tag=tag,
            period=period,  # type: ignore[arg-type]
            amount_usd=amount_usd,
            thresholds=threshold or UNSET,
            notify=notify or UNSET,
        )
    )
    return _shown_budget(made)


async def update_budget(
    client: "PersonCalls",
    budget_id: BudgetId,
    amount: Annotated[str | None, typer.Option("--amount-usd", metavar="USD", help="The sum.")] = None,
    period: Period = None,
    threshold: Thresholds = None,
    notify: Notified = None,
) -> Shown:
    """Change a budget: what is not given stays. What it has reached by then is told anew."""
    from billing.shapes.budgets import BudgetPatch

    changes = BudgetPatch(
        amount_usd=UNSET if amount is None else amount,
        period=UNSET if period is None else period,  # type: ignore[arg-type]
        thresholds=threshold or UNSET,
        notify=notify or UNSET,
    )
    return _shown_budget(await client.update_budget(budget_id, changes))


async def delete_budget(client: "PersonCalls", budget_id: BudgetId) -> Shown:
    """Remove a budget."""
    await client.delete_budget(budget_id)
    return Shown({"id": budget_id, "deleted": True}, (f"{budget_id} is deleted.",))


def _budget(each: "OwnBudgetShape") -> tuple[str, ...]:
    return (
        *(each.id, each.tag or each.subject_id or "account", each.period, each.amount_usd),
        *(each.spent_usd or "-", "-" if each.percent is None else f"{each.percent} %"),
        *(each.forecast_usd or "-", each.period_end or "never"),
    )


def _shown_budget(budget: "OwnBudgetShape") -> Shown:
    rows = list(zip(_BUDGETS, _budget(budget), strict=True))
    rows.append(("tells at", ", ".join(f"{each} %" for each in budget.thresholds)))
    rows.append(("tells", ", ".join(budget.notify) or "owners and admins"))
    return Shown(budget.received, (Table((), rows),))
