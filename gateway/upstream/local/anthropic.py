"""How the local provider answers in Anthropic's format: messages, their events, counts and errors.

Shapes are those of https://docs.anthropic.com/en/api/messages and .../messages-streaming. What a request has beside its
model, messages, system, `max_tokens`, `stop_sequences` and `stream` is ignored: every answer is plain text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.upstream.local.generator import Body, Call, Choice, Fields, Generator, RequestError, question_of

MESSAGES: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"
STOPS_MAX: Final = 8
_TYPES: Final = {404: "not_found_error"}
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}


def error_answer(refused: RequestError) -> bytes:
    """Return the error envelope of a refused request."""
    kind = _TYPES.get(refused.status, "invalid_request_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": str(refused)}})


class LocalAnthropic:
    """Answers requests to Anthropic's paths."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def answer(self, call: Call) -> Body:
        """Return an answer. Raises `RequestError`."""
        if call.path not in (MESSAGES, COUNT):
            raise RequestError(f"Invalid URL ({call.method} {call.path})", status=404)
        call.check_method("POST")
        fields = Fields(call.body)
        pace, writes = call.paced_by(fields).pace, call.path == MESSAGES
        most, stops = _bounds(fields) if writes else (0, ())
        system = fields.get("system")
        model = fields.model()
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        messages += fields.messages()
        stream = writes and fields.flag("stream")
        input_tokens = await self._generator.count_chat(messages, model)
        if not writes:
            return Body.whole({"input_tokens": input_tokens}, pace)
        (choice,) = await self._generator.choices(model, messages, question_of(messages), most=most, stop=stops)
        envelope = {"id": f"msg_{call.answer_id}", "type": "message", "role": "assistant", "model": model}
        if stream:
            return Body(_events(envelope, choice, input_tokens), pace, stream=True)
        written = {
            "content": [{"type": "text", "text": choice.text}],
            "stop_reason": _STOP_REASONS[choice.finish_reason],
            "stop_sequence": None,
            "usage": _usage(input_tokens, choice.tokens),
        }
        return Body.whole({**envelope, **written}, pace)


def _bounds(fields: Fields) -> tuple[int, tuple[str, ...]]:
    """Return the maximum of a message's tokens, and what stops it. Raises `RequestError`."""
    most = fields.integer("max_tokens", 1)
    if most is None:
        raise RequestError("max_tokens: Field required")
    stops = fields.get("stop_sequences") or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops) or len(stops) > STOPS_MAX:
        raise RequestError(f"stop_sequences: Input should be a list of at most {STOPS_MAX} strings")
    return most, tuple(stop for stop in stops if stop)


def _usage(input_tokens: int, output_tokens: int) -> dict[str, object]:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _events(envelope: Mapping[str, object], choice: Choice, input_tokens: int) -> Iterator[bytes]:
    """Yield the events of a streamed message."""
    begun: Any = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(input_tokens, 1)}
    yield _event("message_start", message={**envelope, **begun})
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    for piece in choice.pieces():
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield _event("content_block_stop", index=0)
    ended = {"stop_reason": _STOP_REASONS[choice.finish_reason], "stop_sequence": None}
    yield _event("message_delta", delta=ended, usage={"output_tokens": choice.tokens})
    yield _event("message_stop")


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
