"""Events of payment providers: stored as they came, acknowledged, and only then looked into.

An event is a hint: it names an object, and `Applier.refresh` brings everything to what that object is by then. So
order and repetition of events don't matter, and it does no harm when two gateways look into one: what has moved is
written once, by the money's own id. An event is done once its object was looked at after it came.

What a provider says is applied: an object is fetched anew, and its present state is applied once, in one transaction;
and it is asked for customers, and calls that are made again under other idempotency keys.

`Applier.refresh` is the only way by which an event, a reconciliation or a call of ours changes anything. Each fetch is
numbered before it begins, and its answer is dropped where a later one was applied: so an old state never follows a
newer one, and no lock is held while the provider is asked. Whoever comes second waits for the row of the object.

A provider answers a key for a day as it first did, a failure of its own included (`PaymentError.key_is_spent`), and
has forgotten it afterwards (https://docs.stripe.com/api/idempotent_requests). So the next call takes a key of the next
generation, which is stored first, so that all who ask at a time take the same one; and whoever moves money checks
first whether an earlier call has moved it, however long ago that was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import msgspec

from billing import audit
from billing.database.connection import Connection, Database, DatabaseError, affected, queries
from billing.errors import MetergateError
from billing.pages import BEFORE_ALL, Page, page_of
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
from billing.pending import Standing
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.database.connection import Row
    from billing.payments.port import Event, PaymentProvider, ProviderObject
    from billing.pending import Pending

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


# How often a gateway looks for events that another one has taken in, or that failed before.
EVERY_S: Final = 1.0
TIDY_EVERY_S: Final = 600.0
FORGET_ROWS: Final = 1_000
MOST_ERROR: Final = 300

EventState = Literal["waiting", "done", "ignored", "parked"]
# Applies an object's present state: `apply.Applier.refresh`.
Refresh = Callable[[ObjectRef], Awaitable[None]]


class PaymentEventNotFound(MetergateError):
    """No event that is kept has this id."""

    kind = "not_found"


@dataclass(frozen=True, slots=True)
class EventRules:
    """An event that can't be looked into is tried again after `first_pause_s`, then twice as long each time up to
    `most_pause_s`, and given up after `attempts`: by then for most of a day. Events are kept for `kept_days`. A gateway
    looks into `at_once` of them at a time."""

    attempts: int = 24
    first_pause_s: float = 60.0
    most_pause_s: float = 3600.0
    kept_days: int = 90
    at_once: int = 4

    def __post_init__(self) -> None:
        if min(self.attempts, self.first_pause_s, self.most_pause_s, self.kept_days, self.at_once) <= 0:
            raise ValueError("attempts, pauses, days and how many at once must be above zero")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept, but for its body."""

    number: str
    provider: str
    id: str
    type: str
    ref_kind: str | None
    ref_id: str | None
    livemode: bool
    state: EventState
    attempts: int
    error: str | None
    created_at: datetime
    received_at: datetime
    next_attempt_at: datetime
    ended_at: datetime | None


class PaymentEvents:
    """Takes in events and looks into them. `new_id` makes ULIDs. `standing` is as of this process's last round.
    Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        provider: PaymentProvider,
        refresh: Refresh,
        new_id: Callable[[], str],
        rules: EventRules | None = None,
        gateway_id: str | None = None,
    ) -> None:
        """`gateway_id` names this process in `gateways`: what it was looking into when its lease ended, others look
        into at once."""
        self._gateway_id = gateway_id
        self._database, self._provider, self._refresh, self._new_id = database, provider, refresh, new_id
        self._rules = rules or EventRules()
        self._came = asyncio.Event()
        self.standing = Standing(database, _query("events_standing"))

    @property
    def provider(self) -> str:
        """Return the name of the provider whose events these are."""
        return self._provider.name

    async def receive(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Store an event that was delivered; once this returns it may be acknowledged. Return whether it is new. Raises
        `PaymentEventRefused` for what the provider has not sent."""
        return await self.accept(await self._provider.read_event(body, headers), body)

    async def accept(self, event: Event, body: bytes = b"") -> bool:
        """Store a verified event, such as the local provider's, which has no other body; return whether it is new."""
        async with self._database.transaction() as connection:
            return await self.store(connection, event, body or msgspec.json.encode(event))

    async def store(self, connection: Connection, event: Event, body: bytes) -> bool:
        """Store a verified event in the caller's transaction, once by its id; return whether it is new."""
        ignored = None
        if event.livemode != self._provider.livemode:
            ignored = f"of {'live' if event.livemode else 'test'} mode, which our key is not of"
        elif event.ref is None:
            ignored = "of no object that a payment depends on"
        ref = event.ref
        about = (None, None) if ref is None else (ref.kind, ref.id)
        state = "waiting" if ignored is None else "ignored"
        given = (self.provider, event.id, event.type, *about, event.livemode, body, state, ignored, event.created_at)
        new = await connection.fetchval(_query("events_store"), *given, self._new_id()) is not None
        self._came.set()
        return new

    def work(self, pending: Pending) -> tuple[Periodic, ...]:
        """Return what looks into what waits, and what tidies up."""
        return (
            Periodic(
                name="payment_events",
                every_s=EVERY_S,
                round=self._turn,
                woken=self._came,
                due=lambda: self.standing.due(pending.work.payment_events),
            ),
            Periodic(name="payment_events_tidy", every_s=TIDY_EVERY_S, round=self.tidy),
        )

    async def _turn(self) -> None:
        await self.round()
        await self.standing.refresh()

    async def tidy(self) -> None:
        """Drop old events, and idempotency keys that nobody has asked for in a long time."""
        await self._database.value(_query("events_forget"), self._rules.kept_days, FORGET_ROWS)
        await self._database.execute(_query("keys_forget"), KEYS_KEPT, FORGET_ROWS)

    async def round(self) -> int:
        """Look into all that is due, a few at a time; return how many events were taken."""
        await self._database.execute(_query("events_release"))
        first = await self._claim()
        if first is None:  # as nearly always: one question is enough, on one connection
            return 0
        others = (self._drain(None) for _ in range(self._rules.at_once - 1))
        return sum(await asyncio.gather(self._drain(first), *others))

    async def _drain(self, row: Row | None) -> int:
        """Look into this event if there is one, and into what is due; return how many there were."""
        taken = 0
        while row is not None or (row := await self._claim()) is not None:
            taken += 1
            await self._process(row)
            row = None
        return taken

    async def _claim(self) -> Row | None:
        rules = self._rules
        arguments = (self.provider, rules.first_pause_s, rules.most_pause_s, self._gateway_id)
        return await self._database.row(_query("events_claim"), *arguments)

    async def _process(self, row: Row) -> None:
        ref = ObjectRef(row["ref_kind"], row["ref_id"])
        try:
            await self._refresh(ref)
        except DatabaseError:
            raise
        except MetergateError as error:
            await self._failed(row, str(error))
            return
        except Exception as error:  # one event that nobody can read must not keep all others back
            logger.exception("event %s of %s can't be applied", row["id"], self.provider)
            await self._failed(row, f"{type(error).__name__}: see the gateway's log")
            return
        await self._database.execute(_query("events_done"), self.provider, ref.kind, ref.id, row["taken_at"])

    async def _failed(self, row: Row, reason: str) -> None:
        for_good = row["attempts"] >= self._rules.attempts
        logger.log(
            logging.ERROR if for_good else logging.WARNING,
            "event %s of %s was not applied at try %d%s: %s",
            row["id"],
            self.provider,
            row["attempts"],
            ", and is parked" if for_good else "",
            reason,
        )
        await self._database.execute(_query("events_failed"), self.provider, row["id"], reason[:MOST_ERROR], for_good)

    async def page(self, limit: int, after: str | None = None, *, state: EventState | None = None) -> Page[StoredEvent]:
        """Return events, those that came last first; `after` is the number that ended the page before."""
        rows = await self._database.rows(_query("events_page"), after or BEFORE_ALL, state, limit + 1)
        return page_of([StoredEvent(**dict(row)) for row in rows], limit, lambda event: event.number)

    async def replay(self, event_id: str, actor: audit.Actor = audit.ADMIN) -> StoredEvent:
        """Process an event again. Raises `PaymentEventNotFound`."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("events_replay"), event_id)
            if row is None:
                raise PaymentEventNotFound(
                    f"There is no event {event_id!r}: they are kept for {self._rules.kept_days} days."
                )
            await audit.record(connection, actor, "payment_event.replay", event_id, None, None)
        self._came.set()
        return StoredEvent(**dict(row))
