"""The port to payment providers: what they have, in neutral objects, and what is asked of one. Pure.

An event is a hint: it names an object, which is fetched anew, so that only an object's present state is ever believed.
A declined payment is an answer, not an error.

Amounts are whole cents of `currency` (lower case); ids are the provider's own; times are aware. `deployment` and
`order_id` are what we noted at the making of an object: None for one that is not ours.

Writing calls take `key`, an idempotency key of ours (an order's id and the step, say), which was stored before: the
same call with the same key gets the same answer and does nothing more.

Payers may be sent to addresses of the operator's own origins and nowhere else: an address that anybody could choose
would make the gateway's pages a way to send people to a stranger's (https://cwe.mitre.org/data/definitions/601.html).

PaymentError
+-- PaymentProviderUnavailable   not reached, or failed, or not understood: a retry with the same key may succeed
+-- PaymentRefused               the provider refused the call itself: a card does not pay, or a state of ours is wrong
|   +-- CustomerGone             the provider has no such customer any more: make another
+-- PaymentEventRefused          an event that is not the provider's, or too old
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol
from urllib.parse import urlsplit

from billing.errors import Kind, MetergateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

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
    `created_at` is when it was made, of one that is paid when that was paid.
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


class PaymentError(MetergateError):
    """A payment provider did not do what was asked. The message never holds a secret.

    `key_is_spent` says that the provider has kept this answer for the idempotency key: only another key can succeed."""

    key_is_spent: bool = False


class PaymentProviderUnavailable(PaymentError):
    """The provider was not reached, failed on its own side, or answered with an object that can't be read: whether the
    call was carried out may be unknown, and a retry with the same key may succeed."""

    kind = "unavailable"
    retry_after_s = 5


class PaymentRefused(PaymentError):
    """The provider refused the call: the saved card does not pay, say, or a state of ours is wrong. A retry is refused
    as well, so that clients must not be told to try again."""

    kind: ClassVar[Kind] = "conflict"


class CustomerGone(PaymentRefused):
    """The provider has no such customer, or has deleted it: another has to be made."""


class PaymentEventRefused(PaymentError):
    """This is no event of the provider's: its signature is wrong, it is too old, or it can't be read."""

    kind = "invalid"


@dataclass(frozen=True, slots=True)
class HostedPage:
    """A page of the provider's for one customer; `id` is that of the object behind it."""

    id: str
    url: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReturnUrls:
    """Where the payer is sent from a hosted page; both were checked against the allowed origins."""

    success_url: str
    cancel_url: str


@dataclass(frozen=True, slots=True)
class Purchase:
    """What an order asks the provider to sell. `price_id` is the provider's price of the plan, of kind `plan` only;
    `save_method` keeps the payment method for later payments without the payer."""

    order_id: str
    account_id: str
    customer_id: str
    kind: OrderKind
    amount_cents: int
    description: str
    price_id: str | None = None
    save_method: bool = False
    currency: str = CURRENCY

    def __post_init__(self) -> None:
        check_cents(self.amount_cents)
        if (self.price_id is None) == (self.kind == "plan"):
            raise ValueError("an order of a plan has the plan's price, and no other order has one")


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """What a new customer at the provider is given of an account. No mail address: the payer enters the one for
    receipts."""

    account_id: str
    name: str


class PaymentProvider(Protocol):
    """A payment provider. Methods raise `PaymentProviderUnavailable` and `PaymentRefused`; those that name a customer
    `CustomerGone`, too. Everything that is made carries the order, the account and this installation as metadata."""

    @property
    def name(self) -> Literal["local", "stripe"]:
        """Return what the ids and keys of its objects are prefixed with in the ledger."""

    @property
    def livemode(self) -> bool:
        """Return whether it moves real money: objects of the other mode are not ours."""

    async def ensure_customer(self, customer: NewCustomer, key: str) -> str:
        """Create a customer, once per key, and return its id."""

    async def checkout(self, purchase: Purchase, urls: ReturnUrls, key: str) -> HostedPage:
        """Open a page at which the purchase is paid: once, or by subscription for a plan. `id` is the checkout's."""

    async def expire_checkout(self, checkout_id: str, key: str) -> None:
        """Close a page that was not paid. One that is closed or paid stays as it is."""

    async def setup(self, customer_id: str, urls: ReturnUrls, key: str) -> HostedPage:
        """Open a page at which a payment method is saved without paying."""

    async def portal(self, customer_id: str, return_url: str, key: str) -> HostedPage:
        """Open a page at which the customer manages methods, invoices and subscriptions."""

    async def charge(self, purchase: Purchase, key: str) -> Payment:
        """Charge the customer's saved payment method without the payer. A decline is a payment that is `failed`; one
        that needs the payer is `requires_action` and takes nothing; without a saved method it is `failed` and hard."""

    async def find_payment(self, order_id: str, customer_id: str | None = None) -> Payment | None:
        """Return the newest payment that was made for an order, by its metadata: for an order whose payment may have
        been made by a process that died before it knew. One of this customer's last ones is found at once."""

    async def cancel_payment(self, payment_id: str, key: str) -> None:
        """Cancel a payment that is open: nobody has confirmed it. One that has ended may be refused."""

    async def refund(self, payment_id: str, amount_cents: int, name: str, key: str | None = None) -> Refund:
        """Give back a part of a payment, or all of it. One that was made by this `name` of ours before is returned,
        however long ago that was and under whichever key; without a key the name is it."""

    async def change_plan(
        self, subscription_id: str, price_id: str, when: Literal["now", "period_end"], key: str
    ) -> Subscription:
        """Change a subscription's price: now, with what is left of the period credited and the rest charged at once,
        or from the next period on."""

    async def cancel(self, subscription_id: str, when: Literal["now", "period_end"], key: str) -> Subscription:
        """Cancel a subscription."""

    async def resume(self, subscription_id: str, key: str) -> Subscription:
        """Take back a cancellation, or a change, that has not come about yet."""

    async def fetch(self, ref: ObjectRef) -> ProviderObject | None:
        """Return an object as it is now; None: there is none, or it was deleted."""

    def list_since(self, kind: ObjectKind, since: datetime) -> AsyncIterator[ObjectRef]:
        """Yield the objects of a kind that were made since then."""

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        """Return the event that was delivered. Raises `PaymentEventRefused`."""

    async def close(self) -> None:
        """Close connections."""


_SHORT: Final[Mapping[str, str]] = {"payment": "pi", "refund": "re", "dispute": "dp", "invoice": "in"}


def money_key(provider: str, kind: ObjectKind, *ids: str) -> str:
    """Return the idempotency key of a transfer, which is the money's own id: `stripe:pi:ID`, `stripe:in:ID:LINE`,
    `stripe:re:ID`, `stripe:dp:MOVEMENT`. Raises `KeyError` for a kind that is no money."""
    return ":".join((provider, _SHORT[kind], *ids))


def included_scope(provider: str, account_id: str) -> str:
    """Return the scope of the idempotency keys of an account's included credit, which are the lines of its invoices."""
    return f"{provider}:{account_id}"


MOST_URL: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}


def origin_of(url: str) -> str | None:
    """Return the origin of a URL, such as `https://app.example.com`; None for what can't be a page's address: another
    scheme, a user's name in it, or characters that browsers read in different ways."""
    if len(url) > MOST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None or parts.password is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    named = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{named}"


def origins_of(urls: Iterable[str | None]) -> frozenset[str]:
    """Return the origins of URLs; what has none, such as `*`, is left out."""
    return frozenset(origin for url in urls if url is not None and (origin := origin_of(url)) is not None)
