"""/api/webhooks/stripe, where Stripe delivers events, and /api/admin/payments: what became of them, and the comparison
with the payment provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.errors import BadRequest, NotFound
from billing.api.requests import listing, moment, page_asked, read_bounded
from billing.api.route import Access, Call, Route
from billing.shapes.base import Listing
from billing.shapes.payment_events import (
    ComparisonShape,
    NewComparison,
    PaymentEventShape,
    PaymentEventsQuery,
    ReceivedShape,
    comparison_shape,
    payment_event_shape,
)

if TYPE_CHECKING:
    from billing.api.services import PaymentOversight

STRIPE: Final = "stripe"
EVENTS: Final = "/api/admin/payments/events"
RECONCILE: Final = "/api/admin/payments/reconcile"


def _oversight(call: Call) -> PaymentOversight:
    found = call.services.payment_oversight
    if found is None:
        raise NotFound("This gateway takes no payments.")
    return found


async def receive_stripe_event(call: Call) -> ReceivedShape:
    """Take in an event of Stripe's, whose body is signed as it is (`Stripe-Signature`). It is stored before it is
    acknowledged, once by its id, and looked into afterwards; types that we don't act on are acknowledged, too."""
    found = call.services.payment_oversight
    if found is None or found.events.provider != STRIPE:
        raise NotFound("Stripe is not this gateway's payment provider.")
    body = await read_bounded(call.request, call.services.max_body_bytes)
    headers = {name.lower(): value for name, value in call.request.headers.items()}
    await found.events.receive(body, headers)
    return ReceivedShape()


async def list_payment_events(call: Call, query: PaymentEventsQuery) -> Listing[PaymentEventShape]:
    """List events of the payment provider, those that came last first."""
    page = await _oversight(call).events.page(*page_asked(query), state=query.state)
    return listing(page, payment_event_shape)


async def replay_payment_event(call: Call) -> PaymentEventShape:
    """Have an event looked into once more: the object that it names is fetched anew, which changes nothing twice."""
    return payment_event_shape(await _oversight(call).events.replay(call.id("event_id")))


async def compare_payments(call: Call, body: NewComparison) -> ComparisonShape:
    """Have everything that was made since then compared with the payment provider, soon, by one gateway. What differs
    is brought up to date; GET tells what still differs."""
    since = moment("since", body.since)
    if since is None or since.timestamp() > call.services.clock():
        raise BadRequest("since must be in the past.", "since")
    comparisons = _oversight(call).comparisons
    await comparisons.ask(since)
    return comparison_shape(comparisons.provider, await comparisons.last(), await comparisons.listed())


async def payment_differences(call: Call) -> ComparisonShape:
    """Return the last comparison with the payment provider, and what still differs."""
    comparisons = _oversight(call).comparisons
    return comparison_shape(comparisons.provider, await comparisons.last(), await comparisons.listed())


ROUTES: Final = (
    Route("POST", "/api/webhooks/stripe", receive_stripe_event, Access.anyone, ReceivedShape, errors=(400, 404, 413)),
    Route(
        "GET", EVENTS, list_payment_events, Access.admin, Listing[PaymentEventShape], PaymentEventsQuery, errors=(404,)
    ),
    Route(
        "POST", f"{EVENTS}/{{event_id}}/replay", replay_payment_event, Access.admin, PaymentEventShape, errors=(404,)
    ),
    Route(
        *("POST", RECONCILE, compare_payments, Access.admin, ComparisonShape),
        body=NewComparison,
        status=202,
        errors=(404,),
    ),
    Route("GET", RECONCILE, payment_differences, Access.admin, ComparisonShape, errors=(404,)),
)
