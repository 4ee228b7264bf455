"""`stripe sync`: the webhook endpoint is created with a pinned version and all needed events; prices are checked."""

from billing.payments.stripe.events import ENDPOINT_EVENTS
from billing.payments.stripe.provider import API_VERSION, price_faults, sync_endpoint

URL = "https://gateway.example.com/api/webhooks/stripe"


async def test_endpoint_is_pinned(stripe, provider):
    """Trap 6: an endpoint of another version, or of none, can't be changed: it is replaced, and then disabled."""
    calls, endpoints = provider.calls, stripe.state.objects.setdefault("webhook_endpoint", {})
    old = stripe.state.add("webhook_endpoint", "we", url=URL, api_version=None, enabled_events=["*"], status="enabled")
    other = stripe.state.add("webhook_endpoint", "we", url="https://other", api_version=None, status="enabled")
    made = await sync_endpoint(calls, URL, "one")
    assert (made.done, made.secret, made.disabled) == ("created", stripe.secret, (old["id"],))
    assert stripe.secret not in repr(made)
    assert endpoints[made.id]["api_version"] == API_VERSION
    assert (old["status"], other["status"]) == ("disabled", "enabled")
    assert await sync_endpoint(calls, URL, "two") == type(made)(made.id, "unchanged")
    endpoints[made.id] |= {"enabled_events": ["refund.failed", "payout.paid"], "status": "disabled"}
    assert (await sync_endpoint(calls, URL, "three")).done == "updated"
    assert set(endpoints[made.id]["enabled_events"]) == {*ENDPOINT_EVENTS, "payout.paid"}
    assert endpoints[made.id]["status"] == "enabled"


async def test_prices_are_dollars_a_month(stripe, provider):
    """Trap 10: a price in another currency, by another period or of another amount would sell something else."""
    stripe.subscriptions.add_price("good", 9900)
    stripe.subscriptions.add_price("yen", 9900, "jpy")
    stripe.subscriptions.add_price("yearly", 9900, interval="year")
    stripe.subscriptions.add_price("dear", 9901)["active"] = False
    names = ("good", "yen", "yearly", "dear", "none")
    assert await price_faults(provider.calls, dict.fromkeys(names, 9900)) == [
        "yen: 9900 jpy a month, not 9900 usd a month.",
        "yearly: 9900 usd a year, not 9900 usd a month.",
        "dear: 9901 usd a month, not 9900 usd a month, and it is not active.",
        "none: Stripe has no such price in the mode of this key.",
    ]
