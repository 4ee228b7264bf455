"""Files of commands: their syntax, and messages where one can't be read."""

import io
import shlex
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.cli.batch import LIMIT_BYTES, Line, read_commands, words_of
from billing.cli.output import USAGE, CommandFailed

WORDS = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=20), max_size=6)


@given(WORDS, st.text("# \t'\"\\ab", max_size=20))
def test_words_are_those_that_a_shell_reads(words, comment):
    given = ["operator", *words]
    assert list(words_of(f"  {shlex.join(given)} \t#{comment}", "x:1")) == given


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ()),
        (" \t # keys list", ()),
        ("keys create a#b --tag 'x=# y' # z", ("keys", "create", "a#b", "--tag", "x=# y")),
        ("keys create \\#1 \"a \\\" b\" c'd e'f ''", ("keys", "create", "#1", 'a " b', "cd ef", "")),
        ("keys create $HOME *\r", ("keys", "create", "$HOME", "*")),
    ],
)
def test_a_line(line, words):
    assert words_of(line, "x:1") == words


@pytest.mark.parametrize("line", ["a 'b", 'a "b', "a 'b'\"", "a b\\", "metergate keys list", "run other"])
def test_what_is_no_line_is_told_with_its_place(line):
    with pytest.raises(CommandFailed, match=r"^x:7: ") as failed:
        words_of(line, "x:7")
    assert failed.value.code == USAGE


def test_files_that_can_be_read_and_others(tmp_path, monkeypatch):
    file = tmp_path / "commands"
    file.write_bytes(b"\xef\xbb\xbfkeys list\n\n# none\nusage")
    assert read_commands(str(file)) == [Line(f"{file}:1", ("keys", "list")), Line(f"{file}:4", ("usage",))]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"usage\n")))
    assert read_commands("-") == [Line("stdin:1", ("usage",))]
    for content, reason in ((b"\xff", "UTF-8"), (b"#" * (LIMIT_BYTES + 1), "longer")):
        file.write_bytes(content)
        with pytest.raises(CommandFailed, match=reason):
            read_commands(str(file))
    with pytest.raises(CommandFailed, match="No such file"):
        read_commands(str(tmp_path / "none"))
