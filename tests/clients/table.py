"""`docs/clients.md`: what was seen, as rows. What the gateway said stands there by name, its wording being its own.

The tables between the marks of a library are made and compared by `test_libraries`; all else is written by hand.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from tests.clients.libraries import ROOT, Library, Told
from tests.clients.relay import Relay, Seen

PAGE = ROOT / "docs" / "clients.md"
# Whether the page is to be written anew instead of compared.
WRITES = os.environ.get("METERGATE_WRITE_DOCS") == "1"
MESSAGE, BODY, RETRY_AFTER = "MESSAGE", "BODY", "`Retry-After`"
CLOSE_S = 0.05
HEAD = (
    "| what happens | answer | raises | requests | waits between | its user reads |",
    "|---|---|---|---|---|---|",
)


def row(what: str, relay: Relay, told: Told) -> str:
    """One behaviour as a line of the table."""
    last = relay.answers[-1]
    answered = f"{last.status}" if last.status == 200 else f"{last.status} `{last.code}`"
    cells = [what, answered, _raised(told), str(relay.requests), _waits(told.waits, relay.answers), _read(told, last)]
    return f"| {' | '.join(cells)} |"


def _raised(told: Told) -> str:
    if told.raised is None:
        return "nothing"
    return f"`{told.raised}`" + (f" (an `{told.base}`)" if told.base not in (None, told.raised) else "")


def _waits(waits: Sequence[float], answers: Sequence[Seen]) -> str:
    """Each wait as what the answer before it said, or in seconds."""
    spelled = [
        RETRY_AFTER
        if seen.retry_after_s is not None and abs(wait - seen.retry_after_s) < CLOSE_S
        else f"{round(wait, 2):g} s"
        for wait, seen in zip(waits, answers, strict=False)
    ]
    grouped = [(name, len(list(same))) for name, same in groupby(spelled)]
    return ", ".join(name if times == 1 else f"{times} × {name}" for name, times in grouped) or "-"


def _read(told: Told, last: Seen) -> str:
    """What its user reads: an answer's text, or a message in which the gateway's part is shown by name."""
    if told.raised is None:
        return told.text or ""
    text = told.message
    if last.status != 200:
        for body in (str(json.loads(last.body)), repr(last.body), last.body.decode()):
            text = text.replace(body, BODY)
        text = text.replace(last.error["message"], MESSAGE)
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def section(library: Library, rows: Iterable[str]) -> str:
    """The made part of a library's section."""
    return "\n".join((f"Tried with {library.package} {library.version}.", "", *HEAD, *rows))


def documented(library: Library) -> str:
    """The same part as it stands in the page."""
    return _part(library).search(PAGE.read_text("utf-8"))[2]  # type: ignore[index]


def document(library: Library, made: str) -> None:
    """Write it into the page."""
    text, count = _part(library).subn(lambda found: found[1] + made + found[3], PAGE.read_text("utf-8"))
    assert count == 1
    Path(PAGE).write_text(text, "utf-8")


def _part(library: Library) -> re.Pattern[str]:
    name = re.escape(library.name)
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(\n<!-- end of {name} -->)", re.DOTALL)
