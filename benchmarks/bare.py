"""The pass-through that everything is compared with: aiohttp's server and client, nothing metered, nothing looked at.

    python -m benchmarks.bare --fd N --upstream http://127.0.0.1:PORT [--drop-above BYTES]

With `--drop-above` a larger body, or one whose size is not said, is read and dropped, and refused: what it costs a
server to be sent such bodies at all.

It is as good as a short one gets: uvloop, keep-alive on both sides, no bound on the pool, no access log, no cookies, no
decompression, no client defaults, the answer streamed with its own length where it has one.
"""

import argparse
import asyncio
import contextlib
import signal
import socket
from typing import Final

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

NOT_SENT: Final = frozenset({"host", "connection", "keep-alive", "content-length", "transfer-encoding"})
NOT_ANSWERED: Final = frozenset({"connection", "keep-alive", "transfer-encoding"})
NO_DEFAULTS: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
BODY_LIMIT_BYTES: Final = 32 * 1024 * 1024


class Bare:
    """One handler for every path."""

    def __init__(self, session: ClientSession, upstream: URL, drop_above_bytes: int | None) -> None:
        self._session = session
        self._upstream = upstream
        self._drop_above_bytes = drop_above_bytes

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and its answer back as it comes."""
        most, length = self._drop_above_bytes, request.content_length
        if most is not None and request.body_exists and (length is None or length > most):
            async for _ in request.content.iter_any():
                pass
            return web.Response(status=413)
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in NOT_SENT)
        async with self._session.request(
            request.method,
            self._upstream.join(request.rel_url),
            data=await request.read(),
            headers=headers,
            allow_redirects=False,
        ) as answer:
            passed = [(name, value) for name, value in answer.headers.items() if name.lower() not in NOT_ANSWERED]
            response = web.StreamResponse(status=answer.status, headers=CIMultiDict(passed))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def serve(listener: socket.socket, upstream: str, drop_above_bytes: int | None) -> None:
    """Serve until SIGTERM."""
    session = ClientSession(
        connector=TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=75),
        timeout=ClientTimeout(total=None, sock_read=600),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=NO_DEFAULTS,
    )
    async with session:
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_route("*", "/{path:.*}", Bare(session, URL(upstream), drop_above_bytes).handle)
        plain = drop_above_bytes is None  # what is dropped is not unpacked either
        runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=75, auto_decompress=plain)
        await runner.setup()
        await web.SockSite(runner, listener, backlog=1024).start()
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        await stopping.wait()
        await runner.cleanup()


def main() -> None:
    """The process's entry."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--drop-above", type=int, default=None)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(socket.socket(fileno=arguments.fd), arguments.upstream, arguments.drop_above))


if __name__ == "__main__":
    main()
