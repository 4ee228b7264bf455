"""What the local provider says and understands. All of its APIs write what this makes, and read a request by this.

The same seed gives the same words, numbers and vectors. Without a maximum an answer has 20 to 60 tokens; a question
with "count to N" is answered with the numbers from 1 to N.

Parameters are OpenAI's, checked as OpenAI checks them: messages, parameters and codes of refusals follow what
api.openai.com answers (API reference, "Chat", "Completions", "Embeddings", "Error codes"). A parameter that isn't known
here is left alone.
"""

from __future__ import annotations

import asyncio
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from billing.errors import MetergateError
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


STOPS_MAX = 4
DELAY_MAX_MS = 600_000

_TYPE_NAMES = {str: "a string", bool: "a boolean", int: "an integer", float: "a decimal number", list: "an array"}


class RequestError(MetergateError):
    """A request that OpenAI would refuse, with what stands in the error envelope."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow an answer is: before its head, and between two chunks."""

    delay_ms: int = 0
    chunk_delay_ms: int = 0

    def __post_init__(self) -> None:
        for delay in (self.delay_ms, self.chunk_delay_ms):
            if not 0 <= delay <= DELAY_MAX_MS:
                raise ValueError(f"a delay is from 0 to {DELAY_MAX_MS} ms, not {delay}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: where it goes, its body, the answer's id, when it came (in seconds since 1970), and how slow its
    answer is, unless the request itself says."""

    method: str
    path: str
    query: str
    body: bytes
    answer_id: str
    now_s: float
    pace: Pace

    def paced_by(self, fields: Fields) -> Call:
        """Return the same with the pace that the request says. Raises `RequestError`."""
        return replace(self, pace=fields.pace(self.pace))

    def check_method(self, *methods: str) -> None:
        """Raises `RequestError` unless this is one of some methods."""
        if self.method not in methods:
            message = f"Not allowed to {self.method} on {self.path}."
            raise RequestError(message, status=405, code="method_not_supported")


@dataclass(frozen=True, slots=True)
class Body:
    """A successful answer's body; `pace` is how slow it comes."""

    pieces: Iterable[bytes]
    pace: Pace
    stream: bool = False

    @classmethod
    def whole(cls, value: object, pace: Pace) -> Body:
        """Return one JSON value."""
        return cls((msgspec.json.encode(value),), pace)


class Fields:
    """A request's JSON object, read member by member. Every method raises `RequestError`; null is as good as absent."""

    def __init__(self, body: bytes) -> None:
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestError(
                "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP"
                " library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
            ) from None
        if not isinstance(decoded, dict):
            raise RequestError("Invalid body: expected a JSON object.")
        self._members: dict[str, object] = decoded

    def get(self, name: str) -> object:
        """Return a member as it stands, or None."""
        return self._members.get(name)

    def required(self, name: str) -> object:
        """Return a member that has to be there."""
        value = self._members.get(name)
        if value is None:
            raise RequestError(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
        return value

    def model(self) -> str:
        """Return the model's name."""
        value = self._members.get("model")
        if not value or not isinstance(value, str):
            raise RequestError("you must provide a model parameter")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, false when absent."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(name, "a boolean", value)
        return bool(value)

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        """Return an integer from `low` to `high`."""
        value = self._members.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(name, "an integer", value)
        if value < low:
            raise _out_of_range(name, "below minimum", f">= {low}", value, "integer_below_min_value")
        if high is not None and value > high:
            raise _out_of_range(name, "above maximum", f"<= {high}", value, "integer_above_max_value")
        return value

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return one of a few words; the first when absent."""
        value = self._members.get(name)
        if value is None:
            return allowed[0]
        if value not in allowed or not isinstance(value, str):
            words = ", ".join(f"'{word}'" for word in allowed)
            raise RequestError(
                f"Invalid value for '{name}'. Supported values are: {words}.", param=name, code="invalid_value"
            )
        return value

    def messages(self) -> list[object]:
        """Return the chat's messages: at least one, each of them an object."""
        value = self.required("messages")
        if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
            raise _wrong_type("messages", "an array of objects", value)
        if not value:
            raise _empty("messages")
        return value

    def stop(self) -> tuple[str, ...]:
        """Return the stop sequences; an empty one stops nothing."""
        value = self._members.get("stop")
        if value is None:
            return ()
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise _wrong_type("stop", "a string or an array of strings", value)
        if len(stops) > STOPS_MAX:
            raise _too_long("stop", STOPS_MAX, len(stops))
        return tuple(stop for stop in stops if stop)

    def texts(self, name: str, most: int) -> tuple[Text, ...]:
        """Return a string, an array of strings, an array of token numbers or an array of such arrays."""
        value = self.required(name)
        if isinstance(value, str) or _is_tokens(value):
            value = [value]
        if not isinstance(value, list):
            raise _wrong_type(name, "a string or an array", value)
        if not value:
            raise _empty(name)
        if len(value) > most:
            raise _too_long(name, most, len(value))
        if not (all(isinstance(text, str) for text in value) or all(_is_tokens(text) for text in value)):
            raise _wrong_type(name, "strings or arrays of token numbers", value)
        return tuple(value)

    def include_usage(self, stream: bool) -> bool:
        """Return `stream_options.include_usage`, which only a stream may ask for."""
        options = self._members.get("stream_options")
        if options is None:
            return False
        if not isinstance(options, dict):
            raise _wrong_type("stream_options", "an object", options)
        if not stream:
            raise RequestError(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
            )
        value = options.get("include_usage")
        if value is not None and not isinstance(value, bool):
            raise _wrong_type("stream_options.include_usage", "a boolean", value)
        return bool(value)

    def pace(self, default: Pace) -> Pace:
        """Return `metadata.delay_ms` and `metadata.chunk_delay_ms`, decimal strings of milliseconds, over the
        default."""
        metadata = self._members.get("metadata")
        if not isinstance(metadata, dict):
            return default
        return Pace(
            _milliseconds(metadata, "delay_ms", default.delay_ms),
            _milliseconds(metadata, "chunk_delay_ms", default.chunk_delay_ms),
        )


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)


def _milliseconds(metadata: Mapping[str, object], name: str, default: int) -> int:
    value = metadata.get(name)
    if value is None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        delay_ms = int(value)
        if delay_ms <= DELAY_MAX_MS:
            return delay_ms
    expected = f"a string of 0 to {DELAY_MAX_MS} milliseconds"
    raise RequestError(
        f"Invalid 'metadata.{name}': expected {expected}.", param=f"metadata.{name}", code="invalid_value"
    )


def _wrong_type(name: str, expected: str, value: object) -> RequestError:
    got = _TYPE_NAMES.get(type(value), "an object")
    return RequestError(
        f"Invalid type for '{name}': expected {expected}, but got {got} instead.", param=name, code="invalid_type"
    )


def _out_of_range(name: str, side: str, expected: str, value: int, code: str) -> RequestError:
    message = f"Invalid '{name}': integer {side} value. Expected a value {expected}, but got {value} instead."
    return RequestError(message, param=name, code=code)


def _empty(name: str) -> RequestError:
    message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return RequestError(message, param=name, code="empty_array")


def _too_long(name: str, most: int, length: int) -> RequestError:
    return RequestError(
        f"Invalid '{name}': array too long. Expected an array with maximum length {most}, but got an array with length"
        f" {length} instead.",
        param=name,
        code="array_above_max_length",
    )
