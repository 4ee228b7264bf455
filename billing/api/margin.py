"""/api/admin/margin: charges less costs; and /api/admin/providers/{provider}/bill: providers' bills compared with the
ledger. For operators."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from billing.api.errors import BadRequest, NotFound
from billing.api.operations import MarginOperations
from billing.api.requests import encode_cursor, page_asked
from billing.api.route import Call, serves
from billing.api.tables import Table, rows, wants_csv
from billing.ledger.reports import MarginBy, Margins
from billing.pages import place_of
from billing.schemas.margin import (
    MARGIN_FIELDS,
    BillBody,
    BillQuery,
    BillShape,
    MarginGroupShape,
    MarginQuery,
    MarginShape,
    MarginsShape,
    margin_fields,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from billing.provider_bills.bills import Bills

WEEK_DAYS: Final = 7


@serves(MarginOperations.margin)
async def get_margin(call: Call, query: MarginQuery) -> MarginsShape | Table:
    """Return what was charged less what it cost, of days of UTC, by account, model, provider or day. As CSV all groups,
    without a limit."""
    since, until = days_asked(query.since, query.until, call.services.clock())
    limit, after = page_asked(query)
    first = place_of(after)
    asked, margins = (begin_of(since), begin_of(until), MarginBy[query.by]), call.services.reports.margins
    if wants_csv(call.request):
        return Table("margin", _table(query.by, await margins.read(*asked)))
    found = await margins.read(*asked, first, limit)
    return MarginsShape(
        since=since.isoformat(),
        until=until.isoformat(),
        by=query.by,
        total=MarginShape(**margin_fields(found.total)),
        data=[MarginGroupShape(group=name, **margin_fields(margin)) for name, margin in found.groups],
        next_cursor=encode_cursor(str(first + limit)) if found.more else None,
    )


async def _table(by: str, found: Margins) -> AsyncIterator[bytes]:
    yield rows([(by, *MARGIN_FIELDS)])
    yield rows((name, *margin_fields(margin).values()) for name, margin in found.groups)


def days_asked(since: str | None, until: str | None, now_s: float, *, whole: bool = False) -> tuple[date, date]:
    """Return from which day on and before which one: without them this month's first, and tomorrow, or with `whole`
    the week before today."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    ends = today + timedelta(days=0 if whole else 1) if until is None else _day("until", until)
    usual = ends - timedelta(days=WEEK_DAYS) if whole else today.replace(day=1)
    begins = usual if since is None else _day("since", since)
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


@serves(MarginOperations.bill)
async def get_bill(call: Call, query: BillQuery) -> BillShape:
    """Return a provider's bill beside the ledger, from the bill that was stored last."""
    bills, (since, until) = _bills(call), days_asked(query.since, query.until, call.services.clock(), whole=True)
    return BillShape.of_bill(await bills.compared(call.id("provider"), query.source, since, until))


@serves(MarginOperations.reconcile_bill)
async def reconcile_bill(call: Call, body: BillBody) -> BillShape:
    """Fetch a provider's bill, or take its invoice, keep it and compare it with the ledger."""
    bills, (since, until) = _bills(call), _days_of(body, call)
    provider = call.id("provider")
    if body.invoice is None:
        return BillShape.of_bill(await bills.fetched(provider, since, until))
    names = {} if body.columns is UNSET else body.columns
    return BillShape.of_bill(await bills.given(provider, since, until, body.invoice, names))


def _days_of(body: BillBody, call: Call) -> tuple[date, date]:
    until = None if body.until is UNSET else body.until
    return days_asked(body.since, until, call.services.clock(), whole=True)


def _bills(call: Call) -> Bills:
    if call.services.bills is None:
        raise NotFound("This gateway has no providers.")
    return call.services.bills
