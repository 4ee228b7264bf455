"""OpenAI's format, the output: what a model wrote, in a stream's event or a whole answer, and what else an event says.

This file owns what counts as output, and what of a stream's usage is taken out of events or added to them.

Any field of a delta or a message is output but for those that name, number or place it (`_NO_OUTPUT`), and null: a
provider that adds a field next year must not thereby serve it free. Empty strings and lists are no output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.base import EventReader
from gateway.dialects.decoding import FIELDS, NULL, decoded
from gateway.dialects.facts import EventFacts, Reported
from gateway.dialects.openai.usage import ANSWER, CITATION, PlainUsage, plain_usage, reported_of
from gateway.dialects.output import (
    Kind,
    OutputReader,
    Piece,
    kind_named,
    piece_of,
)

# Names of fields that identify a piece, and have no output; so does a name that ends in `_id`.
_NO_OUTPUT: Final = frozenset({"role", "index", "type", "id", "object", "status", "format", "expires_at", "created"})
# Fields next to the delta that describe it, or repeat its text.
_OF_A_CHOICE: Final = frozenset(
    {
        "index",
        "finish_reason",
        "native_finish_reason",
        "stop_reason",
        "matched_stop",
        "seed",
        "error",
        "logprobs",
        "prompt_logprobs",
        "token_ids",
        "prompt_token_ids",
        "flagged",
        "moderation",
        "content_filter_results",
        "content_filter_offsets",
        "content_filter_result",
    }
)
# Known fields next to the choices. In an answer without choices, any other field counts as output of an unknown kind.
_OF_AN_EVENT: Final = frozenset(
    {
        "usage",
        "model",
        "service_tier",
        "system_fingerprint",
        "provider",
        "obfuscation",
        "error",
        "x_groq",
        "moderation",
        "prompt_filter_results",
        "time_info",
        "timings",
        "metrics",
        "citations",
        "search_results",
    }
)
# Some providers send the same reasoning under several names: the first that says something counts.
_SAME_REASONING: Final = ("reasoning_content", "reasoning", "reasoning_details")
TEXTS: Final = re.compile(
    rb'"(?:content|text|refusal|reasoning_content|reasoning|thinking|arguments|input|transcript)"\s*:\s*'
    rb'"((?:[^"\\]|\\.)*)'
)


def _of_answer(answer: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    if not answer.get("choices") and not answer.get("error"):
        for name, value in answer.items():
            if name not in _OF_AN_EVENT:
                yield from ((0, piece) for piece in _of(name, value, None))
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index = choice.get("index")
            number = index if isinstance(index, int) else 0
            yield from ((number, piece) for piece in _of_choice(choice))


def _of_choice(choice: dict[str, Any]) -> Iterator[Piece]:
    for name, value in choice.items():
        if name in ("delta", "message") and isinstance(value, dict):
            yield from _of_delta(value)
        elif name not in _OF_A_CHOICE:
            yield from _of(name, value, None)


def _of_delta(delta: dict[str, Any]) -> Iterator[Piece]:
    reasoning = next((name for name in _SAME_REASONING if delta.get(name)), None)
    for name, value in delta.items():
        if name not in _SAME_REASONING or name == reasoning:
            yield from _of(name, value, None)


def _of(name: str, value: Any, around: Kind | None) -> Iterator[Piece]:
    """Yield the pieces under one field."""
    if value is None or name in _NO_OUTPUT or name.endswith("_id"):
        return
    kind = kind_named(name, around)
    if isinstance(value, str):
        yield piece_of(value, kind)
    elif isinstance(value, dict):
        named = value.get("type")
        inner = kind_named(named, kind) if isinstance(named, str) else kind
        for each, under in value.items():
            yield from _of(each, under, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _of("", item, kind)
    else:
        yield msgspec.json.encode(value).decode()


OUTPUT: Final = OutputReader(
    of_answer=_of_answer,
    of_event=_of_answer,
    is_known=lambda answer: isinstance(answer.get("choices"), list),
    texts=TEXTS,
)
# What a chunk has that is there for its usage alone.
_ENVELOPE: Final = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "service_tier",
        "system_fingerprint",
        "choices",
        "usage",
        "obfuscation",
        "provider",
        "x_groq",
        "timings",
        "time_info",
        "metrics",
    }
)
_NOTHING_SAID: Final = (NULL, Raw(b'""'), Raw(b"[]"), Raw(b"{}"))
_EMPTY_LIST: Final = re.compile(rb"\[\s*\]")
_USAGE: Final = b'"usage"'
_NULL_USAGE: Final = re.compile(rb'"usage"\s*:\s*null')
# Of the places in one event where usage is null, so many each are tried from its beginning and from its end: one at the
# top level stands there.
MOST_TRIED: Final = 8
_NULL_USAGE_LAST: Final = b',"usage":null}\n\n'
# Where it is the last field of an event, or OpenAI's padding alone follows: the brace that ends the event shows that it
# stands at the top level, so that nothing has to be decoded.
_NULL_USAGE_PADDED: Final = re.compile(rb'"usage":null,(?="obfuscation":"[^"\\]*"\}\n\n)')
_DATA_LINE: Final = re.compile(rb"(?<=^data:).*\{.*$", re.MULTILINE)


class _PlainEvent(msgspec.Struct):
    """A stream's event with such usage, and with no error."""

    usage: PlainUsage
    service_tier: str | None = None
    model: str | None = None
    choices: Raw = NULL
    error: None = None


_PLAIN_EVENT: Final = msgspec.json.Decoder(_PlainEvent)


def _plain_facts(data: bytes) -> EventFacts | None:
    """Return what an event with usage says, where it is as OpenAI writes it: in one go."""
    event = decoded(_PLAIN_EVENT, data)
    if event is None or (usage := plain_usage(event.usage)) is None:
        return None
    only = _EMPTY_LIST.fullmatch(event.choices) is not None and _says_no_more(data)
    return EventFacts(Reported(usage, event.service_tier, event.model), has_usage=True, is_usage_only=only)


def _says_no_more(data: bytes) -> bool:
    """Return whether an event without choices has nothing beside its usage that a client would miss: a moderation's
    verdict and Azure's filter results come in chunks without choices, too."""
    fields = decoded(FIELDS, data) or {}
    return all(name in _ENVELOPE or value in _NOTHING_SAID for name, value in fields.items())


def _has_null_usage(block: bytes) -> bool:
    """Return whether usage that is null stands in a block: a byte search finds it in a fraction of a pattern's time."""
    at = block.find(_USAGE)
    while at >= 0:
        if _NULL_USAGE.match(block, at) is not None:
            return True
        at = block.find(_USAGE, at + 1)
    return False


def _without_null_usage(line: re.Match[bytes]) -> bytes:
    data = line[0]
    fields = decoded(FIELDS, data)
    if fields is None or fields.get("usage") != NULL:  # what stands deeper is not the event's own
        return data
    places = list(_NULL_USAGE.finditer(data))
    for found in (*places[:MOST_TRIED], *places[MOST_TRIED:][-MOST_TRIED:]):
        before, after = data[: found.start()], data[found.end() :]
        if before.rstrip().endswith(b","):
            cut = before.rstrip()[:-1] + after
        else:
            cut = before + after.lstrip().removeprefix(b",").lstrip()
        left = decoded(FIELDS, cut)
        if left is not None and "usage" not in left:
            return cut
    return data


class OpenAIEvents(EventReader):
    """Reads the data of the stream events of chat completions and completions; an `EventReader`."""

    finish_markers = (b'"finish_reason":"', b'"finish_reason": "')
    terminal_markers = (b"[DONE]",)
    terminal_lines = (b"data: [DONE]", b"data:[DONE]")
    pieces = staticmethod(OUTPUT.pieces)
    pieces_of_part = staticmethod(OUTPUT.pieces_of_part)

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Return whether it is `data: [DONE]`, and nothing beside it."""
        return data.strip() == b"[DONE]"

    def facts(self, data: bytes) -> EventFacts:
        """Return usage and errors of one event. A usage-only chunk has usage, no error, `"choices": []`, and says no
        more."""
        return (_plain_facts(data) if data.find(CITATION) < 0 else None) or self._facts(data)

    @staticmethod
    def _facts(data: bytes) -> EventFacts:
        answer = decoded(ANSWER, data)
        if answer is None:
            return EventFacts()
        has_usage = answer.usage != NULL
        is_error = answer.error != NULL
        return EventFacts(
            reported=reported_of(answer),
            has_usage=has_usage,
            is_usage_only=(
                has_usage and not is_error and _EMPTY_LIST.fullmatch(answer.choices) is not None and _says_no_more(data)
            ),
            is_error=is_error,
        )

    def without_null_usage(self, block: bytes) -> bytes:
        """Return whole events without the `"usage": null` at their top level that is there because the gateway
        asked."""
        block = block.replace(_NULL_USAGE_LAST, b"}\n\n")
        if not _has_null_usage(block):
            return block
        block = _NULL_USAGE_PADDED.sub(b"", block)
        return _DATA_LINE.sub(_without_null_usage, block) if _has_null_usage(block) else block
