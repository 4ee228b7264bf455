"""{root, ordinary user} x {open, private folder}, each ended by kill -9, Ctrl-C and TERM: nothing is lost, and nothing
is left."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.embedded.support import (
    Home,
    holder,
    make_home,
    ordinary_user,
    ourselves,
    servers_of,
    store,
    stored,
    until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=["root", "ordinary user"])
def home(request: pytest.FixtureRequest, private: bool) -> Iterator[Home]:
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can try what root does")
    root = Path(tempfile.mkdtemp(prefix="mg-"))
    root.chmod(0o711)
    try:
        yield make_home(root, ourselves() if request.param == "root" else ordinary_user(), private=private)
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("private", [False, True], ids=["open", "private"])
async def test_what_was_written_is_there_after_each_end_and_nothing_hinders_the_next_start(home):
    """Killed first: nothing of what the first start made has been written in order then."""
    written: list[str] = []
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with holder(home) as running:  # at once: after kill -9 the servers of the one before may still be stopping
            endpoints = running.endpoints()
            assert [name for name in written if not await stored(endpoints, name)] == []
            written.append(f"before_{number.name.lower()}")
            await store(endpoints, written[-1])
            assert running.end(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
            if number != signal.SIGKILL:
                assert servers_of(home.folder.parent) == []
    with holder(home) as last:
        endpoints = last.endpoints()
        assert [name for name in written if not await stored(endpoints, name)] == []
        assert last.end(signal.SIGTERM) == 0
    await until(lambda: servers_of(home.folder.parent) == [], "no server is left")
