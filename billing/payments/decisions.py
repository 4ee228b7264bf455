"""What an order becomes by the present state of its payment: what is credited, taken back, given back, or parked. Pure.

What is decided depends on the order, on the state and on what was unspent, never on which event came first: states
that are seen late, twice or not at all, but for the last one, lead to the same balance. So refunds take, in the order
in which they were made, what was unspent of their purchase, and not of what disputes had taken by then; one that fails
leaves its part to the next, and so does a dispute that is won. A dispute takes what it takes, below zero if need be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from billing.payments.port import CURRENCY, Movement, OrderStatus, Refund

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from billing.payments.orders import Order
    from billing.payments.port import Dispute, Payment

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
