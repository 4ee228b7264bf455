"""/api/webhooks/endpoints and /api/admin/webhooks/endpoints: where customers, and operators, have notices sent to.

The same calls serve both: those below /api/admin are about the operators' own endpoints, which get the notices of all
accounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from billing.api.operations import WebhookOperations
from billing.api.requests import listing, page_asked
from billing.api.route import Call, serves
from billing.schemas.webhooks import DeliveryShape, EndpointPatch, EndpointShape, NewEndpoint, NewEndpointShape

if TYPE_CHECKING:
    from billing.schemas.base import Listing, PageQuery

ADMIN: Final = "/api/admin"


@serves(WebhookOperations.add_webhook_endpoint, WebhookOperations.add_webhook_of_operators)
async def create_webhook(call: Call, body: NewEndpoint) -> NewEndpointShape:
    """Create a webhook endpoint. The answer holds the secret that deliveries are signed with, as Standard Webhooks
    (https://www.standardwebhooks.com) has it; it is shown this once."""
    made = await call.services.endpoints.create(
        _owner(call),
        body.url,
        body.types,
        body.description,
        format=body.format,
        routing_key=body.routing_key,
        actor=call.actor,
    )
    return NewEndpointShape.of_endpoint(made)


@serves(WebhookOperations.webhook_endpoints, WebhookOperations.webhooks_of_operators)
async def list_webhooks(call: Call, query: PageQuery) -> Listing[EndpointShape]:
    """List webhook endpoints, newest first."""
    return listing(await call.services.endpoints.page(_owner(call), *page_asked(query)), EndpointShape.of_endpoint)


@serves(WebhookOperations.webhook_endpoint, WebhookOperations.webhook_of_operators)
async def get_webhook(call: Call) -> EndpointShape:
    """Return a webhook endpoint, without its secret."""
    return EndpointShape.of_endpoint(await call.services.endpoints.get(*_which(call)))


@serves(WebhookOperations.update_webhook_endpoint, WebhookOperations.update_webhook_of_operators)
async def update_webhook(call: Call, body: EndpointPatch) -> EndpointShape:
    """Change a webhook endpoint: what is absent stays as it is."""
    given = {name: getattr(body, name) for name in ("url", "format", "routing_key", "types", "description", "enabled")}
    changes = {name: value for name, value in given.items() if value is not UNSET}
    return EndpointShape.of_endpoint(await call.services.endpoints.update(*_which(call), changes, actor=call.actor))


@serves(WebhookOperations.remove_webhook_endpoint, WebhookOperations.remove_webhook_of_operators)
async def delete_webhook(call: Call) -> None:
    """Remove a webhook endpoint, with its deliveries."""
    await call.services.endpoints.delete(*_which(call), actor=call.actor)


@serves(WebhookOperations.rotate_webhook_secret, WebhookOperations.rotate_webhook_of_operators)
async def rotate_webhook(call: Call) -> NewEndpointShape:
    """Give a webhook endpoint a new secret. For a day deliveries are signed by the one before, too."""
    return NewEndpointShape.of_endpoint(await call.services.endpoints.rotate(*_which(call), actor=call.actor))


@serves(WebhookOperations.send_test_notice, WebhookOperations.test_webhook_of_operators)
async def test_webhook(call: Call) -> DeliveryShape:
    """Send a notice of the type `test` to a webhook endpoint. The delivery is listed with the others."""
    return DeliveryShape.of_delivery(await call.services.endpoints.test(*_which(call)))


@serves(WebhookOperations.webhook_deliveries, WebhookOperations.deliveries_of_operators)
async def list_deliveries(call: Call, query: PageQuery) -> Listing[DeliveryShape]:
    """List deliveries to a webhook endpoint, newest first, and what became of each."""
    return listing(
        await call.services.endpoints.deliveries(*_which(call), *page_asked(query)), DeliveryShape.of_delivery
    )


@serves(WebhookOperations.redeliver, WebhookOperations.redeliver_of_operators)
async def redeliver(call: Call) -> DeliveryShape:
    """Send a delivery again, whatever became of it: with the same `webhook-id`, and all of its tries."""
    endpoint_id, account_id = _which(call)
    again = call.services.endpoints.redeliver
    return DeliveryShape.of_delivery(await again(endpoint_id, call.id("delivery_id"), account_id))


def _owner(call: Call) -> str | None:
    """Return the account that the endpoints of this call belong to; None: the operators'."""
    return None if call.request.path.startswith(f"{ADMIN}/") else call.account_id


def _which(call: Call) -> tuple[str, str | None]:
    return call.id("endpoint_id"), _owner(call)
