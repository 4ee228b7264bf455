"""No overspending at any concurrency: balances and windows with room for a third of what is asked, three gateways.

The provider gives all the output that it is asked for, so that every hold is used to its end.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from billing.database.connection import Database
from billing.money import parse_usd
from billing.quotas import Metric, Window
from tests.chaos.harness import Customer, Stack, running
from tests.chaos.ledger_check import Verdict, check_windows
from tests.chaos.plan import INPUT_NANO, OUTPUT_NANO, Plan
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.waiting import until

ASKING = 400
ASKING_WINDOW = 24
OUTPUT_TOKENS = 16
INPUT_TOKENS = 40
# The provider takes as long: all holds stand at the same time.
DELAY_MS = 700
# Who is refused is refused for want of money, or by a window: nothing is away because the machine is busy.
PATIENT = {
    "redis_timeout_ms": 60_000,
    "settle_timeout_ms": 60_000,
    "admission_wait_ms": 60_000,
    "connect_timeout_s": 60,
    "postgres_timeout_s": 60,
    "lease_s": 60,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[Stack]:
    """One for all of them: each has customers of its own."""
    async with running(defaults=PATIENT) as made:
        yield made


async def ask(stack: Stack, customer: Customer, number: int, maximum: int | None, delay_ms: int) -> tuple[int, Any]:
    """One request for as much output as `maximum`, or as the gateway grants; status and body of its answer."""
    plan = Plan(f"{customer.key_id}-{number:04}", "ok", delay_ms, 1, INPUT_TOKENS, 1_000_000)
    headers = {"Authorization": f"Bearer {customer.key}", "X-Request-Id": plan.marker}
    url = f"{stack.url}/v1/chat/completions"
    async with stack.session.post(url, json=plan.body(stream=False, max_tokens=maximum), headers=headers) as response:
        return response.status, msgspec.json.decode(await response.read())


async def ask_at_once(
    stack: Stack, customer: Customer, count: int, maximum: int | None, delay_ms: int = DELAY_MS
) -> Counter[int]:
    """How many answers of each status."""
    asked = (ask(stack, customer, number, maximum, delay_ms) for number in range(count))
    return Counter(status for status, _ in await asyncio.gather(*asked))


async def required_nano(stack: Stack) -> int:
    """What one request has to hold, by the refusal of an account that has nothing left to hold."""
    poor = await stack.customer("0.000001")
    status, refusal = await ask(stack, poor, 0, OUTPUT_TOKENS, DELAY_MS)
    assert status == 402, refusal
    return parse_usd(refusal["error"]["billing"]["required_usd"])


async def balance_nano(stack: Stack, customer: Customer) -> int:
    """The ledger's balance, once every debit is in it."""
    assert await wait_until_quiet(stack) == 0
    database = Database(stack.endpoints.database_url, size=1)
    try:
        return int(await database.value("SELECT balance_nano FROM accounts WHERE id = $1", customer.account_id))
    finally:
        await database.close()


@pytest.mark.parametrize("maximum", [OUTPUT_TOKENS, None], ids=["with a maximum", "elastic"])
async def test_a_balance_is_never_overspent(stack, maximum):
    needed = await required_nano(stack)
    granted = needed * (ASKING // 3)
    customer = await stack.customer(f"{granted / 10**9:.9f}")
    assert customer.granted_nano == granted
    answers = await ask_at_once(stack, customer, ASKING, maximum)
    assert answers.keys() & {402, 429}, answers  # spent, or held by those that run
    assert answers.keys() <= {200, 402, 429}, answers
    if maximum is not None:
        assert answers[200] >= ASKING // 3, "less was admitted than the balance covers"
    left = await balance_nano(stack, customer)
    assert left >= 0
    if maximum is not None:
        assert granted - left == answers[200] * (INPUT_TOKENS * INPUT_NANO + OUTPUT_TOKENS * OUTPUT_NANO)


async def test_no_window_of_any_metric_is_exceeded(stack):
    needed = await required_nano(stack)
    held_input = (needed - OUTPUT_TOKENS * OUTPUT_NANO) // INPUT_NANO
    a_third = {
        Metric.requests: ASKING_WINDOW // 3,
        Metric.tokens: (held_input + OUTPUT_TOKENS) * ASKING_WINDOW // 3,
        Metric.input_tokens: held_input * ASKING_WINDOW // 3,
        Metric.output_tokens: OUTPUT_TOKENS * ASKING_WINDOW // 3,
        Metric.cost: needed * ASKING_WINDOW // 3,
    }
    for number, (window, metric) in enumerate(itertools.product(Window, Metric)):
        limit = f"{a_third[metric] / 10**9:.9f}" if metric is Metric.cost else a_third[metric]
        quota = [{"window": window.name, "metric": metric.name, "limit": limit}]
        whose = "key_quotas" if number % 2 else "account_quotas"
        customer = await stack.customer("1000", plan="free", **{whose: quota})
        maximum = OUTPUT_TOKENS if number % 3 else None
        answers = await ask_at_once(stack, customer, ASKING_WINDOW, maximum, 150)
        assert answers.keys() == {200, 429}, (window, metric, answers)
        if maximum is not None:
            assert answers[200] >= ASKING_WINDOW // 3 - 1, (window, metric, answers)
    assert await wait_until_quiet(stack) == 0
    verdict = Verdict()
    async with stack.runtime() as runtime:
        events = [dict(row) for row in await runtime.database.rows("SELECT * FROM usage_events")]
        check_windows(verdict, stack.customers, events)
        report = await runtime.engine.reconciler.run()
    assert not verdict.overshoot_nano, verdict.details
    assert not verdict.exceeded, verdict.details
    assert not report.drifts


async def test_requests_that_run_at_once_are_bounded(stack):
    customer = await stack.customer("1000", plan="free", max_parallel_requests=7)
    stack.upstream.may_answer.clear()
    asked = [asyncio.create_task(ask(stack, customer, number, OUTPUT_TOKENS, 1)) for number in range(60)]
    try:
        await until(lambda: sum(each.done() for each in asked) >= 53, "all but seven are refused")
    finally:
        stack.upstream.may_answer.set()
    assert Counter(status for status, _ in await asyncio.gather(*asked)) == {200: 7, 429: 53}
    await until(lambda: _serves(stack, customer), "the next one is served")


async def _serves(stack: Stack, customer: Customer) -> bool:
    status, _ = await ask(stack, customer, 1000, OUTPUT_TOKENS, 1)
    return status == 200
