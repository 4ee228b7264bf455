"""Which plan is in force, by the present states of an account's subscriptions; how one plan becomes another, and what
that charges. Pure.

What is decided depends on the states alone, never on which of them was seen first: events that come late, twice or in
another order lead to the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from billing.money import NANO_PER_CENT
from billing.payments.port import SubscriptionStatus
from billing.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from billing.payments.port import Invoice, InvoiceLine
    from billing.plans import Plans

# No subscription is in force; one is paid; one is not paid, and in its days of grace; or those are over.
Standing = Literal["none", "active", "past_due", "downgraded"]
Change = Literal["now", "period_end", "cancel", "resume", "nothing"]
PAID: Final = frozenset({"active", "trialing"})
OWING: Final = frozenset({"past_due", "unpaid", "paused"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A subscription as it was last seen. `plan` is ours of its price, None where none has it; `past_due_since` is when
    we first saw that it was not paid, None while it is."""

    id: str
    status: SubscriptionStatus
    plan: str | None
    period_start: datetime
    period_end: datetime
    created_at: datetime
    ends_at: datetime | None = None
    next_plan: str | None = None
    past_due_since: datetime | None = None

    def __post_init__(self) -> None:
        if (self.past_due_since is not None) != (self.status in OWING):
            raise ValueError("past_due_since is of a subscription that is not paid, and of no other")


@dataclass(frozen=True, slots=True)
class InForce:
    """What an account's subscriptions come to: its plan, and the subscription that gives it (None: there is none).

    `grace_until` is when the plan ends, or has ended, because it is not paid."""

    plan: str
    standing: Standing
    subscription: Seen | None = None
    grace_until: datetime | None = None


def decide(seen: Iterable[Seen], plans: Plans, default_plan: str, now: datetime, grace: timedelta) -> InForce:
    """Return the plan in force: that of the dearest subscription which is paid, or else of one that is in its days of
    grace, or else the default one.

    A price that is no plan's gives none. `incomplete` subscriptions were never paid, `canceled` ones are over.
    """
    known = [each for each in seen if each.plan in plans]
    paid = [each for each in known if each.status in PAID]
    if paid:
        best = max(paid, key=lambda each: _rank(each, plans))
        return InForce(best.plan or default_plan, "active", best)
    owing = [each for each in known if each.past_due_since is not None]
    if not owing:
        return InForce(default_plan, "none")
    last = max(owing, key=lambda each: (each.past_due_since or now, *_rank(each, plans)))
    assert last.past_due_since is not None  # noqa: S101  (those that owe have it)
    until = last.past_due_since + grace
    if now < until:
        return InForce(last.plan or default_plan, "past_due", last, until)
    return InForce(default_plan, "downgraded", last, until)


def _rank(each: Seen, plans: Plans) -> tuple[int, datetime, str]:
    price = plans[each.plan].price_nano if each.plan is not None else 0
    return price, each.created_at, each.id


def plan_change(current: Seen, wanted: Plan, plans: Plans) -> Change:
    """Return how a subscription becomes one to `wanted`: to a dearer plan at once, to a cheaper one with the next
    period, to a free one by ending then; the plan that it has takes back what waits."""
    if wanted.price_nano == 0:
        return "nothing" if current.ends_at is not None else "cancel"
    if wanted.id == current.plan:
        return "resume" if current.ends_at is not None or current.next_plan is not None else "nothing"
    have = plans.get(current.plan or "")
    return "now" if have is None or wanted.price_nano > have.price_nano else "period_end"


@dataclass(frozen=True, slots=True)
class Included:
    """Credit that a line of a paid invoice brings with it; it expires with the line's period, or never (None). Below
    zero it is taken back."""

    line_id: str
    plan: str
    amount_nano: int
    expires_at: datetime | None


def included_credit(invoice: Invoice, plan_of: dict[str, Plan]) -> list[Included]:
    """Return the credit of a paid invoice; `plan_of` has our plans by the provider's price.

    A line of a period brings the plan's whole credit, once it is not free of charge, as a trial is. A change of plan
    within a period brings the difference: credit in proportion to what was charged for the new plan, less what the
    unused part of the old one had brought. Below zero that is taken back, as its money is given back: changes to and
    fro would make credit out of nothing else. An invoice that is not paid brings none.
    """
    if invoice.status != "paid":
        return []
    made = []
    for line in invoice.lines:
        plan = plan_of.get(line.price_id or "")
        if line.kind == "subscription" and line.amount_cents > 0 and plan is not None and plan.included_credit_nano:
            made.append(_included(line, plan, plan.included_credit_nano))
    changed = [(line, plan_of[line.price_id or ""]) for line in invoice.lines if _is_change(line, plan_of)]
    net_nano = sum(_share_nano(line, plan) for line, plan in changed)
    raised = [(line, plan) for line, plan in changed if line.amount_cents > 0 and plan.included_credit_nano]
    if net_nano > 0 and raised:
        line, plan = max(raised, key=lambda each: (each[0].amount_cents, each[0].id))
        made.append(_included(line, plan, net_nano))
    elif net_nano < 0:
        line, plan = min(changed, key=lambda each: (each[0].amount_cents, each[0].id))
        made.append(_included(line, plan, net_nano))
    return made


def _is_change(line: InvoiceLine, plan_of: dict[str, Plan]) -> bool:
    return line.kind == "proration" and (line.price_id or "") in plan_of


def _share_nano(line: InvoiceLine, plan: Plan) -> int:
    """Return the plan's credit in proportion to what the line charges of its price, at most all of it."""
    price_cents = plan.price_nano // NANO_PER_CENT
    if price_cents <= 0:
        return 0
    cents = min(abs(line.amount_cents), price_cents)
    share = plan.included_credit_nano * cents // price_cents
    return share if line.amount_cents > 0 else -share


def _included(line: InvoiceLine, plan: Plan, amount_nano: int) -> Included:
    return Included(line.id, plan.id, amount_nano, None if plan.credit_rolls_over else line.period_end)


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
