"""The reference page of the API: HTML made of the OpenAPI document, with nothing from elsewhere and no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.api.openapi import Json, example_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
_STYLE: Final = (
    ":root{color-scheme:light dark}body{max-width:75rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 system-ui,"
    "sans-serif}nav ul{columns:18rem;padding-left:1rem}section{border-top:1px solid #8886;padding-top:.5rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}th,td{border:1px solid #8886;padding:.2rem .6rem;"
    "text-align:left;vertical-align:top}pre{overflow-x:auto;padding:.8rem;background:#8881}code{font-size:.9em}"
    "summary{cursor:pointer}.method{display:inline-block;min-width:4rem;font-weight:600}"
)
_CALLERS: Final = {
    "adminKey": "the admin key in <code>X-Admin-Key</code>",
    "bearer": "an API key as bearer",
    "person": "a person's access token as bearer",
    "serviceKey": "the service key in <code>X-API-Key</code> with <code>X-Service-Name</code>",
}


def page(document: Json) -> str:
    """Return a document as a page: its endpoints by group, each with its callers, parameters and answers."""
    groups: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    contents = "".join(
        f"<h3>{escape(tag)}</h3><ul>{''.join(_entry(*each) for each in operations)}</ul>"
        for tag, operations in groups.items()
    )
    schemas = document["components"]["schemas"]
    body = "".join(
        f"<h2>{escape(tag)}</h2>" + "".join(_section(*each, schemas) for each in operations)
        for tag, operations in groups.items()
    )
    info = document["info"]
    title = f"{escape(info['title'])} API, version {escape(info['version'])}"
    about = f"<p>{escape(info['description'])}</p><p>As OpenAPI: <a href='openapi.json'>openapi.json</a>.</p>"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
        f"content='width=device-width'><title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>{about}"
        f"<nav>{contents}</nav>{body}</body></html>"
    )


def _entry(method: str, path: str, operation: Json) -> str:
    return f"<li><a href='#{escape(operation['operationId'])}'>{method} {escape(path)}</a></li>"


def _section(method: str, path: str, operation: Json, schemas: Mapping[str, Json]) -> str:
    told = " ".join(operation[name] for name in ("summary", "description") if operation.get(name))
    parts = [
        f"<section id='{escape(operation['operationId'])}'><h3><span class='method'>{method}</span> "
        f"<code>{escape(path)}</code></h3><p>{escape(told)}</p><p>{_callers(operation)}</p>",
        _parameters(operation["parameters"]),
    ]
    if "requestBody" in operation:
        parts.append("<p>Body:</p>" + _example(operation["requestBody"]["content"], schemas))
    parts += _answers(operation["responses"], schemas)
    return "".join((*parts, "</section>"))


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
    return f"<table><tr><th>parameter</th><th>in</th><th>what</th></tr>{rows}</table>"


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
    return f"<pre><code>{escape(text)}</code></pre>"
