"""Credit: lots, as the API answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta

from billing.money import format_usd
from billing.shapes.base import Answer, Moment, PageQuery, Usd
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.accounts.lots import Lot

DEFAULT_PRIORITY: Final = 50
MOST_PRIORITY: Final = 100
Priority = Annotated[
    int, Meta(ge=0, le=MOST_PRIORITY, description=f"an integer from 0 to {MOST_PRIORITY}; the lowest is drawn first")
]


class LotsQuery(PageQuery, frozen=True, kw_only=True):
    """Which lots: with `open` of true those alone of which something is left."""

    open: Annotated[Literal["true", "false"], Meta(description="true or false")] | None = None


class LotShape(Answer, frozen=True, kw_only=True):
    """A raise of the balance and what is left of it. Requests draw on lots of the lowest priority first, then on those
    that expire soonest, on promotional ones before others, on the oldest first. `kind` is that of the transaction, or
    `opening` for what was there before lots were kept."""

    id: str
    kind: str
    state: Literal["open", "spent", "expired"]
    amount_usd: Usd
    left_usd: Usd
    expired_usd: Usd
    priority: int
    promotional: bool
    transaction_id: str | None
    expires_at: Moment | None
    created_at: Moment


def lot_shape(lot: Lot) -> LotShape:
    """Return a lot's shape."""
    terms = lot.terms
    return LotShape(
        id=lot.id,
        kind=lot.kind,
        state="open" if lot.left_nano else "expired" if lot.expired_nano else "spent",
        amount_usd=format_usd(lot.amount_nano),
        left_usd=format_usd(lot.left_nano),
        expired_usd=format_usd(lot.expired_nano),
        priority=terms.priority,
        promotional=terms.promotional,
        transaction_id=lot.transfer_id,
        expires_at=None if terms.expires_at is None else rfc3339(terms.expires_at),
        created_at=rfc3339(lot.created_at),
    )
