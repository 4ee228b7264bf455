"""As root: Postgres's data, sockets and programs where its user can get to them, though our own folders are private."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from gateway.embedded.folders import POINTER_NAME, SERVER_USER, AlreadyRunning, EmbeddedServersError, own_folder
from gateway.embedded.servers import EmbeddedServers
from tests.gateway.embedded.support import holder, make_home, ourselves, servers_of, store, stored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user"),
]


@pytest.fixture
def private(place: Path) -> Path:
    folder = place / "private"
    folder.mkdir(mode=0o700)
    return folder


async def test_data_and_programs_lie_elsewhere(place):
    home = make_home(place, ourselves(), private=True)
    with holder(home) as process:
        await store(process.endpoints())
        elsewhere = Path((home.data_dir / POINTER_NAME).read_text().strip())
        assert elsewhere.parent == home.shared
        assert (elsewhere / "postgres" / "PG_VERSION").exists()
        assert not (home.data_dir / "postgres").exists()
        [program] = {Path(server.exe()) for server in servers_of(place) if server.name() == "postgres"}
        assert program.is_relative_to(home.shared)
        assert process.end(signal.SIGINT) == 0
    assert sorted(path.name.rpartition("-")[0] for path in home.shared.iterdir()) == ["postgres", "root"]


async def test_a_copied_data_folder_does_not_share_a_running_database(private):
    async with EmbeddedServers(private / "data") as servers:
        shutil.copytree(private / "data", private / "copy", ignore=shutil.ignore_patterns("*.sock"))
        with pytest.raises(AlreadyRunning):
            await EmbeddedServers(private / "copy").__aenter__()
        await store(servers.endpoints)


async def test_a_deleted_data_folder_begins_anew(private):
    lines: list[str] = []
    async with EmbeddedServers(private / "data", report=lines.append) as servers:
        await store(servers.endpoints)
        first = Path((private / "data" / POINTER_NAME).read_text().strip())
    told = f"Postgres runs as {SERVER_USER!r}, who can't enter {private / 'data'}: its data is in {first}."
    assert told in lines
    shutil.rmtree(private / "data")
    lines.clear()
    async with EmbeddedServers(private / "data", report=lines.append) as servers:
        await store(servers.endpoints)  # would fail on the old database
    assert lines[0] == f"{first} has the Postgres data of an earlier {private / 'data'}; delete it if nobody needs it."
    assert (first / "postgres" / "PG_VERSION").exists()


async def test_data_that_is_not_where_it_should_be(place, private):
    async with EmbeddedServers(private / "data"):
        elsewhere = Path((private / "data" / POINTER_NAME).read_text().strip())
    elsewhere.parent.rename(place / "moved")
    with pytest.raises(EmbeddedServersError, match="it is not there"):
        await EmbeddedServers(private / "data").__aenter__()
    place.joinpath("moved").rename(elsewhere.parent)
    async with EmbeddedServers(private / "data"):
        pass


async def test_a_data_folder_that_became_private(place):
    data_dir = place / "data"
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
    place.joinpath("data").chmod(0o700)
    with pytest.raises(EmbeddedServersError, match=r"can't enter .* any more"):
        await EmbeddedServers(data_dir).__aenter__()
    place.joinpath("data").chmod(0o711)
    async with EmbeddedServers(data_dir) as servers:
        assert await stored(servers.endpoints)


async def test_data_of_another_user_is_left_alone(place):
    data_dir = place / "data"
    (data_dir / "postgres").mkdir(parents=True)
    os.chown(data_dir / "postgres", 1, 1)
    with pytest.raises(EmbeddedServersError, match=f"belongs to 'daemon', not to {SERVER_USER!r}"):
        await EmbeddedServers(data_dir).__aenter__()


def test_a_folder_in_a_public_place_is_used_only_if_it_is_ours_alone(place):
    assert own_folder(place / "new", 0o700).stat().st_mode & 0o777 == 0o700
    os.chown(own_folder(place / "foreign", 0o700), 1, 1)
    own_folder(place / "writable", 0o700).chmod(0o770)
    (place / "link").symlink_to(place / "new")
    for name in ("foreign", "writable", "link"):
        with pytest.raises(PermissionError, match="belongs to 'root' alone"):
            own_folder(place / name, 0o700)
