"""What an exchange asks of others: a request's head, and the connection that it came on.

`gateway.server.paced.PacedProtocol` is such a connection, whose names these are, and `gateway.server.plain` has
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from aiohttp import HttpVersion
    from multidict import CIMultiDictProxy


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
    that the connection ends with this answer, and `_leaves` that it ends with the next one that is begun, because
    another process serves in this one's place; `account` is the one that it counts for, by `claim`. They are
    attributes, not calls: they are read with every piece or request.
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
    def _leaves(self) -> bool: ...
    @property
    def account(self) -> str: ...
    async def _drain_helper(self) -> None: ...
    def claim(self, account: str) -> bool: ...
    async def made(self, size_bytes: int, account: str) -> None: ...
