"""What the scripted provider is asked and what it says, whatever the API: a tool round, a sub-agent, a plain answer.

A prompt names what is to be played. `ROUND`: the model calls the tool's own shell to read a file, and says its secret
word once a result of a tool holds it. `DELEGATE`: it has a sub-agent do so. Without either it answers `PLAIN`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ROUND: Final = "ROUND-TRIP"
DELEGATE: Final = "DELEGATE-IT"
SECRET: Final = "heron-4711"
FILE: Final = "notes.txt"
CONTENT: Final = f"The word is {SECRET}.\n"
PROMPT: Final = f"{ROUND}: Read {FILE} and say its word."
DELEGATED: Final = f"{DELEGATE}: Have a sub-agent read {FILE}, then say its word."
PLAIN: Final = "Good day, friend."
FOUND: Final = f"The file says {SECRET}."
NOT_FOUND: Final = "The tool has not found the word."
THOUGHT_TOKENS: Final = 192
"""How much a model thinks before each answer, where its API shows what it thought in an encrypted form."""
MOST_RESULTS: Final = 4


@dataclass(frozen=True)
class Call:
    """A call of one of the client's tools. `text` is what a tool gets that takes no JSON; `namespace` is the group of
    tools that it stands in."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Reply:
    """What the model says: a text, or a call."""

    text: str = ""
    call: Call | None = None


@dataclass(frozen=True)
class Asked:
    """A request, as far as its answer depends on it."""

    said: str
    """All that stands in messages."""
    tools: frozenset[str]
    results: tuple[str, ...]
    """What tools have given since the last word of the user."""


@dataclass(frozen=True)
class Script:
    """How one tool is driven: what reads the file, what delegates to a sub-agent, what ends the work where a mere text
    does not."""

    read: Call
    delegate: Call | None = None
    final: Call | None = None

    def reply(self, asked: Asked) -> Reply:
        """Return what the model says next."""
        found = any(SECRET in result for result in asked.results)
        if DELEGATE in asked.said and self.delegate is not None and self.delegate.name in asked.tools:
            return Reply(FOUND) if found else _unless_tried(self.delegate, asked)
        if not {ROUND, DELEGATE} & set(_marks(asked.said)) or self.read.name not in asked.tools:
            return Reply(PLAIN)
        if not found:
            return _unless_tried(self.read, asked)
        return Reply(FOUND, self.final)


def _unless_tried(call: Call, asked: Asked) -> Reply:
    return Reply(NOT_FOUND) if len(asked.results) >= MOST_RESULTS else Reply(call=call)


def _marks(said: str) -> list[str]:
    return [mark for mark in (ROUND, DELEGATE) if mark in said]
