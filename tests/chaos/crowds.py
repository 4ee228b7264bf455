"""Ten thousand connections that come and go unfinished, beside the ordinary load: nobody else is refused for them.

`python -m tests.chaos.crowds HOST:PORT KEY` is the crowd, in a process of its own: it would have machines of its own.
KEY is a key of an account whose credit pays for nothing.
"""

import asyncio
import os
import random
import resource
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from itertools import cycle

from tests.chaos.clients import Ended
from tests.chaos.faults import Fault
from tests.chaos.harness import Stack
from tests.chaos.misuse import RECEIVE_BYTES, lateness
from tests.chaos.places import ROOT

CONNECTIONS = 10_000
PER_S = 500
# Looked at without a crowd, to compare.
BEFORE_S = 10.0
# The connections that a worker with 1,024 descriptors has.
FEW = 392
ADDRESS = "127.0.0.2"
NICENESS = 19
# Has an answer that is not read.
UNREAD = b"GET /api/openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"
# Of such connections there are fewer: what they cost is to make the answers, which is no matter of connections.
UNREAD_EVERY = 50


def unfinished(key: str) -> tuple[bytes, ...]:
    """What the connections send, each for itself."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n"
    keyed = f"{head}Authorization: Bearer {key}\r\n"
    return (
        f"{head}\r\n{{".encode(),
        f"{keyed}\r\n{{".encode(),
        f"{head}Expect: 100-continue\r\n\r\n".encode(),
        f"{keyed}Expect: 100-continue\r\n\r\n".encode(),
        f"{keyed}\r\n".encode()[:80],
        b"",
    )


def crowd(address: str, key: str) -> None:
    """Open CONNECTIONS, PER_S in a second, and leave the oldest where this process may have no more."""
    os.nice(NICENESS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = min(CONNECTIONS, (soft if hard == resource.RLIM_INFINITY else hard) - 100)
    host, _, port = address.rpartition(":")
    opened, began_s = deque[socket.socket](), time.monotonic()
    for number, sent in zip(range(CONNECTIONS), cycle(unfinished(key)), strict=False):
        time.sleep(max(0.0, began_s + number / PER_S - time.monotonic()))
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        connection.bind((ADDRESS, 0))
        with suppress(OSError):
            connection.connect((host, int(port)))
            connection.send(UNREAD if number % UNREAD_EVERY == 0 else sent)
        opened.append(connection)
        if len(opened) > most:
            opened.popleft().close()


async def come_and_go(stack: Stack, chance: random.Random) -> None:
    """A crowd, from its first connection to its last. Raises `AssertionError` where somebody else was refused."""
    assert stack.load is not None
    customer = await stack.customer("0.000001")
    await asyncio.sleep(BEFORE_S)
    before, began_s = lateness(stack, time.monotonic() - BEFORE_S), time.monotonic()
    come = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.crowds", stack.address, customer.key, cwd=ROOT
    )
    assert await come.wait() == 0
    beside = [each for each in stack.load.exchanges if each.ended_s >= began_s and each.plan.do == "ok"]
    refused = [each for each in beside if each.status >= 500]
    cut = [each for each in beside if each.ended is Ended.cut and not each.status]
    stack.notes.append(
        f"{CONNECTIONS} unfinished connections in {time.monotonic() - began_s:.0f} s: "
        f"others' answers late by p50, p99: {lateness(stack, began_s)}, before {before}"
    )
    assert not refused, f"{len(refused)} others were refused, such as {refused[0]}"
    assert not cut, f"{len(cut)} others got no answer, such as {cut[0]}"


CROWD = Fault("10,000 unfinished connections", come_and_go, 1.0)
CROWD_OF_FEW = Fault("10,000 unfinished connections, at 1,024 descriptors", come_and_go, 1.0)
DEFAULTS_OF_FEW = {"max_connections": FEW}

if __name__ == "__main__":
    crowd(*sys.argv[1:])
