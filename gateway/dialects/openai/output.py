"""OpenAI's format, the output: what a model wrote, in a stream's event or a whole answer. This file owns what counts.

Any field of a delta or a message is output but for those that name, number or place it (`_NO_OUTPUT`), and null: a
provider that adds a field next year must not thereby serve it free. Empty strings and lists are no output.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.dialects.output import (
    Inline,
    Kind,
    Output,
    Piece,
    cut_output,
    cut_pieces,
    joined,
    kind_named,
    piece_of,
)

_NO_OUTPUT: Final = frozenset({"role", "index", "type", "id", "object", "status", "format", "expires_at", "created"})
"""Names of fields that say which piece this is, not what it says; so does a name that ends in `_id`."""
_OF_A_CHOICE: Final = frozenset(
    {
        *("index", "finish_reason", "native_finish_reason", "stop_reason", "matched_stop", "seed", "error"),
        *("logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids", "flagged", "moderation"),
        *("content_filter_results", "content_filter_offsets", "content_filter_result"),
    }
)
"""Fields beside the delta that describe it, or say again in other words what it says."""
_OF_AN_EVENT: Final = frozenset(
    {
        *("usage", "model", "service_tier", "system_fingerprint", "provider", "obfuscation", "error", "x_groq"),
        *("moderation", "prompt_filter_results", "time_info", "timings", "metrics", "citations", "search_results"),
    }
)
"""Fields beside the choices. Where there are no choices, any other one is output of a kind that nobody knows."""
_SAME_REASONING: Final = ("reasoning_content", "reasoning", "reasoning_details")
"""Some providers send the same reasoning under several names: the first that says something counts."""
_TEXTS: Final = re.compile(
    rb'"(?:content|text|refusal|reasoning_content|reasoning|thinking|arguments|input|transcript)"\s*:\s*'
    rb'"((?:[^"\\]|\\.)*)'
)


def pieces(data: bytes) -> list[tuple[int, Piece]]:
    """Return the (choice, piece) pairs of one event, in order. Of one that is no JSON (`NaN` among its numbers, say)
    what can be told: clients may read it all the same."""
    try:
        return list(_of_answer(msgspec.json.decode(data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return pieces_of_part(data) if data.lstrip().startswith(b"{") else []


def output_of(body: bytes) -> Output:
    """Return what was written in a whole answer; not `known` where it has no list of choices."""
    try:
        answer = msgspec.json.decode(body)
        found = joined(_of_answer(answer))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Output(known=False)
    said = answer if isinstance(answer, dict) else {}
    return Output(found.text, found.inline, isinstance(said.get("choices"), list), bool(said.get("error")))


def output_of_part(part: bytes) -> Output:
    """Return what can be told of an answer that is not here to its end; not `known` where something is here that says
    nothing."""
    return cut_output(_TEXTS, part)


def pieces_of_part(data: bytes) -> list[tuple[int, Piece]]:
    """Return what can be told of an event that broke off: its text; data where it is long and has none."""
    return cut_pieces(_TEXTS, data, "image")


def _of_answer(answer: Any) -> Iterator[tuple[int, Piece]]:
    if not isinstance(answer, dict):
        return
    if not answer.get("choices") and not answer.get("error"):
        for name, value in answer.items():
            if name not in _OF_AN_EVENT:
                yield from ((0, piece) for piece in _of(name, value, None) if isinstance(piece, Inline) or piece)
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index = choice.get("index")
            place = index if isinstance(index, int) else 0
            yield from ((place, piece) for piece in _of_choice(choice) if isinstance(piece, Inline) or piece)


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
    """The pieces under one field."""
    if value is None or name in _NO_OUTPUT or name.endswith("_id"):
        return
    kind = kind_named(name, around)
    if isinstance(value, str):
        yield piece_of(value, kind)
    elif isinstance(value, dict):
        said = value.get("type")
        inner = kind_named(said, kind) if isinstance(said, str) else kind
        for each, under in value.items():
            yield from _of(each, under, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _of("", item, kind)
    else:
        yield msgspec.json.encode(value).decode()
