"""Who reaches the embedded Postgres: whom the kernel names, and as root under a user that nothing else runs as."""

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.embedded import folders
from gateway.embedded.folders import SERVER_USER, SHARED_USER, Account, server_account, take_over
from gateway.embedded.servers import EmbeddedServers
from tests.gateway.embedded.support import servers_of, store, stored

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
TRUST = "local all all trust\nhost all all 127.0.0.1/32 trust\n"

# What Postgres first says to a user of this machine: R to one who is let in, E to one who is not.
ASKS = """
import os, socket, struct, sys
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
asked = b"user\\0metergate\\0database\\0metergate\\0\\0"
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(struct.pack("!II", 8 + len(asked), 3 << 16) + asked)
    print(connection.recv(1).decode())
"""


def first_word(data_dir: Path, uid: int) -> str:
    socket = str(data_dir / "run" / "pg" / ".s.PGSQL.5432")
    command = ["/usr/bin/env", "python3", "-c", ASKS, socket, str(uid)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def rules_of(data_dir: Path) -> str:
    lines = (data_dir / "postgres" / "pg_hba.conf").read_text().splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


async def test_postgres_trusts_nobody_without_knowing_who_it_is(data_dir):
    async with EmbeddedServers(data_dir) as servers:
        assert rules_of(data_dir) == "local all metergate peer map=metergate"
        connection = await asyncpg.connect(servers.endpoints.database_url)
        shown = await connection.fetch("SELECT type, auth_method, error FROM pg_hba_file_rules")
        assert [tuple(row) for row in shown] == [("local", "peer", None)]
        assert await connection.fetchval("SELECT count(*) FROM pg_ident_file_mappings WHERE error IS NOT NULL") == 0
        await connection.close()
        with pytest.raises(asyncpg.PostgresError):
            await asyncpg.connect(servers.endpoints.database_url, user="postgres")
        for name in ("pg_hba.conf", "pg_ident.conf"):
            assert (data_dir / "postgres" / name).stat().st_mode & 0o777 == 0o600


async def test_data_made_with_trust_goes_on_and_is_tightened(data_dir):
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
    (data_dir / "postgres" / "pg_hba.conf").write_text(TRUST)
    (data_dir / "postgres" / "pg_ident.conf").unlink()
    async with EmbeddedServers(data_dir) as servers:
        assert await stored(servers.endpoints)
        assert rules_of(data_dir) == "local all metergate peer map=metergate"


@as_root
async def test_nothing_else_runs_as_its_user_and_another_is_refused_even_at_the_socket(data_dir):
    async with EmbeddedServers(data_dir):
        uids = {server.uids().real for server in servers_of(data_dir) if server.name() == "postgres"}
        assert uids == {pwd.getpwnam(SERVER_USER).pw_uid}
        assert not uids & {0, pwd.getpwnam(SHARED_USER).pw_uid}
        assert first_word(data_dir, 0) == "R"
        assert first_word(data_dir, pwd.getpwnam(SERVER_USER).pw_uid) == "R"
        for path in ("run", "run/pg", "run/pg/.s.PGSQL.5432"):  # as if the folders let everybody pass
            (data_dir / path).chmod(0o777)
        assert first_word(data_dir, pwd.getpwnam(SHARED_USER).pw_uid) == "E"


@as_root
async def test_data_of_an_earlier_version_gets_its_new_user(data_dir, tmp_path):
    shared = pwd.getpwnam(SHARED_USER)
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
    of_root = tmp_path / "of root"
    of_root.touch()
    data = data_dir / "postgres"
    (data / "link").symlink_to(of_root)
    for path in (data, *data.rglob("*")):
        os.chown(path, shared.pw_uid, shared.pw_gid, follow_symlinks=False)
    (data / "pg_hba.conf").write_text(TRUST)
    lines: list[str] = []
    async with EmbeddedServers(data_dir, report=lines.append) as servers:
        assert await stored(servers.endpoints)
    assert f"The Postgres data in {data} belongs to its new user now." in lines
    uid = pwd.getpwnam(SERVER_USER).pw_uid
    assert {path.lstat().st_uid for path in (data, *data.rglob("*"))} == {uid}
    assert of_root.stat().st_uid == 0


@as_root
def test_only_what_was_the_former_user_s_is_given(tmp_path):
    (tmp_path / "data" / "base").mkdir(parents=True)
    for name, uid in (("data/base/own", 1), ("data/base/other", 2), ("data/base", 1), ("data", 1)):
        (tmp_path / name).touch() if "own" in name or "other" in name else None
        os.chown(tmp_path / name, uid, uid)
    assert take_over(tmp_path / "data", Account("x", 3, 4))
    owners = {path.name: path.stat().st_uid for path in (tmp_path / "data").rglob("*")}
    assert owners == {"base": 3, "own": 3, "other": 2}
    assert not take_over(tmp_path / "data", Account("x", 3, 4))


@pytest.fixture
def new_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user that this machine does not have."""
    name = f"mg-test-{secrets.token_hex(4)}"
    monkeypatch.setattr(folders, "SERVER_USER", name)
    yield name
    if shutil.which("userdel"):
        subprocess.run(["/usr/sbin/userdel", name], check=False, capture_output=True, timeout=60)


@as_root
def test_the_user_is_made_as_a_package_would(new_name):
    if shutil.which("userdel") is None:
        pytest.skip("this machine can't remove users again")
    lines: list[str] = []
    made = server_account(lines.append)
    assert made is not None
    entry = pwd.getpwnam(new_name)
    assert (made.name, made.uid, made.gid, made.shared) == (new_name, entry.pw_uid, entry.pw_gid, False)
    assert entry.pw_shell.endswith("nologin")
    assert [other.pw_name for other in pwd.getpwall() if other.pw_uid == made.uid] == [new_name]
    assert lines == [f"Made the system user {new_name!r}, which Postgres runs as."]
    lines.clear()
    assert server_account(lines.append) == made
    assert lines == []


@as_root
async def test_where_no_user_can_be_made_it_says_that_it_runs_as_a_shared_one(data_dir, new_name, monkeypatch):
    monkeypatch.setattr(folders, "MAKERS", ())
    lines: list[str] = []
    async with EmbeddedServers(data_dir, report=lines.append) as servers:
        await store(servers.endpoints)
        (warning,) = [line for line in lines if line.startswith("Warning: ")]
        assert repr(SHARED_USER) in warning
        assert f"useradd --system {new_name}" in warning
        assert first_word(data_dir, pwd.getpwnam(SHARED_USER).pw_uid) == "E"
