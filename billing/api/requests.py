"""A request's body, query string and path, checked; and how a request is refused: OpenAI's envelope,
`{"error": {"message", "type", "param", "code", ...}}`.

ApiError                 a refusal with its status, code and headers
+-- BadRequest           400 invalid_request_error: a body, query or bound; `param` names the field
+-- Unpriced             400 model_not_priced: the table of prices has no row for it
+-- Unauthorized         401 invalid_api_key: no key, or one that is wrong, revoked or expired
+-- InsufficientScope    403 insufficient_scope: with `required_scope`
+-- NotFound             404 not_found: also what belongs to another account
+-- Conflict             409 idempotency_conflict
+-- TooLarge             413 request_too_large
+-- TooMany              429 too_many_attempts: with Retry-After
+-- QuotaExceeded        429 quota_exceeded: with `quota` and `upgrade`
+-- Unavailable          503 temporarily_unavailable: with Retry-After

`of_failure` says which of them an exception of `billing` is, by its `kind`. Messages never hold a secret or an internal
name. All that reads a request raises one of them.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar, get_args
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from billing.api.services import SERVICES
from billing.codings import BadCoding, decoder_of
from billing.database.connection import DatabaseUnavailable
from billing.errors import MetergateError
from billing.money import MoneyError, parse_positive_usd, parse_usd
from billing.pages import Page
from billing.schemas.base import Listing, PageQuery, error_body
from billing.schemas.decoding import decode_shape, mismatch, unreadable, values_of
from billing.times import TimeError, parse_rfc3339, zone_of

RETRY_AFTER_S: Final = 1
_SERVER_ERROR: Final = 500


class ApiError(MetergateError):
    """A refusal. `more` are further fields of the body's `error`."""

    status: ClassVar[int] = _SERVER_ERROR
    code: ClassVar[str] = "server_error"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, param: str | None = None, **more: object) -> None:
        super().__init__(message)
        self.message, self.param, self.more = message, param, more

    @property
    def type(self) -> str:
        """Return the envelope's `type`, which follows from the status."""
        return _type_of(self.status)

    def response(self) -> web.Response:
        """Return the refusal as an answer."""
        return error_response(
            self.status, self.code, self.message, headers=self.headers, param=self.param, more=self.more
        )


class BadRequest(ApiError):
    """A body, a query or a bound that is wrong."""

    status, code = 400, "invalid_request_error"


class Unpriced(ApiError):
    """A meter or a model without a price."""

    status, code = 400, "model_not_priced"


class Unauthorized(ApiError):
    """No key, or one that is wrong, revoked or expired."""

    status, code = 401, "invalid_api_key"


class InsufficientScope(ApiError):
    """A key without the scope that the route needs."""

    status, code = 403, "insufficient_scope"


class NotFound(ApiError):
    """Nothing there, or what belongs to another account."""

    status, code = 404, "not_found"


class Conflict(ApiError):
    """An idempotency key that was used for something else."""

    status, code = 409, "idempotency_conflict"


class TooLarge(ApiError):
    """A body above its bound."""

    status, code = 413, "request_too_large"


class TooMany(ApiError):
    """An address that has shown too many wrong keys."""

    status, code = 429, "too_many_attempts"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_s)}


class QuotaExceeded(ApiError):
    """Units of a feature that are used up, or were never there: nothing clears within a minute, as clients are told."""

    status, code = 429, "quota_exceeded"
    headers = MappingProxyType({"x-should-retry": "false"})


class Unavailable(ApiError):
    """A store that is away."""

    status, code = 503, "temporarily_unavailable"
    headers = MappingProxyType({"Retry-After": str(RETRY_AFTER_S)})


_OF_KIND: Final[Mapping[str, type[ApiError]]] = {
    "unauthorized": Unauthorized,
    "not_found": NotFound,
    "invalid": BadRequest,
    "conflict": Conflict,
    "not_priced": Unpriced,
    "unavailable": Unavailable,
}


def of_failure(error: Exception) -> ApiError | None:
    """Return what an exception is answered with; None for one that was not foreseen."""
    match error:
        case ApiError():
            return error
        case DatabaseUnavailable():
            return Unavailable("The billing database is temporarily unavailable; try again.")
        case TimeoutError():
            return Unavailable("The request took too long; try again.")
        case MetergateError(kind="too_many"):
            return TooMany(str(error), error.retry_after_s or RETRY_AFTER_S)
        case MetergateError(kind="forbidden"):
            return InsufficientScope(str(error), required_scope=error.required_scope)
        case MetergateError(kind=str(kind)):
            return _OF_KIND[kind](str(error), error.field)
    return None


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
    more: Mapping[str, object] | None = None,
) -> web.Response:
    """Return a response with the envelope."""
    return web.Response(
        status=status,
        body=error_body(code, message, type_=_type_of(status), param=param, **(more or {})),
        content_type="application/json",
        headers=headers,
    )


def _type_of(status: int) -> str:
    return "server_error" if status >= _SERVER_ERROR else "invalid_request_error"


# Whether the client waits, and the server leaves it to whoever reads the body to tell it: a request that is refused
# before need not send one.
AWAITS_CONTINUE: Final = web.RequestKey("awaits_continue", bool)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,255}", re.ASCII)
# The end of a page of transactions. The numbers of those that are under way stand at its end.
_MOMENT: Final = re.compile(r"[A-Za-z0-9_.-]{1,80}:-?[0-9]{1,20}:[0-9a-f]{32}:[0-9:,]{0,1000}", re.ASCII)
_WHOLE: Final = re.compile("[0-9]{1,9}", re.ASCII)
_NUL: Final = b"\\u0000"
_MAX_CURSOR: Final = 1_536

# Whether a request's body is being read: what takes too long then is the client.
AWAITS_BODY: Final = web.RequestKey("awaits_body", bool)
BODY_TOO_SLOW: Final = "The body did not arrive in time: send it faster."

T = TypeVar("T")
S = TypeVar("S")
Q = TypeVar("Q", bound=msgspec.Struct)


async def read_body(request: web.Request, model: type[T], *, optional: bool = False) -> T:
    """Return the JSON body as `model`: 413 beyond the bound, 400 for what is not JSON or not that shape. Where it is
    optional an empty one is an empty object."""
    body = await read_bounded(request, request.app[SERVICES].max_body_bytes)
    if optional and not body:
        body = b"{}"
    if _NUL in body or b"\0" in body:
        raise BadRequest("The body must not contain NUL characters.")
    return decoded(body, model)


def decoded(raw: bytes | msgspec.Raw, model: type[T], field: str | None = None) -> T:
    """Return JSON as `model`. Raises `BadRequest`, which names `field` or the one that is wrong."""
    try:
        return decode_shape(raw, model)
    except msgspec.ValidationError as error:
        message, found = mismatch(error, model)
        raise BadRequest(message, field or found) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(unreadable(error), field) from error


async def read_bounded(request: web.Request, limit_bytes: int, timeout_s: float | None = None) -> bytes:
    """Return the body, decoded, bounded before and while it is read and decoded; `timeout_s` is the time to send it."""
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
    """Return the whole body, None where it is larger; one that the server has decoded is not decoded again."""
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
            await asyncio.sleep(0)  # little coded makes much: other tasks run in between
    if decoder is not None:
        decoder.end()
    return bytes(body)


def shaped(given: Mapping[str, object], model: type[T]) -> T:
    """Return fields that were given, those of a form, as `model`."""
    try:
        return msgspec.convert(given, model, str_keys=True)
    except msgspec.ValidationError as error:
        raise BadRequest(*mismatch(error, model)) from error


def money(param: str, given: object) -> int:
    """Return nano-USD, not below zero, of a decimal string."""
    nano = _parsed(param, parse_usd, given)
    if nano < 0:
        raise BadRequest(f"{param} must not be below zero.", param)
    return nano


def positive_money(param: str, given: object) -> int:
    """Return nano-USD, above zero, of a decimal string."""
    return _parsed(param, parse_positive_usd, given)


def signed_money(param: str, given: object) -> int:
    """Return nano-USD, above or below zero, of a decimal string."""
    nano = _parsed(param, parse_usd, given)
    if nano == 0:
        raise BadRequest(f"{param} must not be zero.", param)
    return nano


def moment(param: str, given: str | None) -> datetime | None:
    """Return a time in RFC 3339, or the first moment of a day; None where it is absent."""
    return None if given is None else _parsed(param, parse_rfc3339, given)


def in_future(param: str, at: datetime | None, now_s: float) -> datetime | None:
    """Return a time that is after `now_s`, or None where it is absent."""
    if at is not None and at.timestamp() <= now_s:
        raise BadRequest(f"{param} must be in the future.", param)
    return at


def zone(param: str, given: str) -> ZoneInfo:
    """Return a time zone of the IANA database by its name."""
    return _parsed(param, zone_of, given)


def _parsed(param: str, parse: Callable[[Any], T], given: object) -> T:
    try:
        return parse(given)
    except (MoneyError, TimeError) as error:
        raise BadRequest(f"{param}: {error}.", param) from error


def path_id(request: web.Request, name: str) -> str:
    """Return the id in the path. Raises `NotFound` for what can't be one."""
    given = request.match_info[name]
    if _ID.fullmatch(given) is None:
        raise NotFound(f"There is nothing with the {name.replace('_', ' ')} {given!r}.")
    return given


def read_query(request: web.Request, model: type[Q]) -> Q:
    """Return the query string as `model`, the first of each parameter; those that it does not know are left out."""
    return query_of(request.query, model)


def query_of(query: Mapping[str, str], model: type[Q]) -> Q:
    """Return the parameters of a query string as `model`; those that it does not know are left out."""
    given: dict[str, object] = {}
    for name, is_integer in _parameters(model):
        if (text := query.get(name)) is not None:
            if "\0" in text:
                raise BadRequest(f"{name} must not contain NUL characters.", name)
            given[name] = int(text) if is_integer and _WHOLE.fullmatch(text) else text
    try:
        return msgspec.convert(given, model, str_keys=True)
    except msgspec.ValidationError as error:
        message, param = mismatch(error, model)
        expected = None if param is None else values_of(model, param)
        raise BadRequest(message if expected is None else f"{param} must be {expected}.", param) from error


@cache
def _parameters(model: type[msgspec.Struct]) -> tuple[tuple[str, bool], ...]:
    """Return the parameters of a query string's shape, each with whether it is an integer."""
    return tuple((each.encode_name, int in _parts_of(each.type)) for each in msgspec.structs.fields(model))


def _parts_of(annotation: Any) -> Iterator[Any]:
    """Yield a type, and those that it is made of: of `Annotated[int, ...] | None` also `int`."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts_of(part)


def page_asked(query: PageQuery) -> tuple[int, str | None]:
    """Return `limit` and the place that `cursor` stands for; None for the first page."""
    return query.limit, None if query.cursor is None else _decoded(query.cursor)


def listing(page: Page[T], shape: Callable[[T], S]) -> Listing[S]:
    """Return a page's shape, with the shape of each item."""
    return Listing(data=[shape(item) for item in page.items], next_cursor=encode_cursor(page.next_after))


def encode_cursor(place: str | None) -> str | None:
    """Return a page's end as an opaque cursor."""
    return None if place is None else base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    bad = BadRequest("This cursor is not from this list.", "cursor")
    if len(cursor) > _MAX_CURSOR:
        raise bad
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        place = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise bad from error
    if _ID.fullmatch(place) is None and _MOMENT.fullmatch(place) is None:
        raise bad
    return place
