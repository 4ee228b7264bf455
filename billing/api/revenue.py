"""/api/admin/payments/revenue: what customers paid, what failed and went back, and what subscriptions bring a month,
over time; returns and subscriptions are the rows of these sums."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from billing.api.operations import PaymentOperations
from billing.api.requests import BadRequest, listing, moment, page_asked
from billing.api.route import Call, serves
from billing.money import format_usd
from billing.payments.revenue import Flow, Unit
from billing.schemas.payments import (
    PaidSubscriptionShape,
    PaidSubscriptionsQuery,
    PlanSubscribersShape,
    ReturnShape,
    ReturnsQuery,
    RevenueQuery,
    RevenueShape,
    RevenueStepShape,
    RevenueSumShape,
)

if TYPE_CHECKING:
    from billing.schemas.base import Listing

DAY: Final = timedelta(days=1)
MONTHS: Final = 12
# Steps of one answer, and those without times.
MOST_STEPS: Final = 1_000
USUAL: Final[dict[Unit, int]] = {"day": 30, "month": 12}


@serves(PaymentOperations.revenue)
async def get_revenue(call: Call, query: RevenueQuery) -> RevenueShape:
    """Return what customers paid, what failed and what went back by day or by month of UTC, and what subscriptions
    bring a month. Times are taken to the whole days or months that hold them."""
    now, unit = datetime.fromtimestamp(call.services.clock(), UTC), query.step
    until = _end(moment("until", query.until) or now, unit)
    asked = moment("since", query.since)
    since = _later(until, unit, -USUAL[unit]) if asked is None else _begin(asked, unit)
    if since >= until:
        raise BadRequest("since must be before until.", "since")
    starts = _starts(since, until, unit)
    revenue = call.payments.revenue
    steps, plans, total = await revenue.steps(starts, until, unit), await revenue.plans(), Flow()
    for each in steps:
        total.add(each.flow)
    return RevenueShape.of(
        since=since,
        until=until,
        step=unit,
        total=RevenueSumShape.of_flow(total),
        data=[RevenueStepShape.of(each, each.flow) for each in steps],
        mrr_usd=format_usd(sum(each.mrr_nano for each in plans)),
        subscribers=sum(each.subscribers for each in plans),
        plans=[PlanSubscribersShape.of(each) for each in plans],
    )


def _starts(since: datetime, until: datetime, unit: Unit) -> list[datetime]:
    """Return when each step begins. Raises `BadRequest`."""
    starts = [since]
    while (after := _later(starts[-1], unit, 1)) < until:
        if len(starts) == MOST_STEPS:
            raise BadRequest(f"These are more than {MOST_STEPS} steps: ask for months, or for less time.", "since")
        starts.append(after)
    return starts


def _begin(at: datetime, unit: Unit) -> datetime:
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if unit == "day" else day.replace(day=1)


def _end(at: datetime, unit: Unit) -> datetime:
    begin = _begin(at, unit)
    return begin if begin == at else _later(begin, unit, 1)


def _later(at: datetime, unit: Unit, by: int) -> datetime:
    """Return the beginning of the step that is so many after one. Raises `BadRequest` outside the calendar."""
    try:
        if unit == "day":
            return at + by * DAY
        year, month = divmod(at.year * MONTHS + at.month - 1 + by, MONTHS)
        return at.replace(year=year, month=month + 1)
    except (OverflowError, ValueError) as error:
        raise BadRequest("This time is too far away.", "since") from error


@serves(PaymentOperations.returns)
async def list_returns(call: Call, query: ReturnsQuery) -> Listing[ReturnShape]:
    """List what went back to customers: refunds and disputes, newest first by when that happened."""
    since, until = moment("since", query.since), moment("until", query.until)
    page = await call.payments.revenue.returns(
        *page_asked(query), account_id=query.account_id, kind=query.kind, since=since, until=until
    )
    return listing(page, ReturnShape.of_returned)


@serves(PaymentOperations.paid_subscriptions)
async def list_paid_subscriptions(call: Call, query: PaidSubscriptionsQuery) -> Listing[PaidSubscriptionShape]:
    """List the subscriptions that are paid for, newest first, and what each brings a month."""
    page = await call.payments.revenue.subscriptions(*page_asked(query), plan=query.plan)
    return listing(page, PaidSubscriptionShape.of_subscription)
