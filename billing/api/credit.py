"""Credit: what of it is left in which lot, for customers and operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.requests import listing, page_asked
from billing.api.route import Access, Call, Route, customer_read
from billing.shapes.base import Listing
from billing.shapes.credit import LotShape, LotsQuery, lot_shape

if TYPE_CHECKING:
    from billing.api.services import Services

LOTS: Final = "/api/billing/lots"
ACCOUNT_LOTS: Final = "/api/admin/accounts/{account_id}/lots"


async def list_lots(call: Call, query: LotsQuery) -> Listing[LotShape]:
    """List the lots of the account's credit, newest first, with what is left of each."""
    return await _lots(call.services, call.account_id, query)


async def list_account_lots(call: Call, query: LotsQuery) -> Listing[LotShape]:
    """List the lots of an account's credit, newest first, with what is left of each."""
    account = await call.services.accounts.get(call.id("account_id"))
    return await _lots(call.services, account.id, query)


async def _lots(services: Services, account_id: str, query: LotsQuery) -> Listing[LotShape]:
    limit, after = page_asked(query)
    return listing(await services.lots.page(account_id, limit, after, open_only=query.open == "true"), lot_shape)


ROUTES: Final = (
    customer_read(LOTS, list_lots, Listing[LotShape], LotsQuery),
    Route("GET", ACCOUNT_LOTS, list_account_lots, Access.admin, Listing[LotShape], query=LotsQuery),
)
