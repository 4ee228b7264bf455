"""The billing API's calls about the payment provider, with the admin key: its events, and the comparison with it."""

from billing.calls import BillingCalls, page_query, path_part
from billing.pages import DEFAULT_LIMIT
from billing.shapes.base import Listing
from billing.shapes.payment_events import ComparisonShape, NewComparison, PaymentEventShape


class PaymentCalls(BillingCalls):
    """Calls one gateway's billing API, as `BillingCalls` says."""

    async def payment_events(
        self, *, state: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[PaymentEventShape]:
        """List events of the payment provider, those that came last first."""
        query = {"state": state, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/payments/events", Listing[PaymentEventShape], query=query)

    async def replay_payment_event(self, event_id: str) -> PaymentEventShape:
        """Have an event looked into once more."""
        path = f"/api/admin/payments/events/{path_part(event_id)}/replay"
        return await self._call("POST", path, PaymentEventShape)

    async def payment_comparison(self) -> ComparisonShape:
        """Return the last comparison with the payment provider, and what still differs."""
        return await self._call("GET", "/api/admin/payments/reconcile", ComparisonShape)

    async def compare_payments(self, since: str) -> ComparisonShape:
        """Have all that was made since a time or a day compared with the payment provider, soon."""
        body = NewComparison(since=since)
        return await self._call("POST", "/api/admin/payments/reconcile", ComparisonShape, body=body)
