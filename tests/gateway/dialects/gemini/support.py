"""Gemini's requests and answers, as its pages show them."""

import json
from typing import Any

from gateway.dialects.base import Match
from gateway.dialects.declarations import Endpoint
from gateway.dialects.facts import ParsedRequest
from gateway.dialects.gemini.dialect import GeminiDialect

DIALECT = GeminiDialect()
MODEL = "gemini-2.5-flash"
ASKED = {"contents": [{"role": "user", "parts": [{"text": "Say something."}]}]}


class Head:
    """A request's head."""

    def __init__(self, method: str = "generateContent", model: str = MODEL, query: str = "") -> None:
        endpoint = next(each for each in DIALECT.endpoints if each.operation == f"v1beta:{method}")
        self.match = Match(DIALECT, endpoint, {"model": model})
        self.path = endpoint.path.replace("{model}", model) + query
        self.headers: dict[str, str] = {}

    @property
    def endpoint(self) -> Endpoint:
        return self.match.endpoint


def parsed(body: object, method: str = "generateContent", **head: str) -> ParsedRequest:
    """What a body asks for; the body is encoded unless it is bytes."""
    return DIALECT.parse(Head(method, **head), body_of(body))


def body_of(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def asked(**fields: Any) -> dict[str, Any]:
    """A usual request with further fields."""
    return {**ASKED, **fields}


def with_part(**part: Any) -> dict[str, Any]:
    """A request whose content has one more part."""
    return {"contents": [{"role": "user", "parts": [{"text": "Look."}, part]}]}


def candidate(text: str | None = "Good day.", finish: str | None = "STOP", index: int = 0, **fields: Any) -> Any:
    content = {"content": {"parts": [{"text": text}], "role": "model"}} if text is not None else {}
    return {**content, **({"finishReason": finish} if finish else {}), "index": index, **fields}


def counts(prompt: int = 10, written: int = 5, **fields: Any) -> dict[str, Any]:
    """A `usageMetadata` as Google writes it, which leaves zeroes out."""
    metadata = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": written,
        "totalTokenCount": prompt + written,
        **fields,
    }
    return {name: value for name, value in metadata.items() if value != 0}


def answer(*candidates: Any, usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A whole answer; with no usage where `usage` is empty."""
    reported = counts() if usage is None else usage
    made = {"candidates": list(candidates) or [candidate()], "modelVersion": MODEL, "responseId": "r1"}
    return {**made, **({"usageMetadata": reported} if reported else {}), **fields}


def piece(*candidates: Any, usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"candidates": list(candidates), **({"usageMetadata": usage} if usage else {}), **fields}


FIRST = piece(candidate('Good "day" }]', None), usage=counts(10, 0))
SECOND = piece(candidate(", friend. \\", None), usage=counts(10, 4))
LAST = piece(candidate("", "STOP"), usage=counts(10, 7, thoughtsTokenCount=3, totalTokenCount=20))
PIECES = [FIRST, SECOND, LAST]


def events(*pieces: Any, end: str = "\r\n\r\n") -> bytes:
    return "".join(f"data: {json.dumps(each)}{end}" for each in pieces).encode()


def array(*pieces: Any, indent: int | None = 2) -> bytes:
    return b"[" + b"\n,\r\n".join(json.dumps(each, indent=indent).encode() for each in pieces) + b"\n]\n"
