"""Programs of PostgreSQL that commands run, which say how far they are and why they failed.

They are those of the wheel of the embedded server, which also work with older servers; where the wheel has none for
this machine, those on PATH. No password is an argument of a program, where others could read it. None outlives the
command, however that ends.
"""

import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Final

from billing.cli import CommandFailed, Output
from gateway.embedded import launch

if TYPE_CHECKING:
    import asyncio
    from asyncio.subprocess import Process

PIECE_BYTES: Final = 1 << 16
# The first of a script, which have its settings; every backup is longer.
HEAD_BYTES: Final = 4096
# Lines of a program that failed which are shown.
LAST_WORDS: Final = 3
# From one line to the next that says how far it is.
PROGRESS_S: Final = 5.0
CONNECT_S: Final = "10"
_ANEW: Final = b"DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"
# Which scripts for Postgres 17 and later begin with, and older servers refuse.
_UNKNOWN_SETTING: Final = b"SET transaction_timeout = 0;\n"
# A backup's rows stand between what they need and what needs them.
_SECTIONS: Final = "pre-data", "data", "post-data"
# What servers of late 2026 note of each column for themselves, which older programs take for an option of its owner's.
_OWN_OPTION: Final = re.compile(rb"^ALTER TABLE ONLY \S+ ALTER COLUMN .+ SET \(pg_attver=\d+\);\n", re.MULTILINE)

# Has a program end with its parent (`gateway.embedded.launch`).
LAUNCH: Final = (sys.executable, "-I", "-S", launch.__file__)

Take = Callable[[bytes], object]


async def pour(file: Path, url: str, output: Output, *, anew: bool) -> None:
    """Have one transaction do all that a backup says; it is committed only once the backup was read to its end."""
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", "--file=-")
    async with _started("psql", options, url, stdin=True) as psql:
        assert psql.stdin is not None  # noqa: S101  (it was asked for)
        into = psql.stdin
        words = _Words(output, psql.stderr)

        with suppress(BrokenPipeError, ConnectionResetError):  # its last words say why
            into.write(b"BEGIN;\n" + (_ANEW if anew else b""))
            for section in _SECTIONS:
                await _pour_section(section, file, into, output)
            words.at = "indexes and constraints"
            into.write(b"COMMIT;\n")
            await into.drain()
        into.close()
        await words.read
        if await psql.wait():
            raise CommandFailed(f"The backup can't be restored, and nothing has changed: {words.last}")


async def _pour_section(section: str, file: Path, into: "asyncio.StreamWriter", output: Output) -> None:
    """Write a part of a backup, without what its server does not know. Of rows the first bytes alone are looked at: the
    settings that every part begins with."""
    held: bytearray | None = bytearray()

    async def write(piece: bytes) -> None:
        nonlocal held
        if held is not None:
            held += piece
            if section != "data" or len(held) < HEAD_BYTES:
                return
            piece, held = bytes(held).replace(_UNKNOWN_SETTING, b"", 1), None
        into.write(piece)
        await into.drain()

    reading = f"--section={section}", "--no-owner", "--no-privileges", "--verbose", "--file=-", "--", str(file)
    await run("pg_restore", reading, None, output, write)
    if held is not None:
        text = bytes(held).replace(_UNKNOWN_SETTING, b"", 1)
        into.write(text if section == "data" else _OWN_OPTION.sub(b"", text))
        await into.drain()


async def run(name: str, options: tuple[str, ...], url: str | None, output: Output, take: Take | None = None) -> None:
    """Run a program to its end; `take` gets what it writes. Raises `CommandFailed` where it fails."""
    from inspect import isawaitable

    async with _started(name, options, url, stdout=take is not None) as process:
        words = _Words(output, process.stderr)
        if take is not None and process.stdout is not None:
            while piece := await process.stdout.read(PIECE_BYTES):
                if isawaitable(taken := take(piece)):
                    await taken
        await words.read
        if await process.wait():
            raise CommandFailed(f"{name} failed: {words.last}")


class _Words:
    """Reads a program's stderr: its last lines, and what it is at, which is said each `PROGRESS_S`. `read` ends with
    the program."""

    def __init__(self, output: Output, stderr: "asyncio.StreamReader | None") -> None:
        from asyncio import create_task

        self._output, self._tables, self.at, self._lines = output, 0, "", list[str]()
        self.read = create_task(self._read(stderr))

    @property
    def last(self) -> str:
        """Return what the program said of its failure."""
        return " ".join(self._lines[-LAST_WORDS:]) or "it gave no reason."

    async def _read(self, stderr: "asyncio.StreamReader | None") -> None:
        from asyncio import get_running_loop, timeout_at

        assert stderr is not None  # noqa: S101  (it was asked for)
        clock = get_running_loop().time
        line, due_s = b"...", clock() + PROGRESS_S
        while line:
            try:
                async with timeout_at(due_s):
                    line = await stderr.readline()
                self._take(line.decode(errors="replace").strip())
            except TimeoutError:
                due_s = clock() + PROGRESS_S
                if self.at:
                    self._output.note(f"  {self.at} ...")

    def _take(self, text: str) -> None:
        _, at, table = text.partition(' table "public.')
        if at and (" contents of" in text or "processing data" in text):
            self._tables += 1
            self.at = f"table {self._tables}: " + table.rstrip('"')
        elif text and "error:" in text.lower():
            self._lines.append(text)


@asynccontextmanager
async def _started(
    name: str, options: tuple[str, ...], url: str | None, *, stdin: bool = False, stdout: bool = False
) -> AsyncIterator["Process"]:
    """Give a running program, on the database at `url` where there is one; it is killed where it still runs then."""
    import asyncio
    from asyncio.subprocess import DEVNULL, PIPE

    from billing.database.urls import program_target

    target, secret = ((), {}) if url is None else program_target(url)
    process = await asyncio.create_subprocess_exec(
        *LAUNCH,
        str(os.getpid()),
        str(SIGKILL.value),
        "-",
        str(_program(name)),
        *options,
        *target,
        stdin=PIPE if stdin else DEVNULL,
        stdout=PIPE if stdout else DEVNULL,
        stderr=PIPE,
        env={**os.environ, "LC_ALL": "C", "PGCONNECT_TIMEOUT": CONNECT_S, **secret},
        limit=1 << 20,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            # asyncio has a process end with its pipes: one that nobody reads on would never do.
            while process.stdout is not None and await process.stdout.read(PIECE_BYTES):
                pass
            await process.wait()


def _program(name: str) -> Path:
    """Return where one of Postgres's programs is. Raises `CommandFailed`."""
    import shutil

    from gateway.embedded.folders import EmbeddedServersError
    from gateway.embedded.process import postgres_bin

    with suppress(EmbeddedServersError):
        own = postgres_bin(None) / name
        if own.is_file():
            return own
    found = shutil.which(name)
    if found is None:
        raise CommandFailed(f"There is no {name} on this machine: install the client programs of PostgreSQL.")
    return Path(found)
