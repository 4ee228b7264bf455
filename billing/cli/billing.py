"""`metergate billing`: where the account stands, what to do about it, and the pages where that is done."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import UNSET

from billing.cli.commands import group
from billing.cli.output import Shown, Table
from billing.cli.people import add_person_call
from billing.cli.session import FindPlace

if TYPE_CHECKING:
    from billing.person_calls import PersonCalls
    from billing.shapes.payments import PageShape
    from billing.shapes.quotas import WindowShape
    from billing.shapes.reports import BillingSummaryShape
    from billing.shapes.subscriptions import FeatureShape, StatusShape, SubscriptionShape

ReturnUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the page leads to afterwards: an address on one of the operator's sites."),
]
_WINDOWS = ("quota of", "window", "metric", "model", "limit", "used", "held", "left", "resets")
_FEATURES = ("feature", "allowed", "limit", "used", "left", "resets")


def add_billing(app: typer.Typer, find: FindPlace) -> None:
    """Add the group `billing`."""
    billing = group("The account: what is left, and what comes next.")
    add_person_call(billing, "status", status, find)
    add_person_call(billing, "setup", setup, find)
    add_person_call(billing, "portal", portal, find)
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
    lines = [] if found.guidance is None else [found.guidance]
    upgrade = found.upgrade
    if found.state == "quota_exhausted" and upgrade is not None and upgrade.url is not None:
        lines.append(f"Upgrade: {upgrade.name}, {upgrade.price_usd} USD a month: {upgrade.url}")
    if found.next is not None:
        lines.append(f"Run: {found.next}")
    return lines


def _is_nothing(amount: str) -> bool:
    return amount.startswith("-") or not amount.strip("0.")
