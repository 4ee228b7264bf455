"""Markdown tables that also read well in a terminal, and numbers rounded for files. Pure."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table; the first `left` columns stand left, the others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        placed = (cell.ljust(widths[at]) if at < left else cell.rjust(widths[at]) for at, cell in enumerate(cells))
        return "| " + " | ".join(placed) + " |"

    rules = ("-" * (width + 2) if at < left else "-" * (width + 1) + ":" for at, width in enumerate(widths))
    return [line(head), "|" + "|".join(rules) + "|", *map(line, rows)]


def rounded(value: object) -> object:
    """The same with floats that have four digits after the point at most."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value


def described(machine: dict[str, object]) -> list[str]:
    """The machine's description as a section."""
    lines = ["## Machine", ""]
    for name, value in machine.items():
        text = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        lines.append(f"- {name.replace('_', ' ')}: {text}")
    return [*lines, ""]
