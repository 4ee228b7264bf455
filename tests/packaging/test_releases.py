"""The release before this one and this one, as they are installed, side by side under load with kills.

`METERGATE_PREVIOUS_RELEASE=COMMIT` has another commit stand for the release before.
"""

from pathlib import Path

import pytest

from tests.chaos.releases import side_by_side
from tests.support.releases import PREVIOUS_VARIABLE, install, previous_release, sources_of, sources_of_checkout

pytestmark = pytest.mark.slow

KILLS = 4


async def test_an_upgrade_and_the_way_back_refuse_and_lose_nothing(tmp_path: Path):
    previous = previous_release()
    if previous is None:
        pytest.skip(f"there is no release before this one: no tag v*, and {PREVIOUS_VARIABLE} names no commit")
    before = install(sources_of(previous, tmp_path / "before-sources"), tmp_path / "before")
    this = install(sources_of_checkout(tmp_path / "this-sources"), tmp_path / "this")
    found, wrong = await side_by_side(before.parent.parent, this.parent.parent, kills=KILLS, seed=7)
    print(dict(found))
    assert wrong == []
    assert found["answers whole"] > 100
