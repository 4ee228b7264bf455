"""Credit: what of it is left in which lot, coupons, auto-recharge, and when an account is told of its balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing.api.errors import BadRequest, NotFound
from billing.api.operations import CreditOperations
from billing.api.payments import may_pay
from billing.api.requests import in_future, listing, moment, money, page_asked, positive_money
from billing.api.route import Call, serves
from billing.money import NANO_PER_CENT, format_usd
from billing.payments.auto_recharge import Wish
from billing.payments.coupons import NewCoupon
from billing.schemas.credit import (
    AlertBody,
    AlertShape,
    CouponCodeBody,
    CouponShape,
    LotShape,
    LotsQuery,
    NewCouponBody,
    NewCouponShape,
    RechargeBody,
    RechargeShape,
    RedeemedShape,
)

if TYPE_CHECKING:
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
    return RechargeShape.of_recharge(found, may_pay=may_pay(call))


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
