"""Streams of the other APIs as their providers write them: as many deltas as a chat's, of the same words, at its price.

Generator and upstream both know them, so that both can check bytes. All events of one come at once, each in a chunk of
HTTP of its own, as with `wire.burst`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import wire
from benchmarks.connection import Shape


@dataclass(frozen=True, slots=True)
class Api:
    """One API's stream. `kind` is of a provider that serves it, `model` the name under which it is priced; `headers`
    are those that its clients send, `{}` in them their key."""

    name: str
    kind: str
    model: str
    path: bytes
    headers: Mapping[str, str]
    body: dict[str, object]
    events: tuple[bytes, ...]
    shape: Shape

    @property
    def answer(self) -> bytes:
        """All of the answer behind its head."""
        return b"".join(map(wire.chunk, self.events)) + wire.STREAM_END

    def request(self, secret: str) -> bytes:
        """One request as a client sends it."""
        headers = {name: value.format(secret) for name, value in self.headers.items()}
        return wire.posted(self.path, wire.compact(self.body), headers)


def _named(kind: str, fields: dict[str, Any]) -> bytes:
    """An event with its type as its name, as Anthropic and OpenAI's Responses write them."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), wire.compact({"type": kind, **fields}))


def _word(number: int) -> str:
    return f" word{number:02d}"


_WORDS: Final = tuple(map(_word, range(wire.STREAM_CHUNKS)))
_SYSTEM: Final = "You are a terse assistant. Answer in one sentence and add nothing to it."
_QUESTION: Final = "Why did the ferry run more often in spring? "


def _messages() -> Iterator[bytes]:
    model, usage = MESSAGES_MODEL, {"input_tokens": wire.INPUT_TOKENS, "output_tokens": 1}
    begun = {"id": "msg_013Zva2CMHLNnXjNJJKqJ2EF", "type": "message", "role": "assistant", "model": model}
    message = {**begun, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield _named("message_start", {"message": message})
    yield _named("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
    yield _named("ping", {})
    for word in _WORDS:
        yield _named("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}})
    yield _named("content_block_stop", {"index": 0})
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _named("message_delta", {"delta": ended, "usage": {"output_tokens": wire.OUTPUT_TOKENS}})
    yield _named("message_stop", {})


def _responses() -> Iterator[bytes]:
    numbers = iter(range(1_000))

    def event(kind: str, **fields: object) -> bytes:
        return _named(kind, {"sequence_number": next(numbers), **fields})

    item_id, text = "msg_67c9fdcf37fc8190ba82116e33fb28c5", "".join(_WORDS)
    within = {"item_id": item_id, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    item = {"id": item_id, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    whole_part = {**part, "text": text}
    whole_item = {**item, "status": "completed", "content": [whole_part]}
    begun = {
        **{"id": "resp_67c9fdcecf488190bdd9a0409de3a1ec", "object": "response", "created_at": 1741570283},
        **{"status": "in_progress", "error": None, "incomplete_details": None, "model": RESPONSES_MODEL, "output": []},
        **{"parallel_tool_calls": True, "store": False, "temperature": 0.2, "usage": None},
    }
    usage = {
        **{"input_tokens": wire.INPUT_TOKENS, "input_tokens_details": {"cached_tokens": 0}},
        **{"output_tokens": wire.OUTPUT_TOKENS, "output_tokens_details": {"reasoning_tokens": 0}},
        "total_tokens": wire.INPUT_TOKENS + wire.OUTPUT_TOKENS,
    }
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    yield event("response.output_item.added", output_index=0, item=item)
    yield event("response.content_part.added", **within, part=part)
    for word in _WORDS:
        yield event("response.output_text.delta", **within, delta=word, logprobs=[])
    yield event("response.output_text.done", **within, text=text, logprobs=[])
    yield event("response.content_part.done", **within, part=whole_part)
    yield event("response.output_item.done", output_index=0, item=whole_item)
    ended = {**begun, "status": "completed", "output": [whole_item], "usage": usage}
    yield event("response.completed", response=ended)


def _gemini() -> Iterator[bytes]:
    for number, word in enumerate(_WORDS, start=1):
        last = number == wire.STREAM_CHUNKS
        candidate: dict[str, object] = {"content": {"parts": [{"text": word}], "role": "model"}, "index": 0}
        if last:
            candidate["finishReason"] = "STOP"
        output = wire.OUTPUT_TOKENS if last else number
        usage = {
            **{"promptTokenCount": wire.INPUT_TOKENS, "candidatesTokenCount": output},
            "totalTokenCount": wire.INPUT_TOKENS + output,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": wire.INPUT_TOKENS}],
        }
        chunk = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": GEMINI_MODEL}
        yield b"data: %s\r\n\r\n" % wire.compact({**chunk, "responseId": "mW4haPjfM9K4-8YPq5bVwQs"})


MESSAGES_MODEL, RESPONSES_MODEL, GEMINI_MODEL = "bench-messages", "bench-responses", "bench-gemini"

MESSAGES: Final = Api(
    "messages",
    "anthropic",
    MESSAGES_MODEL,
    b"/v1/messages",
    {"x-api-key": "{}", "anthropic-version": "2023-06-01"},
    {
        **{"model": MESSAGES_MODEL, "max_tokens": 256, "stream": True, "system": _SYSTEM},
        "messages": [{"role": "user", "content": _QUESTION}],
    },
    tuple(_messages()),
    Shape(b'"text_delta"', b"event: message_stop\n"),
)
RESPONSES: Final = Api(
    "responses",
    "openai",
    RESPONSES_MODEL,
    b"/v1/responses",
    {"Authorization": "Bearer {}"},
    {
        **{"model": RESPONSES_MODEL, "max_output_tokens": 256, "stream": True, "instructions": _SYSTEM},
        **{"input": _QUESTION, "store": False},
    },
    tuple(_responses()),
    Shape(b'"delta":', b"event: response.completed\n"),
)
GEMINI: Final = Api(
    "gemini",
    "gemini",
    GEMINI_MODEL,
    b"/v1beta/models/bench-gemini:streamGenerateContent?alt=sse",
    {"x-goog-api-key": "{}"},
    {
        "contents": [{"role": "user", "parts": [{"text": _QUESTION}]}],
        "systemInstruction": {"parts": [{"text": _SYSTEM}]},
        "generationConfig": {"temperature": 0.2, "maxOutputTokens": 256},
    },
    tuple(_gemini()),
    Shape(b'"parts"', b'"finishReason"'),
)
APIS: Final = (MESSAGES, RESPONSES, GEMINI)
