"""Webhook endpoints of the fake, and the events that it delivers: signed, as snapshots or thin, in any order."""

import json
import time
from datetime import UTC, datetime
from typing import Any

from stripe import WebhookSignature

from tests.support.stripe_fake.state import Object, Refused, State


class Endpoints:
    """Where events go, on the fake's state."""

    def __init__(self, state: State, secret: str) -> None:
        self.state, self.secret = state, secret

    def create(self, params: dict[str, Any]) -> Object:
        """Make an endpoint; its secret is shown now and never again."""
        made = self.state.add(
            "webhook_endpoint",
            "we",
            url=params["url"],
            api_version=params.get("api_version"),
            enabled_events=params["enabled_events"],
            metadata=params.get("metadata", {}),
            status="enabled",
        )
        return made | {"secret": self.secret}

    def update(self, endpoint_id: str, params: dict[str, Any]) -> Object:
        """Change an endpoint; its version can't be."""
        endpoint = self.state.get("webhook_endpoint", endpoint_id)
        if "api_version" in params:
            raise Refused(400, "Received unknown parameter: api_version", param="api_version")
        if "disabled" in params:
            endpoint["status"] = "disabled" if params["disabled"] else "enabled"
        endpoint |= {name: value for name, value in params.items() if name in ("url", "enabled_events", "metadata")}
        return endpoint


def thin(event: Object) -> Object:
    """Return an event as a thin one: its object's id alone."""
    about = event["data"]["object"]
    path = {"checkout.session": "checkout/sessions"}.get(about["object"], f"{about['object']}s")
    related = {"id": about["id"], "type": about["object"], "url": f"/v1/{path}/{about['id']}"}
    return {
        "id": f"{event['id']}_thin",
        "object": "v2.core.event",
        "type": f"v1.{event['type']}",
        "created": datetime.fromtimestamp(event["created"], UTC).isoformat().replace("+00:00", ".000Z"),
        "livemode": event["livemode"],
        "related_object": related,
        "snapshot_event": event["id"],
    }


def signed(event: Object, *secrets: str, at: int | None = None) -> tuple[bytes, dict[str, str]]:
    """Return an event's body and headers, signed by the SDK for each secret as of `at`, else now."""
    body = json.dumps(event, indent=2)
    sent_at = int(time.time()) if at is None else at
    headers = [WebhookSignature.generate_signature_header(body, each, timestamp=sent_at) for each in secrets]
    joined = ",".join([headers[0], *(header.partition(",")[2] for header in headers[1:])])
    return body.encode(), {"stripe-signature": joined, "content-type": "application/json"}
