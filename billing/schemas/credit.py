"""Credit: lots, coupons, auto-recharge and alerts; and budgets, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.money import DEFAULT_PRIORITY, format_usd
from billing.schemas.base import (
    Answer,
    Body,
    Id,
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

    @classmethod
    def of_lot(cls, lot: Any) -> Self:
        """Return a lot."""
        return cls.of(lot, lot.terms, state="open" if lot.left_nano else "expired" if lot.expired_nano else "spent")


MOST_DAYS: Final = 3650
MOST_REDEMPTIONS: Final = 1_000_000_000
CouponCode = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="capitals, white space and hyphens make no difference, wherever they are",
    ),
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

    @classmethod
    def of_coupon(cls, coupon: Any, **more: str) -> Self:
        """Return a coupon; `more` is the code of one that was just made."""
        return cls.of(coupon, max_redemptions=coupon.most_redemptions, **more)


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


class RechargeBody(Body, frozen=True, kw_only=True):
    """What an account asks for: charge `amount_usd` when what it may spend falls below `threshold_usd`, in a month no
    more than `monthly_cap_usd`. Amounts are in whole cents."""

    enabled: bool
    threshold_usd: UsdBody
    amount_usd: PositiveUsdBody
    monthly_cap_usd: PositiveUsdBody


_ONLY_WHEN_ASKED_FOR: Final = ("threshold_usd", "amount_usd", "monthly_cap_usd", "reason", "next_attempt_at", "url")


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

    @classmethod
    def of_recharge(cls, recharge: Any, *, may_pay: bool) -> Self:
        """Return auto-recharge; None: it was never asked for. Without `may_pay` it has no `url`, which alone lets
        whoever knows it act there."""
        if recharge is None:
            return cls(enabled=False, state="off", **dict.fromkeys(_ONLY_WHEN_ASKED_FOR))
        waits = recharge.state in ("waiting", "capped")
        return cls.of(
            recharge,
            next_attempt_at=recharge.next_attempt_at if waits else None,
            url=recharge.url if may_pay else None,
        )


class AlertBody(Body, frozen=True, kw_only=True):
    """Below what an account is told that its balance is low; null: below the operator's default."""

    low_balance_usd: UsdBody | None


class AlertShape(Answer, frozen=True, kw_only=True):
    """Below what an account is told that its balance is low, once for each time that it falls below it."""

    low_balance_usd: Usd
    is_default: bool


SubjectName = Literal["account", "key", "user", "tag"]
PeriodName = Annotated[
    Literal["day", "week", "month", "total"],
    Meta(description="a calendar day, week or month in the account's time zone, or for ever"),
]
TagPair = Annotated[str, matching("[^=]+=.+", min_length=3, max_length=400, examples=["team=a"])]
Thresholds = Annotated[
    list[Annotated[int, Meta(ge=1, le=1000)]],
    Meta(min_length=1, max_length=10, description="percents of the amount, rising", examples=[[50, 80, 100]]),
]
Notified = Annotated[
    list[Annotated[str, Meta(min_length=3, max_length=254)]],
    Meta(max_length=10, description="addresses of members who are mailed; none: the owners and admins"),
]


class NewBudget(Body, frozen=True, kw_only=True):
    """A sum that an account means to stay within: its own, or that of a key or user (`subject_id`) or of a tag."""

    subject: SubjectName = "account"
    subject_id: Id | None = None
    tag: TagPair | None = None
    period: PeriodName = "month"
    amount_usd: PositiveUsdBody
    thresholds: Thresholds | UnsetType = UNSET
    notify: Notified | UnsetType = UNSET


class BudgetPatch(Body, frozen=True, kw_only=True):
    """A change of a budget: what is absent stays as it is. Thresholds that are crossed by then are told of anew."""

    period: PeriodName | UnsetType = UNSET
    amount_usd: PositiveUsdBody | UnsetType = UNSET
    thresholds: Thresholds | UnsetType = UNSET
    notify: Notified | UnsetType = UNSET


class OwnBudgetShape(Answer, frozen=True, kw_only=True):
    """A budget and how it stands. `spent_usd` is what the requests that were admitted in this period were charged,
    `percent` how much of the amount that is, `forecast_usd` what it will be by `period_end`. The first two and the
    forecast are null where usage is not summed by the tag, the forecast and the times also for `total`."""

    id: str
    subject: SubjectName
    subject_id: str | None
    tag: str | None
    period: PeriodName
    amount_usd: Usd
    thresholds: list[int]
    notify: list[str]
    created_at: Moment
    period_start: Moment | None
    period_end: Moment | None
    spent_usd: Usd | None
    left_usd: Usd | None
    percent: int | None
    forecast_usd: Usd | None
    told: Annotated[int, Meta(description="the highest threshold that was told of in this period; 0: none")]

    @classmethod
    def of_standing(cls, standing: Any) -> Self:
        """Return a budget, and how it stands."""
        budget, terms, spent_nano = standing.budget, standing.budget.terms, standing.spent_nano
        is_tag, ends_at, is_known = terms.tag is not None, standing.ends_at, spent_nano is not None
        return cls.of(
            standing,
            budget,
            terms,
            subject=terms.subject.value,
            subject_id=None if is_tag else terms.about or None,
            tag=terms.about if is_tag else None,
            period=terms.period.value,
            period_start=None if ends_at is None else standing.times.start,
            period_end=ends_at,
            left_usd=format_usd(max(0, terms.amount_nano - spent_nano)) if is_known else None,
            percent=spent_nano * 100 // terms.amount_nano if is_known else None,
            told=budget.told if budget.told_period == standing.times.name else 0,
        )
