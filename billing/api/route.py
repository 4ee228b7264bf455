"""Routes: one declaration of an endpoint, from which come what serves it and its part of `/api/openapi.json`.

A handler is an async function of a `Call` and of what its route declares: the query string first, then the body. It
returns the answer's shape, None where there is no body, a table, or a whole response. `serving` makes an aiohttp
handler of it, with the checks in the order of all refusals: the key, then the query string and the body, then what is
not found, then the scope; a table is streamed after all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from billing.api.auth import BILLING_READ, caller, require_admin, require_scope
from billing.api.requests import path_id, read_body, read_query
from billing.api.services import SERVICES, Services
from billing.api.tables import Table

if TYPE_CHECKING:
    from billing.principals import Principal

PREFIX: Final = "/api"
"""What every path of the billing API begins with."""
JSON: Final = "application/json"
HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(Enum):
    """Who may call: anyone, whoever has an API key, or the admin key."""

    anyone = "anyone"
    key = "API key"
    admin = "admin key"


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint: `path` is the whole path. `name` is unique and the handler's where none is given; `summary` is the
    handler's docstring likewise.

    `query` and `body` are the shapes of what is asked, `answer` that of a success with `status` (None: no body).
    `errors` are statuses beside those that follow from the rest; `scope` is what an API key needs. With `or_bearer` the
    admin key may come as a bearer, too; `hint` is added to the refusal of a request without it. With
    `csv` the answer may be a `Table`, for who asks for one.
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
    errors: tuple[int, ...] = ()
    media: str = JSON
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


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a route. `headers` are sent with the answer; `principal` is that of an API key."""

    request: web.Request
    services: Services
    principal: Principal
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def account_id(self) -> str:
        """Return whose data the caller reads."""
        return self.principal.account_id

    def id(self, name: str) -> str:
        """Return the id in the path. Raises `NotFound` for what can't be one."""
        return path_id(self.request, name)


def answer(shape: object, status: int = 200) -> web.Response:
    """Return a shape as JSON, of which no cache may keep anything."""
    return web.Response(
        status=status, body=msgspec.json.encode(shape), content_type=JSON, headers={"Cache-Control": "no-store"}
    )


async def admit_admin(route: Route, request: web.Request, services: Services) -> None:
    """Reject a request to a route of the admin's without the admin key. Raises `Unauthorized`, `TooManyAttempts`."""
    expected = services.admin_api_key or ""
    await require_admin(request, expected, services.attempts, or_bearer=route.or_bearer, hint=route.hint)


def serving(route: Route) -> HttpHandler:
    """Return the aiohttp handler of a route."""

    async def serve(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        principal: Any = None
        if route.access is Access.admin:
            await admit_admin(route, request, services)
        elif route.access is Access.key:
            principal = await caller(request)
        call = Call(request, services, principal)
        asked: list[object] = []
        if route.query is not None:
            asked.append(read_query(request, route.query))
        if route.body is not None:
            asked.append(await read_body(request, route.body))
        is_read = route.method == "GET"
        if route.scope is not None and not is_read:
            require_scope(principal, route.scope)
        found = await route.handler(call, *asked)
        if route.scope is not None and is_read:  # a read changes nothing: what is not found comes before
            require_scope(principal, route.scope)
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
    """Return the route of a read of the caller's own account, which takes an API key with `billing:read`."""
    return Route("GET", path, handler, Access.key, answer_shape, query, scope=BILLING_READ, csv=csv)
