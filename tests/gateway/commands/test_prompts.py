"""Secrets that are asked for at a terminal: without echo, twice where they are new, and left out."""

import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import METERGATE, WAIT_S, Shell

AT_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Has the terminal of stdin be the process's own, where passwords are asked for, then is the command."""
SECRET = "tulip anvil quartz row"
REGISTER = ("auth", "register", "--email", "ada@example.com")


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    yield Shell(folder, {"METERGATE_API_URL": "http://127.0.0.1:1"})
    shutil.rmtree(folder)


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


def test_a_password_is_not_shown_and_asked_for_twice(shell: Shell) -> None:
    typed = {"\nPassword again: ": f"{SECRET}\n", "Password: ": f"{SECRET}\n"}
    code, shown = at_terminal(shell, *REGISTER, typed=typed)
    assert code == 3, shown  # it went on, to a gateway that is away
    assert "unreachable" in shown
    assert "tulip" not in shown
    code, shown = at_terminal(shell, *REGISTER, typed={**typed, "\nPassword again: ": "other\n"})
    assert code == 2, shown
    assert "not the same" in shown


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_who_leaves_at_a_prompt_has_done_nothing(shell: Shell, key: str) -> None:
    code, shown = at_terminal(shell, *REGISTER, typed={"Password: ": key})
    assert code == 1, shown
    assert "Nothing was done" in shown
    assert "Traceback" not in shown
