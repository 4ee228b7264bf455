"""Payments of orders, applied: credited once, taken back by refunds and disputes, or left to an operator as a dead
letter; and read again as what customers were charged.

What is decided depends on the order, on the payment's state and on what was unspent, never on which event came first:
states that are seen late, twice or not at all, but for the last one, lead to the same balance. So refunds take, in the
order in which they were made, what was unspent of their purchase, and not of what disputes had taken by then; one that
fails leaves its part to the next, and so does a dispute that is won. A dispute takes what it takes, below zero if need
be. These functions are pure and stand first; `Purchases` does what they say in the transaction that notes the state.
The transfer's key is the money's own id, so that whatever is tried twice is made once.

A charge is counted at the time at which its payment was made, by all that its payer paid, taxes included, as the
payment provider counts it. What went back (refunds, disputes) is counted with its payment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from billing import audit
from billing.accounts.accounts import lift, suspend
from billing.accounts.grants import PAID, PROMOTIONS, PURCHASES, Entry, GrantError, Grants, Terms, find_lot
from billing.database.connection import Connection, Database, queries
from billing.money import format_cents
from billing.notices.emit import emit
from billing.pages import Page, page_of
from billing.payments.apply import After, Owner, account_of
from billing.payments.orders import DEAD_LETTER_PREFIX, SCOPE, Order, credited, found_order, left_of, order_of
from billing.payments.port import CURRENCY, Movement, ObjectRef, OrderStatus, Payment, Refund, included_scope, money_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing.database.connection import Row
    from billing.payments.port import Dispute
_query = queries("billing.payments")
_accounts = queries("billing.accounts")

# States of refunds whose money came back.
RETURNED: Final = ("failed", "canceled")
# Disputes that suspend the account.
TAKEN: Final = ("open", "lost")


@dataclass(frozen=True, slots=True)
class Moved:
    """What a refund, or a movement of a dispute, has moved so far: nano-USD below zero were taken from the account.
    `free_nano` is what would have been left of the purchase then, had nothing been moved; None: it was not noted."""

    nano: int = 0
    transfers: int = 0
    free_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A transfer to make: `delta_nano` below zero takes from the account. `number` counts those of the same object;
    `free_nano` is to be noted with it."""

    kind: Literal["refund", "dispute"]
    id: str
    amount_cents: int
    delta_nano: int
    number: int
    free_nano: int


MoveKey = tuple[str, str]


def refusal_reason(order: Order | None, payment: Payment) -> str | None:
    """Return why a paid payment can't be credited to its order; None: it can."""
    if order is None:
        return "no order of ours has this id"
    if order.credited_at is not None and order.payment_id != payment.id:
        return "the order was paid before, by another payment"
    if payment.currency != CURRENCY:
        return f"it was paid in {payment.currency}, not in {CURRENCY}"
    if payment.amount_cents != order.amount_cents:
        return f"{payment.amount_cents} cents were paid of an order of {order.amount_cents}"
    return None


def status_of(order: Order, payment: Payment, *, parked: bool) -> OrderStatus:
    """Return what the order is called, whatever it was before: once money came, it is never open, failed or expired.
    `parked` says that an operator has to decide about it."""
    if any(each.status in TAKEN for each in payment.disputes):
        return "disputed"
    if payment.status == "paid" and is_given_back(payment):
        return "refunded"
    if parked:
        return "parked"
    if order.credited_at is not None:
        return "credited"
    if payment.status == "paid":
        return order.status if order.status in ("credited", "parked") else "paid"
    if payment.status in RETURNED and order.status in ("open", "failed"):
        return "failed"
    return order.status


def is_given_back(payment: Payment) -> bool:
    """Return whether the whole of a payment was refunded, and none of that has failed."""
    refunded = sum(each.amount_cents for each in payment.refunds if each.status not in RETURNED)
    return 0 < payment.total_cents <= refunded


def is_lost(payment: Payment) -> bool:
    """Return whether the whole of a payment is gone, and disputes that were lost have taken of it."""
    lost = sum(each.amount_cents for each in payment.disputes if each.status == "lost")
    refunded = sum(each.amount_cents for each in payment.refunds if each.status not in RETURNED)
    return lost > 0 and payment.total_cents <= lost + refunded


def next_move(credit_nano: int, payment: Payment, moved: Mapping[MoveKey, Moved], left_nano: int) -> Move | None:
    """Return the first transfer that the refunds and disputes of a payment still need; None: they need none.

    `credit_nano` is what the payment has put on the balance, and `left_nano` what is left of that now. Each movement of
    a dispute is one transfer of its whole share of the credit. After each transfer it is asked again, with what is left
    then.
    """
    free_nano = _free_nano(moved, left_nano)
    takes = _refunds_take(credit_nano, payment, free_nano)
    for each in sorted(_parts(payment), key=lambda part: (part.created_at, part.id)):
        kind: Literal["refund", "dispute"] = "refund" if isinstance(each, Refund) else "dispute"
        before = moved.get((kind, each.id), Moved())
        if isinstance(each, Refund):
            delta_nano = -takes[each.id] - before.nano
        else:
            delta_nano = 0 if before.transfers else share_nano(credit_nano, payment, each.amount_cents)
        if delta_nano:
            return Move(kind, each.id, each.amount_cents, delta_nano, before.transfers + 1, free_nano)
    return None


def _parts(payment: Payment) -> list[Refund | Movement]:
    return [*payment.refunds, *(each for dispute in payment.disputes for each in dispute.movements)]


def _free_nano(moved: Mapping[MoveKey, Moved], left_nano: int) -> int:
    """Return what would be left of a purchase, had its refunds and disputes moved nothing. Debits alone make it less:
    so what was noted bounds it where a dispute has made debt, of which nothing is left."""
    now_nano = left_nano - sum(each.nano for each in moved.values())
    return min([now_nano, *(each.free_nano for each in moved.values() if each.free_nano is not None)])


def _refunds_take(credit_nano: int, payment: Payment, free_nano: int) -> dict[str, int]:
    """Return what each refund takes of what is free, one after the other; a dispute has its net share from when it
    began, which nothing is left of for refunds that were made later."""
    events: list[tuple[datetime, str, Refund | int]] = [(each.created_at, each.id, each) for each in payment.refunds]
    for dispute in payment.disputes:
        if dispute.movements:
            net_nano = sum(share_nano(credit_nano, payment, each.amount_cents) for each in dispute.movements)
            events.append((min(each.created_at for each in dispute.movements), dispute.id, net_nano))
    takes: dict[str, int] = {}
    # Times may be whole seconds; a payment that is disputed can't be refunded, so that its refund was earlier.
    for _, _, event in sorted(events, key=lambda each: (each[0], isinstance(each[2], int), each[1])):
        if isinstance(event, int):
            free_nano += event
        else:
            share = 0 if event.status in RETURNED else share_nano(credit_nano, payment, event.amount_cents)
            takes[event.id] = min(share, max(0, free_nano))
            free_nano -= takes[event.id]
    return takes


def share_nano(credit_nano: int, payment: Payment, amount_cents: int) -> int:
    """Return how much of a payment's total, which may include taxes, is credit, in nano-USD, rounded towards zero."""
    share = min(credit_nano, abs(amount_cents) * credit_nano // max(payment.total_cents, 1))
    return share if amount_cents > 0 else -share


def suspensions(before: Payment | None, now: Payment) -> tuple[list[Dispute], list[Dispute]]:
    """Return the disputes that suspend the account since `before`, and those that do not any more. One that suspended
    before is not named again: an operator may have lifted it."""
    known = {each.id: each.status for each in before.disputes} if before is not None else {}
    begun = [each for each in now.disputes if each.status in TAKEN and known.get(each.id) not in TAKEN]
    ended = [each for each in now.disputes if each.status not in TAKEN and known.get(each.id) in TAKEN]
    return begun, ended


@dataclass(frozen=True, slots=True)
class Raised:
    """What a payment has put on a balance, by these transfers from `source`, and its terms."""

    transfers: tuple[str, ...]
    credit_nano: int
    source: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Purchases:
    """Applies payments. `new_id` makes ULIDs that rise with time; `terms` are those of what is credited."""

    provider: str
    grants: Grants
    new_id: Callable[[], str]
    terms: Callable[[], Terms] = lambda: PAID

    async def apply(self, connection: Connection, before: Payment | None, now: Payment, after: After) -> Owner:
        """Apply a payment's state in the caller's transaction: an `apply.Handler`."""
        order = await self._order(connection, now)
        if order is None:
            return await self._without_order(connection, before, now, after)
        parked = await self._parked(connection, now)
        if now.status == "paid" and order.kind != "plan" and order.credited_at is None and parked is None:
            order, parked = await self._credit(connection, order, now, after)
        elif now.status == "paid" and order.kind != "plan" and order.payment_id != now.id and parked is None:
            await self._keep(connection, order, now, refusal_reason(order, now) or "it was paid twice")
        await self._take_back(connection, order.account_id, order, now, after)
        if order.payment_id in (None, now.id):
            await self._settle(connection, order, now, waits=parked == "parked")
        await self._suspend(connection, order.account_id, before, now, after)
        return Owner(order.account_id, order.id)

    async def _order(self, connection: Connection, payment: Payment) -> Order | None:
        """Return the payment's order, its row locked: by what was noted at its making, else by the payment's id."""
        if payment.order_id is not None:
            row = await connection.fetchrow(_query("orders_lock"), payment.order_id)
        else:
            row = await connection.fetchrow(_query("orders_lock_of_payment"), self.provider, payment.id)
        return None if row is None or row["provider"] != self.provider else order_of(row)

    async def _without_order(self, connection: Connection, before: Payment | None, now: Payment, after: After) -> Owner:
        """Park a payment that no order asked for; that of an invoice is its invoice's to apply. What an operator has
        credited of it is taken back like an order's."""
        customer_id = now.customer_id
        account_id = None if customer_id is None else await account_of(connection, self.provider, customer_id)
        if now.invoice_id is None and now.status == "paid":
            await self._keep(connection, None, now, refusal_reason(None, now) or "", account_id)
            credited_to = await connection.fetchval(_query("parked_credited"), self.provider, now.id)
            account_id = credited_to or account_id
        if account_id is not None:
            await self._take_back(connection, account_id, None, now, after)
            await self._suspend(connection, account_id, before, now, after)
        return Owner(account_id)

    async def _parked(self, connection: Connection, payment: Payment) -> str | None:
        """Return whether the payment waits for an operator, or what was decided; None: neither."""
        row = await connection.fetchrow(_query("parked_of_object"), self.provider, "payment", payment.id)
        return None if row is None else str(row["state"])

    async def _keep(
        self, connection: Connection, order: Order | None, payment: Payment, reason: str, account_id: str | None = None
    ) -> None:
        await connection.execute(
            _query("parked_add"),
            DEAD_LETTER_PREFIX + self.new_id(),
            self.provider,
            "payment",
            payment.id,
            account_id if order is None else order.account_id,
            None if order is None else order.id,
            payment.amount_cents,
            payment.currency,
            reason,
        )

    async def _credit(
        self, connection: Connection, order: Order, payment: Payment, after: After
    ) -> tuple[Order, str | None]:
        """Credit a paid order with its own amount, or park it; return the order as it is then, and whether it waits."""
        reason = refusal_reason(order, payment)
        account = await connection.fetchrow(_accounts("accounts_lock"), order.account_id)
        if account is not None and account["status"] == "closed":
            reason = reason or "the account is closed"
        if reason is None:
            try:
                order = await self.credit(connection, order, payment.id, audit.SYSTEM)
            except GrantError as error:  # raised before anything was written
                reason = str(error)
        if reason is not None:
            await self._keep(connection, order, payment, reason)
            return order, "parked"
        after.balances.add(order.account_id)
        await emit(connection, order.account_id, "payment.succeeded", _notice_data(order))
        return order, None

    async def credit(self, connection: Connection, order: Order, payment_id: str, actor: audit.Actor) -> Order:
        """Raise the balance by an order's amount, once per payment; the caller tells of the balance. Raises
        `grants.GrantError`."""
        key = money_key(self.provider, "payment", payment_id)
        named = SCOPE, key, f"order {order.id}"
        entry = Entry(order.account_id, order.amount_nano, PURCHASES, "purchase", *named, terms=self.terms())
        result = await self.grants.record(connection, entry, actor)
        return await credited(connection, order.id, transfer_id=result.transfer_id, payment_id=payment_id)

    async def _settle(self, connection: Connection, order: Order, now: Payment, *, waits: bool) -> None:
        """Bring the order's row to the payment's state."""
        status = status_of(order, now, parked=waits)
        refunded = sum(each.amount_cents for each in now.refunds if each.status not in ("failed", "canceled"))
        disputed = -sum(movement.amount_cents for dispute in now.disputes for movement in dispute.movements)
        reason = order.reason if status not in ("credited", "paid") else None
        if status == "failed":
            reason = now.decline_code or now.status
        values = (order.id, status, now.id, now.customer_id, refunded, disputed, reason)
        changed = found_order(await connection.fetchrow(_query("orders_settle"), *values), order.id)
        await self._tell_of_change(connection, order, changed)

    async def _take_back(
        self, connection: Connection, account_id: str, order: Order | None, now: Payment, after: After
    ) -> None:
        """Make what refunds and disputes of a payment need. One that is given back whole ends the plan that it paid
        for: the subscription is to be ended at the provider, too. So does one whose last part was lost in a dispute, of
        whatever period: the account stays suspended by that, and must not be charged for what it can't use. A part
        alone ends nothing."""
        raised = await self._raised(connection, account_id, now)
        if raised is not None:
            await self._move_all(connection, account_id, order, raised, now, after)
        lost = is_lost(now)
        if now.invoice_id is not None and now.status == "paid" and (lost or is_given_back(now)):
            ended = await connection.fetchval(_query("invoice_in_force"), self.provider, now.invoice_id, lost)
            if ended is not None:
                why = "lost" if lost else "refunded"
                after.ended[ObjectRef("subscription", ended)] = f"subscription:{ended}:{why}:{now.id}"

    async def _raised(self, connection: Connection, account_id: str, now: Payment) -> Raised | None:
        """Return what refunds and disputes of a payment take back: its credit, or what is included in the plan that an
        invoice was for. None: nothing, so far."""
        if not now.refunds and not now.disputes:
            return None
        scope, source, key = SCOPE, PURCHASES, money_key(self.provider, "payment", now.id)
        if now.invoice_id is not None:
            scope, source = included_scope(self.provider, account_id), PROMOTIONS
            key = money_key(self.provider, "invoice", now.invoice_id)
        rows = await connection.fetch(_query("raised_by"), scope, key, account_id)
        transfers, credit_nano = tuple(row["id"] for row in rows), sum(row["amount_nano"] for row in rows)
        if not transfers:
            return None
        terms = (await find_lot(connection, account_id, transfers[0])).terms
        return Raised(transfers, credit_nano, source, terms)

    async def _move_all(
        self,
        connection: Connection,
        account_id: str,
        order: Order | None,
        raised: Raised,
        now: Payment,
        after: After,
    ) -> None:
        """Make what refunds and disputes need, one transfer after the other."""
        parts = [each.id for each in now.refunds]
        parts += [each.id for dispute in now.disputes for each in dispute.movements]
        while True:
            rows = await connection.fetch(_query("movements_of"), self.provider, parts)
            moved = {
                (row["kind"], row["id"]): Moved(row["moved_nano"], row["transfers"], row["free_nano"]) for row in rows
            }
            left_nano = await left_of(connection, account_id, raised.transfers)
            move = next_move(raised.credit_nano, now, moved, left_nano)
            if move is None:
                return
            key = money_key(self.provider, move.kind, move.id)
            entry = Entry(
                account_id,
                move.delta_nano,
                raised.source,
                move.kind,
                SCOPE,
                key if move.number == 1 else f"{key}:{move.number}",
                f"payment {now.id}" if order is None else f"order {order.id}",
                purchase_id=raised.transfers[0],
                terms=raised.terms,
            )
            await self.grants.record(connection, entry, audit.SYSTEM)
            order_id = None if order is None else order.id
            values = (self.provider, move.kind, move.id, order_id, move.amount_cents, move.delta_nano, move.free_nano)
            await connection.execute(_query("movements_add"), *values)
            after.balances.add(account_id)

    async def _suspend(
        self, connection: Connection, account_id: str, before: Payment | None, now: Payment, after: After
    ) -> None:
        begun, ended = suspensions(before, now)
        for dispute in begun:
            if await suspend(connection, account_id, f"dispute:{dispute.id}"):
                after.accounts.add(account_id)
        for dispute in ended:
            if await lift(connection, account_id, f"dispute:{dispute.id}"):
                after.accounts.add(account_id)

    async def _tell_of_change(self, connection: Connection, before: Order, now: Order) -> None:
        """Write the notices of a failed payment, of a refund and of a dispute."""
        if now.status == "failed" and before.status != "failed":
            await emit(connection, now.account_id, "payment.failed", {**_notice_data(now), "reason": now.reason})
        if now.refunded_cents > before.refunded_cents:
            refunded = format_cents(now.refunded_cents - before.refunded_cents)
            data = {**_notice_data(now), "refunded_usd": refunded}
            await emit(connection, now.account_id, "payment.refunded", data)
        if now.status == "disputed" and before.status != "disputed":
            await emit(connection, now.account_id, "payment.disputed", _notice_data(now))


def _notice_data(order: Order) -> dict[str, Any]:
    return {"order_id": order.id, "kind": order.kind, "amount_usd": format_cents(order.amount_cents)}


ChargeKind = Literal["credit", "plan", "recharge", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One payment. `kind` is that of its order; payments of invoices are `plan`; those that nothing here has asked for
    are `other`."""

    id: str
    provider: str
    account_id: str | None
    order_id: str | None
    invoice_id: str | None
    kind: ChargeKind
    plan: str | None
    total_cents: int
    currency: str
    refunded_cents: int
    disputed_cents: int
    receipt_url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeSums:
    """How many payments there were, what was paid, and what of it went back, in US cents."""

    payments: int
    paid_cents: int
    refunded_cents: int
    disputed_cents: int


@dataclass
class Charges:
    """Reads charges, of whichever provider. Methods raise `DatabaseError`."""

    database: Database

    async def page(
        self,
        limit: int,
        after: str | None = None,
        *,
        account_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[Charge]:
        """Return charges, newest first; `after` is the id that ended the page before."""
        given = (account_id, after, since, until, limit + 1)
        rows = await self.database.rows(_query("charges_page"), *given)
        return page_of([_charge_of(row) for row in rows], limit, lambda charge: charge.id)

    async def sums(self, since: datetime, until: datetime) -> ChargeSums:
        """Return what was paid from `since` on and before `until`."""
        row = await self.database.row(_query("charges_sums"), since, until, CURRENCY)
        assert row is not None  # noqa: S101  (an aggregate always has a row)
        return ChargeSums(**dict(row))


def _charge_of(row: Row) -> Charge:
    fields = dict(row)
    of_order: ChargeKind | None = fields.pop("order_kind")
    return Charge(kind=of_order or ("other" if fields["invoice_id"] is None else "plan"), **fields)
