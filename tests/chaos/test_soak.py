"""What a soak takes for flat. The soak itself is `make soak`."""

import pytest

from tests.chaos.ledger_check import Verdict
from tests.chaos.soak import LIMIT, Sample, reported, slope


def sample(memory_bytes: float, keys: float = 10) -> Sample:
    return Sample(memory_bytes, 50, 1e6, keys, 1e7, 900)


def judged(samples, **changed):
    found = {"keys_allowed": 10, "left": 0, "held_nano": 0} | changed
    return reported(samples, Verdict(requests=5, whole=5, debits=5), **found)


def test_a_line_is_laid_through_all_samples():
    assert slope("up", [100.0, 110.0, 120.0]).growth == pytest.approx(20 / 110)
    assert slope("noise", [100.0, 130.0, 100.0]).growth == pytest.approx(0)
    assert slope("down", [2.0, 1.0]).growth < 0
    assert slope("one", [7.0]).growth == 0
    assert slope("nothing", [0.0, 0.0]).growth == 0


def test_what_stays_is_flat_and_the_first_minute_does_not_count():
    found = judged([sample(50), *[sample(100)] * 9])
    assert found.ok
    assert found.lines()[-1] == "Everything is flat."


@pytest.mark.parametrize(
    "found",
    [
        judged([sample(100 + minute) for minute in range(10)]),
        judged([sample(100)] * 5, held_nano=1),
        judged([sample(100)] * 5, left=1),
        judged([sample(100)] * 4 + [sample(100, keys=11)]),
        reported([sample(100)] * 5, Verdict(lost=1, details=["one"]), keys_allowed=10, left=0, held_nano=0),
    ],
    ids=["memory grows", "money is held", "the journal has some", "a key too many", "a debit is lost"],
)
def test_what_is_not_flat_is_told(found):
    assert not found.ok
    assert found.lines()[-1] == "NOT everything is flat."


def test_what_grows_slowly_is_told_after_a_while():
    """A twentieth, however it is spread."""
    grown = [sample(100 * (1 + 1.2 * LIMIT * minute / 59)) for minute in range(60)]
    assert not judged([sample(1), *grown]).ok
