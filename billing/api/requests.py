"""What a request says, checked: its body, its query string, the ids in its path. All raise `errors.ApiError`."""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from billing.api.errors import BadRequest, NotFound, TooLarge
from billing.api.services import SERVICES
from billing.codings import BadCoding, decoder_of
from billing.money import MoneyError, parse_positive_usd, parse_usd
from billing.pages import DEFAULT_LIMIT, MAX_LIMIT
from billing.times import TimeError, parse_rfc3339

_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,255}", re.ASCII)
_FIELD: Final = re.compile(r"\$\.([A-Za-z_]+)")
_FIELD_ALONE: Final = re.compile(r"^Object (?:missing required|contains unknown) field `([^`]{1,64})`$")
_NUL: Final = b"\\u0000"
_MAX_CURSOR: Final = 512
_MAX_FILTER: Final = 255

AWAITS_BODY: Final = web.RequestKey("awaits_body", bool)
"""Whether a request's body is being read: what takes too long then is the client."""
AWAITS_CONTINUE: Final = web.RequestKey("awaits_continue", bool)
"""Whether the client waits to be told that its body is wanted, and the server leaves that to `read_bounded`: who is
refused before need not send it (RFC 9110, 10.1.1)."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
BODY_TOO_SLOW: Final = "The body did not arrive in time: send it faster."

T = TypeVar("T")


async def read_body(request: web.Request, model: type[T]) -> T:
    """The JSON body as `model`: 413 beyond the bound, 400 for what is not JSON or not that shape."""
    body = await read_bounded(request, request.app[SERVICES].max_body_bytes)
    if _NUL in body or b"\0" in body:
        raise BadRequest("The body must not contain NUL characters.")
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}.", _param(str(error))) from error
    except UnicodeDecodeError as error:
        raise BadRequest("The body is not UTF-8.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from error


async def read_bounded(request: web.Request, limit_bytes: int, timeout_s: float | None = None) -> bytes:
    """The body, decoded, bounded before and while it is read and decoded; `timeout_s` is the time to send it."""
    too_large = TooLarge(f"The body must not be larger than {limit_bytes} bytes.")
    if (request.content_length or 0) > limit_bytes:
        raise too_large
    request[AWAITS_BODY] = True
    try:
        async with asyncio.timeout(timeout_s):
            body = await _whole(request, limit_bytes)
    except TimeoutError as error:
        raise BadRequest(BODY_TOO_SLOW) from error
    except BadCoding as error:
        raise BadRequest(str(error)) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise BadRequest("The body ended too soon, or is not framed as its headers say.") from error
    if body is None:
        raise too_large
    request[AWAITS_BODY] = False
    return body


async def _whole(request: web.Request, limit_bytes: int) -> bytes | None:
    """The whole body, None where it is larger; a server that has decoded it by itself is believed."""
    content, body = request.content, bytearray()
    if content.at_eof():
        return b""
    if request.get(AWAITS_CONTINUE) and not content.is_eof():
        await request.writer.write(CONTINUE)
        request.writer.output_size = 0  # the answer has not begun
    by_server = content.total_compressed_bytes is not None
    decoder = None if by_server else decoder_of(request.headers.get("Content-Encoding"))
    coded_bytes = 0
    async for part in content.iter_any():
        coded_bytes += len(part)
        if coded_bytes > limit_bytes:
            return None
        for piece in (part,) if decoder is None else decoder.feed(part):
            body += piece
            if len(body) > limit_bytes:
                return None
            await asyncio.sleep(0)  # a little coded makes much: others have their turn in between
    if decoder is not None:
        decoder.end()
    return bytes(body)


def _param(message: str) -> str | None:
    match = _FIELD.search(message) or _FIELD_ALONE.search(message)
    return match[1] if match else None


def money(param: str, said: object) -> int:
    """Nano-USD, not below zero, of a decimal string."""
    nano = _parsed(param, parse_usd, said)
    if nano < 0:
        raise BadRequest(f"{param} must not be below zero.", param)
    return nano


def positive_money(param: str, said: object) -> int:
    """Nano-USD, above zero, of a decimal string."""
    return _parsed(param, parse_positive_usd, said)


def time(param: str, said: str) -> datetime:
    """A time in RFC 3339, or a day."""
    return _parsed(param, parse_rfc3339, said)


def _parsed(param: str, parse: Callable[[Any], T], said: object) -> T:
    try:
        return parse(said)
    except (MoneyError, TimeError) as error:
        raise BadRequest(f"{param}: {error}.", param) from error


def path_id(request: web.Request, name: str) -> str:
    """The id in the path; what can't be one is not found."""
    said = request.match_info[name]
    if _ID.fullmatch(said) is None:
        raise NotFound(f"There is nothing with the {name.replace('_', ' ')} {said!r}.")
    return said


def query_text(request: web.Request, name: str) -> str | None:
    """A filter of the query string; None where it is absent."""
    said = request.query.get(name)
    if said is not None and (not 0 < len(said) <= _MAX_FILTER or "\0" in said):
        raise BadRequest(f"{name} must have 1 to {_MAX_FILTER} characters.", name)
    return said


def query_time(request: web.Request, name: str) -> datetime | None:
    """A time of the query string; None where it is absent."""
    said = request.query.get(name)
    return None if said is None else time(name, said)


def page_asked(request: web.Request) -> tuple[int, str | None]:
    """`limit` and the place that `cursor` stands for; None for the first page."""
    said = request.query.get("limit", str(DEFAULT_LIMIT))
    limit = int(said) if said.isascii() and said.isdigit() and len(said) <= len(str(MAX_LIMIT)) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"limit must be an integer from 1 to {MAX_LIMIT}.", "limit")
    cursor = request.query.get("cursor")
    return limit, None if cursor is None else _decoded(cursor)


def encode_cursor(place: str | None) -> str | None:
    """A page's end as an opaque cursor."""
    return None if place is None else base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    bad = BadRequest("This cursor is not one that this list has given.", "cursor")
    if len(cursor) > _MAX_CURSOR:
        raise bad
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        place = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise bad from error
    if _ID.fullmatch(place) is None:
        raise bad
    return place
