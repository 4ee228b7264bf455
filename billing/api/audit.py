"""The audit log: /api/admin/audit for operators, /api/account/audit of an account for who has `audit:read` there."""

from typing import Final

from billing.api.requests import listing, moment, page_asked
from billing.api.route import Access, Call, Route
from billing.audit import AuditFilter
from billing.identity.permissions import AUDIT_READ
from billing.shapes.audit import AuditQuery, AuditShape, OwnAuditQuery, audit_shape
from billing.shapes.base import Listing


async def list_audit(call: Call, query: AuditQuery) -> Listing[AuditShape]:
    """List what was done, newest first."""
    only = AuditFilter(
        account_id=query.account_id,
        user_id=query.user_id,
        actor=query.actor,
        action=query.action,
        since=moment("since", query.since),
        until=moment("until", query.until),
    )
    return listing(await call.services.audit.page(only, *page_asked(query)), audit_shape)


async def list_own_audit(call: Call, query: OwnAuditQuery) -> Listing[AuditShape]:
    """List what was done to the account, newest first. Operators' addresses are left out."""
    only = AuditFilter(
        account_id=call.account_id,
        actor=query.actor,
        action=query.action,
        since=moment("since", query.since),
        until=moment("until", query.until),
        own=True,
    )
    return listing(await call.services.audit.page(only, *page_asked(query)), audit_shape)


ROUTES: Final = (
    Route("GET", "/api/admin/audit", list_audit, Access.admin, Listing[AuditShape], query=AuditQuery),
    Route(
        *("GET", "/api/account/audit", list_own_audit, Access.caller, Listing[AuditShape]),
        query=OwnAuditQuery,
        scope=AUDIT_READ,
    ),
)
