"""What choosing a plan does, before it is chosen: what is paid today, and at each renewal. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from billing.money import NANO_PER_CENT
from billing.payments.in_force import Change, plan_change
from billing.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing.payments.in_force import Seen


@dataclass(frozen=True, slots=True)
class Outlook:
    """What choosing a plan does: `how` it comes, what is paid today, in nano-USD (`about`, where the provider reckons
    it by the part of the period that is left), what each renewal costs, and when the next one is."""

    plan: Plan
    how: Change | Literal["buy"]
    today_nano: int = 0
    about: bool = False
    renews_at: datetime | None = None


def outlook(plan: Plan, current: Seen | None, mine: str, plans: Mapping[str, Plan], now: datetime) -> Outlook:
    """Return what choosing a plan does, for an account on the plan `mine` by the subscription `current`. Pure."""
    if current is None:
        if plan.id == mine or not plan.price_nano:
            return Outlook(plan, "nothing")
        return Outlook(plan, "buy", plan.price_nano)
    how = plan_change(current, plan, plans)
    if plan.id == current.plan and how == "nothing":
        return Outlook(plan, how, renews_at=current.period_end)
    if how != "now":
        return Outlook(plan, how, renews_at=current.period_end)
    have = plans.get(current.plan or "")
    more_nano = plan.price_nano - (0 if have is None else have.price_nano)
    whole_s = int((current.period_end - current.period_start).total_seconds())
    left_s = min(max(0, int((current.period_end - now).total_seconds())), whole_s)
    cents = 0 if whole_s <= 0 else (more_nano * left_s // whole_s + NANO_PER_CENT // 2) // NANO_PER_CENT
    return Outlook(plan, how, cents * NANO_PER_CENT, about=True, renews_at=current.period_end)
