"""`metergate run FILE`: a file of commands, one a line, in this process.

A line is a command without the leading `metergate`. Words are quoted as in a shell, `#` begins a comment where a word
would begin; nothing else of a shell is there: no variables, no pipes. The whole file is read before its first command
runs, so that one with a quote that is left open does nothing at all.
"""

import re
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from billing.cli.commands import add_command
from billing.cli.options import REMOTE
from billing.cli.output import REFUSED, USAGE, CommandFailed, Output

# Most of a file of commands.
LIMIT_BYTES: Final = 1024 * 1024
# The exit code of a command that Ctrl-C has ended.
INTERRUPTED: Final = 130
_STDIN: Final = "-"
_WORD: Final = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""")
_SPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Line:
    """A command of a file, and where it stands."""

    where: str
    words: tuple[str, ...]


def add_run(app: typer.Typer) -> None:
    """Add `run`."""
    add_command(app, "run", run, REMOTE)


def run(
    output: Output,
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file of commands; - for stdin.", show_default=False)],
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a command that fails; else it is the last one.")
    ] = False,
) -> int:
    """Run a file of commands. A line each, without the leading `metergate`.

    Options that are given here stand for those that a line leaves out. The exit code is that of the first command that
    has failed.
    """
    lines = read_commands(file)
    defaults, root = replace(output.common, output=None), context.find_root()
    failed = 0
    with nullcontext() if output.common.output is None else output.as_stdout():
        for line in lines:
            code = _run(line, root, defaults, output)
            if not code:
                continue
            failed = failed or code
            output.error(f"metergate: {line.where}: this command has failed (exit code {code}).")
            if not keep_going or code == INTERRUPTED:
                break
    return failed


def _run(line: Line, root: Any, defaults: object, output: Output) -> int:
    """Run a command as if it had been started; its exit code."""
    try:
        root.command.main(list(line.words), prog_name=root.info_name, obj=defaults)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else REFUSED
    except Exception:
        output.error(f"metergate: {line.where}: this command has failed.")
        raise
    return 0


def read_commands(file: str) -> list[Line]:
    """Return the commands of a file. Raises `CommandFailed` for one that can't be read, and for a line that is none."""
    name = "stdin" if file == _STDIN else file
    try:
        if file == _STDIN:
            read = sys.stdin.buffer.read(LIMIT_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                read = opened.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"Cannot read {name}: {error.strerror}.", USAGE) from error
    if len(read) > LIMIT_BYTES:
        raise CommandFailed(f"{name} is longer than {LIMIT_BYTES} bytes, the most of a file of commands.", USAGE)
    try:
        text = read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{name} is not text in UTF-8.", USAGE) from error
    numbered = enumerate(text.split("\n"), 1)
    lines = [Line(f"{name}:{number}", words_of(line, f"{name}:{number}")) for number, line in numbered]
    return [line for line in lines if line.words]


def words_of(line: str, where: str) -> tuple[str, ...]:
    """Return the words of a line, none for a comment. Raises `CommandFailed`, which names where it stands."""
    at, words = 0, []
    while True:
        at = _SPACE.match(line, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if at == len(line) or line[at] == "#":
            break
        word = _WORD.match(line, at)
        if word is None or (word.end() < len(line) and not line[word.end()].isspace()):
            raise CommandFailed(f"{where}: a quote is left open, or a backslash is the last character.", USAGE)
        words += shlex.split(word[0])
        at = word.end()
    if words and words[0] == "metergate":
        raise CommandFailed(f"{where}: leave out the leading `metergate`.", USAGE)
    if words and words[0] == "run":
        raise CommandFailed(f"{where}: a file of commands can't run another one.", USAGE)
    return tuple(words)
