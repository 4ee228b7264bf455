"""Pages and large reads in a process of their own: the proxy's event loop is not held while somebody looks.

A page holds the event loop that makes it for 10 to 40 ms, and every request beside it waits as long. So a worker that
finds a request for a page on a connection with nothing else on it gives the connection away, with the bytes that it has
read of it, to the process of pages: the same program in another role (`--adopt-fds`), which listens nowhere. It runs
while somebody looks. The first look starts it; until it serves, and wherever a connection can't be given away, workers
make pages themselves, so that nothing waits for a start.

Between them are a pair of datagram sockets, whose queue the sender's buffer bounds (on Linux, to some 150 requests),
and some shared bytes, which say whether the process of pages serves, and when it was last seen to: one that hangs is
given nothing after SILENT_S. A connection that was given away and not adopted yet waits in the queue: if the process is
killed, its successor serves it; if it hangs, the connection waits as long. Where the gateway stops, this process ends
after the workers, and answers all that they gave away. An answer of it ends the connection: else a reverse proxy would
keep that, and send all kinds of requests there.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import struct
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.server.edge import EdgeServer

# How paths begin whose GET requests are given away; of POST requests those of the console, the first of them.
PAGES: Final = (
    "/console",
    "/docs",
    "/api/docs",
    "/api/openapi.json",
    "/api/account/usage",
    "/api/account/transactions",
    "/api/billing/usage",
    "/api/admin/audit",
    "/api/admin/margin",
)
# Of what was read of a connection that is given away.
MOST_BYTES: Final = 65_536
# Connections that are adopted without a break.
AT_ONCE: Final = 16
# More messages than the queue ever holds.
MOST_QUEUED: Final = 10_000
# Added to the process of pages (nice(1)): beside it, a worker has nine tenths of a core that both want.
NICENESS: Final = 10
ABSENT: Final = 0
STARTING: Final = 1
# What the first shared byte says of the process of pages.
SERVING: Final = 2
BEAT_AT: Final = 8
BEAT: Final = struct.Struct("d")
# What is shared: a byte, and at BEAT_AT when the process of pages was last seen to run, by time.monotonic(), which all
# processes of a machine have in common.
STATE_BYTES: Final = 16
BEAT_S: Final = 0.5
# A process of pages that has not been seen for as long is given nothing: it hangs, or gets no CPU.
SILENT_S: Final = 2.0
# A message without a connection: somebody looks, and no process serves.
WAKE: Final = b"\n"
AUTOGROUP: Final = Path("/proc/self/autogroup")

_log = logging.getLogger(__name__)


class Channel:
    """What workers and the process of pages share, made by their supervisor before it starts them. Raises OSError where
    the system has no room for it, or refuses it.

    Workers get `hand_fds`, the process of pages `adopt_fds`; both have the state in the last one.
    """

    def __init__(self) -> None:
        self._given, self._waiting = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self._given, self._waiting):
            end.setblocking(False)
        self._file = _shared_file()
        self._file.write(
            bytes(STATE_BYTES)
        )  # is ABSENT; takes its page now: where a disk is full, touching a hole is a SIGBUS
        self._state = mmap.mmap(self._file.fileno(), STATE_BYTES)

    @property
    def hand_fds(self) -> tuple[int, int]:
        """Return what a worker inherits."""
        return self._given.fileno(), self._file.fileno()

    @property
    def adopt_fds(self) -> tuple[int, int]:
        """Return what the process of pages inherits."""
        return self._waiting.fileno(), self._file.fileno()

    @property
    def starting(self) -> bool:
        """Return whether the process was started and does not serve yet: it was given nothing."""
        return self._state[0] == STARTING

    async def looked_at(self, stopping: asyncio.Event) -> None:
        """Wait until somebody looks, and note that the process is being started; or until `stopping`. Only while it
        does not run."""
        loop, looked = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._waiting, looked.set)
        waits = [loop.create_task(event.wait()) for event in (looked, stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._waiting)
            for each in waits:
                each.cancel()
        self._state[0] = STARTING

    def ended(self) -> bool:
        """Note that the process has ended; True where it did so by itself. Connections that wait for one that did not
        come to serve are closed: nobody else will."""
        state, self._state[0] = self._state[0], ABSENT
        if state == STARTING:
            with suppress(BlockingIOError):
                while True:
                    for each in _received(self._waiting)[1]:
                        each.close()
        return state == ABSENT

    def close(self) -> None:
        """Close all of it."""
        self._given.close()
        self._waiting.close()
        self._state.close()
        self._file.close()


def _shared_file() -> FileIO:
    """Make a file that other processes can map: in memory where the system has that, so that no disk matters."""
    with suppress(AttributeError, OSError):  # not on macOS; a container may refuse it
        return FileIO(os.memfd_create("metergate-pages"), "r+")
    fd, name = tempfile.mkstemp(prefix="metergate-pages-")
    os.unlink(name)
    return FileIO(fd, "r+")


class Hand:
    """A worker's end of the channel. Raises OSError for descriptors that are none."""

    def __init__(self, given_fd: int, state_fd: int) -> None:
        self._given = socket.socket(fileno=given_fd)
        self._given.setblocking(False)
        self._state = mmap.mmap(state_fd, STATE_BYTES, prot=mmap.PROT_READ)
        self._refused = False

    def __call__(self, method: str, path: str, transport: asyncio.Transport, data: bytes) -> bool:
        """Give a connection away, of which `data` was read; False where it is to be served here. Who calls it drops the
        connection at once then, without another read."""
        if not path.startswith(PAGES) or len(data) > MOST_BYTES:
            return False
        if method != "GET" and (method != "POST" or not path.startswith(PAGES[0])):
            return False
        state = self._state[0]
        try:
            if state == SERVING:
                if time.monotonic() - BEAT.unpack_from(self._state, BEAT_AT)[0] > SILENT_S:
                    return False
                socket.send_fds(self._given, [data], [transport.get_extra_info("socket").fileno()])
            elif state == ABSENT:
                self._given.send(WAKE)
        except BlockingIOError:  # the queue is full
            return False
        except OSError as error:  # the system refuses it, or nobody has the other end
            if not self._refused:
                _log.warning("connections can't be given to another process: pages are made here (%s)", error)
            self._refused = True
            return False
        return state == SERVING

    def close(self) -> None:
        """Give nothing away any more."""
        self._given.close()
        self._state.close()


def _received(waiting: socket.socket) -> tuple[bytes, list[socket.socket]]:
    """Take the next message: what was read of a connection, and the connection, of which there may be none. Raises
    BlockingIOError where there is no message."""
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    data, fds, _, _ = socket.recv_fds(waiting, MOST_BYTES, 1, flags)
    return data, [socket.socket(fileno=fd) for fd in fds]


class _Arrival(asyncio.Protocol):
    """Stands for the protocol of an adopted connection until there is a transport."""

    def __init__(self, server: EdgeServer, data: bytes) -> None:
        self._server = server
        self._data = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the request that another process has read."""
        self._server.adopt(cast("asyncio.Transport", transport), self._data)


class _Adoptions:
    def __init__(self, waiting_fd: int, state_fd: int, server: EdgeServer) -> None:
        self._waiting = socket.socket(fileno=waiting_fd)
        self._state = mmap.mmap(state_fd, STATE_BYTES)
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self.last_s = self._loop.time()
        """When the last connection came, by the loop's clock."""

    def begin(self) -> None:
        self.beat()
        self._loop.add_reader(self._waiting, self._take, AT_ONCE)
        self._state[0] = SERVING

    def beat(self) -> None:
        BEAT.pack_into(self._state, BEAT_AT, time.monotonic())

    def _take(self, most: int) -> None:
        with suppress(BlockingIOError):
            for _ in range(most):
                data, connections = _received(self._waiting)
                for connection in connections:
                    self.last_s = self._loop.time()
                    arriving = self._loop.create_task(self._adopt(connection, data))
                    self._arriving.add(arriving)
                    arriving.add_done_callback(self._arriving.discard)

    async def _adopt(self, connection: socket.socket, data: bytes) -> None:
        try:
            connection.setblocking(False)
            await self._loop.connect_accepted_socket(lambda: _Arrival(self._server, data), connection)
        except (OSError, RuntimeError) as error:  # its client has left
            connection.close()
            _log.info("a connection was not adopted: %s", error)

    @property
    def busy(self) -> bool:
        return bool(self._arriving or self._server.connections)

    async def end(self) -> None:
        """Tell workers to give nothing more away, and adopt what they have."""
        self._state[0] = ABSENT
        self._loop.remove_reader(self._waiting)
        self._take(MOST_QUEUED)
        self._waiting.close()
        if self._arriving:
            await asyncio.wait(self._arriving)


@asynccontextmanager
async def adopting(
    fds: tuple[int, int], server: EdgeServer, idle_s: float, end: Callable[[], None]
) -> AsyncIterator[None]:
    """Serve connections that workers give away; `end` is called when none has come or been open for `idle_s`.

    What is given away after the last look at the queue stays there, for the next process.
    """
    adoptions = _Adoptions(*fds, server)
    adoptions.begin()

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while adoptions.busy or adoptions.last_s + idle_s > loop.time():
            adoptions.beat()
            await asyncio.sleep(min(idle_s, BEAT_S))
        end()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await adoptions.end()


def yield_to_workers() -> None:
    """Let this process have the CPU only where no worker wants it."""
    with suppress(OSError):  # a container may refuse it
        os.nice(NICENESS)
    with suppress(OSError):  # where each session is scheduled as one (sched(7)), nice(2) is for within it
        AUTOGROUP.write_text(str(NICENESS), "ascii")
