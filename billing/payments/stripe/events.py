"""Stripe's events as they are delivered: whether Stripe signed one, and which object it names. Pure.

The signature is over the raw bytes (https://docs.stripe.com/webhooks#verify-manually): `t=SECONDS,v1=HEX,...`, one `v1`
per secret while one rotates. A snapshot event holds an object as it was, a thin one (`v2.core.event`) its id alone: of
both only the id is taken.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.payments.port import Event, ObjectKind, ObjectRef, PaymentEventRefused
from billing.times import parse_rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# How far an event's time of sending may be from now, as Stripe's own libraries have it: older ones are replays.
TOLERANCE_S: Final = 300
SIGNATURE_HEADER: Final = "stripe-signature"
MOST_SIGNATURES: Final = 16
_THIN: Final = "v2.core.event"
# What types of objects of the first API begin with in thin events.
_THIN_PREFIX: Final = "v1."
# Objects by their names at Stripe: the kind that is fetched, and the field with its id. Some are parts of another
# object, which is fetched in their place.
OBJECTS: Final[Mapping[str, tuple[ObjectKind, str]]] = {
    "checkout.session": ("checkout", "id"),
    "payment_intent": ("payment", "id"),
    "refund": ("refund", "id"),
    "dispute": ("dispute", "id"),
    "invoice": ("invoice", "id"),
    "subscription": ("subscription", "id"),
    "customer": ("customer", "id"),
    "charge": ("payment", "payment_intent"),
    "invoice_payment": ("invoice", "invoice"),
    "subscription_schedule": ("subscription", "subscription"),
    "payment_method": ("customer", "customer"),
    "setup_intent": ("customer", "customer"),
}
# What our endpoint subscribes to. Others do no harm: they are acknowledged.
ENDPOINT_EVENTS: Final = (
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.updated",
    "charge.refunded",
    "checkout.session.async_payment_failed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.subscription.resumed",
    "customer.subscription.updated",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_action_required",
    "invoice.payment_failed",
    "invoice.voided",
    "payment_intent.canceled",
    "payment_intent.payment_failed",
    "payment_intent.processing",
    "payment_intent.succeeded",
    "refund.created",
    "refund.failed",
    "refund.updated",
)


def verify(body: bytes, header: str, secrets: Sequence[str], now: datetime) -> None:
    """Refuse a delivery that none of the secrets has signed, or that is more than `TOLERANCE_S` from `now`. Raises
    `PaymentEventRefused`."""
    sent_at, signatures = _signed(header)
    signed = b"%d." % sent_at + body
    found = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, sha256).hexdigest()
        for signature in signatures:
            found |= hmac.compare_digest(expected, signature)
    if not found:
        raise PaymentEventRefused("The Stripe-Signature header fits none of the secrets in STRIPE_WEBHOOK_SECRET.")
    if abs(now.timestamp() - sent_at) > TOLERANCE_S:
        raise PaymentEventRefused(
            f"The event was signed more than {TOLERANCE_S} s from now: check this machine's clock."
        )


def _signed(header: str) -> tuple[int, list[str]]:
    """Return when a header says that it was signed, in Unix seconds, and its signatures."""
    sent_at, signatures = -1, []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:
            sent_at = int(value)
        elif name == "v1" and value.isascii():
            signatures.append(value)
    if sent_at < 0 or not signatures:
        raise PaymentEventRefused("The Stripe-Signature header is missing, or not `t=SECONDS,v1=HEX`.")
    return sent_at, signatures[:MOST_SIGNATURES]


def read(body: bytes) -> Event:
    """Return a verified event, snapshot or thin. Raises `PaymentEventRefused` for what is none."""
    try:
        event: Any = msgspec.json.decode(body)
        thin = event["object"] == _THIN
        if not thin and event["object"] != "event":
            raise PaymentEventRefused("The body is not an event of Stripe's.")
        about = event.get("related_object") if thin else event["data"]["object"]
        return Event(
            _text(event["id"]),
            _text(event["type"]).removeprefix(_THIN_PREFIX),
            None if about is None else _ref(about, thin),
            event["livemode"] is True,
            parse_rfc3339(event["created"]) if thin else datetime.fromtimestamp(event["created"], UTC),
        )
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise PaymentEventRefused("The body is not an event of Stripe's.") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():  # Postgres takes no NUL
        raise TypeError("not a name")
    return value


def _ref(about: dict[str, Any], thin: bool) -> ObjectRef | None:
    """Return the object that an event is about, or the one that it is a part of; None where that isn't ours to know."""
    name = about["type" if thin else "object"]
    if name not in OBJECTS:
        return None
    kind, field = OBJECTS[name]
    object_id = about["id"] if field == "id" else about.get(field)
    if field != "id" and not (isinstance(object_id, str) and object_id):
        return None
    return ObjectRef(kind, _text(object_id))
