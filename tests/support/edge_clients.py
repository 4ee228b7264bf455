"""A client's connection to an edge, read strictly; requests as bytes; and waiting for a state."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

# No test waits longer for a state.
BOUND_S = 60.0
# Nor for one answer.
PATIENCE_S = 30.0
METERED = "/v1/metered"
ENCODED = "/v1/meter%65d"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state."""
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as a client sees it; `interim` are the statuses before it."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: tuple[int, ...] = ()
    version: str = "HTTP/1.1"

    @property
    def last(self) -> bool:
        """Whether the connection ends with it."""
        header = self.headers.get("connection")
        return header != "keep-alive" if self.version == "HTTP/1.0" else header == "close"


class Cut(Exception):
    """The connection ended within an answer."""


class Client:
    """A client's connection. It reads strictly: what is no well-framed answer is a failure of the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def send_slowly(self, data: bytes, size: int) -> None:
        """In pieces of so many bytes, each a segment of its own."""
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await asyncio.sleep(0)

    async def answer(self) -> Seen:
        """The next answer. Raises `Cut`."""
        interim: list[int] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    version, status, headers = await self._head()
                    if status >= 200:
                        break
                    interim.append(status)
                return Seen(status, headers, await self._body(headers), tuple(interim), version)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut from error

    async def _head(self) -> tuple[str, int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        version, status = lines[0].split(" ")[:2]
        assert version in ("HTTP/1.1", "HTTP/1.0")
        pairs = [line.split(": ", 1) for line in lines[1:]]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "a header came twice"
        return version, int(status), headers

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            assert "transfer-encoding" not in headers
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            assert headers["connection"] == "close"
            return await self.reader.read()
        parts = []
        while size := int(await self._line(), 16):
            parts.append(await self.reader.readexactly(size))
            assert await self._line() == b""
        assert await self._line() == b""
        return b"".join(parts)

    async def _line(self) -> bytes:
        return (await self.reader.readuntil(b"\r\n"))[:-2]

    async def closed(self) -> None:
        """The server closes, and has nothing more to say."""
        assert await self.rest() == b""

    async def rest(self) -> bytes:
        """Whatever comes until the server closes or resets."""
        taken = b""
        with suppress(ConnectionError):
            while part := await self.reader.read(65_536):
                taken += part
        return taken

    async def leave(self, *, reset: bool = False) -> None:
        """Close; with `reset` without an orderly end."""
        if reset:
            own = self.writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def post(body: bytes = b"body", *lines: str, path: str = METERED, version: str = "1.1", host: str = "here") -> bytes:
    """A request with a length; `lines` are further headers."""
    head = [f"POST {path} HTTP/{version}", f"Host: {host}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes, lines: tuple[str, ...] = (), path: str = METERED, end: bytes = b"0\r\n\r\n") -> bytes:
    """A request in chunks."""
    head = [f"POST {path} HTTP/1.1", "Host: here", "Transfer-Encoding: chunked", *lines]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body + end


def get(path: str = "/plain", *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: here", *lines]).encode() + b"\r\n\r\n"
