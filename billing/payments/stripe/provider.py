"""Stripe behind the port: `StripePayments`, put together from calls, parameters and objects."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from billing.payments.port import (
    CURRENCY,
    CustomerGone,
    HostedPage,
    ObjectKind,
    ObjectRef,
    Payment,
    PaymentError,
    PaymentRefused,
)
from billing.payments.stripe import events, objects
from billing.payments.stripe.client import PAGE, Decline, StripeAccess, StripeCalls, declined_by
from billing.payments.stripe.objects import ORDER, CheckoutRules, Params

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
