"""What of Stripe's API the fake has: endpoints, the SDK's shapes of their parameters; lists, searches, expansion."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import stripe.params as params
import stripe.params.billing as billing_params
import stripe.params.billing_portal as portal_params
import stripe.params.checkout as checkout_params
import stripe.params.v2.core as v2_params

from tests.support.stripe_fake.endpoints import Endpoints
from tests.support.stripe_fake.meters import REPORT, Meters
from tests.support.stripe_fake.pages import Pages
from tests.support.stripe_fake.payments import Payments
from tests.support.stripe_fake.state import Object, Refused, State
from tests.support.stripe_fake.subscriptions import Subscriptions

SEARCH_LAG_S = 60
_METADATA = re.compile(r"metadata\['([^']+)'\]:'([^']+)'")
_OF_LISTS = ("limit", "starting_after", "expand", "created", "status", "payment")


@dataclass(frozen=True)
class Endpoint:
    """One call: the id in its path, if any, comes before its checked parameters."""

    method: str
    path: re.Pattern[str]
    shape: type
    run: Callable[..., Object]


class Routes:
    """The endpoints, on the fake's state."""

    def __init__(
        self, state: State, payments: Payments, subscriptions: Subscriptions, pages: Pages, endpoints: Endpoints
    ) -> None:
        self.state = state
        self.table: list[Endpoint] = []
        self._add_reads()
        self._post("customers", params.CustomerCreateParams, payments.create_customer)
        self._post("payment_intents", params.PaymentIntentCreateParams, payments.create_intent)
        self._post(
            "payment_intents/{}/cancel",
            params.PaymentIntentCancelParams,
            lambda id_, _: payments.cancel_intent(id_),
        )
        self._post("refunds", params.RefundCreateParams, payments.create_refund)
        self._post("checkout/sessions", checkout_params.SessionCreateParams, pages.create_session)
        self._post(
            "checkout/sessions/{}/expire", checkout_params.SessionExpireParams, lambda id_, _: pages.expire_session(id_)
        )
        self._post("billing_portal/sessions", portal_params.SessionCreateParams, pages.create_portal)
        self._post("subscriptions/{}", params.SubscriptionUpdateParams, subscriptions.update)
        self._add(
            "DELETE", "subscriptions/{}", params.SubscriptionCancelParams, lambda id_, _: subscriptions.cancel(id_)
        )
        self._post("subscription_schedules", params.SubscriptionScheduleCreateParams, subscriptions.create_schedule)
        self._post("subscription_schedules/{}", params.SubscriptionScheduleUpdateParams, subscriptions.update_schedule)
        self._post(
            "subscription_schedules/{}/release",
            params.SubscriptionScheduleReleaseParams,
            lambda id_, _: subscriptions.release_schedule(id_),
        )
        self.meters = Meters(state)
        self._post("billing/meter_events", billing_params.MeterEventCreateParams, self.meters.create_event)
        self.table.append(
            Endpoint(
                "GET",
                re.compile(r"/v2/core/events/([A-Za-z0-9_]+)"),
                v2_params.EventRetrieveParams,
                lambda id_, _: self.state.get(REPORT, id_),
            )
        )
        self._post("webhook_endpoints", params.WebhookEndpointCreateParams, endpoints.create)
        self._post("webhook_endpoints/{}", params.WebhookEndpointUpdateParams, endpoints.update)

    def _add(self, method: str, path: str, shape: type, run: Callable[..., Object]) -> None:
        pattern = re.compile("/v1/" + path.replace("{}", "([A-Za-z0-9_]+)"))
        self.table.append(Endpoint(method, pattern, shape, run))

    def _post(self, path: str, shape: type, run: Callable[..., Object]) -> None:
        self._add("POST", path, shape, run)

    def _add_reads(self) -> None:
        read: tuple[tuple[str, str, type | None, type | None], ...] = (
            ("customers", "customer", params.CustomerRetrieveParams, params.CustomerListParams),
            ("payment_intents", "payment_intent", params.PaymentIntentRetrieveParams, params.PaymentIntentListParams),
            ("refunds", "refund", params.RefundRetrieveParams, params.RefundListParams),
            ("disputes", "dispute", params.DisputeRetrieveParams, params.DisputeListParams),
            ("invoices", "invoice", params.InvoiceRetrieveParams, params.InvoiceListParams),
            ("invoice_payments", "invoice_payment", None, params.InvoicePaymentListParams),
            ("subscriptions", "subscription", params.SubscriptionRetrieveParams, params.SubscriptionListParams),
            ("prices", "price", params.PriceRetrieveParams, None),
            ("webhook_endpoints", "webhook_endpoint", None, params.WebhookEndpointListParams),
            (
                "checkout/sessions",
                "checkout.session",
                checkout_params.SessionRetrieveParams,
                checkout_params.SessionListParams,
            ),
        )
        for path, kind, retrieve, listing in read:
            if retrieve is not None:
                self._add("GET", f"{path}/{{}}", retrieve, lambda id_, _, kind=kind: self._retrieve(kind, id_))
            if listing is not None:
                self._add("GET", path, listing, lambda asked, kind=kind, path=path: self._list(kind, path, asked))
        self.table.insert(
            0, Endpoint("GET", re.compile("/v1/payment_intents/search"), params.PaymentIntentSearchParams, self._search)
        )
        self._add("GET", "customers/{}/payment_methods", params.CustomerPaymentMethodListParams, self._methods)
        self._add("GET", "invoices/{}/lines", params.InvoiceLineItemListParams, self._lines)

    def _retrieve(self, kind: str, object_id: str) -> Object:
        found = self.state.get(kind, object_id)
        if found.get("deleted"):
            return {"id": object_id, "object": kind, "deleted": True}
        return found

    def _list(self, kind: str, path: str, asked: dict[str, Any]) -> Object:
        found = self.state.all(kind)
        for name, value in asked.items():
            if name not in _OF_LISTS:
                found = [each for each in found if each.get(name) == value]
        if "payment" in asked:
            found = [each for each in found if each["payment"]["payment_intent"] == asked["payment"]["payment_intent"]]
        created = asked.get("created", {})
        if "gte" in created:
            found = [each for each in found if each["created"] >= created["gte"]]
        if asked.get("status", "all") != "all":
            found = [each for each in found if each["status"] == asked["status"]]
        return self._page([each for each in found if not each.get("deleted")], f"/v1/{path}", asked)

    def _page(self, found: list[Object], url: str, asked: dict[str, Any]) -> Object:
        found = sorted(found, key=lambda each: (each["created"], each["id"]), reverse=True)
        if "starting_after" in asked:
            ids = [each["id"] for each in found]
            found = found[ids.index(asked["starting_after"]) + 1 :]
        limit = asked.get("limit", 10)
        return {"object": "list", "url": url, "data": found[:limit], "has_more": len(found) > limit}

    def _methods(self, customer_id: str, asked: dict[str, Any]) -> Object:
        self.state.customer(customer_id)
        return self._list(
            "payment_method", f"customers/{customer_id}/payment_methods", {"customer": customer_id} | asked
        )

    def _lines(self, invoice_id: str, asked: dict[str, Any]) -> Object:
        lines = self.state.get("invoice", invoice_id)["lines"]["data"]
        return {"object": "list", "url": f"/v1/invoices/{invoice_id}/lines", "data": lines, "has_more": False}

    def _search(self, asked: dict[str, Any]) -> Object:
        """Find intents by metadata, as late as the real search: what is younger than a minute is not in its index."""
        match = _METADATA.fullmatch(asked["query"])
        if match is None:
            raise Refused(400, "The fake searches by one field of metadata.", param="query")
        old = [each for each in self.state.all("payment_intent") if each["created"] <= self.state.now - SEARCH_LAG_S]
        found = [each for each in old if each["metadata"].get(match[1]) == match[2]]
        return {"object": "search_result", "url": "/v1/payment_intents/search", "data": found, "has_more": False}

    def expanded(self, found: Object, paths: list[str]) -> Object:
        """Return a copy of an object in which ids are replaced by the objects."""
        found = copy.deepcopy(found)
        found.pop("asked", None)
        for path in () if found.get("deleted") else paths:
            place, (*above, name) = found, path.split(".")
            for each in above:
                place = place[each]
            if path == "payments":
                linked = [each for each in self.state.all("invoice_payment") if each["invoice"] == found["id"]]
                place[name] = {"object": "list", "data": copy.deepcopy(linked), "has_more": False}
            elif isinstance(place.get(name), str):
                place[name] = copy.deepcopy(self._any(place[name]))
        return found

    def _any(self, object_id: str) -> Object:
        return next(kind[object_id] for kind in self.state.objects.values() if object_id in kind)
