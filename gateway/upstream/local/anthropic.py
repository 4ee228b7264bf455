"""How the local provider answers in Anthropic's format: messages, their events, counts and errors.

Shapes are those of https://docs.anthropic.com/en/api/messages and .../messages-streaming. What a request has beside its
model, messages, system, `max_tokens`, `stop_sequences` and `stream` is ignored: every answer is plain text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.tokens import vocabulary_for
from gateway.upstream.local.request import Fields, RequestError
from gateway.upstream.local.wire import Choice, compose, question_of, say

if TYPE_CHECKING:
    from gateway.tokens import Tokenizer

MESSAGES: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"
STOPS_MAX: Final = 8
_TYPES: Final = {404: "not_found_error"}
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}

_json = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Message:
    """What a request for a message asks for; `messages` begin with its system prompt."""

    model: str
    messages: list[object]
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool


def message(fields: Fields) -> Message:
    """Return the parameters of `POST /v1/messages`. Raises `RequestError`."""
    most = fields.integer("max_tokens", 1)
    if most is None:
        raise RequestError("max_tokens: Field required")
    stops = fields.get("stop_sequences") or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops) or len(stops) > STOPS_MAX:
        raise RequestError(f"stop_sequences: Input should be a list of at most {STOPS_MAX} strings")
    model, messages = counted(fields)
    return Message(model, messages, most, tuple(stop for stop in stops if stop), fields.flag("stream"))


def counted(fields: Fields) -> tuple[str, list[object]]:
    """Return the model and the messages of `POST /v1/messages/count_tokens`. Raises `RequestError`."""
    system = fields.get("system")
    before: list[object] = [{"role": "system", "content": system}] if system else []
    return fields.model(), before + fields.messages()


def message_answer(answer_id: str, asked: Message, choice: Choice, input_tokens: int) -> bytes:
    """Return a `message`."""
    content = [{"type": "text", "text": choice.text}]
    reason = _STOP_REASONS[choice.finish_reason]
    return _json(_envelope(answer_id, asked.model, content, reason, input_tokens, choice.tokens))


def message_events(answer_id: str, asked: Message, choice: Choice, input_tokens: int) -> Iterator[bytes]:
    """Yield the events of a streamed message."""
    yield _event("message_start", message=_envelope(answer_id, asked.model, [], None, input_tokens, 1))
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    for piece in choice.pieces():
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield _event("content_block_stop", index=0)
    ended = {"stop_reason": _STOP_REASONS[choice.finish_reason], "stop_sequence": None}
    yield _event("message_delta", delta=ended, usage={"output_tokens": choice.tokens})
    yield _event("message_stop")


async def answer(tokenizer: Tokenizer, fields: Fields, answer_id: str) -> tuple[Iterator[bytes], bool]:
    """Return the body of `POST /v1/messages`, and whether it is a stream. Raises `RequestError`."""
    asked = message(fields)
    vocabulary = vocabulary_for(asked.model)
    input_tokens = await tokenizer.count_chat_messages_off_loop(asked.messages, vocabulary)
    text = compose(_json(asked.messages), 0, question_of(asked.messages))
    choice = say(tokenizer, vocabulary, text, asked.max_tokens, asked.stop)
    if asked.stream:
        return message_events(answer_id, asked, choice, input_tokens), True
    return iter((message_answer(answer_id, asked, choice, input_tokens),)), False


async def count_answer(tokenizer: Tokenizer, fields: Fields) -> bytes:
    """Return the answer of `/v1/messages/count_tokens`. Raises `RequestError`."""
    model, messages = counted(fields)
    return _json({"input_tokens": await tokenizer.count_chat_messages_off_loop(messages, vocabulary_for(model))})


def error_answer(refused: RequestError) -> bytes:
    """Return the error envelope of a refused request."""
    kind = _TYPES.get(refused.status, "invalid_request_error")
    return _json({"type": "error", "error": {"type": kind, "message": str(refused)}})


def _envelope(
    answer_id: str, model: str, content: list[dict[str, str]], reason: str | None, input_tokens: int, output_tokens: int
) -> dict[str, object]:
    return {
        "id": f"msg_{answer_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output_tokens,
            "service_tier": "standard",
        },
    }


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json({"type": kind, **fields}))
