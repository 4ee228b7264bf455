"""What troubles a gateway is said with its cause, by everything that says it."""

from typing import Any

from aiohttp import web

from billing.traffic.counts import BOUNDS_MS, ProviderTraffic
from gateway.endpoints.health import LEAST_FAILURES, circuits, failing
from tests.gateway.conftest import Gateway, chat
from tests.support.gateways import ask, fetch, until


def seen(failures: int, heads: int) -> ProviderTraffic:
    return ProviderTraffic({"503": failures}, {}, (heads, *[0] * len(BOUNDS_MS)))


def test_a_provider_fails_where_many_and_a_large_share_of_its_attempts_do():
    found = failing({"a": seen(LEAST_FAILURES, 20), "b": seen(LEAST_FAILURES, 21), "c": seen(LEAST_FAILURES - 1, 0)})
    assert [(each.about, each.message) for each in found] == [
        ("provider:a", "provider a fails: 5 of 25 attempts in 10 minutes (503)")
    ]
    assert [each.message for each in circuits({"a/1": 12.4, "b/0": 0.0})] == [
        "the circuit of provider a (target 1) is open for another 12 s",
        "the circuit of provider b (target 0) is open until an attempt succeeds",
    ]


async def health(gateway: Gateway) -> tuple[Any, Any]:
    return (
        (await fetch(gateway.session.get(f"{gateway.url}/healthz"))).json,
        await gateway.admin("GET", "/health"),
    )


async def test_a_provider_that_fails_degrades_the_gateway_and_is_listed_with_its_reason(
    make_gateway, upstream, monkeypatch
):
    monkeypatch.setattr("gateway.metrics.history.EVERY_S", 0.05)
    monkeypatch.setattr("gateway.endpoints.health.LOOK_EVERY_S", 0.05)

    async def broken(request):
        return web.json_response({"error": {"message": "overloaded"}}, status=503)

    gateway = await make_gateway(await upstream(broken), retry_backoff_ms=1)
    customer = await gateway.customer()
    assert (await health(gateway))[0]["status"] == "ok"
    for _ in range(LEAST_FAILURES):
        await ask(customer, chat(model="gpt-4o-mini"))

    async def is_known():
        return "provider openai fails" in (await health(gateway))[0]["message"]

    await until(is_known)
    public, own = await health(gateway)
    about = {each["about"]: each["message"] for each in own["troubles"]}
    assert (public["status"], own["status"]) == ("degraded", "degraded")
    assert all(each in public["message"] for each in (about["provider:openai"], "the circuit of provider openai"))
    assert about.keys() == {"circuit:openai/0", "provider:openai"}
    assert "fails" in about["provider:openai"]
    assert "(503)" in about["provider:openai"]
    listed = (await gateway.admin("GET", "/providers?within=15m"))["data"]
    (openai,) = [each["traffic"] for each in listed if each["name"] == "openai"]
    assert (openai["error_percent"], openai["last_failure"]["reason"]) == ("100.00", "503")
    (change,) = (await gateway.admin("GET", "/providers/openai/circuits"))["data"]
    assert (change["state"], change["reason"]) == ("open", "503")
    traffic = await gateway.admin("GET", "/traffic?step=hour")
    assert (traffic["total"]["errors"], len(traffic["data"])) == (LEAST_FAILURES, 24)
