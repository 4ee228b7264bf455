"""How the local provider answers in OpenAI's format: chats, completions, embeddings, moderations; and Cohere's reranks.

Shapes are those of the API reference: chat.completion, chat.completion.chunk, text_completion, list of embeddings. With
`stream_options.include_usage` each chunk has `"usage":null`, and one more at the end has the usage and no choices;
without it no chunk has a `usage` at all. Tools, `logprobs`, `echo`, `suffix` and `response_format` are ignored.

A moderation flags nothing. A rerank orders documents by the share of the query's words that they have.

Responses are answered whole, streamed and in the background, kept and read again, from an object store that all
processes share. One in the background is done `metadata.delay_ms` after it was asked for. Objects are a few bounded
values by name. In a gateway they are in Redis, where each is forgotten after `KEPT_S`: the local provider is for trying
things out. Without one they are in this process's memory.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final, Protocol

import msgspec

from gateway.upstream.local.generator import Body, Call, Choice, Fields, Generator, RequestError, question_of, text_of

CHOICES_MAX: Final = 128
BEST_OF_MAX: Final = 20
INPUTS_MAX: Final = 2_048
PROMPTS_MAX: Final = 128
DIMENSIONS_MAX: Final = 3_072
DIMENSIONS_DEFAULT: Final = 1_536
COMPLETION_MAX_TOKENS_DEFAULT: Final = 16
CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
DOCUMENTS_MAX: Final = 10_000
DOCUMENTS_PER_SEARCH: Final = 100
MODERATION_DEFAULT: Final = "omni-moderation-latest"
DONE: Final = b"data: [DONE]\n\n"
_WORD: Final = re.compile(r"\w+")
_SCORE: Final = 1e-6
_json = msgspec.json.encode


def error_answer(refused: RequestError) -> bytes:
    """Return the error envelope of a refused request."""
    error = {"message": str(refused), "type": "invalid_request_error", "param": refused.param, "code": refused.code}
    return _json({"error": error})


class LocalOpenAI:
    """Answers requests to OpenAI's paths."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._endpoints = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
            "/v1/moderations": _moderate,
            "/v1/rerank": _rerank,
        }

    async def answer(self, call: Call) -> Body:
        """Return an answer. Raises `RequestError`."""
        endpoint = self._endpoints.get(call.path)
        if endpoint is None:
            raise RequestError(f"Invalid URL ({call.method} {call.path})", status=404)
        call.check_method("POST")
        fields = Fields(call.body)
        return await endpoint(call.paced_by(fields), fields)

    async def _chat(self, call: Call, fields: Fields) -> Body:
        messages = fields.messages()
        old, new = fields.integer("max_tokens", 1), fields.integer("max_completion_tokens", 1)
        if old is not None and new is not None:
            raise RequestError(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
                param="max_tokens",
                code="invalid_parameter_combination",
            )
        count = fields.integer("n", 1, CHOICES_MAX) or 1
        asked = _Asked(fields)
        choices = await self._generator.choices(
            asked.model,
            messages,
            question_of(messages),
            count=count,
            most=old if new is None else new,
            stop=asked.stop,
        )
        prompt_tokens = await self._generator.count_chat(messages, asked.model)
        envelope = {
            "id": f"chatcmpl-{call.answer_id}",
            "object": "chat.completion.chunk" if asked.stream else "chat.completion",
            "created": int(call.now_s),
            "model": asked.model,
            "service_tier": asked.service_tier,
            "system_fingerprint": "fp_local",
        }
        usage = _usage(prompt_tokens, choices)
        if asked.stream:
            pieces = [_chat_pieces(index, choice) for index, choice in enumerate(choices)]
            return Body(_events(envelope, pieces, usage if asked.include_usage else None), call.pace, stream=True)
        made: Any = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        return Body.whole({**envelope, "choices": made, "usage": usage}, call.pace)

    async def _complete(self, call: Call, fields: Fields) -> Body:
        most = fields.integer("max_tokens", 1) or COMPLETION_MAX_TOKENS_DEFAULT
        count = fields.integer("n", 1, CHOICES_MAX) or 1
        best_of = fields.integer("best_of", 1, BEST_OF_MAX) or count
        if best_of < count:
            raise RequestError(
                "You requested that the server return more choices than it will generate (HINT: you must set 'best_of'"
                f" to be at least the value of 'n', 'n' defaults to 1 but was {count}).",
                param="best_of",
            )
        if best_of > count and fields.flag("stream"):
            raise RequestError("Cannot stream results with 'best_of' greater than 'n'.", param="best_of")
        asked = _Asked(fields)
        choices: list[Choice] = []
        made: list[Choice] = []
        prompt_tokens = 0
        for prompt in fields.texts("prompt", PROMPTS_MAX):
            prompt_tokens += await self._generator.count(prompt, asked.model)
            question = prompt if isinstance(prompt, str) else ""
            candidates = await self._generator.choices(
                asked.model, prompt, question, count=best_of, most=most, stop=asked.stop
            )
            made += candidates
            choices += candidates[:count]
        envelope = {
            "id": f"cmpl-{call.answer_id}",
            "object": "text_completion",
            "created": int(call.now_s),
            "model": asked.model,
        }
        usage = _usage(prompt_tokens, made)
        if asked.stream:
            pieces = [_text_pieces(index, choice) for index, choice in enumerate(choices)]
            return Body(_events(envelope, pieces, usage if asked.include_usage else None), call.pace, stream=True)
        texts = [_text(choice.text, index, choice.finish_reason) for index, choice in enumerate(choices)]
        return Body.whole({**envelope, "choices": texts, "usage": usage}, call.pace)

    async def _embed(self, call: Call, fields: Fields) -> Body:
        model, inputs = fields.model(), fields.texts("input", INPUTS_MAX)
        if not all(inputs):
            raise RequestError("Invalid 'input': input cannot be an empty string.", param="input", code="empty_string")
        dimensions = fields.integer("dimensions", 1, DIMENSIONS_MAX) or DIMENSIONS_DEFAULT
        packed = fields.one_of("encoding_format", ("float", "base64")) == "base64"
        items, tokens = [], 0
        for index, text in enumerate(inputs):
            tokens += await self._generator.count(text, model)
            vector = await self._generator.vector(text, dimensions, index)
            # msgspec writes bytes as base64; raw values take less memory than lists of numbers
            made = _little_endian(vector) if packed else [round(value, 9) for value in vector]
            items.append(msgspec.Raw(_json({"object": "embedding", "index": index, "embedding": made})))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": items, "model": model, "usage": usage}
        return Body.whole(answer, call.pace)


class _Asked:
    """What chat and text completions have in common."""

    def __init__(self, fields: Fields) -> None:
        self.stream = fields.flag("stream")
        tier = fields.one_of("service_tier", ("auto", "default", "flex", "priority"))
        self.service_tier = "default" if tier == "auto" else tier
        self.model = fields.model()
        self.stop = fields.stop()
        self.include_usage = fields.include_usage(self.stream)


async def _moderate(call: Call, fields: Fields) -> Body:
    """Return a `moderation` of each input; the parts of one message are one. Raises `RequestError`."""
    given = fields.required("input")
    if isinstance(given, list) and all(isinstance(each, dict) for each in given):
        count = 1
    else:
        count = len(fields.texts("input", INPUTS_MAX))
    result = {
        "flagged": False,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, _SCORE),
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
    model = fields.get("model") or MODERATION_DEFAULT
    answer = {"id": f"modr-{call.answer_id}", "model": model, "results": [result] * count}
    return Body.whole(answer, call.pace)


async def _rerank(call: Call, fields: Fields) -> Body:
    """Return the documents' places in order, as Cohere's v2 does, and the searches billed. Raises `RequestError`."""
    fields.model()
    query, documents = fields.required("query"), fields.required("documents")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise RequestError("A rerank takes a 'query', which is a text, and 'documents', an array.", param="documents")
    if len(documents) > DOCUMENTS_MAX:
        raise RequestError(f"A rerank takes at most {DOCUMENTS_MAX} documents.", param="documents")
    words = set(_words(query))
    scores = [round(len(words & set(_words(each))) / max(1, len(words)), 6) for each in documents]
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    most = fields.integer("top_n", 1) or fields.integer("top_k", 1) or len(order)
    searches = -(-len(documents) // DOCUMENTS_PER_SEARCH)
    answer = {
        "id": f"rerank-{call.answer_id}",
        "results": [{"index": index, "relevance_score": scores[index]} for index in order[:most]],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": searches}},
    }
    return Body.whole(answer, call.pace)


def _words(document: object) -> list[str]:
    text = document if isinstance(document, str) else _json(document).decode()
    return _WORD.findall(text.casefold())


def _usage(prompt_tokens: int, choices: Sequence[Choice]) -> dict[str, object]:
    """Return the usage of a chat or text completion; nothing here is cached, heard or reasoned."""
    completion_tokens = sum(choice.tokens for choice in choices)
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


def _chat_pieces(index: int, choice: Choice) -> Iterator[dict[str, object]]:
    """Yield a choice's role, its words and its end."""

    def piece(delta: Mapping[str, object], finish_reason: str | None = None) -> dict[str, object]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    yield piece({"role": "assistant", "content": "", "refusal": None})
    for text in choice.pieces():
        yield piece({"content": text})
    yield piece({}, choice.finish_reason)


def _text_pieces(index: int, choice: Choice) -> Iterator[dict[str, object]]:
    for text in choice.pieces():
        yield _text(text, index, None)
    yield _text("", index, choice.finish_reason)


def _text(text: str, index: int, finish_reason: str | None) -> dict[str, object]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def _events(
    envelope: Mapping[str, object], choices: list[Iterator[dict[str, object]]], usage: Mapping[str, object] | None
) -> Iterator[bytes]:
    """Yield the events of a stream, a piece of each choice in turn; `usage` is None where nobody asked for it."""

    def event(made: list[Any], counted: Mapping[str, object] | None) -> bytes:
        fields = {**envelope, "choices": made, **({} if usage is None else {"usage": counted})}
        return b"data: %b\n\n" % _json(fields)

    for pieces in zip_longest(*choices):
        yield from (event([piece], None) for piece in pieces if piece is not None)
    if usage is not None:
        yield event([], usage)
    yield DONE


def _little_endian(vector: array[float]) -> bytes:
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return vector.tobytes()


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
_RESPONSE_ID: Final = re.compile(r"resp_\w{1,64}", re.ASCII)


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
            return Body(_response_events({**warmed, "output": []}, None), pace, stream=True)
        question = text_of(last.get("content") if isinstance(last := _last(given), dict) else last)
        (choice,) = await self._generator.choices(model, brought, question, most=most)
        if call.path.endswith("compact"):
            item = {"id": f"cmp_{call.answer_id}", "type": "compaction", "encrypted_content": choice.text}
            usage = _response_usage(tokens, choice.tokens)
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
            return Body(_response_events(final, choice), pace, stream=True)
        if background:
            return Body.whole({**final, "status": "queued", "output": [], "usage": None}, replace(pace, delay_ms=0))
        return Body.whole(final, pace)

    async def _found(self, name: object) -> _Kept | None:
        """Return a response that is kept under this id."""
        if not isinstance(name, str) or _RESPONSE_ID.fullmatch(name) is None:
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


def _response_usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
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
        "usage": _response_usage(input_tokens, choice.tokens),
        "metadata": fields.get("metadata") or {},
    }


def _response_events(final: dict[str, Any], choice: Choice | None) -> Iterator[bytes]:
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
