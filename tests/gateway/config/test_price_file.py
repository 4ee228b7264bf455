"""A file of prices that changes while a gateway runs: in force at once, or not at all."""

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from billing.errors import MetergateError
from billing.money import parse_usd
from billing.pricing import PriceTable
from gateway.config.prices import POLL_S, PriceFollower, load_prices
from gateway.config.source import file_marks
from tests.gateway.conftest import Customer, chat
from tests.support.answering import BOUND_S
from tests.support.gateways import Fetched, ask, fetch

ROW = '- {provider: p, model: m, effective_from: 2024-01-01, per_million: {input: "%s"}}\n'
LOCAL = """\
- {provider: local, model: demo, effective_from: 2024-01-01, context_window: 4096,
   per_million: {input: "%s", output: "0"}}
"""
NEW = "- {provider: openai, model: gpt-brand-new, effective_from: 2024-01-01, per_million: {input: '1', output: '1'}}\n"


class Applied:
    """Records what a follower has applied."""

    def __init__(self, path: Path) -> None:
        self.stored: list[PriceTable] = []
        self.in_force: list[PriceTable] = []
        self.failure: MetergateError | None = None
        self.path = path
        self.changes = 0
        marks = file_marks(path)
        self.follower = PriceFollower(path, {}, load_prices(path, {}), marks, self.store, self.in_force.append)

    async def store(self, table: PriceTable) -> None:
        if self.failure is not None:
            raise self.failure
        self.stored.append(table)

    def write(self, text: str) -> None:
        self.changes += 1
        self.path.write_text(text, "utf-8")
        os.utime(self.path, ns=(self.changes, self.changes))

    @property
    def inputs(self) -> list[int]:
        return [table.rows[0].per_million["input"] for table in self.in_force]


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    path = tmp_path / "prices.yaml"
    path.write_text(ROW % "1", "utf-8")
    return Applied(path)


async def test_a_change_is_in_force_once_the_ledger_has_its_rows(applied):
    await applied.follower.look()
    assert applied.in_force == []
    applied.write(ROW % "2")
    applied.failure = MetergateError("away")
    await applied.follower.look()
    assert applied.in_force == []
    applied.failure = None
    await applied.follower.look()
    await applied.follower.look()
    assert applied.inputs == [2 * 10**9]
    assert applied.stored == applied.in_force


async def test_what_prices_nothing_is_in_force_too(applied):
    """A row's id is that of its prices; how long such a model is read on after its client left is not among them."""
    applied.write(ROW.replace("}\n", ", hidden_reasoning: true}\n") % "1")
    await applied.follower.look()
    assert [table.rows[0].hidden_reasoning for table in applied.in_force] == [True]


@pytest.mark.parametrize("text", ["- {provider: p}\n", "- {\n", "", None])
async def test_a_broken_file_keeps_the_old_table_and_says_so(applied, text, caplog):
    await applied.follower.look()
    if text is None:
        applied.path.unlink()
    else:
        applied.write(text)
    with caplog.at_level(logging.ERROR):
        await applied.follower.look()
        await applied.follower.look()
    assert applied.follower.broken
    assert applied.in_force == []
    assert len(caplog.records) == 1
    assert str(applied.path) in caplog.text
    applied.write(ROW % "3")
    await applied.follower.look()
    assert not applied.follower.broken
    assert applied.inputs == [3 * 10**9]


async def test_every_gateway_takes_a_change_and_one_from_before_it_served(make_gateway, tmp_path):
    """Two gateways on one file, which changes once both have read it, and before they look for the first time."""
    path = tmp_path / "prices.yaml"
    path.write_text(LOCAL % "1.00", "utf-8")
    read = {"folder": tmp_path, "prices": load_prices(path, {}), "price_marks": file_marks(path)}
    path.write_text(LOCAL % "20.00", "utf-8")
    gateways = [await make_gateway(change=lambda settings: replace(settings, **read)) for _ in range(2)]
    customer = await gateways[0].customer("5.00")
    served = [replace(customer, gateway=gateway) for gateway in gateways]
    await _priced(served, "20.00")
    unknown = [gateway.runtime.services.unknown_models for gateway in gateways]
    assert [find(["gpt-brand-new"]) for find in unknown] == [["gpt-brand-new"]] * 2
    path.write_text(LOCAL % "300.00" + NEW, "utf-8")
    await _priced(served, "300.00")
    assert [find(["gpt-brand-new"]) for find in unknown] == [[]] * 2
    charged = []
    for each in served:
        assert (await ask(each, chat(max_tokens=5))).status == 200
        charged.append((await each.events())[-1])
    assert all(parse_usd(event["charge_usd"]) == event["input_tokens"] * 300_000 for event in charged)


async def _priced(served: Sequence[Customer], price: str) -> None:
    """Wait until each gateway lists the price of input."""
    async with asyncio.timeout(BOUND_S):
        for each in served:
            while _input_price(await fetch(each.get("/v1/models/demo"))) != price:
                await asyncio.sleep(POLL_S / 10)


def _input_price(listed: Fetched) -> str:
    return str(listed.json["pricing"]["usd_per_million"]["input"])
