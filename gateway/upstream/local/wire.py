"""What the local provider answers: its words, and OpenAI's JSON objects and SSE events, byte for byte in their shape.

This file owns that the same seed gives the same words, numbers and vectors. Without a maximum an answer has 20 to 60
tokens; a question with "count to N" is answered with the numbers from 1 to N.

Shapes are those of the API reference: chat.completion, chat.completion.chunk, text_completion, list of embeddings.
With `stream_options.include_usage` each chunk has `"usage":null`, and one more at the end has the usage and no choices;
without it no chunk has a `usage` at all.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.tokens import Tokenizer
    from gateway.upstream.local.request import RequestError

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


def compose(seed: bytes, index: int, question: str) -> str:
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


def say(tokenizer: Tokenizer, vocabulary: str, text: str, max_tokens: int | None, stop: tuple[str, ...]) -> Choice:
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


def vector(seed: bytes, dimensions: int) -> array[float]:
    """Return a vector of length 1, as 32-bit floats."""
    raw = array("i", shake_256(seed).digest(4 * dimensions))
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return array("f", (value / norm for value in raw))


def question_of(messages: list[object]) -> str:
    """Return the last user message's text."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            if isinstance(content, list):
                texts = (part.get("text") for part in content if isinstance(part, dict))
                return "\n".join(text for text in texts if isinstance(text, str))
            return ""
    return ""


FINGERPRINT = "fp_local"
DONE = b"data: [DONE]\n\n"

_json = msgspec.json.encode


def error_answer(refused: RequestError) -> bytes:
    """Return the error envelope of a refused request."""
    error = {"message": str(refused), "type": "invalid_request_error", "param": refused.param, "code": refused.code}
    return _json({"error": error})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    """Return the usage of a chat or text completion; nothing here is cached, heard or reasoned."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat_envelope(answer_id: str, created_s: int, model: str, service_tier: str) -> dict[str, object]:
    """Return what a chat's answer and all of its chunks begin with; a stream's `object` is put in by `events`."""
    return {
        "id": f"chatcmpl-{answer_id}",
        "object": "chat.completion",
        "created": created_s,
        "model": model,
        "service_tier": service_tier,
        "system_fingerprint": FINGERPRINT,
    }


def completion_envelope(answer_id: str, created_s: int, model: str) -> dict[str, object]:
    """Return what a text completion and all of its chunks begin with."""
    return {"id": f"cmpl-{answer_id}", "object": "text_completion", "created": created_s, "model": model}


def chat_answer(envelope: dict[str, object], choices: Sequence[Choice], counted: dict[str, object]) -> bytes:
    """Return a `chat.completion`."""
    return _json(
        envelope
        | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": counted,
        }
    )


def completion_answer(envelope: dict[str, object], choices: Sequence[Choice], counted: dict[str, object]) -> bytes:
    """Return a `text_completion`."""
    return _json(
        envelope
        | {
            "choices": [
                {"text": choice.text, "index": index, "logprobs": None, "finish_reason": choice.finish_reason}
                for index, choice in enumerate(choices)
            ],
            "usage": counted,
        }
    )


def chat_events(
    envelope: dict[str, object], choices: Sequence[Choice], counted: dict[str, object] | None
) -> Iterator[bytes]:
    """Yield a chat's SSE events: per choice its role, its words and its end. `counted` is None where no usage was
    asked."""
    head, tail = _frame(envelope | {"object": "chat.completion.chunk"}, counted is not None)
    yield from _round_robin([_chat_choice(head, tail, index, choice) for index, choice in enumerate(choices)])
    yield from _end(head, counted)


def completion_events(
    envelope: dict[str, object], choices: Sequence[Choice], counted: dict[str, object] | None
) -> Iterator[bytes]:
    """Yield a text completion's SSE events."""
    head, tail = _frame(envelope, counted is not None)
    yield from _round_robin([_completion_choice(head, tail, index, choice) for index, choice in enumerate(choices)])
    yield from _end(head, counted)


def embedding_item(index: int, vector: array[float], as_base64: bool) -> bytes:
    """Return one element of an embeddings answer's `data`; msgspec writes bytes as base64."""
    if as_base64:
        return _json({"object": "embedding", "index": index, "embedding": _little_endian(vector)})
    return _json({"object": "embedding", "index": index, "embedding": [round(value, 9) for value in vector]})


def embedding_answer(model: str, items: Sequence[bytes], tokens: int) -> bytes:
    """Return an embeddings answer around its encoded items."""
    rest = _json({"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    return b'{"object":"list","data":[' + b",".join(items) + b"]," + rest[1:]


def _frame(envelope: dict[str, object], with_usage: bool) -> tuple[bytes, bytes]:
    """Return what stands before and after a chunk's one choice, encoded once per stream."""
    head = b"data: " + _json(envelope)[:-1] + b',"choices":['
    return head, (b'],"usage":null}\n\n' if with_usage else b"]}\n\n")


def _end(head: bytes, counted: dict[str, object] | None) -> Iterator[bytes]:
    if counted is not None:
        yield head + b'],"usage":' + _json(counted) + b"}\n\n"
    yield DONE


def _chat_choice(head: bytes, tail: bytes, index: int, choice: Choice) -> Iterator[bytes]:
    before = head + b'{"index":%d,"delta":' % index
    going_on = b',"logprobs":null,"finish_reason":null}' + tail
    yield before + b'{"role":"assistant","content":"","refusal":null}' + going_on
    for piece in choice.pieces():
        yield before + b'{"content":' + _json(piece) + b"}" + going_on
    yield before + b'{},"logprobs":null,"finish_reason":' + _json(choice.finish_reason) + b"}" + tail


def _completion_choice(head: bytes, tail: bytes, index: int, choice: Choice) -> Iterator[bytes]:
    after = b',"index":%d,"logprobs":null,"finish_reason":' % index
    for piece in choice.pieces():
        yield head + b'{"text":' + _json(piece) + after + b"null}" + tail
    yield head + b'{"text":""' + after + _json(choice.finish_reason) + b"}" + tail


def _round_robin(choices: list[Iterator[bytes]]) -> Iterator[bytes]:
    waiting = deque(choices)
    while waiting:
        choice = waiting.popleft()
        for event in choice:
            yield event
            waiting.append(choice)
            break


def _little_endian(vector: array[float]) -> bytes:
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return vector.tobytes()
