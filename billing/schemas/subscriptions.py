"""Billing status, subscriptions and features, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from billing.principals import Status
from billing.schemas.base import Answer, Body, Id, Moment, Name, Usd, matching
from billing.schemas.quotas import WindowShape
from billing.schemas.service import EventId

PlanId = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema={"format": "plan"})]
FeatureName = Annotated[str, matching("[a-z][a-z0-9_.-]{0,63}", examples=["reports"])]
Units = Annotated[int, Meta(ge=1, le=1_000_000_000)]
State = Literal["ready", "billing_required", "quota_exhausted", "past_due", "suspended", "closed"]


class PlanChange(Body, frozen=True, kw_only=True):
    """The plan to change a subscription to; a free one ends it with its period."""

    plan: PlanId


class NewFeatureUse(Body, frozen=True, kw_only=True):
    """Units of a feature that an account uses."""

    account_id: Id
    feature: FeatureName
    event_id: EventId
    units: Units = 1


class FeatureShape(Answer, frozen=True, kw_only=True):
    """A feature of the account's plan. `limit` is its units in a period, null: any number; `allowed` says that it may
    be used, once more at least."""

    feature: str
    allowed: bool
    limit: int | None
    used: int
    remaining: int | None
    resets_at: Moment

    @classmethod
    def of_state(cls, state: Any) -> Self:
        """Return a feature, and how much of it was used."""
        return cls.of(state, remaining=state.left, resets_at=state.period.end)


class FeaturesShape(Answer, frozen=True, kw_only=True):
    """The features that an account's plan names, by name."""

    data: list[FeatureShape]


class SubscriptionShape(Answer, frozen=True, kw_only=True):
    """What gives an account its plan. It ends at `ends_at`, or becomes `next_plan` with the next period; while it is
    not paid its plan stays until `grace_until`."""

    id: str
    status: str
    plan: str | None
    period_start: Moment
    period_end: Moment
    ends_at: Moment | None
    next_plan: str | None
    grace_until: Moment | None

    @classmethod
    def in_force(cls, found: Any) -> Self | None:
        """Return the subscription that gives a plan; None where none does."""
        return None if found.subscription is None else cls.of(found.subscription, found)


class PlanPreviewShape(Answer, frozen=True, kw_only=True):
    """What choosing a plan would do. `how`: `buy` (there is no subscription yet), `now`, with the next period
    (`period_end`), end the subscription with its period (`cancel`), keep it (`resume`), or `nothing`. `today_usd` is
    what is charged at once, `is_estimate` if the payment provider works it out to the second; `method` is the saved
    payment method that is charged, null if none is known."""

    plan: PlanShown
    how: Literal["buy", "now", "period_end", "cancel", "resume", "nothing"]
    today_usd: Usd
    is_estimate: bool
    renewal_usd: Usd
    renews_at: Moment | None
    method: str | None

    @classmethod
    def of_outlook(cls, outlook: Any, method: str | None) -> Self:
        """Return what choosing a plan would do."""
        plan = PlanShown.of(outlook.plan)
        return cls.of(outlook, plan=plan, is_estimate=outlook.about, renewal_usd=plan.price_usd, method=method)


class PlanShown(Answer, frozen=True, kw_only=True):
    """A plan, and its price a month."""

    id: str
    name: str
    price_usd: Usd


class UpgradeShape(Answer, frozen=True, kw_only=True):
    """The plan that is recommended next, and where it is bought: null, where nothing is sold."""

    plan: str
    name: str
    price_usd: Usd
    url: str | None


class StatusShape(Answer, frozen=True, kw_only=True):
    """Where an account stands: `state` in a word, `guidance` what to do about it, `next` the command for that."""

    account_id: str
    organization: Name | None
    state: State
    status: Status
    balance_usd: Usd
    available_usd: Usd
    plan: PlanShown
    features: list[FeatureShape]
    windows: list[WindowShape]
    subscription: SubscriptionShape | None
    upgrade: UpgradeShape | None
    guidance: str | None
    next: str | None


def preview_sentences(preview: PlanPreviewShape) -> tuple[str, ...]:
    """Return what choosing a plan does: what is charged, when and by which means."""
    name, renewal = f"The plan {preview.plan.name}", f"{preview.renewal_usd} USD at each renewal"
    means = f"by {preview.method}" if preview.method is not None else "by your saved payment method"
    match preview.how:
        case "buy":
            return (f"{name}: {preview.today_usd} USD today, then {renewal}, paid on the page that opens next.",)
        case "now":
            about = "about " if preview.is_estimate else ""
            today = f"{name}: {about}{preview.today_usd} USD are charged today {means}, for the rest of this period."
            return today, f"Then {renewal}, next on {preview.renews_at}."
        case "period_end":
            return (f"{name} comes on {preview.renews_at}. Nothing is charged today; then {renewal} {means}.",)
        case "cancel":
            return (f"Your plan ends on {preview.renews_at}. Nothing is charged any more.",)
        case "resume":
            return (f"Your plan goes on. Nothing is charged today; {renewal} {means}, next on {preview.renews_at}.",)
    return (f"{name} stays as it is.",)
