"""The billing API's calls about credit: lots, coupons, auto-recharge, alerts, budgets, grants with terms; where notices
of all that are sent to; what is left of it: margins, and the bills of providers; and whose traffic is charged.

A `CreditCalls` takes the admin key for those of operators, and a person's token or an API key for the others.
"""

from billing.calls import BillingCalls, page_query, path_part
from billing.pages import DEFAULT_LIMIT
from billing.schemas.accounts import GrantShape, NewCredit
from billing.schemas.base import Listing
from billing.schemas.budgets import BudgetPatch, NewBudget, OwnBudgetShape
from billing.schemas.credit import (
    AlertBody,
    AlertShape,
    CouponCodeBody,
    CouponShape,
    LotShape,
    NewCouponBody,
    NewCouponShape,
    RechargeBody,
    RechargeShape,
    RedeemedShape,
)
from billing.schemas.margin import BillBody, BillShape, MarginsShape
from billing.schemas.system import AssignBody, AssignedShape, RunShape, SubjectShape
from billing.schemas.webhooks import DeliveryShape, EndpointShape, NewEndpoint, NewEndpointShape

_ENDPOINTS = "/api/webhooks/endpoints"


class CreditCalls(BillingCalls):
    """Calls one gateway's billing API, credit included."""

    async def give(self, account_id: str, credit: NewCredit) -> GrantShape:
        """Give credit with its terms, once for an idempotency key: the same again gets the first answer."""
        path = f"/api/admin/accounts/{path_part(account_id)}/grants"
        return await self._call("POST", path, GrantShape, body=credit)

    async def lots(
        self,
        account_id: str | None = None,
        *,
        open_only: bool = False,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Listing[LotShape]:
        """List lots, newest first: one's own account's, or as operator those of another one."""
        path = "/api/billing/lots" if account_id is None else f"/api/admin/accounts/{path_part(account_id)}/lots"
        query = {"open": "true" if open_only else None, **page_query(limit, cursor)}
        return await self._call("GET", path, Listing[LotShape], query=query)

    async def create_coupon(self, coupon: NewCouponBody) -> NewCouponShape:
        """Make a coupon. The answer holds its code."""
        return await self._call("POST", "/api/admin/coupons", NewCouponShape, body=coupon)

    async def coupons(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[CouponShape]:
        """List coupons, newest first."""
        return await self._call("GET", "/api/admin/coupons", Listing[CouponShape], query=page_query(limit, cursor))

    async def disable_coupon(self, coupon_id: str) -> None:
        """Let a coupon be redeemed no more."""
        await self._send("DELETE", f"/api/admin/coupons/{path_part(coupon_id)}")

    async def redeem_coupon(self, code: str) -> RedeemedShape:
        """Take a coupon's credit for one's own account."""
        return await self._call("POST", "/api/billing/coupons/redeem", RedeemedShape, body=CouponCodeBody(code=code))

    async def auto_recharge(self) -> RechargeShape:
        """Return what one's own account has asked of auto-recharge, and what has become of it."""
        return await self._call("GET", "/api/billing/auto-recharge", RechargeShape)

    async def set_auto_recharge(self, wish: RechargeBody) -> RechargeShape:
        """Have the saved payment method charged when credit runs low, or not any more."""
        return await self._call("PUT", "/api/billing/auto-recharge", RechargeShape, body=wish)

    async def alert(self) -> AlertShape:
        """Return the balance below which the caller's account gets a notice."""
        return await self._call("GET", "/api/billing/alerts", AlertShape)

    async def set_alert(self, low_balance_usd: str | None) -> AlertShape:
        """Set the balance below which the caller's account gets a notice; None: the operator's default."""
        return await self._call(
            "PUT", "/api/billing/alerts", AlertShape, body=AlertBody(low_balance_usd=low_balance_usd)
        )

    async def webhook_endpoints(
        self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[EndpointShape]:
        """List where notices of one's own account are sent to, newest first."""
        return await self._call("GET", _ENDPOINTS, Listing[EndpointShape], query=page_query(limit, cursor))

    async def add_webhook_endpoint(self, endpoint: NewEndpoint) -> NewEndpointShape:
        """Have notices sent to an address. The answer holds the secret that signs them."""
        return await self._call("POST", _ENDPOINTS, NewEndpointShape, body=endpoint)

    async def remove_webhook_endpoint(self, endpoint_id: str) -> None:
        """Have notices sent to an endpoint no more."""
        await self._send("DELETE", f"{_ENDPOINTS}/{path_part(endpoint_id)}")

    async def rotate_webhook_secret(self, endpoint_id: str) -> NewEndpointShape:
        """Give an endpoint a new secret; for a day the one before signs, too."""
        return await self._call("POST", f"{_ENDPOINTS}/{path_part(endpoint_id)}/rotate", NewEndpointShape)

    async def send_test_notice(self, endpoint_id: str) -> DeliveryShape:
        """Send a notice of the type `test` to an endpoint."""
        return await self._call("POST", f"{_ENDPOINTS}/{path_part(endpoint_id)}/test", DeliveryShape)

    async def webhook_deliveries(
        self, endpoint_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[DeliveryShape]:
        """List what was sent to an endpoint, newest first, and what became of it."""
        path = f"{_ENDPOINTS}/{path_part(endpoint_id)}/deliveries"
        return await self._call("GET", path, Listing[DeliveryShape], query=page_query(limit, cursor))

    async def redeliver(self, endpoint_id: str, delivery_id: str) -> DeliveryShape:
        """Send a delivery again."""
        path = f"{_ENDPOINTS}/{path_part(endpoint_id)}/deliveries/{path_part(delivery_id)}/redeliver"
        return await self._call("POST", path, DeliveryShape)

    async def collect_runs(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[RunShape]:
        """List the last runs of collection, newest first."""
        return await self._call("GET", "/api/admin/jobs/runs", Listing[RunShape], query=page_query(limit, cursor))

    async def collect_subjects(
        self, *, parked: bool = False, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[SubjectShape]:
        """List whom exporters count, newest first; with `parked` those alone that have no account."""
        query = {"state": "parked" if parked else None, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/exporters/subjects", Listing[SubjectShape], query=query)

    async def assign_subject(self, subject: str, account_id: str) -> AssignedShape:
        """Give those that exporters count under a uuid, or with an e-mail address, an account; those that have another
        are moved from the next minute on."""
        body = AssignBody(subject=subject, account_id=account_id)
        return await self._call("POST", "/api/admin/exporters/subjects/assign", AssignedShape, body=body)

    async def create_budget(self, budget: NewBudget) -> OwnBudgetShape:
        """Make a budget."""
        return await self._call("POST", "/api/billing/budgets", OwnBudgetShape, body=budget)

    async def budgets(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[OwnBudgetShape]:
        """List budgets, newest first, with what was spent of each."""
        query = page_query(limit, cursor)
        return await self._call("GET", "/api/billing/budgets", Listing[OwnBudgetShape], query=query)

    async def update_budget(self, budget_id: str, changes: BudgetPatch) -> OwnBudgetShape:
        """Change a budget."""
        return await self._call("PATCH", f"/api/billing/budgets/{path_part(budget_id)}", OwnBudgetShape, body=changes)

    async def delete_budget(self, budget_id: str) -> None:
        """Remove a budget."""
        await self._send("DELETE", f"/api/billing/budgets/{path_part(budget_id)}")

    async def margin(self, query: dict[str, str | None]) -> MarginsShape:
        """Return charges less costs: `since`, `until`, `by`, `limit`, `cursor`."""
        return await self._call("GET", "/api/admin/margin", MarginsShape, query=query)

    async def reconcile_bill(self, provider: str, body: BillBody) -> BillShape:
        """Have a provider's bill fetched, or take its invoice, and compared with the ledger."""
        return await self._call("POST", f"/api/admin/providers/{path_part(provider)}/bill", BillShape, body=body)

    async def bill(self, provider: str, query: dict[str, str | None]) -> BillShape:
        """Return the bill that was kept last beside the ledger: `since`, `until`, `source`."""
        return await self._call("GET", f"/api/admin/providers/{path_part(provider)}/bill", BillShape, query=query)
