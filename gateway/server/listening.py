"""Listening sockets, bound from an address as it is configured."""

import errno
import socket

from billing.errors import MetergateError

BACKLOG = 1024  # connections that wait for a worker to accept them


class AddressInUse(MetergateError, OSError):
    """Another process listens on the address; the message says which, and what to set."""

    def __init__(self, address: str) -> None:
        super().__init__(
            errno.EADDRINUSE, f"{address} is in use by another process. Set LISTEN_ADDR to another address"
        )

    def __str__(self) -> str:
        return f"{self.strerror}."


def bind(listen: str) -> socket.socket:
    """A listening TCP socket on `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (every IPv4 address); port 0 is any free one.

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
    """`HOST:PORT` of a bound socket, with the port that it really has."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise ValueError(f"LISTEN_ADDR {listen!r}: HOST:PORT was expected, such as 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an empty host means
