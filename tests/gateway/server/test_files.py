"""Clients that open connections and send nothing, against a worker that may have few files open."""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from billing.holds.redis.client import RedisClient

pytestmark = pytest.mark.slow

FILES = 256
IDLE = 400
LOOK_EVERY = 10
# Of the run's Redis: a worker process keeps to no test's prefix.
OWN_DATABASE = 10
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[tuple[int, int]]:
    """The port and the process id of a worker on stores of its own, which may open FILES files, and was started with
    fewer."""
    own_redis = f"{redis_url}?db={OWN_DATABASE}"
    link = RedisClient(own_redis, timeout_s=5.0, connect_timeout_s=5.0)
    await link.command("FLUSHDB")
    await link.close()
    with socket.create_server(("127.0.0.1", 0), backlog=IDLE) as listener:
        read_end, write_end = os.pipe()
        limited = f'ulimit -Sn {FILES // 2} && ulimit -Hn {FILES} && exec "$0" "$@"'
        more = ("--fd", str(listener.fileno()), "--ready-fd", str(write_end))
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            limited,
            sys.executable,
            "-m",
            "gateway.app",
            *more,
            pass_fds=(listener.fileno(), write_end),
            env={"PATH": os.defpath, "DATABASE_URL": database_url, "REDIS_URL": own_redis},
        )
        os.close(write_end)
        try:
            assert await asyncio.to_thread(os.read, read_end, 1) == b"1"
            yield listener.getsockname()[1], process.pid
        finally:
            os.close(read_end)
            process.terminate()
            await process.wait()


async def test_idle_connections_never_take_the_last_files_of_a_worker(worker):
    port, pid = worker
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (FILES, FILES)
    for sent in (b"", b"G"):  # nothing, and a part of a head
        await check_idle(port, pid, sent)


async def check_idle(port: int, pid: int, sent: bytes) -> None:
    idle = []
    for number in range(IDLE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        idle.append(writer)
        if number % LOOK_EVERY == 0:
            assert len(os.listdir(f"/proc/{pid}/fd")) < FILES
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    for writer in idle:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
