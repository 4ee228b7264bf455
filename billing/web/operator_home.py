"""Operators: the first page. Is the business well, is anything broken, what has to be done now.

Money and traffic are those of `/api/admin/traffic` and `/api/admin/margin`; sums over all accounts are read at most
once in `KEPT_S`, whoever looks how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from aiohttp import web
from msgspec import UNSET

from billing.amounts import usd_text
from billing.api.oversight import list_exports
from billing.api.requests import BadRequest
from billing.api.traffic import DAY, HOUR, list_dry_accounts, read_traffic
from billing.errors import StoreError
from billing.ledger.reports import Margin, MarginBy
from billing.money import NANO_PER_CENT, parse_usd
from billing.pages import MAX_LIMIT
from billing.schemas.base import percent_text
from billing.schemas.system import RefusedShape
from billing.times import parse_rfc3339, rfc3339
from billing.traffic.counts import quantile_ms
from billing.web.charts import Tile, rise_of, trend
from billing.web.lists import REFUSED, Column, Figure, Listed, listed
from billing.web.pages import Page, View, Visit, Who
from billing.web.render import time_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from billing.ledger.reports import Margins
    from billing.payments.orders import ChargeSums
    from billing.schemas.traffic import DryAccountShape, TrafficShape, TrafficStepShape
    from billing.traffic.counts import ProviderTraffic

# How old the sums of this page may be: they are read over all accounts.
KEPT_S: Final = 60.0
# Refusals, accounts and models that it has.
LAST: Final = 10
TOP: Final = 5
# A provider is shown where so large a share of its attempts failed, of so many, or where it answers so much later than
# in the day before.
FAILING_HUNDREDTHS: Final = 5_00
FAILING_LEAST: Final = 3
SLOWER: Final = 2
SLOW_LEAST: Final = 20
# Accounts that a task names.
NAMED: Final = 3
# Who waits for approval, counted so far.
MOST_WAITING: Final = 50


@dataclass(frozen=True, slots=True)
class Span:
    """The time that the page is about: so many steps, the last of which is not over."""

    name: str
    label: str
    unit: timedelta
    steps: int

    @property
    def length(self) -> timedelta:
        """Return how long it is."""
        return self.unit * self.steps


_SPANS: Final = (
    Span("24h", "24 hours", HOUR, 24),
    Span("7d", "7 days", DAY, 7),
    Span("30d", "30 days", DAY, 30),
    Span("90d", "90 days", DAY, 90),
)
SPANS: Final = {span.name: span for span in _SPANS}
USUAL: Final = "30d"


@dataclass(frozen=True, slots=True)
class Sums:
    """What is read over all accounts: `traffic` is twice as long as the span, from the period before on."""

    since: datetime
    until: datetime
    traffic: TrafficShape
    accounts: Margins
    models: Margins
    paid: ChargeSums | None
    dry: Sequence[DryAccountShape]


class Kept:
    """Sums by span, as they were read last."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._kept: dict[str, tuple[float, Sums]] = {}

    async def read(self, visit: Visit, span: Span) -> Sums:
        """Return the sums of a span until now. Raises `DatabaseError`."""
        services = visit.services
        async with self._reading:
            now_s = services.clock()
            until = _end(datetime.fromtimestamp(now_s, UTC), span.unit)
            kept = self._kept.get(span.name)
            if kept is not None and kept[1].until == until and now_s < kept[0]:
                return kept[1]
            since = until - span.length
            days = since.replace(hour=0), _end(until - span.unit, DAY)
            margins = services.reports.margins
            found = Sums(
                since,
                until,
                await read_traffic(services, since - span.length, until, span.unit),
                await margins.read(*days, MarginBy.account, 0, TOP),
                await margins.read(*days, MarginBy.model, 0, TOP),
                None if services.payments is None else await services.payments.charges.sums(*days),
                (await list_dry_accounts(visit.call)).data,
            )
            self._kept[span.name] = services.clock() + KEPT_S, found
            return found


KEPT: Final = web.AppKey("operator_sums", Kept)


def _end(at: datetime, unit: timedelta) -> datetime:
    begin = at.replace(minute=0, second=0, microsecond=0)
    return (begin if unit is HOUR else begin.replace(hour=0)) + unit


@dataclass(frozen=True, slots=True)
class _Top:
    """An account or a model with what it was charged; `share` is its part of all."""

    name: str
    charged_nano: int
    cost_nano: int
    margin_nano: int
    share: str


@dataclass(frozen=True, slots=True)
class _Unwell:
    """A provider that fails or slows down, in the last hour."""

    name: str
    state: str
    errors: str
    p95: str
    usual: str


_TOP_MONEY: Final = (
    Column("Charge", "charged_nano", "money"),
    Column("Cost", "cost_nano", "money"),
    Column("Margin", "margin_nano", "money"),
    Column("Of all", "share"),
)
_UNWELL: Final = (
    Column("Provider", "name", "text", "/operator/providers/{name}"),
    Column("State", "state", "state"),
    Column("Failed", "errors"),
    Column("p95", "p95"),
    Column("The day before", "usual"),
)
_DRY: Final = (
    Column("Account", "name", "text", "/operator/accounts/{account_id}"),
    Column("Available", "available_usd", "money"),
    Column("A day", "a_day_usd", "money"),
    Column("Hours left", "hours_left", "count"),
    Column("Auto-recharge", "recharges"),
)
# Where what troubles the gateway is looked into, by what it is about.
_PAGES: Final = {
    "provider": "/operator/providers",
    "circuit": "/operator/providers",
    "export": "/operator/exports",
    "collect": "/operator/jobs",
    "webhooks": "/operator/webhooks",
    "payments": "/operator/payments/events",
}


async def home(visit: Visit) -> View:
    """Show health, money and traffic over time, and what has to be done; each number leads to what it is made of."""
    name = visit.request.query.get("span", USUAL)
    if name not in SPANS:
        raise BadRequest(f"span is one of {', '.join(SPANS)}.", "span")
    span = SPANS[name]
    sums = await visit.request.config_dict[KEPT].read(visit, span)
    days = f"since={sums.since.date()}&until={_end(sums.until - span.unit, DAY).date()}"
    account = Column("Account", "name", "name", "/operator/accounts/{name}")
    model = Column("Model", "name")
    refused = await _refused(visit)
    tables = (
        Listed("Top accounts", (account, *_TOP_MONEY), _top(sums.accounts), empty="Nobody was charged anything."),
        Listed("Top models", (model, *_TOP_MONEY), _top(sums.models), empty="No model was used."),
        Listed("Providers that fail or slow down", _UNWELL, await _unwell(visit), empty="Every provider is healthy."),
        Listed("Accounts about to run out of credit", _DRY, sums.dry[:LAST], empty="No credit runs out soon."),
        Listed("Recent refusals", REFUSED, refused[:LAST], empty="No recent refusals."),
    )
    view = listed("Home", *tables, figures=_figures(sums, span, days), live=True, layout="halves")
    values = {
        **view.values,
        "span": span,
        "spans": SPANS.values(),
        "troubles": [(each, _page_of(each.about)) for each in visit.services.troubles()],
        "tiles": [_tile(each, sums.traffic.data, span, days) for each in _SERIES],
        "steps": sums.traffic.data[span.steps :],
        "tasks": await _tasks(visit, sums, days, refused),
        "is_hourly": span.unit is HOUR,
    }
    return View("operator_home.html", values)


def _page_of(about: str) -> str | None:
    return _PAGES.get(about.partition(":")[0])


@dataclass(frozen=True, slots=True)
class _Series:
    """A number of each step; `good` says whether it is good that it rises, None: neither."""

    label: str
    kind: str
    read: Callable[[TrafficStepShape], int]
    page: str
    good: bool | None


_MARGIN_PAGE: Final = "/operator/margin?by=day&"
_SERIES: Final = (
    _Series("Charge", "money", lambda each: parse_usd(each.charge_usd), _MARGIN_PAGE, True),
    _Series("Cost", "money", lambda each: parse_usd(each.cost_usd), _MARGIN_PAGE, None),
    _Series("Margin", "money", lambda each: parse_usd(each.charge_usd) - parse_usd(each.cost_usd), _MARGIN_PAGE, True),
    _Series("Requests", "count", lambda each: each.events, "/operator/requests", True),
    _Series("Refusals", "count", lambda each: each.refusals, "/operator/requests/refused", False),
    _Series("Errors", "count", lambda each: each.errors, "/operator/providers", False),
)


def _tile(series: _Series, steps: Sequence[TrafficStepShape], span: Span, days: str) -> Tile:
    """Return a tile of the steps of both periods."""
    amounts = [series.read(each) for each in steps]
    now, before = amounts[span.steps :], amounts[: span.steps]
    rise = rise_of(sum(now[:-1]), sum(before[:-1]))  # of steps that are over
    say = usd_text if series.kind == "money" else "{:,}".format
    labels = [f"{_step_text(each, span)}: {say(amount)}" for each, amount in zip(steps[span.steps :], now, strict=True)]
    mood = "" if not rise or series.good is None else "good" if (rise > 0) == series.good else "bad"
    change = "" if rise is None else f"{'+' if rise > 0 else ''}{rise}%"
    href = f"{series.page}{days}" if series.page.endswith("&") else series.page
    return Tile(series.label, sum(now), series.kind, change, mood, trend(now, labels), href)


def _step_text(step: TrafficStepShape, span: Span) -> str:
    at = parse_rfc3339(step.start)
    return f"{at:%Y-%m-%d %H:%M}" if span.unit is HOUR else f"{at:%Y-%m-%d}"


def _figures(sums: Sums, span: Span, days: str) -> tuple[Figure, ...]:
    total: Margin = sums.accounts.total
    returned = f"after {usd_text(total.returned_nano or 0)} that was refunded"
    return (
        _money_in(sums.paid, span.label, f"/operator/payments?{days}"),
        Figure("Margin after refunds", total.net_nano, "money", returned, f"/operator/margin?by=day&{days}"),
        Figure(
            "Without a price",
            total.unpriced.requests,
            "count",
            "requests whose cost nobody knows",
            f"/operator/margin?by=model&{days}",
        ),
    )


def _money_in(paid: ChargeSums | None, label: str, link: str) -> Figure:
    """Return what customers paid, which leads to the payments that it is the sum of."""
    if paid is None:
        return Figure("Money in", "payments are off", "text")
    words = f"{paid.payments:,} payments in {label}"
    gone = paid.refunded_cents + paid.disputed_cents
    if gone:
        words += f", of which {usd_text(gone * NANO_PER_CENT)} went back"
    return Figure("Money in", paid.paid_cents * NANO_PER_CENT, "money", words, link)


def _top(found: Margins) -> list[_Top]:
    whole = found.total.used.charged_nano
    return [
        _Top(
            name,
            margin.used.charged_nano,
            margin.used.cost_nano,
            margin.margin_nano,
            f"{percent_text(margin.used.charged_nano * 10_000 // whole)}%" if whole else "",
        )
        for name, margin in found.groups
    ]


async def _unwell(visit: Visit) -> list[_Unwell]:
    """Return providers that failed or slowed down in the last hour, compared with the day before it."""
    services, now = visit.services, datetime.fromtimestamp(visit.services.clock(), UTC)
    recent = await services.traffic.providers(now - HOUR, now)
    usual = await services.traffic.providers(now - HOUR - DAY, now - HOUR)
    return list(unwell(recent, usual))


def unwell(recent: dict[str, ProviderTraffic], usual: dict[str, ProviderTraffic]) -> Iterable[_Unwell]:
    """Yield providers that fail or slow down."""
    for name, seen in sorted(recent.items()):
        p95_ms, was_ms = quantile_ms(seen.head, 95), quantile_ms(usual[name].head, 95) if name in usual else None
        fails = seen.failures >= FAILING_LEAST and seen.error_hundredths >= FAILING_HUNDREDTHS
        slow = p95_ms is not None and was_ms is not None and p95_ms > SLOWER * was_ms
        if fails or (slow and sum(seen.head) >= SLOW_LEAST):
            share = f"{seen.failures:,} of {seen.attempts:,} ({percent_text(seen.error_hundredths)}%)"
            yield _Unwell(name, "failing" if fails else "slow", share, time_text(p95_ms), time_text(was_ms))


async def _refused(visit: Visit) -> list[RefusedShape]:
    """Return what was refused last; nothing where Redis, which has it, is away: the health says so."""
    try:
        found = await visit.services.refused.newest(MAX_LIMIT)
    except StoreError:
        return []
    return [RefusedShape.of_refused(each, with_hint=True) for each in found]


async def _tasks(visit: Visit, sums: Sums, days: str, refused: Sequence[RefusedShape]) -> list[tuple[str, str]]:
    """Return what waits for an operator, in words, and where it is done."""
    found = [*await _money_tasks(visit), *await _house_tasks(visit)]
    since = rfc3339(visit.now - HOUR)
    lately = (each.account_id for each in refused if each.code == "billing_required" and each.created_at >= since)
    if unpaid := sorted({each for each in lately if each}):
        names = await visit.services.audit.names(unpaid[:NAMED])
        called = ", ".join(names.get(each, each) for each in unpaid[:NAMED])
        more = f" and {len(unpaid) - NAMED} more" if len(unpaid) > NAMED else ""
        path = f"/operator/accounts/{unpaid[0]}" if len(unpaid) == 1 else "/operator/requests/refused"
        found.append((f"Refused for lack of credit in the last hour: {called}{more}", path))
    if unpriced := sums.accounts.total.unpriced.requests:
        found.append(
            (f"{unpriced:,} requests have no price: add a row for their model", f"/operator/margin?by=model&{days}")
        )
    if sums.paid is not None and sums.paid.disputed_cents:
        disputed = usd_text(sums.paid.disputed_cents * NANO_PER_CENT)
        found.append((f"{disputed} is disputed", f"/operator/payments?{days}"))
    if dry := [each for each in sums.dry if not each.recharges]:
        one = len(dry) == 1
        words = f"{dry[0].name} runs" if one else f"{len(dry)} accounts run"
        path = f"/operator/accounts/{dry[0].account_id}" if one else "/operator/accounts"
        found.append((f"{words} out of credit soon: remind {'it' if one else 'them'}", path))
    return [*found, *await _first_tasks(visit)]


async def _first_tasks(visit: Visit) -> list[tuple[str, str]]:
    """Return what a new installation lacks before it can sell: a provider, mail, money."""
    services = visit.services
    found: list[tuple[str, str]] = []
    try:
        on = [each for each in await services.providers() if not each.off_reason]
    except StoreError:
        return found
    if not on:
        found.append(("No provider is on: set the key of one", "/operator/providers"))
    elif all(each.kind == "local" for each in on):
        found.append(
            ("Only the built-in provider is on, which makes answers up: set the key of another", "/operator/providers")
        )
    if not services.sends_mail:
        found.append(("No mail is sent, so that nobody else can sign in by code: set SMTP_HOST", "docs/people#mail"))
    if services.payments is not None and services.payments.acts is not None:
        found.append(("Payments are those of the local provider, and move no money: connect Stripe", "docs/stripe"))
    return found


async def _money_tasks(visit: Visit) -> list[tuple[str, str]]:
    services, found = visit.services, []
    if services.payments is not None:
        await services.payments.orders.refresh_stats()
        if waiting := services.payments.orders.waiting:
            found.append((f"Payments that came in and wait to be credited: {waiting}", "/operator/payments/parked"))
    return found


async def _house_tasks(visit: Visit) -> list[tuple[str, str]]:
    services, found = visit.services, []
    pending = (await services.users.page(MOST_WAITING, None, status="pending", email=None)).items
    if pending:
        more = "or more " if len(pending) == MOST_WAITING else ""
        found.append((f"{len(pending)} {more}people wait to be let in", "/operator/people?status=pending"))
    job = await services.job()
    if job is not None and job.drifts is not UNSET and job.drifts:
        found.append((f"{len(job.drifts)} differences between Redis and the ledger", "/operator/jobs"))
    parked = sum(each.parked for each in (await list_exports(visit.call)).data)
    if parked:
        found.append((f"{parked:,} exported events were not taken: see why, and send them again", "/operator/exports"))
    return found


ROUTES: Final[tuple[Page, ...]] = (Page("GET", "/operator", home, Who.operator),)
