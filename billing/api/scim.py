"""/scim/v2: SCIM 2.0 (RFC 7644) for the directories of organizations, as an application of its own: what it answers has
SCIM's own form, refusals too.

This file owns that a token reaches the resources of its organization alone, that wrong tokens are counted as wrong keys
are, and that one organization's calls neither run many at a time nor keep others' waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from billing import audit
from billing.addresses import UNKNOWN
from billing.api.attempts import SCIM_TOKENS
from billing.api.requests import ApiError, of_failure, read_bounded
from billing.api.route import REQUEST_ID, REQUEST_ID_HEADER
from billing.api.services import SERVICES, Services
from billing.keys.secrets import bearer_of
from billing.logs import log_about
from billing.scim.attributes import GROUPS, USERS, Resource, ResourceType, ScimError, projected, read_resource
from billing.scim.filters import Asked, parse_filter
from billing.scim.patches import MEMBERS, MOST_SHOWN, member_ids, patched, patched_members, read_changes
from billing.scim.service import PREFIX

if TYPE_CHECKING:
    from billing.scim.directory import Directory, Record
    from billing.scim.tokens import ScimToken

MEDIA: Final = "application/scim+json"
_MESSAGE: Final = "urn:ietf:params:scim:api:messages:2.0:"
_CORE: Final = "urn:ietf:params:scim:schemas:core:2.0:"
# How paths end that the RFC knows, and that are not offered.
_NOT_OFFERED: Final = ("/Bulk", "/Me", "/.search")
# What an operation of a PATCH costs beside a member that is read.
OPERATION_COSTS: Final = 10
_MOST_NUMBER: Final = 9
_MOST_NAMES: Final = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScimCall:
    """A call of an organization's directory."""

    request: web.Request
    services: Services
    token: ScimToken
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def org_id(self) -> str:
        """Return whose directory calls."""
        return self.token.org_id

    @property
    def id(self) -> str:
        """Return the id in the path; nothing has one with a NUL character."""
        found = self.request.match_info["id"]
        if "\0" in found:
            raise ScimError(f"There is no {found[:100]!r}.", status=404)
        return found

    @property
    def url(self) -> str:
        """Return where clients reach SCIM."""
        return self.services.scim.url

    @property
    def directory(self) -> Directory:
        """Return what keeps the resources."""
        return self.services.scim.directory

    @property
    def actor(self) -> audit.Actor:
        """Return what the audit log says of the caller."""
        request = self.request
        address = self.services.attempts.address_of(request.remote or "", request.headers)
        return audit.Actor(f"scim:{self.token.id}", None if address == UNKNOWN else address, request.get(REQUEST_ID))

    @property
    def expected(self) -> list[str] | None:
        """Return the versions of which the resource has to have one; None: any."""
        return _tags(self.request.headers.get("If-Match"))

    def text(self, name: str) -> str:
        """Return a parameter of the query string, whatever its case, else nothing."""
        given = next((value for key, value in self.request.query.items() if key.lower() == name.lower()), "")
        if "\0" in given:
            raise ScimError(f"{name} must not contain NUL characters.", "invalidValue")
        return given

    def number(self, name: str, default: int) -> int:
        """Return an integer of the query string."""
        given = self.text(name)
        if not given:
            return default
        if not given.removeprefix("-").isdecimal() or len(given) > _MOST_NUMBER or not given.isascii():
            raise ScimError(f"{name} is an integer.", "invalidValue")
        return int(given)

    def names(self, name: str) -> list[str]:
        """Return a list of attributes of the query string."""
        found = [each for each in self.text(name).split(",") if each.strip()]
        if len(found) > _MOST_NAMES:
            raise ScimError(f"{name} has at most {_MOST_NAMES} attributes.", "invalidValue")
        return found


def _tags(header: str | None) -> list[str] | None:
    tags = [each.strip() for each in (header or "*").split(",")]
    return None if "*" in tags else tags


Handler = Callable[[ScimCall], Awaitable[web.Response]]


def setup_scim(app: web.Application, services: Services) -> None:
    """Mount SCIM below `PREFIX`."""
    scim = web.Application(middlewares=[_answering])
    scim[SERVICES] = services
    add = scim.router.add_route
    for type_ in (USERS, GROUPS):
        path = f"/{type_.endpoint}"
        add("GET", path, _serving(_of_type(type_, _list)))
        add("POST", path, _serving(_of_type(type_, _create), has_body=True))
        add("GET", f"{path}/{{id}}", _serving(_of_type(type_, _get)))
        add("PUT", f"{path}/{{id}}", _serving(_of_type(type_, _replace), has_body=True))
        add("PATCH", f"{path}/{{id}}", _serving(_of_type(type_, _patch), has_body=True))
        add("DELETE", f"{path}/{{id}}", _serving(_of_type(type_, _delete)))
    for name, described in (("ResourceTypes", _resource_types), ("Schemas", _schemas)):
        add("GET", f"/{name}", _serving(_listed(described)))
        add("GET", f"/{name}/{{id}}", _serving(_one_of(described)))
    add("GET", "/ServiceProviderConfig", _serving(_config))
    app.add_subapp(PREFIX, scim)


def _of_type(type_: ResourceType, handler: Callable[[ScimCall, ResourceType], Awaitable[web.Response]]) -> Handler:
    async def handle(call: ScimCall) -> web.Response:
        return await handler(call, type_)

    return handle


def _serving(handler: Handler, *, has_body: bool = False) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the aiohttp handler of a call, with the checks before it: the token, the organization's turn, the body."""

    async def serve(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        token = await _admit(request, services)
        async with services.scim.limit.entered(token.org_id):
            body = await _read(request, services.scim.settings.scim_body_bytes) if has_body else {}
            return await handler(ScimCall(request, services, token, body))

    return serve


async def _admit(request: web.Request, services: Services) -> ScimToken:
    """Return the token that a request shows. Raises `ScimError` and `TooManyAttempts`."""
    secret = bearer_of(request.headers)

    async def check() -> ScimToken | None:
        return await services.scim.tokens.recognise(secret)

    found = None
    if secret:
        found = await services.attempts.attempt(
            request.remote or "", request.headers, check, secret=secret, kind=SCIM_TOKENS
        )
    if found is None:
        raise ScimError(
            "Send a token of SCIM as `Authorization: Bearer mgs_...`: an owner of the organization makes one in the "
            "console, on the page of members, or by `metergate org scim create-token NAME`.",
            status=401,
        )
    return found


async def _read(request: web.Request, limit_bytes: int) -> Mapping[str, Any]:
    raw = await read_bounded(request, limit_bytes)
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScimError("The body is not JSON.", "invalidSyntax") from error
    if not isinstance(body, dict):
        raise ScimError("The body is an object.", "invalidSyntax")
    return body


@web.middleware
async def _answering(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Run one handler within the time limit; what it raises becomes SCIM's error (RFC 7644, section 3.12)."""
    services = request.config_dict[SERVICES]
    request[REQUEST_ID] = services.new_id()
    log_about(request[REQUEST_ID])
    try:
        async with asyncio.timeout(services.request_timeout_s):
            response = await handler(request)
    except ScimError as error:
        response = _error(error.status, str(error), error.type)
        if error.status == web.HTTPUnauthorized.status_code:
            response.headers["WWW-Authenticate"] = "Bearer"
    except web.HTTPException as error:
        response = _error(*_of_http(request, error))
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    except Exception as error:  # the outermost edge: nothing but SCIM's error may leave it
        refusal = of_failure(error)
        if refusal is None:
            _log.exception("%s of SCIM failed", request.method)
            response = _error(500, "Something went wrong on our side; it has been noted.")
        else:
            response = _refused(refusal)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
    return response


def _of_http(request: web.Request, error: web.HTTPException) -> tuple[int, str]:
    """Return what aiohttp itself refuses: a status, and why."""
    if request.path.endswith(_NOT_OFFERED):
        return 501, "This is not offered here: see /ServiceProviderConfig."
    if isinstance(error, web.HTTPMethodNotAllowed):
        return error.status, f"{request.method} is not allowed here."
    is_unknown = error.status == web.HTTPNotFound.status_code
    return error.status, "There is nothing at this path of SCIM." if is_unknown else error.reason


def _refused(refusal: ApiError) -> web.Response:
    """Return a refusal of the API as SCIM has it; a quota of people or an owner who stays is a conflict."""
    response = _error(refusal.status, refusal.message)
    response.headers.update(refusal.headers)
    return response


def _error(status: int, detail: str, type_: str | None = None) -> web.Response:
    error = {"schemas": [f"{_MESSAGE}Error"], "status": str(status), "detail": detail}
    return _json({**error, **({"scimType": type_} if type_ else {})}, status)


def _json(shape: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(shape), content_type=MEDIA)


async def _list(call: ScimCall, type_: ResourceType) -> web.Response:
    """Return a page of the resources for which a filter holds (RFC 7644, section 3.4.2)."""
    text = call.text("filter")
    start = max(1, call.number("startIndex", 1))
    count = min(
        max(0, call.number("count", call.services.scim.settings.scim_page)), call.services.scim.settings.scim_page
    )
    wanted, unwanted = call.names("attributes"), call.names("excludedAttributes")
    only = parse_filter(text) if text else None
    asked = Asked(only, start - 1, count, _needs_references(type_, wanted, unwanted))
    search = call.directory.users if type_ is USERS else call.directory.groups
    total, records = await search(call.org_id, asked)
    shown = [projected(type_, each.shown(type_, call.url), wanted, unwanted) for each in records]
    return _json(_listing(shown, total, start))


def _needs_references(type_: ResourceType, wanted: list[str], unwanted: list[str]) -> bool:
    """Return whether the members, or the groups, of resources are shown."""
    name = MEMBERS if type_ is GROUPS else "groups"
    if wanted:
        return any(type_.strip(each.strip()).lower().partition(".")[0] == name for each in wanted)
    return name not in [type_.strip(each.strip()).lower() for each in unwanted]


def _listing(resources: list[Resource], total: int, start: int) -> dict[str, Any]:
    return {
        "schemas": [f"{_MESSAGE}ListResponse"],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": len(resources),
        "Resources": resources,
    }


async def _get(call: ScimCall, type_: ResourceType) -> web.Response:
    if type_ is USERS:
        record = await call.directory.user(call.org_id, call.id)
    else:
        references = _needs_references(type_, call.names("attributes"), call.names("excludedAttributes"))
        record = await call.directory.group(call.org_id, call.id, references=references)
    known = call.request.headers.get("If-None-Match")
    if known is not None and record.etag in (_tags(known) or [record.etag]):
        return web.Response(status=304, headers={"ETag": record.etag})
    return _shown(call, type_, record)


def _shown(call: ScimCall, type_: ResourceType, record: Record, status: int = 200) -> web.Response:
    resource = record.shown(type_, call.url)
    shown = projected(type_, resource, call.names("attributes"), call.names("excludedAttributes"))
    response = _json(shown, status)
    response.headers["ETag"] = record.etag
    response.headers["Location"] = resource["meta"]["location"]
    return response


async def _create(call: ScimCall, type_: ResourceType) -> web.Response:
    given = _given(type_, call.body)
    if type_ is USERS:
        return _shown(call, type_, await call.directory.create_user(call.org_id, given, call.actor), 201)
    record = await call.directory.create_group(call.org_id, given, _members(type_, call.body), call.actor)
    return _shown(call, type_, record, 201)


def _given(type_: ResourceType, body: Mapping[str, Any]) -> Resource:
    """Return the resource of a body without the members of a group, which are kept otherwise."""
    return {name: value for name, value in read_resource(type_, body).items() if name != MEMBERS}


def _members(type_: ResourceType, body: Mapping[str, Any]) -> dict[str, None]:
    given = next((value for name, value in body.items() if type_.strip(name).lower() == MEMBERS), None)
    return member_ids(type_, given)


async def _replace(call: ScimCall, type_: ResourceType) -> web.Response:
    given, expected = _given(type_, call.body), call.expected
    if type_ is USERS:
        record = await call.directory.change_user(call.org_id, call.id, lambda _: given, call.actor, expected)
    else:
        members = _members(type_, call.body)
        changed = (lambda _: given), (lambda _: members)
        record, _ = await call.directory.change_group(call.org_id, call.id, changed, call.actor, expected)
    return _shown(call, type_, record)


async def _patch(call: ScimCall, type_: ResourceType) -> web.Response:
    changes, expected = read_changes(type_, call.body), call.expected
    call.services.scim.limit.spend(call.org_id, OPERATION_COSTS * len(changes))
    await asyncio.sleep(0)  # others have their turn between what is read and what is changed

    def change(resource: Resource) -> Resource:
        return patched(type_, resource, changes)

    if type_ is USERS:
        record = await call.directory.change_user(call.org_id, call.id, change, call.actor, expected)
    else:
        changed = change, (lambda members: patched_members(type_, members, changes))
        record, members = await call.directory.change_group(
            call.org_id, call.id, changed, call.actor, expected, whole=False
        )
        if members > MOST_SHOWN:  # a large group is not sent for each member that comes or goes (section 3.5.2)
            return web.Response(status=204, headers={"ETag": record.etag})
    return _shown(call, type_, record)


async def _delete(call: ScimCall, type_: ResourceType) -> web.Response:
    delete = call.directory.delete_user if type_ is USERS else call.directory.delete_group
    await delete(call.org_id, call.id, call.actor, call.expected)
    return web.Response(status=204)


def _listed(described: Callable[[ScimCall], list[Resource]]) -> Handler:
    async def handle(call: ScimCall) -> web.Response:
        if call.text("filter"):
            raise ScimError("This can't be filtered.", status=403)
        found = described(call)
        return _json(_listing(found, len(found), 1))

    return handle


def _one_of(described: Callable[[ScimCall], list[Resource]]) -> Handler:
    async def handle(call: ScimCall) -> web.Response:
        found = next((each for each in described(call) if each["id"].lower() == call.id.lower()), None)
        if found is None:
            raise ScimError(f"There is no {call.id[:100]!r}.", status=404)
        return _json(found)

    return handle


def _resource_types(call: ScimCall) -> list[Resource]:
    return [
        {
            "schemas": [f"{_CORE}ResourceType"],
            "id": each.name,
            "name": each.name,
            "endpoint": f"/{each.endpoint}",
            "description": each.about,
            "schema": each.schema,
            "meta": {"resourceType": "ResourceType", "location": f"{call.url}/ResourceTypes/{each.name}"},
        }
        for each in (USERS, GROUPS)
    ]


def _schemas(call: ScimCall) -> list[Resource]:
    return [
        {
            "schemas": [f"{_CORE}Schema"],
            "id": each.schema,
            "name": each.name,
            "description": each.about,
            "attributes": [attribute.described for attribute in each.attributes],
            "meta": {"resourceType": "Schema", "location": f"{call.url}/Schemas/{each.schema}"},
        }
        for each in (USERS, GROUPS)
    ]


async def _config(call: ScimCall) -> web.Response:
    """Return what is offered (RFC 7643, section 5)."""
    return _json(
        {
            "schemas": [f"{_CORE}ServiceProviderConfig"],
            "patch": {"supported": True},
            "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
            "filter": {"supported": True, "maxResults": call.services.scim.settings.scim_page},
            "changePassword": {"supported": False},
            "sort": {"supported": False},
            "etag": {"supported": True},
            "authenticationSchemes": [
                {
                    "type": "oauthbearertoken",
                    "name": "Bearer token",
                    "description": "A token that an owner of the organization has made.",
                    "primary": True,
                }
            ],
            "meta": {"resourceType": "ServiceProviderConfig", "location": f"{call.url}/ServiceProviderConfig"},
        }
    )
