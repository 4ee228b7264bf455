"""What an order becomes by the present state of its payment: what is credited, taken back, given back, or parked. Pure.

What is decided depends on the order, on the state and on what was moved before, never on which event came first: states
that are seen late, twice or not at all, but for the last one, lead to the same balance. So a refund takes what is left
of its purchase now, and more when more is left later; a dispute takes what it takes, below zero if need be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from billing.payments.objects import CURRENCY, Movement, Refund

if TYPE_CHECKING:
    from billing.payments.objects import Dispute, OrderKind, OrderStatus, Payment

RETURNED: Final = ("failed", "canceled")
"""Refunds whose money came back to us."""
TAKEN: Final = ("open", "lost")
"""Disputes that suspend the account."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What an order has come to: `credited` once its amount is on the balance, `parked` while an operator must look."""

    id: str
    kind: OrderKind
    amount_cents: int
    status: OrderStatus
    payment_id: str | None
    credited: bool
    parked: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """What a refund, or a movement of a dispute, has moved so far: nano-USD below zero were taken from the account."""

    nano: int = 0
    transfers: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A transfer to make: `delta_nano` below zero takes from the account. `number` counts those of the same object."""

    kind: Literal["refund", "dispute"]
    id: str
    amount_cents: int
    delta_nano: int
    number: int


MoveKey = tuple[str, str]


def parking_reason(order: Standing | None, payment: Payment) -> str | None:
    """Return why a paid payment can't be credited to its order; None: it can."""
    if order is None:
        return "no order of ours has this id"
    if order.credited and order.payment_id != payment.id:
        return "the order was paid before, by another payment"
    if payment.currency != CURRENCY:
        return f"it was paid in {payment.currency}, not in {CURRENCY}"
    if payment.amount_cents != order.amount_cents:
        return f"{payment.amount_cents} cents were paid of an order of {order.amount_cents}"
    return None


def status_of(order: Standing, payment: Payment) -> OrderStatus:
    """Return what the order is called, whatever it was before: once money came, it is never open, failed or expired."""
    if any(each.status in TAKEN for each in payment.disputes):
        return "disputed"
    if payment.status == "paid" and is_given_back(payment):
        return "refunded"
    if order.parked:
        return "parked"
    if order.credited:
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


def next_move(credit_nano: int, payment: Payment, moved: Mapping[MoveKey, Moved], left_nano: int) -> Move | None:
    """Return the first transfer that the refunds and disputes of a payment still need; None: they need none.

    `credit_nano` is what the payment has put on the balance, and `left_nano` what is left of that now. A refund takes
    at most that, and one that failed gives back what it had taken. Each movement of a dispute is one transfer of its
    whole share of the credit. After each transfer it is asked again, with what is left then.
    """
    parts: list[Refund | Movement] = [*payment.refunds]
    parts += [each for dispute in payment.disputes for each in dispute.movements]
    for each in sorted(parts, key=lambda part: (part.created_at, part.id)):
        kind: Literal["refund", "dispute"] = "refund" if isinstance(each, Refund) else "dispute"
        before = moved.get((kind, each.id), Moved())
        share = share_nano(credit_nano, payment, each.amount_cents)
        if isinstance(each, Refund):
            delta_nano = -before.nano if each.status in RETURNED else -min(share + before.nano, left_nano)
        else:
            delta_nano = 0 if before.transfers else share
        if delta_nano:
            return Move(kind, each.id, each.amount_cents, delta_nano, before.transfers + 1)
    return None


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
