"""No story is left untold."""

import re
from pathlib import Path

import pytest

from tests.support.stories import Stories

TESTS = Path(__file__).parent.parent
MADE = re.compile(r"^(\w+) = Stories\(\)", re.MULTILINE)


def test_every_file_tells_its_stories() -> None:
    found = [
        (path.name, name, len(re.findall(rf"\btell\(\s*{name}\b", text)), f"@{name}\n" in text)
        for path in TESTS.rglob("test_*.py")
        for text in [path.read_text("utf-8")]
        for name in MADE.findall(text)
    ]
    assert found
    assert [each for each in found if each[2:] != (1, True)] == []


async def test_a_story_is_told_with_each_of_its_parameters() -> None:
    stories = Stories()

    @stories
    @pytest.mark.parametrize(("one", "two"), [(1, 2), (3, 4)])
    @pytest.mark.parametrize("three", [5, 6])
    async def told(one: int, two: int, three: int) -> None: ...

    wanted = [{"three": three, "one": one, "two": one + 1} for three in (5, 6) for one in (1, 3)]
    assert [case for _, case in stories.cases()] == wanted
    assert all(story is told for story, _ in stories.cases())
