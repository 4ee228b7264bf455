"""Libraries of one program, each asked for everything by the same process: importing one takes longer than all that it
is asked for."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.clients import table
from tests.clients.aimock import aimock, missing
from tests.clients.behaviours import BEHAVIOURS, TEXT, World, in_all_apis, worlds
from tests.clients.imitated import FIXTURES, check_told_the_same
from tests.clients.libraries import LIBRARIES, NAMED, Asker, Library, Told, started
from tests.clients.relay import Relay, relaying
from tests.gateway.conftest import MakeGateway, Upstream

Outcomes = dict[str, tuple[Relay, Told]]
# Behaviours that no library can tell from another one, which alone has a row in the tables.
ALIKE = {
    "balance or quota held by running requests": "too many at once",
    "quota, resets with the month": "quota, resets late or never",
}
# LlamaIndex's: it retries around OpenAI's library, which retries by itself.
MOST_REQUESTS = 12


def programs() -> list[tuple[Library, ...]]:
    """The libraries by the program that drives them."""
    return [tuple(same) for _, same in groupby(LIBRARIES, lambda library: library.driver)]


async def check_libraries(
    libraries: Sequence[Library],
    make_gateway: MakeGateway,
    upstream: Upstream,
    folder: Path,
    subtests: pytest.Subtests,
) -> None:
    """Try libraries of one program on each behaviour of the gateway, and then on aimock, directly and through it."""
    if libraries[0].missing:
        pytest.skip(libraries[0].missing)
    with started(libraries[0]) as asker:
        async with worlds(make_gateway, upstream) as world:
            for library in libraries:
                with subtests.test("the gateway", library=library.name):
                    await _check_documented(library, world, asker)
        doing = [each for each in libraries if each.does]
        if not doing:
            return
        if reason := missing():
            pytest.skip(reason)
        async with aimock(folder, FIXTURES) as url:
            gateway = await make_gateway(f"{url}/v1", change=in_all_apis)
            for library in doing:
                with subtests.test("aimock", library=library.name):
                    await check_told_the_same(library, asker, url, await gateway.customer())


async def _check_documented(library: Library, world: World, asker: Asker) -> None:
    outcomes = {name: await _outcome(world, asker, library, name) for name in BEHAVIOURS}
    for name, (relay, told) in outcomes.items():
        _check(name, relay, told)
    for name, like in ALIKE.items():
        _check_alike(outcomes, name, like)
    rows = [table.row(name, *seen) for name, seen in outcomes.items() if name not in ALIKE]
    if library.table:
        assert table.documented(NAMED[library.table]).splitlines()[-len(rows) :] == rows
        return
    if table.WRITES:
        table.document(library, table.section(library, rows))
    assert table.documented(library).splitlines() == table.section(library, rows).splitlines()


async def _outcome(world: World, asker: Asker, library: Library, name: str) -> tuple[Relay, Told]:
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


def _check(name: str, relay: Relay, told: Told) -> None:
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


def _check_alike(outcomes: Outcomes, name: str, like: str) -> None:
    """Two behaviours that a library can't tell from each other."""
    (relay, told), (as_relay, as_told) = outcomes[name], outcomes[like]
    assert relay.answers[-1].status == as_relay.answers[-1].status
    assert (told.raised, told.waits, relay.requests) == (as_told.raised, as_told.waits, as_relay.requests)
