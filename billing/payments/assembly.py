"""Payments put together: one provider, and all parts that use its objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from billing.accounts.accounts import Accounts
from billing.accounts.grants import PAID, Grants, Terms
from billing.change_notifier import ChangeNotifier
from billing.database.connection import Database, queries
from billing.money import NANO_PER_CENT
from billing.payments.auto_recharge import AutoRecharge, Recharges
from billing.payments.events import Applier, Customers, Handler, PaymentEvents, checkout_handler, customer_handler
from billing.payments.flows import FlowRules, Flows, price_id_of
from billing.payments.local.provider import LocalProvider, LocalStore
from billing.payments.local.web import Acts
from billing.payments.orders import Charges, Orders, PaymentAdmin, Purchases
from billing.payments.port import Checkout, Customer, Invoice, ObjectKind, Payment, PaymentProvider, Subscription
from billing.payments.reconcile import PaymentComparisons
from billing.payments.revenue import Revenue
from billing.payments.subscriptions import (
    Recovery,
    SubscriptionChanges,
    Subscriptions,
    invoice_handler,
    subscription_handler,
)
from billing.plans import Plans
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.payments.stripe.objects import CheckoutRules

_query = queries("billing.payments")


@dataclass(frozen=True, slots=True)
class PaymentRules:
    """What the settings say of payments: bounds of orders and origins, the plan without a subscription, and how long an
    unpaid one stays in force. `base_url` is where the local provider's pages are found."""

    flows: FlowRules
    default_plan: str
    grace: timedelta
    base_url: str
    declines: int = 3
    """After so many auto-recharge stops."""
    credit_days: int | None = None
    """How long purchased credit lasts; None: for ever."""

    def terms(self, now: datetime) -> Terms:
        """Return the terms of credit that is bought now."""
        return PAID if self.credit_days is None else Terms(expires_at=now + timedelta(days=self.credit_days))


@dataclass(frozen=True, slots=True)
class PaymentParts:
    """What payments are made of elsewhere. `deployment` is this installation's own id (`deployment_of`), `gateway_id`
    this process's, where it is a gateway."""

    database: Database
    accounts: Accounts
    grants: Grants
    effects: ChangeNotifier
    plans: Plans
    new_id: Callable[[], str]
    deployment: str
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    gateway_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payments:
    """Everything about payments. `acts` serves the local provider's pages, None for another one; `work` goes on beside
    requests."""

    provider: PaymentProvider
    orders: Orders
    admin: PaymentAdmin
    customers: Customers
    flows: Flows
    applier: Applier
    events: PaymentEvents
    comparisons: PaymentComparisons
    subscriptions: Subscriptions
    changes: SubscriptionChanges
    recharges: Recharges
    auto_recharge: AutoRecharge
    charges: Charges
    revenue: Revenue
    acts: Acts | None
    work: tuple[Periodic, ...]


async def deployment_of(database: Database) -> str:
    """Return what tells this installation's objects at a provider from others'. Raises `DatabaseError`."""
    return str(await database.value(_query("deployment")))


def local_provider(parts: PaymentParts, base_url: str) -> LocalProvider:
    """Return the local provider, which sells the plans in force."""

    def catalogue() -> dict[str, int]:
        return {price_id_of(plan, plan.id): plan.price_nano // NANO_PER_CENT for plan in parts.plans.values()}

    store = LocalStore(parts.database, parts.now, parts.new_id)
    return LocalProvider(store, base_url, parts.deployment, catalogue)


def stripe_provider(
    parts: PaymentParts,
    api_key: str,
    api_base: str | None,
    webhook_secrets: Sequence[str],
    rules: CheckoutRules | None = None,
) -> PaymentProvider:
    """Return Stripe, whose library is imported now: it takes 0.2 s. Raises `ValueError` for a key that can't be one."""
    from billing.payments.stripe.provider import (  # noqa: PLC0415
        API_BASE,
        StripeAccess,
        StripePayments,
    )

    access = StripeAccess(api_key, api_base or API_BASE)
    return StripePayments(access, webhook_secrets, parts.deployment, parts.now, rules)


def make_payments(parts: PaymentParts, rules: PaymentRules, provider: PaymentProvider) -> Payments:
    """Put payments together on one provider."""
    name, database, new_id, now = provider.name, parts.database, parts.new_id, parts.now
    subscriptions = Subscriptions(parts.plans, parts.grants, rules.default_plan, rules.grace, now)
    purchases = Purchases(name, parts.grants, new_id, lambda: rules.terms(now()))
    handlers: dict[ObjectKind, tuple[type, Handler]] = {
        "payment": (Payment, purchases.apply),
        "checkout": (Checkout, checkout_handler(name)),
        "customer": (Customer, customer_handler(name)),
        "subscription": (Subscription, subscription_handler(name, subscriptions)),
        "invoice": (Invoice, invoice_handler(name, subscriptions)),
    }
    applier = Applier(database, provider, parts.effects, parts.deployment, handlers)
    refresh, orders, customers = applier.refresh, Orders(database, name, new_id), Customers(database, provider)
    changes = SubscriptionChanges(database, provider, subscriptions, refresh)
    events = PaymentEvents(database, provider, refresh, new_id, gateway_id=parts.gateway_id)
    comparisons = PaymentComparisons(database, provider, refresh, parts.deployment, now)
    flows = Flows(
        database=database,
        provider=provider,
        orders=orders,
        customers=customers,
        accounts=parts.accounts,
        plans=parts.plans,
        rules=rules.flows,
        refresh=refresh,
        changes=changes,
        new_id=new_id,
    )
    auto_recharge = AutoRecharge(database, orders, flows, rules.declines, now)
    recovery = Recovery(database, subscriptions, parts.effects, new_id())
    work = [*events.work(), comparisons.work(), recovery.work(), auto_recharge.work(new_id()), orders.work()]
    work.append(flows.work(new_id()))
    acts = None
    if isinstance(provider, LocalProvider):  # whose events go the way of every provider's
        acts, provider.receiver = Acts(provider), events.accept
        work.append(provider.work())
    return Payments(
        provider=provider,
        orders=orders,
        admin=PaymentAdmin(database, provider, orders, parts.grants, parts.effects, refresh),
        customers=customers,
        flows=flows,
        applier=applier,
        events=events,
        comparisons=comparisons,
        subscriptions=subscriptions,
        changes=changes,
        recharges=Recharges(database, customers, rules.flows, now),
        auto_recharge=auto_recharge,
        charges=Charges(database),
        revenue=Revenue(database),
        acts=acts,
        work=tuple(work),
    )
