"""Stripe's events as they come over HTTP, what became of them, and the comparison with Stripe."""

from dataclasses import replace
from datetime import UTC, datetime

from billing.api.services import PaymentOversight, Services
from billing.payments.events import PaymentEvents
from billing.payments.objects import NANO_PER_CENT
from billing.payments.reconcile import PaymentComparisons
from billing.payments.stripe.client import StripeAccess
from billing.payments.stripe.provider import StripePayments
from tests.billing.api.support import Api, serving
from tests.billing.payments.stripe.test_flows import bought
from tests.billing.payments.support import payments_of
from tests.billing.support import Billing
from tests.support.stripe_fake import FakeStripe, signed

WEBHOOK = "/api/webhooks/stripe"
EVENTS = "/payments/events"
RECONCILE = "/payments/reconcile"


async def test_event_is_taken_in_shown_and_replayed(services: Services, billing: Billing, api: Api) -> None:
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
