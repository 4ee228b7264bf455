"""What an exchange asks of others, a request's head and the connection that it came on; and who serves exchanges.

`gateway.server.paced.PacedProtocol` is such a connection, whose names these are, and `gateway.server.plain` has
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp import HttpVersion
    from multidict import CIMultiDictProxy

    from gateway.server.exchange import Exchange


class Head(Protocol):
    """A request's line and headers, as they are parsed."""

    @property
    def path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]: ...
    @property
    def should_close(self) -> bool: ...
    @property
    def chunked(self) -> bool: ...


class ClientConnection(Protocol):
    """A client's connection.

    `_paused` says that nothing more should be written before `_drain_helper` has returned; `_close` and `_force_close`
    that the connection ends with this answer; `account` is the one that it counts for, by `claim`. They are attributes,
    not calls: they are read with every piece or request.
    """

    @property
    def transport(self) -> asyncio.Transport | None: ...
    @property
    def _loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def _paused(self) -> bool: ...
    @property
    def _close(self) -> bool: ...
    @property
    def _force_close(self) -> bool: ...
    @property
    def account(self) -> str: ...
    async def _drain_helper(self) -> None: ...
    def claim(self, account: str) -> bool: ...
    async def made(self, size_bytes: int, account: str) -> None: ...


class Begun(Protocol):
    """A request that is being served (`gateway.proxy.course.Course`). It is told once where its client leaves, or is
    cut off."""

    def left(self) -> None: ...


class Metered(Protocol):
    """Who serves requests to metered endpoints (`gateway.proxy.handler.Proxy`): one is begun, and `on_over` called once
    nothing more is written to its client; or it is awaited, and cancelled where its client leaves."""

    def begin(self, exchange: Exchange, on_over: Callable[[], None]) -> Begun: ...
    async def handle(self, exchange: Exchange) -> None: ...
