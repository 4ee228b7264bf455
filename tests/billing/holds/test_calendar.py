"""The windows that the scripts compute are those of billing.quotas, from 1970 to 2105."""

import random
from collections.abc import Iterator

import pytest

from billing.quotas import Window, window_end_s, window_id
from tests.model.scripts import PlainScript, Scripts

LAST_S = 4_291_747_199
"""The end of 2105; a window id of seconds' minutes still fits 32 bits by far."""
WINDOWS_AT = PlainScript(
    "windows_at",
    """
    local ids = {}
    for i, second in ipairs(ARGV) do
      local at = windows_at(tonumber(second))
      ids[i] = {at[0], at[1], at[2], at[3], at[4], at[5]}
    end
    return ids
    """,
    with_state=True,
)


@pytest.fixture
def scripts(redis_url: str, key_prefix: str) -> Iterator[Scripts]:
    made = Scripts(redis_url, key_prefix, {"key_1": "acc_one"})
    yield made
    made.close()


def assert_same(scripts: Scripts, seconds: list[int]) -> None:
    for start in range(0, len(seconds), 1000):
        part = seconds[start : start + 1000]
        for second, ids in zip(part, scripts.run(WINDOWS_AT, [b"none"], part), strict=True):
            assert ids == [window_id(window, second) for window in Window], second


def test_random_seconds(scripts: Scripts) -> None:
    chosen = random.Random(20260301)  # noqa: S311
    assert_same(scripts, [chosen.randrange(LAST_S) for _ in range(20_000)])


def test_both_sides_of_every_month(scripts: Scripts) -> None:
    seconds, at = [], 0
    while at < LAST_S:
        seconds += [at, at + 1]
        end = window_end_s(Window.month, at)
        assert end is not None
        seconds.append(end - 1)
        at = end
    assert len(seconds) == 136 * 12 * 3
    assert_same(scripts, seconds)


def test_both_sides_of_days_and_weeks_of_leap_years(scripts: Scripts) -> None:
    starts = [951_609_600, 1_709_078_400, 4_107_369_600]  # before 29 February 2000 and 2024, and 1 March 2100
    assert_same(scripts, [start + day * 86_400 + by for start in starts for day in range(10) for by in (-1, 0, 1)])
