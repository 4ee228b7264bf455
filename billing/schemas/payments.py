"""Orders, hosted pages, invoices and plans, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.money import format_cents
from billing.payments.port import OrderKind, OrderStatus
from billing.quotas import quota_json
from billing.schemas.base import Answer, Body, Id, Moment, PageQuery, PositiveUsdBody, Since, Usd, matching

if TYPE_CHECKING:
    from billing.plans import Plan

Url = Annotated[str, Meta(min_length=1, max_length=2048, description="an address on an origin that is allowed here")]
OrderKey = Annotated[
    str,
    matching(
        "[!-~]+",
        min_length=1,
        max_length=255,
        description="a text of your own: the same again opens the same page. Also as the header Idempotency-Key",
    ),
]
Note = Annotated[str, Meta(min_length=1, max_length=500)]


class NewSetup(Body, frozen=True, kw_only=True):
    """How billing is begun: by buying `amount_usd` (unless given: the operator's usual amount) with a payment method
    that is kept, or with `save_only` by keeping one alone."""

    return_url: Url | None = None
    amount_usd: PositiveUsdBody | UnsetType = UNSET
    save_only: bool = False
    idempotency_key: OrderKey | None = None


class NewPortal(Body, frozen=True, kw_only=True):
    """Where the page leads back to."""

    return_url: Url | None = None


class NewCheckout(Body, frozen=True, kw_only=True):
    """What is bought: `amount_usd` of credit in whole cents, or a `plan`; one of the two."""

    amount_usd: PositiveUsdBody | UnsetType = UNSET
    plan: Annotated[str, Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    return_url: Url | None = None
    success_url: Url | None = None
    cancel_url: Url | None = None
    save_method: bool = False
    idempotency_key: OrderKey | None = None


class OrderShape(Answer, frozen=True, kw_only=True):
    """What was asked for. `url` is where it is paid, until `expires_at`; `reason` why it failed, or waits for the
    operator (`parked`); `transaction_id` the transaction that credited it."""

    id: str
    kind: OrderKind
    amount_usd: Usd
    plan: str | None
    status: OrderStatus
    refunded_usd: Usd
    disputed_usd: Usd
    reason: str | None
    transaction_id: str | None
    url: str | None
    expires_at: Moment | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of_order(cls, order: Any, *, may_pay: bool) -> Self:
        """Return an order; without `may_pay` it has no `url`, which alone lets whoever knows it act there."""
        url = order.url if may_pay and order.status in ("open", "failed") else None
        return cls.of(order, disputed_usd=format_cents(max(0, order.disputed_cents)), url=url)


class AdminOrderShape(OrderShape, frozen=True, kw_only=True):
    """An order with what operators know of it."""

    account_id: str
    provider: str
    payment_id: str | None
    subscription_id: str | None


class PageShape(Answer, frozen=True, kw_only=True):
    """A page to open in a browser; `order` is what is paid there, null where nothing is."""

    url: str | None
    expires_at: Moment | None
    order: OrderShape | None

    @classmethod
    def of_order(cls, order: Any) -> Self:
        """Return the page of an order."""
        shape = OrderShape.of_order(order, may_pay=True)
        return cls.of(shape, order=shape)


class InvoiceShape(Answer, frozen=True, kw_only=True):
    """A bill of a plan. `url` and `pdf_url` are the provider's, where it has them."""

    id: str
    number: str | None
    status: str
    amount_usd: Usd
    total_usd: Usd
    currency: str
    url: str | None
    pdf_url: str | None
    created_at: Moment

    @classmethod
    def of_invoice(cls, invoice: Any) -> Self:
        """Return an invoice."""
        return cls.of(invoice, url=invoice.hosted_url)


class PlanShape(Answer, frozen=True, kw_only=True):
    """A plan: its price of a month, what is included, and the plan above it. `models` null: all."""

    id: str
    name: str
    price_usd: Usd
    included_credit_usd: Usd
    quotas: list[dict[str, Any]]
    models: list[str] | None
    users: int | None
    max_parallel_requests: int | None
    features: dict[str, bool | int]
    upgrade_to: str | None

    @classmethod
    def of_plan(cls, plan: Plan) -> Self:
        """Return a plan."""
        return cls.of(plan, quotas=[quota_json(quota) for quota in plan.quotas], features=dict(plan.features))


class PlansShape(Answer, frozen=True, kw_only=True):
    """All plans, the cheapest first."""

    data: list[PlanShape]


class OrdersQuery(PageQuery, frozen=True, kw_only=True):
    """Which orders."""

    status: OrderStatus | None = None


class AdminOrdersQuery(OrdersQuery, frozen=True, kw_only=True):
    """Which orders, of all accounts or of one."""

    account_id: Id | None = None


class ChargesQuery(PageQuery, frozen=True, kw_only=True):
    """Which charges: of an account or of all, from a time on (`since`) and before another (`until`)."""

    account_id: Id | None = None
    since: Since | None = None
    until: Since | None = None


class ChargeShape(Answer, frozen=True, kw_only=True):
    """A payment that a customer made. `amount_usd` is all that was paid, taxes included; `refunded_usd` and
    `disputed_usd` went back since. `kind` is `plan` for a plan's first payment, upgrades and renewals."""

    id: str
    provider: str
    account_id: str | None
    order_id: str | None
    invoice_id: str | None
    kind: Literal["credit", "plan", "recharge", "other"]
    plan: str | None
    amount_usd: Usd
    currency: str
    refunded_usd: Usd
    disputed_usd: Usd
    receipt_url: str | None
    created_at: Moment

    @classmethod
    def of_charge(cls, charge: Any) -> Self:
        """Return a charge."""
        disputed_usd = format_cents(max(0, charge.disputed_cents))
        return cls.of(charge, amount_usd=format_cents(charge.total_cents), disputed_usd=disputed_usd)


class ParkedQuery(PageQuery, frozen=True, kw_only=True):
    """What waits, or was decided."""

    state: Literal["parked", "credited", "dismissed"] = "parked"


class ParkedShape(Answer, frozen=True, kw_only=True):
    """Money that came in and could not be credited: it waits for an operator (`parked`), or one has decided."""

    id: str
    provider: str
    payment_id: str
    account_id: str | None
    order_id: str | None
    amount_usd: str
    currency: str
    reason: str
    state: Literal["parked", "credited", "dismissed"]
    transaction_id: str | None
    note: str | None
    created_at: Moment
    ended_at: Moment | None

    @classmethod
    def of_parked(cls, parked: Any) -> Self:
        """Return what could not be credited."""
        return cls.of(parked, payment_id=parked.object_id)


class CreditParked(Body, frozen=True, kw_only=True):
    """Whose money it is, where that is not known, and a note."""

    account_id: Id | None = None
    note: Note | None = None


class DismissParked(Body, frozen=True, kw_only=True):
    """Why it is not credited."""

    note: Note


class NewOrderRefund(Body, frozen=True, kw_only=True):
    """How much is given back (unless given: all that is left), once for an idempotency key."""

    idempotency_key: OrderKey
    amount_usd: PositiveUsdBody | UnsetType = UNSET


class OrderRefundShape(Answer, frozen=True, kw_only=True):
    """What the provider gives back."""

    refund_id: str
    amount_usd: Usd
    status: str
