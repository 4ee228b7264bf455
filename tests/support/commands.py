"""Runs `metergate` as a person would: a process of its own, in a folder of its own."""

import atexit
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support.ports import free_port

WAIT_S = 120.0
METERGATE = (sys.executable, "-m", "gateway")
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.stdout)

    def failed(self, code: int) -> str:
        """Asserts an exit code and that the failure is told in plain words; stderr."""
        assert self.code == code, self
        assert "Traceback" not in self.stderr
        assert self.stderr.strip()
        return self.stderr


class Commander:
    """A process of `tests.support.commander`. It ends with this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.commander"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._process.kill)

    def ask(self, asked: Mapping[str, Any]) -> int:
        """Have a command run; its exit code, as `subprocess` has it. Raises `AssertionError` after WAIT_S."""
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], WAIT_S)
        assert ready, f"{asked['commands']} takes longer than {WAIT_S:.0f} s"
        return int(self._process.stdout.readline())


@cache
def commander() -> Commander:
    """The one of this run."""
    return Commander()


@dataclass
class Shell:
    """A folder to run commands in. `env` is added to the bare environment that a command gets; `program` is what
    `start` and `running` start."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = METERGATE

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        own = {
            "PYTHONPATH": str(CHECKOUT),
            "METERGATE_DATA_DIR": str(self.data_dir),
            "LISTEN_ADDR": "127.0.0.1:0",
            "METRICS_ADDR": "127.0.0.1:0",
            "XDG_CONFIG_HOME": str(self.folder / "xdg"),
        }
        return {**kept, **own, **self.env, **(env or {})}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end, in a process that was forked from one that has imported it."""
        (result,) = self.run_each([arguments], env)
        return result

    def run_each(self, commands: Sequence[Sequence[str]], env: Mapping[str, str] | None = None) -> list[Result]:
        """Run commands one after the other in one such process: for those that leave nothing behind in it."""
        with tempfile.TemporaryDirectory(prefix="mg-printed-") as folder:
            asked = {"commands": commands, "cwd": str(self.folder), "env": self.environment(env), "folder": folder}
            last = commander().ask(asked)
            results = []
            for number in range(len(commands)):
                stdout, stderr, code = (Path(folder, f"{number}.{name}") for name in ("stdout", "stderr", "code"))
                ended = int(code.read_text()) if code.exists() else last
                results.append(Result(ended, stdout.read_text(), stderr.read_text()))
            return results

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end, from the very start."""
        done = subprocess.run(
            [*self.program, *arguments],
            capture_output=True,
            check=False,
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=WAIT_S,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator["Running"]:
        """A command that goes on; ended if it still runs. Killed, its servers would have to find that out, in a folder
        that is removed next."""
        with (self.folder / "stderr").open("w") as stderr:
            process = subprocess.Popen(
                [*self.program, *arguments],
                cwd=self.folder,
                env=self.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        try:
            yield Running(process, self.folder / "stderr")
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.terminate()
                process.wait(WAIT_S)
            process.kill()
            process.wait()
            process.stdout.close()

    def processes(self) -> list[str]:
        """Command lines of live processes that belong to this folder: servers by their paths, workers by their data."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            arguments = process.info["cmdline"] or []
            if process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            if any(str(self.folder) in argument for argument in arguments) or self._is_worker(process, arguments):
                found.append(shlex.join(arguments))
        return found

    def _is_worker(self, process: psutil.Process, arguments: list[str]) -> bool:
        if "gateway.app" not in arguments:
            return False
        try:
            return process.environ().get("METERGATE_DATA_DIR") == str(self.data_dir)
        except psutil.Error:
            return False


@dataclass
class Running:
    """A command that goes on, and what it has printed so far on stdout."""

    process: subprocess.Popen[str]
    stderr_file: Path
    lines: list[str] = field(default_factory=list)

    def until(self, text: str) -> str:
        """Read stdout up to the line that holds `text`, and give that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:  # ends with the process
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"no {text!r} in {self.lines}; stderr: {self.stderr}")

    def until_stderr(self, text: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while text not in self.stderr:
            assert self.process.poll() is None, self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.02)

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal the whole group, as a terminal does, and wait; the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(WAIT_S)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    json: Any


_FROM_FILE: Final = re.compile(r"\$\(cat (.+)\)")


def do_curl(line: str) -> Answer:
    """Do what a curl line says, with what machines have that lack curl and a shell; what stands before it is passed
    over."""
    words = iter(shlex.split(line[line.index("curl ") :]))
    assert next(words) == "curl"
    url, headers, body = "", {}, None
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = _FROM_FILE.sub(lambda found: Path(shlex.split(found[1])[0]).read_text().strip(), value)
        elif word == "-d":
            body = next(words).encode()
        elif word != "-sS":
            url = word
    return fetch(url, headers, body)


def fetch(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}))  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:  # noqa: S310
            return Answer(response.status, _lower(response.headers), json.loads(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers), json.loads(error.read()))


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def with_host(url: str) -> str:
    """With the socket's folder as its host: DATABASE_URL must have one."""
    match = re.fullmatch(r"(postgresql://[^/]*)/(\w+)\?host=(.*)", url)
    return f"{match[1]}{match[3]}/{match[2]}"


def nobody_at() -> str:
    """An address that nothing listens on."""
    return f"127.0.0.1:{free_port()}"


def by_name(checks: list[Any]) -> dict[str, Any]:
    """Checks of `doctor`; each that is not well says what mends it."""
    found = {check.name: check for check in checks}
    assert all(bool(check.mend) == (check.status != "ok") for check in checks)
    return found


# Has the terminal of stdin be the process's own, where passwords are asked for, then is the command.
AT_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def at_terminal(shell: Shell, *arguments: str, typed: dict[str, str]) -> tuple[int, str]:
    """Run a command at a terminal; `typed` is what is answered when its last words are these. Its exit code, and all
    that the terminal has shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, *METERGATE, *arguments],
        cwd=shell.folder,
        env=shell.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, left = "", dict(typed)
    try:
        while select.select([ours], [], [], WAIT_S)[0]:
            try:
                shown += os.read(ours, 4096).decode()
            except OSError:  # nobody has the terminal open any more
                break
            for prompt in [each for each in left if shown.endswith(each)]:
                os.write(ours, left.pop(prompt).encode())
        return process.wait(WAIT_S), shown
    finally:
        process.kill()
        os.close(ours)
