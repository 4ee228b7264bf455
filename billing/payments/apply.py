"""Applying what a provider says: an object is fetched anew, and its present state is applied once, in one transaction;
and what we ask it for: customers, and calls that are made again under other idempotency keys.

`Applier.refresh` is the only way by which an event, a reconciliation or a call of ours changes anything. Each fetch is
numbered before it begins, and its answer is dropped where a later one was applied: so an old state never follows a
newer one, and no lock is held while the provider is asked. Whoever comes second waits for the row of the object.

A provider answers a key for a day as it first did, a failure of its own included (`PaymentError.key_is_spent`), and
has forgotten it afterwards (https://docs.stripe.com/api/idempotent_requests). So the next call takes a key of the next
generation, which is stored first, so that all who ask at a time take the same one; and whoever moves money checks
first whether an earlier call has moved it, however long ago that was.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from billing.database.connection import Connection, Database, affected, queries
from billing.payments.port import (
    Checkout,
    Customer,
    Dispute,
    NewCustomer,
    ObjectKind,
    ObjectRef,
    PaymentError,
    PaymentProviderUnavailable,
    PaymentRefused,
    Refund,
)

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.payments.port import PaymentProvider, ProviderObject

logger = logging.getLogger(__name__)
_query = queries("billing.payments")

T = TypeVar("T")
# Idempotency keys that one call makes a customer, or opens a page, under.
TRIES: Final = 3
# Since the last call under any generation of a key: by then the provider has long forgotten each of them, and the first
# one is as good as new. What calls that move money have moved before is looked for otherwise.
KEYS_KEPT: Final = timedelta(days=30)
# Characters of an idempotency key that Stripe takes (https://docs.stripe.com/api/idempotent_requests).
MOST_KEY: Final = 255


async def call_once(database: Database, key: str, call: Callable[[str], Awaitable[T]], *, tries: int = 1) -> T:
    """Make a call of a payment provider under the present generation of a key. Where the provider has kept a failure
    for it, the next generation begins: at once, up to `tries` in all, or when the caller is asked again. One try is for
    calls that move money, so that there is time to see what the failed one has done. Raises what the call does, and
    `DatabaseError`."""
    while True:
        generation = await database.value(_query("keys_generation"), key) or 1
        try:
            return await call(_fitting(key if generation == 1 else f"{generation}:{key}"))
        except PaymentError as error:
            if not error.key_is_spent:
                raise
            logger.warning("the payment provider is asked again under another key than %s: %s", key, error)
            await database.execute(_query("keys_spent"), key, generation)
            tries -= 1
            if tries < 1:
                raise


def _fitting(key: str) -> str:
    """Return a key in a provider's bounds: a client's own text is a part of some."""
    return key if len(key) <= MOST_KEY else hashlib.sha256(key.encode()).hexdigest()


@dataclass
class Customers:
    """Whom a provider knows as our accounts: one customer for each, however many ask at once.

    The idempotency key is the account and a generation, stored before the provider is asked, so that whoever asks at
    the same time gets the same customer. One that the provider has lost is made anew, in the next generation, and so is
    one whose making the provider would fail again under the same key. Methods raise `DatabaseError` and
    `port.PaymentError`."""

    database: Database
    provider: PaymentProvider

    async def ensure(self, account_id: str, name: str) -> str:
        """Return the account's customer; one is created where there is none."""
        named = (account_id, self.provider.name)
        await self.database.execute(_query("customers_ask"), *named)
        for _ in range(TRIES):
            row = await self.database.row(_query("customers_get"), *named)
            if row is None:
                raise LookupError("the row was written just now, and none are deleted")
            if row["customer_id"] is not None:
                return str(row["customer_id"])
            generation, asked = row["generation"], NewCustomer(account_id, name)
            try:
                made = await self.provider.ensure_customer(asked, f"customer:{account_id}:{generation}")
            except PaymentError as error:
                if not error.key_is_spent:
                    raise
                logger.warning("the customer of %s is asked for under another key: %s", account_id, error)
                await self.database.execute(_query("customers_again"), *named, generation)
                continue
            # Else another call has stored a customer, or has begun the next generation: the row says which.
            if affected(await self.database.execute(_query("customers_made"), *named, generation, made)):
                return made
        raise PaymentProviderUnavailable("The payment provider makes no customer now: try again in a moment.")

    async def find(self, account_id: str) -> str | None:
        """Return the account's customer; None: it has none yet."""
        row = await self.database.row(_query("customers_get"), account_id, self.provider.name)
        return None if row is None else row["customer_id"]

    async def method(self, account_id: str) -> str | None:
        """Return the payment method that is saved, such as `visa 4242`; None: none is."""
        row = await self.database.row(_query("customers_get"), account_id, self.provider.name)
        return None if row is None else row["method"]

    async def gone(self, customer_id: str) -> None:
        """Note that the provider does not know a customer any more: the next `ensure` makes another one."""
        await self.database.execute(_query("customers_gone"), self.provider.name, customer_id)


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
