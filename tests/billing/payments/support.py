"""What the tests of payments share: payments put together on a provider; and a provider that only shows objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from billing.payments.assembly import PaymentParts, PaymentRules, local_provider, make_payments
from billing.payments.assembly import Payments as MadePayments
from billing.payments.events import Applier, checkout_handler, customer_handler
from billing.payments.flows import FlowRules
from billing.payments.orders import NewOrder, Order, Orders, Purchases
from billing.payments.port import Checkout, Customer, ObjectRef, Payment, ProviderObject
from billing.plans import Plans
from tests.billing.support import Billing

NOW = datetime(2027, 1, 1, tzinfo=UTC)
DEPLOYMENT = "here"


def parts_of(billing: Billing, plans: Plans, **changed: Any) -> PaymentParts:
    """What payments are made of elsewhere, on these stores."""
    fields: dict[str, Any] = {
        "database": billing.database,
        "accounts": billing.accounts,
        "grants": billing.grants,
        "effects": billing.change_notifier,
        "plans": plans,
        "new_id": billing.new_id,
        "deployment": DEPLOYMENT,
    }
    return PaymentParts(**fields | changed)


def rules_of(home: str, most_cents: int = 1_000_000, **changed: Any) -> PaymentRules:
    """Bounds of orders, the plan without a subscription, and ten days of grace; payers come from `home` and go
    there."""
    flows = FlowRules(500, most_cents, 2_000, frozenset({home}), home)
    return PaymentRules(flows, "free", timedelta(days=10), home, **changed)


def local_payments(billing: Billing, plans: Plans, home: str, *, database: Any = None, **changed: Any) -> MadePayments:
    """Payments on the local provider, as a process of their own; `changed` are other rules, or `now`."""
    now = {"now": changed.pop("now")} if "now" in changed else {}
    parts = parts_of(billing, plans, database=database or billing.database, **now)
    return make_payments(parts, rules_of(home, **changed), local_provider(parts, home))


@dataclass
class Shelf:
    """A provider that only shows what a test has put on it; `waits` runs between the question and the answer."""

    name: str = "stripe"
    livemode: bool = False
    objects: dict[ObjectRef, ProviderObject] = field(default_factory=dict)
    waits: Callable[[], Awaitable[None]] | None = None

    def put(self, *objects: ProviderObject) -> None:
        for each in objects:
            self.objects[ObjectRef(each.kind, each.id)] = each

    async def fetch(self, ref: ObjectRef) -> ProviderObject | None:
        found = self.objects.get(ref)
        if self.waits is not None:
            await self.waits()
        return found


@dataclass
class Payments:
    """Orders, and what applies the shelf's objects to them."""

    billing: Billing
    shelf: Shelf
    orders: Orders
    applier: Applier

    async def order(self, account_id: str, cents: int = 2000, key: str = "first") -> Order:
        return await self.orders.create(NewOrder(account_id, "credit", cents, key))

    async def see(self, found: ProviderObject) -> None:
        """Put an object on the shelf and have it applied."""
        self.shelf.put(found)
        await self.applier.refresh(ObjectRef(found.kind, found.id))

    async def notices(self) -> list[tuple[str, str]]:
        """Accounts and types of the notices so far, as they were written."""
        rows = await self.billing.database.rows("SELECT account_id, type FROM notices ORDER BY ctid")
        return [(row["account_id"], row["type"]) for row in rows]

    async def balance(self, account_id: str) -> int:
        return (await self.billing.accounts.get(account_id)).balance_nano

    async def transfers(self, account_id: str) -> dict[str, int]:
        """Signed amounts by their idempotency keys."""
        rows = await self.billing.database.rows(
            "SELECT idempotency_key, CASE WHEN credit_account = $1 THEN amount_nano ELSE -amount_nano END AS nano"
            " FROM transfers WHERE idempotency_scope = 'payments' AND $1 IN (credit_account, debit_account)",
            account_id,
        )
        return {row["idempotency_key"]: row["nano"] for row in rows}


def payments_of(billing: Billing, shelf: Any, deployment: str = DEPLOYMENT) -> Payments:
    """The domain of payments on a provider."""
    purchases = Purchases(shelf.name, billing.grants, billing.new_id)
    handlers = {
        "payment": (Payment, purchases.apply),
        "checkout": (Checkout, checkout_handler(shelf.name)),
        "customer": (Customer, customer_handler(shelf.name)),
    }
    applier = Applier(billing.database, shelf, billing.change_notifier, deployment, handlers)  # type: ignore[arg-type]
    return Payments(billing, shelf, Orders(billing.database, shelf.name, billing.new_id), applier)


def payment_of(order: Order, status: str = "paid", **changed: Any) -> Payment:
    """A payment of an order, without taxes."""
    fields: dict[str, Any] = {
        "id": "pi_1",
        "status": status,
        "amount_cents": order.amount_cents,
        "total_cents": order.amount_cents,
        "currency": "usd",
        "customer_id": None,
        "order_id": order.id,
        "deployment": DEPLOYMENT,
        "livemode": False,
        "created_at": NOW,
    }
    return Payment(**fields | changed)
