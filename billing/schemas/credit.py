"""Credit: lots, coupons, auto-recharge and alerts, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from billing.money import format_usd
from billing.payments.objects import format_cents
from billing.schemas.base import (
    DEFAULT_PRIORITY,
    Answer,
    Body,
    Moment,
    Name,
    PageQuery,
    PositiveUsdBody,
    Priority,
    Since,
    Usd,
    UsdBody,
    matching,
)
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.accounts.lots import Lot
    from billing.payments.auto_recharge import Alert
    from billing.payments.coupons import Coupon, Redeemed
    from billing.payments.recharges import Recharge


class LotsQuery(PageQuery, frozen=True, kw_only=True):
    """Which lots: with `open` of true those alone of which something is left."""

    open: Annotated[Literal["true", "false"], Meta(description="true or false")] | None = None


class LotShape(Answer, frozen=True, kw_only=True):
    """A raise of the balance and what is left of it. Requests draw on lots of the lowest priority first, then on those
    that expire soonest, on promotional ones before others, on the oldest first. `kind` is that of the transaction, or
    `opening` for what was there before lots were kept."""

    id: str
    kind: str
    state: Literal["open", "spent", "expired"]
    amount_usd: Usd
    left_usd: Usd
    expired_usd: Usd
    priority: int
    promotional: bool
    transaction_id: str | None
    expires_at: Moment | None
    created_at: Moment


def lot_shape(lot: Lot) -> LotShape:
    """Return a lot's shape."""
    terms = lot.terms
    return LotShape(
        id=lot.id,
        kind=lot.kind,
        state="open" if lot.left_nano else "expired" if lot.expired_nano else "spent",
        amount_usd=format_usd(lot.amount_nano),
        left_usd=format_usd(lot.left_nano),
        expired_usd=format_usd(lot.expired_nano),
        priority=terms.priority,
        promotional=terms.promotional,
        transaction_id=lot.transfer_id,
        expires_at=None if terms.expires_at is None else rfc3339(terms.expires_at),
        created_at=rfc3339(lot.created_at),
    )


MOST_DAYS: Final = 3650
MOST_REDEMPTIONS: Final = 1_000_000_000
CouponCode = Annotated[
    str,
    Meta(min_length=1, max_length=200, description="capitals, spaces and hyphens make no difference"),
]


class CouponCodeBody(Body, frozen=True, kw_only=True):
    """The code of a coupon to redeem."""

    code: CouponCode

    def __repr__(self) -> str:
        return "CouponCodeBody()"


class NewCouponBody(Body, frozen=True, kw_only=True):
    """A coupon to make: credit for each of `max_redemptions` accounts that redeem it until `expires_at`, which lasts
    for `credit_days`; without these without a bound. Without a `code`, of 6 to 64 letters and digits, one is made
    up."""

    name: Name
    amount_usd: PositiveUsdBody
    code: Annotated[str, matching("[A-Za-z0-9]{6,64}", max_length=200, examples=["SPRING27"])] | None = None
    priority: Priority = DEFAULT_PRIORITY
    credit_days: Annotated[int, Meta(ge=1, le=MOST_DAYS)] | None = None
    expires_at: Since | None = None
    max_redemptions: Annotated[int, Meta(ge=1, le=MOST_REDEMPTIONS)] | None = None


class CouponShape(Answer, frozen=True, kw_only=True):
    """A coupon, without its code."""

    id: str
    name: str
    amount_usd: Usd
    priority: int
    credit_days: int | None
    expires_at: Moment | None
    max_redemptions: int | None
    redemptions: int
    created_at: Moment
    disabled_at: Moment | None


class NewCouponShape(CouponShape, frozen=True, kw_only=True):
    """A coupon that was made, with its code, which can't be read again."""

    code: str


class RedeemedShape(Answer, frozen=True, kw_only=True):
    """What a coupon has given: the balance is the one right after it."""

    name: str
    amount_usd: Usd
    balance_usd: Usd
    transaction_id: str
    expires_at: Moment | None


def coupon_shape(coupon: Coupon) -> CouponShape:
    """Return a coupon's shape."""
    return CouponShape(**_coupon_fields(coupon))


def new_coupon_shape(coupon: Coupon, code: str) -> NewCouponShape:
    """Return the shape of a coupon that was made."""
    return NewCouponShape(**_coupon_fields(coupon), code=code)


def _coupon_fields(coupon: Coupon) -> dict[str, Any]:
    return {
        "id": coupon.id,
        "name": coupon.name,
        "amount_usd": format_usd(coupon.amount_nano),
        "priority": coupon.priority,
        "credit_days": coupon.credit_days,
        "expires_at": coupon.expires_at and rfc3339(coupon.expires_at),
        "max_redemptions": coupon.most_redemptions,
        "redemptions": coupon.redemptions,
        "created_at": rfc3339(coupon.created_at),
        "disabled_at": coupon.disabled_at and rfc3339(coupon.disabled_at),
    }


def redeemed_shape(redeemed: Redeemed) -> RedeemedShape:
    """Return the shape of a redemption."""
    expires_at = redeemed.terms.expires_at
    return RedeemedShape(
        name=redeemed.coupon.name,
        amount_usd=format_usd(redeemed.grant.amount_nano),
        balance_usd=format_usd(redeemed.grant.balance_nano),
        transaction_id=redeemed.grant.transfer_id,
        expires_at=None if expires_at is None else rfc3339(expires_at),
    )


class RechargeBody(Body, frozen=True, kw_only=True):
    """What an account asks for: charge `amount_usd` when what it may spend falls below `threshold_usd`, in a month no
    more than `monthly_cap_usd`. Amounts are in whole cents."""

    enabled: bool
    threshold_usd: UsdBody
    amount_usd: PositiveUsdBody
    monthly_cap_usd: PositiveUsdBody


class RechargeShape(Answer, frozen=True, kw_only=True):
    """Auto-recharge of an account. `state` is `ready`, `charging`, `waiting` after a decline until `next_attempt_at`,
    `capped` until the next month, `stopped` after declines, one that is final or `authentication_required` (`url` is
    where to act then), or a payment that is processed for three weeks (`payment_pending`), or `off`."""

    enabled: bool
    threshold_usd: Usd | None
    amount_usd: Usd | None
    monthly_cap_usd: Usd | None
    state: Literal["off", "ready", "charging", "waiting", "capped", "stopped"]
    reason: str | None
    next_attempt_at: Moment | None
    url: str | None


def recharge_shape(recharge: Recharge | None, *, may_pay: bool) -> RechargeShape:
    """Return the shape of auto-recharge; None: it was never asked for. Without `may_pay` it has no `url`, which alone
    lets whoever knows it act there."""
    if recharge is None:
        return RechargeShape(
            enabled=False,
            threshold_usd=None,
            amount_usd=None,
            monthly_cap_usd=None,
            state="off",
            reason=None,
            next_attempt_at=None,
            url=None,
        )
    waits = recharge.state in ("waiting", "capped")
    return RechargeShape(
        enabled=recharge.enabled,
        threshold_usd=format_usd(recharge.threshold_nano),
        amount_usd=format_cents(recharge.amount_cents),
        monthly_cap_usd=format_cents(recharge.monthly_cap_cents),
        state=recharge.state,
        reason=recharge.reason,
        next_attempt_at=rfc3339(recharge.next_attempt_at) if waits else None,
        url=recharge.url if may_pay else None,
    )


class AlertBody(Body, frozen=True, kw_only=True):
    """Below what an account is told that its balance is low; null: below the operator's default."""

    low_balance_usd: UsdBody | None


class AlertShape(Answer, frozen=True, kw_only=True):
    """Below what an account is told that its balance is low, once for each time that it falls below it."""

    low_balance_usd: Usd
    is_default: bool


def alert_shape(alert: Alert) -> AlertShape:
    """Return the shape of an alert."""
    return AlertShape(low_balance_usd=format_usd(alert.threshold_nano), is_default=alert.is_default)
