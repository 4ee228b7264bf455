"""Responses in the background outlive their gateway: each is paid once, by whoever polls it then."""

import random

import pytest

from tests.chaos.faults import kill_gateway, kill_worker
from tests.chaos.harness import Customer, Stack, running
from tests.chaos.plan import INPUT_NANO, MODEL, OUTPUT_NANO
from tests.chaos.upstream import JOB_INPUT, JOB_OUTPUT
from tests.chaos.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

COST = JOB_INPUT * INPUT_NANO + JOB_OUTPUT * OUTPUT_NANO
QUICK = {"background_poll_s": 0.1, "background_lease_s": 1.0}
PAID = "SELECT coalesce(sum(charged_nano), 0)::bigint FROM usage_events"
DEBITS = "SELECT count(*) FROM usage_events WHERE charged_nano > 0"
OPEN = "SELECT count(*) FROM background_jobs WHERE done_at IS NULL"


async def begin(stack: Stack, customer: Customer) -> None:
    """Begin a response that is asked after, and one whose stream somebody reads."""
    body = {"model": MODEL, "input": "Hello", "max_output_tokens": 50, "background": True}
    headers = {"Authorization": f"Bearer {customer.key}"}
    url, begun = f"{stack.url}/v1/responses", len(stack.upstream.jobs)
    async with stack.session.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    streamed = await stack.session.post(url, json={**body, "stream": True}, headers=headers)
    assert b"response.created" in await streamed.content.readline()
    await until(lambda: stack.upstream.jobs[f"resp_{begun}"], "the job is polled")


async def test_what_is_killed_is_paid_once():
    async with running(workers=1, defaults=QUICK) as stack, stack.runtime() as runtime:

        async def all_done():
            return not await runtime.database.value(OPEN)

        customer = await stack.customer("5.00")
        for kill in (kill_worker, kill_gateway):
            stack.upstream.may_end = False
            await begin(stack, customer)
            await kill(stack, random.Random(1))  # noqa: S311 - which of one
            stack.upstream.may_end = True
            await until(all_done, "all jobs are paid")
            assert all(stack.upstream.jobs.values())
        await stack.stop_gateway()  # what waits to be written is written now
        assert await runtime.database.value(DEBITS) == 4
        assert await runtime.database.value(PAID) == 4 * COST
