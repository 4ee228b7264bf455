"""Budgets, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.money import format_usd
from billing.schemas.base import Answer, Body, Id, Moment, PositiveUsdBody, Usd, matching

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
