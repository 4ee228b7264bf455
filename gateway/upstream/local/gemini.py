"""How the local provider answers in Gemini's format: candidates, their pieces in a stream, embeddings, counts, errors.

Shapes are those of https://ai.google.dev/api/generate-content and .../embeddings. What a request has beside contents,
`systemInstruction`, `maxOutputTokens`, `candidateCount`, `stopSequences` and `outputDimensionality` is ignored: every
answer is plain text. Both spellings of a name are read, as Google's servers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote

import msgspec

from gateway.upstream.local.generator import Body, Call, RequestError

if TYPE_CHECKING:
    from gateway.upstream.local.generator import Choice, Generator

PATH: Final = re.compile(r"/v\w+/models/.+:\w+")
DIMENSIONS: Final = 768
DIMENSIONS_MAX: Final = 3_072
CANDIDATES_MAX: Final = 128
_FINISHES: Final = {"stop": "STOP", "length": "MAX_TOKENS"}
_STATUS: Final = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 405: "UNIMPLEMENTED"}

_json = msgspec.json.encode


def error_answer(refused: RequestError) -> bytes:
    """Return the error envelope of a refused request."""
    status = _STATUS.get(refused.status, "INVALID_ARGUMENT")
    return _json({"error": {"code": refused.status, "message": str(refused), "status": status}})


class LocalGemini:
    """Answers requests to Gemini's paths."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def answer(self, call: Call) -> Body:
        """Return an answer. Raises `RequestError`."""
        before, _, method = call.path.rpartition(":")
        model = unquote(before.partition("/models/")[2])
        try:
            fields = msgspec.json.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise RequestError("Invalid JSON payload received.")
        if method == "countTokens":
            tokens = await self._count(_texts(_get(fields, "generateContentRequest") or fields), model)
            return Body.whole({"totalTokens": tokens, "promptTokensDetails": _details(tokens)}, call.pace)
        if method in ("embedContent", "batchEmbedContents"):
            return Body.whole(await self._embedded(fields, model, method == "embedContent"), call.pace)
        if method not in ("generateContent", "streamGenerateContent"):
            raise RequestError(f"{method} is not supported here.", status=404)
        prompt_tokens = await self._count(_texts(fields), model)
        candidates = await self._candidates(fields, model)
        envelope = {"modelVersion": model, "responseId": call.answer_id}
        usage = _usage(prompt_tokens, sum(each.tokens for each in candidates))
        if method == "generateContent":
            made = [
                _candidate(each.text, index, _FINISHES[each.finish_reason]) for index, each in enumerate(candidates)
            ]
            return Body.whole({"candidates": made, "usageMetadata": usage, **envelope}, call.pace)
        pieces = _pieces(candidates, _usage(prompt_tokens, 0), usage, envelope)
        as_events = parse_qs(call.query).get("alt") == ["sse"]
        return Body(_events(pieces) if as_events else _array(pieces), call.pace, as_events)

    async def _candidates(self, fields: Mapping[str, Any], model: str) -> Sequence[Choice]:
        config = _get(fields, "generationConfig") or {}
        most, count = _get(config, "maxOutputTokens"), _get(config, "candidateCount") or 1
        if count > CANDIDATES_MAX:
            raise RequestError(f"The number of candidates is at most {CANDIDATES_MAX}.")
        stops = tuple(stop for stop in _get(config, "stopSequences") or () if stop)
        contents = _list(fields.get("contents"))
        question = "\n".join(_texts({"contents": contents[-1:]}))
        return await self._generator.choices(model, contents, question, count=count, most=most, stop=stops)

    async def _embedded(self, fields: Mapping[str, Any], model: str, single: bool) -> dict[str, object]:
        made, tokens = [], 0
        for index, request in enumerate([fields] if single else _list(fields.get("requests"))):
            dimensions = _get(request, "outputDimensionality") or DIMENSIONS
            if not 1 <= dimensions <= DIMENSIONS_MAX:
                raise RequestError(f"The dimensionality is from 1 to {DIMENSIONS_MAX}.")
            tokens += await self._count(_texts(request), model)
            made.append({"values": list(await self._generator.vector(request.get("content"), dimensions, index))})
        usage = {"promptTokenCount": tokens, "promptTokenDetails": _details(tokens)}
        return {**({"embedding": made[0]} if single else {"embeddings": made}), "usageMetadata": usage}

    async def _count(self, texts: Sequence[str], model: str) -> int:
        return max(1, await self._generator.count("\n".join(texts), model))


def _get(fields: Mapping[str, Any], name: str) -> Any:
    value = fields.get(name)
    return fields.get(re.sub(r"([A-Z])", r"_\1", name).lower()) if value is None else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _texts(fields: Mapping[str, Any]) -> list[str]:
    """Return the texts of all contents that a request has."""
    contents = [
        *_list(_get(fields, "systemInstruction")),
        *_list(fields.get("contents")),
        *_list(fields.get("content")),
    ]
    parts = [part for content in contents if isinstance(content, dict) for part in _list(content.get("parts"))]
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _details(tokens: int) -> list[dict[str, object]]:
    return [{"modality": "TEXT", "tokenCount": tokens}]


def _usage(prompt_tokens: int, written: int) -> dict[str, object]:
    counted = {"candidatesTokenCount": written} if written else {}  # Google leaves out zeros
    total = {"totalTokenCount": prompt_tokens + written, "promptTokensDetails": _details(prompt_tokens)}
    return {"promptTokenCount": prompt_tokens, **counted, **total}


def _candidate(text: str, index: int, finish: str | None) -> dict[str, object]:
    finished = {"finishReason": finish} if finish is not None else {}
    return {"content": {"parts": [{"text": text}], "role": "model"}, **finished, "index": index}


def _pieces(
    candidates: Sequence[Choice],
    begun: Mapping[str, object],
    usage: Mapping[str, object],
    envelope: Mapping[str, object],
) -> Iterator[bytes]:
    """Yield the objects of a stream: word by word, each candidate's end in one of its own."""
    for index, choice in enumerate(candidates):
        for text in choice.pieces():
            yield _json({"candidates": [_candidate(text, index, None)], "usageMetadata": begun, **envelope})
        counted = usage if index == len(candidates) - 1 else begun
        ended = _candidate("", index, _FINISHES[choice.finish_reason])
        yield _json({"candidates": [ended], "usageMetadata": counted, **envelope})


def _events(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"data: " + piece + b"\r\n\r\n"


def _array(pieces: Iterator[bytes]) -> Iterator[bytes]:
    before = b"["
    for piece in pieces:
        yield before + piece
        before = b",\r\n"
    yield b"]"
