"""A service API that answers as a test has it, on loopback."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from metergate import Client, Retries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
QUICK = Retries(attempts=4, total_s=20.0, first_wait_s=0.001, longest_wait_s=0.002)


def refused(status: int, code: str, **headers: str) -> Answer:
    """The envelope of an error."""
    return status, {"error": {"message": f"It is {code}.", "type": "x", "param": None, "code": code}}, headers


def debit(event: dict[str, Any]) -> dict[str, Any]:
    """What an event is answered with that was charged."""
    return {"id": "d", "event_id": event["event_id"], "account_id": event["account_id"], "charged_usd": "1.00",
            "charged_credits": "1000", "feature": "service", "meter": None, "price_id": None,
            "created_at": "2026-01-01T00:00:00Z"}  # fmt: skip


class Scripted:
    """Answers each call with `answer(path, body)`; None breaks the connection. `calls` are what came."""

    def __init__(self, answer: Callable[[str, Any], Answer | None]) -> None:
        self.answer = answer
        self.calls: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gate: Callable[[], Awaitable[None]] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        path = request.path.removeprefix("/api/service/")
        self.calls.append((path, body))
        self.headers.append(dict(request.headers))
        if self.gate is not None:
            await self.gate()
        answered = self.answer(path, body)
        if answered is None:
            request.transport.abort()
            return web.Response()
        status, content, *more = answered
        text = content if isinstance(content, str) else json.dumps(content)
        return web.Response(status=status, text=text, headers=more[0] if more else {}, content_type="application/json")


@asynccontextmanager
async def scripted(answer: Callable[[str, Any], Answer | None]) -> AsyncIterator[tuple[Scripted, str]]:
    """A server, and its URL."""
    server = Scripted(answer)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def service(url: str, **options: Any) -> Client:
    """A client of a service called aura."""
    settings = {"service_key": "the-service-key-of-mine", "service_name": "aura", "retries": QUICK, **options}
    return Client(url, **settings)
