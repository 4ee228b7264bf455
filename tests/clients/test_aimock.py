"""What aimock drops, spoils, breaks off or refuses by chance is free."""

import asyncio
from collections import Counter

import pytest

from tests.clients.aimock import aimock, missing
from tests.clients.behaviours import in_all_apis
from tests.clients.imitated import CASES, FIXTURES, MODEL
from tests.gateway.conftest import Customer, chat
from tests.gateway.dialects.gemini.support import ASKED
from tests.support.gateways import INPUT, OUTPUT, ask, spent_nano

pytestmark = pytest.mark.slow
# What a client is answered to each of aimock's faults.
FAULTS = {"dropRate": 500, "malformedRate": 502, "disconnectRate": 502, "rateLimitRate": 429}
REQUESTS = 20
BODIES = {
    "/v1/chat/completions": chat("Say something.", model=MODEL),
    "/v1/responses": {"model": MODEL, "input": "Say something."},
    "/v1/messages": {"max_tokens": 50, **chat("Say something.", model=MODEL)},
    f"/v1beta/models/{MODEL}:generateContent": ASKED,
}


async def test_what_it_breaks_off_is_free(make_gateway, tmp_path, subtests):
    if reason := missing():
        pytest.skip(reason)
    async with aimock(tmp_path, FIXTURES) as url:
        gateway = await make_gateway(f"{url}/v1", change=in_all_apis)
        for path in BODIES:
            with subtests.test(path):
                await check_free(await gateway.customer(), path, url)


async def check_free(customer: Customer, path: str, url: str) -> None:
    async def broken(**rates: float) -> None:
        async with customer.gateway.session.post(f"{url}/__aimock/chaos", json=rates) as answer:
            assert answer.status == 200

    for fault, status in FAULTS.items():
        await broken(**dict.fromkeys(FAULTS, 0) | {fault: 1})
        assert (await ask(customer, BODIES[path], path)).status == status, fault
    await broken(**dict.fromkeys(FAULTS, 0.2))
    fetched = await asyncio.gather(*(ask(customer, BODIES[path], path) for _ in range(REQUESTS)))
    statuses = Counter(each.status for each in fetched)
    assert statuses.keys() <= {200, *FAULTS.values()}
    events = await customer.events()
    assert Counter((each["status"], each["input_tokens"], each["output_tokens"]) for each in events) == Counter(
        {(200, *CASES["plain"].used): statuses[200]}
    )
    read, written = CASES["plain"].used
    assert await spent_nano(customer) == statuses[200] * (read * INPUT + written * OUTPUT)
