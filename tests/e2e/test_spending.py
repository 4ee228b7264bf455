"""Many requests at once against what covers only some of them: never one too many, never one too few.

The provider answers nobody before everybody has asked, so that all of them overlap.
"""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress

import aiohttp
import pytest

from billing.holds.redis.layout import AccountState
from billing.money import format_usd, parse_usd
from billing.quotas import Window
from tests.gateway.conftest import Customer, chat
from tests.support.answering import BOUND_S, DONE, WORDS, Gate, answer, saying, streaming, until, usage, usage_chunk
from tests.support.gateways import (
    INPUT,
    OUTPUT,
    Fetched,
    counted,
    early_in_a_minute,
    fetch,
    journal,
    refusal,
    spent_nano,
)

pytestmark = pytest.mark.slow

REQUESTS, COVERED, MAX_TOKENS = 60, 15, 100
VISITS = 120
BODY = json.dumps(chat(model="gpt-4o-mini", max_tokens=MAX_TOKENS)).encode()
HOLD_NANO = len(BODY) * INPUT + MAX_TOKENS * OUTPUT
USED_NANO = 10 * INPUT + 5 * OUTPUT


def least_nano() -> int:
    """What a request is held for where its bytes do not fit any more, but its tokens do."""
    return counted(BODY) * INPUT + MAX_TOKENS * OUTPUT


async def all_at_once(gate: Gate, customers: list[Customer], body: bytes, served: int) -> list[Fetched]:
    """Send every request, let the provider answer once it has `served` of them, and all others are refused."""
    tasks = [
        asyncio.create_task(fetch(customers[number % len(customers)].post(data=body))) for number in range(REQUESTS)
    ]
    await gate.reached(served)
    await until(lambda: sum(task.done() for task in tasks) == REQUESTS - served)
    lowest = parse_usd((await customers[0].balance())["available_usd"])
    assert lowest >= 0
    gate.opened.set()
    return list(await asyncio.gather(*tasks))


async def test_a_balance_pays_for_exactly_the_holds_that_it_covers(make_gateway, upstream):
    gate = Gate(saying(answer()))
    base_url = await upstream(gate.serve)
    first, second = [await make_gateway(base_url) for _ in range(2)]
    funds = format_usd(COVERED * HOLD_NANO + least_nano() - 1)
    customer = await first.customer(funds)
    elsewhere = Customer(second, customer.account_id, customer.key_id, customer.key)
    fetched = await all_at_once(gate, [customer, elsewhere], BODY, COVERED)
    assert Counter(each.status for each in fetched) == {200: COVERED, 429: REQUESTS - COVERED}
    for each in fetched:
        if each.status == 429:
            billing = refusal(each, 429, "capacity_held")["billing"]
            left_nano = parse_usd(billing["balance_usd"]) - parse_usd(billing["held"])
            assert left_nano < parse_usd(billing["required_usd"]) == least_nano()
        else:
            assert parse_usd(each.headers["x-metergate-balance-usd"]) >= 0
    assert gate.came == COVERED
    assert await spent_nano(customer, funds) == COVERED * USED_NANO
    await second.flush()
    events = await customer.events()
    served = {each.headers["x-request-id"] for each in fetched if each.status == 200}
    assert {event["id"] for event in events} == served
    assert len(events) == COVERED
    async with customer.get("/api/account/transactions", params={"limit": "1000"}) as response:
        transactions = (await response.json())["data"]
    assert sum(parse_usd(each["amount_usd"]) for each in transactions) == parse_usd(funds) - COVERED * USED_NANO


async def test_a_provider_that_uses_every_hold_up_leaves_nothing(customer_of):
    counts = usage(len(BODY), MAX_TOKENS)
    gate = Gate(saying(answer(reported=counts)))
    customer = await customer_of(gate.serve, format_usd(COVERED * HOLD_NANO))
    fetched = await all_at_once(gate, [customer], BODY, COVERED)
    assert Counter(each.status for each in fetched) == {200: COVERED, 429: REQUESTS - COVERED}
    assert (await customer.balance())["balance_usd"] == "0.00"


async def test_elastic_holds_share_a_balance_without_overrunning_it(gateway_of):
    """The first takes all that is left; with streams, and a credit limit."""
    gate = Gate(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await gateway_of(gate.serve)
    customer = await gateway.customer("0.0005", account={"credit_limit_usd": "0.0005"})
    body = json.dumps(chat(model="gpt-4o-mini", stream=True)).encode()
    fetched = await all_at_once(gate, [customer], body, 1)
    assert Counter(each.status for each in fetched) == {200: 1, 429: REQUESTS - 1}
    assert await spent_nano(customer, "0.0005") == USED_NANO


@pytest.mark.parametrize("window", [window.name for window in Window])
@pytest.mark.parametrize("subject", ["key", "account"])
async def test_a_window_lets_exactly_its_limit_through(gateway_of, window, subject):
    gate = Gate(saying(answer()))
    gateway = await gateway_of(gate.serve)
    quotas = [{"window": window, "metric": "requests", "limit": COVERED}]
    bounded = {"quotas": quotas} if subject == "key" else {"account": {"quotas": quotas}}
    customer = await gateway.customer("5.00", **bounded)
    if window == "minute":
        await early_in_a_minute(25.0)
    fetched = await all_at_once(gate, [customer], BODY, COVERED)
    assert Counter(each.status for each in fetched) == {200: COVERED, 429: REQUESTS - COVERED}
    refused = next(each for each in fetched if each.status == 429)
    quota = refusal(refused, 429, "quota_exceeded")["quota"]
    assert (quota["subject"], quota["window"], quota["used"], quota["remaining"]) == (subject, window, COVERED, 0)
    assert await spent_nano(customer) == COVERED * USED_NANO


@pytest.mark.parametrize("metric", ["tokens", "cost", "input_tokens", "output_tokens"])
async def test_a_window_of_tokens_or_cost_is_never_overrun(gateway_of, metric):
    hold, least = {
        "tokens": (len(BODY) + MAX_TOKENS, counted(BODY) + MAX_TOKENS),
        "cost": (HOLD_NANO, least_nano()),
        "input_tokens": (len(BODY), counted(BODY)),
        "output_tokens": (MAX_TOKENS, MAX_TOKENS),
    }[metric]
    limit = COVERED * hold + least - 1
    gate = Gate(saying(answer()))
    gateway = await gateway_of(gate.serve)
    written = format_usd(limit) if metric == "cost" else limit
    customer = await gateway.customer("5.00", quotas=[{"window": "total", "metric": metric, "limit": written}])
    fetched = await all_at_once(gate, [customer], BODY, COVERED)
    assert Counter(each.status for each in fetched) == {200: COVERED, 429: REQUESTS - COVERED}
    assert await spent_nano(customer) == COVERED * USED_NANO
    windows = (await fetch(customer.get("/v1/key"))).json["windows"]
    used = windows[0]["used"]
    spent = {"tokens": 15, "cost": USED_NANO, "input_tokens": 10, "output_tokens": 5}[metric] * COVERED
    assert (parse_usd(used) if metric == "cost" else used) == spent


async def test_as_many_run_at_once_as_are_allowed(gateway_of):
    gate = Gate(saying(answer()))
    gateway = await gateway_of(gate.serve)
    customer = await gateway.customer("5.00", max_parallel_requests=COVERED)
    fetched = await all_at_once(gate, [customer], BODY, COVERED)
    assert Counter(each.status for each in fetched) == {200: COVERED, 429: REQUESTS - COVERED}
    refused = next(each for each in fetched if each.status == 429)
    refusal(refused, 429, "concurrency_exceeded")
    assert await spent_nano(customer) == COVERED * USED_NANO


async def test_clients_that_leave_at_any_moment_leave_nothing_behind(make_gateway, upstream):
    """Whole answers and streams, with and without usage; some clients stay to the end, some leave at any moment."""
    chance = random.Random(20250615)  # noqa: S311
    replies = [
        saying(answer()),
        saying(answer(reported={})),
        streaming(*WORDS * 20, usage_chunk(), DONE),
        streaming(*WORDS * 20, DONE),
        streaming(*WORDS, cut=True),
        saying(b"<html>"),
        saying({"error": {"message": "busy"}}, 503),
    ]

    async def reply(request):
        await asyncio.sleep(chance.random() / 100)
        return await chance.choice(replies)(request)

    gateway = await make_gateway(await upstream(reply))
    customer = await gateway.customer("5.00", max_parallel_requests=VISITS)

    async def visit(stays_s, stream):
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(stays_s):
                await fetch(customer.post(body=chat(model="gpt-4o-mini", stream=stream, max_tokens=200)))

    stays = [chance.choice((BOUND_S, chance.random(), chance.random() / 4)) for _ in range(VISITS)]
    await asyncio.gather(*(visit(stays_s, number % 2 == 0) for number, stays_s in enumerate(stays)))
    spent = await spent_nano(customer)
    await gateway.flush()
    async with customer.get("/api/account/usage/events", params={"limit": "1000"}) as response:
        events = (await response.json())["data"]
    assert sum(parse_usd(event["charged_usd"]) for event in events) == spent > 0
    assert await journal(gateway) == {}
    engine = gateway.runtime.engine
    raw = await gateway.runtime.redis_client.command("GET", engine.keyspace.account(customer.account_id))
    assert AccountState.unpack(raw).running == 0


async def test_refused_requests_count_nowhere(make_gateway, upstream):
    gate = Gate(saying(answer()))
    gateway = await make_gateway(await upstream(gate.serve))
    customer = await gateway.customer(
        quotas=[
            {"window": "day", "metric": "requests", "limit": 1000},
            {"window": "day", "metric": "output_tokens", "limit": MAX_TOKENS - 1},
        ]
    )
    gate.opened.set()
    for _ in range(20):
        refusal(await fetch(customer.post(data=BODY)), 429, "quota_exceeded")
    windows = (await fetch(customer.get("/v1/key"))).json["windows"]
    assert [window["used"] for window in windows if window["subject"] == "key"] == [0, 0]
    assert await journal(gateway) == {}
    assert gate.came == 0
