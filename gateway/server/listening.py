"""Listening sockets, bound from an address as it is configured; and how many connections a worker's process may have.

Connections are most of a process's open files. This file owns that clients never take the last of them: a worker that
can't open any more can't reach Postgres, Redis or a provider, nor accept a connection to say so.
"""

import errno
import logging
import resource
import socket
from typing import Final

from billing.errors import MetergateError

BACKLOG = 1024  # connections that wait for a worker to accept them


class AddressInUse(MetergateError, OSError):
    """Another process listens on the address; the message says which, and what to set."""

    def __init__(self, address: str) -> None:
        OSError.__init__(
            self, errno.EADDRINUSE, f"{address} is in use by another process. Set LISTEN_ADDR to another address"
        )

    def __str__(self) -> str:
        return f"{self.strerror}."


def bind(listen: str) -> socket.socket:
    """Return a listening TCP socket on `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (all IPv4 addresses); port 0 is any.

    Raises ValueError for anything else, AddressInUse, and OSError, with the address in its message, when it can't be
    had.
    """
    host, port = _split(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(error.errno, f"Cannot listen on {listen}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(listen) from None
        raise OSError(error.errno, f"Cannot listen on {listen}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """Return `HOST:PORT` of a bound socket, with the port that it really has."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise ValueError(f"LISTEN_ADDR {listen!r}: HOST:PORT was expected, such as 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an empty host means


# For the stores, logs, metrics, and what is opened for a moment.
OWN_FILES: Final = 128
# Of the others, the part that is left for connections that are ending while others come for them.
TURNOVER_SHARE: Final = 8

logger = logging.getLogger(__name__)


def raise_file_limit() -> None:
    """Let this process open as many files as its system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# No address, no account and no kind of WebSocket takes more than one part in so many of a process's connections.
LEAST_SHARERS: Final = 2


def connections_within(wanted: int) -> int:
    """Return how many clients' connections there may be of those that the configuration allows: each may need another
    one, to a provider."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return wanted
    free = most - OWN_FILES
    possible = max(1, (free - free // TURNOVER_SHARE) // 2)
    if possible < wanted:
        logger.warning(
            "at most %d connections are taken, not max_connections (%d): this process may open %d files (ulimit -n)",
            possible,
            wanted,
            most,
        )
    return min(possible, wanted)
