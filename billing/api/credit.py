"""Credit: what of it is left in which lot, coupons, auto-recharge, and when an account is told of its balance. And
budgets: /api/billing/budgets, and /api/admin/accounts/{account_id}/budgets, the same calls, by operators for any
account."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from billing.api.operations import BudgetOperations, CreditOperations
from billing.api.requests import BadRequest, NotFound, in_future, listing, moment, money, page_asked, positive_money
from billing.api.route import Call, serves
from billing.budgets import DEFAULT_THRESHOLDS, BudgetPeriod, BudgetRefused, BudgetTerms, Subject
from billing.money import NANO_PER_CENT, format_usd
from billing.pages import Page
from billing.payments.auto_recharge import Wish
from billing.payments.coupons import NewCoupon
from billing.schemas.credit import (
    AlertBody,
    AlertShape,
    BudgetPatch,
    CouponCodeBody,
    CouponShape,
    LotShape,
    LotsQuery,
    NewBudget,
    NewCouponBody,
    NewCouponShape,
    OwnBudgetShape,
    RechargeBody,
    RechargeShape,
    RedeemedShape,
)
from billing.times import DEFAULT_ZONE, zone_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.accounts.accounts import Account
    from billing.budgets import Budget
    from billing.schemas.base import Listing, PageQuery


@serves(CreditOperations.lots, CreditOperations.account_lots)
async def list_lots(call: Call, query: LotsQuery) -> Listing[LotShape]:
    """List the lots of the account's credit, newest first, with what is left of each."""
    account = await call.services.accounts.get(call.account_id)
    limit, after = page_asked(query)
    page = await call.services.lots.page(account.id, limit, after, open_only=query.open == "true")
    return listing(page, LotShape.of_lot)


@serves(CreditOperations.redeem_coupon)
async def redeem_coupon(call: Call, body: CouponCodeBody) -> RedeemedShape:
    """Give the account the credit of a coupon, once."""
    redeemed = await call.services.coupons.redeem(call.account_id, body.code, actor=call.actor)
    return RedeemedShape.of(redeemed.grant, redeemed.terms, name=redeemed.coupon.name)


@serves(CreditOperations.create_coupon)
async def create_coupon(call: Call, body: NewCouponBody) -> NewCouponShape:
    """Make a coupon. The answer holds its code."""
    new = NewCoupon(
        body.name,
        positive_money("amount_usd", body.amount_usd),
        body.code,
        body.priority,
        body.credit_days,
        in_future("expires_at", moment("expires_at", body.expires_at), call.services.clock()),
        body.max_redemptions,
    )
    coupon, code = await call.services.coupons.create(new, actor=call.actor)
    return NewCouponShape.of_coupon(coupon, code=code)


@serves(CreditOperations.coupons)
async def list_coupons(call: Call, query: PageQuery) -> Listing[CouponShape]:
    """List coupons, newest first, without their codes."""
    return listing(await call.services.coupons.page(*page_asked(query)), CouponShape.of_coupon)


@serves(CreditOperations.disable_coupon)
async def disable_coupon(call: Call) -> None:
    """Let a coupon be redeemed no more. What was redeemed stays."""
    await call.services.coupons.disable(call.id("coupon_id"), actor=call.actor)


@serves(CreditOperations.auto_recharge)
async def get_auto_recharge(call: Call) -> RechargeShape:
    """Return what the account has asked of auto-recharge, and what has become of it."""
    payments = call.services.payments
    found = None if payments is None else await payments.recharges.get(call.account_id)
    return RechargeShape.of_recharge(found, may_pay=call.may_pay)


@serves(CreditOperations.set_auto_recharge)
async def put_auto_recharge(call: Call, body: RechargeBody) -> RechargeShape:
    """Have the saved payment method charged when what the account may spend falls below a threshold, or not any
    more. What stopped it before is forgotten."""
    payments = call.services.payments
    if payments is None:
        raise NotFound("This gateway takes no payments.")
    wish = Wish(
        body.enabled,
        money("threshold_usd", body.threshold_usd),
        _cents("amount_usd", body.amount_usd),
        _cents("monthly_cap_usd", body.monthly_cap_usd),
    )
    put = await payments.recharges.put(call.account_id, wish, actor=call.actor)
    return RechargeShape.of_recharge(put, may_pay=True)


def _cents(param: str, given: object) -> int:
    cents, rest = divmod(positive_money(param, given), NANO_PER_CENT)
    if rest:
        raise BadRequest(f"{param} must be in whole cents.", param)
    return cents


@serves(CreditOperations.alert)
async def get_alert(call: Call) -> AlertShape:
    """Return below what the account is told that its balance is low."""
    alert = await call.services.alerts.get(call.account_id)
    return AlertShape.of(alert, low_balance_usd=format_usd(alert.threshold_nano))


@serves(CreditOperations.set_alert)
async def put_alert(call: Call, body: AlertBody) -> AlertShape:
    """Set below what the account is told that its balance is low; null: below the default."""
    low_balance_usd = body.low_balance_usd
    threshold = None if low_balance_usd is None else money("low_balance_usd", low_balance_usd)
    alert = await call.services.alerts.put(call.account_id, threshold, actor=call.actor)
    return AlertShape.of(alert, low_balance_usd=format_usd(alert.threshold_nano))


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
    standings = await budgets.statuses(page.items, zone_of(account.tz or DEFAULT_ZONE))
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
    (standing,) = await call.services.budgets.statuses([budget], zone_of(account.tz or DEFAULT_ZONE))
    return OwnBudgetShape.of_standing(standing)
