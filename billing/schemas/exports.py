"""Exports as the API answers them: how far each is, and what the other side does not take. Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from billing.schemas.base import Answer, Body, Filter, Moment, PageQuery

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


class RetryExport(Body, frozen=True, kw_only=True):
    """What is to be tried again: one item of an export, or without `item` all that is parked of it."""

    export: ExportName
    item: Item | None = None


class RetriedShape(Answer, frozen=True, kw_only=True):
    """How much is tried again."""

    retried: int
