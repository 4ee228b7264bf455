"""What a command shows, its result on stdout or in a file, its progress on stderr; and how it fails.

A terminal gets tables and colour, anything else plain aligned text. Text from elsewhere is shown without control
characters, so that no name can drive a terminal. A command that fails says so in one plain sentence on stderr, never in
a traceback, and ends with an exit code:

0  done     1  refused     2  wrong usage     3  unreachable
"""

import logging
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TextIO

import msgspec
from msgspec import structs

from billing.cli.options import Common
from billing.cli.tables import Table, aligned, print_table
from billing.errors import MetergateError

REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
# A result may hold a secret.
FILE_MODE: Final = 0o600
DISTRIBUTION: Final = "metergate"
# Clears the line of a terminal.
_ERASED: Final = "\r\x1b[2K"


class CommandFailed(MetergateError):
    """Ends a command with a sentence on stderr and an exit code."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Shown:
    """A command's result: `data` for `--json`, `parts` for people, one below the other; `notes` go to stderr. A file
    with a `secret` gets mode 600 though it was there before; what is `silent` was written already."""

    data: object
    parts: tuple[str | Table, ...]
    notes: tuple[str, ...] = ()
    secret: bool = False
    silent: bool = False


class Output:
    """Where a command's result goes. Made before the command does anything, so that no result is lost to a bad path."""

    def __init__(self, common: Common, stdout: TextIO, stderr: TextIO) -> None:
        self.common = common
        self._stdout, self._stderr = stdout, stderr
        self._written = self._is_passing = self._is_shown = False
        self._log: logging.Logger | None = None

    @classmethod
    @contextmanager
    def opened(cls, common: Common) -> Iterator[Self]:
        """Yield the output that the options ask for. Raises `CommandFailed` for a file that can't be written."""
        if common.output is None:
            yield cls(common, sys.stdout, sys.stderr)
            return
        with _open_private(common.output) as file:
            yield cls(common, file, sys.stderr)

    def log_notes(self) -> None:
        """Have notes and errors be lines of this process's log from now on, in its format."""
        self._log = logging.getLogger(DISTRIBUTION)
        self._log.setLevel(logging.INFO)

    @property
    def is_terminal(self) -> bool:
        """Return whether the result goes to a terminal."""
        return self._stdout.isatty()

    @property
    def shows_tables(self) -> bool:
        """Return whether a person reads the result as tables."""
        return self.is_terminal and not self.common.json and not self.common.quiet

    @property
    def may_show_secrets(self) -> bool:
        """Return whether a secret that was not asked for may stand in the result: to a person, in a private file, or in
        what a script takes; a pipe may end in a log."""
        return self.is_terminal or self.common.json or self.common.output is not None

    def show(self, shown: Shown) -> None:
        """Show the result: in the form that the options ask for, or not at all."""
        self._is_shown = True
        for note in shown.notes:
            self.note(note)
        if self._is_passing:
            self._replace_passing("")
        if shown.silent:
            return
        if shown.secret and self.common.output is not None:
            self._make_private()
        if self.common.json:
            self._write(msgspec.json.encode(shown.data).decode())
        elif not self.common.quiet:
            for part in shown.parts:
                self._write(printable(part)) if isinstance(part, str) else self._table(part)

    def note(self, text: str) -> None:
        """Show progress or a warning, on stderr: left out with --quiet."""
        if self.common.quiet:
            return
        if self._log is not None:
            self._log.info("%s", text)
        else:
            self.error(text)

    def progress(self, text: str) -> None:
        """Show what is being done. Until there is a result, a terminal has it in a line that the next one replaces."""
        if self._is_shown or self._log is not None or not self._stderr.isatty() or os.environ.get("TERM") == "dumb":
            self.note(text)
        elif not self.common.quiet:
            self._replace_passing(printable(text))
            self._is_passing = True

    def _replace_passing(self, text: str) -> None:
        """Write to stderr in the place of a line of `progress`, if there is one."""
        with suppress(OSError):
            self._stderr.write(f"{_ERASED if self._is_passing else ''}{text}")
            self._stderr.flush()
        self._is_passing = False

    def error(self, text: str) -> None:
        """Show a line on stderr, always. One that nobody can read any more, as its terminal was closed, keeps nothing
        from going on, least of all a stop in order."""
        if self._log is not None:
            self._log.error("%s", text)
            return
        self._replace_passing(f"{printable(text)}\n")

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say on stderr what is being done, and how long it took."""
        started = time.monotonic()
        yield
        self.note(f"{what} ({time.monotonic() - started:.1f} s)")

    @contextmanager
    def as_stdout(self) -> Iterator[None]:
        """Have the results of others go where this one goes. A file begins anew, with mode 600: they may be secret."""
        self._make_private()
        self._stdout.truncate(0)
        with redirect_stdout(self._stdout):
            yield

    def flush(self) -> None:
        """Have what was written so far go out, before `write_bytes`."""
        self._stdout.flush()

    def write_bytes(self, part: bytes) -> None:
        """Write a part of a result as it is. Raises `OSError`."""
        if self.common.output is not None and not self._written:
            self._stdout.truncate(0)
        self._written = True
        self._stdout.buffer.write(part)
        self._stdout.buffer.flush()

    def _make_private(self) -> None:
        """Keep a file that was there before from being read by others, before a secret goes there."""
        descriptor = self._stdout.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, FILE_MODE)

    def _write(self, text: str) -> None:
        if self.common.output is not None and not self._written:
            self._stdout.truncate(0)
        self._written = True
        self._stdout.write(f"{text}\n")
        self._stdout.flush()

    def _table(self, table: Table) -> None:
        safe = replace(table, rows=[tuple(printable(cell) for cell in row) for row in table.rows])
        if self.is_terminal:
            print_table(self._stdout, safe)
        else:
            self._write("\n".join(aligned(safe)))


# What shows an answer, by it and by what the command was given.
Show = Callable[[Any, Mapping[str, Any]], Shown]
# A column of a list: a field of its rows, or what it is called and a field, or a function of a row.
Column = str | tuple[str, str | Callable[[Any], Any]]


def columns(*of: Column, folded: tuple[str, ...] = ()) -> Show:
    """Return what shows a page of a list as a table, with the columns that a narrow terminal leaves out first."""
    return lambda page, _: listed(page, *of, folded=folded)


def facts(*of: Column) -> Show:
    """Return what shows an answer as a table of names and values."""
    return lambda answer, _: details(answer, [(title(each), cell_of(answer, each)) for each in of])


def says(sentence: str) -> Show:
    """Return what shows an answer as a sentence, a template of its fields and of what was given."""
    return lambda answer, given: Shown(answer.received, (sentence.format_map({**given, **structs.asdict(answer)}),))


def listed(page: Any, *of: Column, folded: tuple[str, ...] = ()) -> Shown:
    """Return a page of a list, or a list that has no pages, as a table, and how to get the next one."""
    rows = [tuple(cell_of(row, each) for each in of) for row in page.data]
    table = Table(tuple(map(title, of)), rows, folded)
    return Shown(page.received, page_parts(table, getattr(page, "next_cursor", None)))


def title(column: Column) -> str:
    """Return what a column is called: that of `last_used_at` is `last used`."""
    if not isinstance(column, str):
        return column[0]
    return re.sub("_(id|at)$", "", column).replace("_usd", " USD").replace("_", " ")


def cell_of(row: Any, column: Column) -> str:
    """Return the cell of a row in a column."""
    of = column if isinstance(column, str) else column[1]
    return cell(getattr(row, of) if isinstance(of, str) else of(row))


def cell(value: object) -> str:
    """Return a value in a cell."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
    return str(value)


def details(found: Any, rows: Sequence[tuple[str, str]], *more: str, secret: bool = False) -> Shown:
    """Return an answer as a table of names and values, and what stands below it."""
    return Shown(found.received, (Table((), rows), *more), secret=secret)


def page_parts(table: Table, cursor: str | None = None) -> tuple[str | Table, ...]:
    """Return a page of a list, and how to get the next one."""
    parts: list[str | Table] = [table] if table.rows else ["There are none."]
    if cursor is not None:
        parts.append(f"There are more: --cursor {cursor}")
    return tuple(parts)


def printable(text: str) -> str:
    """Return the text without control characters; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


@contextmanager
def _open_private(path: Path) -> Iterator[TextIO]:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise CommandFailed(f"Cannot write {path}: {error.strerror}. Give --output another path.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yield file


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, mode 600, which takes the place of `path` once it is on the disk, and is removed where something
    fails. Raises `CommandFailed`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"Cannot write {path}: {error.strerror}.") from error
