"""Orders, hosted pages, invoices, plans and subscriptions, where an account stands; events of payment providers, and
the comparison with them: as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.money import format_cents
from billing.payments.port import OrderKind, OrderStatus
from billing.plans import Status
from billing.quotas import quota_json
from billing.schemas.base import (
    Answer,
    Body,
    Id,
    Moment,
    Name,
    PageQuery,
    PositiveUsdBody,
    Query,
    Since,
    Usd,
    matching,
)
from billing.schemas.quotas import WindowShape
from billing.schemas.service import EventId
from billing.schemas.system import ModelShape

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """Which charges: of an account or of all, from a time on (`since`) and before another (`until`); those that were
    `paid`, or that have `failed`."""

    account_id: Id | None = None
    since: Since | None = None
    until: Since | None = None
    status: Literal["paid", "failed"] = "paid"


class ChargeShape(Answer, frozen=True, kw_only=True):
    """A payment that a customer made, or that has failed for the `reason`. `amount_usd` is all that was paid, `tax_usd`
    of it taxes; `refunded_usd` and `disputed_usd` went back since. `kind` is `plan` for a plan's first payment,
    upgrades and renewals. `invoice_url` and `pdf_url` are the provider's invoice, where it has made one."""

    id: str
    provider: str
    account_id: str | None
    order_id: str | None
    invoice_id: str | None
    kind: Literal["credit", "plan", "recharge", "other"]
    plan: str | None
    status: Literal["paid", "failed"]
    reason: str | None
    amount_usd: Usd
    tax_usd: Usd
    currency: str
    refunded_usd: Usd
    disputed_usd: Usd
    receipt_url: str | None
    invoice_number: str | None
    invoice_url: str | None
    pdf_url: str | None
    created_at: Moment

    @classmethod
    def of_charge(cls, charge: Any) -> Self:
        """Return a charge."""
        disputed_usd = format_cents(max(0, charge.disputed_cents))
        return cls.of(charge, amount_usd=format_cents(charge.total_cents), disputed_usd=disputed_usd)


class ReceiptShape(Answer, frozen=True, kw_only=True):
    """A payment of the account's own, as its receipt: `amount_usd` was paid, `tax_usd` of it taxes, and `refunded_usd`
    went back. `url`, `invoice_url` and `pdf_url` are the payment provider's documents, where it has made them."""

    id: str
    kind: Literal["credit", "plan", "recharge", "other"]
    plan: str | None
    order_id: str | None
    amount_usd: Usd
    tax_usd: Usd
    currency: str
    refunded_usd: Usd
    number: str | None
    url: str | None
    invoice_url: str | None
    pdf_url: str | None
    created_at: Moment

    @classmethod
    def of_charge(cls, charge: Any) -> Self:
        """Return the receipt of a charge."""
        given = {"number": charge.invoice_number, "url": charge.receipt_url}
        return cls.of(charge, amount_usd=format_cents(charge.total_cents), **given)


RevenueUnit = Annotated[Literal["day", "month"], Meta(description="day or month, of UTC")]


class RevenueQuery(Query, frozen=True, kw_only=True):
    """From when on and before when, in steps of a day or a month; without times the last 30 days, or 12 months."""

    since: Since | None = None
    until: Since | None = None
    step: RevenueUnit = "day"


class RevenueSumShape(Answer, frozen=True, kw_only=True):
    """What customers paid (`paid_usd`, taxes included), what failed, and what went back, each when it happened.
    `disputed_usd` is less what disputes that were won gave back, and may be below zero. `net_usd` is what is left."""

    payments: int
    paid_usd: Usd
    failed: int
    failed_usd: Usd
    refunds: int
    refunded_usd: Usd
    disputes: int
    disputed_usd: Usd
    net_usd: Usd

    @classmethod
    def of_flow(cls, flow: Any, **more: Any) -> Self:
        """Return what a time brought."""
        return cls.of(flow, **more)


class RevenueStepShape(RevenueSumShape, frozen=True, kw_only=True):
    """The same of one day or month, which begins at `start`; `mrr_usd` is what `subscribers` bring a month at its
    end."""

    start: Moment
    mrr_usd: Usd
    subscribers: int


class PlanSubscribersShape(Answer, frozen=True, kw_only=True):
    """Subscriptions to a plan that are paid for now. `plan` null: of a plan that there is no more."""

    plan: str | None
    subscribers: int
    mrr_usd: Usd


class RevenueShape(Answer, frozen=True, kw_only=True):
    """Revenue over time, from `since` on and before `until`; every step is there, and `total` is the sum of all.
    `mrr_usd` is what subscriptions bring a month now, by `plans`."""

    since: Moment
    until: Moment
    step: RevenueUnit
    total: RevenueSumShape
    data: list[RevenueStepShape]
    mrr_usd: Usd
    subscribers: int
    plans: list[PlanSubscribersShape]


class ReturnsQuery(PageQuery, frozen=True, kw_only=True):
    """Which refunds and disputes."""

    account_id: Id | None = None
    kind: Literal["refund", "dispute"] | None = None
    since: Since | None = None
    until: Since | None = None


class ReturnShape(Answer, frozen=True, kw_only=True):
    """A refund, or a movement of a dispute: `amount_usd` went back to the payer; below zero: it came back, as the
    dispute was won. `status` is the refund's or the dispute's."""

    id: str
    kind: Literal["refund", "dispute"]
    status: str
    provider: str
    payment_id: str
    account_id: str | None
    order_id: str | None
    amount_usd: Usd
    currency: str
    created_at: Moment

    @classmethod
    def of_returned(cls, returned: Any) -> Self:
        """Return what went back."""
        return cls.of(returned, amount_usd=format_cents(returned.cents))


class PaidSubscriptionsQuery(PageQuery, frozen=True, kw_only=True):
    """Which subscriptions."""

    plan: str | None = None


class PaidSubscriptionShape(Answer, frozen=True, kw_only=True):
    """A subscription that is paid for, and what it brings a month. It ends at `ends_at`, where that is set."""

    id: str
    provider: str
    account_id: str
    plan: str | None
    status: str
    mrr_usd: Usd
    period_end: Moment
    ends_at: Moment | None
    created_at: Moment

    @classmethod
    def of_subscription(cls, found: Any) -> Self:
        """Return a subscription."""
        return cls.of(found)


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


EventStateName = Literal["waiting", "done", "ignored", "parked"]


class ReceivedShape(Answer, frozen=True, kw_only=True):
    """An event was stored, now or before."""

    received: Literal[True] = True


class PaymentEventsQuery(PageQuery, frozen=True, kw_only=True):
    """Which events."""

    state: EventStateName | None = None


class PaymentEventShape(Answer, frozen=True, kw_only=True):
    """An event of a payment provider: `object` and `object_id` are what it is about, null where that is nothing that we
    act on. `parked` events were given up; `error` says why, or why one was ignored."""

    id: str
    provider: str
    type: str
    object: str | None
    object_id: str | None
    livemode: bool
    state: EventStateName
    attempts: int
    error: str | None
    created_at: Moment
    received_at: Moment
    next_attempt_at: Moment | None
    ended_at: Moment | None

    @classmethod
    def of_event(cls, event: Any) -> Self:
        """Return an event."""
        next_attempt_at = event.next_attempt_at if event.state == "waiting" else None
        return cls.of(event, object=event.ref_kind, object_id=event.ref_id, next_attempt_at=next_attempt_at)


class NewComparison(Body, frozen=True, kw_only=True):
    """Since when everything is to be compared with the payment provider."""

    since: Since


class DifferenceShape(Answer, frozen=True, kw_only=True):
    """An object that is not at the provider what it is here."""

    object: str
    object_id: str
    account_id: str | None
    order_id: str | None
    difference: str
    found_at: Moment | None


class ComparisonShape(Answer, frozen=True, kw_only=True):
    """The last comparison: all that was made since `since`. `ended_at` is null while it runs; `asked_since` is set
    while another one was asked for and has not begun. `differences` are what still differs."""

    provider: str
    asked_since: Moment | None
    since: Moment | None
    began_at: Moment | None
    ended_at: Moment | None
    compared: int
    error: str | None
    differences: list[DifferenceShape]

    @classmethod
    def of_comparison(cls, provider: str, found: Any, listed: Iterable[Any]) -> Self:
        """Return a comparison, None before the first, and what differs."""
        never = {"compared": 0, **dict.fromkeys(("asked_since", "since", "began_at", "ended_at", "error"))}
        differences = [DifferenceShape.of(each, object=each.kind, object_id=each.id) for each in listed]
        return cls.of(found, provider=provider, differences=differences, **(never if found is None else {}))


PlanId = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema={"format": "plan"})]
FeatureName = Annotated[str, matching("[a-z][a-z0-9_.-]{0,63}", examples=["reports"])]
Units = Annotated[int, Meta(ge=1, le=1_000_000_000)]
State = Literal["ready", "billing_required", "quota_exhausted", "past_due", "suspended", "closed"]


class PlanChange(Body, frozen=True, kw_only=True):
    """The plan to change a subscription to; a free one ends it with its period."""

    plan: PlanId


class NewFeatureUse(Body, frozen=True, kw_only=True):
    """Units of a feature that an account uses."""

    account_id: Id
    feature: FeatureName
    event_id: EventId
    units: Units = 1


class FeatureShape(Answer, frozen=True, kw_only=True):
    """A feature of the account's plan. `limit` is its units in a period, null: any number; `allowed` says that it may
    be used, once more at least."""

    feature: str
    allowed: bool
    limit: int | None
    used: int
    remaining: int | None
    resets_at: Moment

    @classmethod
    def of_state(cls, state: Any) -> Self:
        """Return a feature, and how much of it was used."""
        return cls.of(state, remaining=state.left, resets_at=state.period.end)


class FeaturesShape(Answer, frozen=True, kw_only=True):
    """The features that an account's plan names, by name."""

    data: list[FeatureShape]


class SubscriptionShape(Answer, frozen=True, kw_only=True):
    """What gives an account its plan. It ends at `ends_at`, or becomes `next_plan` with the next period; while it is
    not paid its plan stays until `grace_until`."""

    id: str
    status: str
    plan: str | None
    period_start: Moment
    period_end: Moment
    ends_at: Moment | None
    next_plan: str | None
    grace_until: Moment | None

    @classmethod
    def in_force(cls, found: Any) -> Self | None:
        """Return the subscription that gives a plan; None where none does."""
        return None if found.subscription is None else cls.of(found.subscription, found)


class PlanPreviewShape(Answer, frozen=True, kw_only=True):
    """What choosing a plan would do. `how`: `buy` (there is no subscription yet), `now`, with the next period
    (`period_end`), end the subscription with its period (`cancel`), keep it (`resume`), or `nothing`. `today_usd` is
    what is charged at once, `is_estimate` if the payment provider works it out to the second; `method` is the saved
    payment method that is charged, null if none is known."""

    plan: PlanShown
    how: Literal["buy", "now", "period_end", "cancel", "resume", "nothing"]
    today_usd: Usd
    is_estimate: bool
    renewal_usd: Usd
    renews_at: Moment | None
    method: str | None

    @classmethod
    def of_outlook(cls, outlook: Any, method: str | None) -> Self:
        """Return what choosing a plan would do."""
        plan = PlanShown.of(outlook.plan)
        return cls.of(outlook, plan=plan, is_estimate=outlook.about, renewal_usd=plan.price_usd, method=method)


class PlanPricesShape(Answer, frozen=True, kw_only=True):
    """The price list of a plan: what its customers pay for each of its models."""

    plan: str
    name: str
    data: list[ModelShape]


class PlanShown(Answer, frozen=True, kw_only=True):
    """A plan, and its price a month."""

    id: str
    name: str
    price_usd: Usd


class UpgradeShape(Answer, frozen=True, kw_only=True):
    """The plan that is recommended next, and where it is bought: null, where nothing is sold."""

    plan: str
    name: str
    price_usd: Usd
    url: str | None


class BodyLogShape(Answer, frozen=True, kw_only=True):
    """That bodies of requests and answers are kept: of which share of the requests, and for how many days; and the
    header that keeps a request's out, where there is one."""

    share: str
    keep_days: int
    opt_out: str | None


class StatusShape(Answer, frozen=True, kw_only=True):
    """Where an account stands: `state` in a word, `guidance` what to do about it, `next` the command for that. Without
    `body_logs` nothing of its requests' and answers' bodies is kept."""

    account_id: str
    organization: Name | None
    state: State
    status: Status
    balance_usd: Usd
    available_usd: Usd
    plan: PlanShown
    features: list[FeatureShape]
    windows: list[WindowShape]
    subscription: SubscriptionShape | None
    upgrade: UpgradeShape | None
    guidance: str | None
    next: str | None
    body_logs: BodyLogShape | None = None


def preview_sentences(preview: PlanPreviewShape) -> tuple[str, ...]:
    """Return what choosing a plan does: what is charged, when and by which means."""
    name, renewal = f"The plan {preview.plan.name}", f"{preview.renewal_usd} USD at each renewal"
    means = f"by {preview.method}" if preview.method is not None else "by your saved payment method"
    match preview.how:
        case "buy":
            return (f"{name}: {preview.today_usd} USD today, then {renewal}, paid on the page that opens next.",)
        case "now":
            about = "about " if preview.is_estimate else ""
            today = f"{name}: {about}{preview.today_usd} USD are charged today {means}, for the rest of this period."
            return today, f"Then {renewal}, next on {preview.renews_at}."
        case "period_end":
            return (f"{name} comes on {preview.renews_at}. Nothing is charged today; then {renewal} {means}.",)
        case "cancel":
            return (f"Your plan ends on {preview.renews_at}. Nothing is charged any more.",)
        case "resume":
            return (f"Your plan goes on. Nothing is charged today; {renewal} {means}, next on {preview.renews_at}.",)
    return (f"{name} stays as it is.",)
