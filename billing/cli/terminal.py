"""Tables on a terminal, by rich: imported by a command that shows one there."""

from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(terminal: TextIO, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Rows of texts that hold no control characters; without headers the first column names what the second says."""
    shown = Table(box=box.SIMPLE_HEAD if headers else None, show_header=bool(headers))
    for name in headers or ("",) * len(rows[0]):
        shown.add_column(name, overflow="fold", style=None if headers else "default")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console(file=terminal).print(shown)
