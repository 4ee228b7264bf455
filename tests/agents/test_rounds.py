"""Each tool does its work through the gateway as it does directly: two turns with a real round of its own tools, by
its documented settings, on the free plan with 5 USD. The charge is what the provider reported."""

import re
from pathlib import Path
from typing import Final

import pytest

from billing.money import parse_usd
from tests.agents.agents import AGENTS, NAMED, Agent
from tests.agents.provider import Exchange, Provider, playing
from tests.agents.running import Ran, prepare, run
from tests.agents.scripts import DELEGATED, FOUND
from tests.agents.world import BALANCE_USD, FREE, Holds, charge_of, make_world, price_of
from tests.gateway.conftest import Customer, MakeGateway
from tests.support.gateways import spent_nano

pytestmark = pytest.mark.slow
MOST_HELD: Final = 20
"""How many times its charge a request may hold, beside the output that it asks for or that is free."""


def agents(*chosen: Agent) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("agent", chosen, ids=lambda agent: agent.name)


async def ran(agent: Agent, folder: Path, url: str, key: str, prompt: str | None = None) -> Ran:
    """One run of a tool, which has done what it was asked for."""
    place = prepare(agent, folder, url, key, agent.model)
    outcome = await run(agent, place, agent.command(prompt or agent.prompt, agent.model), url, key)
    assert outcome.ended, outcome
    assert outcome.code == 0, outcome
    assert FOUND in outcome.output or "heron-4711" in outcome.output, outcome
    return outcome


def answer(outcome: Ran, folder: Path) -> str:
    """What a tool printed as its result, without blanks, where lines are broken, and what differs from run to run."""
    text = re.sub(r"\s+", "", outcome.stdout)
    return re.sub(r"http://127\.0\.0\.1:\d+", "URL", text.replace(str(folder), "FOLDER"))


async def compare(agent: Agent, make_gateway: MakeGateway, folder: Path, prompt: str | None = None) -> None:
    if agent.missing:
        pytest.skip(agent.missing)
    async with playing(agent.script, caches=prompt is not None) as provider:
        direct = await ran(agent, folder / "a", provider.url, "sk-direct", prompt)
        asked_directly = [(each.path, each.model, each.reply) for each in provider.metered]
        provider.exchanges.clear()
        gateway = await make_world(make_gateway, provider, agent)
        customer = await gateway.customer(BALANCE_USD, account=FREE)
        holds = Holds(gateway)
        provider.arrived = holds.note
        through = await ran(agent, folder / "b", gateway.url, customer.key, prompt)
        assert answer(through, folder / "b") == answer(direct, folder / "a")
        assert sorted(map(str, [(each.path, each.model, each.reply) for each in provider.metered])) == sorted(
            map(str, asked_directly)
        )
        await check_charges(customer, provider, holds)


async def check_charges(customer: Customer, provider: Provider, holds: Holds) -> None:
    """The ledger has what the provider reported, to the nano; what was held is within MOST_HELD times of it."""
    spent = await spent_nano(customer, BALANCE_USD)
    events = await customer.events()
    reported = sorted((counted(each), charge_of(each)) for each in provider.metered)
    in_ledger = sorted(
        (
            (each["input_tokens"], each["output_tokens"], each["cached_input_tokens"]),
            parse_usd(each["charged_usd"]),
        )
        for each in events
        if each["output_tokens"]
    )
    assert in_ledger == reported
    assert spent == sum(nano for _, nano in reported)
    for each in events:
        nano, output_tokens = holds.seen[each["id"]]
        beside_output = nano - output_tokens * price_of(each["model"])["output"]
        charged = parse_usd(each["charged_usd"])
        print(f"{each['model']}: charged {charged}, held {nano}, of it {beside_output} for what is not output")
        assert beside_output <= MOST_HELD * charged, each


def counted(exchange: Exchange) -> tuple[int, int, int]:
    assert exchange.used is not None
    return exchange.used.input_tokens, exchange.used.output_tokens, exchange.used.cached_tokens


@agents(*AGENTS)
async def test_a_tool_round_is_as_without_the_gateway_and_charged_as_reported(
    agent: Agent, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    await compare(agent, make_gateway, tmp_path)


@agents(*(each for each in AGENTS if each.delegates))
async def test_a_sub_agent_is_as_without_the_gateway_and_charged_as_reported(
    agent: Agent, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    await compare(agent, make_gateway, tmp_path, DELEGATED)


def test_each_tool_has_a_version() -> None:
    assert all(agent.version for agent in NAMED.values())
