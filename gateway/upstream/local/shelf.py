"""Where the local provider keeps what it has made, so that every process of an installation can read it again.

A shelf is a few bounded values by name. In a gateway that is Redis, where each is forgotten after `KEPT_S`: the local
provider is for trying things out. Without one they are in this process's memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

KEPT_S: Final = 3_600
MOST_BYTES: Final = 262_144
"""Of one value in Redis; what is larger is not kept."""
MOST_KEPT: Final = 1_000
Command = Callable[..., Awaitable[Any]]


class Shelf(Protocol):
    """Values by name."""

    async def get(self, name: str) -> bytes | None: ...

    async def put(self, name: str, value: bytes) -> None: ...

    async def drop(self, name: str) -> None: ...


class MemoryShelf:
    """Values in this process's memory, the last `MOST_KEPT`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    async def get(self, name: str) -> bytes | None:
        """Return a value, None where it is not there."""
        return self._kept.get(name)

    async def put(self, name: str, value: bytes) -> None:
        """Keep a value."""
        self._kept[name] = value
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    async def drop(self, name: str) -> None:
        """Forget a value."""
        self._kept.pop(name, None)


class SharedShelf:
    """Values in Redis. `command` sends a command, and raises what its store raises; `prefix` begins all keys."""

    def __init__(self, command: Command, prefix: bytes) -> None:
        self._command = command
        self._prefix = prefix

    async def get(self, name: str) -> bytes | None:
        """Return a value, None where it is not there."""
        value: bytes | None = await self._command("GET", self._prefix + name.encode())
        return value

    async def put(self, name: str, value: bytes) -> None:
        """Keep a value for `KEPT_S`."""
        if len(value) <= MOST_BYTES:
            await self._command("SET", self._prefix + name.encode(), value, "EX", str(KEPT_S))

    async def drop(self, name: str) -> None:
        """Forget a value."""
        await self._command("DEL", self._prefix + name.encode())
