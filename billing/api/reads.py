"""What operators read of all requests, behind the admin key; and which image runs, which is open.

The audit log is read here, too: /api/admin/audit for operators, /api/account/audit of an account for who has
`audit:read` there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from billing.api.errors import NotFound, Unavailable
from billing.api.requests import listing, moment, page_asked
from billing.api.route import Access, Call, Route
from billing.audit import AuditFilter
from billing.errors import StoreError
from billing.identity.permissions import AUDIT_READ
from billing.pages import Page
from billing.shapes.audit import AuditQuery, AuditShape, OwnAuditQuery, audit_shape
from billing.shapes.base import Listing
from billing.shapes.operation import ImageShape, ProviderShape, RefusedQuery, RefusedShape, refused_shape

REFUSALS: Final = "/api/admin/refusals"
PROVIDERS: Final = "/api/admin/providers"
_IMAGE: Final = re.compile(
    r"(?P<name>[^\s:@]+(?::\d+(?=/)[^\s:@]*)?):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_COMMIT: Final = re.compile(r"sha-([0-9a-f]{40})")


async def list_refusals(call: Call, query: RefusedQuery) -> Listing[RefusedShape]:
    """List the last requests that were refused, newest first, on one page."""
    with _redis_needed():
        found = await call.services.refused.newest(query.limit, key_id=query.key_id, account_id=query.account_id)
    return listing(Page(tuple(found), None), refused_shape)


async def get_refusal(call: Call) -> RefusedShape:
    """Return a refused request by its x-request-id, as long as it is kept."""
    request_id = call.id("request_id")
    with _redis_needed():
        found = await call.services.refused.find(request_id)
    if found is None:
        raise NotFound(f"No refusal of {request_id!r} is kept.")
    return refused_shape(found)


@contextmanager
def _redis_needed(what: str = "the refusals") -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise Unavailable(f"Redis, which has {what}, is temporarily unavailable; try again.") from error


async def list_providers(call: Call) -> Listing[ProviderShape]:
    """List the providers of the configuration, whether they are on, and the health of their base URLs and keys as the
    gateways have found it."""
    with _redis_needed("the health of providers"):
        found = await call.services.providers()
    return Listing(data=found, next_cursor=None)


async def ping(call: Call) -> ImageShape:
    """Return which image runs, from the variable IMAGE; what can't be read from it is empty."""
    return image_identity(call.services.image)


def image_identity(image: str) -> ImageShape:
    """Return what an image's name says: `registry/name:sha-<40 hex>` gives all four fields; another tag gives no commit
    and is the version itself; all are empty when the name is missing or malformed."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        return ImageShape()
    tag = match["tag"]
    sha = _COMMIT.fullmatch(tag)
    commit = sha[1] if sha else ""
    return ImageShape(image=image, tag=tag, commit=commit, version=commit or tag)


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
    Route("GET", REFUSALS, list_refusals, Access.admin, Listing[RefusedShape], query=RefusedQuery),
    Route("GET", f"{REFUSALS}/{{request_id}}", get_refusal, Access.admin, RefusedShape),
    Route("GET", PROVIDERS, list_providers, Access.admin, Listing[ProviderShape]),
    Route("GET", "/api/ping", ping, Access.anyone, ImageShape),
    Route("GET", "/api/admin/audit", list_audit, Access.admin, Listing[AuditShape], query=AuditQuery),
    Route(
        *("GET", "/api/account/audit", list_own_audit, Access.caller, Listing[AuditShape]),
        query=OwnAuditQuery,
        scope=AUDIT_READ,
    ),
)
