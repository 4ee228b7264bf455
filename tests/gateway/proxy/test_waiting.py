"""A request that waits for running ones goes on by what holds then, not by what held when it came."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.money import parse_usd
from billing.plans import Plan
from billing.pricing import PriceRow, PriceTable
from billing.quotas import DAY_S
from gateway.config.settings import Settings
from tests.gateway.conftest import Customer, Gateway, MakeGateway, Upstream, chat
from tests.support.answering import Gate, answer, saying, until
from tests.support.gateways import INPUT, OUTPUT, asking, head, raw, refusal

# What tomorrow's prices are, in times of today's.
DEARER = 3
PLAN = Plan("patient", "Patient", 0, admission_queue_s=600, max_parallel_requests=1)
BODY = chat(model="gpt-4o-mini", max_tokens=10)


def patient(settings: Settings) -> Settings:
    """Settings with a plan that lets one request run and others wait, and with other prices from tomorrow on."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    per_million = {"input": DEARER * INPUT * 10**6, "output": DEARER * OUTPUT * 10**6}
    row = PriceRow("openai", "gpt-4o-mini", tomorrow, per_million, {}, max_output_tokens=16_384)
    prices = PriceTable([*settings.prices.rows, row])
    return replace(settings, plans={**settings.plans, PLAN.id: PLAN}, prices=prices)


@pytest.fixture
async def gate() -> Gate:
    return Gate(saying(answer()))


@pytest.fixture
async def gateway(make_gateway: MakeGateway, upstream: Upstream, gate: Gate) -> AsyncIterator[Gateway]:
    yield await make_gateway(await upstream(gate.serve), change=patient)
    gate.opened.set()


async def one_waits(gateway: Gateway, gate: Gate, customer: Customer) -> list[Any]:
    """A request that runs, and one that waits for it."""
    running = asking(customer, BODY)
    await gate.reached()
    waits = asking(customer, BODY)
    await until(lambda: len(gateway.runtime.engine.holds.queues) == 1)
    return [running, waits]


def later(gateway: Gateway, seconds: float) -> None:
    """So much time passes for the gateway."""
    proxy, keys = gateway.proxy, gateway.proxy.admit.__self__  # type: ignore[attr-defined]
    preparation = proxy.prepare.__self__  # type: ignore[attr-defined]
    proxy._wall_clock = keys.clock = preparation.clock = lambda: time.time() + seconds


async def revoke(customer: Customer) -> None:
    await customer.gateway.admin("DELETE", f"/keys/{customer.key_id}")


async def expire(customer: Customer) -> None:
    later(customer.gateway, 7200)


async def suspend(customer: Customer) -> None:
    await customer.gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "suspended"})


async def forbid(customer: Customer) -> None:
    await customer.gateway.admin("PATCH", f"/keys/{customer.key_id}", {"models": ["demo"]})


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (revoke, 401, "invalid_api_key"),
        (expire, 401, "invalid_api_key"),
        (suspend, 402, "billing_required"),
        (forbid, 403, "model_not_allowed"),
    ],
)
async def test_who_may_not_any_more_is_not_let_in(gateway, gate, change, status, code):
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    customer = await gateway.customer(account={"plan": PLAN.id}, expires_at=ends)
    running, waits = await one_waits(gateway, gate, customer)
    await change(customer)
    gate.opened.set()
    refusal(await waits, status, code)
    assert (await running).status == 200
    assert gate.came == 1


async def test_it_is_priced_when_it_is_admitted(gateway, gate):
    customer = await gateway.customer(account={"plan": PLAN.id})
    running, waits = await one_waits(gateway, gate, customer)
    later(gateway, DAY_S)
    gate.opened.set()
    assert [(await call).status for call in (running, waits)] == [200, 200]
    today, tomorrow = [parse_usd(each["charged_usd"]) for each in await customer.events()]
    assert (today, tomorrow) == (10 * INPUT + 5 * OUTPUT, DEARER * today)


async def test_what_is_read_anew_and_says_the_same_costs_no_place(gateway, gate):
    customer = await gateway.customer(account={"plan": PLAN.id})
    running, first = await one_waits(gateway, gate, customer)
    second = asking(customer, {**BODY, "user": "second"})
    await until(lambda: len(gateway.runtime.engine.holds.queues) == 2)
    gateway.runtime.engine.cache.clear()
    gate.opened.set()
    assert [(await call).status for call in (running, first, second)] == [200, 200, 200]
    assert [each["end_user"] for each in await customer.events()] == [None, None, "second"]


async def test_what_a_waiting_request_keeps_in_memory_is_counted(gateway, gate):
    """Also where its body came whole with its head."""
    customer = await gateway.customer(account={"plan": PLAN.id})
    running = asking(customer, BODY)
    await gate.reached()
    body = json.dumps(chat("x" * 40_000, model="gpt-4o-mini", max_tokens=10)).encode()
    whole = head(customer, f"Content-Length: {len(body)}", "Connection: close") + body
    waits = [asyncio.create_task(raw(gateway, whole)) for _ in range(3)]
    await until(lambda: len(gateway.runtime.engine.holds.queues) == 3)
    assert gateway.proxy.bodies.size_bytes == 3 * len(body)
    gate.opened.set()
    assert (await running).status == 200
    assert [(await each).status for each in waits] == [200] * 3
    assert gateway.proxy.bodies.size_bytes == 0
