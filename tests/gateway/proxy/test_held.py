"""What running requests hold is not spent: who waits for it, who is told what, and what an elastic hold leaves."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from billing.money import parse_usd
from billing.plans import Plan
from billing.quotas import Metric, Quota, Window
from gateway.config.settings import Settings
from gateway.server.ids import GRANTED
from tests.gateway.conftest import (
    ADMIN_KEY,
    Customer,
    Gateway,
    chat,
)
from tests.support.answering import Gate, Provider, answer, saying, streaming, until, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ask, asking, early_in_a_minute, fetch, refusal, spent_nano
from tests.support.shipped import shipped_settings

# The most output tokens of gpt-4o-mini.
MOST = 16_384
CHAT = json.dumps(chat(model="gpt-4o-mini")).encode()


def with_plans(**plans: Plan) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, plans={**settings.plans, **plans})


def waiting(gateway: Gateway) -> int:
    return len(gateway.runtime.engine.holds.queues)


async def windows(customer: Customer) -> dict[tuple[str, str], dict[str, Any]]:
    """What GET /v1/key shows, by window and metric."""
    shown = (await fetch(customer.get("/v1/key"))).json["windows"]
    return {(each["window"], each["metric"]): each for each in shown}


async def test_twenty_calls_at_once_on_the_shipped_free_plan_are_all_served(make_gateway, upstream):
    gate = Gate(saying(answer()))
    shipped = shipped_settings(ADMIN_KEY).plans  # which let them wait for each other
    gateway = await make_gateway(await upstream(gate.serve), change=lambda settings: replace(settings, plans=shipped))
    customer = await gateway.customer(account={"plan": "free"})
    await early_in_a_minute()
    calls = [asking(customer) for _ in range(20)]
    await until(lambda: gate.came + waiting(gateway) == 20)
    during = (await windows(customer))["day", "tokens"]
    assert during["used"] == 0
    assert during["held"] + during["remaining"] == 200_000
    gate.opened.set()
    answers = [await call for call in calls]
    assert [each.status for each in answers] == [200] * 20
    await spent_nano(customer)
    after = (await windows(customer))["day", "tokens"]
    assert (after["used"], after["held"], after["remaining"]) == (20 * 15, 0, 200_000 - 20 * 15)


async def test_an_elastic_hold_leaves_room_and_says_what_it_got(gateway_of):
    gate = Gate(saying(answer()))
    provider = Provider(gate.serve)
    gateway = await gateway_of(provider.serve)
    customer = await gateway.customer(quotas=[{"window": "day", "metric": "tokens", "limit": 30_000}])
    expected, left = [], 30_000
    for came in range(1, 6):
        free = left - len(CHAT)
        expected.append(min(MOST, max(free // 4, min(free, 4096))))
        left -= len(CHAT) + expected[-1]
        asking(customer)
        await gate.reached(came)
    assert [json.loads(sent.body).get("max_tokens") for sent in provider.sent] == expected
    assert expected[0] == (30_000 - len(CHAT)) // 4
    assert 4096 in expected
    gate.opened.set()
    await spent_nano(customer)
    assert (await fetch(customer.post(data=CHAT))).headers[GRANTED] == str((30_000 - 5 * 15 - len(CHAT)) // 4)


async def test_a_stream_says_what_it_got_before_it_begins(gateway_of):
    gateway = await gateway_of(streaming(usage_chunk(), b"data: [DONE]\n\n"))
    customer = await gateway.customer(quotas=[{"window": "day", "metric": "output_tokens", "limit": 100}])
    fetched = await ask(customer, chat(model="gpt-4o-mini", stream=True))
    assert (fetched.status, fetched.headers[GRANTED]) == (200, "100")
    assert GRANTED not in (await ask(customer, chat(model="gpt-4o-mini", max_tokens=10))).headers


@pytest.mark.parametrize("share", ["0.5", "1"])
async def test_how_much_an_elastic_hold_takes_is_configured(customer_of, share):
    customer = await customer_of(saying(answer()), "0.001", elastic_share=share, elastic_output_tokens=10)
    free = (1_000_000 - len(CHAT) * INPUT) // OUTPUT
    assert (await fetch(customer.post(data=CHAT))).headers[GRANTED] == str(free // 2 if share == "0.5" else free)


async def test_a_window_that_is_only_held_is_capacity_and_used_is_told_from_held(make_gateway, upstream):
    plan = Plan("plain", "Plain", 0, quotas=(Quota(Window.day, Metric.tokens, 1000),), upgrade_to="starter")
    gate = Gate(saying(answer()))
    gate.opened.set()
    gateway = await make_gateway(await upstream(gate.serve), change=with_plans(plain=plan))
    customer = await gateway.customer(account={"plan": "plain"})
    body = chat(model="gpt-4o-mini", max_tokens=600)
    assert (await ask(customer, body)).status == 200
    await spent_nano(customer)
    gate.opened.clear()
    running = asking(customer, body)
    await gate.reached(2)
    size = len(json.dumps(body).encode())
    fetched = await ask(customer, body)
    error = refusal(fetched, 429, "capacity_held")
    assert error["quota"].pop("resets_at") is not None
    requested = error["quota"].pop("requested")
    assert 600 < requested <= size + 600
    assert error["quota"] == {
        "subject": "plan",
        "window": "day",
        "metric": "tokens",
        "limit": 1000,
        "used": 15,
        "held": size + 600,
        "remaining": 1000 - 15 - size - 600,
    }
    assert "upgrade" not in error
    assert fetched.headers["Retry-After"] == "1"
    assert "x-should-retry" not in fetched.headers
    # More than the window has left of what was used: no waiting helps, a lower maximum does.
    fetched = await ask(customer, chat(model="gpt-4o-mini", max_tokens=990))
    error = refusal(fetched, 429, "quota_exceeded")
    assert (error["quota"]["used"], error["quota"]["remaining"]) == (15, 985)
    assert "held" not in error["quota"]
    assert "limit is 1,000 tokens a day, and this request may use 1," in error["message"]
    fits = re.search(r"lower max_tokens to ([0-9]+) or less", error["message"])
    assert fits is not None
    assert 985 - 990 < int(fits[1]) - 990 + error["quota"]["requested"] <= 985  # beside what is used
    assert "Retry-After" not in fetched.headers
    assert fetched.headers["x-should-retry"] == "false"
    gate.opened.set()
    assert (await running).status == 200


async def test_a_balance_that_is_only_held_is_capacity_and_needs_no_credit(gateway_of):
    gate = Gate(saying(answer()))
    gateway = await gateway_of(gate.serve, change=with_plans(plain=Plan("plain", "Plain", 0)))
    customer = await gateway.customer("0.01", account={"plan": "plain"})
    body = chat(model="gpt-4o-mini", max_tokens=10_000)
    running = asking(customer, body)
    await gate.reached()
    fetched = await ask(customer, body)
    error = refusal(fetched, 429, "capacity_held")
    held_nano = len(json.dumps(body).encode()) * INPUT + 10_000 * OUTPUT
    billing = error["billing"]
    assert (billing["status"], billing["balance_usd"]) == ("active", "0.01")
    assert parse_usd(billing["held"]) == held_nano
    assert 10_000 * OUTPUT < parse_usd(billing["required_usd"]) <= held_nano
    assert (fetched.headers["Retry-After"], "x-should-retry" in fetched.headers) == ("1", False)
    error = refusal(await ask(customer, {**body, "n": 2}), 402, "billing_required")
    assert error["billing"]["balance_usd"] == "0.01"
    assert f"buy credit at {error['billing']['setup_url']} " in error["message"]
    assert "lower max_tokens to" in error["message"]
    gate.opened.set()
    assert (await running).status == 200


async def test_requests_wait_for_running_ones_and_who_leaves_is_gone(make_gateway, upstream):
    gate = Gate(saying(answer()))
    plan = Plan("patient", "Patient", 0, admission_queue_s=60, max_parallel_requests=1)
    gateway = await make_gateway(await upstream(gate.serve), change=with_plans(patient=plan))
    customer = await gateway.customer(account={"plan": "patient"})
    other = await gateway.customer()
    first = asking(customer)
    await gate.reached()
    leaving, staying = asking(customer), asking(customer)
    await until(lambda: waiting(gateway) == 2)
    assert b"metergate_requests_waiting 2" in await gateway.metrics()
    leaving.cancel()
    await until(lambda: waiting(gateway) == 1)
    asking(other)  # nobody else waits
    await gate.reached(2)
    gate.opened.set()
    assert [(await call).status for call in (first, staying)] == [200, 200]
    assert len(await customer.events()) == 2


async def test_a_wait_ends_with_the_refusal_and_with_the_gateway(make_gateway, upstream):
    gate = Gate(saying(answer()))
    plans = {
        "brief": Plan("brief", "Brief", 0, admission_queue_s=1, max_parallel_requests=1),
        "long": Plan("long", "Long", 0, admission_queue_s=600, max_parallel_requests=1),
    }
    gateway = await make_gateway(await upstream(gate.serve), change=with_plans(**plans))
    brief, long = [await gateway.customer(account={"plan": name}) for name in plans]
    running = [asking(brief), asking(long)]
    await gate.reached(2)
    refusal(await ask(brief), 429, "concurrency_exceeded")
    patient = asking(long)
    await until(lambda: waiting(gateway) == 1)
    await gateway.runner.shutdown()  # the first thing that it does as it stops, before it waits for running answers
    refusal(await patient, 429, "concurrency_exceeded")
    gate.opened.set()
    assert [(await call).status for call in running] == [200, 200]


async def test_an_upgrade_is_offered_only_where_it_helps(gateway_of):
    day, minute = Quota(Window.day, Metric.tokens, 50), Quota(Window.hour, Metric.tokens, 60)
    better = Plan("better", "Better", 10**9, quotas=(replace(day, limit=5000), minute))
    plain = Plan("plain", "Plain", 0, quotas=(day, minute), upgrade_to="better")
    gateway = await gateway_of(saying(answer()), change=with_plans(plain=plain, better=better))
    body = chat(model="gpt-4o-mini", max_tokens=45)
    by_plan = await gateway.customer(account={"plan": "plain"})
    error = refusal(await ask(by_plan, body), 429, "quota_exceeded")
    assert (error["quota"]["window"], error["upgrade"]["plan"]) == ("day", "better")
    assert "Better" in error["message"]
    moved = await gateway.customer(account={"plan": "better"})
    error = refusal(await ask(moved, body), 429, "quota_exceeded")
    assert (error["quota"]["window"], error["upgrade"]) == ("hour", None)
    assert error["message"].endswith("Whoever runs this gateway can raise it.")
    tight = {"window": "month", "metric": "tokens", "limit": 1}
    of_key = await gateway.customer(account={"plan": "plain"}, quotas=[tight])
    error = refusal(await ask(of_key, body), 429, "quota_exceeded")
    assert (error["quota"]["subject"], error["quota"]["used"], error["upgrade"]) == ("key", 0, None)
    assert "The key's limit is 1 token a month" in error["message"]
    assert "key's owner" in error["message"]
    of_account = await gateway.customer(account={"plan": "plain", "quotas": [tight]})
    error = refusal(await ask(of_account, body), 429, "quota_exceeded")
    assert (error["quota"]["subject"], error["upgrade"]) == ("account", None)
    assert error["message"].endswith("Whoever runs this gateway can raise it.")
