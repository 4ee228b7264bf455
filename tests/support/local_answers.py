"""Requests to the local provider, and what it answers."""

import json
from typing import Any

from gateway.upstream.base import UpstreamRequest
from gateway.upstream.local.provider import LocalTransport

LIMIT_BYTES = 100_000_000


def request(path: str, body: object, method: str = "POST") -> UpstreamRequest:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return UpstreamRequest(f"local://local{path}", b"", encoded, method)


async def ask(local: LocalTransport, path: str, /, method: str = "POST", **body: Any) -> tuple[int, Any]:
    """The status and the decoded JSON."""
    answer = await local.send(request(path, body, method))
    try:
        return answer.status, json.loads(await answer.read(LIMIT_BYTES))
    finally:
        answer.release()


def content(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
