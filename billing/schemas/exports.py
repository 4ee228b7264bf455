"""Exports as the API answers them: how far each is, and what the other side does not take. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from billing.schemas.base import Answer, Body, Filter, Moment, PageQuery
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.exports.cursor import Parked, Standing

ExportName = Annotated[str, Meta(min_length=1, max_length=64, description="an export's name")]
Item = Annotated[
    str, Meta(min_length=1, max_length=255, description="a request id, or the identifier of an hour's sum")
]


class ExportShape(Answer, frozen=True, kw_only=True):
    """How an export is: at most `waiting` events are to be told, the oldest of which waits for `lag_seconds`; `parked`
    is what the other side does not take. `error` is that of the last failure since something was taken."""

    name: str
    kind: str
    waiting: int
    lag_seconds: int
    parked: int
    failures: int
    error: str | None
    accepted_at: Moment | None
    created_at: Moment


def export_shape(standing: Standing) -> ExportShape:
    """Return an export's shape."""
    return ExportShape(
        name=standing.name,
        kind=standing.kind,
        waiting=standing.waiting,
        lag_seconds=int(standing.lag_s),
        parked=standing.parked,
        failures=standing.failures,
        error=standing.error,
        accepted_at=None if standing.accepted_at is None else rfc3339(standing.accepted_at),
        created_at=rfc3339(standing.created_at),
    )


class ParkedExportsQuery(PageQuery, frozen=True, kw_only=True):
    """Of which export."""

    export: Filter | None = None


class ParkedExportShape(Answer, frozen=True, kw_only=True):
    """What the other side does not take, and why. `item` is the event's request id; of a sum of an hour, the identifier
    under which it was sent. It is tried `again` where an operator has asked for it."""

    export: str
    item: str
    account_id: str
    admitted_at: Moment | None
    reason: str
    again: bool
    parked_at: Moment


def parked_export_shape(parked: Parked) -> ParkedExportShape:
    """Return the shape of a parked item."""
    return ParkedExportShape(
        export=parked.export,
        item=parked.item,
        account_id=parked.account_id,
        admitted_at=None if parked.admitted_at is None else rfc3339(parked.admitted_at),
        reason=parked.reason,
        again=parked.again,
        parked_at=rfc3339(parked.parked_at),
    )


class RetryExport(Body, frozen=True, kw_only=True):
    """What is to be tried again: one item of an export, or without `item` all that is parked of it."""

    export: ExportName
    item: Item | None = None


class RetriedShape(Answer, frozen=True, kw_only=True):
    """How much is tried again."""

    retried: int
