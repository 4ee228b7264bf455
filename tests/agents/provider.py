"""A provider that plays a script, in each API that agents speak: what aimock lacks.

Its usage is what a real one would count: the tokens of all that a model reads, most of them cached where a conversation
goes on, and thoughts. It keeps every request with what it has reported for it.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from gateway.tokens import O200K, Tokenizer
from tests.agents.apis import Body, Chat, Gemini, Messages, Responses, Used, texts, thoughts
from tests.agents.scripts import THOUGHT_TOKENS, Reply, Script
from tests.gateway.conftest import run

# By a part of the path.
APIS = {
    "/chat/completions": Chat(),
    "/responses": Responses(),
    "/messages": Messages(),
    "enerateContent": Gemini(),
}
CACHED_BLOCK = 128
LEAST_CACHED = 1024
MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Exchange:
    """A request as the provider got it, and what it said and reported; no usage where that is free."""

    path: str
    headers: Mapping[str, str]
    body: Body
    model: str
    reply: Reply | None = None
    used: Used | None = None


@dataclass
class Provider:
    """What it plays, and what it was asked so far. `arrived` is awaited before each answer."""

    script: Script
    url: str = ""
    arrived: Callable[[], Awaitable[None]] | None = None
    caches: bool = False
    """Whether most of what a conversation repeats is reported as cached."""
    exchanges: list[Exchange] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Requests that are not for a model, by method and path."""
    _tokenizer: Tokenizer = field(default_factory=Tokenizer)
    _read: dict[str, int] = field(default_factory=dict)
    """How much of each conversation was read before, by its beginning."""

    @property
    def metered(self) -> list[Exchange]:
        """Requests that it has reported usage for."""
        return [each for each in self.exchanges if each.used is not None]

    def count(self, api: Any, body: Body, reply: Reply) -> Used:
        """Return what a request and its answer use."""
        read = [body.get(name) for name in api.read_by_model]
        whole = sum(self._tokenizer.count(text, O200K) for text in texts(read)) + thoughts(read)
        beginning = json.dumps(read)[:LEAST_CACHED]
        before = self._read.get(beginning, 0) // CACHED_BLOCK * CACHED_BLOCK
        self._read[beginning] = whole
        thought = THOUGHT_TOKENS if _thinks(api, body) else 0
        call = reply.call
        said = reply.text + ("" if call is None else call.text or json.dumps(dict(call.arguments)))
        return Used(
            input_tokens=whole,
            output_tokens=self._tokenizer.count(said, O200K) + 8 + thought,
            cached_tokens=min(before, whole) if self.caches and before >= LEAST_CACHED else 0,
            thought_tokens=thought,
        )

    async def answer(self, api: Any, request: web.Request, body: Body) -> tuple[Reply, Used]:
        """Return what is said to a body, which is kept."""
        reply = self.script.reply(api.asked(body))
        used = self.count(api, body, reply)
        model = body.get("model") or request.path.rpartition("/")[2].partition(":")[0]
        self.exchanges.append(Exchange(request.path, dict(request.headers), body, model, reply, used))
        if self.arrived is not None:
            await self.arrived()
        return reply, used

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        api = next((api for part, api in APIS.items() if part in request.path), None)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        if api is None or request.method != "POST" or request.path.endswith("/count_tokens"):
            return await self._serve_other(request)
        body = await request.json()
        reply, used = await self.answer(api, request, body)
        if not (body.get("stream") or ":stream" in request.path):
            return web.json_response(api.whole(body, reply, used))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in api.events(body, reply, used):
            await response.write(event)
        await response.write_eof()
        return response

    async def _serve_other(self, request: web.Request) -> web.StreamResponse:
        self.others.append(f"{request.method} {request.path}")
        if request.path.endswith(("/count_tokens", ":countTokens")):
            counted = sum(self._tokenizer.count(text, O200K) for text in texts(await request.json()))
            return web.json_response({"input_tokens": counted, "totalTokens": counted})
        return web.json_response({"error": {"message": "Not found.", "type": "invalid_request_error"}}, status=404)

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        """Serve responses one after the other. What continues one is added to what that one had read and said."""
        socket, api = web.WebSocketResponse(max_msg_size=MOST_BYTES), Responses()
        await socket.prepare(request)
        known: dict[str, list[Any]] = {}
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            body = {name: value for name, value in json.loads(message.data).items() if name != "type"}
            whole = {**body, "input": known.get(body.get("previous_response_id", ""), []) + body["input"]}
            if body.get("generate") is False:
                self.exchanges.append(Exchange(request.path, dict(request.headers), whole, body["model"]))
                events = list(api.warmed(body))
            else:
                reply, used = await self.answer(api, request, whole)
                events = list(api.said(body, reply, used))
            done = events[-1]["response"]
            known[done["id"]] = whole["input"] + done["output"]
            for event in events:
                await socket.send_str(json.dumps(event))
        return socket


def _thinks(api: Any, body: Body) -> bool:
    """Return whether the model thinks, which shows in what it sends back."""
    if isinstance(api, Messages):
        return (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    return isinstance(api, Responses | Gemini)


@asynccontextmanager
async def playing(script: Script, *, caches: bool = False) -> AsyncIterator[Provider]:
    """Serve a script on a free port; `url` has no path."""
    provider = Provider(script, caches=caches)
    app = web.Application(client_max_size=MOST_BYTES)
    app.router.add_route("*", "/{path:.*}", provider.serve)
    try:
        async with run(web.AppRunner(app, access_log=None, shutdown_timeout=1.0)) as url:
            provider.url = url
            yield provider
    finally:
        provider._tokenizer.close()
