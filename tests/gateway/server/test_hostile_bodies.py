"""Hostile bodies from four keys against a worker process of its own: its memory stays bounded and its lease never
lapses. How long others wait meanwhile is measured by `benchmarks.hostile`, not here."""

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from billing.holds.redis.client import RedisClient

pytestmark = pytest.mark.slow

MIB = 1 << 20
MOST_BYTES = 400 * MIB
KEYS, CONNECTIONS = 4, 2
ADMIN_KEY = "admin-key-of-the-tests-of-hostile-bodies"
# Of the run's Redis: a worker process keeps to no test's prefix.
OWN_DATABASE = 9
BODIES = {  # made when they are sent: they are large
    "messages that are nothing": lambda: b'{"model":"demo","messages":[' + b'{"":[]},' * (4 * MIB - 100) + b"{}]}",
    "one text": lambda: b'{"model":"none","messages":[{"role":"user","content":"' + b"word " * (6 * MIB) + b'"}]}',
}
LAPSED = "SELECT count(*) FROM gateways WHERE lease_until < now()"


@dataclass(frozen=True)
class Worker:
    """A worker process."""

    port: int
    pid: int
    database_url: str

    async def admin(self, path: str, body: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/admin{path}"
        headers = {"X-Admin-Key": ADMIN_KEY}
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=body) as answer:
            assert answer.status == 201, await answer.text()
            return await answer.json()

    async def key(self) -> str:
        """A key of a new account with 20 USD."""
        account = (await self.admin("/accounts", {"name": "Test", "plan": "enterprise"}))["id"]
        await self.admin(f"/accounts/{account}/grants", {"amount_usd": "20.00", "idempotency_key": account})
        return str((await self.admin("/keys", {"account_id": account, "name": "test"}))["key"])


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[Worker]:
    """A worker with its own stores."""
    own_redis = f"{redis_url}?db={OWN_DATABASE}"
    link = RedisClient(own_redis, timeout_s=5.0, connect_timeout_s=5.0)
    await link.command("FLUSHDB")
    await link.close()
    environment = {"DATABASE_URL": database_url, "REDIS_URL": own_redis, "ADMIN_API_KEY": ADMIN_KEY}
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        read_end, write_end = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.app",
            "--fd",
            str(listener.fileno()),
            "--ready-fd",
            str(write_end),
            pass_fds=(listener.fileno(), write_end),
            env={"PATH": os.defpath, **environment},
        )
        os.close(write_end)
        try:
            assert await asyncio.to_thread(os.read, read_end, 1) == b"1"
            yield Worker(listener.getsockname()[1], process.pid, database_url)
        finally:
            os.close(read_end)
            process.terminate()
            await process.wait()


async def _attack(worker: Worker, secret: str, answered: "Counter[tuple[str, str]]") -> None:
    """Send each body on a connection of its own, and count the answers' statuses."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {secret}\r\n"
    for name, make in BODIES.items():
        body = make()
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        with suppress(ConnectionError):
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            answered[name, (await reader.readuntil(b"\r\n"))[9:12].decode()] += 1
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_hostile_bodies_take_bounded_memory_and_no_lease_lapses(worker):
    answered = Counter()
    most_bytes, lapsed, process = 0, 0, psutil.Process(worker.pid)
    secrets = [await worker.key() for _ in range(KEYS)]
    connection = await asyncpg.connect(worker.database_url)
    attacks = asyncio.gather(*[_attack(worker, secret, answered) for secret in secrets * CONNECTIONS])
    while not attacks.done():
        most_bytes = max(most_bytes, process.memory_info().rss)
        lapsed += await connection.fetchval(LAPSED)
        await asyncio.sleep(0.02)
    await connection.close()
    await attacks
    assert lapsed == 0
    assert most_bytes < MOST_BYTES
    for name in BODIES:
        statuses = {status for each, status in answered if each == name}
        assert statuses <= {"400", "402", "404", "429"}, answered
        assert {"400", "404"} & statuses, answered
