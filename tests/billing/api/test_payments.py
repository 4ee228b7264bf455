"""Hosted flows, orders and what operators do with them, over HTTP on the local provider."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from billing.api.services import PaymentOversight, Services
from billing.money import NANO_PER_CENT
from billing.payments.assembly import (
    PaymentParts,
    PaymentRules,
    Payments,
    deployment_of,
    local_provider,
    make_payments,
)
from billing.payments.events import PaymentEvents
from billing.payments.flows import FlowRules
from billing.payments.port import ObjectRef, Payment
from billing.payments.reconcile import PaymentComparisons
from billing.payments.stripe.provider import StripeAccess, StripePayments
from tests.billing.api.support import Api, serving
from tests.billing.payments.stripe.test_flows import bought
from tests.billing.payments.support import payments_of
from tests.billing.support import PLANS, Billing
from tests.support.stripe_fake import FakeStripe, signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOME = "https://shop.example/billing"


@pytest.fixture
async def payments(billing: Billing) -> Payments:
    deployment = await deployment_of(billing.database)
    parts = PaymentParts(
        billing.database, billing.accounts, billing.grants, billing.change_notifier, PLANS, billing.new_id, deployment
    )
    flows = FlowRules(500, 1_000_000, 2_000, frozenset({"https://shop.example"}), HOME)
    rules = PaymentRules(flows, "free", timedelta(days=10), "https://gateway.example")
    return make_payments(parts, rules, local_provider(parts, rules.base_url))


@pytest.fixture
async def shop(services: Services, billing: Billing, payments: Payments) -> AsyncIterator[Api]:
    async with serving(replace(services, payments=payments), billing) as api:
        yield api


async def press(payments: Payments, url: str, *actions: str) -> None:
    """Press buttons of a page, and have what they did applied."""
    assert payments.acts is not None
    for action in actions:
        await payments.acts.act(url.rpartition("/")[2], action)
    await payments.events.round()


async def customer(shop: Api) -> tuple[str, str]:
    account, key = await shop.customer(scopes=["billing:read", "billing:setup"])
    return account["id"], key["key"]


async def test_from_setup_to_credit_and_back(shop, payments):
    account_id, key = await customer(shop)
    again = {"amount_usd": "20.00", "return_url": HOME, "idempotency_key": "first"}
    opened = await asyncio.gather(*(shop.by_key(key, "POST", "/v1/billing/setup", again) for _ in range(4)))
    assert len({each.json["url"] for each in opened}) == 1, [each.json for each in opened]
    customers = await shop.billing.database.value("SELECT count(*) FROM local_objects WHERE kind = 'customer'")
    assert customers == 1
    page = opened[0].json
    assert (page["order"]["status"], page["order"]["amount_usd"]) == ("open", "20.00")
    other = await shop.by_key(key, "POST", "/billing/setup", {**again, "amount_usd": "21.00"})
    assert "idempotency key was used" in other.refused(409, "idempotency_conflict")

    await press(payments, page["url"], "decline")
    order_path = f"/billing/orders/{page['order']['id']}"
    failed = (await shop.get(key, order_path)).json
    assert (failed["status"], failed["reason"], failed["url"]) == ("failed", "insufficient_funds", page["url"])
    reading = await shop.admin("POST", "/keys", {"account_id": account_id, "name": "r", "scopes": ["billing:read"]})
    seen = (await shop.get(reading.json["key"], order_path)).json
    listed = (await shop.get(reading.json["key"], "/billing/orders")).json["data"]
    assert [seen["url"], listed[0]["url"]] == [None, None]  # whoever has the page's address can act there
    await press(payments, page["url"], "confirm")
    assert (await shop.get(key, order_path)).json["status"] == "credited"
    assert (await shop.get(key, "/account/balance")).json["balance_usd"] == "20.00"
    assert await payments.customers.method(account_id) == "visa 3155"
    orders = (await shop.get(key, "/billing/orders", status="credited")).json["data"]
    assert [each["id"] for each in orders] == [page["order"]["id"]]
    _, stranger = await customer(shop)
    (await shop.get(stranger, order_path)).refused(404, "not_found")

    refund = {"idempotency_key": "back", "amount_usd": "5.00"}
    path = f"/orders/{page['order']['id']}/refunds"
    first, second = [(await shop.admin("POST", path, refund)).json for _ in range(2)]
    assert first == second
    assert first["amount_usd"] == "5.00"
    assert (await shop.get(key, "/account/balance")).json["balance_usd"] == "15.00"
    more = await shop.admin("POST", path, {"idempotency_key": "more", "amount_usd": "15.01"})
    assert "15.00 USD are left" in more.refused(400, "invalid_request_error", "amount_usd")
    await shop.billing.grants.adjust(account_id, -10 * 10**9, "used", "used up")
    assert (await shop.admin("POST", path, {"idempotency_key": "rest"})).json["amount_usd"] == "5.00"
    assert (await shop.get(key, "/account/balance")).json["balance_usd"] == "0.00"

    page = (await shop.by_key(key, "POST", "/billing/setup", {"amount_usd": "20.00"})).json
    await press(payments, page["url"], "approve")
    await payments.acts.act(page["url"].rpartition("/")[2], "dispute")  # of which nobody has been told yet
    refused = await shop.admin("POST", f"/orders/{page['order']['id']}/refunds", {"idempotency_key": "late"})
    assert "disputed" in refused.refused(409, "idempotency_conflict")  # not 503, which is tried again for ever


WRONG = [
    ({"amount_usd": "4.99"}, "amount_usd"),
    ({"amount_usd": "10000.01"}, "amount_usd"),
    ({"amount_usd": "20.001"}, "amount_usd"),
    ({}, "amount_usd"),
    ({"amount_usd": "20", "plan": "starter"}, "amount_usd"),
    ({"plan": "free"}, "plan"),
    ({"plan": "golden"}, "plan"),
    ({"amount_usd": "20", "success_url": "https://shop.example.evil.com/"}, "success_url"),
    ({"amount_usd": "20", "success_url": "https://shop.example@evil.com/"}, "success_url"),
    ({"amount_usd": "20", "cancel_url": "http://shop.example/"}, "cancel_url"),
    ({"amount_usd": "20", "success_url": "https://shop.example\\@evil.com/"}, "success_url"),
    ({"amount_usd": "20", "success_url": "javascript:alert(1)"}, "success_url"),
    ({"amount_usd": "20", "return_url": "https://shop.example.evil.com/"}, "return_url"),
]


async def test_what_cannot_be_bought_is_refused(shop):
    _, key = await customer(shop)
    for body, param in WRONG:
        (await shop.by_key(key, "POST", "/billing/checkout", body)).refused(400, "invalid_request_error", param)
    lost = await shop.get(key, "/billing/orders", status="lost")
    assert "status must be one of credited, disputed" in lost.refused(400, "invalid_request_error", "status")


async def test_a_plan_is_subscribed_to_and_managed_on_the_portal(shop, payments):
    account_id, key = await customer(shop)
    listed = (await shop.get(key, "/billing/plans")).json["data"]
    assert [(plan["id"], plan["price_usd"]) for plan in listed] == [("free", "0.00"), ("starter", "99.00")]
    page = (await shop.by_key(key, "POST", "/billing/checkout", {"plan": "starter"})).json
    assert page["order"]["amount_usd"] == "99.00"
    await press(payments, page["url"], "approve")
    assert (await shop.get(key, f"/billing/orders/{page['order']['id']}")).json["status"] == "credited"
    assert (await shop.billing.accounts.get(account_id)).plan == "starter"
    (invoice,) = (await shop.get(key, "/billing/invoices")).json["data"]
    assert (invoice["status"], invoice["amount_usd"]) == ("paid", "99.00")
    twice = await shop.by_key(key, "POST", "/billing/checkout", {"plan": "starter"})
    assert "has a subscription" in twice.refused(409, "idempotency_conflict")

    portal = (await shop.by_key(key, "POST", "/billing/portal")).json["url"]
    current = await payments.changes.current(account_id)
    await press(payments, portal, f"cancel:{current.id}")
    ending = await payments.changes.current(account_id)
    assert ending.ends_at == ending.period_end

    # An operator's closing ends it, too: nobody pays for what is closed.
    assert (await payments.changes.change(account_id, "starter")).ends_at is None
    for _ in range(2):
        await shop.admin("PATCH", f"/accounts/{account_id}", {"status": "closed", "reason": "asked for it"})
        ending = await payments.changes.current(account_id)
        assert ending.ends_at == ending.period_end


async def test_operators_decide_about_what_could_not_be_credited(shop, payments):
    account_id, key = await customer(shop)
    page = (await shop.by_key(key, "POST", "/billing/checkout", {"amount_usd": "20"})).json
    order_id = page["order"]["id"]
    await shop.billing.database.execute("UPDATE orders SET amount_cents = 3000 WHERE id = $1", order_id)
    await press(payments, page["url"], "approve")
    (parked,) = (await shop.admin("GET", "/payments/parked")).json["data"]
    assert (parked["order_id"], parked["amount_usd"], parked["state"]) == (order_id, "20.00", "parked")
    assert (await shop.admin("GET", f"/orders/{order_id}")).json["status"] == "parked"
    wrong = await shop.admin("POST", f"/payments/parked/{order_id}/credit", {"account_id": "acc_other"})
    wrong.refused(400, "invalid_request_error", "account_id")
    done = (await shop.admin("POST", f"/payments/parked/{order_id}/credit", {"note": "checked"})).json
    assert (done["state"], done["note"]) == ("credited", "checked")
    assert (await shop.admin("GET", f"/orders/{order_id}")).json["status"] == "credited"
    assert (await shop.get(key, "/account/balance")).json["balance_usd"] == "20.00"
    (await shop.admin("POST", f"/payments/parked/{parked['id']}/dismiss", {"note": "no"})).refused(
        409, "idempotency_conflict"
    )

    found = await payments.provider.find_payment(order_id)
    assert isinstance(found, Payment)
    await payments.applier.refresh(ObjectRef("payment", found.id))
    assert (await shop.billing.accounts.get(account_id)).balance_nano == 20 * 10**9


async def test_a_customer_that_the_provider_has_lost_is_made_anew(shop, payments):
    account_id, key = await customer(shop)
    await shop.by_key(key, "POST", "/billing/setup", {"save_only": True})
    lost = await payments.customers.find(account_id)
    await shop.billing.database.execute("DELETE FROM local_objects WHERE kind = 'customer'")
    for path in ("/billing/checkout", "/billing/portal"):
        body = {"amount_usd": "20"} if path.endswith("checkout") else None
        assert (await shop.by_key(key, "POST", path, body)).status == 200
    found = await payments.customers.find(account_id)
    assert found not in (None, lost)


WEBHOOK = "/api/webhooks/stripe"
EVENTS = "/payments/events"
RECONCILE = "/payments/reconcile"


async def test_event_is_taken_in_shown_and_replayed(services, billing, api):
    assert (await api.call("POST", WEBHOOK, data=b"{}")).status == 404  # without Stripe there is no such endpoint
    async with FakeStripe().serving() as stripe:
        access = StripeAccess(stripe.api_key, stripe.url, retries=0)
        clock = lambda: datetime.fromtimestamp(stripe.state.now, UTC)  # noqa: E731
        provider = StripePayments(access, [stripe.secret], "here", clock)
        payments = payments_of(billing, provider)
        refresh = payments.applier.refresh
        events = PaymentEvents(billing.database, provider, refresh, billing.new_id)
        comparisons = PaymentComparisons(billing.database, provider, refresh, "here", clock)
        account = await billing.accounts.create("Acme")
        await bought(payments, provider, account.id, "first")
        stripe.pages.pay(stripe.state.all("checkout.session")[0]["id"])
        paid = next(each for each in stripe.state.events if each["type"] == "payment_intent.succeeded")
        with_stripe = replace(services, payment_oversight=PaymentOversight(events, comparisons))
        async with serving(with_stripe, billing) as api:
            body, headers = signed(paid, "whsec_other", at=stripe.state.now)
            message = (await api.call("POST", WEBHOOK, data=body, headers=headers)).refused(
                400, "invalid_request_error"
            )
            assert "STRIPE_WEBHOOK_SECRET" in message
            body, headers = signed(paid, stripe.secret, at=stripe.state.now)
            (await api.call("POST", WEBHOOK, data=body + b" ", headers=headers)).refused(400, "invalid_request_error")
            large = await api.call("POST", WEBHOOK, data=b"x" * (services.max_body_bytes + 1), headers=headers)
            large.refused(413, "request_too_large")
            for _ in range(2):
                taken = await api.call("POST", WEBHOOK, data=body, headers=headers)
                assert (taken.status, taken.json) == (200, {"received": True})
            (shown,) = (await api.admin("GET", f"{EVENTS}?state=waiting")).json["data"]
            assert (shown["id"], shown["object"], shown["attempts"]) == (paid["id"], "payment", 0)
            await events.round()
            assert await payments.balance(account.id) == 2500 * NANO_PER_CENT
            done = (await api.admin("GET", EVENTS)).json["data"][0]
            assert (done["state"], done["error"], done["next_attempt_at"]) == ("done", None, None)
            assert (await api.admin("POST", f"{EVENTS}/{paid['id']}/replay")).json["state"] == "waiting"
            (await api.admin("POST", f"{EVENTS}/evt_none/replay")).refused(404, "not_found")
            await events.round()
            assert await payments.balance(account.id) == 2500 * NANO_PER_CENT

            assert (await api.admin("GET", RECONCILE)).json["began_at"] is None
            (await api.admin("POST", RECONCILE, {"since": "2999-01-01"})).refused(400, "invalid_request_error", "since")
            asked = await api.admin("POST", RECONCILE, {"since": "2026-01-01"})
            assert (asked.status, asked.json["asked_since"]) == (202, "2026-01-01T00:00:00.000Z")
            assert await comparisons.round()
            found = (await api.admin("GET", RECONCILE)).json
            assert (found["asked_since"], found["compared"], found["differences"]) == (None, 1, [])
        await provider.close()
