"""What clients that mean harm cost others: `python -m benchmarks.hostile [BODY ...] [--seconds N] [--workers N]`.

Four keys of four accounts send one body in a loop, each over two connections, while others send small requests at a
steady pace. Shown for each body: how long the others' answers take beside it and without it, whether a worker's lease
lapsed, and the most memory that a worker had. The rows `bare` are the same against as many processes that do no more
than read such bodies with aiohttp and drop them, and pass small requests on: what the traffic itself costs here, with
the attackers and the others on the same machine. Figures depend on the machine; those of one run can be compared.

    members   32 MiB of messages that are nothing: {"":[]} again and again
    text      30 MiB of text in one message, which is what a large honest request looks like
    words     the same, not all of it ASCII
    messages  30 MiB in 8,000 messages of two parts
    bomb      4 MiB of gzip that decode to 4 GiB
    public    the same, without a key, to /healthz
    chunks    a body in chunks of one byte, without a key
"""

import argparse
import asyncio
import gzip
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import asyncpg
import psutil

from benchmarks import wire
from benchmarks.installation import Installation
from benchmarks.load import Address
from benchmarks.machine import OTHER_CORE, TARGET_CORE, on_core
from benchmarks.process import Process, bound_to_us, listen, spawn
from benchmarks.seed import Size
from benchmarks.stage import Stage, open_stage

MIB: Final = 1 << 20
KEYS: Final = 4
CONNECTIONS: Final = 2
OTHERS: Final = 8
PACE_S: Final = 0.02
WATCH_S: Final = 0.05
BEGUN: Final = "begun"
NO_BODY: Final = "none"
LAPSED: Final = "SELECT count(*) FROM gateways WHERE lease_until < now()"


def _chat(messages: object) -> bytes:
    return json.dumps({"model": wire.MODEL, "messages": messages, "max_tokens": 16}, ensure_ascii=False).encode()


def _members() -> bytes:
    return b'{"model":"bench","messages":[' + b'{"":[]},' * (32 * MIB // 8 - 100) + b"{}]}"


def _zeros() -> bytes:
    packed = gzip.compress(b"\0" * (64 * MIB), 9)
    return packed * (4 * MIB // len(packed))


def _request(body: bytes, secret: str | None, path: str = "/v1/chat/completions", *lines: str) -> bytes:
    key = (f"Authorization: Bearer {secret}",) if secret else ()
    length = () if "Transfer-Encoding: chunked" in lines else (f"Content-Length: {len(body)}",)
    head = [f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", *length, *key, *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


PACKED: Final = "Content-Encoding: gzip"
BODIES: Final[dict[str, Callable[[str], bytes]]] = {
    "members": lambda secret: _request(_members(), secret),
    "text": lambda secret: _request(_chat([{"role": "user", "content": "some words " * (30 * MIB // 11)}]), secret),
    "words": lambda secret: _request(_chat([{"role": "user", "content": "größer 😀 " * (30 * MIB // 15)}]), secret),
    "messages": lambda secret: _request(
        _chat([{"role": "user", "content": [{"type": "text", "text": "words " * 320}] * 2}] * 8_000), secret
    ),
    "bomb": lambda secret: _request(_zeros(), secret, "/v1/chat/completions", PACKED),
    "public": lambda secret: _request(_zeros(), None, "/healthz", PACKED),
    "chunks": lambda secret: _request(
        b"1\r\nx\r\n" * (2 * MIB) + b"0\r\n\r\n", None, "/healthz", "Transfer-Encoding: chunked"
    ),
}


def attack(address: Address, body: str, secret: str, told: Any) -> None:
    """Send one body again and again for as long as this process lives; tell the status of every answer."""
    os.nice(19)  # attackers have machines of their own; here they may not take the core of those who are measured
    request = BODIES[body](secret)
    told.put(BEGUN)
    while True:
        with suppress(OSError), socket.create_connection(address, timeout=60) as connection:
            while True:
                with suppress(ConnectionError):  # refused before it was read: the answer may be there all the same
                    connection.sendall(request)
                head = connection.recv(65_536)
                told.put(head[9:12].decode() or "cut")
                if not head or b"onnection: close" in head:
                    break


@dataclass(slots=True)
class Seen:
    """What was seen while others were served: the times of their answers in seconds, their statuses, the most memory
    of a worker in bytes, and how often a lease had lapsed."""

    took_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    most_bytes: int = 0
    lapsed: int = 0

    def line(self, name: str, attacks: Counter[str]) -> str:
        """One row of the table."""
        took_ms = sorted(took * 1e3 for took in self.took_s)
        p50, p99 = statistics.median(took_ms), took_ms[len(took_ms) * 99 // 100]
        failed = sum(count for status, count in self.statuses.items() if status != 200)
        return (
            f"{name:<10}{len(took_ms):>7}{failed:>7}{p50:>9.1f}{p99:>9.1f}{took_ms[-1]:>9.1f}"
            f"{self.most_bytes / MIB:>9.0f}{self.lapsed:>8}  {dict(attacks)}"
        )


async def watch(installation: Installation, target: Process, secrets: list[str], seconds: float) -> Seen:
    """Serve others for so long, and look at the workers meanwhile."""
    seen, until = Seen(), time.monotonic() + seconds
    url = f"http://{target.address[0]}:{target.address[1]}/v1/chat/completions"
    body = _chat([{"role": "user", "content": "Why did the ferry run more often in spring?"}])

    async def other(secret: str) -> None:
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(headers=headers) as session:
            while (began := time.monotonic()) < until:
                async with session.post(url, data=body) as answer:
                    await answer.read()
                seen.took_s.append(time.monotonic() - began)
                seen.statuses[answer.status] += 1
                await asyncio.sleep(PACE_S)

    async def look() -> None:
        connection = await asyncpg.connect(installation.database_url)
        workers = [psutil.Process(pid) for pid in target.workers]
        try:
            while time.monotonic() < until:
                seen.most_bytes = max(seen.most_bytes, *(worker.memory_info().rss for worker in workers))
                seen.lapsed += bool(await connection.fetchval(LAPSED))
                await asyncio.sleep(WATCH_S)
        finally:
            await connection.close()

    await asyncio.gather(look(), *[other(secret) for secret in secrets])
    return seen


async def run(bodies: list[str], seconds: float, workers: int) -> None:
    """Print two rows for each body, and two without any before and after."""
    async with open_stage() as stage:
        installation = await stage.install(Size(KEYS + OTHERS, KEYS + OTHERS), (6,), partitions=1)
        secrets = installation.secrets[6]
        target = await stage.serve(installation, workers)
        print(f"{'':<10}{'answers':>7}{'failed':>7}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'MiB':>9}{'lapsed':>8}")
        bare = _bare(stage, workers)
        for server in (target, bare):
            await watch(installation, server, secrets[KEYS:], 1.0)
        for body in (NO_BODY, *bodies, NO_BODY):
            print(await _row(installation, target, body, body, secrets, seconds), flush=True)
            print(await _row(installation, bare, "  bare", body, secrets, seconds), flush=True)


def _bare(stage: Stage, workers: int) -> Process:
    """Processes that share a listener and do nothing with large bodies, on the core of the gateway's workers."""
    more = ("--upstream", stage.upstream_url, "--drop-above", str(MIB // 4))
    with listen() as listener:
        address, fd = listener.getsockname(), listener.fileno()
        command = bound_to_us((sys.executable, "-m", "benchmarks.bare", "--fd", str(fd), *more))
        started = [
            stage.keep(spawn(f"bare {number}", command, address, stage.folder, TARGET_CORE, fds=[fd]))
            for number in range(workers)
        ]
    started[0].workers = tuple(each.popen.pid for each in started)
    return started[0]


async def _row(
    installation: Installation, target: Process, name: str, body: str, secrets: list[str], seconds: float
) -> str:
    """Serve the others for so long while this body is sent."""
    told: Any = multiprocessing.Queue()
    attackers = [
        multiprocessing.Process(target=attack, args=(target.address, body, secret, told), daemon=True)
        for secret in secrets[:KEYS]
        for _ in range(CONNECTIONS)
    ]
    if body != NO_BODY:
        with on_core(OTHER_CORE):
            for each in attackers:
                each.start()
        for _ in attackers:
            await asyncio.to_thread(told.get)
    seen = await watch(installation, target, secrets[KEYS:], seconds)
    attacks: Counter[str] = Counter()
    while not told.empty():
        attacks[told.get()] += 1
    for each in attackers:
        if each.pid is not None:
            each.terminate()
            each.join()
    return seen.line(name, attacks)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("body", nargs="*", choices=[*BODIES, []], default=[], metavar="BODY")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    asyncio.run(run(arguments.body or list(BODIES), arguments.seconds, arguments.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
