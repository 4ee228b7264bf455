"""`metergate run FILE`: what its lines do to each other, and to its own end."""

import json
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Shell

TRY = "operator price try openai/gpt-4o input_tokens=1"


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    yield Shell(folder)
    shutil.rmtree(folder)


def test_it_ends_with_the_first_failure_or_goes_on(shell):
    """Each way to fail: refused by a command, by its usage, and in an option."""
    (shell.folder / "file").write_text(f"{TRY}\noperator price try no/such input_tokens=1\nnope\nusage --x\n{TRY}\n")
    result = shell.run("run", "file")
    assert "file:2: this command has failed (exit code 1)" in result.failed(1)
    assert result.stdout == shell.run(*TRY.split()).stdout
    going = shell.run("run", "file", "--keep-going")
    assert [f"file:{line}:" in going.failed(1) for line in range(1, 6)] == [False, True, True, True, False]
    assert going.stdout == 2 * result.stdout
    (shell.folder / "file").write_text(f"{TRY}\nusage 'x\n")
    half = shell.run("run", "file")
    assert "file:2" in half.failed(2)
    assert half.stdout == ""


def test_its_options_stand_for_those_that_a_line_leaves_out(shell):
    lines = (TRY, f"{TRY} --quiet", "auth status", f"{TRY} --output own.json")
    (shell.folder / "file").write_text("\n".join(lines))
    (shell.folder / "all.json").write_text("what was there before " * 100)
    run = shell.run("run", "file", "--keep-going", "--json", "--output", "all.json", "--api-url", "http://127.0.0.1:1")
    assert "metergate auth login" in run.failed(1)
    assert run.stdout == ""
    first, second = (shell.folder / "all.json").read_text().splitlines()
    assert json.loads(first) == json.loads(second) == json.loads((shell.folder / "own.json").read_text())
    assert stat.S_IMODE((shell.folder / "all.json").stat().st_mode) == 0o600
    (shell.folder / "file").write_text("auth login --email a@example.com\nauth status --api-url http://127.0.0.1:2")
    token = {"METERGATE_API_TOKEN": "e30.e30.x", "METERGATE_PASSWORD": "x"}
    away = shell.run("run", "file", "--keep-going", "--api-url", "http://127.0.0.1:1", env=token).failed(3)
    assert "127.0.0.1:1" in away.splitlines()[0]
    assert "127.0.0.1:2" in away.splitlines()[2]
