"""Exports, behind the admin key: how far each is, what the other side does not take, and having that tried again."""

from __future__ import annotations

from billing.api.operations import ExportOperations
from billing.api.requests import listing, page_asked
from billing.api.route import Call, serves
from billing.schemas.base import Listing
from billing.schemas.system import ExportShape, ParkedExportShape, ParkedExportsQuery, RetriedShape, RetryExport


@serves(ExportOperations.exports)
async def list_exports(call: Call) -> Listing[ExportShape]:
    """List the exports that there ever were, and how far each is."""
    standings = await call.services.exports.standings()
    return Listing(data=[ExportShape.of(each, lag_seconds=int(each.lag_s)) for each in standings], next_cursor=None)


@serves(ExportOperations.parked_exports)
async def list_parked_exports(call: Call, query: ParkedExportsQuery) -> Listing[ParkedExportShape]:
    """List what the other sides do not take, newest first, with the reason."""
    page = await call.services.exports.parked(*page_asked(query), export=query.export)
    return listing(page, ParkedExportShape.of)


@serves(ExportOperations.retry_exports)
async def retry_exports(call: Call, body: RetryExport) -> RetriedShape:
    """Send parked items again: one, or all of an export. Items that are refused again stay parked."""
    return RetriedShape(retried=await call.services.exports.again(body.export, body.item, call.actor))
