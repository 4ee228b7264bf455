"""What a run and a growth are asked to measure."""

import argparse
import json

import pytest

from benchmarks import growth
from benchmarks.modes import MODES, PHASES, Turns, only
from benchmarks.seed import Size, quotas


def test_one_phase_alone():
    mode = only(MODES["default"], ["streams", "ledger"])
    assert mode.streams == MODES["default"].streams
    assert mode.ledger == MODES["default"].ledger
    assert mode.paced == {}
    left = [phase for phase in PHASES if getattr(mode, phase)]
    assert left == ["streams", "ledger"]


def test_a_phase_that_there_is_not():
    with pytest.raises(ValueError, match="no phase 'stream'"):
        only(MODES["default"], ["stream"])


@pytest.mark.parametrize("name", ["default", "full"])
def test_the_setting_of_the_figures(name):
    mode = MODES[name]
    assert (mode.size.accounts, mode.size.keys) == (1000, 3000)
    assert set(mode.paced) == {50, 100, 200, 500}
    assert all(getattr(mode, phase) for phase in PHASES)


def test_quick_measures_the_first_figures_and_streams():
    assert [phase for phase in PHASES if getattr(MODES["quick"], phase)] == ["saturation", "paced", "streams", "bursts"]


def test_no_turns_are_none():
    assert not Turns(0)
    assert Turns(1)


def test_every_key_has_an_account():
    with pytest.raises(ValueError, match="at least one account"):
        Size(3, 2)


@pytest.mark.parametrize("windows", [0, 2, 6, 18])
def test_so_many_different_windows(windows):
    windows_read = json.loads(quotas(windows))
    assert len({(quota["window"], quota["metric"]) for quota in windows_read}) == windows


def test_more_windows_than_there_are():
    with pytest.raises(ValueError, match="at most"):
        quotas(19)


def asked(*grow: str, full: bool = False) -> growth.Sizes:
    return growth.sizes(argparse.Namespace(grow=list(grow), full=full))


def test_growth_takes_sizes_in_rising_order():
    assert asked("accounts=1000,10", "ledger") == {"accounts": (10, 1000), "ledger": growth.GROWTHS["ledger"].small}
    assert set(asked()) == set(growth.GROWTHS)
    assert asked("ledger", full=True) == {"ledger": (100_000, 1_000_000, 10_000_000)}
    for wrong in ("people", "ledger=many"):
        with pytest.raises(ValueError, match=r"people|many"):
            asked(wrong)


def test_a_table_of_growth_has_a_row_for_each_size():
    text = growth.markdown({"windows": [{"size": 0, "redis_us": 50.4}, {"size": 18, "redis_us": 90.0}]}, {"cores": 2})
    assert "## Windows" in text
    rows = [line for line in text.splitlines() if line.startswith(("|  0 ", "| 18 "))]
    assert [row.split("|")[2].strip() for row in rows] == ["50", "90"]
