"""What each tool makes of each refusal: how often it asks, when it gives up, and what its user sees. The table is in
`docs/clients.md`; METERGATE_WRITE_DOCS=1 writes what was seen into it.
"""

import asyncio
from pathlib import Path

import pytest

from tests.agents import table
from tests.agents.agents import AGENTS, Agent, each_of
from tests.agents.provider import playing
from tests.agents.running import prepare, run
from tests.agents.world import REFUSALS, UNPRICED, make_world
from tests.clients.relay import Relay, relaying
from tests.gateway.conftest import Gateway

pytestmark = pytest.mark.slow
QUESTION = "Say something."
WAITS, NO_PRICE = "quota, resets within a minute", "model without a price"
DAY, NEVER, NO_CREDIT = "quota, resets with the day", "request that never fits", "balance too low"
# The longest until a tool gives up what can't come right, on a busy machine.
SOON_S = 150.0
# Tools that repeat such a request for minutes, whatever the answer says: they read its status alone.
PATIENT = frozenset(
    {
        ("claude-code", "no valid key"),
        *((tool, what) for tool in ("qwen-code", "smolagents") for what in (DAY, NEVER)),
        *(("mini-swe-agent", what) for what in (DAY, NEVER, NO_CREDIT, NO_PRICE)),
    }
)
# Refusals that a page of the gateway helps with, whose address is in the message.
WITH_PAGE = frozenset({WAITS, DAY, NEVER, NO_CREDIT})
# Runs of a tool at the same time.
AT_ONCE = 2
# Tools, each once: another model makes no difference to a refusal.
DISTINCT = tuple(agent for agent in AGENTS if agent.name not in ("codex-gpt-6", "codex-websocket", "claude-code-opus"))


async def outcome(agent: Agent, gateway: Gateway, what: str, folder: Path) -> tuple[Relay, table.Row]:
    """Run a tool as a customer who is refused; the tool's way with it."""
    customer = await REFUSALS[what](gateway)
    model = agent.model + UNPRICED if what == NO_PRICE else agent.model
    async with relaying(gateway.url) as relay:
        place = prepare(agent, folder, relay.url, customer.key, model)
        ran = await run(agent, place, agent.command(QUESTION, model), relay.url, customer.key)
    return relay, table.row(agent, what, relay, ran)


@each_of(*DISTINCT)
async def test_refusals_end_soon_and_are_shown(agent, make_gateway, tmp_path, subtests):
    room = asyncio.Semaphore(AT_ONCE)
    async with playing(agent.script) as provider:
        gateway = await make_world(make_gateway, provider, agent)

        async def one(number, what):
            async with room:
                return await outcome(agent, gateway, what, tmp_path / str(number))

        found = await asyncio.gather(*(one(number, what) for number, what in enumerate(REFUSALS)))
    rows = [row for _, row in found]
    if table.WRITES:
        table.document(rows)
    known = table.documented()
    for relay, row in found:
        with subtests.test(row.what):
            print(row)
            assert (agent.name, row.what) in known
            check(relay, row)


def check(relay: Relay, row: table.Row) -> None:
    """What holds for every tool: a wait that helps is waited for; what no wait helps with ends soon, and is shown."""
    if row.what == WAITS:
        assert row.sees == "waits, then the answer" or row.sees.startswith((table.MESSAGE, table.BODY)), row
        return
    if (row.tool, row.what) not in PATIENT:
        assert float(row.seconds.partition(" ")[0]) <= SOON_S, row
        assert row.sees.startswith((table.MESSAGE, table.BODY)), row
    refused = [seen for seen in relay.answers if seen.status >= 400 and seen.body.startswith(b"{")]
    if row.what in WITH_PAGE:
        assert "http" in refused[-1].error["message"], refused[-1].error
