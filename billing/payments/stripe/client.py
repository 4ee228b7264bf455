"""Stripe's library: the one place that imports it, how it is set up, what its errors mean; and an operator's set-up.

Measured with stripe 16.1.0: without `max_network_retries` of its own a client never retries, whatever the library's
global says; the default client for asyncio wants httpx; an address that is left out of `base_addresses` leads to the
real Stripe; and keys of idempotency that are not given are made anew by each call.

Set up at Stripe are the webhook endpoint, made and pinned, and the prices of plans, looked at. An endpoint without a
version follows the account's default, whose fields move; and an endpoint's version can't be changed. So one of another
version is replaced: the new one is made first, then the old one is disabled.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import stripe
from aiohttp import ClientTimeout

from billing.payments.port import CURRENCY, CustomerGone, PaymentProviderUnavailable, PaymentRefused
from billing.payments.stripe.events import ENDPOINT_EVENTS
from billing.payments.stripe.objects import KEY_EXPECTED, LIVE_KEYS, TEST_KEYS, UNREADABLE, readable

if TYPE_CHECKING:
    from datetime import datetime

    from billing.payments.stripe.objects import Params


# The version whose objects `objects` reads. It is sent with each call, so that the account's own doesn't matter.
API_VERSION: Final = "2026-10-28.endive"
API_BASE: Final = "https://api.stripe.com"
# Objects of one page of a list: the most that Stripe gives.
PAGE: Final = 100
MOST_PAGES: Final = 1_000
MOST_MESSAGE: Final = 300
EXISTS: Final = "already exists with identifier"

stripe.enable_telemetry = False
# The library logs what it sends when it debugs: names of customers, and the addresses of pages.
logging.getLogger("stripe").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class StripeAccess:
    """How Stripe is reached. A call takes `timeout_s` at most, of which connecting `connect_timeout_s`; one that fails
    on the way or at Stripe's side is tried `retries` times more, with the same idempotency key.

    Raises `ValueError` for a key that is neither of live nor of test mode."""

    api_key: str = field(repr=False)
    api_base: str = API_BASE
    timeout_s: float = 8.0
    connect_timeout_s: float = 4.0
    retries: int = 2

    def __post_init__(self) -> None:
        if not self.api_key.startswith((*LIVE_KEYS, *TEST_KEYS)):
            raise ValueError(f"STRIPE_API_KEY must be {KEY_EXPECTED}")
        if not 0 < self.connect_timeout_s <= self.timeout_s or self.retries < 0:
            raise ValueError("timeouts must be above zero, connecting takes no longer than a call, retries not below 0")

    @property
    def livemode(self) -> bool:
        """Return whether the key moves real money."""
        return self.api_key.startswith(LIVE_KEYS)


# A method of one of the library's services, such as `client.v1.refunds.create_async`.
Method = Callable[..., Awaitable[Any]]


class AccessRefused(PaymentRefused):
    """Stripe does not take our key: what was asked can be done once the operator has mended that."""

    kind = "unavailable"


class KeyReused(PaymentProviderUnavailable):
    """An idempotency key was used within a day for a call with other parameters, and may have made something."""

    key_is_spent = True


class StripeCalls:
    """Calls of Stripe's API, which give objects as plain dictionaries. `api` has the library's services.

    They raise `PaymentProviderUnavailable`, `PaymentRefused` and `CustomerGone`."""

    def __init__(self, access: StripeAccess) -> None:
        base = access.api_base.rstrip("/")
        self._http = stripe.AIOHTTPClient(
            timeout=ClientTimeout(total=access.timeout_s, connect=access.connect_timeout_s)
        )
        client = stripe.StripeClient(
            access.api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": base, "files": base, "connect": base, "meter_events": base},
            http_client=self._http,
            max_network_retries=access.retries,
        )
        self.api, self._v2, self.livemode = client.v1, client.v2, access.livemode

    async def close(self) -> None:
        """Close connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def write(self, method: Method, *ids: str, params: Params, key: str) -> dict[str, Any]:
        """Call a method that changes something, under an idempotency key of ours."""
        async with _translated():
            found: dict[str, Any] = (await method(*ids, params, {"idempotency_key": key})).to_dict()
        return found

    async def read(self, method: Method, *ids: str, params: Params | None = None) -> dict[str, Any]:
        """Call a method that changes nothing."""
        async with _translated():
            found: dict[str, Any] = (await method(*ids, params or {})).to_dict()
        return found

    async def find(self, method: Method, object_id: str, params: Params | None = None) -> dict[str, Any] | None:
        """Return an object by its id, None where there is none."""
        try:
            return await self.read(method, object_id, params=params)
        except CustomerGone:
            return None
        except PaymentRefused as refused:
            if isinstance(refused.__cause__, stripe.InvalidRequestError) and refused.__cause__.http_status == 404:
                return None
            raise

    async def each(self, method: Method, params: Params, *ids: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects of a list, page by page."""
        asked = {"limit": PAGE} | params
        for _ in range(MOST_PAGES):
            page = await self.read(method, *ids, params=asked)
            for found in page["data"]:
                yield found
            if not page.get("has_more") or not page["data"]:
                return
            asked = asked | {"starting_after": page["data"][-1]["id"]}

    async def meter(
        self, event_name: str, customer_id: str, value: int, identifier: str, at: datetime, key: str
    ) -> None:
        """Tell a meter an amount. One that was told under this identifier before is no error: Stripe says that one
        exists with a plain 400, which has no code."""
        payload = {"stripe_customer_id": customer_id, "value": str(value)}
        params = {"event_name": event_name, "payload": payload, "identifier": identifier}
        try:
            made = self.api.billing.meter_events.create_async
            await self.write(made, params=params | {"timestamp": int(at.timestamp())}, key=key)
        except PaymentRefused as refused:
            if EXISTS not in str(refused):
                raise

    async def meter_errors(self, event_id: str) -> dict[str, str]:
        """Return what a report of a meter's errors says: by the key of a call, why its event was refused later. Raises
        `PaymentRefused` for a report that can't be read, too: it stays as it is, however often it is read."""
        event = await self.read(self._v2.core.events.retrieve_async, event_id)
        try:
            kinds = event["data"]["reason"]["error_types"]
            samples = [each for kind in kinds for each in kind["sample_errors"]]
            return {each["request"]["identifier"]: each["error_message"] for each in samples}
        except UNREADABLE as error:
            raise PaymentRefused("it is not as Stripe's API says: look it up at Stripe.") from error

    async def all_of(self, method: Method, params: Params, *ids: str) -> list[dict[str, Any]]:
        """Return a list whole."""
        return [found async for found in self.each(method, params, *ids)]


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Convert the library's errors to those of the port. A declined card is an answer, and left to `declined_by`."""
    try:
        yield
    except stripe.CardError:
        raise
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise PaymentProviderUnavailable("Stripe was not reached, or is too busy: try again in a moment.") from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise AccessRefused(
            "Stripe refuses STRIPE_API_KEY for this call: check that it is in force, and what it is restricted to."
        ) from error
    except stripe.StripeError as error:
        raise _refused(error) from error


def _refused(error: stripe.StripeError) -> PaymentRefused | PaymentProviderUnavailable:
    """Return what an answer means that is neither a decline nor about the key."""
    status, reason = error.http_status or 500, _message(error)
    if isinstance(error, stripe.IdempotencyError) and status == 400:
        return KeyReused(f"Stripe has done this before, otherwise: {reason}")
    if status >= 500 or status in (409, 429):
        failed = PaymentProviderUnavailable(f"Stripe failed on its side (status {status}): try again in a moment.")
        # By https://docs.stripe.com/api/idempotent_requests a stored answer is given again for a day, 500 included.
        failed.key_is_spent = (error.headers or {}).get("idempotent-replayed") == "true"
        return failed
    param = getattr(error, "param", None)
    # A price that is missing has the same code: only the parameter tells.
    if error.code == "resource_missing" and param == "customer":
        return CustomerGone(f"Stripe has no such customer any more: {reason}")
    return PaymentRefused(f"Stripe refused the call{f' for {param}' if param else ''}: {reason}")


def _message(error: stripe.StripeError) -> str:
    return " ".join((error.user_message or "no reason given").split())[:MOST_MESSAGE]


@dataclass(frozen=True, slots=True)
class Decline:
    """A payment that was declined: the intent that it is of, where Stripe says it, and why."""

    intent_id: str | None
    code: str


async def declined_by(call: Awaitable[dict[str, Any]]) -> dict[str, Any] | Decline:
    """Return what a call gives, or by what its payment was declined."""
    try:
        return await call
    except stripe.CardError as error:
        detail = error.json_body.get("error") if isinstance(error.json_body, dict) else None
        intent = detail.get("payment_intent") if isinstance(detail, dict) else None
        intent_id = intent.get("id") if isinstance(intent, dict) else None
        decline = detail.get("decline_code") if isinstance(detail, dict) else None
        return Decline(intent_id, decline or error.code or "card_declined")


@dataclass(frozen=True, slots=True)
class SyncedEndpoint:
    """The endpoint as it is now. Its `secret` is known only where it was made now."""

    id: str
    done: Literal["created", "updated", "unchanged"]
    disabled: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)


@readable()
async def sync_endpoint(calls: StripeCalls, url: str, key: str) -> SyncedEndpoint:
    """Bring the endpoint at `url` to our version and events; `key` is a new idempotency key. Raises
    `port.PaymentError`."""
    service = calls.api.webhook_endpoints
    ours = [each for each in await calls.all_of(service.list_async, {}) if each["url"] == url]
    fitting = [each for each in ours if each["api_version"] == API_VERSION]
    others = [each for each in ours if each not in fitting[:1] and each["status"] == "enabled"]
    disabled = tuple(each["id"] for each in others)
    if fitting:
        synced = SyncedEndpoint(fitting[0]["id"], await _update(calls, fitting[0], key), disabled)
    else:
        params = {"url": url, "api_version": API_VERSION, "enabled_events": list(ENDPOINT_EVENTS)}
        made = await calls.write(service.create_async, params=params, key=f"{key}:create")
        synced = SyncedEndpoint(made["id"], "created", disabled, made["secret"])
    for each in disabled:
        await calls.write(service.update_async, each, params={"disabled": True}, key=f"{key}:{each}")
    return synced


async def _update(calls: StripeCalls, endpoint: Mapping[str, Any], key: str) -> Literal["updated", "unchanged"]:
    """Subscribe an endpoint to all events that are used here; its other events stay."""
    told = list(endpoint["enabled_events"])
    missing = [] if told == ["*"] else [each for each in ENDPOINT_EVENTS if each not in told]
    if not missing and endpoint["status"] == "enabled":
        return "unchanged"
    params = {"enabled_events": told + missing, "disabled": False}
    service = calls.api.webhook_endpoints
    await calls.write(service.update_async, endpoint["id"], params=params, key=f"{key}:update")
    return "updated"


@readable()
async def price_faults(calls: StripeCalls, prices: Mapping[str, int]) -> Sequence[str]:
    """Return what is wrong with plans' prices at Stripe, a sentence each; `prices` are the cents that each is to cost a
    month. Raises `port.PaymentError`."""
    faults = []
    for price_id, cents in prices.items():
        found = await calls.find(calls.api.prices.retrieve_async, price_id)
        if found is None:
            faults.append(f"{price_id}: Stripe has no such price in the mode of this key.")
            continue
        price = (found["currency"], found["unit_amount"], _interval(found), found["active"])
        if price != (CURRENCY, cents, "month", True):
            currency, amount, interval, active = price
            state = "" if active else ", and it is not active"
            faults.append(f"{price_id}: {amount} {currency} a {interval}, not {cents} {CURRENCY} a month{state}.")
    return faults


def _interval(price: Mapping[str, Any]) -> str:
    recurring = price.get("recurring")
    if recurring is None:
        return "payment"
    count = recurring["interval_count"]
    return str(recurring["interval"]) if count == 1 else f"{count} {recurring['interval']}s"
