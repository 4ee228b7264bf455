"""Operators: what one account used over time, on its page: today by hours, or days, against the time before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from billing.amounts import short_count, usd_text
from billing.api.requests import BadRequest
from billing.api.traffic import DAY, HOUR
from billing.api.usage import UsageReports
from billing.ledger.sums import NOTHING, Used, together, total
from billing.times import rfc3339
from billing.web.charts import MOST_SERIES, OTHER, Bucket, Chart, Tile, rise_of, stacked, trend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.ledger.sums import Group, Span
    from billing.web.pages import Visit

# The spans of the page: hours of today, or so many days.
SPANS: Final = {"today": "today", "7d": "7 days", "30d": "30 days"}
_DAYS: Final = {"7d": 7, "30d": 30}
USUAL: Final = "30d"
UNITS: Final = {"money": "Charge", "requests": "Requests", "tokens": "Tokens"}
_NO_MODEL: Final = "(none)"


@dataclass(frozen=True, slots=True)
class _Number:
    """A number of each step; `good` says whether it is good that it rises, None: neither."""

    label: str
    kind: str
    read: Callable[[Used], int]
    good: bool | None = None


_NUMBERS: Final = (
    _Number("Charge", "money", lambda used: used.charged_nano, True),
    _Number("Cost", "money", lambda used: used.cost_nano),
    _Number("Margin", "money", lambda used: used.charged_nano - used.cost_nano, True),
    _Number("Requests", "count", lambda used: used.requests, True),
    _Number("Tokens", "count", lambda used: used.total_tokens, True),
)
_HEIGHTS: Final[dict[str, Callable[[Used], int]]] = {
    "money": lambda used: used.charged_nano,
    "requests": lambda used: used.requests,
    "tokens": lambda used: used.total_tokens,
}


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """What the page shows: `span` and `unit` are chosen; `steps` are when each began and what was used in it."""

    span: str
    unit: str
    hidden: frozenset[str]
    since: datetime
    until: datetime
    steps: tuple[tuple[str, Used], ...]
    tiles: tuple[Tile, ...]
    chart: Chart

    @property
    def whole(self) -> Used:
        """Return what was used in all steps."""
        return Used(*map(sum, zip(NOTHING, *(used for _, used in self.steps), strict=True)))

    def toggled(self, key: str) -> str:
        """Return what the address says where one more series is left out, or no longer."""
        return ",".join(quote(each, safe="") for each in sorted(self.hidden ^ {key}))


async def account_usage(visit: Visit, account_id: str) -> AccountUsage:
    """Return what an account used by time and model. Raises `BadRequest` and `DatabaseError`."""
    query = visit.request.query
    span, unit = query.get("span", USUAL), query.get("unit", "money")
    if span not in SPANS or unit not in UNITS:
        raise BadRequest(f"span is one of {', '.join(SPANS)}, unit one of {', '.join(UNITS)}.")
    hidden = frozenset(unquote(each) for each in query.get("hide", "").split(",") if each)
    now = datetime.fromtimestamp(visit.services.clock(), UTC)
    bounds, count = bounds_of(span, now)
    reports = UsageReports(visit.services.reports.sums, visit.services.clock)
    spans = await reports.spans(account_id, bounds, ("model",))
    before, found = spans[:count], spans[-count:]
    starts = bounds[-count - 1 : -1]
    used = tuple(map(total, found))
    say = partial(_step_text, hourly=span == "today")
    tiles = tuple(
        _tile(each, visit, account_id, tuple(map(total, before)), used, [say(at) for at in starts]) for each in _NUMBERS
    )
    chart = _chart(visit, account_id, list(zip(starts, bounds[-count:], found, strict=True)), unit, hidden, say)
    steps = tuple(zip(map(say, starts), used, strict=True))
    return AccountUsage(span, unit, hidden, starts[0], bounds[-1], steps, tiles, chart)


def bounds_of(span: str, now: datetime) -> tuple[list[datetime], int]:
    """Return the bounds of the steps of a span and of the time that it is compared with, and how many steps it has: the
    hours of today, of UTC, and of yesterday; or days up to today and as many before."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if span == "today":
        count = now.hour + 1
        return [day - DAY + at * HOUR for at in range(24 + count + 1)], count
    days = _DAYS[span]
    return [day + DAY - at * DAY for at in range(2 * days, -1, -1)], days


def _step_text(at: datetime, *, hourly: bool) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if hourly else f"{at:%Y-%m-%d}"


def _tile(
    number: _Number, visit: Visit, account_id: str, before: Sequence[Used], now: Sequence[Used], steps: list[str]
) -> Tile:
    """Return a tile; the change is that of steps that are over."""
    amounts, was = [number.read(each) for each in now], [number.read(each) for each in before]
    rise = rise_of(sum(amounts[:-1]), sum(was[:-1]))
    mood = "" if not rise or number.good is None else "good" if (rise > 0) == number.good else "bad"
    words = usd_text if number.kind == "money" else "{:,}".format
    labels = [f"{step}: {words(amount)}" for step, amount in zip(steps, amounts, strict=True)]
    change = "" if rise is None else f"{'+' if rise > 0 else ''}{rise}%"
    where = visit.url("/operator/requests", account_id=account_id)
    return Tile(number.label, sum(amounts), number.kind, change, mood, trend(amounts, labels), where)


def _chart(
    visit: Visit,
    account_id: str,
    steps: list[tuple[datetime, datetime, Span]],
    unit: str,
    hidden: frozenset[str],
    say: Callable[[datetime], str],
) -> Chart:
    """Return the bars of each step by model, the largest models first; each leads to its requests."""
    height = _HEIGHTS[unit]
    sums = together(*(span for _, _, span in steps))
    models = sorted(sums, key=lambda group: (-height(sums[group]), group[0] or ""))
    own = set(models if len(models) <= MOST_SERIES else models[: MOST_SERIES - 1])
    bars = []
    for since, until, span in steps:
        amounts: dict[str, int] = {}
        for group, used in span.items():
            name = _called(group) if group in own else OTHER
            amounts[name] = amounts.get(name, 0) + height(used)
        where = visit.url("/operator/requests", account_id=account_id, since=rfc3339(since), until=rfc3339(until))
        tick = f"{since:%H:%M}" if until - since < timedelta(days=1) else f"{since:%d %b}"
        bars.append(Bucket(amounts, where, say(since), tick))
    names = [(_called(group), _called(group)) for group in models[: MOST_SERIES + 1]]
    return stacked(bars, names, usd_text if unit == "money" else short_count, hidden)


def _called(group: Group) -> str:
    return group[0] or _NO_MODEL
