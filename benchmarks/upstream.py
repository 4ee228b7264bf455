"""A provider that costs next to nothing: one answer, or a stream of events, on keep-alive connections. The bodies are
fixed; heads differ as OpenAI's do.

    python -m benchmarks.upstream --fd N

`GET /count` answers how many of each it has begun, as JSON; what a proxy asks on its own account is not among them. It
reads no more of HTTP than the proxies send.
"""

import argparse
import asyncio
import json
import socket
from typing import Final, cast

import uvloop

from benchmarks import apis, wire

# Streams of other APIs than chats, all of which come at once.
BY_PATH: Final = {api.path.split(b"?")[0]: api.answer for api in apis.APIS}
# All of a chat's stream at once, by whether its usage is asked for.
BURSTS: Final = {asked: wire.burst(wire.USAGE_MARK if asked else b"") for asked in (False, True)}
COUNT: Final = b"GET /count "
METERED: Final = b"POST %s " % wire.PATH
POST: Final = b"POST "
STREAM: Final = b'"stream":true'
HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "


class Counts:
    """How many answers and streams were begun."""

    def __init__(self) -> None:
        self.answers = 0
        self.streams = 0


class Provider(asyncio.Protocol):
    """One connection. Requests on it come one after the other."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._missing_bytes = 0
        self._pause: asyncio.TimerHandle | None = None
        self._pause_s, self._rest_s = wire.STREAM_PAUSE_S, 0.0
        self._events: tuple[bytes, ...] = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._pause is not None:
            self._pause.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._missing_bytes:
            self._missing_bytes = max(0, self._missing_bytes - len(data))
            if self._missing_bytes:
                return
        request = bytes(self._buffer)
        head_end = request.find(HEAD_END)
        if head_end < 0:
            return
        self._missing_bytes = self._whole_bytes(request, head_end) - len(request)
        if self._missing_bytes <= 0:
            self._missing_bytes = 0
            self._buffer.clear()
            self._answer(request)

    @staticmethod
    def _whole_bytes(request: bytes, head_end: int) -> int:
        head = request[:head_end].lower()
        at = head.find(LENGTH)
        end = head.find(b"\r\n", at)
        return head_end + len(HEAD_END) + (int(head[at + len(LENGTH) : end if end >= 0 else None]) if at >= 0 else 0)

    def _answer(self, request: bytes) -> None:
        if self._transport is None:
            return
        number = self._counts.answers + self._counts.streams
        if (other := BY_PATH.get(request[len(POST) : request.find(b" ", len(POST))].split(b"?")[0])) is not None:
            self._counts.streams += 1
            self._transport.write(wire.stream_head(number) + other)
        elif STREAM in request:
            self._counts.streams += 1
            if wire.BURST_MARK in request:
                self._transport.write(wire.stream_head(number) + BURSTS[wire.USAGE_MARK in request])
                return
            self._events, self._rest_s = wire.stream_events(request), 0.0
            self._pause_s = wire.SLOW_PAUSE_S if wire.SLOW_MARK in request else wire.STREAM_PAUSE_S
            if wire.LONG_MARK in request:
                self._pause_s, self._rest_s = wire.LONG_PAUSE_S, wire.LONG_REST_S
            self._transport.write(wire.stream_head(number) + self._events[0])
            self._later(1)
        elif request.startswith(COUNT):
            body = json.dumps({"answers": self._counts.answers, "streams": self._counts.streams}).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        else:
            if request.startswith(METERED):
                self._counts.answers += 1
            self._transport.write(wire.answer(number))

    def _later(self, number: int) -> None:
        pause_s = self._rest_s if number == len(self._events) and self._rest_s else self._pause_s
        self._pause = asyncio.get_running_loop().call_later(pause_s, self._event, number)

    def _event(self, number: int) -> None:
        if self._transport is None:
            return
        if number < len(self._events):
            self._transport.write(self._events[number])
            self._later(number + 1)
        else:
            self._transport.write(wire.STREAM_LAST)


async def serve(listener: socket.socket) -> None:
    """Serve until the process is ended."""
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(lambda: Provider(counts), sock=listener)
    await server.serve_forever()


def main() -> None:
    """The process's entry."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    uvloop.run(serve(socket.socket(fileno=parser.parse_args().fd)))


if __name__ == "__main__":
    main()
