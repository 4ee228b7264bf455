"""/api/admin/margin: what was charged less what it cost, for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from billing.api.errors import BadRequest
from billing.api.requests import encode_cursor, page_asked
from billing.api.route import Access, Call, Route
from billing.api.tables import Table, rows, wants_csv
from billing.ledger.margins import MarginBy, Margins
from billing.pages import place_of
from billing.shapes.margin import MARGIN_FIELDS, MarginGroupShape, MarginQuery, MarginShape, MarginsShape, margin_fields

MARGIN: Final = "/api/admin/margin"


async def get_margin(call: Call, query: MarginQuery) -> MarginsShape | Table:
    """Return what was charged less what it cost, of days of UTC, by account, model, provider or day. As CSV all groups,
    without a limit."""
    since, until = days_asked(query.since, query.until, call.services.clock())
    limit, after = page_asked(query)
    first = place_of(after)
    found = await call.services.reports.margins.read(begin_of(since), begin_of(until), MarginBy[query.by])
    if wants_csv(call.request):
        return Table("margin", _table(query.by, found))
    page = found.groups[first : first + limit]
    return MarginsShape(
        since=since.isoformat(),
        until=until.isoformat(),
        by=query.by,
        total=MarginShape(**margin_fields(found.total)),
        data=[MarginGroupShape(group=name, **margin_fields(margin)) for name, margin in page],
        next_cursor=encode_cursor(str(first + limit)) if len(found.groups) > first + limit else None,
    )


async def _table(by: str, found: Margins) -> AsyncIterator[bytes]:
    yield rows([(by, *MARGIN_FIELDS)])
    yield rows((name, *margin_fields(margin).values()) for name, margin in found.groups)


def days_asked(since: str | None, until: str | None, now_s: float) -> tuple[date, date]:
    """Return from which day on and before which one: without them this month's first, and tomorrow."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    begins = today.replace(day=1) if since is None else _day("since", since)
    ends = today + timedelta(days=1) if until is None else _day("until", until)
    if begins > ends:
        raise BadRequest("since must not be after until.", "since")
    return begins, ends


def _day(param: str, given: str) -> date:
    try:
        day = date.fromisoformat(given)
    except ValueError as error:
        raise BadRequest(f"{param} must be a day such as 2027-01-31.", param) from error
    if not 2000 <= day.year < 2200:
        raise BadRequest(f"{param} must be a day from 2000 to 2199.", param)
    return day


def begin_of(day: date) -> datetime:
    """Return where a day of UTC begins."""
    return datetime.combine(day, time(), UTC)


ROUTES: Final = (Route("GET", MARGIN, get_margin, Access.admin, MarginsShape, query=MarginQuery, csv=True),)
