"""An exporter of the tests' own: it pages, repeats, is late, lies about `has_more`, is silent, or answers garbage."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

TOKEN = "token-of-the-exporter"


@dataclass
class Exporter:
    """It has `snapshots`, in the order in which they come, and gives `per_page` of them at once. `lie` changes a page
    before it is sent: by what is asked and the page; where it gives bytes or a response, these are sent, and None is no
    answer."""

    node: str = "n1"
    env: str = "prod"
    per_page: int = 2
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    lie: Callable[[dict[str, str], dict[str, Any]], Any] = lambda asked, page: page
    asked: list[dict[str, str]] = field(default_factory=list)
    names_cursors: bool = True
    url: str = ""
    never: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, at: datetime, *samples: tuple[str, int, int], node: str | None = None, tag: str = "vless") -> None:
        """Add a snapshot with samples of uuid, uplink and downlink."""
        shown = [
            {
                "uuid": uuid,
                "email": f"{uuid}@example.com",
                "inbound_tag": tag,
                "uplink_bytes_total": up,
                "downlink_bytes_total": down,
            }
            for uuid, up, down in samples
        ]
        page = {"collected_at": at.isoformat(), "node_id": node or self.node, "env": self.env, "samples": shown}
        self.snapshots.append(page)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request for a window."""
        asked = dict(request.query)
        self.asked.append(asked)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        since, until = (datetime.fromisoformat(asked[name]) for name in ("since", "until"))
        within = [each for each in self.snapshots if since <= datetime.fromisoformat(each["collected_at"]) <= until]
        first = int(asked.get("cursor", "0"))
        last = first + self.per_page
        more = last < len(within)
        page: Any = {"node_id": self.node, "env": self.env, "snapshots": within[first:last], "has_more": more}
        if more and self.names_cursors:
            page["next_cursor"] = str(last)
        page = self.lie(asked, page)
        if page is None:
            await self.never.wait()
            return web.Response()
        if isinstance(page, web.Response):
            return page
        return web.Response(body=page) if isinstance(page, bytes) else web.json_response(page)


@asynccontextmanager
async def exporting(*exporters: Exporter) -> AsyncIterator[None]:
    """Serve exporters, each at a URL of its own."""
    servers = []
    for exporter in exporters:
        app = web.Application()
        app.router.add_get("/v1/snapshots/window", exporter.answer)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        exporter.url = str(server.make_url("")).rstrip("/")
    try:
        yield
    finally:
        for exporter in exporters:
            exporter.never.set()
        for server in servers:
            await server.close()
