"""What end-to-end tests share: providers that behave as they are told, and what must hold once a request is over.

Prices here are those of gpt-4o-mini in the shipped table, in nano-USD a token.
"""

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDictProxy

from billing.holds.redis.layout import HELD, Entry
from billing.money import parse_usd
from gateway.tokens import O200K, Tokenizer
from tests.gateway.conftest import Customer, Gateway, Handler, chat

INPUT, CACHED, OUTPUT = 150, 75, 600
BOUND_S: Final = 60.0
"""No test waits longer for a state."""
PROVIDER_KEY: Final = "sk-upstream"
SSE: Final = {"Content-Type": "text/event-stream; charset=utf-8"}
AMOUNT: Final = re.compile(r"-?\d+\.\d{2,9}")
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ULID_TEXT: Final = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")

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


def answer(text: str = "Good day.", said: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A whole chat answer; with no usage when `said` is empty."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    counted = usage() if said is None else said
    made = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}
    return {**made, **({"usage": counted} if counted else {}), **fields}


def event(said: object) -> bytes:
    """One server-sent event, spelled as OpenAI spells it."""
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def delta(text: str | None = None, *, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    """A chunk of a chat stream."""
    choice = {"index": index, "delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    made = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return event({**made, "choices": [choice], **fields})


def usage_chunk(prompt: int = 10, completion: int = 5, **details: Any) -> bytes:
    """The chunk that is there for its usage alone."""
    made = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return event({**made, "choices": [], "usage": usage(prompt, completion, **details)})


DONE: Final = b"data: [DONE]\n\n"
WORDS: Final = (delta("Good"), delta(" day"), delta(", friend."), delta(finish="stop"))


def saying(said: object, status: int = 200, **headers: str) -> Handler:
    """Answers anything with this: bytes as they are, all else as JSON."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
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


def bytes_then_close(*said: bytes, reset: bool = False) -> Peer:
    """Takes one request, says these bytes and closes; or resets the connection."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        for piece in said:
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


async def early_in_a_minute(margin_s: float = 12.0) -> None:
    """Wait out a minute's last seconds, so that what follows falls into one."""
    await until(lambda: time.time() % 60 < 60 - margin_s)


async def journal(gateway: Gateway) -> dict[str, Entry]:
    """What Redis holds of requests that are running or not yet in Postgres, by request id."""
    engine = gateway.runtime.engine
    found = {}
    for partition in engine.partitions.all:
        name = engine.keyspace.journal(partition.number).decode()
        async for request_id, raw in gateway.runtime.redis_client.scan_hash(name, 500):
            found[request_id.decode()] = Entry.unpack(raw)
    return found


async def held(gateway: Gateway) -> list[str]:
    """Request ids that have a hold."""
    return [request_id for request_id, entry in (await journal(gateway)).items() if entry.state == HELD]


async def spent_nano(customer: Customer, of_usd: str = "5.00") -> int:
    """What has gone from a balance, once nothing is held any more."""

    async def nothing_held() -> bool:
        return not customer.gateway.runtime.engine.holds.live and not await held(customer.gateway)

    await until(nothing_held)
    said = await customer.balance()
    assert said["held_usd"] == "0.00"
    return parse_usd(of_usd) - parse_usd(said["balance_usd"])


async def assert_free(customer: Customer) -> None:
    """Nothing is held, nothing was charged, and the ledger has no event."""
    assert await spent_nano(customer) == 0
    assert await customer.events() == []


async def the_event(customer: Customer, nano: int | None = None, of_usd: str = "5.00") -> dict[str, Any]:
    """The one usage event; it charged what the balance has lost, which is `nano` where given."""
    spent = await spent_nano(customer, of_usd)
    (found,) = await customer.events()
    assert parse_usd(found["charged_usd"]) == spent
    assert nano is None or spent == nano
    return found


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer read to its end; `cut` when it broke off before that."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    cut: bool = False

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


async def fetch(asking: Any) -> Fetched:
    """Send a request and read what comes back."""
    async with asyncio.timeout(BOUND_S), asking as response:
        body, cut = bytearray(), False
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientError:
            cut = True
        return Fetched(response.status, response.headers, bytes(body), cut)


async def ask(customer: Customer, body: Any = None, path: str = "/v1/chat/completions", **options: Any) -> Fetched:
    """POST a body, gpt-4o-mini's chat when none is given."""
    return await fetch(customer.post(path, chat(model="gpt-4o-mini") if body is None else body, **options))


def asking(customer: Customer, body: Any = None, **options: Any) -> "asyncio.Task[Fetched]":
    """The same, in a task of its own."""
    return asyncio.create_task(ask(customer, body, **options))


def refusal(fetched: Fetched, status: int, code: str) -> dict[str, Any]:
    """The error of a refusal in OpenAI's envelope, checked for what every one has."""
    text = fetched.body.decode()
    assert fetched.status == status, text
    assert fetched.headers["Content-Type"].startswith("application/json")
    assert ULID_TEXT.fullmatch(fetched.headers["x-request-id"])
    assert_tells_no_secret(text + str(fetched.headers))
    assert fetched.json.keys() == {"error"}
    error: dict[str, Any] = fetched.json["error"]
    assert error["code"] == code, text
    assert {"message", "type", "param", "code"} <= error.keys()
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert_plain(error)
    return error


def assert_tells_no_secret(text: str) -> None:
    """Neither a key, nor a digest, nor where it stood in the code or the stores."""
    for secret in (PROVIDER_KEY, "Traceback", "asyncpg", "redis", "Redis", "api_keys", "sha256", 'File "'):
        assert secret not in text, secret
    assert not re.search(r"mg_[0-9A-Za-z]{32}", text)
    assert not re.search(r"\b[0-9a-f]{64}\b", text)


def assert_plain(said: object) -> None:
    """Amounts are plain decimals and times RFC 3339 in UTC, wherever they stand."""
    if isinstance(said, dict):
        for name, value in said.items():
            if value is not None and name.endswith("_usd"):
                assert AMOUNT.fullmatch(value), (name, value)
            if value is not None and name.endswith("_at"):
                assert MOMENT.fullmatch(value), (name, value)
            assert_plain(value)
    elif isinstance(said, list):
        for item in said:
            assert_plain(item)
    assert not isinstance(said, float)


@dataclass
class RawAnswer:
    """What came back on a bare connection, and how the connection ended."""

    data: bytes
    reset: bool

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1]) if self.data.startswith(b"HTTP/1.") else 0

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


async def raw(gateway: Gateway, *pieces: bytes) -> RawAnswer:
    """Send bytes on a connection of their own and read the answer, to its length or to the connection's end."""
    where = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    data, reset = bytearray(), False
    try:
        async with asyncio.timeout(BOUND_S):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while not _is_whole(data) and (chunk := await reader.read(65_536)):
                    data += chunk
            except ConnectionError:
                reset = True
    finally:
        writer.close()
    return RawAnswer(bytes(data), reset)


def _is_whole(data: bytearray) -> bool:
    headers, end, body = bytes(data).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", headers)
    return bool(end) and length is not None and len(body) >= int(length[1])


def head(customer: Customer, *lines: str, path: str = "/v1/chat/completions", version: str = "1.1") -> bytes:
    """The head of a raw request."""
    given = (f"POST {path} HTTP/{version}", "Host: gateway", f"Authorization: Bearer {customer.key}", *lines)
    return "\r\n".join((*given, "", "")).encode("latin-1")


def counted(body: bytes) -> int:
    """The input that is held where the bytes do not fit: short texts by their tokens, the JSON around them by bytes."""
    said = json.loads(body)
    texts = [message["content"] for message in said.get("messages", ())]
    texts += [said["prompt"]] if "prompt" in said else []
    tokenizer = Tokenizer()
    tokenizer.load()
    try:
        gained = sum(len(json.dumps(text)) - 3 - tokenizer.count(text, O200K) for text in texts) - 3
    finally:
        tokenizer.close()
    return len(body) - max(0, gained)
