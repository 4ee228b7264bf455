"""Servers with clocks of their own: a library loaded before libc adds to the wall clock what a file says (`clock.c`).

It is compiled at run time. Where there is no C compiler, or no Linux, those rounds are left out.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.chaos.between import between
from tests.chaos.faults import Fault, end_worker, kill_redis
from tests.chaos.harness import Stack

Server = Literal["redis", "postgres"]
Strike = Callable[[Stack, random.Random], Awaitable[None]]
SOURCE = Path(__file__).with_name("clock.c")
# How long a clock is wrong: longer than a lease, and three sweeps.
WRONG_S = 6.0
# Until a worker that has just started judges others' holds: its start, a lease, a sweep.
NEW_WORKER_S = 10.0
MINUTE_S = 60
DAY_S = 86_400
# Back by so much it is 1970 or a little later.
SINCE_1970_S = 20_000 * DAY_S
_SECOND_NS = 1_000_000_000


def compiler() -> str | None:
    """A C compiler of this machine; None: there is none, or the machine loads libraries in another way."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


@contextmanager
def with_clocks(folder: Path) -> Iterator[None]:
    """Servers of a stack in `folder` have clocks of their own. Raises `CalledProcessError`."""
    found, place = compiler(), folder / "clocks"
    assert found is not None
    place.mkdir()
    library = place / "clock.so"
    subprocess.run((found, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"), check=True)
    library.chmod(0o755)  # Postgres runs as another user
    servers: tuple[Server, ...] = ("redis", "postgres")
    for server in servers:
        turn(folder, server, 0)
    with between(place, {each: {"LD_PRELOAD": library, "CHAOS_CLOCK": _clock(folder, each)} for each in servers}):
        yield


def turn(folder: Path, server: Server, by_s: int) -> None:
    """From now on a server's wall clock differs from the machine's by so many seconds."""
    file = os.open(_clock(folder, server), os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(file, (by_s * _SECOND_NS).to_bytes(8, sys.byteorder, signed=True))  # in place: it is mapped
    finally:
        os.close(file)


def _clock(folder: Path, server: Server) -> Path:
    return folder / "clocks" / f"{server}.ns"


def _wrong(server: Server, by_s: int, then: Strike | None = None, for_s: float = WRONG_S) -> Strike:
    async def strike(stack: Stack, chance: random.Random) -> None:
        turn(stack.folder, server, by_s)
        try:
            if then is not None:
                await then(stack, chance)
            await asyncio.sleep(for_s)
        finally:
            turn(stack.folder, server, 0)

    return strike


OF_CLOCKS = (
    Fault("Redis killed, and 20 min ahead for its first 6 s", _wrong("redis", 20 * MINUTE_S, kill_redis), 2.0),
    Fault(
        "Redis's clock 20 min ahead for 10 s, and a worker starts",
        _wrong("redis", 20 * MINUTE_S, end_worker, NEW_WORKER_S),
        2.0,
    ),
    Fault("Redis's clock a day ahead for 6 s", _wrong("redis", DAY_S), 2.0),
    Fault("Redis's clock 20 min back for 6 s", _wrong("redis", -20 * MINUTE_S), 2.0),
    Fault("Redis killed, and at 1970 for its first 6 s", _wrong("redis", -SINCE_1970_S, kill_redis), 2.0),
    Fault("Postgres's clock 6 s ahead for 6 s", _wrong("postgres", 6), 2.0),
    Fault("Postgres's clock 20 min ahead for 6 s", _wrong("postgres", 20 * MINUTE_S), 2.0),
    Fault("Postgres's clock 20 min back for 6 s", _wrong("postgres", -20 * MINUTE_S), 2.0),
)
