"""Secrets that are asked for at a terminal: without echo, twice where they are new, and left out."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Shell, at_terminal

SECRET = "tulip anvil quartz row"
REGISTER = ("auth", "register", "--email", "ada@example.com")


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    yield Shell(folder, {"METERGATE_API_URL": "http://127.0.0.1:1"})
    shutil.rmtree(folder)


def test_a_password_is_not_shown_and_asked_for_twice(shell):
    typed = {"\nPassword again: ": f"{SECRET}\n", "Password: ": f"{SECRET}\n"}
    code, shown = at_terminal(shell, *REGISTER, typed=typed)
    assert code == 3, shown  # it went on, to a gateway that is away
    assert "unreachable" in shown
    assert "tulip" not in shown
    code, shown = at_terminal(shell, *REGISTER, typed={**typed, "\nPassword again: ": "other\n"})
    assert code == 2, shown
    assert "not the same" in shown


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_who_leaves_at_a_prompt_has_done_nothing(shell, key):
    code, shown = at_terminal(shell, *REGISTER, typed={"Password: ": key})
    assert code == 1, shown
    assert "Nothing was done" in shown
    assert "Traceback" not in shown
