"""EmbeddedServers in this process: start, watch, restart, stop, and what may stand in its way."""

import asyncio
import logging
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import psutil
import pytest
import redis.asyncio
import uvloop

from gateway.embedded.folders import AlreadyRunning, EmbeddedServersError, ServerFailed
from gateway.embedded.process import LOG_LIMIT_BYTES
from gateway.embedded.servers import EmbeddedServers, running
from tests.gateway.embedded.support import holder, servers_of, store, stored, until

pytestmark = pytest.mark.slow


async def test_what_the_servers_promise(data_dir):
    lines: list[str] = []
    async with EmbeddedServers(data_dir, report=lines.append, postgres_options={"work_mem": "8MB"}) as servers:
        connection = await asyncpg.connect(servers.endpoints.database_url)
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "listen_addresses", "work_mem", "server_encoding", "timezone")
        }
        assert await connection.fetchval("SELECT current_user || '@' || current_database()") == "metergate@metergate"
        await connection.close()
        async with redis.asyncio.from_url(servers.endpoints.redis_url) as client:
            config = await client.config_get("appendonly", "appendfsync", "maxmemory-policy", "port", "save")
            with pytest.raises(redis.ResponseError, match="DEBUG"):
                await client.execute_command("DEBUG", "JMAP")
    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
        "work_mem": "8MB",
        "server_encoding": "UTF8",
        "timezone": "UTC",
    }
    assert config == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "save": "",
    }
    assert lines[-3:] == ["Making the Postgres database ...", "Starting Postgres ...", "Starting Redis ..."]


async def test_only_their_user_reaches_the_servers_and_a_second_start_says_who_runs(data_dir):
    assert running(data_dir) is None
    async with EmbeddedServers(data_dir) as servers:
        for process in servers_of(data_dir):
            owner = process.uids().real
            assert process.environ().keys() <= {"PATH", "LC_ALL"}
            if process.name() == "postgres":
                postgres_owner = owner
        assert (data_dir / "run" / "pg").stat().st_uid == (data_dir / "postgres").stat().st_uid == postgres_owner != 0
        for folder in ("run/pg", "postgres", "redis", "log"):
            assert (data_dir / folder).stat().st_mode & 0o777 == 0o700, folder
        for folder in ("", "run"):  # as root, Postgres's user has to pass through
            assert (data_dir / folder).stat().st_mode & 0o666 == 0o600, folder
        for socket in ("run/pg/.s.PGSQL.5432", "run/redis.sock"):
            assert (data_dir / socket).stat().st_mode & 0o077 == 0, socket
        assert running(data_dir) == servers.endpoints
        with pytest.raises(AlreadyRunning) as caught:
            await EmbeddedServers(data_dir).__aenter__()
        assert str(caught.value) == f"Metergate is already running in {data_dir} (process {os.getpid()})."
        assert caught.value.pid == os.getpid()
        assert running(data_dir) == servers.endpoints
    assert running(data_dir) is None
    with pytest.raises(RuntimeError):
        _ = servers.endpoints


async def test_a_server_that_dies_is_started_again_with_its_data(data_dir, caplog):
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
        for name in ("postgres", "valkey-server") * 2:
            [dead] = named(name, data_dir)
            dead.kill()
            await until(partial(another, name, data_dir, dead), f"another {name} runs")
            assert await stored(servers.endpoints)
        await until(lambda: len(again(caplog)) == 4, "all of it is told")
        assert again(caplog) == [logging.WARNING] * 4
        [dead] = named("valkey-server", data_dir)  # and again, where a restart fails
        conf = data_dir / "redis.conf"
        good = conf.read_text()
        conf.write_text("nonsense\n")
        dead.kill()
        await until(lambda: any("next attempt in" in record.message for record in caplog.records), "an attempt failed")
        conf.write_text(good)
        await until(lambda: up(data_dir), "Redis runs again")
        assert running(data_dir) == servers.endpoints


async def test_servers_run_on_uvloop(data_dir):
    async def main():
        async with EmbeddedServers(data_dir) as servers:
            await store(servers.endpoints)
            return await stored(servers.endpoints)

    assert await asyncio.to_thread(lambda: uvloop.run(main()))


async def test_orphans_are_stopped_where_the_kernel_does_not(home):
    with holder(home, "--deaf-kernel") as first:
        await store(first.endpoints())
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    orphans = servers_of(home.folder)
    assert sorted(process.name() for process in orphans) == ["postgres", "valkey-server"]
    assert running(home.data_dir) is None  # they accept connections, but nobody keeps them
    with holder(home) as second:
        endpoints = second.endpoints()
        assert [line for line in second.lines if "left behind" in line] == [
            f"Stopped a Postgres that an earlier run had left behind (process {pid_of('postgres', orphans)}).",
            f"Stopped a Redis that an earlier run had left behind (process {pid_of('valkey-server', orphans)}).",
        ]
        assert await stored(endpoints)
        assert second.end(signal.SIGTERM) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a process works")
@pytest.mark.parametrize("stuck", ["children", "postmaster", "Redis without a pid file"])
async def test_what_a_killed_run_has_left_stuck_is_ended_by_the_next_start(home, stuck):
    """Stopped, they notice nothing: neither that their parent has ended, nor a signal to end."""
    with holder(home, "--deaf-kernel") as first:
        await store(first.endpoints())
        [postmaster, valkey] = sorted(servers_of(home.folder), key=psutil.Process.name)
        children = postmaster.children()
        match stuck:
            case "children":
                for child in children[-2:]:
                    child.suspend()
                postmaster.kill()
                left = children[-2:]
            case "postmaster":
                postmaster.suspend()
                left = [postmaster]
            case _:
                valkey.suspend()
                (home.data_dir / "redis.pid").unlink()
                left = [valkey]
        first.end(signal.SIGKILL)
    with holder(home) as second:
        endpoints = second.endpoints()
        said = " ".join(line for line in second.lines if "left behind" in line)
        assert all(str(process.pid) in said for process in left)
        assert await stored(endpoints)
        assert all(not alive(process) for process in left)
        assert second.end(signal.SIGTERM) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a process works")
async def test_a_postgres_that_somebody_else_runs_on_the_data_is_named_and_left_alone(data_dir):
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
        [own] = named("postgres", data_dir)
        program = own.exe()
    data = data_dir / "postgres"
    owner = data.stat().st_uid
    theirs = await asyncio.create_subprocess_exec(
        program,
        "-D",
        ".",
        "-c",
        "unix_socket_directories=.",
        "-c",
        "listen_addresses=",
        cwd=data,
        user=owner if os.geteuid() == 0 else None,
    )
    try:
        record = data / "postmaster.pid"
        await until(lambda: record.exists() and "ready" in record.read_text(), "their Postgres runs")
        with pytest.raises(
            ServerFailed, match=rf"process {theirs.pid}, `.*postgres -D \..*was not started by Metergate"
        ):
            await EmbeddedServers(data_dir).__aenter__()
        assert theirs.returncode is None
        assert record.read_text().startswith(f"{theirs.pid}\n")
    finally:
        theirs.send_signal(signal.SIGINT)
        await theirs.wait()
    async with EmbeddedServers(data_dir) as servers:
        assert await stored(servers.endpoints)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
async def test_servers_end_with_a_killed_parent(home):
    with holder(home) as first:
        first.endpoints()
        assert len(servers_of(home.folder)) == 2
        first.end(signal.SIGKILL)
        await until(lambda: servers_of(home.folder) == [], "the servers have ended")


async def test_a_pid_file_that_names_another_program_hinders_nothing(data_dir):
    async with EmbeddedServers(data_dir) as servers:
        postgres_run = Path(parse_qs(urlsplit(servers.endpoints.database_url).query)["host"][0])
    postgres_uid = (data_dir / "postgres").stat().st_uid
    bystander = await asyncio.create_subprocess_exec(
        "/bin/sleep", "600", user=postgres_uid if os.geteuid() == 0 else None
    )
    try:
        (data_dir / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n{data_dir / 'postgres'}\n")
        (postgres_run / ".s.PGSQL.5432.lock").write_text(f"{bystander.pid}\n{data_dir / 'postgres'}\n")
        (data_dir / "redis.pid").write_text(f"{bystander.pid}\n")
        async with EmbeddedServers(data_dir):
            pass
        assert bystander.returncode is None
    finally:
        bystander.kill()
        assert await bystander.wait() == -signal.SIGKILL


async def test_a_path_too_long_for_sockets(place):
    data_dir = place / ("long " * 20) / ("longer, " * 12) / "data"
    for folder in (data_dir.parent.parent, data_dir.parent):
        folder.mkdir()
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
        run = Path(unquote(urlsplit(servers.endpoints.redis_url).path)).parent
        assert run != data_dir / "run"
        assert run.stat().st_uid == os.geteuid()
        assert running(data_dir) == servers.endpoints
    async with EmbeddedServers(data_dir) as servers:
        assert await stored(servers.endpoints)
    shutil.rmtree(run)


async def test_logs_do_not_grow_for_ever_and_a_first_start_may_have_been_cut_short(data_dir):
    async with EmbeddedServers(data_dir):
        pass
    log = data_dir / "log" / "postgres.log"
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    async with EmbeddedServers(data_dir):
        pass
    assert log.stat().st_size < LOG_LIMIT_BYTES
    assert log.with_suffix(".log.1").stat().st_size == LOG_LIMIT_BYTES + 1
    (data_dir / "postgres").rename(data_dir / "postgres.new")
    (data_dir / "postgres.new" / "PG_VERSION").unlink()
    async with EmbeddedServers(data_dir) as servers:
        await store(servers.endpoints)
    assert not (data_dir / "postgres.new").exists()


async def test_a_server_that_does_not_start_is_quoted_and_leaves_nothing(data_dir):
    with pytest.raises(ServerFailed, match=r'Postgres did not start: it ended with code 1(.|\n)*"max_connections"'):
        await EmbeddedServers(data_dir, postgres_options={"max_connections": "many"}).__aenter__()
    assert servers_of(data_dir) == []
    async with EmbeddedServers(data_dir):
        assert up(data_dir)


@pytest.mark.parametrize("line", ["Making the Postgres database ...", "Starting Postgres ...", "Starting Redis ..."])
async def test_a_start_that_is_interrupted_leaves_nothing(data_dir, line):
    def interrupt(printed):
        if printed == line:
            asyncio.get_running_loop().call_later(0.01, start.cancel)

    start = asyncio.create_task(EmbeddedServers(data_dir, report=interrupt).__aenter__())
    with pytest.raises(asyncio.CancelledError):
        await start
    assert servers_of(data_dir) == []
    async with EmbeddedServers(data_dir):
        assert up(data_dir)


async def test_a_data_folder_that_cannot_be(place):
    (place / "file").touch()
    for path in (place / "file", place / "file" / "below"):
        with pytest.raises(EmbeddedServersError, match=r"Cannot use .* as the data folder"):
            await EmbeddedServers(path).__aenter__()


def again(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records if "runs again" in record.message]


def named(name: str, data_dir: Path) -> list[psutil.Process]:
    return [process for process in servers_of(data_dir) if process.info["name"] == name]


def another(name: str, data_dir: Path, dead: psutil.Process) -> bool:
    return named(name, data_dir) not in ([], [dead]) and up(data_dir)


def pid_of(name: str, processes: list[psutil.Process]) -> int:
    [pid] = [process.pid for process in processes if process.name() == name]
    return pid


def up(data_dir: Path) -> bool:
    return running(data_dir) is not None


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
