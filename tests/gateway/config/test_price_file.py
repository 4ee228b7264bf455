"""A file of prices that changes while a gateway runs: in force at once, or not at all."""

import logging
import os
from pathlib import Path

import pytest

from billing.errors import MetergateError
from billing.prices import PriceTable
from gateway.config.price_file import PriceFollower, load_prices

ROW = '- {provider: p, model: m, effective_from: 2024-01-01, per_million: {input: "%s"}}\n'


class Applied:
    """What a follower did."""

    def __init__(self, path: Path) -> None:
        self.stored: list[PriceTable] = []
        self.in_force: list[PriceTable] = []
        self.failure: MetergateError | None = None
        self.path = path
        self.changes = 0
        self.follower = PriceFollower(path, {}, load_prices(path, {}), self.store, self.in_force.append)

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


async def test_a_change_is_in_force_once_the_ledger_has_its_rows(applied: Applied) -> None:
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


@pytest.mark.parametrize("text", ["- {provider: p}\n", "- {\n", "", None])
async def test_a_broken_file_keeps_the_old_table_and_says_so(
    applied: Applied, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
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
