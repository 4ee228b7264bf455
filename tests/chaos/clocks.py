"""Servers with clocks of their own: a library loaded before libc adds to the wall clock what a file says (`clock.c`).

It is compiled at run time. Where there is no C compiler, or no Linux, those rounds are left out.
"""

import asyncio
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from unittest import mock

from gateway.embedded.account import Account
from gateway.embedded.binaries import postgres_bin, valkey_server
from tests.chaos.faults import Fault
from tests.chaos.harness import Stack

Server = Literal["redis", "postgres"]
SOURCE: Final = Path(__file__).with_name("clock.c")
WRONG_S: Final = 6.0
"""How long a clock is wrong: longer than a lease, and three sweeps."""
MINUTE_S: Final = 60
DAY_S: Final = 86_400
SINCE_1970_S: Final = 20_000 * DAY_S
"""Back by so much it is 1970 or a little later."""
_SECOND_NS: Final = 1_000_000_000


def compiler() -> str | None:
    """A C compiler of this machine; None: there is none, or the machine loads libraries in another way."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two servers' clocks; what they need lies in `folder`."""

    folder: Path

    @contextmanager
    def given(self) -> Iterator[None]:
        """Servers that are started meanwhile, and started again later, have them. Raises `CalledProcessError`."""
        found = compiler()
        assert found is not None
        self.folder.mkdir()
        library = self.folder / "clock.so"
        subprocess.run((found, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"), check=True)
        for server in ("redis", "postgres"):
            self.turn(server, 0)
        for path in (self.folder, *self.folder.iterdir()):
            path.chmod(0o755)  # Postgres runs as another user

        def postgres_with_clock(account: Account | None) -> Path:
            real = postgres_bin(account)
            (self.folder / "initdb").symlink_to(real / "initdb")
            self._between("postgres", real / "postgres", library)
            return self.folder

        def redis_with_clock() -> Path:
            return self._between("redis", valkey_server(), library)

        with (
            mock.patch("gateway.embedded.servers.postgres_bin", postgres_with_clock),
            mock.patch("gateway.embedded.servers.valkey_server", redis_with_clock),
        ):
            yield

    def turn(self, server: Server, by_s: int) -> None:
        """From now on a server's wall clock differs from the machine's by so many seconds."""
        file = os.open(self.folder / f"{server}.ns", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(file, (by_s * _SECOND_NS).to_bytes(8, sys.byteorder, signed=True))  # in place: it is mapped
        finally:
            os.close(file)

    def _between(self, server: Server, real: Path, library: Path) -> Path:
        """A script with the server's name that becomes the server, with a clock."""
        script = self.folder / real.name
        clock = self.folder / f"{server}.ns"
        script.write_text(
            f"#!/bin/sh\nLD_PRELOAD={shlex.quote(str(library))} CHAOS_CLOCK={shlex.quote(str(clock))} "
            f'exec {shlex.quote(str(real))} "$@"\n'
        )
        script.chmod(0o755)
        return script


def with_clocks(folder: Path) -> AbstractContextManager[None]:
    """For servers of a stack in `folder`."""
    return _clocks(folder).given()


def _clocks(folder: Path) -> Clocks:
    return Clocks(folder / "clocks")


def _wrong(server: Server, by_s: int) -> Callable[[Stack, random.Random], Awaitable[None]]:
    async def strike(stack: Stack, chance: random.Random) -> None:
        clocks = _clocks(stack.folder)
        clocks.turn(server, by_s)
        try:
            await asyncio.sleep(WRONG_S)
        finally:
            clocks.turn(server, 0)

    return strike


OF_CLOCKS: Final = (
    Fault("Redis's clock 20 min ahead for 6 s", _wrong("redis", 20 * MINUTE_S), 2.0),
    Fault("Redis's clock a day ahead for 6 s", _wrong("redis", DAY_S), 2.0),
    Fault("Redis's clock 20 min back for 6 s", _wrong("redis", -20 * MINUTE_S), 2.0),
    Fault("Redis's clock at 1970 for 6 s", _wrong("redis", -SINCE_1970_S), 2.0),
    Fault("Postgres's clock 6 s ahead for 6 s", _wrong("postgres", 6), 2.0),
    Fault("Postgres's clock 20 min ahead for 6 s", _wrong("postgres", 20 * MINUTE_S), 2.0),
    Fault("Postgres's clock 20 min back for 6 s", _wrong("postgres", -20 * MINUTE_S), 2.0),
)
