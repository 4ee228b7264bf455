"""A relay on bare TCP between a library and the gateway: counts requests, keeps answers, changes no byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass
class Seen:
    """An answer of the gateway, as far as it came."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a refusal."""
        return dict(json.loads(self.body)["error"])

    @property
    def code(self) -> str:
        """The code of a refusal, where each API has its own; what kind of error it is where it has none."""
        details = self.error.get("details")
        if isinstance(details, list):
            return str(details[0]["metadata"]["code"])
        return str(self.error.get("status") or self.error.get("code") or self.error["type"])

    @property
    def retry_after_s(self) -> int | None:
        header = self.headers.get("retry-after")
        return None if header is None else int(header)


@dataclass
class Relay:
    """What went by: how many whole requests, and their answers."""

    url: str = ""
    requests: int = 0
    answers: list[Seen] = field(default_factory=list)


class _Requests:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def on_message_complete(self) -> None:
        self._relay.requests += 1


class _Answers:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._headers: dict[str, str] = {}
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._relay.answers.append(Seen(self.parser.get_status_code(), self._headers))

    def on_body(self, body: bytes) -> None:
        self._relay.answers[-1].body += body


@asynccontextmanager
async def relaying(gateway_url: str) -> AsyncIterator[Relay]:
    """Stand before a gateway."""
    at = urlsplit(gateway_url)
    relay = Relay()

    async def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        gateway, to_gateway = await asyncio.open_connection(at.hostname, at.port)
        requests = httptools.HttpRequestParser(_Requests(relay))
        await asyncio.gather(
            _pump(client, to_gateway, requests.feed_data),
            _pump(gateway, to_client, _Answers(relay).parser.feed_data),
        )

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield relay
    finally:
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Any) -> None:
    """Carry bytes one way; an end is carried as an end, a broken connection as a broken one."""
    try:
        while piece := await reader.read(1 << 16):
            look(piece)
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        writer.transport.abort()
        return
    with suppress(OSError):
        writer.close()
