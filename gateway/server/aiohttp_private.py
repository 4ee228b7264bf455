"""The private parts of aiohttp that the edge is built on: all of them, and whether the installed aiohttp has them.

`gateway.server.edge`, `guard`, `paced` and `exchange` extend aiohttp's `RequestHandler` and serve metered requests
without its task, routing and response. That needs names that aiohttp may change in any minor version, so that
pyproject.toml keeps it below the next one, and this file compares what is installed with what the edge was written for
(aiohttp 3.14). No other private name of aiohttp is used in this package: a test holds that.

What each is for: `_waiter` is what aiohttp's loop sleeps on while a connection is idle; it is taken away while a
metered request is served, so that nothing wakes the loop and the idle timer does not fire. `_messages` is the queue of
parsed requests, `_parser` makes them, `_paused`, `_reading_paused` and `_buffer_paused` say which way is paused.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from aiohttp import http_exceptions, http_parser, web, web_protocol

from billing.errors import MetergateError

__all__ = [
    "ERROR",
    "MISSING",
    "EdgeKind",
    "HttpProcessingError",
    "LineTooLong",
    "RawRequestMessage",
    "UnknownAiohttp",
    "check_edge",
    "missing_parts",
]

EdgeKind = Literal["guarded", "plain"]

# Attributes of a `RequestHandler` that has just been made, and their types then.
CONNECTION: Final[dict[str, type | tuple[type, ...]]] = {
    "_buffer_paused": bool,
    "_close": bool,
    "_current_request": type(None),
    "_force_close": bool,
    "_handler_waiter": type(None),
    "_keepalive": bool,
    "_keepalive_handle": type(None),
    "_keepalive_timeout": (int, float),
    "_loop": object,
    "_message_tail": bytes,
    "_messages": deque,
    "_msg_queue_resume_size": int,
    "_next_keepalive_close_time": float,
    "_parser": object,
    "_paused": bool,
    "_reading_paused": bool,
    "_request_count": int,
    "_request_in_progress": bool,
    "_task_handler": type(None),
    "_upgraded": bool,
    "_waiter": type(None),
}
# Methods of a `RequestHandler`, which the edge calls or replaces, and their parameters.
METHODS: Final[dict[str, tuple[str, ...]]] = {
    "_drain_helper": (),
    "_pause_transport_reading": (),
    "_process_keepalive": (),
    "_resume_reading_if_drained": (),
    "_resume_transport_reading": (),
    "connection_lost": ("exc",),
    "data_received": ("data",),
    "eof_received": (),
    "finish_response": ("request", "resp", "start_time"),
    "force_close": (),
    "handle_error": ("request", "status", "exc", "message"),
    "resume_reading": ("resume_parser",),
    "shutdown": ("timeout",),
}
# Attributes of a `web.Server`.
SERVER: Final[dict[str, type]] = {"_kwargs": dict, "_loop": object}
# Attributes of a `web.BaseRequest`.
REQUEST: Final = ("_headers", "_message")
# Fields of a parsed request, a `RawRequestMessage`; `_replace` makes another one.
MESSAGE: Final = ("method", "path", "version", "headers", "raw_headers", "should_close", "upgrade", "chunked")


class _Absent:
    """Stands for a class that the installed aiohttp does not have."""


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import ERROR
else:
    HttpProcessingError = getattr(http_exceptions, "HttpProcessingError", _Absent)
    LineTooLong = getattr(http_exceptions, "LineTooLong", _Absent)
    RawRequestMessage = getattr(http_parser, "RawRequestMessage", _Absent)
    ERROR = getattr(web_protocol, "ERROR", None)


class UnknownAiohttp(MetergateError):
    """The installed aiohttp lacks private parts that the guarded edge needs, or has others by their names."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"This version of aiohttp is not one that the gateway's edge was written for: {'; '.join(missing)}. "
            "Install the version that requirements/ names, or set `edge: plain` under `defaults` in metergate.yaml, "
            "which serves without these parts (docs/reliability.md says what it does not hold)."
        )


def missing_parts() -> tuple[str, ...]:
    """Return what the installed aiohttp lacks of these parts, or has in another shape, one phrase each."""
    return (*_of_class(), *_of_messages(), *_of_instances())


def _of_class() -> Iterator[str]:
    for name, parameters in METHODS.items():
        method = getattr(web.RequestHandler, name, None)
        if method is None:
            yield f"RequestHandler.{name} is missing"
        elif (found := _parameters(method)) != parameters:
            yield f"RequestHandler.{name} takes ({', '.join(found)}), not ({', '.join(parameters)})"
    if not inspect.iscoroutinefunction(getattr(web.AppRunner, "_make_server", None)):
        yield "AppRunner._make_server is missing"
    for name in REQUEST:
        if not _names(web.BaseRequest, name):
            yield f"BaseRequest.{name} is missing"


def _parameters(method: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(method).parameters if name != "self")


def _names(kind: type, name: str) -> bool:
    """Return whether instances of a class have an attribute: one of the class, or one that its constructor names."""
    constructor: Any = vars(kind)["__init__"]
    return hasattr(kind, name) or name in constructor.__code__.co_names


def _of_messages() -> Iterator[str]:
    for name in MESSAGE:
        if not hasattr(ERROR, name):
            yield f"web_protocol.ERROR.{name} is missing"
    for owner, name in (
        (http_parser, "RawRequestMessage"),
        (RawRequestMessage, "_replace"),
        (getattr(http_parser, "HttpRequestParser", None), "message_consumed"),
        (http_exceptions, "HttpProcessingError"),
        (http_exceptions, "LineTooLong"),
    ):
        if not hasattr(owner, name):
            yield f"{getattr(owner, '__name__', 'HttpRequestParser')}.{name} is missing"


def _of_instances() -> Iterator[str]:
    """Make a server and a connection, which need no running loop for that, and compare them."""
    try:
        server: Any = web.Server(_never, loop=cast("Any", object()))
        connection = server()
    except Exception as error:  # any exception of a changed constructor
        yield f"a RequestHandler can't be made ({type(error).__name__}: {error})"
        return
    for owner, parts in ((server, SERVER), (connection, CONNECTION)):
        for name, kind in parts.items():
            if not hasattr(owner, name):
                yield f"{type(owner).__name__}.{name} is missing"
            elif not isinstance(getattr(owner, name), kind):
                yield f"{type(owner).__name__}.{name} is a {type(getattr(owner, name)).__name__}"


async def _never(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("a server that is only looked at has been asked")


# Of the installed aiohttp; nothing where it is one that the edge knows.
MISSING: Final = missing_parts()


def check_edge(kind: EdgeKind) -> None:
    """Raise `UnknownAiohttp` where an edge of this kind can't serve with the installed aiohttp."""
    if kind == "guarded" and MISSING:
        raise UnknownAiohttp(MISSING)
