"""Each tool does its work through the gateway as it does directly: two turns with a real round of its own tools, by
its documented settings, on the free plan with 5 USD. The charge is what the provider reported."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from billing.holds.redis.layout import Entry
from billing.money import format_usd, parse_usd
from tests.agents.agents import AGENTS, NAMED, Agent, each_of
from tests.agents.provider import Exchange, Provider, playing
from tests.agents.running import Ran, prepare, run
from tests.agents.scripts import DELEGATED, FOUND
from tests.agents.world import BALANCE_USD, FREE, Holds, charge_of, make_world, price_of
from tests.gateway.conftest import Customer, MakeGateway
from tests.support.gateways import spent_nano

pytestmark = pytest.mark.slow
# How many times its charge a request may hold, beside the output that it asks for or that is free.
MOST_HELD = 20


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


@dataclass(frozen=True)
class Request:
    """A request through the gateway: what was reported, charged and held for it."""

    exchange: Exchange
    charged_nano: int
    hold: Entry

    @property
    def beside_output_nano(self) -> int:
        """What is held for all but output."""
        return self.hold.cost_nano - self.hold.output_tokens * price_of(self.exchange.model)["output"]

    def __str__(self) -> str:
        used, hold = self.exchange.used, self.hold
        return (
            f"{self.exchange.model}: {len(json.dumps(self.exchange.body))} bytes; tokens {used.input_tokens} + "
            f"{used.output_tokens}, held {hold.input_tokens} + {hold.output_tokens}; nano-USD {self.charged_nano}, "
            f"held {hold.cost_nano}, {hold.cost_nano / self.charged_nano:.1f} times, "
            f"without output {self.beside_output_nano / self.charged_nano:.1f} times"
        )


def asks_output(body: dict[str, Any]) -> bool:
    """Return whether a client says how much it wants; else the hold is elastic."""
    given = (body, body.get("generationConfig") or {})
    names = ("max_tokens", "max_output_tokens", "max_completion_tokens", "maxOutputTokens")
    return any(name in each for each in given for name in names)


async def compare(agent: Agent, make_gateway: MakeGateway, folder: Path, prompt: str | None = None) -> None:
    """A tool does the same directly and through the gateway, and is charged as reported. One that leaves its output to
    the gateway also does it with a balance of MOST_HELD times what its cheapest request costs."""
    async with playing(agent.script, caches=prompt is not None) as provider:
        direct = await ran(agent, folder / "a", provider.url, "sk-direct", prompt)
        asked_directly = asked(provider)
        fixed = any(asks_output(each.body) for each in provider.metered)
        provider.exchanges.clear()
        gateway = await make_world(make_gateway, provider, agent)
        customer = await gateway.customer(BALANCE_USD, account=FREE)
        holds = Holds(gateway)
        provider.arrived = holds.note
        through = await ran(agent, folder / "b", gateway.url, customer.key, prompt)
        assert answer(through, folder / "b") == answer(direct, folder / "a")
        requests = await check_charges(customer, provider, holds)
        assert asked(provider) == asked_directly
        if prompt is not None:
            return
        assert [each for each in requests if each.beside_output_nano > MOST_HELD * each.charged_nano] == []
        if not fixed:
            least = min(each.charged_nano for each in requests)
            poor = await gateway.customer(format_usd(MOST_HELD * least), account=FREE)
            await ran(agent, folder / "c", gateway.url, poor.key)


def asked(provider: Provider) -> list[str]:
    """What the provider was asked and has said."""
    return sorted(f"{each.path} {each.model} {each.reply}" for each in provider.metered)


async def check_charges(customer: Customer, provider: Provider, holds: Holds) -> list[Request]:
    """The ledger has what the provider reported, to the nano; the requests, in their order."""
    spent = await spent_nano(customer, BALANCE_USD)
    events = [each for each in await customer.events() if each["output_tokens"]]
    left = list(provider.metered)
    requests = []
    for each in events:
        counts = each["input_tokens"], each["output_tokens"], each["cached_input_tokens"]
        exchange = next((one for one in left if counted(one) == counts), None)
        assert exchange is not None, (each, [counted(one) for one in left])
        left.remove(exchange)
        charged = parse_usd(each["charged_usd"])
        assert charged == charge_of(exchange), each
        requests.append(Request(exchange, charged, holds.seen[each["id"]]))
        print(requests[-1])
    assert left == []
    assert spent == sum(each.charged_nano for each in requests)
    return requests


def counted(exchange: Exchange) -> tuple[int, int, int]:
    return exchange.used.input_tokens, exchange.used.output_tokens, exchange.used.cached_tokens


@each_of(*AGENTS)
async def test_a_tool_round_is_as_without_the_gateway_and_charged_as_reported(agent, make_gateway, tmp_path):
    await compare(agent, make_gateway, tmp_path)


@each_of(*(each for each in AGENTS if each.delegates))
async def test_a_sub_agent_is_as_without_the_gateway_and_charged_as_reported(agent, make_gateway, tmp_path):
    await compare(agent, make_gateway, tmp_path, DELEGATED)


def test_each_tool_has_a_version():
    assert all(agent.version for agent in NAMED.values())
