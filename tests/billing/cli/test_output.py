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
    output.show(SHOWN)
    output.error("wrong")
    return stdout.getvalue(), stderr.getvalue()


def test_plain_text_for_people_and_pipes():
    assert shown(Common()) == (PLAIN, "working\nwrong\n")


def test_a_terminal_that_was_closed_stops_nothing():
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.EIO, "Input/output error")

    stdout = io.StringIO()
    output = Output(Common(), stdout, Closed())
    output.note("Stopping ...")
    output.show(SHOWN)
    assert stdout.getvalue() == PLAIN


def test_quiet_leaves_errors_alone():
    assert shown(Common(quiet=True)) == ("", "wrong\n")


def test_json_is_one_line_and_nothing_else():
    stdout, _ = shown(Common(json=True))
    assert stdout.count("\n") == 1
    assert json.loads(stdout) == {"n": 1}


def test_progress_is_replaced_on_a_terminal_until_the_result_is_there(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stderr = Terminal()
    output = Output(Common(), io.StringIO(), stderr)
    output.progress("Starting ...")
    output.progress("Going on ...")
    output.note("Careful!")
    output.progress("Nearly ...")
    output.show(SHOWN)
    output.progress("Starting again ...")
    erased = "\r\x1b[2K"
    assert stderr.getvalue() == (
        f"Starting ...{erased}Going on ...{erased}Careful!\nNearly ...{erased}Starting again ...\n"
    )


def test_progress_is_lines_in_a_pipe_and_nothing_when_quiet():
    for common, lines in ((Common(), "Starting ...\n"), (Common(quiet=True), "")):
        stderr = io.StringIO()
        Output(common, io.StringIO(), stderr).progress("Starting ...")
        assert stderr.getvalue() == lines


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
        output.show(Shown({}, ("a", "b")))
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
