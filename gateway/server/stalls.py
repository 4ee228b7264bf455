"""Clients that take nothing of what waits for them, and clients that send no more while they wait for an answer.

A client that takes not a byte for a time is cut off. One that sends no more has left, or has closed its own direction
alone, as `nc -N` and others do behind a request; TCP says the same in both cases. Only bytes that are sent to a client
tell: one that has left resets the connection. This file owns that such a client is asked, by interim answers, of which
HTTP/1.1 lets any number come before an answer (RFC 9110, 15.2), and that it counts as gone once its connection is
reset. It is asked again and again, ever more seldom.
"""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from billing.api.requests import CONTINUE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

# How often it is looked, within that time, whether a client that has to catch up has taken anything.
LOOKS: Final = 8


@contextmanager
def cut_where_stalled(
    transport: asyncio.Transport | None, loop: asyncio.AbstractEventLoop, timeout_s: float, cut: Callable[[], None]
) -> Iterator[None]:
    """Call `cut` where the client takes nothing for `timeout_s` of what waits for it, while this is open.

    Only bytes that left count: a client may read too slowly ever to catch up, but it must read.
    """
    stall = None if transport is None else _Stall(transport, loop, timeout_s, cut)
    try:
        yield
    finally:
        if stall is not None:
            stall.end()


class _Stall:
    """Looks at one transport until it ends."""

    __slots__ = ("_cut", "_loop", "_since_s", "_timeout_s", "_timer", "_transport", "_waiting_bytes")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        cut: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._timeout_s = timeout_s
        self._cut = cut
        self._waiting_bytes = transport.get_write_buffer_size()
        self._since_s = loop.time()
        self._timer = loop.call_later(timeout_s / LOOKS, self._look)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now_s, left_bytes = self._loop.time(), self._transport.get_write_buffer_size()
        if left_bytes < self._waiting_bytes:
            self._waiting_bytes, self._since_s = left_bytes, now_s
        elif now_s - self._since_s >= self._timeout_s:
            self._cut()
            return
        look_s = min(self._timeout_s / LOOKS, self._since_s + self._timeout_s - now_s)
        self._timer = self._loop.call_later(look_s, self._look)


# An answer that comes sooner needs no interim one before it.
FIRST_LOOK_S: Final = 0.05
LOOK_MAX_S: Final = 1.0
# Until it is asked for the second time; each further pause is AGAIN_TIMES as long, up to AGAIN_MAX_S.
AGAIN_S: Final = 1.0
AGAIN_TIMES: Final = 4.0
AGAIN_MAX_S: Final = 60.0
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class Served(Protocol):
    """A connection as it is looked at. `unanswered` is the request of which nothing is answered yet, where an interim
    answer may be sent before it."""

    transport: asyncio.Transport | None

    @property
    def unanswered(self) -> object | None: ...


class HalfClosed:
    """Looks at such a connection until it ends, and breaks it off where its client has left."""

    __slots__ = ("_again_at_s", "_again_s", "_asked_for", "_connection", "_look_s", "_loop")

    def __init__(self, connection: Served, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._asked_for: object | None = None
        self._look_s = FIRST_LOOK_S
        self._again_s = self._again_at_s = 0.0
        self._loop.call_later(self._look_s, self._look)

    def _look(self) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return
        if _is_reset(transport):
            transport.abort()
            return
        if self._is_to_be_asked():
            self._look_s = FIRST_LOOK_S
            transport.write(CONTINUE)
        else:
            self._look_s = min(2 * self._look_s, LOOK_MAX_S)
        self._loop.call_later(self._look_s, self._look)

    def _is_to_be_asked(self) -> bool:
        unanswered, now_s = self._connection.unanswered, self._loop.time()
        if unanswered is None:
            return False
        if unanswered is not self._asked_for:
            self._asked_for, self._again_s = unanswered, AGAIN_S
        elif now_s >= self._again_at_s:
            self._again_s = min(AGAIN_TIMES * self._again_s, AGAIN_MAX_S)
        else:
            return False
        self._again_at_s = now_s + self._again_s
        return True


def may_be_half_closed(transport: asyncio.Transport) -> bool:
    """Return whether the transport can go on sending once its client sends no more: TLS can't."""
    return transport.get_extra_info("sslcontext") is None


def _is_reset(transport: asyncio.Transport) -> bool:
    """Return whether the client has reset the connection. Nothing else says so while nothing is read and nothing waits
    to be sent."""
    own = transport.get_extra_info("socket")
    return own is not None and own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _GONE
