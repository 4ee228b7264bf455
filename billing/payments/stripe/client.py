"""Stripe's library: the one place that imports it, how it is set up, and what its errors mean.

Measured with stripe 16.1.0: without `max_network_retries` of its own a client never retries, whatever the library's
global says; the default client for asyncio wants httpx; an address that is left out of `base_addresses` leads to the
real Stripe; and keys of idempotency that are not given are made anew by each call.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import stripe
from aiohttp import ClientTimeout

from billing.payments.port import CustomerGone, PaymentProviderUnavailable, PaymentRefused
from billing.payments.stripe.parameters import KEY_EXPECTED, LIVE_KEYS, TEST_KEYS

if TYPE_CHECKING:
    from billing.payments.stripe.parameters import Params

API_VERSION: Final = "2026-10-28.endive"
"""The version whose objects `objects` reads. It is sent with each call, so that the account's own doesn't matter."""
API_BASE: Final = "https://api.stripe.com"
PAGE: Final = 100
"""Objects of one page of a list: the most that Stripe gives."""
MOST_PAGES: Final = 1_000
MOST_MESSAGE: Final = 300

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


Method = Callable[..., Awaitable[Any]]
"""A method of one of the library's services, such as `client.v1.refunds.create_async`."""


class AccessRefused(PaymentRefused):
    """Stripe does not take our key: what was asked can be done once the operator has mended that."""

    kind = "unavailable"


class KeyReused(PaymentRefused):
    """An idempotency key was used within a day for a call with other parameters: what that has made is there."""


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
        self.api = client.v1

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
    status, said = error.http_status or 500, _said(error)
    if isinstance(error, stripe.IdempotencyError) and status == 400:
        return KeyReused(f"Stripe has done this before, otherwise: {said}")
    if status >= 500 or status in (409, 429):
        return PaymentProviderUnavailable(f"Stripe failed on its side (status {status}): try again in a moment.")
    param = getattr(error, "param", None)
    # A price that is missing has the same code: only the parameter tells.
    if error.code == "resource_missing" and param == "customer":
        return CustomerGone(f"Stripe has no such customer any more: {said}")
    return PaymentRefused(f"Stripe refused the call{f' for {param}' if param else ''}: {said}")


def _said(error: stripe.StripeError) -> str:
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
        said = error.json_body.get("error") if isinstance(error.json_body, dict) else None
        intent = said.get("payment_intent") if isinstance(said, dict) else None
        intent_id = intent.get("id") if isinstance(intent, dict) else None
        decline = said.get("decline_code") if isinstance(said, dict) else None
        return Decline(intent_id, decline or error.code or "card_declined")
