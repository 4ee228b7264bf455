"""A place for a data folder that every user can pass through (pytest's own tmp_path is private, and long)."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded import folders
from tests.gateway.embedded.support import Home, make_home, ourselves, servers_of


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An open folder, with what stands for /var/lib/metergate in it; no server may be left in it after the test."""
    folder = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    folder.chmod(0o711)
    monkeypatch.setattr(folders, "SHARED_PARENTS", (folder / "shared",))
    try:
        yield folder
        assert servers_of(folder) == []
    finally:
        for process in servers_of(folder):
            process.kill()
        shutil.rmtree(folder)


@pytest.fixture
def data_dir(place: Path) -> Path:
    return place / "data folder"


@pytest.fixture
def home(place: Path) -> Home:
    """Our own open home, for holder processes."""
    return make_home(place, ourselves(), private=False)
