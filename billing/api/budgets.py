"""/api/billing/budgets, and /api/admin/accounts/{account_id}/budgets: the same calls, by operators for any account."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from billing.api.operations import BudgetOperations
from billing.api.requests import listing, page_asked, positive_money
from billing.api.route import Call, serves
from billing.budgets.rules import DEFAULT_THRESHOLDS, BudgetPeriod, BudgetRefused, BudgetTerms, Subject
from billing.pages import Page
from billing.schemas.credit import BudgetPatch, NewBudget, OwnBudgetShape
from billing.zones import DEFAULT_ZONE, zone_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.accounts.accounts import Account
    from billing.budgets.budgets import Budget
    from billing.schemas.base import Listing, PageQuery


@serves(BudgetOperations.create_budget, BudgetOperations.create_budget_of_account)
async def create_budget(call: Call, body: NewBudget) -> OwnBudgetShape:
    """Make a budget: thresholds that are reached are told of once in each period. It refuses nothing; what does is a
    quota of the metric cost."""
    account = await _account(call)
    made = await call.services.budgets.create(account.id, _terms(body), actor=call.actor)
    return await _shape(call, account, made)


@serves(BudgetOperations.budgets, BudgetOperations.budgets_of_account)
async def list_budgets(call: Call, query: PageQuery) -> Listing[OwnBudgetShape]:
    """List budgets, newest first, with what was spent of each in its period, and a forecast to its end."""
    account, budgets = await _account(call), call.services.budgets
    page = await budgets.page(account.id, *page_asked(query))
    standings = await budgets.standings(page.items, zone_of(account.tz or DEFAULT_ZONE))
    return listing(Page(tuple(standings), page.next_after), OwnBudgetShape.of_standing)


@serves(BudgetOperations.budget, BudgetOperations.budget_of_account)
async def get_budget(call: Call) -> OwnBudgetShape:
    """Return a budget, with what was spent of it and a forecast."""
    account = await _account(call)
    return await _shape(call, account, await call.services.budgets.get(call.id("budget_id"), account.id))


@serves(BudgetOperations.update_budget, BudgetOperations.update_budget_of_account)
async def update_budget(call: Call, body: BudgetPatch) -> OwnBudgetShape:
    """Change a budget: what is absent stays as it is."""
    account = await _account(call)
    changes: dict[str, Any] = {}
    if body.period is not UNSET:
        changes["period"] = BudgetPeriod(body.period)
    if body.amount_usd is not UNSET:
        changes["amount_nano"] = positive_money("amount_usd", body.amount_usd)
    for name in ("thresholds", "notify"):
        if (given := getattr(body, name)) is not UNSET:
            changes[name] = tuple(given) if name == "thresholds" else _addresses(given)
    update = call.services.budgets.update
    changed = await update(call.id("budget_id"), account.id, lambda terms: replace(terms, **changes), actor=call.actor)
    return await _shape(call, account, changed)


@serves(BudgetOperations.delete_budget, BudgetOperations.delete_budget_of_account)
async def delete_budget(call: Call) -> None:
    """Remove a budget."""
    account = await _account(call)
    await call.services.budgets.delete(call.id("budget_id"), account.id, actor=call.actor)


def _terms(body: NewBudget) -> BudgetTerms:
    subject, is_tag = Subject(body.subject), body.subject == "tag"
    if is_tag != (body.tag is not None):
        raise BudgetRefused("tag goes with the subject tag, such as team=a.", "tag")
    if is_tag and body.subject_id is not None:
        raise BudgetRefused("subject_id does not go with a tag.", "subject_id")
    return BudgetTerms(
        subject,
        (body.tag if is_tag else body.subject_id) or "",
        BudgetPeriod(body.period),
        positive_money("amount_usd", body.amount_usd),
        DEFAULT_THRESHOLDS if body.thresholds is UNSET else tuple(body.thresholds),
        () if body.notify is UNSET else _addresses(body.notify),
    )


def _addresses(given: Iterable[str]) -> tuple[str, ...]:
    """Return addresses as users have them, each once."""
    return tuple(dict.fromkeys(each.strip().lower() for each in given))


async def _account(call: Call) -> Account:
    return await call.services.accounts.get(call.account_id)


async def _shape(call: Call, account: Account, budget: Budget) -> OwnBudgetShape:
    (standing,) = await call.services.budgets.standings([budget], zone_of(account.tz or DEFAULT_ZONE))
    return OwnBudgetShape.of_standing(standing)
