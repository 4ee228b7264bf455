"""Each library on each behaviour of the gateway: `docs/clients.md` says what was seen here, and nothing else.

METERGATE_WRITE_DOCS=1 writes that page anew. What a library raises rests on its version and the gateway's status, code
and headers; where the gateway's wording is handed on, only that it is handed on is compared.
"""

from collections.abc import Awaitable, Callable

import pytest

from tests.clients import table
from tests.clients.behaviours import BEHAVIOURS, TEXT, World, worlds
from tests.clients.libraries import LIBRARIES, NAMED, Asker, Library, Told, started
from tests.clients.relay import Relay, relaying
from tests.gateway.conftest import Handler, MakeGateway

pytestmark = pytest.mark.slow
Upstream = Callable[[Handler], Awaitable[str]]
Outcomes = dict[str, tuple[Relay, Told]]
ALIKE = {
    "balance or quota held by running requests": "too many at once",
    "quota, resets with the month": "quota, resets late or never",
}
"""Behaviours that no library can tell from another one, which alone has a row in the tables."""
MOST_REQUESTS = 12
"""LlamaIndex's: it retries around OpenAI's library, which retries by itself."""


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
async def test_what_it_makes_of_each(library: Library, make_gateway: MakeGateway, upstream: Upstream) -> None:
    if library.missing:
        pytest.skip(library.missing)
    with started(library) as asker:
        async with worlds(make_gateway, upstream) as world:
            outcomes = {name: await outcome(world, asker, library, name) for name in BEHAVIOURS}
    for name, (relay, told) in outcomes.items():
        check(name, relay, told)
    for name, like in ALIKE.items():
        check_alike(outcomes, name, like)
    rows = [table.row(name, *seen) for name, seen in outcomes.items() if name not in ALIKE]
    if library.table:
        assert table.documented(NAMED[library.table]).splitlines()[-len(rows) :] == rows
        return
    if table.WRITES:
        table.document(library, table.section(library, rows))
    assert table.documented(library).splitlines() == table.section(library, rows).splitlines()


async def outcome(world: World, asker: Asker, library: Library, name: str) -> tuple[Relay, Told]:
    """What went over the wire, and what the library made of it."""
    asked = await BEHAVIOURS[name](world)
    async with relaying(asked.customer.gateway.url) as relay:
        told = await asker.ask(
            base_url=relay.url + library.base,
            api_key=asked.customer.key,
            api=library.api,
            model=asked.model,
            prompt=asked.prompt,
            what="stream" if asked.stream else "plain",
        )
    await world.let_go()
    return relay, told


def check(name: str, relay: Relay, told: Told) -> None:
    """What holds for every library: an answer is whole, a refusal is an exception that says what the gateway said, no
    cut stream passes for a whole one, and the waits are those between requests."""
    assert relay.answers, (name, told)
    assert 1 <= relay.requests <= MOST_REQUESTS, name
    assert len(told.waits) == relay.requests - 1, (name, told)
    last = relay.answers[-1]
    if name in ("answer", "stream"):
        assert (last.status, told.text, relay.requests) == (200, TEXT, 1), (name, told)
        return
    assert told.raised is not None, (name, told)
    if last.status == 200:
        assert relay.requests == 1
    else:
        assert last.error["message"] in told.message.replace("\\'", "'"), (name, told)
    if last.status in (400, 401, 402, 403, 404):
        assert relay.requests == 1, (name, told)


def check_alike(outcomes: Outcomes, name: str, like: str) -> None:
    """Two behaviours that a library can't tell from each other."""
    (relay, told), (as_relay, as_told) = outcomes[name], outcomes[like]
    assert relay.answers[-1].status == as_relay.answers[-1].status
    assert (told.raised, told.waits, relay.requests) == (as_told.raised, as_told.waits, as_relay.requests)
