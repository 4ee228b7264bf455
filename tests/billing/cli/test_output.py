"""Where results go and in which form."""

import errno
import io
import json
import stat

import pytest

from billing.cli import CommandFailed, Common, Output, Shown, Table

SHOWN = Shown({"n": 1}, ("Done.", Table(("id", "name"), [("1", "one"), ("22", "")]), Table((), [("left", "right")])))
PLAIN = "Done.\nid  name\n1   one\n22\nleft  right\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(common: Common, stdout: io.StringIO | None = None) -> tuple[str, str]:
    """What is written to stdout and to stderr."""
    stdout, stderr = stdout or io.StringIO(), io.StringIO()
    output = Output(common, stdout, stderr)
    output.note("working")
    output.must_show(["the key"])
    output.show(SHOWN)
    output.error("wrong")
    return stdout.getvalue(), stderr.getvalue()


def test_plain_text_for_people_and_pipes():
    assert shown(Common()) == (f"the key\n{PLAIN}", "working\nwrong\n")


def test_a_terminal_that_was_closed_stops_nothing():
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.EIO, "Input/output error")

    stdout = io.StringIO()
    output = Output(Common(), stdout, Closed())
    output.note("Stopping ...")
    output.show(SHOWN)
    assert stdout.getvalue() == PLAIN


def test_quiet_leaves_what_can_not_be_had_again():
    assert shown(Common(quiet=True)) == ("the key\n", "wrong\n")


def test_json_is_one_line_and_nothing_else():
    stdout, _ = shown(Common(json=True))
    assert stdout.count("\n") == 1
    assert json.loads(stdout) == {"n": 1}


def test_a_terminal_gets_tables():
    stdout, _ = shown(Common(), Terminal())
    assert "one" in stdout
    assert "\x1b[" in stdout or "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in stdout


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_ids_stay_whole_on_any_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    ids = ("01M7YBYJ1BZNSG8RD7T27P21M3", "acc_01M7YC0S5Q6Y0J1W4V8D3E2R9T")
    stdout, reason = Terminal(), "The account has used up its balance: buy credit, or wait for the grant of next month."
    Output(Common(), stdout, io.StringIO()).show(
        Shown({}, (Table(("request", "account", "reason"), [(*ids, reason)]),))
    )
    assert all(each in stdout.getvalue() for each in (*ids, *reason.split()))


@pytest.mark.parametrize("terminal", [True, False])
def test_names_drive_no_terminal(terminal):
    stdout = Terminal() if terminal else io.StringIO()
    evil = Shown({}, ("\x1b[2Jtext", Table(("x",), [("\x1b]0;title\x07[bold]",)])))
    Output(Common(), stdout, io.StringIO()).show(evil)
    text = stdout.getvalue()
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text
    assert "[bold]" in text


def test_a_file_is_private_and_replaced(tmp_path):
    path = tmp_path / "result"
    with Output.opened(Common(output=path)) as output:
        assert path.exists()  # a bad path would have been noticed before anything was done
        output.show(SHOWN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("x" * 1000)
    with Output.opened(Common(output=path)) as output:
        output.must_show(["a"])
        output.must_show(["b"])
    assert path.read_text() == "a\nb\n"


def test_a_file_survives_a_command_that_fails(tmp_path):
    path = tmp_path / "result"
    path.write_text("before")
    with pytest.raises(CommandFailed), Output.opened(Common(output=path)):
        raise CommandFailed("no")
    assert path.read_text() == "before"


def test_a_file_that_can_not_be_written(tmp_path):
    with pytest.raises(CommandFailed, match="--output"), Output.opened(Common(output=tmp_path / "no" / "where")):
        pass
