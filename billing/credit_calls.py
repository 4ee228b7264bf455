"""The billing API's calls about credit: lots, coupons, grants with terms, and budgets.

A `CreditCalls` takes the admin key for those of operators, and a person's token or an API key for the others.
"""

from billing.calls import BillingCalls, page_query, path_part
from billing.pages import DEFAULT_LIMIT
from billing.shapes.accounts import GrantShape, NewCredit
from billing.shapes.base import Listing
from billing.shapes.budgets import BudgetPatch, NewBudget, OwnBudgetShape
from billing.shapes.credit import (
    CouponCodeBody,
    CouponShape,
    LotShape,
    NewCouponBody,
    NewCouponShape,
    RedeemedShape,
)


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

    # Budgets of one's own account

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
