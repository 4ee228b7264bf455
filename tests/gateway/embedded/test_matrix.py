"""{root, ordinary user} x {open, private folder} x {Ctrl-C, TERM, kill -9}: nothing is lost, and nothing is left."""

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "TERM", "kill -9"])
@pytest.mark.parametrize("private", [False, True], ids=["open", "private"])
async def test_what_was_written_is_there_after_the_end_and_nothing_hinders_the_next_start(
    home: Home, number: signal.Signals
) -> None:
    with holder(home) as first:
        await store(first.endpoints())
        code = first.end(number)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        if number != signal.SIGKILL:
            assert servers_of(home.folder.parent) == []
    with holder(home) as second:  # at once: after kill -9 the servers of the first may still be stopping
        assert await stored(second.endpoints())
        assert second.end(signal.SIGTERM) == 0
    await until(lambda: servers_of(home.folder.parent) == [], "no server is left")
