"""How a table is laid out: plain aligned text into a pipe, and on a terminal as much of it as fits.

Into a pipe every cell goes as it is. A terminal has amounts and counts as the console has them, numbers below one
another, times without milliseconds, and states in colour. Where it is too
narrow, ids that commands take by their beginning are cut to one, or left out after a name, which commands take, too;
columns of several words are wrapped, and columns are left out: first those of `Table.folded`, then the last ones. What
is left out is said below.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, TextIO

from billing.amounts import digits, nano_of, usd_text
from billing.money import MAX_NANO, NANO_PER_USD, MoneyError

GAP: Final = 2
# Characters of a line that a column of several words has at least.
LEAST_WRAPPED: Final = 16
_TIME: Final = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})\.\d{1,6}Z", re.ASCII)
# Ids that arguments take by their beginning: the time in one, and twenty bits that are random.
SHORT_ID: Final = 18
_LONG_ID: Final = re.compile(r"\b((?:acc|key|usr)_[0-9A-Z]{14})[0-9A-Z]{12}\b", re.ASCII)
# A name with such a beginning after it.
_NAMED: Final = re.compile(r"(.+) \((?:acc|key|usr)_[0-9A-Z]{14}\)", re.ASCII)
# What amounts have in their column's name, or in the first cell of their row.
_USD: Final = re.compile(r"\bUSD\b")
_DECIMAL: Final = re.compile(r"(?<![\w.$])-?\d+\.\d+(?![\w.])", re.ASCII)
_COUNT: Final = re.compile(r"\d{4,15}", re.ASCII)
_NUMBER: Final = re.compile(r"-?\$?[\d,]+(?:\.\d+)?%?", re.ASCII)
_NOTHING: Final = "-"
# Columns that say how something is, and the colours of what they say; other words have none.
_STATES: Final = frozenset({"", "state", "status", "outcome", "circuit", "second factor"})
_COLOURS: Final = {
    **dict.fromkeys(("ok", "on", "active", "valid", "ready", "paid", "settled", "credited", "delivered"), "green"),
    **dict.fromkeys(("pending", "waiting", "past_due", "past due", "disabled", "off", "half_open", "warn"), "yellow"),
    **dict.fromkeys(("billing required", "quota exhausted", "expired", "unpaid"), "yellow"),
    **dict.fromkeys(("fail", "failed", "suspended", "refused", "revoked", "parked", "open circuit", "dead"), "red"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts. Without headers, the first column names what the second says. `folded` are headers of the columns
    that a narrow terminal leaves out first."""

    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: tuple[str, ...] = ()


def aligned(table: Table) -> list[str]:
    """Return the lines of a table for a pipe."""
    lines = [table.headers, *table.rows] if table.headers else list(table.rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = " " * GAP
    return [gap.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def print_table(terminal: TextIO, table: Table) -> None:
    """Print a table without control characters as its terminal is wide."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=terminal, highlight=False)
    rows = [tuple(_TIME.sub(r"\1Z", cell) for cell in row) for row in _for_people(table)]
    shown, rows = _fitting(table, rows, console.width)
    of_rich = RichTable(box=None, show_header=bool(table.headers), pad_edge=False, padding=(0, GAP, 0, 0))
    for at in shown:
        name, cells = table.headers[at] if table.headers else "", [row[at] for row in rows]
        justify: Literal["left", "right"] = "right" if table.headers and _is_of_numbers(cells) else "left"
        of_rich.add_column(name, overflow="fold", no_wrap=not _is_wrapped(cells), header_style="bold", justify=justify)
    for row in rows:
        of_rich.add_row(*(Text(row[at], _colour(table, row, at)) for at in shown))
    console.print(of_rich)
    left_out = [name for at, name in enumerate(table.headers) if at not in shown]
    if left_out:
        console.print(Text(f"Left out: {', '.join(left_out)}. A wider terminal or --json has them.", "dim"))


def _for_people(table: Table) -> list[tuple[str, ...]]:
    """Return the rows with amounts and counts as the console has them."""
    if not table.headers:
        return [(row[0], *map(_amounts if _USD.search(row[0]) else _counted, row[1:])) for row in table.rows]
    columns = [list(column) for column in zip(*table.rows, strict=True)]
    for name, cells in zip(table.headers, columns, strict=False):
        if _USD.search(name):
            least = digits(cell for cell in cells if _is_amount(cell))
            cells[:] = [_amounts(cell, least) for cell in cells]
        else:
            cells[:] = map(_counted, cells)
    return list(zip(*columns, strict=True))


def _is_amount(cell: str) -> bool:
    return _DECIMAL.fullmatch(cell) is not None and abs(Decimal(cell)) * NANO_PER_USD <= MAX_NANO


def _amounts(cell: str, least: int | None = None) -> str:
    """Return a cell with its decimals of USD as people read them; what is no amount here stays."""
    try:
        return _DECIMAL.sub(lambda found: usd_text(nano_of(found[0]), least), cell)
    except MoneyError:
        return cell


def _counted(cell: str) -> str:
    return f"{int(cell):,}" if _COUNT.fullmatch(cell) else cell


def _is_of_numbers(cells: Sequence[str]) -> bool:
    given = [cell for cell in cells if cell != _NOTHING]
    return bool(given) and all(_NUMBER.fullmatch(cell) for cell in given)


def _fitting(table: Table, rows: list[tuple[str, ...]], width: int) -> tuple[list[int], list[tuple[str, ...]]]:
    """Return which columns are shown, and the rows, with shorter ids where they would not fit otherwise."""
    shown = list(range(len(rows[0]) if rows else len(table.headers)))
    if not table.headers or _least(table, rows, shown) <= width:
        return shown, rows
    rows = [tuple(_LONG_ID.sub(r"\1", _NAMED.sub(r"\1", cell)) for cell in row) for row in rows]
    named = [table.headers.index(name) for name in table.folded if name in table.headers]
    whole = [at for at in reversed(shown) if at not in named and not _is_wrapped([row[at] for row in rows])]
    for at in (*named, *whole[:-1]):
        if _least(table, rows, shown) <= width:
            break
        shown.remove(at)
    return shown, rows


def _least(table: Table, rows: list[tuple[str, ...]], shown: list[int]) -> int:
    """Return the characters of a line that columns need."""
    widths = [_least_of(table.headers[at], [row[at] for row in rows]) for at in shown]
    return sum(widths) + GAP * (len(widths) - 1)


def _least_of(name: str, cells: Sequence[str]) -> int:
    widest = max(map(len, cells), default=0)
    return max(len(name), min(widest, LEAST_WRAPPED) if _is_wrapped(cells) else widest)


def _is_wrapped(cells: Sequence[str]) -> bool:
    return any(" " in _NAMED.sub(r"\1", cell) for cell in cells)


def _colour(table: Table, row: tuple[str, ...], at: int) -> str:
    name = table.headers[at] if table.headers else row[0]
    if name not in _STATES or (not table.headers and at == 0):
        return ""
    return _COLOURS.get(f"{row[at]} {name}", _COLOURS.get(row[at], ""))
