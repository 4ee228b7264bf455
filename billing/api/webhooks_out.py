"""/api/webhooks/endpoints and /api/admin/webhooks/endpoints: where customers, and operators, have notices sent to.

The same calls serve both: those below /api/admin are about the operators' own endpoints, which get the notices of all
accounts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import UNSET

from billing.api.requests import listing, page_asked
from billing.api.route import Access, Call, Route
from billing.identity.permissions import BILLING_READ, BILLING_SETUP
from billing.schemas.base import Listing, PageQuery
from billing.schemas.webhooks import (
    DeliveryShape,
    EndpointPatch,
    EndpointShape,
    NewEndpoint,
    NewEndpointShape,
    delivery_shape,
    endpoint_shape,
    new_endpoint_shape,
)

ENDPOINTS: Final = "/webhooks/endpoints"
ENDPOINT: Final = f"{ENDPOINTS}/{{endpoint_id}}"
DELIVERIES: Final = f"{ENDPOINT}/deliveries"
ADMIN: Final = "/api/admin"


async def create_webhook(call: Call, body: NewEndpoint) -> NewEndpointShape:
    """Create a webhook endpoint. The answer holds the secret that deliveries are signed with, as Standard Webhooks
    (https://www.standardwebhooks.com) has it; it is shown this once."""
    asked = (_owner(call), body.url, body.types, body.description)
    return new_endpoint_shape(await call.services.endpoints.create(*asked, actor=call.actor))


async def list_webhooks(call: Call, query: PageQuery) -> Listing[EndpointShape]:
    """List webhook endpoints, newest first."""
    return listing(await call.services.endpoints.page(_owner(call), *page_asked(query)), endpoint_shape)


async def get_webhook(call: Call) -> EndpointShape:
    """Return a webhook endpoint, without its secret."""
    return endpoint_shape(await call.services.endpoints.get(*_which(call)))


async def update_webhook(call: Call, body: EndpointPatch) -> EndpointShape:
    """Change a webhook endpoint: what is absent stays as it is."""
    given = {name: getattr(body, name) for name in ("url", "types", "description", "enabled")}
    changes = {name: value for name, value in given.items() if value is not UNSET}
    return endpoint_shape(await call.services.endpoints.update(*_which(call), changes, actor=call.actor))


async def delete_webhook(call: Call) -> None:
    """Remove a webhook endpoint, with its deliveries."""
    await call.services.endpoints.delete(*_which(call), actor=call.actor)


async def rotate_webhook(call: Call) -> NewEndpointShape:
    """Give a webhook endpoint a new secret. For a day deliveries are signed by the one before, too."""
    return new_endpoint_shape(await call.services.endpoints.rotate(*_which(call), actor=call.actor))


async def test_webhook(call: Call) -> DeliveryShape:
    """Send a notice of the type `test` to a webhook endpoint. The delivery is listed with the others."""
    return delivery_shape(await call.services.endpoints.test(*_which(call)))


async def list_deliveries(call: Call, query: PageQuery) -> Listing[DeliveryShape]:
    """List deliveries to a webhook endpoint, newest first, and what became of each."""
    return listing(await call.services.endpoints.deliveries(*_which(call), *page_asked(query)), delivery_shape)


async def redeliver(call: Call) -> DeliveryShape:
    """Send a delivery again, whatever became of it: with the same `webhook-id`, and all of its tries."""
    endpoint_id, account_id = _which(call)
    again = call.services.endpoints.redeliver
    return delivery_shape(await again(endpoint_id, call.id("delivery_id"), account_id))


def _owner(call: Call) -> str | None:
    """Return the account that the endpoints of this call belong to; None: the operators'."""
    return None if call.request.path.startswith(f"{ADMIN}/") else call.account_id


def _which(call: Call) -> tuple[str, str | None]:
    return call.id("endpoint_id"), _owner(call)


def _both(
    method: str, path: str, handler: Callable[..., Awaitable[Any]], answer: Any = None, **more: Any
) -> list[Route]:
    """Return the routes of a call for customers, with their scope, and for operators."""
    scope = BILLING_READ if method == "GET" else BILLING_SETUP
    about_operators = f"{' '.join((handler.__doc__ or '').split())} Of the operators' own, which get all notices."
    return [
        Route(method, f"/api{path}", handler, Access.caller, answer, scope=scope, **more),
        Route(
            *(method, f"{ADMIN}{path}", handler, Access.admin, answer),
            name=f"{handler.__name__}_of_operators",
            summary=about_operators,
            **more,
        ),
    ]


ROUTES: Final = (
    *_both("POST", ENDPOINTS, create_webhook, NewEndpointShape, body=NewEndpoint, status=201),
    *_both("GET", ENDPOINTS, list_webhooks, Listing[EndpointShape], query=PageQuery),
    *_both("GET", ENDPOINT, get_webhook, EndpointShape),
    *_both("PATCH", ENDPOINT, update_webhook, EndpointShape, body=EndpointPatch),
    *_both("DELETE", ENDPOINT, delete_webhook, status=204),
    *_both("POST", f"{ENDPOINT}/rotate", rotate_webhook, NewEndpointShape),
    *_both("POST", f"{ENDPOINT}/test", test_webhook, DeliveryShape, status=202),
    *_both("GET", DELIVERIES, list_deliveries, Listing[DeliveryShape], query=PageQuery),
    *_both("POST", f"{DELIVERIES}/{{delivery_id}}/redeliver", redeliver, DeliveryShape, status=202),
)
