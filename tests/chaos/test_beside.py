"""The rounds beside those of requests, small ones. That of exports takes minutes: `make chaos` has it."""

import pytest

from tests.chaos.batches import batches
from tests.chaos.handover import handover
from tests.chaos.migrations import migrations

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@pytest.mark.parametrize(
    ("run", "whole"), [(batches, "charged once"), (handover, "answers whole"), (migrations, "copies whole")]
)
async def test_nothing_is_wrong(run, whole):
    found = await run(times=1, seed=3, keep=False)
    assert [name for name in found if name.startswith("WRONG")] == []
    assert any(whole in name and count for name, count in found.items())
