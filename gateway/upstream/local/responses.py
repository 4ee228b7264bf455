"""The Responses API of the local provider: responses whole, streamed and in the background, kept and read again.

What is kept is in an object store that all processes share. A response in the background is done
`metadata.delay_ms` after it was asked for. Shapes are those of
https://platform.openai.com/docs/api-reference/responses/object.

Objects are a few bounded values by name. In a gateway they are in Redis, where each is forgotten after `KEPT_S`: the
local provider is for trying things out. Without one they are in this process's memory.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol

import msgspec

from gateway.upstream.local.generator import Choice, Generator, text_of
from gateway.upstream.local.request import Body, Call, Fields, RequestError

KEPT_S: Final = 3_600
# Of one value in Redis; what is larger is not kept.
MOST_BYTES: Final = 262_144
MOST_KEPT: Final = 1_000
Command = Callable[..., Awaitable[Any]]


class ObjectStore(Protocol):
    """Values by name."""

    async def get(self, name: str) -> bytes | None: ...

    async def put(self, name: str, value: bytes) -> None: ...

    async def drop(self, name: str) -> None: ...


class MemoryObjects:
    """Values in this process's memory, the last `MOST_KEPT`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    async def get(self, name: str) -> bytes | None:
        """Return a value, None where it is not there."""
        return self._kept.get(name)

    async def put(self, name: str, value: bytes) -> None:
        """Keep a value."""
        self._kept[name] = value
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    async def drop(self, name: str) -> None:
        """Forget a value."""
        self._kept.pop(name, None)


class SharedObjects:
    """Values in Redis. `command` sends a command, and raises what its store raises; `prefix` begins all keys."""

    def __init__(self, command: Command, prefix: bytes) -> None:
        self._command = command
        self._prefix = prefix

    async def get(self, name: str) -> bytes | None:
        """Return a value, None where it is not there."""
        value: bytes | None = await self._command("GET", self._prefix + name.encode())
        return value

    async def put(self, name: str, value: bytes) -> None:
        """Keep a value for `KEPT_S`."""
        if len(value) <= MOST_BYTES:
            await self._command("SET", self._prefix + name.encode(), value, "EX", str(KEPT_S))

    async def drop(self, name: str) -> None:
        """Forget a value."""
        await self._command("DEL", self._prefix + name.encode())


MIN_OUTPUT_TOKENS: Final = 16
CREATE: Final = "response.create"
_OBJECT: Final = re.compile(r"/v1/(responses|conversations)(?:/(\w+)(?:/(cancel|input_items|items))?)?", re.ASCII)
_ID: Final = re.compile(r"resp_\w{1,64}", re.ASCII)
_json = msgspec.json.encode


class _Kept(msgspec.Struct):
    """A response that can be read again; `done_s` is when it is done, in seconds since 1970."""

    final: dict[str, Any]
    input: list[Any]
    done_s: float
    cancelled: bool = False

    def shown(self, now_s: float) -> dict[str, Any]:
        """Return the response as it is by now."""
        if self.cancelled:
            return {**self.final, "status": "cancelled", "output": [], "usage": None}
        if now_s < self.done_s:
            return {**self.final, "status": "in_progress", "output": [], "usage": None}
        return self.final


_KEPT: Final = msgspec.json.Decoder(_Kept)


class LocalResponses:
    """Answers requests to `/v1/responses` and `/v1/conversations`, and what is below them."""

    def __init__(self, generator: Generator, now: Callable[[], float], store: ObjectStore) -> None:
        self._generator = generator
        self._now = now
        self._store = store

    async def answer(self, call: Call) -> Body:
        """Return an answer. Raises `RequestError`."""
        method, path = call.method, call.path
        creates = method == "POST" or (method == "GET" and call.body)  # by GET: a message of a WebSocket
        if creates and path in ("/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"):
            fields = Fields(call.body)
            return await self._create(call.paced_by(fields), fields)
        found = _OBJECT.fullmatch(path)
        if found is None:
            raise RequestError(f"Invalid URL ({method} {path})", status=404)
        kind, name, below = found.groups()
        if kind == "conversations":
            return Body.whole(await self._conversation(call, name), call.pace)
        return Body.whole(await self._stored(method, name, below), call.pace)

    async def _create(self, call: Call, fields: Fields) -> Body:
        model, given, pace = fields.model(), fields.get("input"), call.pace
        by_socket = fields.get("type") == CREATE  # a message of a WebSocket, which is always answered by events
        stream = by_socket or fields.flag("stream")
        before = await self._before(fields.get("previous_response_id"))
        brought = [before, fields.get("instructions"), given]
        tokens = await self._generator.count(_json(brought).decode(), model)
        if call.path.endswith("input_tokens"):
            return Body.whole({"object": "response.input_tokens", "input_tokens": tokens}, pace)
        most = fields.integer("max_output_tokens", MIN_OUTPUT_TOKENS)
        name, created_s = f"resp_{call.answer_id}", int(call.now_s)
        if fields.get("generate") is False:  # the response of a request that had nothing written
            warmed = _response(name, created_s, model, Choice("", 0, "stop"), 0, fields)
            return Body(_events({**warmed, "output": []}, None), pace, stream=True)
        question = text_of(last.get("content") if isinstance(last := _last(given), dict) else last)
        (choice,) = await self._generator.choices(model, brought, question, most=most)
        if call.path.endswith("compact"):
            item = {"id": f"cmp_{call.answer_id}", "type": "compaction", "encrypted_content": choice.text}
            usage = _usage(tokens, choice.tokens)
            compacted = {"id": name, "object": "response.compaction", "created_at": created_s, "output": [item]}
            return Body.whole({**compacted, "usage": usage}, pace)
        background = fields.flag("background")
        final = _response(name, created_s, model, choice, tokens, fields)
        # A connection knows the responses that were made on it, stored or not.
        if by_socket or fields.get("store") is not False:
            done_s = self._now() + (pace.delay_ms / 1_000 if background else 0.0)
            kept = _Kept(final, given if isinstance(given, list) else [given], done_s)
            await self._store.put(name, _json(kept))
        if stream:
            return Body(_events(final, choice), pace, stream=True)
        if background:
            return Body.whole({**final, "status": "queued", "output": [], "usage": None}, replace(pace, delay_ms=0))
        return Body.whole(final, pace)

    async def _found(self, name: object) -> _Kept | None:
        """Return a response that is kept under this id."""
        if not isinstance(name, str) or _ID.fullmatch(name) is None:
            return None
        value = await self._store.get(name)
        return None if value is None else _KEPT.decode(value)

    async def _before(self, name: object) -> list[Any]:
        """Return the output of the response that this one goes on from."""
        if name is None:
            return []
        kept = await self._found(name)
        if kept is None:
            message = f"Previous response with id '{name}' not found."
            raise RequestError(message, param="previous_response_id", code="previous_response_not_found")
        return [*kept.input, *kept.final["output"]]

    async def _stored(self, method: str, name: str | None, below: str | None) -> dict[str, Any]:
        kept = await self._found(name)
        if kept is None or name is None:
            raise RequestError(f"Response with id '{name}' not found.", status=404)
        if method == "DELETE" and below is None:
            await self._store.drop(name)
            return {"id": name, "object": "response", "deleted": True}
        if method == "POST" and below == "cancel":
            kept.cancelled = kept.cancelled or self._now() < kept.done_s
            await self._store.put(name, _json(kept))
            return kept.shown(self._now())
        if method == "GET" and below == "input_items":
            items = [each if isinstance(each, dict) else _message(f"msg_{name}", each) for each in kept.input]
            return {"object": "list", "data": items, "first_id": None, "last_id": None, "has_more": False}
        if method == "GET" and below is None:
            return kept.shown(self._now())
        raise RequestError(f"Not allowed to {method} here.", status=405, code="method_not_supported")

    async def _conversation(self, call: Call, name: str | None) -> dict[str, Any]:
        method, body = call.method, call.body
        if name is None and method == "POST":
            fields = Fields(body or b"{}")
            name, metadata = f"conv_{call.answer_id}", fields.get("metadata") or {}
            made = {"id": name, "object": "conversation", "created_at": int(call.now_s), "metadata": metadata}
            await self._store.put(name, _json(made))
            return made
        value = None if name is None else await self._store.get(name)
        if value is None or name is None:
            raise RequestError(f"Conversation with id '{name}' not found.", status=404)
        if method == "DELETE":
            await self._store.drop(name)
            return {"id": name, "object": "conversation.deleted", "deleted": True}
        found: dict[str, Any] = msgspec.json.decode(value)
        if method == "POST":
            found["metadata"] = Fields(body).get("metadata") or {}
            await self._store.put(name, _json(found))
        return found


def _last(given: object) -> object:
    return given[-1] if isinstance(given, list) and given else given


def _message(name: str, text: object) -> dict[str, Any]:
    return {"id": name, "type": "message", "role": "user", "content": [{"type": "input_text", "text": str(text)}]}


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def _response(
    name: str, created_s: int, model: str, choice: Choice, input_tokens: int, fields: Fields
) -> dict[str, Any]:
    """Return a response that is done."""
    cut = choice.finish_reason == "length"
    part = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}
    status = "incomplete" if cut else "completed"
    return {
        "id": name,
        "object": "response",
        "created_at": created_s,
        "status": status,
        "background": fields.flag("background"),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "model": model,
        "output": [
            {"id": name.replace("resp_", "msg_"), "type": "message", "status": status, "role": "assistant"}
            | {"content": [part]}
        ],
        "parallel_tool_calls": True,
        "previous_response_id": fields.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": fields.get("store") is not False,
        "temperature": 1.0,
        "text": fields.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": fields.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage(input_tokens, choice.tokens),
        "metadata": fields.get("metadata") or {},
    }


def _events(final: dict[str, Any], choice: Choice | None) -> Iterator[bytes]:
    """Yield the events of a stream; without a choice it has no output."""
    begun = {**final, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        *([] if choice is None else _output_events(final["output"][0], choice)),
        (f"response.{final['status']}", {"response": final}),
    ]
    for number, (kind, fields) in enumerate(events):
        data = _json({"type": kind, "sequence_number": number, **fields})
        yield b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _output_events(item: dict[str, Any], choice: Choice) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of the one message of a response."""
    (part,) = item["content"]
    position = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    return [
        ("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}),
        ("response.content_part.added", {**position, "part": {**part, "text": ""}}),
        *[("response.output_text.delta", {**position, "delta": piece, "logprobs": []}) for piece in choice.pieces()],
        ("response.output_text.done", {**position, "text": choice.text, "logprobs": []}),
        ("response.content_part.done", {**position, "part": part}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
    ]
