"""Asking before money moves. A command says what it is about to do, and by which means, and goes on after a yes.

`--yes` is the answer of scripts. Where there is neither that nor a terminal to ask at, nothing is done.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from billing.cli.commands import interruptible
from billing.cli.output import REFUSED, USAGE, CommandFailed, printable

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
_YES: Final = ("y", "yes")


def confirm(lines: Sequence[str], *, yes: bool) -> None:
    """Say what is about to be done, and ask; with `yes` neither. Raises `CommandFailed` where the answer is no, and
    where there is no terminal to ask at."""
    if yes:
        return
    shown = [printable(line) for line in lines]
    if not sys.stdin.isatty():
        raise CommandFailed(" ".join([*shown, "There is no terminal to ask at: --yes does it without asking."]), USAGE)
    sys.stderr.write("".join(f"{line}\n" for line in shown))
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    try:
        with interruptible():
            given = sys.stdin.readline()
    except KeyboardInterrupt:
        given = ""
    if given.strip().lower() not in _YES:
        raise CommandFailed("Nothing was done.", REFUSED)
