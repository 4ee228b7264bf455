"""A provider that no one here wrote, aimock: what it is asked for, and what it answers and reports as used.

Each library is given the same directly and through the gateway, and what is charged is what the provider reported.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.clients.libraries import Asker, Library, Told
from tests.gateway.conftest import Customer
from tests.support.answering import until
from tests.support.gateways import INPUT, OUTPUT, spent_nano

MODEL = "gpt-4o-mini"


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


SAID = "Good day, friend."
CALL = {"id": "toolu_1", "name": "weather", "arguments": '{"city":"Bonn"}'}
CASES = {
    "plain": Case("Say something.", {"content": SAID}, (12, 7), SAID),
    "stream": Case("Say something.", {"content": SAID}, (12, 7), SAID),
    "asynchronous": Case("Say something.", {"content": SAID}, (12, 7), f"{SAID} {SAID}", answers=2),
    "tools": Case("How is the weather?", {"toolCalls": [CALL]}, (30, 9), "weather {"),
    "image": Case("What is this?", {"content": "A dot."}, (90, 3), "A dot."),
    "structured": Case("Which city?", {"content": '{"city":"Bonn"}'}, (21, 6), "Bonn"),
}
REFUSALS = {
    status: Case(f"Fail by {status}.", {"error": {"message": f"It is {status}.", "type": kind}, "status": status})
    for status, kind in ((400, "invalid_request_error"), (429, "rate_limit_error"), (500, "server_error"))
}
FIXTURES = [case.fixture for case in (*CASES.values(), *REFUSALS.values())]


async def check_told_the_same(library: Library, asker: Asker, url: str, customer: Customer) -> None:
    """Ask aimock at `url` for all that the library does, directly and as this customer of a gateway before it."""

    async def both(case: Case, what: str) -> Told:
        given = {"api_key": customer.key, "api": library.api, "version": "v1beta", "model": MODEL}
        given |= {"prompt": case.prompt, "what": what}
        direct, through = [
            await asker.ask(base_url=base + library.base, **given) for base in (url, customer.gateway.url)
        ]
        assert through == direct, (case, what)
        return direct

    for what in library.does:
        told = await both(CASES[what], what)
        assert told.text is not None, (what, told)
        assert told.text.startswith(CASES[what].text or ""), (what, told)
    await until(lambda: not customer.gateway.runtime.engine.holds.live)  # a library has left before a stream's end
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
