"""Changes of keys, accounts and plans in the midst of requests."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from billing.holds.admission import Admissions, Decision
from billing.holds.decision import Reload
from tests.gateway.conftest import Customer, Gateway, MakeGateway, chat
from tests.support.gateways import (
    ask,
    fetch,
    refusal,
    spent_nano,
    until,
)


async def test_a_revoked_key_is_dead_on_every_gateway(make_gateway: MakeGateway) -> None:
    first, second = await make_gateway(), await make_gateway()
    for change in ("DELETE", "PATCH"):
        customer = await first.customer()
        elsewhere = replace(customer, gateway=second)
        assert [(await ask(at, chat())).status for at in (customer, elsewhere)] == [200, 200]
        if change == "DELETE":
            await first.admin("DELETE", f"/keys/{customer.key_id}", status=204)
        else:
            await first.admin("PATCH", f"/keys/{customer.key_id}", {"models": ["nothing"]})
        status = 401 if change == "DELETE" else 403
        assert (await ask(customer, chat())).status == status

        async def refused(at: Customer = elsewhere, status: int = status) -> bool:
            return (await ask(at, chat())).status == status

        await until(refused)  # told: by itself the other one would believe its memory for principal_cache_s


async def test_a_suspended_account_is_refused_on_every_gateway(make_gateway: MakeGateway) -> None:
    first, second = await make_gateway(), await make_gateway()
    customer = await first.customer()
    elsewhere = replace(customer, gateway=second)
    assert [(await ask(at, chat())).status for at in (customer, elsewhere)] == [200, 200]
    await first.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "suspended"})
    refusal(await ask(customer, chat()), 402, "billing_required")

    async def refused() -> bool:
        return (await ask(elsewhere, chat())).status == 402

    await until(refused)


async def test_changes_in_the_midst_of_traffic_refuse_nobody(make_gateway: MakeGateway) -> None:
    first, second = await make_gateway(), await make_gateway()
    customer = await first.customer()
    elsewhere = replace(customer, gateway=second)
    changed = asyncio.Event()

    async def traffic(at: Customer) -> list[int]:
        statuses = []
        while not changed.is_set():
            statuses.append((await ask(at, chat(max_tokens=1))).status)
        return statuses

    running = [asyncio.create_task(traffic(at)) for at in (customer, elsewhere) * 2]
    for number in range(10):
        quotas = [{"window": "day", "metric": "requests", "limit": 10_000 + number}]
        await first.admin("PATCH", f"/keys/{customer.key_id}", {"quotas": quotas if number % 2 else []})
        await first.admin("PUT", f"/accounts/{customer.account_id}/quotas", {"quotas": quotas})
    changed.set()
    statuses = [status for each in await asyncio.gather(*running) for status in each]
    assert set(statuses) == {200}
    await spent_nano(customer)
    await second.flush()
    assert (await fetch(customer.get("/v1/key"))).json["windows"][0]["used"] == len(statuses)


async def test_a_principal_that_changes_again_and_again_is_read_until_it_rests(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await gateway.customer()
    admit, asked = Admissions.admit, 0

    async def changed_meanwhile(*arguments: Any) -> Decision:
        nonlocal asked
        asked += 1
        return Reload() if asked < 12 else await admit(*arguments)

    monkeypatch.setattr(Admissions, "admit", changed_meanwhile)
    assert (await ask(customer, chat())).status == 200
    assert asked == 12


@pytest.mark.parametrize("wait_ms", [0, 100])
async def test_a_principal_that_never_rests_is_given_up(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, wait_ms: int
) -> None:
    gateway = await make_gateway(admission_wait_ms=wait_ms)
    customer = await gateway.customer()
    asked = 0

    async def always_changed(*_: Any) -> Reload:
        nonlocal asked
        asked += 1
        return Reload()

    monkeypatch.setattr(Admissions, "admit", always_changed)
    refusal(await ask(customer, chat()), 503, "temporarily_unavailable")
    assert 3 <= asked < 12
