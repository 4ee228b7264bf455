"""`docs/clients.md`: what each refusal comes to in each tool, as one table between two marks."""

import fcntl
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.agents.agents import ROOT, Agent
from tests.agents.running import Ran
from tests.agents.scripts import PLAIN, SECRET
from tests.clients.relay import Relay, Seen

PAGE = ROOT / "docs" / "clients.md"
# Whether the page is to be written anew instead of compared.
WRITES = os.environ.get("METERGATE_WRITE_DOCS") == "1"
HEAD = (
    "| tool | what happens | answer | requests | seconds | its user sees |",
    "|---|---|---|---|---|---|",
)
_PART = re.compile(r"(<!-- agents -->\n)(.*?)(\n<!-- end of agents -->)", re.DOTALL)
MESSAGE, BODY = "MESSAGE", "BODY"
MOST_CHARACTERS = 90


@dataclass(frozen=True)
class Row:
    """A tool's way with one refusal."""

    tool: str
    what: str
    answer: str
    requests: str
    seconds: str
    sees: str

    def __str__(self) -> str:
        return f"| {self.tool} | {self.what} | {self.answer} | {self.requests} | {self.seconds} | {self.sees} |"


def row(agent: Agent, what: str, relay: Relay, ran: Ran) -> Row:
    """Return what was seen."""
    refused = [seen for seen in relay.answers if seen.status >= 400 and seen.body.startswith(b"{")]
    last = refused[-1] if refused else None
    answered = "-" if last is None else f"{last.status} `{last.code}`"
    ended = "" if ran.ended else " and more"
    return Row(agent.name, what, answered, f"{relay.requests}{ended}", f"{round(ran.seconds)}{ended}", _seen(ran, last))


def _seen(ran: Ran, last: Seen | None) -> str:
    """Return what the user sees: an answer, or a message in which the gateway's part is shown by name."""
    if not ran.ended:
        return "nothing yet"
    if ran.code == 0 and (PLAIN in ran.output or SECRET in ran.output):
        return "waits, then the answer"
    if last is not None:
        message = flat(last.error["message"])
        shown = flat(ran.output)
        times = shown.count(message) or shown.count(flat(json.dumps(last.error["message"]))[1:-1])
        if times:
            body = flat(last.body.decode())
            named = BODY if body and body in shown else MESSAGE
            return named if times == 1 else f"{named}, {times} times"
    lines = [line.strip() for line in f"{ran.stdout}\n{ran.stderr}".splitlines() if line.strip()]
    return (lines[-1] if lines else "nothing")[:MOST_CHARACTERS].replace("|", "\\|")


def flat(text: str) -> str:
    """Return a text without what tools do to lines: breaks, blanks, frames."""
    return re.sub(r"[\s│║|\\\"']+", "", text)


def documented() -> dict[tuple[str, str], Row]:
    """The rows that the page has, by tool and refusal."""
    found = _PART.search(PAGE.read_text("utf-8"))
    assert found is not None
    cells: list[list[str]] = [line.strip("| ").split(" | ") for line in found[2].splitlines()[2:]]
    return {(each[0], each[1]): Row(*each) for each in cells if len(each) == len(Row.__annotations__)}


def document(rows: Iterable[Row]) -> None:
    """Write rows into the page, in the place of those that it has of the same tool and refusal."""
    with PAGE.open("r+", encoding="utf-8") as page:
        fcntl.flock(page, fcntl.LOCK_EX)  # another process of the tests may write its own
        known = {**documented(), **{(each.tool, each.what): each for each in rows}}
        made = "\n".join((*HEAD, *(str(known[name]) for name in sorted(known))))
        text, count = _PART.subn(lambda found: found[1] + made + found[3], page.read())
        assert count == 1
        page.seek(0)
        page.truncate()
        page.write(text)
