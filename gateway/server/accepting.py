"""Connections are accepted here, one after the other, so that there is always a descriptor for the next one.

The event loop's own server accepts all waiting connections at once; when descriptors run out, it drops connections
silently or accepts none for a second. This file accepts a connection only once there is room for it
(`gateway.server.clients`), a few in each turn of the loop. If there is none, it writes a refusal at once, and closes
the connection when its client has had time to read that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway.server import refusals
from gateway.server.ids import Ulids

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.server.clients import Clients
    from gateway.server.front import FrontProtocol
    from gateway.server.guard import GuardedProtocol

logger = logging.getLogger(__name__)

# The most connections that are accepted in one turn of the loop: each takes it a fraction of a millisecond, in which
# nobody else is served.
AT_ONCE: Final = 8
# The most connections that stay open after a refusal.
REFUSED_MAX: Final = 64
# The same as a fraction of all connections: one in so many.
REFUSED_SHARE: Final = 16
# How long a refused connection stays open: closed with bytes that were not read, it is reset.
REFUSED_OPEN_S: Final = 1.0
# After the system has refused a descriptor.
PAUSE_S: Final = 0.1
UNREAD_BYTES: Final = 65_536
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts connections of a listening socket, and has `make` make the protocol of each."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], GuardedProtocol | FrontProtocol],
        clients: Clients,
        most: int,
    ) -> None:
        self._listener = listener
        self._make = make
        self._clients = clients
        self._most_refused = max(1, min(REFUSED_MAX, most // REFUSED_SHARE))
        self._at_once = min(AT_ONCE, self._most_refused)
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._refused: deque[socket.socket] = deque()
        self._resuming: asyncio.TimerHandle | None = None
        self._new_id = Ulids()

    def start(self) -> None:
        """Accept from now on."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Accept no more. Those that were accepted are connections when this returns."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._listener)
        if self._arriving:
            await asyncio.wait(self._arriving)
        while self._refused:
            self._close_refused()

    def _accept(self) -> None:
        for _ in range(self._at_once):
            try:
                connection, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR:
                    raise
                logger.error("no connection can be accepted for now: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._resuming = self._loop.call_later(PAUSE_S, self.start)
                return
            connection.setblocking(False)
            address, _ = self._clients.place(str(peer[0]) if isinstance(peer, tuple) else "")
            if self._clients.admits(address):
                protocol = self._make()
                self._clients.expect(protocol)
                task = self._loop.create_task(self._arrive(connection, protocol))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)
            else:
                self._refuse(connection)

    async def _arrive(self, connection: socket.socket, protocol: GuardedProtocol | FrontProtocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError as error:  # its client has left
            connection.close()
            logger.debug("a connection was not accepted: %s", error)
        finally:
            self._clients.miss(protocol)

    def _refuse(self, connection: socket.socket) -> None:
        """Answer a connection with a refusal, and keep it open until its client can have read that."""
        with suppress(OSError):
            connection.send(refusals.too_many_connections().raw(self._new_id()))
            connection.shutdown(socket.SHUT_WR)
        self._refused.append(connection)
        if len(self._refused) > self._most_refused:
            self._close_refused()
        self._loop.call_later(REFUSED_OPEN_S, self._end_refused, connection)

    def _end_refused(self, connection: socket.socket) -> None:
        while self._refused and connection.fileno() >= 0:  # it is the oldest, or was closed for others
            self._close_refused()

    def _close_refused(self) -> None:
        connection = self._refused.popleft()
        with suppress(OSError):
            connection.recv(UNREAD_BYTES)
        connection.close()


class EdgeSite(web.BaseSite):
    """A listening socket in front of an `EdgeRunner`."""

    __slots__ = ("_acceptor", "_listener")

    def __init__(self, runner: web.BaseRunner, listener: socket.socket, acceptor: Acceptor) -> None:
        super().__init__(runner)
        self._listener = listener
        self._acceptor = acceptor

    @property
    def name(self) -> str:
        """Return where it listens."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Accept connections."""
        await super().start()
        self._acceptor.start()

    async def stop(self) -> None:
        """Accept no more."""
        await self._acceptor.stop()
        await super().stop()
        self._listener.close()
