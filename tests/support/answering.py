"""Providers that behave as they are told: what they answer, whole or streamed, and when."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from tests.gateway.conftest import Handler

# No test waits longer for a state.
BOUND_S = 60.0
PROVIDER_KEY = "sk-upstream"
SSE = {"Content-Type": "text/event-stream; charset=utf-8"}
Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the provider got it."""

    path: str
    query: str
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass
class Provider:
    """A provider of the test's own: keeps what it is sent and answers by `reply`, which a test may change."""

    reply: Handler
    sent: list[Sent] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.sent.append(Sent(request.path, request.query_string, request.headers, await request.read()))
        return await self.reply(request)


def usage(prompt: int = 10, completion: int = 5, **details: Any) -> dict[str, Any]:
    """A usage object as OpenAI writes it."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **details,
    }


def answer(text: str = "Good day.", reported: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A whole chat answer; with no usage when `reported` is empty."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    counted = usage() if reported is None else reported
    made = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}
    return {**made, **({"usage": counted} if counted else {}), **fields}


def event(data: object) -> bytes:
    """One server-sent event, spelled as OpenAI spells it."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def delta(text: str | None = None, *, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    """A chunk of a chat stream."""
    choice = {"index": index, "delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    made = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return event({**made, "choices": [choice], **fields})


def usage_chunk(prompt: int = 10, completion: int = 5, **details: Any) -> bytes:
    """The chunk that is there for its usage alone."""
    made = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return event({**made, "choices": [], "usage": usage(prompt, completion, **details)})


DONE = b"data: [DONE]\n\n"
WORDS = (delta("Good"), delta(" day"), delta(", friend."), delta(finish="stop"))


def saying(content: object, status: int = 200, **headers: str) -> Handler:
    """Answers anything with this: bytes as they are, all else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=sent)

    return reply


def streaming(*pieces: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> Handler:
    """Answers with a stream of these pieces, each in a write of its own; `cut` breaks the connection at its end."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers or SSE)
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if cut:
            assert request.transport is not None
            await asyncio.sleep(0)
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    return reply


class Gate:
    """A handler that counts who came, and goes on when it is opened."""

    def __init__(self, then: Handler) -> None:
        self.opened = asyncio.Event()
        self.came = 0
        self._then = then

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.came += 1
        async with asyncio.timeout(BOUND_S * 2):
            await self.opened.wait()
        return await self._then(request)

    async def reached(self, times: int = 1) -> None:
        await until(lambda: self.came >= times)


@asynccontextmanager
async def peer(speak: Peer) -> AsyncIterator[str]:
    """A provider on bare TCP, for what no HTTP library would send; its base URL."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await speak(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def take_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with a Content-Length: its head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return head + await reader.readexactly(length)


def bytes_then_close(*pieces: bytes, reset: bool = False) -> Peer:
    """Takes one request, says these bytes and closes; or resets the connection."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    return speak


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Wait for a state, for at most `BOUND_S`."""
    async with asyncio.timeout(BOUND_S):
        while True:
            met = condition()
            if await met if isinstance(met, Awaitable) else met:
                return
            await asyncio.sleep(0.005)
