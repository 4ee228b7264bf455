"""Holds of services, over HTTP: settled and given back at any gateway, twice, late, after their maker has died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.conftest import Customer, Gateway, GatewayOf, chat
from tests.support.metering_service import Service, ledger, sound, until, with_meters

pytestmark = pytest.mark.slow


@pytest.fixture
async def service(gateway_of: GatewayOf) -> AsyncIterator[Service]:
    """Balances and holds add up after each test."""
    made = Service(await gateway_of(change=with_meters))
    yield made
    await sound(made)


@pytest.fixture
async def customer(service: Service) -> Customer:
    return await service.gateway.customer("5.00")


def asked(customer: Customer, event_id: str = "h", **fields: Any) -> dict[str, Any]:
    return {"account_id": customer.account_id, "event_id": event_id, "amount_usd": "2.00", **fields}


async def money(service: Service, customer: Customer) -> tuple[str, str]:
    found = await service.balance(customer.account_id)
    return found["balance_usd"], found["held_usd"]


async def test_a_hold_is_settled_once(service, customer):
    body = asked(customer, amount_usd=None, meter="container.second", quantity=10_000)
    del body["amount_usd"]
    made = await service.post("/holds", body, 201)
    assert (made["state"], made["held_usd"], made["meter"]) == ("held", "1.00", "container.second")
    assert await money(service, customer) == ("5.00", "1.00")
    assert await service.post("/holds", body, 201) == made
    await service.post("/holds", {**body, "quantity": 9_999}, 409)
    status, ended, _ = await service.call(
        "POST", f"/holds/{made['id']}/settle", {"event_id": "s", "quantity": "2500.5"}
    )
    assert (status, ended["state"], ended["charged_usd"]) == (200, "settled", "0.25005")
    status, again, headers = await service.call(
        "POST", f"/holds/{made['id']}/settle", {"event_id": "s", "quantity": "2500.5"}
    )
    assert (status, again, headers["idempotent-replayed"]) == (200, ended, "true")
    for path, other in (
        ("settle", {"event_id": "s", "quantity": 1}),
        ("settle", {"event_id": "t", "quantity": "2500.5"}),
        ("void", {"event_id": "s"}),
    ):
        refused = await service.post(f"/holds/{made['id']}/{path}", other, 409)
        assert refused["error"]["code"] == "idempotency_conflict"
    assert await ledger(service, customer.account_id) == {"h": 250_050_000}
    await until(lambda: money(service, customer), ("4.74995", "0.00"))
    assert (await service.call("GET", f"/holds/{made['id']}"))[1] == ended
    (event,) = await customer.events()
    assert (event["id"], event["units"]) == (made["id"], {"units": 2500.5})


async def test_a_hold_is_given_back_once(service, customer):
    made = await service.post("/holds", asked(customer), 201)
    refused = await service.post("/debits", asked(customer, "d", amount_usd="4.00"), 429)
    assert refused["error"]["code"] == "capacity_held"
    voided = await service.post(f"/holds/{made['id']}/void", {})
    assert voided["state"] == "voided"
    status, again, headers = await service.call("POST", f"/holds/{made['id']}/void", {})
    assert (status, again, headers["idempotent-replayed"]) == (200, voided, "true")
    await service.post(f"/holds/{made['id']}/void", {"event_id": "other"}, 409)
    await service.post(f"/holds/{made['id']}/settle", {"amount_usd": "1"}, 409)
    await until(lambda: money(service, customer), ("5.00", "0.00"))
    await service.post("/debits", asked(customer, "d", amount_usd="4.00"), 201)
    assert (await service.call("GET", "/holds/unknown"))[0] == 404


async def test_many_settle_one_hold_at_once(make_gateway):
    service, other = [Service(await make_gateway(change=with_meters)) for _ in range(2)]
    customer = await service.gateway.customer("5.00")
    made = await service.post("/holds", asked(customer), 201)
    answers = await asyncio.gather(
        *(
            service.call("POST", f"/holds/{made['id']}/{what}", body, gateway=gateway)
            for gateway in (service.gateway, other.gateway)
            for what, body in [
                *(("settle", {"event_id": f"s{number}", "amount_usd": "1.00"}) for number in range(5)),
                ("settle", {"event_id": "s0", "amount_usd": "1.00"}),
                ("void", {}),
            ]
        )
    )
    ended = (await service.call("GET", f"/holds/{made['id']}"))[1]
    charged = await ledger(service, customer.account_id)
    assert charged == ({"h": 10**9} if ended["state"] == "settled" else {})
    assert sum(status == 200 for status, _, _ in answers) in (2, 4)
    assert {status for status, _, _ in answers} == {200, 409}
    await until(lambda: money(service, customer), ("4.00" if charged else "5.00", "0.00"))
    await sound(service)


async def killed(gateway: Gateway) -> None:
    """What kill -9 leaves of a gateway: nothing but what the stores have."""
    engine = gateway.runtime.engine
    tasks = [*engine.loops.tasks.values(), *engine.holds._tasks, *engine.partitions._tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    engine.loops.tasks.clear()
    engine.holds.live.clear()
    engine.outbox.waiting.ready.clear()
    await engine._end_lease()
    await engine.lease.stop()


async def test_another_gateway_settles_what_a_killed_one_held(make_gateway):
    service = Service(await make_gateway(change=with_meters))
    customer = await service.gateway.customer("5.00")
    first = await make_gateway(change=with_meters)
    made = await service.post("/holds", asked(customer), 201, gateway=first)
    await killed(first)
    engine = service.gateway.runtime.engine
    for partition in engine.partitions.all:
        await engine.recovery.sweep(partition, at_once=True)
    assert await money(service, customer) == ("5.00", "2.00")  # no sweep ends it
    body = {"event_id": "s", "amount_usd": "0.50"}
    ended = await service.post(f"/holds/{made['id']}/settle", body)
    assert await service.post(f"/holds/{made['id']}/settle", body) == ended
    assert await ledger(service, customer.account_id) == {"h": 500_000_000}
    await until(lambda: money(service, customer), ("4.50", "0.00"))
    await sound(service)


async def test_a_new_epoch_holds_it_again(service, customer):
    kept = await service.post("/holds", asked(customer), 201)
    voided = await service.post("/holds", asked(customer, "v", amount_usd="1.00"), 201)
    await service.post(f"/holds/{voided['id']}/void", {})
    engine = service.gateway.runtime.engine
    for _ in range(2):  # Redis's memory is not believed, or there is none
        for partition in engine.partitions.all:
            keys = await engine.redis.client.command("KEYS", f"*{engine.keyspace.prefix}*")
            await engine.redis.client.command("DEL", *keys)
            await engine.partitions.renew(partition)
        # Admission opens once it is held again.
        refused = await service.post("/debits", asked(customer, "d", amount_usd="4.00"), 429)
        assert refused["error"]["code"] == "capacity_held"
        assert await money(service, customer) == ("5.00", "2.00")
    await service.post(f"/holds/{kept['id']}/settle", {"amount_usd": "1.50"})
    await until(lambda: money(service, customer), ("3.50", "0.00"))


async def expire(service: Service, hold_id: str) -> None:
    await service.gateway.runtime.database.execute(
        "UPDATE service_holds SET expires_at = now() - interval '1 second' WHERE id = $1", hold_id
    )
    await service.gateway.runtime.engine.lasting.expire()


async def test_one_whose_time_is_over_is_given_back_and_charged_all_the_same(service, customer):
    made = await service.post("/holds", asked(customer, expires_in_s=60), 201)
    await expire(service, made["id"])
    await until(lambda: money(service, customer), ("5.00", "0.00"))
    assert (await service.call("GET", f"/holds/{made['id']}"))[1]["state"] == "expired"
    given = await service.post("/holds", asked(customer, "other"), 201)
    await expire(service, given["id"])
    assert (await service.post(f"/holds/{given['id']}/void", {}))["state"] == "expired"
    ended = await service.post(f"/holds/{made['id']}/settle", {"amount_usd": "1.25"})
    assert ended["state"] == "settled"
    await until(lambda: money(service, customer), ("3.75", "0.00"))
    assert await ledger(service, customer.account_id) == {"h": 1_250_000_000}


async def test_an_entry_without_a_row_is_tidied_away(service, customer, monkeypatch):
    """A gateway that dies between the admission and the row, or between the end of the row and that of the entry."""
    runtime = service.gateway.runtime
    kept = await service.post("/holds", asked(customer, amount_usd="0.50"), 201)
    left = await service.post("/holds", asked(customer, "left", amount_usd="1.00"), 201)
    lost = await service.post("/holds", asked(customer, "lost", amount_usd="2.00"), 201)
    await runtime.database.execute("UPDATE service_holds SET state = 'voided' WHERE id = $1", left["id"])
    await runtime.database.execute("DELETE FROM service_holds WHERE id = $1", lost["id"])
    assert await runtime.engine.lasting.tidy() == 0  # they are young: a row may still come
    assert await runtime.engine.lasting.tidy(age_ms=-60_000) == 2
    await until(lambda: money(service, customer), ("5.00", "0.50"))
    await service.post(f"/holds/{kept['id']}/settle", {"amount_usd": "0"})
    await until(lambda: money(service, customer), ("5.00", "0.00"))


async def test_bounds(make_gateway):
    service = Service(await make_gateway(change=with_meters, service_holds=1, service_hold_max_s=100))
    customer = await service.gateway.customer("5.00")
    for wrong in (0, 101):
        refused = await service.post("/holds", asked(customer, expires_in_s=wrong), 400)
        assert refused["error"]["param"] == "expires_in_s"
    made = await service.post("/holds", asked(customer, expires_in_s=100), 201)
    assert (await service.post("/holds", asked(customer, "other"), 503))["error"]["code"] == "temporarily_unavailable"
    assert await service.post("/holds", asked(customer, expires_in_s=100), 201) == made
    await service.post(f"/holds/{made['id']}/void", {})


async def test_an_account_has_a_share_of_the_holds(make_gateway):
    """One account that holds all it may leaves room for another."""
    service = Service(await make_gateway(change=with_meters, service_holds=4, service_holds_per_account=2))
    first, second = [await service.gateway.customer("5.00") for _ in range(2)]
    made = [await service.post("/holds", asked(first, each), 201) for each in "ab"]
    assert "account" in (await service.post("/holds", asked(first, "c"), 503))["error"]["message"]
    await service.post("/holds", asked(second, "d"), 201)
    assert await service.post("/holds", asked(first, "a"), 201) == made[0]  # what was made is told again
    await service.post(f"/holds/{made[0]['id']}/void", {})

    async def counted():
        return service.gateway.runtime.engine.lasting.open_of[first.account_id]

    await until(counted, 1)
    await service.post("/holds", asked(first, "e"), 201)


async def test_a_hold_is_one_of_the_requests_that_run(service):
    quotas = [{"window": "total", "metric": "requests", "limit": 1, "feature": "container"}]
    customer = await service.gateway.customer("5.00")
    await service.gateway.admin("PUT", f"/accounts/{customer.account_id}/quotas", {"quotas": quotas})
    made = await service.post("/holds", asked(customer, feature="container"), 201)
    refused = await service.post("/holds", asked(customer, "other", feature="container"), 429)
    assert refused["error"]["quota"]["metric"] == "requests"
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200  # of another feature
    await service.post(f"/holds/{made['id']}/void", {})
    await service.post("/holds", asked(customer, "third", feature="container"), 201)
