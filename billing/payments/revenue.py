"""Revenue over time: what customers paid, what failed, what went back, and what subscriptions bring a month, each sum
with the rows that it is made of.

Money counts when it moves: a payment when it was made, a refund or a dispute when it happened, whenever its payment
was. So the sums of a time are those of the payment provider's own reports. They change afterwards only where a state
does: a failed payment that is paid later has not failed, and a refund that fails later was none. What subscriptions
bring a month is the price that their plan had when they came to it, while they are active or a payment of theirs is
overdue.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from billing.database.connection import Database, from_row, queries
from billing.pages import Page, moment_cursor, moment_place, page_of
from billing.payments.port import CURRENCY

if TYPE_CHECKING:
    from collections.abc import Sequence

_query = queries("billing.payments")

Unit = Literal["day", "month"]
ReturnKind = Literal["refund", "dispute"]


@dataclass(slots=True)
class Flow:
    """What a time brought: numbers of payments, and cents. `disputed_cents` is less what disputes that were won gave
    back."""

    payments: int = 0
    paid_cents: int = 0
    failed: int = 0
    failed_cents: int = 0
    refunds: int = 0
    refunded_cents: int = 0
    disputes: int = 0
    disputed_cents: int = 0

    @property
    def net_cents(self) -> int:
        """Return what is left of what came in, less what went back in the same time."""
        return self.paid_cents - self.refunded_cents - self.disputed_cents

    def add(self, other: Flow) -> None:
        """Add another time's."""
        for each in fields(Flow):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class Step:
    """A day or a month: what it brought, and what subscriptions brought a month at its end."""

    start: datetime
    flow: Flow = field(default_factory=Flow)
    mrr_nano: int = 0
    subscribers: int = 0


@dataclass(frozen=True, slots=True)
class PlanSubscribers:
    """How many subscriptions to a plan are paid for now, and what they bring a month. `plan` None: of no plan any
    more."""

    plan: str | None
    subscribers: int
    mrr_nano: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A refund, or a movement of a dispute: one below zero came back. `status` is the refund's or the dispute's."""

    provider: str
    payment_id: str
    account_id: str | None
    order_id: str | None
    currency: str
    kind: ReturnKind
    id: str
    status: str
    cents: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PaidSubscription:
    """A subscription that is paid for, and what it brings a month."""

    id: str
    provider: str
    account_id: str
    plan: str | None
    status: str
    period_end: datetime
    ends_at: datetime | None
    created_at: datetime
    mrr_nano: int


# The fields of a flow that each kind of row counts in: its number, and its cents.
_COUNTED: Final = {
    "paid": ("payments", "paid_cents"),
    "failed": ("failed", "failed_cents"),
    "refund": ("refunds", "refunded_cents"),
    "dispute": ("disputes", "disputed_cents"),
}


@dataclass
class Revenue:
    """Reads revenue, of whichever provider. Methods raise `DatabaseError`."""

    database: Database

    async def steps(self, starts: Sequence[datetime], until: datetime, unit: Unit) -> list[Step]:
        """Return what each day or month brought, which begin at `starts` in UTC and end with `until`."""
        found = {start: Step(start) for start in starts}
        for row in await self.database.rows(_query("revenue_money"), starts[0], until, unit, CURRENCY):
            number, cents = _COUNTED[row["kind"]]
            flow = found[row["start"]].flow
            setattr(flow, number, row["number"])
            setattr(flow, cents, row["cents"])
        changes = {
            row["start"]: (row["mrr_nano"], row["subscribers"])
            for row in await self.database.rows(_query("revenue_mrr"), starts[0], until, unit)
        }
        mrr_nano, subscribers = changes.get(None, (0, 0))
        for step in found.values():
            more_nano, more = changes.get(step.start, (0, 0))
            mrr_nano, subscribers = mrr_nano + more_nano, subscribers + more
            step.mrr_nano, step.subscribers = mrr_nano, subscribers
        return list(found.values())

    async def plans(self) -> list[PlanSubscribers]:
        """Return the subscriptions that are paid for now, by plan, those first that bring most."""
        rows = await self.database.rows(_query("revenue_plans"))
        return sorted((from_row(PlanSubscribers, row) for row in rows), key=lambda each: -each.mrr_nano)

    async def returns(
        self,
        limit: int,
        after: str | None = None,
        *,
        account_id: str | None = None,
        kind: ReturnKind | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[Returned]:
        """Return refunds and movements of disputes, newest first; `after` is where the page before ended, which holds
        though the refund there has failed since. Raises `BadCursor`."""
        before = (None, None) if after is None else moment_place(after)
        rows = await self.database.rows(_query("returns_page"), account_id, kind, since, until, *before, limit + 1)
        found = [from_row(Returned, row) for row in rows]
        return page_of(found, limit, lambda each: moment_cursor(each.created_at, each.id))

    async def subscriptions(
        self, limit: int, after: str | None = None, *, plan: str | None = None
    ) -> Page[PaidSubscription]:
        """Return subscriptions that are paid for, newest first; `after` is the id that ended the page before."""
        rows = await self.database.rows(_query("subscriptions_paid"), plan, after, limit + 1)
        return page_of([from_row(PaidSubscription, row) for row in rows], limit, lambda each: each.id)
