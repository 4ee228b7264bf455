"""The port to payment providers: what is asked of one. Its neutral objects are in `objects`. Pure.

An event is a hint: it names an object, which is fetched anew, so that only an object's present state is ever believed.
A declined payment is an answer, not an error.

Writing calls take `key`, an idempotency key of ours (an order's id and the step, say), which was stored before: the
same call with the same key gets the same answer and does nothing more.

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

from billing.errors import Kind, MetergateError
from billing.payments.objects import (
    CURRENCY,
    Event,
    ObjectKind,
    ObjectRef,
    OrderKind,
    Payment,
    ProviderObject,
    Refund,
    Subscription,
    check_cents,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


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
