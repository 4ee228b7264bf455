"""A client of Responses over a WebSocket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.gateway.conftest import Customer

PATH = "/v1/responses"
CREATE = {"type": "response.create", "model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 200}


@asynccontextmanager
async def connected(customer: Customer) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {customer.key}"}
    async with customer.gateway.session.ws_connect(customer.gateway.url + PATH, headers=headers) as socket:
        yield socket


async def answer(socket: aiohttp.ClientWebSocketResponse, **fields: Any) -> list[dict[str, Any]]:
    """Send a message and read its answer to the end."""
    await socket.send_str(json.dumps({**CREATE, **fields}))
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in ("response.completed", "response.incomplete", "error"):
        events.append(json.loads(await socket.receive_str(timeout=60)))
    return events
