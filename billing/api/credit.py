"""Credit: what of it is left in which lot, coupons, auto-recharge, and when an account is told of its balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.errors import BadRequest, NotFound
from billing.api.payments import may_pay
from billing.api.requests import in_future, listing, moment, money, page_asked, positive_money
from billing.api.route import Access, Call, Route, customer_read
from billing.identity.permissions import BILLING_SETUP
from billing.payments.coupons import NewCoupon
from billing.payments.objects import NANO_PER_CENT
from billing.payments.recharges import Wish
from billing.schemas.base import Listing, PageQuery
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
    alert_shape,
    coupon_shape,
    lot_shape,
    new_coupon_shape,
    recharge_shape,
    redeemed_shape,
)

if TYPE_CHECKING:
    from billing.api.services import Services

LOTS: Final = "/api/billing/lots"
AUTO_RECHARGE: Final = "/api/billing/auto-recharge"
ALERTS: Final = "/api/billing/alerts"
COUPONS: Final = "/api/admin/coupons"
ACCOUNT_LOTS: Final = "/api/admin/accounts/{account_id}/lots"


async def list_lots(call: Call, query: LotsQuery) -> Listing[LotShape]:
    """List the lots of the account's credit, newest first, with what is left of each."""
    return await _lots(call.services, call.account_id, query)


async def list_account_lots(call: Call, query: LotsQuery) -> Listing[LotShape]:
    """List the lots of an account's credit, newest first, with what is left of each."""
    account = await call.services.accounts.get(call.id("account_id"))
    return await _lots(call.services, account.id, query)


async def _lots(services: Services, account_id: str, query: LotsQuery) -> Listing[LotShape]:
    limit, after = page_asked(query)
    return listing(await services.lots.page(account_id, limit, after, open_only=query.open == "true"), lot_shape)


async def redeem_coupon(call: Call, body: CouponCodeBody) -> RedeemedShape:
    """Give the account the credit of a coupon, once."""
    return redeemed_shape(await call.services.coupons.redeem(call.account_id, body.code, actor=call.actor))


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
    return new_coupon_shape(*await call.services.coupons.create(new, actor=call.actor))


async def list_coupons(call: Call, query: PageQuery) -> Listing[CouponShape]:
    """List coupons, newest first, without their codes."""
    return listing(await call.services.coupons.page(*page_asked(query)), coupon_shape)


async def disable_coupon(call: Call) -> None:
    """Let a coupon be redeemed no more. What was redeemed stays."""
    await call.services.coupons.disable(call.id("coupon_id"), actor=call.actor)


async def get_auto_recharge(call: Call) -> RechargeShape:
    """Return what the account has asked of auto-recharge, and what has become of it."""
    payments = call.services.payments
    found = None if payments is None else await payments.recharges.get(call.account_id)
    return recharge_shape(found, may_pay=may_pay(call))


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
    return recharge_shape(put, may_pay=True)


def _cents(param: str, given: object) -> int:
    cents, rest = divmod(positive_money(param, given), NANO_PER_CENT)
    if rest:
        raise BadRequest(f"{param} must be in whole cents.", param)
    return cents


async def get_alert(call: Call) -> AlertShape:
    """Return below what the account is told that its balance is low."""
    return alert_shape(await call.services.alerts.get(call.account_id))


async def put_alert(call: Call, body: AlertBody) -> AlertShape:
    """Set below what the account is told that its balance is low; null: below the default."""
    low_balance_usd = body.low_balance_usd
    threshold = None if low_balance_usd is None else money("low_balance_usd", low_balance_usd)
    return alert_shape(await call.services.alerts.put(call.account_id, threshold, actor=call.actor))


ROUTES: Final = (
    customer_read(LOTS, list_lots, Listing[LotShape], LotsQuery),
    Route("GET", ACCOUNT_LOTS, list_account_lots, Access.admin, Listing[LotShape], query=LotsQuery),
    Route(
        *("POST", "/api/billing/coupons/redeem", redeem_coupon, Access.caller, RedeemedShape),
        body=CouponCodeBody,
        scope=BILLING_SETUP,
        errors=(404, 409, 429),
    ),
    customer_read(AUTO_RECHARGE, get_auto_recharge, RechargeShape),
    Route(
        *("PUT", AUTO_RECHARGE, put_auto_recharge, Access.caller, RechargeShape),
        body=RechargeBody,
        scope=BILLING_SETUP,
        errors=(404,),
    ),
    customer_read(ALERTS, get_alert, AlertShape),
    Route("PUT", ALERTS, put_alert, Access.caller, AlertShape, body=AlertBody, scope=BILLING_SETUP),
    Route(
        *("POST", COUPONS, create_coupon, Access.admin, NewCouponShape),
        body=NewCouponBody,
        status=201,
        errors=(409,),
    ),
    Route("GET", COUPONS, list_coupons, Access.admin, Listing[CouponShape], query=PageQuery),
    Route("DELETE", f"{COUPONS}/{{coupon_id}}", disable_coupon, Access.admin, status=204),
)
