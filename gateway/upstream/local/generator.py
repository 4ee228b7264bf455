"""What the local provider says: words, numbers and vectors. All of its APIs write what this makes.

This file owns that the same seed gives the same words, numbers and vectors. Without a maximum an answer has 20 to 60
tokens; a question with "count to N" is answered with the numbers from 1 to N.
"""

from __future__ import annotations

import asyncio
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway.tokens import vocabulary_for

if TYPE_CHECKING:
    from gateway.tokens import Tokenizer

Text = str | list[int]  # as words or as token numbers
# Texts or vectors that are made before the event loop gets its turn.
MADE_PER_TURN = 8
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
class Choice:
    """One finished choice: its text, how many tokens the vocabulary makes of it, and why it ended."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]

    def pieces(self) -> Iterator[str]:
        """Yield the text word by word, white space in front, as a stream sends it."""
        return (match.group() for match in _PIECE.finditer(self.text))


def _compose(seed: bytes, index: int, question: str) -> str:
    """Return the whole text of choice `index` to a question: the numbers that it asks for, else sentences from the
    seed."""
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


def _say(tokenizer: Tokenizer, vocabulary: str, text: str, max_tokens: int | None, stop: tuple[str, ...]) -> Choice:
    """Return the text as far as `max_tokens` and the first of the stop sequences let it go; the sequence is left
    out."""
    tokens = tokenizer.encode(text, vocabulary)
    finish_reason: Literal["stop", "length"] = "stop"
    if max_tokens is not None and len(tokens) > max_tokens:
        tokens = tokens[:max_tokens]
        text = tokenizer.decode(tokens, vocabulary)
        finish_reason = "length"
    ends = [end for end in map(text.find, stop) if end >= 0]
    if ends:
        text = text[: min(ends)]
        return Choice(text, tokenizer.count(text, vocabulary), "stop")
    return Choice(text, len(tokens), finish_reason)


class Generator:
    """Makes answers, and counts tokens by the vocabulary of a model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    async def count(self, text: Text, model: str) -> int:
        """Return the tokens of a text."""
        if isinstance(text, str):
            return await self._tokenizer.count_off_loop(text, vocabulary_for(model))
        return len(text)

    async def count_chat(self, messages: list[Any], model: str) -> int:
        """Return the tokens of a chat's messages."""
        return await self._tokenizer.count_chat_messages_off_loop(messages, vocabulary_for(model))

    async def choices(
        self, model: str, given: object, question: str, *, count: int = 1, most: int | None = None, stop: Any = ()
    ) -> list[Choice]:
        """Return answers to what is `given`, of at most so many tokens each; equal texts (numbers that were asked for)
        are counted once."""
        seed, vocabulary = msgspec.json.encode(given), vocabulary_for(model)
        by_text: dict[str, Choice] = {}
        made: list[Choice] = []
        for index in range(count):
            text = _compose(seed, index, question)
            if text not in by_text:
                by_text[text] = _say(self._tokenizer, vocabulary, text, most, stop)
            made.append(by_text[text])
            await _give_way(index)
        return made

    async def vector(self, given: object, dimensions: int, index: int) -> array[float]:
        """Return a vector of length 1, as 32-bit floats; it is one of several, the `index`th."""
        await _give_way(index)
        raw = array("i", shake_256(msgspec.json.encode(given)).digest(4 * dimensions))
        norm = math.sqrt(sum(value * value for value in raw)) or 1.0
        return array("f", (value / norm for value in raw))


async def _give_way(index: int) -> None:
    if index % MADE_PER_TURN == MADE_PER_TURN - 1:
        await asyncio.sleep(0)


def text_of(content: object) -> str:
    """Return the text of a message's content, which is one, or an array of parts."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def question_of(messages: list[Any]) -> str:
    """Return the last user message's text."""
    asked = (each for each in reversed(messages) if isinstance(each, dict) and each.get("role") == "user")
    return text_of(next(asked, {}).get("content"))
