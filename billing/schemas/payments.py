"""Orders, hosted pages, invoices and plans, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from billing.money import format_usd
from billing.payments.objects import Invoice, OrderKind, OrderStatus, format_cents
from billing.quotas import quota_json
from billing.schemas.base import Answer, Body, Id, Moment, PageQuery, PositiveUsdBody, Since, Usd, matching
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.payments.charges import Charge
    from billing.payments.orders import Order, Parked
    from billing.payments.port import HostedPage
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


def order_shape(order: Order, *, may_pay: bool) -> OrderShape:
    """Return an order's shape; without `may_pay` it has no `url`, which alone lets whoever knows it act there."""
    return OrderShape(**_order(order) | ({} if may_pay else {"url": None}))


def charge_shape(charge: Charge) -> ChargeShape:
    """Return a charge's shape."""
    return ChargeShape(
        id=charge.id,
        provider=charge.provider,
        account_id=charge.account_id,
        order_id=charge.order_id,
        invoice_id=charge.invoice_id,
        kind=charge.kind,
        plan=charge.plan,
        amount_usd=format_cents(charge.total_cents),
        currency=charge.currency,
        refunded_usd=format_cents(charge.refunded_cents),
        disputed_usd=format_cents(max(0, charge.disputed_cents)),
        receipt_url=charge.receipt_url,
        created_at=rfc3339(charge.created_at),
    )


def admin_order_shape(order: Order) -> AdminOrderShape:
    """Return an order's shape for operators."""
    return AdminOrderShape(
        account_id=order.account_id,
        provider=order.provider,
        payment_id=order.payment_id,
        subscription_id=order.subscription_id,
        **_order(order),
    )


def _order(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "kind": order.kind,
        "amount_usd": format_cents(order.amount_cents),
        "plan": order.plan,
        "status": order.status,
        "refunded_usd": format_cents(order.refunded_cents),
        "disputed_usd": format_cents(max(0, order.disputed_cents)),
        "reason": order.reason,
        "transaction_id": order.transfer_id,
        "url": order.url if order.status in ("open", "failed") else None,
        "expires_at": None if order.expires_at is None else rfc3339(order.expires_at),
        "created_at": rfc3339(order.created_at),
        "updated_at": rfc3339(order.updated_at),
    }


def page_shape(page: HostedPage) -> PageShape:
    """Return the shape of a page at which nothing is bought."""
    return PageShape(url=page.url, expires_at=None if page.expires_at is None else rfc3339(page.expires_at), order=None)


def order_page_shape(order: Order) -> PageShape:
    """Return the shape of the page of an order."""
    shape = order_shape(order, may_pay=True)
    return PageShape(url=shape.url, expires_at=shape.expires_at, order=shape)


def invoice_shape(invoice: Invoice) -> InvoiceShape:
    """Return an invoice's shape."""
    return InvoiceShape(
        id=invoice.id,
        number=invoice.number,
        status=invoice.status,
        amount_usd=format_cents(invoice.amount_cents),
        total_usd=format_cents(invoice.total_cents),
        currency=invoice.currency,
        url=invoice.hosted_url,
        pdf_url=invoice.pdf_url,
        created_at=rfc3339(invoice.created_at),
    )


def plan_shape(plan: Plan) -> PlanShape:
    """Return a plan's shape."""
    return PlanShape(
        id=plan.id,
        name=plan.name,
        price_usd=format_usd(plan.price_nano),
        included_credit_usd=format_usd(plan.included_credit_nano),
        quotas=[quota_json(quota) for quota in plan.quotas],
        models=None if plan.models is None else list(plan.models),
        users=plan.users,
        max_parallel_requests=plan.max_parallel_requests,
        features=dict(plan.features),
        upgrade_to=plan.upgrade_to,
    )


def parked_shape(parked: Parked) -> ParkedShape:
    """Return the shape of what could not be credited."""
    return ParkedShape(
        id=parked.id,
        provider=parked.provider,
        payment_id=parked.object_id,
        account_id=parked.account_id,
        order_id=parked.order_id,
        amount_usd=format_cents(parked.amount_cents),
        currency=parked.currency,
        reason=parked.reason,
        state=parked.state,  # type: ignore[arg-type]
        transaction_id=parked.transfer_id,
        note=parked.note,
        created_at=rfc3339(parked.created_at),
        ended_at=None if parked.ended_at is None else rfc3339(parked.ended_at),
    )
