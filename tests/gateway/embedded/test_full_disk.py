"""A first start on a full disk fails with a message that has the path and the free space."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded.folders import EmbeddedServersError
from gateway.embedded.servers import EmbeddedServers

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 20 MiB, of which a Postgres takes twice as much; its user can enter it."""
    folder = Path(tempfile.mkdtemp(prefix="metergate-disk-"))
    command = ("mount", "-t", "tmpfs", "-o", "size=20m,mode=0711", "tmpfs", str(folder))
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("only root can mount a small disk, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)
        folder.rmdir()


async def test_a_first_start_without_room(small_disk):
    with pytest.raises(EmbeddedServersError) as failed:
        async with EmbeddedServers(small_disk / "data"):
            pass
    first = str(failed.value).splitlines()[0]
    assert first.startswith("No space left on device: ")
    assert str(small_disk / "data") in first
    assert "MiB free" in first
    assert "METERGATE_DATA_DIR" in first
