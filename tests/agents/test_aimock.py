"""A provider that no one here wrote, aimock: each tool is answered as it is directly, and charged what it reports."""

import pytest

from billing.money import parse_usd
from tests.agents.agents import AGENTS, each_of
from tests.agents.running import prepare, run
from tests.agents.world import BALANCE_USD, FREE, price_of, serving_all
from tests.clients.aimock import aimock, missing
from tests.clients.imitated import CASES, FIXTURES
from tests.support.gateways import spent_nano

pytestmark = pytest.mark.slow
CASE = CASES["plain"]
# Tools that are content with a text; the others go on until a tool is called.
ANSWERED = tuple(
    agent
    for agent in AGENTS
    if agent.name not in ("codex-websocket", "claude-code-opus", "mini-swe-agent", "smolagents")
)


@each_of(*ANSWERED)
async def test_an_answer_is_as_without_the_gateway_and_charged_as_reported(agent, make_gateway, tmp_path):
    if reason := missing():
        pytest.skip(reason)
    async with aimock(tmp_path, FIXTURES) as url:
        gateway = await make_gateway(change=serving_all(url, agent))
        customer = await gateway.customer(BALANCE_USD, account=FREE)
        for name, base, key in (("a", url, "sk-direct"), ("b", gateway.url, customer.key)):
            place = prepare(agent, tmp_path / name, base, key, agent.model)
            ran = await run(agent, place, agent.command(CASE.prompt, agent.model), base, key)
            assert ran.code == 0, ran
            assert CASE.text in ran.output, ran
        spent = await spent_nano(customer, BALANCE_USD)
        events = await customer.events()
    assert {(each["input_tokens"], each["output_tokens"]) for each in events} == {CASE.used}
    price = price_of(agent.model)
    read, written = CASE.used
    assert spent == len(events) * (read * price["input"] + written * price["output"])
    assert spent == sum(parse_usd(each["charged_usd"]) for each in events)
