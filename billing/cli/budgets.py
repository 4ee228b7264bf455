"""`metergate billing budget`: sums to stay within. They tell, and refuse nothing."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli.options import FIRST_PAGE, Paging, given
from billing.cli.output import Shown, details, page_parts
from billing.cli.people import add_person_calls
from billing.cli.session import FindSession

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.credit import OwnBudgetShape

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
_BUDGETS: Final = ("id", "of", "period", "amount USD", "spent USD", "percent", "forecast USD", "ends")


def add_budgets(app: typer.Typer, find: FindSession) -> None:
    """Add the commands of the group `billing budget`."""
    add_person_calls(app, find, list=list_budgets, create=create_budget, update=update_budget, delete=delete_budget)


async def list_budgets(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List budgets, newest first, with what was spent of each and a forecast."""
    found = await client.budgets(**page.asked)
    return Shown(found.received, page_parts(_BUDGETS, [_budget(each) for each in found.data], found.next_cursor))


async def create_budget(
    client: "BillingCalls",
    amount_usd: Annotated[str, typer.Argument(help="The sum, such as 100.00.", show_default=False)],
    period: Period = "month",
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of one key; else of the account.")] = None,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="Of one user's keys.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="Of requests with this tag.")] = None,
    threshold: Thresholds = None,
    notify: Notified = None,
) -> Shown:
    """Make a budget. It tells when a threshold is reached; a quota of cost would refuse."""
    if len([each for each in (key, user, tag) if each is not None]) > 1:
        raise typer.BadParameter("give one of --key, --user and --tag", param_hint="--key")
    subject = "key" if key else "user" if user else "tag" if tag else "account"
    terms = given(subject=subject, period=period, thresholds=threshold or None, notify=notify or None)
    made = await client.create_budget(subject_id=key or user, tag=tag, amount_usd=amount_usd, **terms)
    return _shown_budget(made)


async def update_budget(
    client: "BillingCalls",
    budget_id: BudgetId,
    amount: Annotated[str | None, typer.Option("--amount-usd", metavar="USD", help="The sum.")] = None,
    period: Period = None,
    threshold: Thresholds = None,
    notify: Notified = None,
) -> Shown:
    """Change a budget: what is not given stays. What it has reached by then is told anew."""
    changes = given(amount_usd=amount, period=period, thresholds=threshold or None, notify=notify or None)
    return _shown_budget(await client.update_budget(budget_id, **changes))


async def delete_budget(client: "BillingCalls", budget_id: BudgetId) -> Shown:
    """Remove a budget."""
    await client.delete_budget(budget_id)
    return Shown({"id": budget_id, "deleted": True}, (f"{budget_id} is deleted.",))


def _budget(each: "OwnBudgetShape") -> tuple[str, ...]:
    return (
        each.id,
        each.tag or each.subject_id or "account",
        each.period,
        each.amount_usd,
        each.spent_usd or "-",
        "-" if each.percent is None else f"{each.percent} %",
        each.forecast_usd or "-",
        each.period_end or "never",
    )


def _shown_budget(budget: "OwnBudgetShape") -> Shown:
    rows = list(zip(_BUDGETS, _budget(budget), strict=True))
    rows.append(("tells at", ", ".join(f"{each} %" for each in budget.thresholds)))
    rows.append(("tells", ", ".join(budget.notify) or "owners and admins"))
    return details(budget, rows)
