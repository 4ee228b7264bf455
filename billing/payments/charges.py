"""What customers were charged: every payment that was paid, for credit, plans, upgrades, renewals and recharges.

A payment is counted at the time at which it was made, by all that its payer paid, taxes included, as the payment
provider counts it. What went back (refunds, disputes) is counted with its payment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from billing.database.connection import Database, queries
from billing.pages import Page, page_of
from billing.payments.objects import CURRENCY

if TYPE_CHECKING:
    from billing.database.connection import Row

_query = queries("billing.payments")

ChargeKind = Literal["credit", "plan", "recharge", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One payment. `kind` is that of its order; payments of invoices are `plan`; those that nothing here has asked for
    are `other`."""

    id: str
    provider: str
    account_id: str | None
    order_id: str | None
    invoice_id: str | None
    kind: ChargeKind
    plan: str | None
    total_cents: int
    currency: str
    refunded_cents: int
    disputed_cents: int
    receipt_url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeSums:
    """How many payments there were, what was paid, and what of it went back, in US cents."""

    payments: int
    paid_cents: int
    refunded_cents: int
    disputed_cents: int


class Charges:
    """Reads charges, of whichever provider. Methods raise `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        limit: int,
        after: str | None = None,
        *,
        account_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[Charge]:
        """Return charges, newest first; `after` is the id that ended the page before."""
        given = (account_id, after, since, until, limit + 1)
        rows = await self._database.rows(_query("charges_page"), *given)
        return page_of([_charge_of(row) for row in rows], limit, lambda charge: charge.id)

    async def sums(self, since: datetime, until: datetime) -> ChargeSums:
        """Return what was paid from `since` on and before `until`."""
        row = await self._database.row(_query("charges_sums"), since, until, CURRENCY)
        assert row is not None  # noqa: S101  (an aggregate always has a row)
        return ChargeSums(**dict(row))


def _charge_of(row: Row) -> Charge:
    fields = dict(row)
    of_order: ChargeKind | None = fields.pop("order_kind")
    return Charge(kind=of_order or ("other" if fields["invoice_id"] is None else "plan"), **fields)
