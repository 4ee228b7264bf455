"""Operators: revenue over time. What customers paid, what failed and went back, what subscriptions bring a month; each
number leads to the rows that it is the sum of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from billing.amounts import usd_text
from billing.api.requests import BadRequest
from billing.api.revenue import get_revenue, list_paid_subscriptions, list_returns
from billing.money import parse_usd
from billing.schemas.payments import PaidSubscriptionsQuery, ReturnsQuery, RevenueQuery
from billing.times import parse_rfc3339, rfc3339
from billing.web.charts import Tile, rise_of, trend
from billing.web.lists import Column, Field, Figure, Listed, listed
from billing.web.operator_money import TABS
from billing.web.pages import Page, View, Visit, Who

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing.payments.revenue import Unit
    from billing.schemas.payments import RevenueShape, RevenueStepShape

_RETURNS: Final = (
    Column("Time", "created_at", "time"),
    Column("What", "kind"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Amount", "amount_usd", "money"),
    Column("State", "status", "state"),
    Column("Order", "order_id", "code", "/operator/payments/orders/{order_id}"),
    Column("Payment at the provider", "payment_id", "code"),
)
_SUBSCRIPTIONS: Final = (
    Column("Since", "created_at", "time"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Plan", "plan"),
    Column("A month", "mrr_usd", "money"),
    Column("State", "status", "state"),
    Column("Period ends", "period_end", "time"),
    Column("Ends", "ends_at", "time"),
    Column("At the provider", "id", "code"),
)
_PLANS: Final = (
    Column("Plan", "plan", "text", "/operator/payments/subscriptions?plan={plan}"),
    Column("Subscribers", "subscribers", "count"),
    Column("A month", "mrr_usd", "money"),
)


@dataclass(frozen=True, slots=True)
class _Span:
    """The time that the page is about: so many days or months."""

    label: str
    unit: Unit
    steps: int


SPANS: Final = {
    "30d": _Span("30 days", "day", 30),
    "90d": _Span("90 days", "day", 90),
    "12m": _Span("12 months", "month", 12),
}
USUAL: Final = "30d"


@dataclass(frozen=True, slots=True)
class _Series:
    """A number of each step, and the rows that make it; `good`: whether it is good that it rises. What is `standing` is
    not summed: its last step says how it stands."""

    label: str
    kind: str
    read: Callable[[RevenueStepShape], int]
    path: str
    good: bool
    standing: bool = False


_DISPUTES: Final = "/operator/payments/returns?kind=dispute&"
_SERIES: Final = (
    _Series("Gross volume", "money", lambda each: parse_usd(each.paid_usd), "/operator/payments?", True),
    _Series("MRR", "money", lambda each: parse_usd(each.mrr_usd), "/operator/payments/subscriptions", True, True),
    _Series("Subscribers", "count", lambda each: each.subscribers, "/operator/payments/subscriptions", True, True),
    _Series("Failed payments", "count", lambda each: each.failed, "/operator/payments?status=failed&", False),
    _Series(
        "Refunds", "money", lambda each: parse_usd(each.refunded_usd), "/operator/payments/returns?kind=refund&", False
    ),
    _Series(
        "Disputes",
        "money",
        lambda each: parse_usd(each.disputed_usd),
        _DISPUTES,
        False,
    ),
)


async def revenue(visit: Visit) -> View:
    """Show revenue of a time, with the change against the time before, by day or month, and by plan."""
    name = visit.request.query.get("span", USUAL)
    if name not in SPANS:
        raise BadRequest(f"span is one of {', '.join(SPANS)}.", "span")
    span = SPANS[name]
    both = await _read(visit, span)
    steps, before = both.data[span.steps :], both.data[: span.steps]
    within = f"since={_day(steps[0].start)}&until={_day(both.until)}"
    paid, returned = _sum(steps, "paid_usd"), _sum(steps, "refunded_usd") + _sum(steps, "disputed_usd")
    figures = (
        Figure("Net volume", paid - returned, "money", "less what was refunded and disputed in the same time"),
        Figure("Payments", sum(each.payments for each in steps), "count", "", f"/operator/payments?{within}"),
    )
    plans = Listed("Subscribers by plan", _PLANS, both.plans, empty="Nobody pays for a plan.")
    view = listed("Revenue", plans, figures=figures, tabs=TABS)
    values = {
        "span": span,
        "spans": SPANS,
        "tiles": [_tile(each, steps, before, within) for each in _SERIES],
        "steps": [(each, _day(each.start), _day(after)) for each, after in _with_ends(steps, both.until)],
    }
    return View("operator_revenue.html", {**view.values, **values})


async def _read(visit: Visit, span: _Span) -> RevenueShape:
    """Return revenue of the span and of the one before it."""
    last = visit.now if span.unit == "day" else visit.now.replace(day=1)
    days = timedelta(days=2 * span.steps - 1) if span.unit == "day" else timedelta(0)
    months = last.year * 12 + last.month - 1 - (2 * span.steps - 1 if span.unit == "month" else 0)
    since = (last - days) if span.unit == "day" else last.replace(year=months // 12, month=months % 12 + 1)
    return await get_revenue(visit.call, RevenueQuery(since=rfc3339(since), step=span.unit))


def _with_ends(steps: Sequence[RevenueStepShape], until: str) -> list[tuple[RevenueStepShape, str]]:
    return list(zip(steps, [*(each.start for each in steps[1:]), until], strict=True))


def _day(moment: str) -> str:
    return f"{parse_rfc3339(moment):%Y-%m-%d}"


def _sum(steps: Sequence[RevenueStepShape], name: str) -> int:
    return sum(parse_usd(getattr(each, name)) for each in steps)


def _tile(series: _Series, steps: Sequence[Any], before: Sequence[Any], within: str) -> Tile:
    now, was = [series.read(each) for each in steps], [series.read(each) for each in before]
    say = usd_text if series.kind == "money" else "{:,}".format
    labels = [f"{_day(each.start)}: {say(amount)}" for each, amount in zip(steps, now, strict=True)]
    if series.standing:
        value, by = now[-1], rise_of(now[-1], was[-1])
    else:  # of steps that are over
        value, by = sum(now), rise_of(sum(now[:-1]), sum(was[:-1]))
    mood = "" if not by else "good" if (by > 0) == series.good else "bad"
    change = "" if by is None else f"{'+' if by > 0 else ''}{by}%"
    path = series.path + within if series.path.endswith(("?", "&")) else series.path
    return Tile(series.label, value, series.kind, change, mood, trend(now, labels), path)


async def returns(visit: Visit) -> View:
    """Show what went back to customers, newest first."""
    found = await list_returns(visit.call, visit.query(ReturnsQuery))
    filters = (
        Field("account_id", "Account", "search", picks="account"),
        Field("kind", "What", options=(("", "both"), ("refund", "refunds"), ("dispute", "disputes"))),
        Field("since", "From", "date"),
        Field("until", "Until", "date", hint="the day after the last one"),
    )
    table = Listed("Newest first", _RETURNS, found.data, found.next_cursor, empty="Nothing went back then.")
    intro = "Refunds, and what disputes have taken; an amount below zero came back, as a dispute was won."
    return listed("Refunds and disputes", table, intro=intro, filters=filters, tabs=TABS)


async def subscriptions(visit: Visit) -> View:
    """Show the subscriptions that are paid for, newest first."""
    found = await list_paid_subscriptions(visit.call, visit.query(PaidSubscriptionsQuery))
    plans = (("", "any"), *((each, visit.services.plans[each].name) for each in visit.services.plans))
    table = Listed("Newest first", _SUBSCRIPTIONS, found.data, found.next_cursor, empty="Nobody pays for it.")
    filters = (Field("plan", "Plan", options=plans),)
    return listed("Subscriptions that are paid for", table, filters=filters, tabs=TABS)


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/payments/revenue", revenue, Who.operator),
    Page("GET", "/operator/payments/returns", returns, Who.operator),
    Page("GET", "/operator/payments/subscriptions", subscriptions, Who.operator),
)
