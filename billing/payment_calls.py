"""The billing API's calls about payments: of customers, hosted pages, plans, orders and invoices; with the admin key
all orders, what could not be credited, the provider's events, and the comparison with it, plans; and exports of
usage."""

from billing.calls import BillingCalls, page_query, path_part
from billing.pages import DEFAULT_LIMIT
from billing.schemas.base import Listing
from billing.schemas.exports import ExportShape, ParkedExportShape, RetriedShape, RetryExport
from billing.schemas.payment_events import ComparisonShape, NewComparison, PaymentEventShape
from billing.schemas.payments import (
    AdminOrderShape,
    CreditParked,
    DismissParked,
    InvoiceShape,
    NewCheckout,
    NewOrderRefund,
    NewPortal,
    NewSetup,
    OrderRefundShape,
    OrderShape,
    PageShape,
    ParkedShape,
    PlansShape,
)


class PaymentCalls(BillingCalls):
    """Calls one gateway's billing API, as `BillingCalls` says."""

    async def setup_billing(self, setup: NewSetup) -> PageShape:
        """Open a page where credit is bought, or a payment method kept."""
        return await self._call("POST", "/api/billing/setup", PageShape, body=setup)

    async def checkout(self, checkout: NewCheckout) -> PageShape:
        """Open a page where an amount of credit, or a plan, is bought."""
        return await self._call("POST", "/api/billing/checkout", PageShape, body=checkout)

    async def billing_portal(self, return_url: str | None = None) -> PageShape:
        """Open a page where billing is managed."""
        return await self._call("POST", "/api/billing/portal", PageShape, body=NewPortal(return_url=return_url))

    async def plans(self) -> PlansShape:
        """List the plans that can be had, the cheapest first."""
        return await self._call("GET", "/api/billing/plans", PlansShape)

    async def own_orders(
        self, *, status: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[OrderShape]:
        """List the orders of one's own account, newest first."""
        query = {"status": status, **page_query(limit, cursor)}
        return await self._call("GET", "/api/billing/orders", Listing[OrderShape], query=query)

    async def invoices(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[InvoiceShape]:
        """List the invoices of one's own account, newest first."""
        return await self._call("GET", "/api/billing/invoices", Listing[InvoiceShape], query=page_query(limit, cursor))

    async def orders(
        self,
        *,
        account_id: str | None = None,
        status: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Listing[AdminOrderShape]:
        """List orders of all accounts or of one, newest first."""
        query = {"account_id": account_id, "status": status, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/orders", Listing[AdminOrderShape], query=query)

    async def order(self, order_id: str) -> AdminOrderShape:
        """Return an order of any account."""
        return await self._call("GET", f"/api/admin/orders/{path_part(order_id)}", AdminOrderShape)

    async def refund_order(self, order_id: str, refund: NewOrderRefund) -> OrderRefundShape:
        """Give money of an order back, at most what is left of its credit."""
        path = f"/api/admin/orders/{path_part(order_id)}/refunds"
        return await self._call("POST", path, OrderRefundShape, body=refund)

    async def parked(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[ParkedShape]:
        """List money that could not be credited and waits, newest first."""
        query = page_query(limit, cursor)
        return await self._call("GET", "/api/admin/payments/parked", Listing[ParkedShape], query=query)

    async def credit_parked(self, parked_id: str, credit: CreditParked) -> ParkedShape:
        """Give what waits to its account."""
        path = f"/api/admin/payments/parked/{path_part(parked_id)}/credit"
        return await self._call("POST", path, ParkedShape, body=credit)

    async def dismiss_parked(self, parked_id: str, note: str) -> ParkedShape:
        """Decide that what waits is not credited."""
        path = f"/api/admin/payments/parked/{path_part(parked_id)}/dismiss"
        return await self._call("POST", path, ParkedShape, body=DismissParked(note=note))

    async def payment_events(
        self, *, state: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[PaymentEventShape]:
        """List events of the payment provider, those that came last first."""
        query = {"state": state, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/payments/events", Listing[PaymentEventShape], query=query)

    async def replay_payment_event(self, event_id: str) -> PaymentEventShape:
        """Process an event again."""
        path = f"/api/admin/payments/events/{path_part(event_id)}/replay"
        return await self._call("POST", path, PaymentEventShape)

    async def plans_in_force(self) -> PlansShape:
        """List the plans in force, the cheapest first."""
        return await self._call("GET", "/api/admin/plans", PlansShape)

    async def payment_comparison(self) -> ComparisonShape:
        """Return the last comparison with the payment provider, and what still differs."""
        return await self._call("GET", "/api/admin/payments/reconcile", ComparisonShape)

    async def compare_payments(self, since: str) -> ComparisonShape:
        """Have all that was made since a time or a day compared with the payment provider, soon."""
        body = NewComparison(since=since)
        return await self._call("POST", "/api/admin/payments/reconcile", ComparisonShape, body=body)

    async def exports(self) -> Listing[ExportShape]:
        """List exports, and how far each is."""
        return await self._call("GET", "/api/admin/exports", Listing[ExportShape])

    async def parked_exports(
        self, *, export: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[ParkedExportShape]:
        """List what the other sides of exports do not take, newest first."""
        query = {"export": export, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/exports/parked", Listing[ParkedExportShape], query=query)

    async def retry_exports(self, export: str, item: str | None = None) -> RetriedShape:
        """Have tried again what is parked of an export: one item, or all of it."""
        body = RetryExport(export=export, item=item)
        return await self._call("POST", "/api/admin/exports/retry", RetriedShape, body=body)
