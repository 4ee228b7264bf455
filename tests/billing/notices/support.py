"""A receiver of deliveries that checks their signatures by Standard Webhooks, and answers as the test sets."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Receiver:
    """What has come: path, headers and body of each; `answers` by path, 204 where there is none."""

    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The bodies that came to a path."""
        return [json.loads(body) for at, _, body in self.came if at == path]

    def signed_by(self, place: int, secret: str) -> bool:
        """Whether the delivery at a place is signed by a secret."""
        _, headers, body = self.came[place]
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return f"v1,{wanted}" in headers["webhook-signature"].split(" ")


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a port of its own."""
    receiver = Receiver()

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        receiver.came.append((request.path, headers, await request.read()))
        status = receiver.answers.get(request.path, 204)
        return web.Response(status=status, headers={"Location": f"{receiver.url}/elsewhere"})

    app = web.Application()
    app.router.add_post("/{name}", take)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("")).rstrip("/")
        yield receiver
