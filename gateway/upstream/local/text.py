"""What the local provider says. This file owns that the same seed gives the same words, numbers and vectors.

Without a maximum an answer has 20 to 60 tokens; a question with "count to N" is answered with the numbers from 1 to N.
"""

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b, shake_256
from typing import Literal

from gateway.tokens import Tokenizer

COUNT_TO_MAX = 10_000
_COUNT_TO = re.compile(r"\bcount to (\d{1,9})\b", re.IGNORECASE)
_PIECE = re.compile(r"\s*\S+|\s+")

_OPENINGS = (
    "In short",
    "As a rule",
    "Looked at closely",
    "After a pause",
    "On most days",
    "For what it is worth",
    "Taken together",
    "By the evening",
)
_SUBJECTS = (
    "the quiet harbour",
    "a careful clerk",
    "the old meter",
    "every honest ledger",
    "the morning train",
    "a patient reader",
    "the small workshop",
    "the northern light",
)
_VERBS = (
    "keeps count of",
    "makes room for",
    "waits beside",
    "explains",
    "remembers",
    "returns to",
    "points towards",
    "measures",
)
_OBJECTS = (
    "each passing figure",
    "the longest answer",
    "a row of numbers",
    "the next question",
    "what was promised",
    "the open window",
    "every second page",
    "a simple rule",
)


@dataclass(frozen=True, slots=True)
class Said:
    """One finished choice: its text, how many tokens the vocabulary makes of it, and why it ended."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]

    def pieces(self) -> Iterator[str]:
        """The text word by word, white space in front, as a stream sends it."""
        return (match.group() for match in _PIECE.finditer(self.text))


def compose(seed: bytes, index: int, question: str) -> str:
    """The whole text of choice `index` to a question: the numbers that it asks for, else sentences from the seed."""
    asked = _COUNT_TO.search(question)
    if asked is not None:
        return ", ".join(map(str, range(1, min(int(asked[1]), COUNT_TO_MAX) + 1)))
    dice = blake2b(seed + index.to_bytes(4), digest_size=16).digest()
    sentences = []
    for number in range(2 + dice[15] % 2):
        opening, subject, verb, thing = dice[4 * number : 4 * number + 4]
        sentences.append(
            f"{_OPENINGS[opening % 8]}, {_SUBJECTS[subject % 8]} {_VERBS[verb % 8]} {_OBJECTS[thing % 8]}."
        )
    return " ".join(sentences)


def say(tokenizer: Tokenizer, vocabulary: str, text: str, max_tokens: int | None, stop: tuple[str, ...]) -> Said:
    """The text as far as `max_tokens` and the first of the stop sequences let it go; the sequence is left out."""
    tokens = tokenizer.encode(text, vocabulary)
    finish_reason: Literal["stop", "length"] = "stop"
    if max_tokens is not None and len(tokens) > max_tokens:
        tokens = tokens[:max_tokens]
        text = tokenizer.decode(tokens, vocabulary)
        finish_reason = "length"
    ends = [end for end in map(text.find, stop) if end >= 0]
    if ends:
        text = text[: min(ends)]
        return Said(text, tokenizer.count(text, vocabulary), "stop")
    return Said(text, len(tokens), finish_reason)


def vector(seed: bytes, dimensions: int) -> "array[float]":
    """A vector of length 1, as 32-bit floats."""
    raw = array("i", shake_256(seed).digest(4 * dimensions))
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return array("f", (value / norm for value in raw))
