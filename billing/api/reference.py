"""The reference of the API: the endpoints of its OpenAPI document by group, as HTML to read and to try.

What is tried is sent by `try.js`, from what a form's attributes say: the method, the path, where each field belongs and
which credentials an endpoint takes. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.api.openapi import example_of
from billing.api.operation import JSON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Endpoints that belong together: those whose paths begin so."""

    title: str
    about: str
    prefixes: tuple[str, ...]


GROUPS: Final[dict[str, Group]] = {
    "models": Group(
        "Models", "Answers of providers, metered: OpenAI's, Anthropic's, Google's and others' paths.", ("/v1", "/v2")
    ),
    "azure": Group(
        "Models, at other paths",
        "The same endpoints where Azure's clients and some others look for them.",
        ("/openai", "/azure"),
    ),
    "account": Group("Usage", "What was used and charged, balances and quotas.", ("/api/account",)),
    "billing": Group(
        "Keys, credit and plans", "Keys, credit, orders, plans, budgets and alerts.", ("/api/billing", "/api/webhooks")
    ),
    "people": Group(
        "People",
        "Signing in, tokens, organizations and members.",
        ("/api/auth", "/api/orgs", "/api/invitations", "/api/roles"),
    ),
    "services": Group("Services", "Metering services of your own.", ("/api/service",)),
    "operators": Group(
        "Operators",
        "What runs the business: accounts, payments, providers, audit.",
        ("/api/admin", "/v1/jobs", "/v1/status"),
    ),
    "gateway": Group("The gateway itself", "Health, metrics and descriptions.", ("/",)),
}


def group_of(path: str) -> str:
    """Return the group of an endpoint: the one with the longest beginning of its path."""
    at = {prefix: name for name, group in GROUPS.items() for prefix in group.prefixes}
    return at[max((prefix for prefix in at if path.startswith(prefix)), key=len)]


def sections(document: Json, group: str) -> str:
    """Return the endpoints of a group: a list of them, and each with its callers, parameters, answers and a form."""
    found = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if group_of(path) == group
    ]
    contents = "".join(_entry(*each) for each in found)
    schemas = document["components"]["schemas"]
    return f'<ul class="endpoints">{contents}</ul>' + "".join(_section(*each, schemas) for each in found)


def _entry(method: str, path: str, operation: Json) -> str:
    name = f'<span class="method">{method}</span> <code>{escape(path)}</code>'
    return f'<li><a href="#{escape(operation["operationId"])}">{name}</a></li>'


def _section(method: str, path: str, operation: Json, schemas: Mapping[str, Json]) -> str:
    told = " ".join(operation[name] for name in ("summary", "description") if operation.get(name))
    parts = [
        f'<section class="endpoint" id="{escape(operation["operationId"])}"><h2><span class="method">{method}</span> '
        f"<code>{escape(path)}</code></h2><p>{escape(told)}</p><p>{_callers(operation)}</p>",
        _parameters(operation["parameters"]),
    ]
    if "requestBody" in operation:
        parts.append("<p>Body:</p>" + _example(operation["requestBody"]["content"], schemas))
    parts += (*_answers(operation["responses"], schemas), _form(method, path, operation, schemas))
    return "".join((*parts, "</section>"))


def _form(method: str, path: str, operation: Json, schemas: Mapping[str, Json]) -> str:
    """Return what tries an endpoint, hidden until there is a script to send it."""
    id_ = escape(operation["operationId"])
    callers = " ".join(dict.fromkeys(name for each in operation["security"] for name in each))
    fields = "".join(_field(f"{id_}-{each['name']}", each["name"], each["in"]) for each in operation["parameters"])
    content = operation.get("requestBody", {}).get("content", {})
    if JSON in content:
        example = content[JSON].get("example") or example_of(content[JSON]["schema"], schemas) or {}
        text = msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
        area = f'<textarea id="{id_}-body" data-in="body" rows="8" spellcheck="false">{escape(text)}</textarea>'
        fields += f'<div class="field"><label for="{id_}-body">Body</label>{area}</div>'
    return (
        f'<details class="try" data-script hidden><summary>Try it</summary>'
        f'<form data-try data-method="{method}" data-path="{escape(path)}" data-callers="{callers}">{fields}'
        '<div class="buttons"><button class="main">Send</button></div><output class="answer" hidden></output>'
        "</form></details>"
    )


_CALLERS: Final = {
    "adminKey": "the admin key in <code>X-Admin-Key</code>",
    "bearer": "an API key as bearer",
    "person": "a person's access token as bearer",
    "serviceKey": "the service key in <code>X-API-Key</code> with <code>X-Service-Name</code>",
}


def _field(id_: str, name: str, place: str) -> str:
    field = f'<input id="{id_}" name="{escape(name)}" data-in="{place}" autocomplete="off">'
    return f'<div class="field"><label for="{id_}">{escape(name)}</label>{field}</div>'


def _callers(operation: Json) -> str:
    found = dict.fromkeys(_CALLERS[name] for each in operation["security"] for name in each if name in _CALLERS)
    needs = "Anyone may call." if not found else f"Needs {', or '.join(found)}."
    scope = operation.get("x-required-scope")
    return f"{needs} Scope: <code>{escape(scope)}</code>." if scope else needs


def _parameters(parameters: list[Json]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td><td>{escape(_told(each['schema']))}</td></tr>"
        for each in parameters
    )
    head = "<tr><th>parameter</th><th>in</th><th>what</th></tr>"
    return f'<div class="scroll" role="group" aria-label="Parameters" tabindex="0"><table>{head}{rows}</table></div>'


def _told(schema: Json) -> str:
    told = schema.get("description") or (" or ".join(map(str, schema["enum"])) if "enum" in schema else "")
    default = f" (default {schema['default']})" if "default" in schema else ""
    return f"{told or schema.get('type', '')}{default}"


def _answers(responses: Json, schemas: Mapping[str, Json]) -> Iterator[str]:
    for status, response in responses.items():
        example = _example(response["content"], schemas) if "content" in response else ""
        told = f"<code>{status}</code> {escape(response['description'])}"
        yield f"<details><summary>{told}</summary>{example}</details>" if example else f"<p>{told}</p>"


def _example(content: Json, schemas: Mapping[str, Json]) -> str:
    """Return the example of each media type as text."""
    return "".join(_one_example(media, each, schemas) for media, each in content.items())


def _one_example(media: str, content: Json, schemas: Mapping[str, Json]) -> str:
    found: Any = content.get("example", example_of(content["schema"], schemas))
    if not isinstance(found, dict | list):
        return f"<p><code>{escape(media)}</code></p>"
    text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
