"""What was used: by model, key, user, tag, provider or endpoint, in days of a time zone, beside the period before.

Sums come from the functions behind /api/account/usage, so that page, table as CSV and API say the same. The dearest
groups have a row each, and all others are one; the event loop has its turn between parts of what is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo

from billing.amounts import short_count, usd_text
from billing.api.requests import BadRequest, zone
from billing.api.usage import all_buckets, get_buckets, get_summary, read_summary
from billing.audit import AuditFilter
from billing.ledger.sums import NOTHING, OTHERS, total
from billing.money import format_usd
from billing.permissions import BILLING_READ
from billing.schemas.usage import BucketShape, BucketsQuery, SummaryQuery, UsedShape, ordered
from billing.times import Period, day_begins, parse_rfc3339, periods, rfc3339
from billing.web.charts import MOST_SERIES, OTHER, Bucket, Chart, stacked
from billing.web.pages import MOST_ROWS, NAMED, Page, View, Visit, key_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from billing.api.route import Table
    from billing.ledger.sums import Group, Span, Used

# The name of the group of requests without a value.
NOT_SAID: Final = "(none)"
# The name of the group of a tag's empty value.
EMPTY: Final = '""'
GROUPS: Final = ("model", "key", "user", "provider", "endpoint", "feature", "tag")
# What bars are as high as.
UNITS: Final = {"money": "Money", "requests": "Requests", "tokens": "Tokens"}
PERIODS: Final = {
    "today": "Today",
    "yesterday": "Yesterday",
    "month": "This month",
    "last_month": "Last month",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "180d": "Last 180 days",
    "365d": "Last 365 days",
    "chosen": "Chosen days",
}
MOST_DAYS: Final = 3 * 365
# How many days are shown in steps of an hour, a day, a week; more in months.
_DAYS: Final = {Period.hour: 2, Period.day: 31, Period.week: 180}
_TICKS: Final = {Period.hour: "%H:%M", Period.day: "%d %b", Period.week: "%d %b", Period.month: "%b %Y"}
_CHANGES: Final = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """Which usage: from the day `since` on and before `until` in a zone, by what; `before` is when the period before
    began."""

    period: str
    since: date
    until: date
    before: date
    by: str
    tag: str
    zone: ZoneInfo
    unit: str
    hidden: frozenset[str]

    @property
    def group_by(self) -> str:
        """Return what it is grouped by, as the API has it."""
        return f"tag:{self.tag}" if self.by == "tag" else self.by

    @property
    def granularity(self) -> Period:
        """Return how long a bar is."""
        days = (self.until - self.since).days
        return next((period for period, most in _DAYS.items() if days <= most), Period.month)

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """Return when it begins and ends."""
        return day_begins(self.since, self.zone), day_begins(self.until, self.zone)

    def say(self, amount: int) -> str:
        """Return an amount in words."""
        return usd_text(amount) if self.unit == "money" else short_count(amount)

    def compared(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the period before; of one that is not over, the part that is as long as what has passed of this."""
        (since, until), begins = self.bounds, day_begins(self.before, self.zone)
        if until <= now:
            return begins, since
        return begins, min(begins + max(now - since, timedelta()), since).replace(second=0, microsecond=0)


def asked(visit: Visit, now: datetime) -> Asked:
    """Return what the query string asks for. Raises `BadRequest`."""
    query = visit.request.query
    in_zone = zone("tz", query["tz"]) if query.get("tz") else visit.zone
    by, tag = query.get("by", "model"), query.get("tag", "").strip()
    if by not in GROUPS:
        raise BadRequest(f"by is one of {', '.join(GROUPS)}.", "by")
    if by == "tag" and not tag:
        raise BadRequest("Name the tag by whose values you want to see usage.", "tag")
    period = query.get("period") or ("chosen" if query.get("from") else "month")
    if period not in PERIODS:
        raise BadRequest(f"period is one of {', '.join(PERIODS)}.", "period")
    unit = query.get("unit", "money")
    if unit not in UNITS:
        raise BadRequest(f"unit is one of {', '.join(UNITS)}.", "unit")
    days = _days(period, now.astimezone(in_zone).date(), query.get("from", ""), query.get("to", ""))
    return Asked(period, *days, by, tag, in_zone, unit, _hidden(query.get("hide", "")))


def _hidden(given: str) -> frozenset[str]:
    """Return the series that are left out, which the address has as `_toggled` writes them."""
    return frozenset(unquote(each) for each in given.split(",") if each)


def _toggled(what: Asked, key: str) -> str:
    """Return what the address says where one more series is left out, or no longer."""
    return ",".join(quote(each, safe="") for each in sorted(what.hidden ^ {key}))


def _days(period: str, today: date, first: str, last: str) -> tuple[date, date, date]:
    """Return the first day, the one after the last, and the first of the period before."""
    month = today.replace(day=1)
    day = timedelta(days=1)
    match period:
        case "today":
            return today, today + day, today - day
        case "yesterday":
            return today - day, today, today - 2 * day
        case "month":
            return month, _next_month(month), _month_before(month)
        case "last_month":
            begins = _month_before(month)
            return begins, month, _month_before(begins)
        case "chosen":
            begins, ends = _day("from", first), _day("to", last or first) + timedelta(days=1)
            if not 0 < (ends - begins).days <= MOST_DAYS:
                raise BadRequest(f"from must not be after to, and not more than {MOST_DAYS} days before.", "from")
            return begins, ends, begins - (ends - begins)
    length = timedelta(days=int(period.removesuffix("d")))
    begins = today + timedelta(days=1) - length
    return begins, begins + length, begins - length


def _day(name: str, given: str) -> date:
    try:
        found = date.fromisoformat(given)
    except ValueError as error:
        raise BadRequest(f"{name} is a day such as 2027-01-31.", name) from error
    if not date(2000, 1, 1) <= found < date(2199, 1, 1):
        raise BadRequest(f"{name} is a day such as 2027-01-31.", name)
    return found


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


def _month_before(first: date) -> date:
    return (first - timedelta(days=1)).replace(day=1)


async def usage(visit: Visit) -> View | Table:
    """Show what was used, or give it as a table: by group, or with `table=time` by bar."""
    now = datetime.fromtimestamp(visit.services.clock(), UTC)
    what = asked(visit, now)
    since, until = map(rfc3339, what.bounds)
    given: dict[str, Any] = {"tz": what.zone.key, "group_by": what.group_by}
    in_time = SummaryQuery(since=since, until=until, **given)
    by_time = BucketsQuery(since=since, until=until, granularity=_named(what.granularity), **given)
    drawn = BucketsQuery(since=since, until=_until_now(what, now), granularity=_named(what.granularity), **given)
    if visit.wants_csv:
        is_by_time = visit.request.query.get("table") == "time"
        found = await (get_buckets(visit.call, by_time) if is_by_time else get_summary(visit.call, in_time))
        return cast("Table", found)
    span = (await read_summary(visit.call, in_time)).span
    earlier_since, earlier_until = map(rfc3339, what.compared(now))
    earlier = (await read_summary(visit.call, SummaryQuery(since=earlier_since, until=earlier_until, **given))).span
    groups = [*ordered(span), *((group, NOTHING) for group, _ in ordered(earlier) if group not in span)]
    names = await _names(visit, what, (group[0] for group, _ in groups[:MOST_ROWS]))
    steps, chart = await _by_time(visit, what, drawn, [group[0] for group, _ in ordered(span)], names)
    values = {
        "asked": what,
        "periods": PERIODS,
        "groups": GROUPS,
        "since": since,
        "until": until,
        "total": UsedShape.of_used(total(span), with_cost=False),
        "earlier": UsedShape.of_used(total(earlier), with_cost=False),
        "rows": _rows(visit, what, groups, earlier, names),
        "more": len(groups) > MOST_ROWS,
        "steps": steps,
        "chart": chart,
        "units": UNITS,
        "toggled": partial(_toggled, what),
    }
    return View("usage.html", values)


def _until_now(what: Asked, now: datetime) -> str:
    """Return when the last bar ends that has begun: what is yet to come has none."""
    since, until = what.bounds
    return rfc3339(min(until, max(since, next(periods(now, what.granularity, what.zone)))))


def _named(period: Period) -> Any:
    return period.name


async def _names(visit: Visit, what: Asked, values: Iterable[str | None]) -> dict[str, str]:
    """Return what keys or members are called, by their ids."""
    if what.by == "key":
        return await key_names(visit, values)
    if what.by == "user" and visit.caller.org_id is not None:
        members = await visit.services.members.page(visit.caller.org_id, NAMED)
        return {each.user_id: each.email for each in members.items}
    return {}


def _rows(
    visit: Visit, what: Asked, groups: Sequence[tuple[Group, Used]], earlier: Span, names: dict[str, str]
) -> list[dict[str, Any]]:
    """Return a row for each group, with what it came to in the period before and its requests; all that have no room
    are one row."""
    since, until = map(rfc3339, what.bounds)
    rows = []
    for group, used in groups[:MOST_ROWS]:
        value, was = group[0], earlier.get(group, NOTHING)
        filters = {f"{what.by}_id" if what.by in ("key", "user") else what.by: value}
        if what.by == "tag":
            filters = {"tag": f"{what.tag}={value}"}
        can_link = value not in (None, OTHERS) and what.by != "feature"
        rows.append(
            {
                "name": NOT_SAID if value is None else names.get(value, value) or EMPTY,
                "used": UsedShape.of_used(used, with_cost=False),
                "before_usd": format_usd(was.charged_nano),
                "href": visit.url("/requests", since=since, until=until, **filters) if can_link else None,
            }
        )
    if others := groups[MOST_ROWS:]:
        was = total({group: earlier[group] for group, _ in others if group in earlier})
        name, rest = f"all others ({len(others)})", UsedShape.of_used(total(dict(others)), with_cost=False)
        rows.append({"name": name, "used": rest, "before_usd": format_usd(was.charged_nano), "href": None})
    return rows


async def _changes(visit: Visit, what: Asked) -> list[tuple[datetime, str]]:
    """Return when the plan has changed within the time, and to which."""
    since, until = what.bounds
    only = AuditFilter(account_id=visit.account_id, action="account.*", since=since, until=until)
    page = await visit.services.audit.page(only, _CHANGES)
    found = []
    for each in page.items:
        was, now = ((state or {}).get("plan") for state in (each.before, each.after))
        if now is not None and was is not None and was != now:
            found.append((each.at, f"plan {now}"))
    return found


async def _by_time(
    visit: Visit, what: Asked, query: BucketsQuery, values: Sequence[str | None], names: dict[str, str]
) -> tuple[list[BucketShape], Chart]:
    """Return what was used in each step of time, and its bars: each leads to its hours, or to its requests; a mark says
    that another plan began. The dearest groups have colours of their own."""
    changes = await _changes(visit, what)
    series = [_series(value) for value in values[: MOST_SERIES + 1]]
    own = frozenset(series if len(series) <= MOST_SERIES else series[: MOST_SERIES - 1])
    steps: list[BucketShape] = []
    bars: list[Bucket] = []
    few = None if len(series) <= MOST_SERIES else [each or "" for each in values[: MOST_SERIES - 1]]
    async for part in all_buckets(visit.call, query, few):
        for bucket in part:
            step = BucketShape.of_bucket(bucket, what.zone, (), with_cost=False)
            if not steps or steps[-1].start != step.start:
                steps.append(step)
                bars.append(_bar(visit, what, step, changes))
            amounts = bars[-1].amounts
            for group, each in bucket[3]:
                name = _series(group[0])
                name = name if name in own else OTHER
                amounts[name] = amounts.get(name, 0) + _amount(what, each)
    shown = [NOT_SAID if value is None else names.get(value, value) or EMPTY for value in values[: MOST_SERIES + 1]]
    return steps, stacked(bars, list(zip(series, shown, strict=True)), what.say, what.hidden)


def _amount(what: Asked, used: Used) -> int:
    """Return how high the bar of what was used is."""
    return {"money": used.charged_nano, "requests": used.requests, "tokens": used.total_tokens}[what.unit]


def _series(value: str | None) -> str:
    """Return the name of a group's amounts, of which no value's is that of requests without one."""
    return NOT_SAID if value is None else f"={value}"


def _bar(visit: Visit, what: Asked, step: BucketShape, changes: list[tuple[datetime, str]]) -> Bucket:
    """Return the bar of a step, without amounts."""
    start, end = parse_rfc3339(step.start), parse_rfc3339(step.end)
    marks = [text for at, text in changes if start <= at < end]
    tick = f"{start.astimezone(what.zone):{_TICKS[what.granularity]}}"
    more = f"{step.events:,} {'request' if step.events == 1 else 'requests'}" if what.unit == "money" else ""
    title = _title(start.astimezone(what.zone), end.astimezone(what.zone), what.granularity)
    return Bucket({}, _within(visit, what, step), title, tick, ", ".join(marks), "" if what.hidden else more)


def _title(start: datetime, end: datetime, length: Period) -> str:
    """Return a step of time in words."""
    match length:
        case Period.hour:
            return f"{start:%Y-%m-%d %H:%M}"
        case Period.day:
            return f"{start:%Y-%m-%d}"
        case _:
            return f"{start:%Y-%m-%d} to {end - timedelta(seconds=1):%Y-%m-%d}"


def _within(visit: Visit, what: Asked, bucket: BucketShape) -> str:
    if what.granularity is Period.hour:
        return visit.url("/requests", since=bucket.start, until=bucket.end)
    first = parse_rfc3339(bucket.start).astimezone(what.zone).date()
    last = (parse_rfc3339(bucket.end) - timedelta(seconds=1)).astimezone(what.zone).date()
    return visit.here(period="chosen", **{"from": first.isoformat(), "to": last.isoformat()})


ROUTES: Final[tuple[Page, ...]] = (Page("GET", "/usage", usage, scope=BILLING_READ, csv=True),)
