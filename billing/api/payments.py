"""/api/billing: setup, portal, checkout, orders, invoices, plans; status and subscription, where an account stands, and
another plan for it; /api/admin/orders, /api/admin/payments/parked; /api/service/features.

And /api/webhooks/stripe, where Stripe delivers events, and /api/admin/payments: what became of them, and the
comparison with the payment provider.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from billing.api.operations import PaymentOperations, PlanOperations
from billing.api.remaining import balance_of
from billing.api.requests import (
    BadRequest,
    NotFound,
    QuotaExceeded,
    listing,
    moment,
    page_asked,
    positive_money,
    read_bounded,
)
from billing.api.route import REPLAYED_HEADER, Call, serves
from billing.errors import StoreError
from billing.money import NANO_PER_CENT, format_cents, format_usd
from billing.payments.flows import Wanted
from billing.payments.in_force import outlook
from billing.quotas import names_model, parse_limit
from billing.schemas.payments import (
    AdminOrderShape,
    AdminOrdersQuery,
    ChargeShape,
    ChargesQuery,
    ComparisonShape,
    CreditParked,
    DismissParked,
    FeatureShape,
    FeaturesShape,
    InvoiceShape,
    NewCheckout,
    NewComparison,
    NewFeatureUse,
    NewOrderRefund,
    NewPortal,
    NewSetup,
    OrderRefundShape,
    OrderShape,
    OrdersQuery,
    PageShape,
    ParkedQuery,
    ParkedShape,
    PaymentEventShape,
    PaymentEventsQuery,
    PlanChange,
    PlanPreviewShape,
    PlanPricesShape,
    PlanShape,
    PlanShown,
    PlansShape,
    ReceiptShape,
    ReceivedShape,
    State,
    StatusShape,
    SubscriptionShape,
    UpgradeShape,
)

if TYPE_CHECKING:
    from billing.api.services import PaymentOversight, Services
    from billing.payments.assembly import Payments
    from billing.plans import Plan
    from billing.quotas import Quota
    from billing.schemas.base import Listing, PageQuery
    from billing.schemas.quotas import WindowShape
    from billing.schemas.usage import BalanceShape


KEY_HEADER: Final = "Idempotency-Key"
MOST_KEY: Final = 255


@serves(PaymentOperations.setup_billing)
async def setup_billing(call: Call, body: NewSetup) -> PageShape:
    """Open a page where credit is bought and the payment method kept, or with `save_only` the method kept alone."""
    payments = call.payments
    if body.save_only:
        return PageShape.of(await payments.flows.save_method(call.account_id, body.return_url), order=None)
    wanted = Wanted(
        call.account_id,
        _key(call, body.idempotency_key),
        _amount(body.amount_usd),
        success_url=body.return_url,
        cancel_url=body.return_url,
        save_method=True,
    )
    return PageShape.of_order(await payments.flows.checkout(wanted))


@serves(PaymentOperations.billing_portal)
async def open_portal(call: Call, body: NewPortal) -> PageShape:
    """Open a page where payment methods, invoices and subscriptions are managed."""
    return PageShape.of(await call.payments.flows.portal(call.account_id, body.return_url), order=None)


@serves(PaymentOperations.checkout)
async def checkout(call: Call, body: NewCheckout) -> PageShape:
    """Open a page where an amount of credit, or a plan, is bought. The same idempotency key again opens the same."""
    payments, amount_nano = call.payments, _amount(body.amount_usd)
    plan = None if body.plan is UNSET else body.plan
    if (amount_nano is None) == (plan is None):
        raise BadRequest("Name amount_usd or plan: one of the two.", "amount_usd")
    wanted = Wanted(
        call.account_id,
        _key(call, body.idempotency_key),
        amount_nano,
        plan=plan,
        success_url=body.success_url or body.return_url,
        cancel_url=body.cancel_url or body.return_url,
        save_method=body.save_method,
    )
    return PageShape.of_order(await payments.flows.checkout(wanted))


@serves(PaymentOperations.own_orders)
async def list_orders(call: Call, query: OrdersQuery) -> Listing[OrderShape]:
    """List the account's orders, newest first."""
    found = call.payments.orders
    page = await found.page(*page_asked(query), account_id=call.account_id, status=query.status)
    return listing(page, lambda order: OrderShape.of_order(order, may_pay=call.may_pay))


@serves(PaymentOperations.own_order)
async def get_order(call: Call) -> OrderShape:
    """Return an order of the account."""
    order = await call.payments.orders.get(call.id("order_id"), call.account_id)
    return OrderShape.of_order(order, may_pay=call.may_pay)


@serves(PaymentOperations.invoices)
async def list_invoices(call: Call, query: PageQuery) -> Listing[InvoiceShape]:
    """List the account's invoices, newest first, as the provider last showed them."""
    page = await call.payments.orders.invoices(call.account_id, *page_asked(query))
    return listing(page, InvoiceShape.of_invoice)


@serves(PaymentOperations.plans)
async def list_plans(call: Call) -> PlansShape:
    """List the plans, the cheapest first."""
    plans = sorted(call.services.plans.values(), key=lambda plan: (plan.price_nano, plan.id))
    return PlansShape(data=[PlanShape.of_plan(plan) for plan in plans])


@serves(PaymentOperations.orders)
async def list_all_orders(call: Call, query: AdminOrdersQuery) -> Listing[AdminOrderShape]:
    """List orders of all accounts or of one, newest first."""
    found = call.payments.orders
    page = await found.page(*page_asked(query), account_id=query.account_id, status=query.status)
    return listing(page, lambda order: AdminOrderShape.of_order(order, may_pay=True))


@serves(PaymentOperations.order)
async def get_any_order(call: Call) -> AdminOrderShape:
    """Return an order of any account."""
    return AdminOrderShape.of_order(await call.payments.orders.get(call.id("order_id")), may_pay=True)


@serves(PaymentOperations.refund_order)
async def refund_order(call: Call, body: NewOrderRefund) -> OrderRefundShape:
    """Give money of an order back to the payer, at most what is left of its credit, once for an idempotency key."""
    nano = _amount(body.amount_usd)
    cents, rest = (None, 0) if nano is None else divmod(nano, NANO_PER_CENT)
    if rest:
        raise BadRequest("amount_usd must be whole cents.", "amount_usd")
    given = (call.id("order_id"), cents, body.idempotency_key)
    refund = await call.payments.admin.refund(*given, actor=call.actor)
    amount_usd = format_cents(refund.amount_cents)
    return OrderRefundShape(refund_id=refund.id, amount_usd=amount_usd, status=refund.status)


@serves(PaymentOperations.charges)
async def list_charges(call: Call, query: ChargesQuery) -> Listing[ChargeShape]:
    """List what customers were charged: every payment that was paid, or those that have failed, newest first."""
    since, until = moment("since", query.since), moment("until", query.until)
    page = await call.payments.charges.page(
        *page_asked(query), account_id=query.account_id, since=since, until=until, status=query.status
    )
    return listing(page, ChargeShape.of_charge)


@serves(PaymentOperations.receipts)
async def list_receipts(call: Call, query: PageQuery) -> Listing[ReceiptShape]:
    """List what the account has paid, newest first, with the provider's receipts and invoices."""
    page = await call.payments.charges.page(*page_asked(query), account_id=call.account_id)
    return listing(page, ReceiptShape.of_charge)


@serves(PaymentOperations.parked)
async def list_parked(call: Call, query: ParkedQuery) -> Listing[ParkedShape]:
    """List money that came in and could not be credited, newest first."""
    page = await call.payments.orders.dead_letters(*page_asked(query), state=query.state)
    return listing(page, ParkedShape.of_parked)


@serves(PaymentOperations.credit_parked)
async def credit_parked(call: Call, body: CreditParked) -> ParkedShape:
    """Give parked money to its account, or to this one where it has none."""
    given = (call.id("parked_id"), body.account_id, body.note or "")
    return ParkedShape.of_parked(await call.payments.admin.credit(*given, actor=call.actor))


@serves(PaymentOperations.dismiss_parked)
async def dismiss_parked(call: Call, body: DismissParked) -> ParkedShape:
    """Decide that parked money is not credited."""
    return ParkedShape.of_parked(await call.payments.admin.dismiss(call.id("parked_id"), body.note, actor=call.actor))


def _key(call: Call, of_body: str | None) -> str:
    """Return the idempotency key of a call, of its body or its header; without one, one that no other call has."""
    given = call.request.headers.get(KEY_HEADER)
    if given is not None and not (0 < len(given) <= MOST_KEY and given.isascii() and given.isprintable()):
        raise BadRequest(f"{KEY_HEADER} must be 1 to {MOST_KEY} printable ASCII characters.", KEY_HEADER)
    if of_body is not None and given is not None and of_body != given:
        raise BadRequest(f"idempotency_key and the header {KEY_HEADER} differ: send one of them.", "idempotency_key")
    return of_body or given or f"call:{call.services.new_id()}"


def _amount(given: object) -> int | None:
    return None if given is UNSET else positive_money("amount_usd", given)


STRIPE: Final = "stripe"


def _oversight(call: Call) -> PaymentOversight:
    found = call.services.payment_oversight
    if found is None:
        raise NotFound("This gateway takes no payments.")
    return found


@serves(PaymentOperations.receive_stripe_event)
async def receive_stripe_event(call: Call) -> ReceivedShape:
    """Take in an event of Stripe's, whose body is signed as it is (`Stripe-Signature`). It is stored before it is
    acknowledged, once by its id, and looked into afterwards; types that we don't act on are acknowledged, too."""
    found = call.services.payment_oversight
    if found is None or found.events.provider != STRIPE:
        raise NotFound("Stripe is not this gateway's payment provider.")
    body = await read_bounded(call.request, call.services.max_body_bytes)
    headers = {name.lower(): value for name, value in call.request.headers.items()}
    await found.events.receive(body, headers)
    return ReceivedShape()


@serves(PaymentOperations.payment_events)
async def list_payment_events(call: Call, query: PaymentEventsQuery) -> Listing[PaymentEventShape]:
    """List events of the payment provider, those that came last first."""
    page = await _oversight(call).events.page(*page_asked(query), state=query.state)
    return listing(page, PaymentEventShape.of_event)


@serves(PaymentOperations.replay_payment_event)
async def replay_payment_event(call: Call) -> PaymentEventShape:
    """Process an event again: the object that it names is fetched anew, and nothing is credited twice."""
    return PaymentEventShape.of_event(await _oversight(call).events.replay(call.id("event_id"), call.actor))


@serves(PaymentOperations.compare_payments)
async def compare_payments(call: Call, body: NewComparison) -> ComparisonShape:
    """Have everything that was made since then compared with the payment provider, soon, by one gateway. What differs
    is brought up to date; GET tells what still differs."""
    since = moment("since", body.since)
    if since is None or since.timestamp() > call.services.clock():
        raise BadRequest("since must be in the past.", "since")
    comparisons = _oversight(call).comparisons
    await comparisons.ask(since, call.actor)
    return ComparisonShape.of_comparison(comparisons.provider, await comparisons.last(), await comparisons.listed())


@serves(PaymentOperations.payment_comparison)
async def payment_differences(call: Call) -> ComparisonShape:
    """Return the last comparison with the payment provider, and what still differs."""
    comparisons = _oversight(call).comparisons
    return ComparisonShape.of_comparison(comparisons.provider, await comparisons.last(), await comparisons.listed())


SETUP: Final = "metergate billing setup"
PORTAL: Final = "metergate billing portal"
CHECKOUT: Final = "metergate billing checkout --plan"
CHANGE_PLAN: Final = "metergate billing change-plan"
NO_SUBSCRIPTION: Final = "There is no subscription."
NO_SUBSCRIPTION_YET: Final = f"There is no subscription: begin one with `{CHECKOUT} PLAN`, or in the console."
NO_PLAN: Final = "There is no plan {!r}: `metergate billing plans` lists them."
NO_PAYMENTS: Final = "Plans aren't sold here: ask whoever runs this gateway for another one."


@serves(PlanOperations.billing_status)
async def get_billing_status(call: Call) -> StatusShape:
    """Return where the account stands: its state, plan, features, what is left of its quotas, its subscription, and
    what to do next."""
    services, account_id = call.services, call.account_id
    balance = await balance_of(services, account_id)
    plan = services.plans.get(balance.plan) or services.plans[services.default_plan]
    windows = await _windows(call)
    organization = await services.organizations.of_account(account_id)
    payments = services.payments
    in_force = None if payments is None else await payments.changes.in_force(account_id)
    subscription = None if in_force is None else SubscriptionShape.in_force(in_force)
    state = _state(balance, windows)
    upgrade = None if state in ("suspended", "closed") else _upgrade(call, plan)
    guidance, command = _guidance(call, state, windows, upgrade, subscribed=subscription is not None)
    return StatusShape(
        account_id=account_id,
        organization=None if organization is None else organization.name,
        state=state,
        status=balance.status,
        balance_usd=balance.balance_usd,
        available_usd=balance.available_usd,
        plan=PlanShown(id=plan.id, name=plan.name, price_usd=format_usd(plan.price_nano)),
        features=[FeatureShape.of_state(each) for each in await services.features.of_account(account_id)],
        windows=windows,
        subscription=subscription,
        upgrade=upgrade,
        guidance=guidance,
        next=command,
        body_logs=services.body_logs(account_id),
    )


async def _windows(call: Call) -> list[WindowShape]:
    """Return what is left of the quotas; none while Redis, which counts them, is away."""
    try:
        return await call.services.windows(call.account_id)
    except StoreError:
        return []


def _state(balance: BalanceShape, windows: list[WindowShape]) -> State:
    if balance.status in ("suspended", "closed", "past_due"):
        return balance.status
    if balance.available_usd.startswith("-") or not balance.available_usd.strip("0."):
        return "billing_required"
    return "quota_exhausted" if any(map(_is_used_up, windows)) else "ready"


def _is_used_up(window: WindowShape) -> bool:
    left = str(window.remaining)
    return left.startswith("-") or not left.strip("0.")


def _upgrade(call: Call, plan: Plan) -> UpgradeShape | None:
    better = call.services.plans.get(plan.upgrade_to or "")
    if better is None:
        return None
    url = call.services.upgrade_url(better)
    return UpgradeShape(plan=better.id, name=better.name, price_usd=format_usd(better.price_nano), url=url)


def _guidance(
    call: Call, state: State, windows: list[WindowShape], upgrade: UpgradeShape | None, *, subscribed: bool
) -> tuple[str | None, str | None]:
    """Return what to do about a state, and the command for it."""
    setup_url, sells = call.services.setup_url, call.services.payments is not None
    at = "" if setup_url is None else f" at {setup_url}"
    house = "whoever runs this gateway" + (f" ({url})" if (url := call.services.operator_url) else "")
    match state:
        case "ready":
            return None, None
        case "billing_required" if sells:
            return f"You're out of credit, so requests are refused: buy some{at}.", SETUP
        case "billing_required":
            return f"You're out of credit, so requests are refused: ask {house} for some.", None
        case "quota_exhausted":
            return _of_exhausted(call, [each for each in windows if _is_used_up(each)], upgrade, subscribed=subscribed)
        case "past_due":
            guidance = "A payment has failed: the plan ends unless it is paid. Update the payment method."
            return guidance, PORTAL if sells else None
        case "suspended":
            return f"The account is suspended: ask {house} to make it active again.", None
        case "closed":
            return f"The account is closed: ask {house} to make it active again.", None


def _of_exhausted(
    call: Call, used_up: list[WindowShape], upgrade: UpgradeShape | None, *, subscribed: bool
) -> tuple[str, str | None]:
    """Return what to do about quotas that are used up, and the command that gets the plan that has more: what a plan
    has not limited it can't raise."""
    resets = [each.resets_at for each in used_up]
    wait = "" if None in resets else f": wait until it resets, at {max(filter(None, resets))}"
    better = None if upgrade is None else call.services.plans[upgrade.plan]
    raised = better is not None and any(each.subject == "plan" and _raises(better, each) for each in used_up)
    if upgrade is None or not raised:
        return f"A quota is used up{wait or ', and never resets'}. Whoever runs this gateway can raise it.", None
    where = "" if upgrade.url is None else f": {upgrade.url}"
    more = f"The plan {upgrade.name} has more, for {upgrade.price_usd} USD a month{where}."
    command = CHANGE_PLAN if subscribed else CHECKOUT
    sells = call.services.payments is not None
    return f"A quota is used up{wait}. {more}", f"{command} {upgrade.plan}" if sells else None


def _raises(plan: Plan, window: WindowShape) -> bool:
    """Return whether a plan has a higher limit than this one of another plan, or none."""

    def limit(quota: Quota) -> int:
        return parse_limit(quota.metric, window.limit)

    names = (window.window, window.metric, window.model)
    alike = [each for each in plan.quotas if (each.window.name, each.metric.name, each.model) == names]
    return all(each.limit > limit(each) for each in alike)


@serves(PlanOperations.subscription)
async def get_subscription(call: Call) -> SubscriptionShape:
    """Return the subscription that gives the account its plan."""
    payments = call.services.payments
    found = None if payments is None else SubscriptionShape.in_force(await payments.changes.in_force(call.account_id))
    if found is None:
        raise NotFound(NO_SUBSCRIPTION if payments is None else NO_SUBSCRIPTION_YET)
    return found


@serves(PlanOperations.plan_prices)
async def get_plan_prices(call: Call) -> PlanPricesShape:
    """Return the price list of a plan: each of its models with the prices that its customers pay."""
    plan_id = call.id("plan_id")
    plan = call.services.plans.get(plan_id)
    if plan is None:
        raise NotFound(NO_PLAN.format(plan_id))
    models = [each for each in call.services.models(plan) if names_model(plan.models, each.id)]
    return PlanPricesShape(plan=plan.id, name=plan.name, data=models)


@serves(PlanOperations.preview_plan)
async def preview_plan(call: Call) -> PlanPreviewShape:
    """Return what choosing a plan would do: what is charged today and by which means, and at each renewal."""
    services, payments = call.services, call.services.payments
    if payments is None:
        raise NotFound(NO_PAYMENTS)
    plan_id = call.id("plan_id")
    plan = services.plans.get(plan_id)
    if plan is None:
        raise NotFound(NO_PLAN.format(plan_id))
    return await preview_of(services, payments, call.account_id, plan)


async def preview_of(services: Services, payments: Payments, account_id: str, plan: Plan) -> PlanPreviewShape:
    """Return what choosing a plan would do to this account."""
    current = await payments.changes.current(account_id)
    mine, now = (await services.accounts.get(account_id)).plan, datetime.fromtimestamp(services.clock(), UTC)
    method = await payments.customers.method(account_id)
    return PlanPreviewShape.of_outlook(outlook(plan, current, mine, dict(services.plans), now), method)


@serves(PlanOperations.change_subscription)
async def change_subscription(call: Call, body: PlanChange) -> SubscriptionShape:
    """Change the subscription to another plan: to a dearer one at once, to a cheaper one with the next period, to a
    free one by ending it with its period. Its own plan takes back what waits."""
    payments = call.services.payments
    if payments is None:
        raise NotFound(NO_PAYMENTS)
    await payments.changes.change(call.account_id, body.plan, call.actor)
    return await get_subscription(call)


@serves(PlanOperations.plans_in_force)
async def list_plans_in_force(call: Call) -> PlansShape:
    """List the plans in force, the cheapest first."""
    return await list_plans(call)


@serves(PlanOperations.features)
async def list_features(call: Call) -> FeaturesShape:
    """Return the features that an account's plan names, and what is left of each."""
    found = await call.services.features.of_account(call.id("account_id"))
    return FeaturesShape(data=[FeatureShape.of_state(each) for each in found])


@serves(PlanOperations.use_feature)
async def use_feature(call: Call, body: NewFeatureUse) -> FeatureShape:
    """Count units of a feature, if the account's plan allows it and as many are left in this period; once for an
    event_id."""
    done = await call.services.features.use(body.account_id, body.feature, body.units, body.event_id)
    shape = FeatureShape.of_state(done.state)
    if done.replayed:
        call.headers[REPLAYED_HEADER] = "true"
    if done.state.allowed:
        return shape
    account = await call.services.accounts.get(body.account_id)
    plan = call.services.plans.get(account.plan) or call.services.plans[call.services.default_plan]
    upgrade = _upgrade(call, plan)
    quota = {
        "subject": "plan",
        "window": "period",
        "metric": "units",
        "feature": body.feature,
        "limit": shape.limit,
        "used": shape.used,
        "requested": body.units,
        "remaining": shape.remaining,
        "resets_at": shape.resets_at,
    }
    has = f"has {shape.remaining} of {shape.limit} units of {body.feature} left" if shape.limit else "does not have it"
    raise QuotaExceeded(f"The plan {plan.name} {has}{_more(upgrade)}.", quota=quota, upgrade=upgrade)


def _more(upgrade: UpgradeShape | None) -> str:
    """Return which plan to get in place of one that does not do; nothing where there is none."""
    if upgrade is None:
        return ""
    where = "" if upgrade.url is None else f" at {upgrade.url}"
    return f": upgrade to {upgrade.name}{where}"
