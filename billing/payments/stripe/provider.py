"""Stripe behind the port: `StripePayments`, put together from calls, parameters and objects. The one place that imports
Stripe's library: how it is set up, what its errors mean; and an operator's set-up.

Measured with stripe 16.1.0: without `max_network_retries` of its own a client never retries, whatever the library's
global says; the default client for asyncio wants httpx; an address that is left out of `base_addresses` leads to the
real Stripe; and keys of idempotency that are not given are made anew by each call.

Set up at Stripe are the webhook endpoint, made and pinned, and the prices of plans, looked at. An endpoint without a
version follows the account's default, whose fields move; and an endpoint's version can't be changed. So one of another
version is replaced: the new one is made first, then the old one is disabled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import stripe
from aiohttp import ClientTimeout

from billing.payments.port import (
    CURRENCY,
    CustomerGone,
    HostedPage,
    ObjectKind,
    ObjectRef,
    Payment,
    PaymentError,
    PaymentProviderUnavailable,
    PaymentRefused,
)
from billing.payments.stripe import events, objects
from billing.payments.stripe.events import ENDPOINT_EVENTS
from billing.payments.stripe.objects import (
    KEY_EXPECTED,
    LIVE_KEYS,
    ORDER,
    TEST_KEYS,
    UNREADABLE,
    CheckoutRules,
    Params,
    readable,
)

if TYPE_CHECKING:
    from datetime import datetime

    from billing.payments.port import (
        Customer,
        Event,
        Invoice,
        NewCustomer,
        ProviderObject,
        Purchase,
        Refund,
        ReturnUrls,
        Subscription,
    )

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


_ORDER_ID: Final = re.compile("[A-Za-z0-9_-]{1,64}", re.ASCII)
NO_METHOD: Final = "no_payment_method"
When = Literal["now", "period_end"]


class StripePayments:
    """Stripe as a `PaymentProvider`. `deployment` marks what is ours, `secrets` sign its events, `now` is the clock."""

    name: Final = "stripe"

    def __init__(
        self,
        access: StripeAccess,
        secrets: Sequence[str],
        deployment: str,
        now: Callable[[], datetime],
        rules: CheckoutRules | None = None,
    ) -> None:
        self.livemode, self.calls = access.livemode, StripeCalls(access)
        self._secrets, self._deployment, self._now = tuple(secrets), deployment, now
        self._rules = rules or CheckoutRules()

    async def close(self) -> None:
        """Close connections."""
        await self.calls.close()

    @objects.readable()
    async def ensure_customer(self, customer: NewCustomer, key: str) -> str:
        """Create a customer, once per key. Raises as the port says; so do the others."""
        params = objects.customer_params(customer, self._deployment)
        made = await self.calls.write(self.calls.api.customers.create_async, params=params, key=key)
        return str(made["id"])

    @objects.readable()
    async def checkout(self, purchase: Purchase, urls: ReturnUrls, key: str) -> HostedPage:
        """Open a page at which a purchase is paid. It ends by itself after 24 hours."""
        params = objects.checkout_params(purchase, urls, self._deployment, self._rules)
        made = await self.calls.write(self.calls.api.checkout.sessions.create_async, params=params, key=key)
        return HostedPage(made["id"], made["url"], objects.moment(made["expires_at"]))

    @objects.readable()
    async def expire_checkout(self, checkout_id: str, key: str) -> None:
        """Close a page that was not paid; one that is closed or paid stays as it is."""
        sessions = self.calls.api.checkout.sessions
        try:
            await self.calls.write(sessions.expire_async, checkout_id, params={}, key=key)
        except PaymentRefused:
            found = await self.calls.find(sessions.retrieve_async, checkout_id)
            if found is not None and found["status"] == "open":
                raise

    @objects.readable()
    async def setup(self, customer_id: str, urls: ReturnUrls, key: str) -> HostedPage:
        """Open a page at which a payment method is saved without paying."""
        params = objects.setup_params(customer_id, urls, CURRENCY, self._deployment)
        made = await self.calls.write(self.calls.api.checkout.sessions.create_async, params=params, key=key)
        return HostedPage(made["id"], made["url"], objects.moment(made["expires_at"]))

    @objects.readable()
    async def portal(self, customer_id: str, return_url: str, key: str) -> HostedPage:
        """Open the customer portal."""
        params: Params = {"customer": customer_id, "return_url": return_url}
        made = await self.calls.write(self.calls.api.billing_portal.sessions.create_async, params=params, key=key)
        return HostedPage(made["id"], made["url"], None)

    @objects.readable()
    async def charge(self, purchase: Purchase, key: str) -> Payment:
        """Charge the saved payment method without the payer; a decline is a payment that has failed."""
        method = await self._method(purchase.customer_id)
        if method is None:
            return objects.not_charged(purchase, NO_METHOD, self.livemode, self._now())
        params = objects.charge_params(purchase, method["id"], self._deployment)
        api = self.calls.api
        try:
            made = await declined_by(self.calls.write(api.payment_intents.create_async, params=params, key=key))
        except PaymentError as error:
            # By another method, which the customer has changed since; or it failed, and was made all the same.
            earlier = await self._earlier(purchase.order_id, purchase.customer_id) if error.key_is_spent else None
            if earlier is None:
                raise
            return earlier
        if not isinstance(made, Decline):
            return objects.payment_of(made)
        found = None if made.intent_id is None else await self._payment(made.intent_id)
        return found or objects.not_charged(purchase, made.code, self.livemode, self._now())

    @objects.readable()
    async def find_payment(self, order_id: str, customer_id: str | None = None) -> Payment | None:
        """Return the newest payment of an order. Stripe's search, for payments of other customers, is up to a minute
        behind, or more when it is not well (https://docs.stripe.com/search#data-freshness); lists are not."""
        if _ORDER_ID.fullmatch(order_id) is None:
            return None
        if customer_id is not None and (listed := await self._earlier(order_id, customer_id)) is not None:
            return listed
        query = f"metadata['{ORDER}']:'{order_id}'"
        found = await self.calls.read(self.calls.api.payment_intents.search_async, params={"query": query})
        newest = max(found["data"], key=lambda each: each["created"], default=None)
        return None if newest is None else await self._payment(newest["id"])

    async def _earlier(self, order_id: str, customer_id: str) -> Payment | None:
        """Return the newest payment that was made for an order before, among the customer's last ones."""
        params: Params = {"customer": customer_id, "limit": PAGE}
        page = await self.calls.read(self.calls.api.payment_intents.list_async, params=params)
        found = [each["id"] for each in page["data"] if objects.marks_of(each).get(ORDER) == order_id]
        return await self._payment(found[0]) if found else None

    @objects.readable()
    async def cancel_payment(self, payment_id: str, key: str) -> None:
        """Cancel a payment that is open."""
        await self.calls.write(self.calls.api.payment_intents.cancel_async, payment_id, params={}, key=key)

    @objects.readable()
    async def refund(self, payment_id: str, amount_cents: int, name: str, key: str | None = None) -> Refund:
        """Return a part of a payment to the payer, or all of it, once by `name`: the payment's refunds are listed
        first, by which one is found whose key Stripe has forgotten, or has kept a failure for."""
        refunds = self.calls.api.refunds
        listed = await self.calls.all_of(refunds.list_async, {"payment_intent": payment_id})
        made = objects.refund_made(listed, name)
        if made is None:
            params = objects.refund_params(payment_id, amount_cents, name, self._deployment)
            made = await self.calls.write(refunds.create_async, params=params, key=key or name)
        return objects.refund_of(made)

    @objects.readable()
    async def change_plan(self, subscription_id: str, price_id: str, when: When, key: str) -> Subscription:
        """Change a subscription's price. Now: what is left is credited, the rest charged at once, and the change comes
        about with its payment; at the period's end: by a schedule."""
        subscription = await self._subscription(subscription_id)
        if when == "now":
            await self._release(subscription, key)
            params = objects.upgrade_params(subscription["items"]["data"][0]["id"], price_id)
            return await self._update(subscription_id, params, key)
        schedules = self.calls.api.subscription_schedules
        schedule = subscription.get("schedule")
        if schedule is None:
            asked: Params = {"from_subscription": subscription_id}
            schedule = await self.calls.write(schedules.create_async, params=asked, key=f"{key}:schedule")
        asked = objects.downgrade_params(schedule, price_id)
        await self.calls.write(schedules.update_async, schedule["id"], params=asked, key=key)
        return objects.subscription_of(await self._subscription(subscription_id))

    @objects.readable()
    async def cancel(self, subscription_id: str, when: When, key: str) -> Subscription:
        """Cancel a subscription: now, giving nothing back, or at the period's end."""
        await self._release(await self._subscription(subscription_id), key)
        if when == "period_end":
            return await self._update(subscription_id, {"cancel_at_period_end": True}, key)
        await self.calls.write(self.calls.api.subscriptions.cancel_async, subscription_id, params={}, key=key)
        return objects.subscription_of(await self._subscription(subscription_id))

    @objects.readable()
    async def resume(self, subscription_id: str, key: str) -> Subscription:
        """Take back a cancellation, or a change, that has not come about yet."""
        subscription = await self._subscription(subscription_id)
        await self._release(subscription, key)
        params = objects.resume_params(subscription)
        if not params:
            return objects.subscription_of(await self._subscription(subscription_id))
        return await self._update(subscription_id, params, key)

    @objects.readable()
    async def fetch(self, ref: ObjectRef) -> ProviderObject | None:
        """Return an object as it is now; None: there is none, it was deleted, or it is no part of a payment."""
        api, find = self.calls.api, self.calls.find
        match ref.kind:
            case "payment":
                return await self._payment(ref.id)
            case "checkout":
                found = await find(api.checkout.sessions.retrieve_async, ref.id)
                return None if found is None else objects.checkout_of(found)
            case "refund":
                found = await find(api.refunds.retrieve_async, ref.id)
                return None if found is None or not found.get("payment_intent") else objects.refund_of(found)
            case "dispute":
                found = await find(api.disputes.retrieve_async, ref.id)
                return None if found is None or not found.get("payment_intent") else objects.dispute_of(found)
            case "invoice":
                return await self._invoice(ref.id)
            case "subscription":
                found = await find(api.subscriptions.retrieve_async, ref.id, {"expand": ["schedule"]})
                return None if found is None else objects.subscription_of(found)
            case "customer":
                return await self._customer(ref.id)

    async def list_since(self, kind: ObjectKind, since: datetime) -> AsyncIterator[ObjectRef]:
        """Yield the objects of a kind that were made since then, newest first."""
        api = self.calls.api
        listed = {
            "payment": api.payment_intents,
            "checkout": api.checkout.sessions,
            "refund": api.refunds,
            "dispute": api.disputes,
            "invoice": api.invoices,
            "subscription": api.subscriptions,
            "customer": api.customers,
        }[kind]
        params: Params = {"status": "all"} if kind == "subscription" else {}
        params["created"] = {"gte": int(since.timestamp())}
        async with objects.readable():
            async for found in self.calls.each(listed.list_async, params):  # type: ignore[attr-defined]
                yield ObjectRef(kind, found["id"])

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        """Return an event that was delivered. Raises `PaymentEventRefused`."""
        events.verify(body, headers.get(events.SIGNATURE_HEADER, ""), self._secrets, self._now())
        return events.read(body)

    async def _payment(self, payment_id: str) -> Payment | None:
        """Return a payment intent with what belongs to it."""
        api, calls = self.calls.api, self.calls
        intent = await calls.find(api.payment_intents.retrieve_async, payment_id, {"expand": ["latest_charge"]})
        if intent is None:
            return None
        of_it: Params = {"payment_intent": payment_id}
        sessions = await calls.read(api.checkout.sessions.list_async, params=of_it | {"limit": 1})
        session = sessions["data"][0] if sessions["data"] else None
        invoice = None
        if session is None and not intent["metadata"].get(objects.DEPLOYMENT):
            invoice = await self._paid_invoice(payment_id)
        if intent.get("latest_charge") is None:
            return objects.payment_of(intent, session, invoice)
        refunds = await calls.all_of(api.refunds.list_async, of_it)
        disputes = await calls.all_of(api.disputes.list_async, of_it)
        return objects.payment_of(intent, session, invoice, refunds, disputes)

    async def _paid_invoice(self, payment_id: str) -> dict[str, Any] | None:
        """Return the invoice that a payment was made for: since 2025 intents don't say it themselves."""
        api = self.calls.api
        params: Params = {"payment": {"type": "payment_intent", "payment_intent": payment_id}, "limit": 1}
        found = await self.calls.read(api.invoice_payments.list_async, params=params)
        if not found["data"]:
            return None
        return await self.calls.find(api.invoices.retrieve_async, objects.id_of(found["data"][0]["invoice"]) or "")

    async def _invoice(self, invoice_id: str) -> Invoice | None:
        api = self.calls.api
        invoice = await self.calls.find(api.invoices.retrieve_async, invoice_id, {"expand": ["payments"]})
        if invoice is None:
            return None
        lines = invoice["lines"]["data"]
        if invoice["lines"].get("has_more"):
            lines = await self.calls.all_of(api.invoices.line_items.list_async, {}, invoice_id)
        return objects.invoice_of(invoice, lines)

    async def _customer(self, customer_id: str) -> Customer | None:
        customer = await self.calls.find(self.calls.api.customers.retrieve_async, customer_id)
        if customer is None or customer.get("deleted"):
            return None
        return objects.customer_of(customer, await self._method(customer_id))

    async def _method(self, customer_id: str) -> dict[str, Any] | None:
        """Return the payment method that a customer is charged by: the default one, else what was saved last. Raises
        `CustomerGone`."""
        customers = self.calls.api.customers
        expand: Params = {"expand": ["invoice_settings.default_payment_method"]}
        customer = await self.calls.find(customers.retrieve_async, customer_id, expand)
        if customer is None or customer.get("deleted"):
            raise CustomerGone("Stripe has no such customer any more.")
        default = customer["invoice_settings"].get("default_payment_method")
        if default is not None:
            return dict(default)
        saved = await self.calls.read(customers.payment_methods.list_async, customer_id, params={"limit": 1})
        return saved["data"][0] if saved["data"] else None

    async def _subscription(self, subscription_id: str) -> dict[str, Any]:
        params: Params = {"expand": ["schedule"]}
        return await self.calls.read(self.calls.api.subscriptions.retrieve_async, subscription_id, params=params)

    async def _update(self, subscription_id: str, params: Params, key: str) -> Subscription:
        asked, update = params | {"expand": ["schedule"]}, self.calls.api.subscriptions.update_async
        updated = await self.calls.write(update, subscription_id, params=asked, key=key)
        return objects.subscription_of(updated)

    async def _release(self, subscription: Mapping[str, Any], key: str) -> None:
        """Let a subscription go from the schedule that it follows: none can be changed beside it."""
        schedule = subscription.get("schedule")
        if schedule is not None and schedule["status"] in ("active", "not_started"):
            schedules = self.calls.api.subscription_schedules
            await self.calls.write(schedules.release_async, schedule["id"], params={}, key=f"{key}:release")
