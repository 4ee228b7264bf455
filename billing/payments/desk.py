"""What operators do with orders: give money back, and decide about money that could not be credited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing import audit
from billing.accounts.grants import PURCHASES, Entry
from billing.database.connection import Database, queries
from billing.money import NANO_PER_CENT, format_cents
from billing.payments.keys import call_once
from billing.payments.objects import CURRENCY, ObjectRef, Refund
from billing.payments.orders import (
    SCOPE,
    Order,
    OrderConflict,
    OrderNotFound,
    OrderRefused,
    Parked,
    credited,
    left_of,
    parked_of,
)
from billing.payments.port import PaymentRefused, money_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.accounts.grants import Grants
    from billing.change_notifier import ChangeNotifier
    from billing.database.connection import Connection
    from billing.payments.orders import Orders
    from billing.payments.port import PaymentProvider

_query = queries("billing.payments")
# Idempotency keys that one refusal names.
MOST_NAMED: Final = 5


class PaymentDesk:
    """What an operator does. Methods raise `OrderError`, `GrantError`, `port.PaymentError` and `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        provider: PaymentProvider,
        orders: Orders,
        grants: Grants,
        effects: ChangeNotifier,
        refresh: Callable[[ObjectRef], Awaitable[object]],
    ) -> None:
        self._database, self._provider, self._orders = database, provider, orders
        self._grants, self._effects, self._refresh = grants, effects, refresh

    async def refund(
        self, order_id: str, amount_cents: int | None, key: str, *, actor: audit.Actor = audit.ADMIN
    ) -> Refund:
        """Give back a part of a credited order, at most what is left of it; None: all that is left. Once per key."""
        order = await self._orders.get(order_id)
        if order.payment_id is None or order.credited_at is None:
            raise OrderConflict("The order was not credited: there is nothing to give back.")
        async with self._database.transaction() as connection:
            cents, made_before = await self._asked(connection, order, amount_cents, key, actor)
        if made_before is not None:  # the provider forgets its own keys: asked again, it would refund again
            found = await self._provider.fetch(ObjectRef("refund", made_before))
            if isinstance(found, Refund):
                return found
            raise OrderConflict("This refund was made before, and the provider does not know it any more.")
        refund = await self._made(order.id, order.payment_id, cents, key)
        await self._refresh(ObjectRef("payment", order.payment_id))
        # Only now: until its amount is taken from the balance, it counts as asked for against other keys.
        await self._database.execute(_query("refunds_made"), order.id, key, refund.id)
        return refund

    async def _made(self, order_id: str, payment_id: str, cents: int, key: str) -> Refund:
        """Return the refund of a key, made now unless it was before."""
        name = f"{order_id}:refund:{key}"

        async def refund(once: str) -> Refund:
            return await self._provider.refund(payment_id, cents, name, once)

        try:
            return await call_once(self._database, name, refund)
        except PaymentRefused as refused:
            if refused.kind != "unavailable":  # nothing will come of it: its amount is free for another key
                await self._database.execute(_query("refunds_refused"), order_id, key)
            raise

    async def _asked(
        self, connection: Connection, order: Order, amount_cents: int | None, key: str, actor: audit.Actor
    ) -> tuple[int, str | None]:
        """Write what is to be given back, before the provider is asked; return it in cents, and the refund where it
        was made already. The same key again returns what was written first."""
        await connection.execute(_query("orders_lock"), order.id)
        rows = await connection.fetch(_query("refunds_asked"), order.id)
        first = next((row for row in rows if row["key"] == key), None)
        if first is not None:
            if amount_cents not in (None, first["amount_cents"]):
                raise OrderConflict("This idempotency key was used before, for another amount: take a new one.")
            return int(first["amount_cents"]), first["refund_id"]
        unknown = [row for row in rows if row["refund_id"] is None]
        left = await self._refundable(connection, order) - sum(row["amount_cents"] for row in unknown)
        cents = left if amount_cents is None else amount_cents
        if not 0 < cents <= left:
            shown = format_cents(max(0, left))
            message = f"Of this order {shown} USD are left: no more can be given back."
            if unknown:
                keys = ", ".join(row["key"] for row in unknown[:MOST_NAMED])
                message += f" Of earlier refunds it is not known whether they were made: ask again by the keys {keys}."
            raise OrderRefused(message, "amount_usd")
        await connection.execute(_query("refunds_ask"), order.id, key, cents)
        after = {"amount_usd": format_cents(cents)}
        await audit.record(connection, actor, "order.refund", order.id, None, after, account_id=order.account_id)
        return cents, None

    async def _refundable(self, connection: Connection, order: Order) -> int:
        """Return the whole cents that are left of an order; of a plan, what was not given back of its price."""
        if order.kind == "plan":
            return order.amount_cents - order.refunded_cents
        given = () if order.transfer_id is None else (order.transfer_id,)
        return await left_of(connection, order.account_id, given) // NANO_PER_CENT

    async def credit(
        self, parked_id: str, account_id: str | None, note: str, *, actor: audit.Actor = audit.ADMIN
    ) -> Parked:
        """Give what waits to its account, or to this one where it has none, by the amount that came."""
        async with self._database.transaction() as connection:
            parked = await self._waiting(connection, parked_id)
            whose = parked.account_id or account_id
            if whose is None:
                raise OrderRefused("It is not known whose money this is: name an account_id.", "account_id")
            if account_id not in (None, whose):
                raise OrderRefused(f"This money is of the account {whose}.", "account_id")
            if parked.currency != CURRENCY or not parked.amount_cents:
                raise OrderRefused(f"It came in {parked.currency}: dismiss it, and grant what it is worth.")
            key = money_key(parked.provider, "payment", parked.object_id)
            nano = parked.amount_cents * NANO_PER_CENT
            order = None if parked.order_id is None else await self._orders.get(parked.order_id)
            entry = Entry(whose, nano, PURCHASES, "purchase", SCOPE, key, note or None)
            result = await self._grants.record(connection, entry, actor)
            if order is not None and order.credited_at is None:
                paid_by = parked.object_id
                await credited(connection, order.id, transfer_id=result.transfer_id, payment_id=paid_by)
            ended = await self._ended(connection, parked, "credited", result.transfer_id, note)
        await self._effects.balance_changed(whose)
        await self._refresh(ObjectRef("payment", parked.object_id))
        return ended

    async def dismiss(self, parked_id: str, note: str, *, actor: audit.Actor = audit.ADMIN) -> Parked:
        """Decide that what waits is not credited, with the reason."""
        async with self._database.transaction() as connection:
            parked = await self._waiting(connection, parked_id)
            ended = await self._ended(connection, parked, "dismissed", None, note)
            change = {"state": parked.state}, {"state": "dismissed", "note": note}
            whose = parked.account_id
            await audit.record(connection, actor, "payment.dismiss", parked.id, *change, account_id=whose)
        await self._refresh(ObjectRef("payment", parked.object_id))
        return ended

    async def _waiting(self, connection: Connection, parked_id: str) -> Parked:
        """Return what waits, by its own id or its order's; both are locked, the order first, as payments do."""
        order_id = await connection.fetchval(_query("parked_order"), parked_id)
        if order_id is not None:
            await connection.execute(_query("orders_lock"), order_id)
        row = await connection.fetchrow(_query("parked_lock"), parked_id)
        if row is None:
            raise OrderNotFound(f"Nothing of {parked_id!r} waits: `metergate operator order list --parked` lists it.")
        parked = parked_of(row)
        if parked.state != "parked":
            raise OrderConflict(f"This was {parked.state} already.")
        return parked

    async def _ended(
        self, connection: Connection, parked: Parked, state: str, transfer_id: str | None, note: str
    ) -> Parked:
        row = await connection.fetchrow(_query("parked_end"), parked.id, state, transfer_id, note)
        if row is None:
            raise OrderNotFound(f"There is nothing parked with the id {parked.id!r}.")
        return parked_of(row)
