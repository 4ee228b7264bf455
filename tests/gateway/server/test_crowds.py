"""Thousands of connections that come and go unfinished, against workers that may have 1,024 files open: everybody else
is served, and nobody is refused."""

import asyncio
import os
import resource
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import cycle

import pytest

from billing.holds.redis.client import RedisClient
from tests.support.edge_clients import METERED, post

pytestmark = pytest.mark.slow

FILES = 1_024
# Connections, at least; so many more than a worker has files that most end for others.
CROWD = 3_000
# Answers that each of the others has at least meanwhile.
SERVED = 10
# Connections that the crowd has open at the same time.
AT_ONCE = 1_200
OWN_DATABASE = 11
# Others have addresses of their own, and one has that of the crowd.
OTHERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1")
CHAT = "/v1/chat/completions"
WRONG = "Authorization: Bearer mg_wrong"
UNFINISHED = {
    "a byte of a body": post(b"x" * 100, path=CHAT)[:-99],
    "a byte of a body with a key": post(b"x" * 100, WRONG, path="/api/account/balance")[:-99],
    "a body that waits to be asked for": post(b"x" * 100, "Expect: 100-continue", WRONG, path=CHAT)[:-100],
    "a part of a head": post(b"x", path=METERED)[:30],
    "nothing": b"",
}
# Answers that nobody takes.
UNREAD = b"GET /api/openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 3
# Of such connections there are fewer: what they cost is to make the answers.
UNREAD_EVERY = 50
ASKED = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


@dataclass
class Crowd:
    """Connections from one address that end as they please, until there were enough and the others have been `served`.
    `told` are the statuses of those that were told why."""

    port: int
    served: Counter[str]
    told: Counter[bytes] = field(default_factory=Counter)
    come: int = 0

    async def run(self) -> None:
        kinds, open_ = cycle(UNFINISHED.values()), list[socket.socket]()
        loop = asyncio.get_running_loop()
        try:
            while self.come < CROWD or min(self.served.values()) < SERVED:
                assert self.come < 10 * CROWD, self.served
                connection = socket.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.setblocking(False)
                open_.append(connection)
                with suppress(OSError):
                    await loop.sock_connect(connection, ("127.0.0.1", self.port))
                    connection.send(next(kinds) if self.come % UNREAD_EVERY else UNREAD)
                self.come += 1
                await asyncio.sleep(0)  # others have their turn
                if len(open_) > AT_ONCE:
                    self._leave(open_.pop(0))
        finally:
            for connection in open_:
                self._leave(connection)

    def _leave(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self.told[connection.recv(16)[9:12]] += 1
        connection.close()


WORKERS = ["one worker", "two workers"]


@pytest.fixture
async def port(request: pytest.FixtureRequest, database_url: str, redis_url: str) -> AsyncIterator[int]:
    own_redis = f"{redis_url}?db={OWN_DATABASE}"
    link = RedisClient(own_redis, timeout_s=5.0, connect_timeout_s=5.0)
    await link.command("FLUSHDB")
    await link.close()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1_024))
        workers = []
        for _ in range(request.param):
            read_end, write_end = os.pipe()
            more = ("--fd", str(listener.fileno()), "--ready-fd", str(write_end))
            worker = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                f'ulimit -n {FILES} && exec "$0" "$@"',
                sys.executable,
                "-m",
                "gateway.app",
                *more,
                pass_fds=(listener.fileno(), write_end),
                env={"PATH": os.defpath, "DATABASE_URL": database_url, "REDIS_URL": own_redis},
            )
            os.close(write_end)
            stack.callback(os.close, read_end)
            workers.append((worker, read_end))
        try:
            for _, read_end in workers:
                assert await asyncio.to_thread(os.read, read_end, 1) == b"1"
            yield listener.getsockname()[1]
        finally:
            for worker, _ in workers:
                worker.terminate()
            assert [await worker.wait() for worker, _ in workers] == [0] * len(workers)


@pytest.mark.parametrize("port", [pytest.param(1, marks=pytest.mark.nightly), 2], indirect=True, ids=WORKERS)
async def test_nobody_else_is_refused_while_a_crowd_comes_and_goes(port):
    room = AT_ONCE + 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < room:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, room), hard))
    served = Counter(dict.fromkeys(OTHERS, 0))
    crowd = Crowd(port, served)
    running = asyncio.create_task(crowd.run())

    async def other(address):
        """One request for each connection, and some over one that stays open."""
        while not running.done():
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            for _ in range(3):
                writer.write(ASKED)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 "), (address, head, crowd.come)
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length))
                served[address] += 1
            writer.close()

    await asyncio.gather(*map(other, OTHERS))
    await running
    assert crowd.told[b"503"] > CROWD // 10, crowd.told


SIGN_INS_PER_S = 70
SIGN_IN_ADDRESSES = 20
SIGN_INS_S = 6.0
NEWCOMER = "127.0.0.9"


def sign_in(number: int) -> bytes:
    body = b'{"email":"somebody%d@example.org","password":"four words that are long"}' % number
    return post(body, "Content-Type: application/json", path="/api/auth/login")


@pytest.mark.parametrize("port", [1, pytest.param(2, marks=pytest.mark.nightly)], indirect=True, ids=WORKERS)
async def test_newcomers_are_served_beside_a_flood_of_whole_sign_ins(port):
    """Passwords take a processor for as long as they come: they keep few connections, and others come first."""
    loop = asyncio.get_running_loop()
    told, flood, served = Counter[bytes](), set[asyncio.Task[None]](), 0

    async def come(number):
        address = f"127.0.1.{1 + number % SIGN_IN_ADDRESSES}"
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(sign_in(number))
            told[(await reader.readuntil(b"\r\n"))[9:12]] += 1
            writer.close()

    async def ask():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(NEWCOMER, 0))
        writer.write(ASKED)
        answer = await reader.readuntil(b"\r\n")
        writer.close()
        return answer

    async def newcomers():
        nonlocal served
        while loop.time() < began_s + SIGN_INS_S:
            assert (await ask())[9:12] == b"200", (served, told)
            served += 1

    await ask()
    began_s, number = loop.time(), 0
    others = asyncio.create_task(newcomers())
    while not others.done():
        while number < (loop.time() - began_s) * SIGN_INS_PER_S:
            task = asyncio.create_task(come(number))
            flood.add(task)
            task.add_done_callback(flood.discard)
            number += 1
        await asyncio.wait([others], timeout=1 / SIGN_INS_PER_S)
    await others
    await asyncio.gather(*flood)
    assert served >= 5, (served, told)
    assert told[b"429"] > told[b"503"], told
    assert told[b"401"] >= 1, told
