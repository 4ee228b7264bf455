"""What payment providers have, in neutral objects: payments, refunds, disputes, invoices, subscriptions. Pure.

Amounts are whole cents of `currency` (lower case); ids are the provider's own; times are aware. `deployment` and
`order_id` are what we noted at the making of an object: None for one that is not ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Literal

# The only currency that is sold in.
CURRENCY: Final = "usd"

ObjectKind = Literal["checkout", "payment", "refund", "dispute", "invoice", "subscription", "customer"]
OrderKind = Literal["credit", "plan", "recharge"]
OrderStatus = Literal["open", "paid", "credited", "failed", "expired", "refunded", "disputed", "parked"]
PaymentStatus = Literal["open", "processing", "requires_action", "paid", "failed", "canceled"]
RefundStatus = Literal["pending", "succeeded", "failed", "canceled"]
DisputeStatus = Literal["warning", "open", "won", "lost", "prevented"]
InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]
SubscriptionStatus = Literal["incomplete", "trialing", "active", "past_due", "unpaid", "paused", "canceled"]
LineKind = Literal["subscription", "proration", "other"]


def check_cents(amount: int) -> None:
    """Refuse an amount below zero. Raises `ValueError`."""
    if amount < 0:
        raise ValueError("an amount in cents must not be below zero")


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Which object of the provider's is meant."""

    kind: ObjectKind
    id: str

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("an object of a provider has an id")


@dataclass(frozen=True, slots=True)
class Refund:
    """Money that goes back to the payer. `pending` has left us, too; `failed` and `canceled` bring it back."""

    kind: ClassVar[ObjectKind] = "refund"
    id: str
    payment_id: str
    status: RefundStatus
    amount_cents: int
    currency: str
    created_at: datetime

    def __post_init__(self) -> None:
        check_cents(self.amount_cents)


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that a dispute has taken from us (below zero) or brought back (above): one balance transaction, without
    fees."""

    id: str
    amount_cents: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Dispute:
    """A payment that the payer's bank takes back. `open` includes its review and appeals; only `movements` are money:
    a `warning` or a `prevented` one has none."""

    kind: ClassVar[ObjectKind] = "dispute"
    id: str
    payment_id: str
    status: DisputeStatus
    amount_cents: int
    currency: str
    created_at: datetime
    movements: tuple[Movement, ...] = ()

    def __post_init__(self) -> None:
        check_cents(self.amount_cents)


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment, with all of its refunds and disputes as they are now, in the order in which they were made.

    `amount_cents` is what was sold, before taxes; `total_cents` what the payer pays in all. `order_id` and `deployment`
    are what we noted at its making: None for one that is not ours. `hard` says that the same method won't ever work.
    """

    kind: ClassVar[ObjectKind] = "payment"
    id: str
    status: PaymentStatus
    amount_cents: int
    total_cents: int
    currency: str
    customer_id: str | None
    order_id: str | None
    deployment: str | None
    livemode: bool
    created_at: datetime
    decline_code: str | None = None
    hard: bool = False
    invoice_id: str | None = None
    """The invoice that it pays: its lines are the money then, not the payment."""
    refunds: tuple[Refund, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    receipt_url: str | None = None

    def __post_init__(self) -> None:
        check_cents(self.amount_cents)
        check_cents(self.total_cents)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A hosted page at which an order is paid. That it is complete does not say that money came: `payment_id`'s
    payment, or the subscription's invoice, does."""

    kind: ClassVar[ObjectKind] = "checkout"
    id: str
    status: Literal["open", "complete", "expired"]
    order_id: str | None
    deployment: str | None
    customer_id: str | None
    payment_id: str | None
    subscription_id: str | None
    livemode: bool
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """What an invoice charges for, before taxes; below zero: given back, as a proration may be."""

    id: str
    kind: LineKind
    amount_cents: int
    price_id: str | None
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Invoice:
    """A bill. Only where its status is `paid` has money come."""

    kind: ClassVar[ObjectKind] = "invoice"
    id: str
    status: InvoiceStatus
    customer_id: str | None
    subscription_id: str | None
    payment_id: str | None
    order_id: str | None
    deployment: str | None
    amount_cents: int
    total_cents: int
    currency: str
    lines: tuple[InvoiceLine, ...]
    livemode: bool
    created_at: datetime
    number: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    hosted_url: str | None = None
    pdf_url: str | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A plan that is paid for in advance, period by period. It ends where `cancel_at` is set or
    `cancel_at_period_end` is true: either means it (`ends_at`)."""

    kind: ClassVar[ObjectKind] = "subscription"
    id: str
    status: SubscriptionStatus
    customer_id: str
    order_id: str | None
    deployment: str | None
    price_id: str
    period_start: datetime
    period_end: datetime
    livemode: bool
    created_at: datetime
    cancel_at: datetime | None = None
    cancel_at_period_end: bool = False
    ended_at: datetime | None = None
    next_price_id: str | None = None
    """The price from the next period on, where a change waits for it."""
    latest_invoice_id: str | None = None

    @property
    def ends_at(self) -> datetime | None:
        """Return when it ends, or None while it is renewed."""
        return self.cancel_at or (self.period_end if self.cancel_at_period_end else None)


@dataclass(frozen=True, slots=True)
class Customer:
    """Whom the provider knows as one of our accounts. `method` describes the saved payment method, such as
    `visa 4242`; None: none is saved."""

    kind: ClassVar[ObjectKind] = "customer"
    id: str
    account_id: str | None
    deployment: str | None
    livemode: bool
    created_at: datetime
    method: str | None = None


ProviderObject = Checkout | Payment | Refund | Dispute | Invoice | Subscription | Customer


@dataclass(frozen=True, slots=True)
class Event:
    """A hint that something happened to an object; `ref` None: nothing that we act on. `id` is unique by provider."""

    id: str
    type: str
    ref: ObjectRef | None
    livemode: bool
    created_at: datetime
