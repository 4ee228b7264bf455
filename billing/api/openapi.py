"""The OpenAPI document of routes: paths, parameters, bodies, answers, errors, examples and who may call.

Version 3.1 (https://spec.openapis.org/oas/v3.1.0). Schemas are those of `billing.schemas`, by msgspec; an example is
made of a schema's own examples.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.api.auth import ADMIN_HEADER, SERVICE_HEADER, SERVICE_NAME_HEADER
from billing.api.operation import JSON, Access, Operation
from billing.api.route import CSV
from billing.keys.secrets import KEY_HEADERS
from billing.schemas.base import ErrorEnvelope
from billing.schemas.quotas import QuotaShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from billing.api.route import Route


Json = dict[str, Any]
Described = Operation[..., Any]
VERSION: Final = "3.1.0"
_DISTRIBUTION: Final = "metergate"
_SCHEMAS: Final = "#/components/schemas/{name}"
_ADMIN: Final = "adminKey"
_BEARER: Final = "bearer"
_PERSON: Final = "person"
_SERVICE: Final = "serviceKey"
_SERVICE_NAME: Final = "serviceName"
_ERRORS: Final = {
    400: "invalid_request_error: a body, query or bound; `param` names the field where it is known",
    401: "invalid_api_key: no key, or one that is wrong, revoked or expired",
    402: "billing_required: the balance does not cover the request, or the account may not spend",
    403: "insufficient_scope: the key lacks `required_scope`; or model_not_allowed",
    404: "not_found, or model_not_found: also what belongs to another account",
    409: "idempotency_conflict: the key was used for something else",
    413: "request_too_large: the body is above its bound",
    429: "too_many_attempts, quota_exceeded, capacity_held or concurrency_exceeded: wait",
    500: "server_error: a fault of the gateway",
    502: "upstream_error: the provider gave no usable answer",
    503: "temporarily_unavailable: a store is away; try again",
    504: "upstream_timeout: the provider was silent for too long",
}
# How deep an example shows what a body may leave out.
MAX_EXAMPLE_DEPTH: Final = 3
_EXAMPLE_TEXTS: Final = {"date-time": "2027-01-31T12:00:00Z"}
# Statuses that say when to try again.
_WAITS: Final = (429, 503)
_ABOUT: Final = (
    "Under `/v1` the APIs of providers, metered; under `/api` the billing API. Money is a decimal string of USD, a "
    "time RFC 3339 in UTC. Fields may be added to answers. `/docs` says more."
)


def check_names(routes: Sequence[Route]) -> None:
    """Raise `ValueError` where two routes have one name, by which a document knows them."""
    names = [route.name for route in routes]
    if len(set(names)) != len(names):
        raise ValueError("two routes have handlers of one name")


def document(routes: Sequence[Route]) -> bytes:
    """Return the document of these routes as JSON. Raises `ValueError` for two of one name."""
    check_names(routes)
    operations = [each.operation for each in routes]
    named = [shape for each in operations for shape in (each.answer, each.query, each.body, each.refusal)]
    named += [shape for each in operations for _, shape in each.accepts]
    shapes = list(dict.fromkeys([*(shape for shape in named if shape is not None), QuotaShape]))
    found, schemas = _components(tuple(shapes))
    by_shape = dict(zip(shapes, found, strict=True))
    queries = {by_shape[each.query]["$ref"].rpartition("/")[2] for each in operations if each.query is not None}
    paths: dict[str, Json] = {}
    for route in routes:
        described = _operation(route, by_shape, schemas)
        paths.setdefault(route.operation.plain_path, {})[route.operation.method.lower()] = described
    return msgspec.json.encode(
        {
            "openapi": VERSION,
            "info": {"title": "Metergate", "version": _version(), "description": _ABOUT},
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": {name: schema for name, schema in schemas.items() if name not in queries},
                "securitySchemes": _security_schemes(),
            },
        }
    )


@cache
def _components(shapes: tuple[Any, ...]) -> tuple[tuple[Json, ...], Mapping[str, Json]]:
    """Return the schemas of shapes, which every application of a process shares, and what they refer to."""
    components = msgspec.json.encode(msgspec.json.schema_components(shapes, ref_template=_SCHEMAS))
    # JSON Schema's `$` is the very end of a text, as Python's `\Z` is; that it does not know.
    found, schemas = msgspec.json.decode(components.replace(rb'\\Z"', b'$"'))
    return tuple(found), schemas


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"


def _operation(route: Route, by_shape: dict[Any, Json], schemas: Mapping[str, Json]) -> Json:
    operation = route.operation
    summary, _, rest = route.summary.partition(". ")
    parameters = [*_path_parameters(operation)]
    if operation.query is not None:
        parameters += _query_parameters(schemas[by_shape[operation.query]["$ref"].rpartition("/")[2]])
    described: Json = {
        "operationId": route.name,
        "summary": summary.rstrip("."),
        "tags": [route.tag],
        "security": _security(operation),
        "parameters": parameters,
        "responses": _responses(operation, by_shape, schemas),
    }
    if rest:
        described["description"] = rest
    if bodies := operation.accepts or (((JSON, operation.body),) if operation.body is not None else ()):
        content = {
            media: {"schema": by_shape[shape], "example": example_of(by_shape[shape], schemas)}
            for media, shape in bodies
        }
        described["requestBody"] = {"required": not operation.optional, "content": content}
    if operation.scope is not None:
        described["x-required-scope"] = operation.scope
    return described


def example_of(schema: Json, schemas: Mapping[str, Json], depth: int = 0) -> Any:
    """Return an example of what a schema describes: of its own, or made of those of its parts, required ones alone
    where they nest deeper than MAX_EXAMPLE_DEPTH."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, depth)
    for given in ("examples", "enum"):
        if schema.get(given):
            return schema[given][0]
    if "const" in schema or schema.get("default") is not None:
        return schema.get("const", schema.get("default"))
    if schema.get("anyOf"):
        return example_of(schema["anyOf"][0], schemas, depth)
    match schema.get("type"):
        case "object":
            return _example_object(schema, schemas, depth)
        case "array":
            return [example_of(schema["items"], schemas, depth + 1)] if "items" in schema else []
        case "string":
            return _EXAMPLE_TEXTS.get(schema.get("format", ""), "text")
        case kind:
            return {"integer": schema.get("minimum", 1), "number": 0.5, "boolean": True}.get(str(kind))


def _example_object(schema: Json, schemas: Mapping[str, Json], depth: int) -> Json:
    properties = schema.get("properties", {})
    wanted = (
        properties if depth < MAX_EXAMPLE_DEPTH else {name: properties[name] for name in schema.get("required", ())}
    )
    return {name: example_of(each, schemas, depth + 1) for name, each in wanted.items()}


def _error_example(status: int) -> Json:
    code, _, told = _ERRORS[status].partition(": ")
    first = code.replace(",", " ").replace(";", " ").split()[0]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": f"{told[:1].upper()}{told[1:]}.", "type": kind, "param": None, "code": first}}


def _path_parameters(operation: Described) -> Iterator[Json]:
    for name in operation.ids:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(schema: Json) -> Iterator[Json]:
    for name, field in schema["properties"].items():
        options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
        own = options[0] if options else {key: value for key, value in field.items() if key != "default"}
        if field.get("default") is not None:
            own = {**own, "default": field["default"]}
        yield {"name": name, "in": "query", "required": False, "schema": own}


def _responses(operation: Described, by_shape: dict[Any, Json], schemas: Mapping[str, Json]) -> Json:
    success: Json = {"description": "Done."}
    if operation.answer is not None:
        content: Json = {"schema": by_shape[operation.answer]}
        if operation.media == JSON and (example := example_of(by_shape[operation.answer], schemas)):
            content["example"] = example
        success = {"description": "The answer.", "content": {operation.media: content}}
        if operation.csv:
            success["content"][CSV] = {"schema": {"type": "string"}}
    responses = {str(operation.status): success}
    for status in sorted(_statuses(operation)):
        content = {"schema": by_shape[operation.refusal]}
        if operation.refusal is ErrorEnvelope:
            content["example"] = _error_example(status)
        responses[str(status)] = refusal = {"description": _ERRORS[status], "content": {JSON: content}}
        if status in _WAITS:
            refusal["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds to wait"}}
    return responses


def _statuses(operation: Described) -> Iterable[int]:
    """Return the statuses of refusals: those of the operation, and those that follow from what it asks for."""
    found = set(operation.errors)
    if operation.who is not Access.anyone:
        found |= {401, 429, 500, 503}
    if operation.query is not None or operation.body is not None or operation.who is Access.service:
        found.add(400)
    if operation.body is not None:
        found.add(413)
    if operation.ids:
        found.add(404)
    if operation.scope is not None or operation.who in (Access.admin, Access.caller, Access.person):
        found.add(403)
    return found


def _security(operation: Described) -> list[Json]:
    """Return the alternatives of what a call needs: each a set of schemes that go together."""
    keys: list[Json] = [{name: []} for name in (_BEARER, *KEY_HEADERS)]
    return {
        Access.anyone: [],
        Access.key: keys,
        Access.caller: [*keys, {_PERSON: []}],
        Access.person: [{_PERSON: []}],
        Access.service: [{_SERVICE: [], _SERVICE_NAME: []}],
        Access.admin: [{_ADMIN: []}, {_PERSON: []}, *([{_BEARER: []}] if operation.or_bearer else [])],
    }[operation.who]


def _security_schemes() -> Json:
    schemes: Json = {
        _BEARER: {"type": "http", "scheme": "bearer", "description": "an API key, mg_...; at /metrics the admin key"},
        _ADMIN: {"type": "apiKey", "in": "header", "name": ADMIN_HEADER, "description": "the variable ADMIN_API_KEY"},
        _PERSON: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "a person's access token"},
        _SERVICE: {
            "type": "apiKey",
            "in": "header",
            "name": SERVICE_HEADER,
            "description": "the variable SERVICE_API_KEY",
        },
        _SERVICE_NAME: {"type": "apiKey", "in": "header", "name": SERVICE_NAME_HEADER, "description": "who calls"},
    }
    for name in KEY_HEADERS:
        schemes[str(name)] = {"type": "apiKey", "in": "header", "name": str(name), "description": "as the bearer"}
    return schemes
