"""Reports: what customers and operators read of the ledger. Nothing here writes.

Lists come newest first, in pages. Usage events are ordered by the moment of their admission and then by request id,
transactions by id.
"""

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from billing.database.connection import Database, Row, queries
from billing.ledger.debits import Debit, usage_of
from billing.ledger.explanations import Explanation, UsageEvent, explain
from billing.pages import BEFORE_ALL, BadCursor, Page, page_of
from billing.prices import from_canonical_json

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_COPIED: Final = tuple(field.name for field in fields(UsageEvent) if field.name not in ("usage", "tags"))
"""Fields of an event that are columns of the same name."""

_query = queries("billing.ledger")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transfer as its account sees it: `amount_nano` above zero raised the balance."""

    id: str
    kind: str
    amount_nano: int
    request_id: str | None
    idempotency_key: str | None
    note: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """What was used by an account, a key or a user's keys, since ever; `charged_nano` is what was charged for it."""

    events: int
    input_tokens: int
    output_tokens: int
    charged_nano: int

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which usage events: admitted from `since` on and before `until`, by one key, on one model as it was asked for."""

    since: datetime | None = None
    until: datetime | None = None
    key_id: str | None = None
    model: str | None = None


class Reports:
    """Reads the ledger. Methods raise `database.connection.DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def transactions(self, account_id: str, limit: int, after: str | None = None) -> Page[Transaction]:
        """The account's transfers; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("reports_transactions"), account_id, after or BEFORE_ALL, limit + 1)
        return page_of([Transaction(**dict(row)) for row in rows], limit, lambda transaction: transaction.id)

    async def usage_events(
        self, account_id: str, limit: int, after: str | None = None, only: EventFilter | None = None
    ) -> Page[UsageEvent]:
        """The account's usage events. Raises `pages.BadCursor` for an `after` that no page has given."""
        only = only or EventFilter()
        before_at, before_id = _place(after) if after else (None, None)
        rows = await self._database.rows(
            _query("reports_events"),
            account_id,
            only.since,
            only.until,
            before_at,
            before_id,
            only.key_id,
            only.model,
            limit + 1,
        )
        return page_of([_event(row) for row in rows], limit, _cursor)

    async def explain(self, request_id: str, account_id: str | None = None) -> Explanation | None:
        """One usage event with the arithmetic of its amount; None if there is none, or not on `account_id`."""
        row = await self._database.row(_query("reports_event"), request_id, account_id)
        if row is None:
            return None
        said = row["price_said"]
        return explain(_event(row), None if said is None else from_canonical_json(said))

    async def explain_debit(self, debit: Debit) -> Explanation:
        """A debit that is still on its way to the ledger, as `explain` answers it once it is there."""
        said = await self._database.value(_query("reports_price"), debit.price_id)
        return explain(_event_of(debit), None if said is None else from_canonical_json(said))

    async def usage_totals(
        self, account_id: str, *, key_id: str | None = None, user_id: str | None = None
    ) -> UsageTotals:
        """Totals of an account, from months and fresh usage; of one key, or of the keys of one user, where given."""
        rows = await self._database.rows(_query("reports_totals"), account_id, key_id, user_id)
        return UsageTotals(**{name: int(total) for name, total in rows[0].items()})


def _cursor(event: UsageEvent) -> str:
    return f"{(event.admitted_at - _EPOCH) // _MICROSECOND}.{event.request_id}"


def _place(cursor: str) -> tuple[datetime, str]:
    micros, dot, request_id = cursor.partition(".")
    try:
        at = _EPOCH + int(micros) * _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise BadCursor("This cursor is not one that this list has given.") from error
    if not (dot and request_id):
        raise BadCursor("This cursor is not one that this list has given.")
    return at, request_id


def _event_of(debit: Debit) -> UsageEvent:
    said = msgspec.structs.asdict(debit)
    return UsageEvent(
        usage=usage_of(debit, msgspec.json.decode(debit.counts) if debit.counts else None),
        tags=msgspec.json.decode(debit.tags) if debit.tags else {},
        admitted_at=_EPOCH + timedelta(milliseconds=debit.admitted_at_ms),
        **{name: said[name] for name in _COPIED if name != "admitted_at"},
    )


def _event(row: Row) -> UsageEvent:
    said = dict(row)
    return UsageEvent(
        usage=usage_of(said, row["counts"]),
        tags=row["tags"] or {},
        **{name: said[name] for name in _COPIED},
    )
