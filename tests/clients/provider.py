"""What the provider behind the gateways answers, in each API that is asked for by a request's path."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.gateway.dialects.anthropic import bodies as messages
from tests.gateway.dialects.gemini.support import answer as gemini_answer
from tests.gateway.dialects.gemini.support import candidate
from tests.gateway.dialects.gemini.support import events as gemini_events
from tests.gateway.dialects.openai_responses.bodies import MESSAGE, response
from tests.gateway.dialects.openai_responses.bodies import event as responses_event
from tests.support.answering import DONE, delta, event, saying, streaming, usage_chunk
from tests.support.answering import answer as chat_answer

TOO_LONG = "This model's maximum context length is 128000 tokens."
OPENAI_REFUSAL = {
    "error": {
        "message": TOO_LONG,
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
}
PIECES = ("Good", " day")
Asked = dict[str, Any]


@dataclass(frozen=True)
class Api:
    """What one API's provider says: a whole answer, a stream's pieces, and the refusal of a long prompt."""

    whole: Callable[[Asked, str], Any]
    stream: Callable[[Asked, str], tuple[bytes, ...]]
    refusal: Any
    cut_at: int = 3
    """How many of a stream's pieces pass before it is cut: the first of its text."""


async def answer(request: web.Request, text: str) -> web.StreamResponse:
    """The text, as a tool's argument where a tool is offered."""
    api, asked = _api_of(request), await request.json()
    if asked.get("stream") or ":stream" in request.path:
        return await streaming(*api.stream(asked, text))(request)
    return await saying(api.whole(asked, text))(request)


async def refuse(request: web.Request) -> web.StreamResponse:
    """What a provider says to a prompt that is too long."""
    return await saying(_api_of(request).refusal, 400)(request)


async def cut_off(request: web.Request) -> web.StreamResponse:
    """A stream whose connection breaks after its first words."""
    api = _api_of(request)
    return await streaming(*api.stream({}, "".join(PIECES))[: api.cut_at], cut=True)(request)


def _call(asked: Asked, text: str) -> dict[str, Any]:
    called = {"name": asked["tools"][0]["function"]["name"], "arguments": json.dumps({"text": text})}
    return {"index": 0, "id": "call_1", "type": "function", "function": called}


def _chat(asked: Asked, text: str) -> dict[str, Any]:
    whole = chat_answer(text)
    if "tools" in asked:
        message = {"role": "assistant", "content": None, "tool_calls": [_call(asked, text)]}
        whole["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    return whole


def _chat_stream(asked: Asked, text: str) -> tuple[bytes, ...]:
    if "tools" not in asked:
        return *_deltas(text), delta(finish="stop"), usage_chunk(), DONE
    choice = {"index": 0, "delta": {"role": "assistant", "tool_calls": [_call(asked, text)]}, "finish_reason": None}
    made = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return event({**made, "choices": [choice]}), delta(finish="tool_calls"), usage_chunk(), DONE


def _deltas(text: str) -> tuple[bytes, ...]:
    return tuple(delta(piece) for piece in _split(text))


def _split(text: str) -> tuple[str, ...]:
    return tuple(each for each in (*PIECES, text.removeprefix("".join(PIECES))) if each)


def _messages_stream(asked: Asked, text: str) -> tuple[bytes, ...]:
    return messages.stream(*_split(text))


def _responses(asked: Asked, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return response(model="gpt-4o-mini", created_at=1, tools=[], output=[{**MESSAGE, "content": content}])


def _responses_stream(asked: Asked, text: str) -> tuple[bytes, ...]:
    whole = _responses(asked, text)
    (item,) = whole["output"]
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    begun = {**whole, "status": "in_progress", "usage": None, "output": []}
    events: tuple[tuple[str, dict[str, Any]], ...] = (
        ("response.created", {"response": begun}),
        ("response.output_item.added", {"item": {**item, "content": []}, "output_index": 0}),
        ("response.content_part.added", {**at, "part": part}),
        *(("response.output_text.delta", {**at, "delta": piece, "logprobs": []}) for piece in _split(text)),
        ("response.output_text.done", {**at, "text": text, "logprobs": []}),
        ("response.content_part.done", {**at, "part": {**part, "text": text}}),
        ("response.output_item.done", {"item": item, "output_index": 0}),
        ("response.completed", {"response": whole}),
    )
    return tuple(responses_event(kind, **fields, sequence_number=at) for at, (kind, fields) in enumerate(events))


def _gemini(asked: Asked, text: str) -> dict[str, Any]:
    return gemini_answer(candidate(text))


def _gemini_stream(asked: Asked, text: str) -> tuple[bytes, ...]:
    pieces = [gemini_answer(candidate(piece, None), usage={}) for piece in _split(text)]
    return tuple(gemini_events(each) for each in (*pieces, gemini_answer(candidate("", "STOP"))))


def _api_of(request: web.Request) -> Api:
    return next(api for end, api in APIS.items() if end in request.path)


# By a part of the path.
APIS = {
    "/chat/completions": Api(_chat, _chat_stream, OPENAI_REFUSAL, cut_at=2),
    "/responses": Api(_responses, _responses_stream, OPENAI_REFUSAL, cut_at=5),
    "/messages": Api(
        lambda asked, text: messages.answer(text),
        _messages_stream,
        {"type": "error", "error": {"type": "invalid_request_error", "message": TOO_LONG}},
        cut_at=5,
    ),
    "enerateContent": Api(
        _gemini,
        _gemini_stream,
        {"error": {"code": 400, "message": TOO_LONG, "status": "INVALID_ARGUMENT"}},
        cut_at=2,
    ),
}
