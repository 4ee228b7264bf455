"""Routes: what serves the operations of the API (`billing.api.operation`).

A handler is an async function of a `Call` and of what its operation asks for: the query string first, then the body. It
is marked with `serves`. It returns the answer's shape, None where there is no body, a table, or a whole response.
`serving` makes an aiohttp handler of it, with the checks in the order of all refusals: the key, then the query string
and the body, then what is not found, then the scope; a table is streamed after all of them.

A `Table` is answered as CSV (RFC 4180, https://www.rfc-editor.org/rfc/rfc4180) to who asks for `text/csv`. It is
streamed in bounded memory, one that breaks off never looks whole, and no cell is a formula to a spreadsheet
(https://owasp.org/www-community/attacks/CSV_Injection). The time limit of a request holds for each part of a table, not
for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiohttp import ClientConnectionResetError, web

from billing.addresses import UNKNOWN
from billing.api.auth import (
    ADMIN_HEADER,
    ORG_IN_PATH,
    any_caller,
    key_caller,
    person_caller,
    require_admin,
    require_organization,
    require_scope,
    require_whole,
    service_caller,
    shown_token,
)
from billing.api.operation import JSON, Access, Operation
from billing.api.requests import InsufficientScope, NotFound, path_id, read_body, read_query
from billing.api.services import SERVICES, Services
from billing.audit import Actor
from billing.logs import log_about
from billing.permissions import BILLING_SETUP
from billing.principals import NOBODY, Caller

if TYPE_CHECKING:
    from types import ModuleType

    from billing.payments.assembly import Payments
    from billing.principals import Principal

CSV: Final = "text/csv"
# What ends a request that takes too long.
TIME_LIMIT: Final = web.RequestKey("time_limit", asyncio.Timeout)
_JSON: Final = "application/json"
# What a cell begins with that a spreadsheet may take for a formula; a number does no harm. The last four are the wide
# forms of the first four.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_QUOTED: Final = re.compile('[",\r\n]')
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_QUALITY: Final = re.compile(r"\s*q\s*=\s*(?P<q>[01](\.\d{0,3})?)\s*", re.ASCII)

_log = logging.getLogger(__name__)


def wants_csv(request: web.Request) -> bool:
    """Return whether `Accept` prefers CSV to JSON: by its quality, or alone."""
    named = {CSV: 0.0, _JSON: 0.0}
    for part in ",".join(request.headers.getall("Accept", ())).split(","):
        media, *parameters = part.split(";")
        if (name := media.strip().lower()) in named:
            found = (_QUALITY.fullmatch(each) for each in parameters)
            named[name] = next((float(match["q"]) for match in found if match), 1.0)
    return named[CSV] > named[_JSON]


def rows(table: Iterable[Iterable[object]]) -> bytes:
    """Return rows as lines of CSV. Nothing is an empty cell, an empty text two quotation marks, what is a mapping or a
    list its JSON."""
    return "".join(f"{','.join(map(_quoted, row))}\r\n" for row in table).encode()


def _quoted(value: object) -> str:
    if value is None:
        return ""
    cell = _cell(value)
    return '"{}"'.format(cell.replace('"', '""')) if not cell or _QUOTED.search(cell) else cell


def _cell(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            is_formula = value.startswith(_FORMULA) and _NUMBER.fullmatch(value) is None
            return f"'{value}" if is_formula else value
        case int() | float():
            return str(value)
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True)
class Table:
    """A table to be streamed: the name of its file without the ending, and its lines in parts."""

    name: str
    parts: AsyncIterator[bytes]

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Send it part by part. What fails before the first is raised as by any handler; later the connection is
        aborted, so that nobody takes what has come for all."""
        first = await anext(self.parts, b"")
        response = web.StreamResponse(
            headers={
                "Content-Type": f"{CSV}; charset=utf-8; header=present",
                "Content-Disposition": f'attachment; filename="{self.name}.csv"',
                "Cache-Control": "no-store",
                "Vary": "Accept",
            }
        )
        try:
            await response.prepare(request)
            await response.write(first)
            async for part in self.parts:
                _prolong(request)
                await response.write(part)
            await response.write_eof()
        except BaseException as error:
            _log.info("%s broke off: %s", request.path, type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
            if not isinstance(error, ClientConnectionResetError):  # the client has left: nothing has failed
                raise
        return response


def _prolong(request: web.Request) -> None:
    """Give the request as long again: a part of it was made and taken in time."""
    if (limit := request.get(TIME_LIMIT)) is not None:
        limit.reschedule(asyncio.get_running_loop().time() + request.config_dict[SERVICES].request_timeout_s)


# What every path of the billing API begins with.
PREFIX: Final = "/api"
# On the first answer given again, as Stripe has it (https://docs.stripe.com/api/idempotent_requests).
REPLAYED_HEADER: Final = "idempotent-replayed"
HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Handler = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Handler)


@dataclass(frozen=True, slots=True)
class Route:
    """What serves an operation. The document names it by its handler, and has the handler's docstring; `group` is what
    it stands with others in, else the handler's module."""

    operation: Operation[..., Any]
    handler: Handler
    group: str = ""

    @property
    def name(self) -> str:
        """Return what the operation is called: uniquely."""
        operation, own = self.operation, self.handler.__name__
        return operation.name or (f"{own}_of_{operation.of}" if operation.of else own)

    @property
    def summary(self) -> str:
        """Return what the operation does."""
        own = self.operation.summary or " ".join((self.handler.__doc__ or "").split())
        return f"{own} {self.operation.also}".rstrip()

    @property
    def tag(self) -> str:
        """Return what groups it with others."""
        return self.group or self.handler.__module__.rpartition(".")[2]


def serves(*operations: Operation[..., Any]) -> Callable[[F], F]:
    """Make a function the handler of operations."""

    def mark(handler: F) -> F:
        handler.serves = operations  # type: ignore[attr-defined]
        return handler

    return mark


def routes_of(operations: Mapping[Operation[..., Any], str], modules: Iterable[ModuleType]) -> tuple[Route, ...]:
    """Return what serves operations, each of a group, by the functions of modules that say so. Raises `KeyError` for
    one that nothing serves."""
    functions = [each for module in modules for each in vars(module).values()]
    handlers = {operation: each for each in functions for operation in getattr(each, "serves", ())}
    return tuple(Route(operation, handlers[operation], group) for operation, group in operations.items())


ACCOUNT_IN_PATH: Final = "account_id"
REQUEST_ID_HEADER: Final = "x-request-id"
# The id that a request's answer and its rows of the audit log have.
REQUEST_ID: Final = web.RequestKey("request_id", str)
# Who calls one of the gateway's own endpoints behind the admin key, for the audit log.
ACTOR: Final = web.RequestKey("actor", Actor)


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a route, and who makes it. `headers` are sent with the answer."""

    request: web.Request
    services: Services
    caller: Caller
    headers: dict[str, str] = field(default_factory=dict)

    def id(self, name: str) -> str:
        """Return the id in the path. Raises `NotFound` for what can't be one."""
        return path_id(self.request, name)

    @property
    def account_id(self) -> str:
        """Return whose data the call is about: the account of the path, which operators name, or else the caller's own.
        Raises `InsufficientScope` for a person without an organization."""
        if ACCOUNT_IN_PATH in self.request.match_info:
            return self.id(ACCOUNT_IN_PATH)
        if self.caller.account_id is None:
            raise InsufficientScope("This call is about an organization's account: you belong to none.")
        return self.caller.account_id

    @property
    def sees_cost(self) -> bool:
        """Return whether the caller sees what providers charge, and by which price rows: operators and their programs
        do, customers where `customers_see` says so."""
        return self.services.customers_see == "cost" or self.caller.is_operator

    @property
    def may_pay(self) -> bool:
        """Return whether the caller may have the addresses of pages at which the account pays: they need no other
        key."""
        return BILLING_SETUP in self.caller.scopes

    @property
    def payments(self) -> Payments:
        """Return what takes payments. Raises `NotFound` where they are off."""
        if self.services.payments is None:
            raise NotFound("This gateway takes no payments: ask whoever runs it for credit.")
        return self.services.payments

    @property
    def principal(self) -> Principal:
        """Return the principal of the API key. Raises `TypeError` where there is none."""
        if self.caller.principal is None:
            raise TypeError("only an API key has a principal")
        return self.caller.principal

    @property
    def actor(self) -> Actor:
        """Return what the audit log says of the caller."""
        request = self.request
        address = self.services.attempts.address_of(request.remote or "", request.headers)
        known = None if address == UNKNOWN else address
        return Actor(self.caller.name, known, request.get(REQUEST_ID))


PART_BYTES: Final = 65_536


def in_parts(body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer whose body is sent in parts, each once its client has taken those before: of a large one that
    anybody may ask for, little waits for a client that takes none of it."""

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), PART_BYTES):
            yield body[start : start + PART_BYTES]

    length = {"Content-Length": str(len(body)), "Content-Type": content_type}
    return web.Response(body=parts(), headers={**(headers or {}), **length})


def answer(shape: object, status: int = 200) -> web.Response:
    """Return a shape as JSON, of which no cache may keep anything."""
    return web.Response(
        status=status, body=msgspec.json.encode(shape), content_type=JSON, headers={"Cache-Control": "no-store"}
    )


async def admit_admin(operation: Operation[..., Any], request: web.Request, services: Services) -> Caller:
    """Return the operator who calls: the admin key, or a person's token with that right. Raises `Unauthorized`,
    `InsufficientScope` and `TooManyAttempts`."""
    if ADMIN_HEADER not in request.headers and shown_token(request) is not None:
        person = await person_caller(request, services)
        if not person.operator:
            raise InsufficientScope(f"This call is for operators. {person.hint}".rstrip(), required_scope="operator")
        return person
    expected = services.admin_api_key or ""
    await require_admin(request, expected, services.attempts, or_bearer=operation.or_bearer, hint=operation.hint)
    return Caller("admin")


async def identify(operation: Operation[..., Any], request: web.Request, services: Services) -> Caller:
    """Return who calls an operation. Raises `ApiError` for whom it is not for, and `TooManyAttempts`."""
    match operation.who:
        case Access.anyone:
            return NOBODY
        case Access.key:
            return await key_caller(request)
        case Access.caller:
            return await any_caller(request, services)
        case Access.person:
            return await person_caller(request, services)
        case Access.service:
            return await service_caller(request)
        case Access.admin:
            return await admit_admin(operation, request, services)


def serving(route: Route) -> HttpHandler:
    """Return the aiohttp handler of a route."""
    operation, handler = route.operation, route.handler

    async def serve(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        who = await identify(operation, request, services)
        call = Call(request, services, who)
        log_about(request.get(REQUEST_ID, ""), who.account_id)
        asked: list[object] = []
        if operation.query is not None:
            asked.append(read_query(request, operation.query))
        if operation.body is not None:
            absent = operation.optional and not request.can_read_body
            asked.append(operation.body() if absent else await read_body(request, operation.body))
        if ORG_IN_PATH in request.match_info and operation.who is not Access.admin:
            await require_organization(request, who)
        if operation.whole:
            require_whole(who)
        is_read = operation.method == "GET"
        if operation.scope is not None and not is_read:
            require_scope(who, operation.scope)
        found = await handler(call, *asked)
        if operation.scope is not None and is_read:  # a read changes nothing: what is not found comes before
            require_scope(who, operation.scope)
        if isinstance(found, web.StreamResponse):
            return found
        if isinstance(found, Table):
            return await found.send(request)
        response = web.Response(status=operation.status) if found is None else answer(found, operation.status)
        response.headers.update(call.headers)
        return response

    return serve
