"""Events of payment providers, and the comparison with them, as the API answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from billing.schemas.base import Answer, Body, Moment, PageQuery, Since

if TYPE_CHECKING:
    from collections.abc import Iterable


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

    @classmethod
    def of_event(cls, event: Any) -> Self:
        """Return an event."""
        next_attempt_at = event.next_attempt_at if event.state == "waiting" else None
        return cls.of(event, object=event.ref_kind, object_id=event.ref_id, next_attempt_at=next_attempt_at)


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

    @classmethod
    def of_comparison(cls, provider: str, found: Any, listed: Iterable[Any]) -> Self:
        """Return a comparison, None before the first, and what differs."""
        never = {"compared": 0, **dict.fromkeys(("asked_since", "since", "began_at", "ended_at", "error"))}
        differences = [DifferenceShape.of(each, object=each.kind, object_id=each.id) for each in listed]
        return cls.of(found, provider=provider, differences=differences, **(never if found is None else {}))
