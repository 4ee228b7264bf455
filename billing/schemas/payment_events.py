"""Events of payment providers, and the comparison with them, as the API answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from billing.schemas.base import Answer, Body, Moment, PageQuery, Since
from billing.times import rfc3339

if TYPE_CHECKING:
    from datetime import datetime

    from billing.payments.events import StoredEvent
    from billing.payments.reconcile import Comparison, Difference

EventStateName = Literal["waiting", "done", "ignored", "parked"]


class ReceivedShape(Answer, frozen=True, kw_only=True):
    """An event was stored, now or before."""

    received: Literal[True] = True


class PaymentEventsQuery(PageQuery, frozen=True, kw_only=True):
    """Which events."""

    state: EventStateName | None = None


class PaymentEventShape(Answer, frozen=True, kw_only=True):
    """An event of a payment provider: `object` and `object_id` are what it is about, null where that is nothing that we
    act on. `parked` events were given up; `error` says why, or why one was ignored."""

    id: str
    provider: str
    type: str
    object: str | None
    object_id: str | None
    livemode: bool
    state: EventStateName
    attempts: int
    error: str | None
    created_at: Moment
    received_at: Moment
    next_attempt_at: Moment | None
    ended_at: Moment | None


class NewComparison(Body, frozen=True, kw_only=True):
    """Since when everything is to be compared with the payment provider."""

    since: Since


class DifferenceShape(Answer, frozen=True, kw_only=True):
    """An object that is not at the provider what it is here."""

    object: str
    object_id: str
    account_id: str | None
    order_id: str | None
    difference: str
    found_at: Moment | None


class ComparisonShape(Answer, frozen=True, kw_only=True):
    """The last comparison: all that was made since `since`. `ended_at` is null while it runs; `asked_since` is set
    while another one was asked for and has not begun. `differences` are what still differs."""

    provider: str
    asked_since: Moment | None
    since: Moment | None
    began_at: Moment | None
    ended_at: Moment | None
    compared: int
    error: str | None
    differences: list[DifferenceShape]


def _moment(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)


def payment_event_shape(event: StoredEvent) -> PaymentEventShape:
    """Return an event's shape."""
    return PaymentEventShape(
        id=event.id,
        provider=event.provider,
        type=event.type,
        object=event.ref_kind,
        object_id=event.ref_id,
        livemode=event.livemode,
        state=event.state,
        attempts=event.attempts,
        error=event.error,
        created_at=rfc3339(event.created_at),
        received_at=rfc3339(event.received_at),
        next_attempt_at=rfc3339(event.next_attempt_at) if event.state == "waiting" else None,
        ended_at=_moment(event.ended_at),
    )


def comparison_shape(provider: str, found: Comparison | None, listed: list[Difference]) -> ComparisonShape:
    """Return the shape of a comparison and of what differs."""
    return ComparisonShape(
        provider=provider,
        asked_since=None if found is None else _moment(found.asked_since),
        since=None if found is None else _moment(found.since),
        began_at=None if found is None else _moment(found.began_at),
        ended_at=None if found is None else _moment(found.ended_at),
        compared=0 if found is None else found.compared,
        error=None if found is None else found.error,
        differences=[
            DifferenceShape(
                object=each.kind,
                object_id=each.id,
                account_id=each.account_id,
                order_id=each.order_id,
                difference=each.difference,
                found_at=_moment(each.found_at),
            )
            for each in listed
        ],
    )
