"""Routes: one declaration of an endpoint, from which come what serves it and its part of `/api/openapi.json`.

A handler is an async function of a `Call` and of what its route declares: the query string first, then the body. It
returns the answer's shape, None where there is no body, a table, or a whole response. `serving` makes an aiohttp
handler of it, with the checks in the order of all refusals: the key, then the query string and the body, then what is
not found, then the scope; a table is streamed after all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from billing.addresses import UNKNOWN
from billing.api.auth import (
    ADMIN_HEADER,
    BILLING_READ,
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
from billing.api.errors import InsufficientScope
from billing.api.requests import path_id, read_body, read_query
from billing.api.services import SERVICES, Services
from billing.api.tables import Table
from billing.audit import Actor
from billing.identity.callers import NOBODY, Caller
from billing.logs import log_about
from billing.schemas.base import ErrorEnvelope

if TYPE_CHECKING:
    from billing.principals import Principal

PREFIX: Final = "/api"
"""What every path of the billing API begins with."""
JSON: Final = "application/json"
REPLAYED_HEADER: Final = "idempotent-replayed"
"""On the first answer given again, as Stripe has it (https://docs.stripe.com/api/idempotent_requests)."""
HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(Enum):
    """Who may call: anyone; whoever has an API key; a key or a person's token; a person; a service; or the operator,
    who has the admin key or is a person with that right."""

    anyone = "anyone"
    key = "API key"
    caller = "API key or token"
    person = "token"
    service = "service key"
    admin = "admin key"


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint: `path` is the whole path. `name` is unique and the handler's where none is given; `summary` is the
    handler's docstring likewise.

    `query` and `body` are the shapes of what is asked, `answer` that of a success with `status` (None: no body).
    `errors` are statuses beside those that follow from the rest, `refusal` is their shape; `scope` is what a caller
    needs; with `whole` a person's token must not have been narrowed. With `or_bearer` the admin key may come as a
    bearer, too; `hint` is added to the refusal of a request without it.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    access: Access
    answer: Any = None
    query: type[msgspec.Struct] | None = None
    body: Any = None
    status: int = 200
    scope: str | None = None
    whole: bool = False
    errors: tuple[int, ...] = ()
    media: str = JSON
    accepts: tuple[tuple[str, Any], ...] = ()
    refusal: Any = ErrorEnvelope
    body_optional: bool = False
    or_bearer: bool = False
    csv: bool = False
    hint: str = ""
    name: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.handler.__name__)
        if not self.summary:
            object.__setattr__(self, "summary", " ".join((self.handler.__doc__ or "").split()))

    @property
    def tag(self) -> str:
        """Return what groups it with others: its module."""
        return self.handler.__module__.rpartition(".")[2]


REQUEST_ID_HEADER: Final = "x-request-id"
REQUEST_ID: Final = web.RequestKey("request_id", str)
"""The id that a request's answer and its rows of the audit log have."""
ACTOR: Final = web.RequestKey("actor", Actor)
"""Who calls one of the gateway's own endpoints behind the admin key, for the audit log."""


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
        """Return whose data the call is about. Raises `InsufficientScope` for a person without an organization."""
        if self.caller.account_id is None:
            raise InsufficientScope("This call is about an organization's account: you belong to none.")
        return self.caller.account_id

    @property
    def sees_cost(self) -> bool:
        """Return whether the caller sees what providers charge, and by which price rows: operators and their programs
        do, customers where `customers_see` says so."""
        return self.services.customers_see == "cost" or self.caller.is_operator

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


async def admit_admin(route: Route, request: web.Request, services: Services) -> Caller:
    """Return the operator who calls: the admin key, or a person's token with that right. Raises `Unauthorized`,
    `InsufficientScope` and `TooManyAttempts`."""
    if ADMIN_HEADER not in request.headers and shown_token(request) is not None:
        person = await person_caller(request, services)
        if not person.operator:
            raise InsufficientScope(f"This call is for operators. {person.hint}".rstrip(), required_scope="operator")
        return person
    expected = services.admin_api_key or ""
    await require_admin(request, expected, services.attempts, or_bearer=route.or_bearer, hint=route.hint)
    return Caller("admin")


async def identify(route: Route, request: web.Request, services: Services) -> Caller:
    """Return who calls a route. Raises `ApiError` for whom it is not for, and `TooManyAttempts`."""
    match route.access:
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
            return await admit_admin(route, request, services)


def serving(route: Route) -> HttpHandler:
    """Return the aiohttp handler of a route."""

    async def serve(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        who = await identify(route, request, services)
        call = Call(request, services, who)
        log_about(request.get(REQUEST_ID, ""), who.account_id)
        asked: list[object] = []
        if route.query is not None:
            asked.append(read_query(request, route.query))
        if route.body is not None:
            absent = route.body_optional and not request.can_read_body
            asked.append(route.body() if absent else await read_body(request, route.body))
        if ORG_IN_PATH in request.match_info and route.access is not Access.admin:
            await require_organization(request, who)
        if route.whole:
            require_whole(who)
        is_read = route.method == "GET"
        if route.scope is not None and not is_read:
            require_scope(who, route.scope)
        found = await route.handler(call, *asked)
        if route.scope is not None and is_read:  # a read changes nothing: what is not found comes before
            require_scope(who, route.scope)
        if isinstance(found, web.StreamResponse):
            return found
        if isinstance(found, Table):
            return await found.send(request)
        response = web.Response(status=route.status) if found is None else answer(found, route.status)
        response.headers.update(call.headers)
        return response

    return serve


def customer_read(
    path: str,
    handler: Callable[..., Awaitable[Any]],
    answer_shape: Any,
    query: type[msgspec.Struct] | None = None,
    *,
    csv: bool = False,
) -> Route:
    """Return the route of a read of the caller's own account, which takes a key or a token with `billing:read`."""
    return Route("GET", path, handler, Access.caller, answer_shape, query, scope=BILLING_READ, csv=csv)
