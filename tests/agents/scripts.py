"""What the scripted provider is asked and what it says, whatever the API: a tool round, a sub-agent, a plain answer.

A prompt names what is to be played. `ROUND`: the model calls the tool's own shell to read a file, and says its secret
word once a result of a tool holds it. `DELEGATE`: it has a sub-agent do so. Without either it answers `PLAIN`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

ROUND = "ROUND-TRIP"
DELEGATE = "DELEGATE-IT"
SECRET = "heron-4711"
FILE = "notes.txt"
CONTENT = f"The word is {SECRET}.\n"
PROMPT = f"{ROUND}: Read {FILE} and say its word."
DELEGATED = f"{DELEGATE}: Have a sub-agent read {FILE}, then say its word."
PLAIN = "Good day, friend."
FOUND = f"The file says {SECRET}."
NOT_FOUND = "The tool has not found the word."
# How much a model thinks before each answer, where its API shows what it thought in an encrypted form.
THOUGHT_TOKENS = 192
MOST_RESULTS = 4


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


class Script(Protocol):
    """How a tool is driven."""

    def reply(self, asked: Asked) -> Reply:
        """Return what the model says next."""


@dataclass(frozen=True)
class Calls:
    """A tool that calls functions: what reads the file, what delegates to a sub-agent, in several steps where each but
    the last starts something; and what ends the work where a mere text does not."""

    read: Call
    delegate: tuple[Call, ...] = ()
    final: Call | None = None

    def reply(self, asked: Asked) -> Reply:
        """Return what the model says next."""
        if DELEGATE in asked.said:
            if self.delegate and self.delegate[0].name in asked.tools:
                return self._continued(self.delegate, asked)
        elif ROUND in asked.said and self.read.name in asked.tools:
            return self._continued((self.read,), asked)
        return Reply(PLAIN, self.final if self.final and self.final.name in asked.tools else None)

    def _continued(self, steps: tuple[Call, ...], asked: Asked) -> Reply:
        if SECRET in asked.said or any(SECRET in result for result in asked.results):
            return Reply(FOUND, self.final)
        if len(asked.results) >= MOST_RESULTS:
            return Reply(NOT_FOUND)
        return Reply(call=steps[min(len(asked.results), len(steps) - 1)])


@dataclass(frozen=True)
class Edits:
    """A tool that takes edits of files as text, and sends back what a test says of them."""

    wrong: str
    right: str
    failed: str
    """What the test says of the wrong edit."""

    def reply(self, asked: Asked) -> Reply:
        """Return what the model says next."""
        if ROUND not in asked.said:
            return Reply(PLAIN)
        return Reply(f"{FOUND}\n\n{self.right}" if self.failed in asked.said else self.wrong)
