"""`metergate operator plan`: the plans in force, and which account has which."""

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import convert

from billing.cli.commands import Connect, group
from billing.cli.operator import add_calls, quota_text, shown_account
from billing.cli.options import AccountId
from billing.cli.output import REFUSED, CommandFailed, Shown, Table
from billing.schemas.quotas import QuotaShape

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.payments import PlanShape

PlanId = Annotated[str, typer.Argument(metavar="PLAN", help="Of plans.yaml.", show_default=False)]


def add_plans(app: typer.Typer, connect: Connect) -> None:
    """Add the group `plan`."""
    plan = group("Plans in force, and the plan of an account.")
    add_calls(plan, connect, list=index, show=show, give=give)
    app.add_typer(plan, name="plan")


async def index(client: "BillingCalls") -> Shown:
    """List the plans in force, the cheapest first."""
    found = await client.plans_in_force()
    rows = [
        (
            each.id,
            each.name,
            each.price_usd,
            each.included_credit_usd,
            _or(each.users, "any"),
            str(len(each.quotas)),
            each.upgrade_to or "-",
        )
        for each in found.data
    ]
    headers = ("id", "name", "USD a month", "included USD", "users", "quotas", "upgrade to")
    return Shown(found.received, (Table(headers, rows),))


async def show(client: "BillingCalls", plan: PlanId) -> Shown:
    """Show a plan: quotas, features, models, users, credit."""
    found = next((each for each in (await client.plans_in_force()).data if each.id == plan), None)
    if found is None:
        raise CommandFailed(f"There is no plan {plan!r}: `metergate operator plan list` lists them.", REFUSED)
    return Shown(found, (Table((), _facts(found)),))


async def give(client: "BillingCalls", account_id: AccountId, plan: PlanId) -> Shown:
    """Give an account a plan that nobody pays for. It stays until a subscription of the account changes it."""
    return shown_account(await client.update_account(account_id, plan=plan))


def _facts(plan: "PlanShape") -> list[tuple[str, str]]:
    rows = [("plan", plan.id), ("name", plan.name), ("USD a month", plan.price_usd)]
    rows += [("included USD", plan.included_credit_usd), ("users", _or(plan.users, "any"))]
    rows += [("requests at once", _or(plan.max_parallel_requests, "any")), ("upgrade to", plan.upgrade_to or "-")]
    rows.append(("models", "all" if plan.models is None else ", ".join(plan.models)))
    rows += [("quota", quota_text(convert(quota, QuotaShape))) for quota in plan.quotas]
    return rows + [("feature", f"{name}: {str(units).lower()}") for name, units in plan.features.items()]


def _or(value: int | None, absent: str) -> str:
    return absent if value is None else str(value)
