"""Applying what a provider says: an object is fetched anew, and its present state is applied once, in one transaction.

`Applier.refresh` is the only way by which an event, a reconciliation or a call of ours changes anything. Each fetch is
numbered before it begins, and its answer is dropped where a later one was applied: so an old state never follows a
newer one, and no lock is held while the provider is asked. Whoever comes second waits for the row of the object.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from billing.database.connection import Connection, Database, queries
from billing.payments.port import Checkout, Customer, Dispute, ObjectKind, ObjectRef, PaymentRefused, Refund

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.payments.port import PaymentProvider, ProviderObject

logger = logging.getLogger(__name__)

_query = queries("billing.payments")


@dataclass(slots=True)
class After:
    """Work after the commit: accounts whose balance, and accounts whose status or plan, has changed, which gateways are
    notified of."""

    balances: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    refs: list[ObjectRef] = field(default_factory=list)
    """Objects to look at next."""
    ended: dict[ObjectRef, str] = field(default_factory=dict)
    """Subscriptions to end at the provider, now, and what the idempotency key of that begins with."""


# Applies an object's state in the caller's transaction: the connection, the state applied before (None: none), the
# state now, and what to tell afterwards. It returns whose the object is.
Handler = Callable[[Connection, Any, Any, After], Awaitable["Owner"]]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an object is, as far as it is known."""

    account_id: str | None = None
    order_id: str | None = None


NOBODY: Final = Owner()


class Applier:
    """Brings orders, balances and accounts to what the provider's objects are now."""

    def __init__(
        self,
        database: Database,
        provider: PaymentProvider,
        effects: ChangeNotifier,
        deployment: str,
        handlers: Mapping[ObjectKind, tuple[type, Handler]],
    ) -> None:
        """`deployment` is this installation's own id; `handlers` say for each kind of objects which class it is and
        what applies it, in the transaction that notes its state."""
        self._database, self._provider, self._effects = database, provider, effects
        self._deployment, self._handlers = deployment, dict(handlers)

    def handle(self, kind: ObjectKind, of: type, handler: Handler) -> None:
        """Have a kind of objects applied by this handler from now on."""
        self._handlers[kind] = of, handler

    async def refresh(self, ref: ObjectRef) -> None:
        """Fetch an object and apply its present state; a refund or a dispute is a part of its payment's.

        Raises `port.PaymentError` and `DatabaseError`: then it has to be tried again, and nothing has changed.
        """
        waiting, seen = [ref], set[ObjectRef]()
        while waiting:
            each = waiting.pop(0)
            if each not in seen:
                seen.add(each)
                waiting += await self._refresh(each)

    async def _refresh(self, ref: ObjectRef) -> list[ObjectRef]:
        if ref.kind in ("refund", "dispute"):
            part = await self._provider.fetch(ref)
            return [ObjectRef("payment", part.payment_id)] if isinstance(part, Refund | Dispute) else []
        if ref.kind not in self._handlers:
            return []
        named = (self._provider.name, ref.kind, ref.id)
        asked = await self._database.value(_query("objects_ask"), *named)
        found = await self._provider.fetch(ref)
        after = After()
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("objects_lock"), *named)
            if row is not None and row["applied"] < asked:
                await self._apply(connection, ref, row["state"], found, asked, after)
        for account_id in after.accounts:
            await self._effects.account_changed(account_id)
        for account_id in after.balances:
            await self._effects.balance_changed(account_id)
        for subscription, key in after.ended.items():
            await self._end(subscription, f"{key}:{asked}")  # ending twice is no harm: no kept failure is in the way
        return [*after.refs, *after.ended]

    async def _end(self, subscription: ObjectRef, key: str) -> None:
        """End a subscription at the provider; one that has ended there meanwhile is refused, and only looked at."""
        try:
            await self._provider.cancel(subscription.id, "now", key)
        except PaymentRefused as error:
            if error.kind == "unavailable":  # the operator has to mend our access first, and then it is ended
                raise
            logger.info("the subscription %s was not ended: %s", subscription.id, error)

    async def _apply(
        self, connection: Connection, ref: ObjectRef, state: Any, found: ProviderObject | None, asked: int, after: After
    ) -> None:
        kind, handler = self._handlers[ref.kind]
        before = None if state is None else msgspec.convert(state, kind, strict=False)
        owner, kept = NOBODY, None
        if found is None:
            owner = await self._gone(connection, ref)
        elif isinstance(found, kind) and await self._is_ours(connection, found):
            owner, kept = await handler(connection, before, found, after), msgspec.to_builtins(found)
        created_at = None if kept is None else cast("Any", found).created_at
        named = (self._provider.name, ref.kind, ref.id)
        await connection.execute(
            _query("objects_applied"), *named, asked, kept, owner.account_id, owner.order_id, created_at
        )

    async def _is_ours(self, connection: Connection, found: Any) -> bool:
        """Return whether an object belongs to this installation: by what was noted at its making, or where the provider
        does not pass that on (renewals), by its customer. Those of another mode never do."""
        if found.livemode != self._provider.livemode:
            return False
        if found.deployment is not None:
            return bool(found.deployment == self._deployment)
        customer_id = found.id if isinstance(found, Customer) else found.customer_id
        return customer_id is not None and await account_of(connection, self._provider.name, customer_id) is not None

    async def _gone(self, connection: Connection, ref: ObjectRef) -> Owner:
        """Note that the provider has lost an object: of a customer another one is made at its next purchase."""
        if ref.kind != "customer":
            return NOBODY
        account_id = await account_of(connection, self._provider.name, ref.id)
        await connection.execute(_query("customers_gone"), self._provider.name, ref.id)
        return Owner(account_id)


async def account_of(connection: Connection, provider: str, customer_id: str) -> str | None:
    """Return the account that a provider's customer is; None: none of ours."""
    return cast("str | None", await connection.fetchval(_query("customers_account"), provider, customer_id))


def checkout_handler(provider: str) -> Handler:
    """Return what applies a hosted page: an order learns its payment or subscription, or that nobody came in time."""

    async def apply(connection: Connection, before: Checkout | None, now: Checkout, after: After) -> Owner:
        if now.order_id is None:
            return NOBODY
        values = (now.order_id, provider, now.subscription_id, now.status == "expired")
        await connection.execute(_query("orders_of_checkout"), *values)
        if now.payment_id is not None:
            after.refs.append(ObjectRef("payment", now.payment_id))
        if now.subscription_id is not None:
            after.refs.append(ObjectRef("subscription", now.subscription_id))
        return Owner(None if now.customer_id is None else await account_of(connection, provider, now.customer_id))

    return apply


def customer_handler(provider: str) -> Handler:
    """Return what applies a customer: which payment method is saved."""

    async def apply(connection: Connection, before: Customer | None, now: Customer, after: After) -> Owner:
        await connection.execute(_query("customers_method"), provider, now.id, now.method)
        return Owner(await account_of(connection, provider, now.id))

    return apply
