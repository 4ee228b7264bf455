"""Commands and script calls over one connection, in RESP2: replies come in the order of the commands.

The client library costs 240 µs of CPU a call; a write and a parse by hiredis cost a twentieth of that.

What can go wrong between a gateway and Redis; no message holds a secret:

RedisError
+-- RedisAway      no connection, or it broke: a command sent may or may not have been carried out
|   +-- RedisStrange   what answers is no Redis, or does not take the user and password: waiting does not help
+-- RedisTimeout   no answer in time: likewise
+-- RedisRefused   the server answered with an error: nothing was done
    +-- RedisMoved   another server has this key now, or this one can't serve it: ask again elsewhere
    +-- RedisUnfit   it is configured so that it may lose writes
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from billing.errors import StoreError

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

Argument = bytes | str | int
OnReply = Callable[[Any], None]

HOT: Final = "hot"
ERROR_CHARACTERS: Final = 200
# Errors that say where or when to ask instead (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-
# spec/).
ELSEWHERE: Final = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN")
NO_REDIS: Final = "what answers is no Redis"
# Errors that say that the user, the password or the user's rights are wrong
# (https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/).
DENIED: Final = ("NOAUTH", "WRONGPASS", "NOPERM")


class RedisError(StoreError):
    """Redis did not do what was asked."""


class RedisAway(RedisError):
    """No connection, or it broke: what was sent may or may not have been carried out."""


class RedisStrange(RedisAway):
    """What answers there is no Redis, or does not take this user and password, or the URL says what none can be."""


class RedisTimeout(RedisError):
    """No answer in time: what was sent may or may not have been carried out."""


class RedisRefused(RedisError):
    """The server answered with an error: nothing was done."""


class RedisUnfit(RedisRefused):
    """The server is configured so that it may lose writes, and is not used."""


class RedisMoved(RedisRefused):
    """Another server has this key now, or this one can't serve it yet: nothing was done."""


class Script:
    """A script with the shared texts before it, known to the server by its SHA-1.

    The hot path goes without those that it does not need: every call pays for what is defined.
    """

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str) -> None:
        self.name = name
        self.source, self.sha = _source(name)

    def __repr__(self) -> str:
        return f"Script({self.name})"


@cache
def _source(name: str) -> tuple[bytes, bytes]:
    """Return a script's text and its SHA-1."""
    folder = files("billing.holds").joinpath("lua")
    texts = ("_state", name) if name == HOT else ("_state", "_cold", name)
    source = "".join(folder.joinpath(f"{text}.lua").read_text() for text in texts).encode()
    return source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()


class RedisConnection(asyncio.Protocol):
    """One connection. Every command's `on_reply` is called once: with the reply, or with a `RedisError`.

    Alive from when it is made until it breaks or is closed; `on_lost` is called once, when it is gone.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.alive = False
        self._reader = hiredis.Reader()
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._on_lost = on_lost
        self._strange = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclass of asyncio's
        self.alive = True

    def send(self, command: Sequence[Argument], on_reply: OnReply) -> None:
        """Write a command without waiting."""
        if self._transport is None or not self.alive:
            on_reply(RedisAway("Redis is away"))
            return
        self._waiting.append(on_reply)
        self._transport.write(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]

    def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Call a script. A server that does not know it is sent its text, once: it has done nothing before."""

        def answered(reply: Any) -> None:
            if not isinstance(reply, hiredis.ReplyError):
                on_reply(reply)
            elif str(reply).startswith("NOSCRIPT"):
                self.send(["EVAL", script.source, len(keys), *keys, *arguments], refused)
            else:
                refused(reply)

        def refused(reply: Any) -> None:
            on_reply(as_error(reply, script.name) if isinstance(reply, hiredis.ReplyError) else reply)

        self.send(["EVALSHA", script.sha, len(keys), *keys, *arguments], answered)

    async def ask(self, command: Sequence[Argument], timeout_s: float) -> Any:
        """Send a plain command and return its reply. Raises `RedisError`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(command, lambda reply: None if answer.done() else answer.set_result(reply))
        reply = await in_time(answer, timeout_s, str(command[0]))
        if isinstance(reply, hiredis.ReplyError):
            raise as_error(reply, str(command[0]))
        return reply

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if not self._waiting:  # a server with too many clients says so unasked, and closes
                    why = as_error(reply, "unasked") if isinstance(reply, hiredis.ReplyError) else "a reply"
                    logger.warning("Redis sent what nobody has asked for (%s); closing the connection", why)
                    self.close()
                    return
                self._waiting.popleft()(reply)
        except hiredis.ProtocolError:
            logger.warning("Redis sent what is not its protocol; closing the connection")
            self._strange = True
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self.alive = None, False
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(RedisStrange(NO_REDIS) if self._strange else RedisAway("the connection to Redis broke"))
        self._on_lost()

    def close(self) -> None:
        """Break the connection; what waits gets an error."""
        self.alive = False
        if self._transport is not None:
            self._transport.abort()


async def in_time(answer: asyncio.Future[Any], timeout_s: float, name: str) -> Any:
    """Await a reply with a timeout; one that has already arrived is accepted even after the deadline.

    Raises `RedisTimeout`, or the `RedisError` that it is.
    """
    await asyncio.wait((answer,), timeout=timeout_s)
    if not answer.done():
        await asyncio.sleep(0)  # uvloop looks at its clock before its sockets
    if not answer.done():
        raise RedisTimeout(f"{name}: no answer within {timeout_s} s")
    reply = answer.result()
    if isinstance(reply, RedisError):
        raise reply
    return reply


def as_error(reply: hiredis.ReplyError, name: str) -> RedisError:
    """Return our exception for an error reply. It names the command, never its arguments, which a server may repeat."""
    text = str(reply).partition(", with args")[0][:ERROR_CHARACTERS]
    if text.startswith(DENIED):
        return RedisStrange(f"{name}: {text}")
    kind = RedisMoved if text.startswith(ELSEWHERE) else RedisRefused
    return kind(f"{name}: {text}")


def info_fields(reply: bytes) -> dict[str, str | int]:
    """Return what INFO or CLUSTER INFO says, a field a line (https://redis.io/docs/latest/commands/info/); whole
    numbers as such."""
    lines = (line.partition(":") for line in reply.decode().splitlines())
    return {name: int(value) if value.isdecimal() else value for name, colon, value in lines if colon}


MASTER: Final = "master"


class ServerSession:
    """What was agreed on with one server over one connection, for as long as that holds: until the connection breaks,
    or a reply says that the server is not, or no longer, the one to ask. A session that has ended never stands again.
    `on_stale` is called when a reply ends it."""

    __slots__ = ("_ended", "_on_stale", "_replication_id", "_timeout_s", "connection")

    def __init__(self, connection: RedisConnection, timeout_s: float, on_stale: Callable[[], None]) -> None:
        self.connection = connection
        self._timeout_s = timeout_s
        self._on_stale = on_stale
        self._ended = False
        self._replication_id = ""

    def __repr__(self) -> str:
        return f"ServerSession({'stands' if self.stands else 'ended'})"

    @property
    def stands(self) -> bool:
        """Return whether what was agreed on with the server still holds."""
        return self.connection.alive and not self._ended

    def end(self) -> None:
        """End the session: the server is not the one to ask any more."""
        if not self._ended:
            self._ended = True
            self._on_stale()

    def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Call a script without waiting, after the caller has checked that this server's life stands; `on_reply` gets
        the reply or a `RedisError`, always and once."""

        def answered(reply: Any) -> None:
            if isinstance(reply, RedisMoved):
                self.end()
            on_reply(reply)

        self.connection.call(script, keys, arguments, answered)

    async def ask(self, *command: Argument) -> Any:
        """Send a plain command on this connection, and no other. One that gives no answer in time is given up: what
        waits behind it on a connection to a host that is gone would wait for minutes. Raises `RedisError`.
        """
        try:
            return await self.connection.ask(command, self._timeout_s)
        except RedisTimeout:
            self.connection.close()
            raise
        except RedisMoved:
            self.end()
            raise

    async def identity(self) -> str:
        """Return what names the server's life: another one after a restart or a failover.

        Raises `RedisMoved` where it is a replica, else as `ask`.
        """
        server = info_fields(await self.ask("INFO", "server"))
        self._replication_id = await self._read_replication_id()
        return f"{server['run_id']}:{self._replication_id}"

    async def has_changed(self) -> bool:
        """Return whether the server has been a replica since its identity was asked for, behind this connection's back.

        Raises as `identity`.
        """
        return await self._read_replication_id() != self._replication_id

    async def _read_replication_id(self) -> str:
        replication = info_fields(await self.ask("INFO", "replication"))
        if replication.get("role") != MASTER:
            self.end()
            self.connection.close()  # so that its name is looked up again: it may lead to the master then
            raise RedisMoved("the server is a replica")
        return str(replication["master_replid"])

    async def time_ms(self) -> int:
        """Return the server's clock in Unix milliseconds. Raises as `ask`."""
        seconds, micros = await self.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000
