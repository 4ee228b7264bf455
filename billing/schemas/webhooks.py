"""Webhook endpoints and their deliveries, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.notices.formats import Format
from billing.notices.mail_templates import NoticeType
from billing.schemas.base import Answer, Body, Moment, matching

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2000,
        examples=["https://example.com/hooks"],
        extra_json_schema={"format": "webhook-url"},
    ),
]
RoutingKey = Annotated[
    str,
    matching(
        "[0-9A-Za-z]{32}",
        description="of a service at PagerDuty, for the format `pagerduty`",
        examples=["0123456789abcdef0123456789abcdef"],
    ),
]
Types = Annotated[list[NoticeType], Meta(max_length=50)]
Description = Annotated[str, Meta(max_length=200)]


class NewEndpoint(Body, frozen=True, kw_only=True):
    """Where to send notices, and in which form; without `types` all of them."""

    url: Url
    format: Format = "json"
    routing_key: RoutingKey | None = None
    types: Types | None = None
    description: Description = ""


class EndpointPatch(Body, frozen=True, kw_only=True):
    """A change of an endpoint: what is absent stays as it is, null of `types` means all. Enabling one forgets that it
    has failed."""

    url: Url | UnsetType = UNSET
    format: Format | UnsetType = UNSET
    routing_key: RoutingKey | UnsetType = UNSET
    types: Types | UnsetType | None = UNSET
    description: Description | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class EndpointShape(Answer, frozen=True, kw_only=True):
    """A webhook endpoint. `failing_since` is the first failure since a delivery succeeded; one that is not `enabled`
    gets nothing, for the reason `disabled_reason`."""

    id: str
    account_id: Annotated[str | None, Meta(description="whose notices it gets; null: an operator's, which gets all")]
    url: str
    format: Annotated[Format, Meta(description="what notices look like there")]
    types: list[str] | None
    description: str
    enabled: bool
    failing_since: Moment | None
    disabled_at: Moment | None
    disabled_reason: str | None
    created_at: Moment

    @classmethod
    def of_endpoint(cls, endpoint: Any) -> Self:
        """Return an endpoint."""
        return cls.of(endpoint, enabled=endpoint.disabled_at is None)


class NewEndpointShape(EndpointShape, frozen=True, kw_only=True):
    """An endpoint with its new secret, which is shown this once: deliveries are signed with it."""

    secret: str


class DeliveryShape(Answer, frozen=True, kw_only=True):
    """A notice on its way to an endpoint. `id` is the delivery's, `notice_id` what `webhook-id` says; `error` is why
    the last try failed, `next_attempt_at` when the next one is."""

    id: str
    notice_id: str
    type: str
    state: Literal["waiting", "delivered", "parked"]
    attempts: int
    status: Annotated[int | None, Meta(description="of the last answer")]
    error: str | None
    created_at: Moment
    next_attempt_at: Moment | None
    delivered_at: Moment | None

    @classmethod
    def of_delivery(cls, delivery: Any) -> Self:
        """Return a delivery."""
        done = delivery.delivered_at is not None
        waits = not done and delivery.parked_at is None
        return cls.of(
            delivery,
            state="delivered" if done else "waiting" if waits else "parked",
            next_attempt_at=delivery.next_attempt_at if waits else None,
        )
