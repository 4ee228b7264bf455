"""A provider that no one here wrote, aimock: each library is given the same directly and through the gateway, and what
is charged is what the provider reported; what aimock drops, spoils, breaks off or refuses by chance is free."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.aimock import aimock, missing
from tests.clients.behaviours import in_all_apis
from tests.clients.libraries import LIBRARIES, Library, Told, started
from tests.gateway.conftest import MakeGateway, chat
from tests.gateway.dialects.gemini.support import ASKED
from tests.support.gateways import INPUT, OUTPUT, ask, spent_nano

pytestmark = pytest.mark.slow
MODEL: Final = "gpt-4o-mini"


@dataclass(frozen=True)
class Case:
    """A prompt, what aimock answers and what it reports as used."""

    prompt: str
    response: dict[str, Any]
    used: tuple[int, int] = (0, 0)
    text: str | None = None
    answers: int = 1

    @property
    def fixture(self) -> dict[str, Any]:
        read, written = self.used
        usage = {
            **{"prompt_tokens": read, "input_tokens": read, "promptTokenCount": read},
            **{"completion_tokens": written, "output_tokens": written, "candidatesTokenCount": written},
            **{"total_tokens": read + written, "totalTokenCount": read + written},
        }
        response = {**self.response, **({"usage": usage, "id": "made_1"} if any(self.used) else {})}
        return {"match": {"userMessage": self.prompt}, "response": response}


SAID: Final = "Good day, friend."
CALL: Final = {"id": "toolu_1", "name": "weather", "arguments": '{"city":"Bonn"}'}
CASES: Final = {
    "plain": Case("Say something.", {"content": SAID}, (12, 7), SAID),
    "stream": Case("Say something.", {"content": SAID}, (12, 7), SAID),
    "asynchronous": Case("Say something.", {"content": SAID}, (12, 7), f"{SAID} {SAID}", answers=2),
    "tools": Case("How is the weather?", {"toolCalls": [CALL]}, (30, 9), "weather {"),
    "image": Case("What is this?", {"content": "A dot."}, (90, 3), "A dot."),
    "structured": Case("Which city?", {"content": '{"city":"Bonn"}'}, (21, 6), "Bonn"),
}
REFUSALS: Final = {
    status: Case(f"Fail by {status}.", {"error": {"message": f"It is {status}.", "type": kind}, "status": status})
    for status, kind in ((400, "invalid_request_error"), (429, "rate_limit_error"), (500, "server_error"))
}
FIXTURES: Final = [case.fixture for case in (*CASES.values(), *REFUSALS.values())]


@pytest.mark.parametrize("library", [each for each in LIBRARIES if each.does], ids=lambda library: library.name)
async def test_it_is_told_the_same(library: Library, make_gateway: MakeGateway, tmp_path: Path) -> None:
    if reason := library.missing or missing():
        pytest.skip(reason)
    with started(library) as asker:
        async with aimock(tmp_path, FIXTURES) as url:
            customer = await (await make_gateway(f"{url}/v1", change=in_all_apis)).customer()

            async def both(case: Case, what: str) -> Told:
                given = {"api_key": customer.key, "api": library.api, "version": "v1beta", "model": MODEL}
                given |= {"prompt": case.prompt, "what": what}
                direct, through = [
                    await asker.ask(base_url=base + library.base, **given) for base in (url, customer.gateway.url)
                ]
                assert through == direct, (case, what)
                return direct

            for what in library.does:
                case = CASES[what]
                told = await both(case, what)
                assert told.text is not None, (what, told)
                assert told.text.startswith(case.text or ""), (what, told)
            events = await customer.events()
            for status, case in REFUSALS.items():
                for what in ("plain", "stream"):
                    told = await both(case, what)
                    assert f"It is {status}." in told.message, told
            expected = Counter[tuple[int, int]]()
            for what in library.does:
                expected[CASES[what].used] += CASES[what].answers
            assert Counter((each["input_tokens"], each["output_tokens"]) for each in events) == expected
            nano = sum((read * INPUT + written * OUTPUT) * times for (read, written), times in expected.items())
            assert await spent_nano(customer) == nano


FAULTS: Final = {"dropRate": 500, "malformedRate": 502, "disconnectRate": 502, "rateLimitRate": 429}
"""What a client is answered to each of aimock's faults."""
REQUESTS: Final = 20
BODIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": chat("Say something.", model=MODEL),
    "/v1/responses": {"model": MODEL, "input": "Say something."},
    "/v1/messages": {"max_tokens": 50, **chat("Say something.", model=MODEL)},
    f"/v1beta/models/{MODEL}:generateContent": ASKED,
}


@pytest.mark.parametrize("path", BODIES)
async def test_what_it_breaks_off_is_free(path: str, make_gateway: MakeGateway, tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    async with aimock(tmp_path, FIXTURES) as url:
        gateway = await make_gateway(f"{url}/v1", change=in_all_apis)
        customer = await gateway.customer()

        async def broken(**rates: float) -> None:
            async with gateway.session.post(f"{url}/__aimock/chaos", json=rates) as answer:
                assert answer.status == 200

        for fault, status in FAULTS.items():
            await broken(**{fault: 1})
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
