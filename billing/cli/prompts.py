"""Asking at the terminal: before money moves, and for secrets.

A command says what it is about to do, and by which means, and goes on after a yes; `--yes` is the answer of scripts.
A secret is asked for without echo, or read from stdin or a variable: never from an argument, which every user of a
machine may see. Where nobody can be asked, nothing is done.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import typer

from billing.cli.commands import interruptible
from billing.cli.output import REFUSED, USAGE, CommandFailed, printable

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
_YES: Final = ("y", "yes")


def confirm(lines: Sequence[str], *, yes: bool = False) -> None:
    """Say what is about to be done, and ask; with `yes`, or nothing to say, neither. Raises `CommandFailed` where the
    answer is no, and where there is no terminal to ask at."""
    if yes or not lines:
        return
    shown = [printable(line) for line in lines]
    if not sys.stdin.isatty():
        raise CommandFailed(" ".join([*shown, "There is no terminal to ask at: --yes skips the question."]), USAGE)
    sys.stderr.write("".join(f"{line}\n" for line in shown))
    sys.stderr.write("Continue? [y/N] ")
    sys.stderr.flush()
    try:
        with interruptible():
            given = sys.stdin.readline()
    except KeyboardInterrupt:
        given = ""
    if given.strip().lower() not in _YES:
        raise CommandFailed("Nothing was done.", REFUSED)


def ask_secret(
    what: str, environ: Mapping[str, str], variable: str, *, from_stdin: bool = False, twice: bool = False
) -> str:
    """Return a secret: a line of stdin, else that of a variable, else what is typed without echo; it may be empty.

    Raises `CommandFailed` where there is nobody to ask, and for two that are not the same.
    """
    if from_stdin:
        line = sys.stdin.readline()
        if not line.strip():
            raise CommandFailed(f"There is no line with the {what} on stdin.", USAGE)
        return line.rstrip("\r\n")
    if variable in environ:
        return environ[variable]
    if not sys.stdin.isatty():
        way = f"set {variable}, or pipe it in and give the option for stdin that --help names"
        raise CommandFailed(f"There is no terminal to ask for the {what} at: {way}.", USAGE)
    import getpass

    try:
        with interruptible():
            given = getpass.getpass(f"{what.capitalize()}: ")
            again = getpass.getpass(f"{what.capitalize()} again: ") if twice and given else given
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandFailed("Nothing was done.", REFUSED) from error
    if again != given:
        raise CommandFailed("These are not the same: nothing was done.", USAGE)
    return given
