"""How the local provider answers in OpenAI's format: chats, completions, embeddings, moderations; and Cohere's reranks.

Shapes are those of the API reference: chat.completion, chat.completion.chunk, text_completion, list of embeddings. With
`stream_options.include_usage` each chunk has `"usage":null`, and one more at the end has the usage and no choices;
without it no chunk has a `usage` at all. Tools, `logprobs`, `echo`, `suffix` and `response_format` are ignored.

A moderation flags nothing. A rerank orders documents by the share of the query's words that they have.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

import msgspec

from gateway.upstream.local.generator import Choice, Generator, question_of
from gateway.upstream.local.request import Body, Call, Fields, RequestError

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
