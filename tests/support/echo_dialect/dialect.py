"""Requests `{"text": ..., "limit": 5}` with the model in the path; answers `{"words": ..., "spent": {...}}`.

`"tools": ["search", "fetch"]` run at the provider, which takes the number of their calls in `calls`; one whose name
begins with `odd` is of no known type. With `"each": true` the number bounds each tool by itself.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from billing.usage import Usage
from gateway.dialects.base import Changes, Dialect, Head, Match, RefusalFacts, Tap
from gateway.dialects.body import BadRequest, GarbageAnswer
from gateway.dialects.declarations import EVENT_STREAM, Declarations, Endpoint
from gateway.dialects.facts import NO_WORK, ParsedRequest, Reported, Work
from gateway.dialects.output import Inline, Output
from gateway.dialects.streaming import SseTap
from tests.support.echo_dialect.streams import ArrayTap, EchoEvents, usage_of

PATH = "/echo/v2/models/{model}:"
SAY, STREAM, LIST, MEASURE = "say", "stream", "list", "measure"


class EchoDialect(Dialect):
    """An invented API."""

    name = "echo"
    declared = Declarations(key_headers=("x-echo-key",), key_parameter="secret", provider_key=("x-echo-provider", ""))
    endpoints = (
        *(Endpoint(PATH + operation, operation) for operation in (SAY, STREAM, LIST)),
        Endpoint(PATH + MEASURE, MEASURE, free=True),
    )
    kept_parameters = frozenset({"text", "limit"})
    passed_parameters = frozenset({"alt"})

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        return path.startswith("/echo/")

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        operation, fields = head.match.endpoint.operation, _object(body)
        if not isinstance(fields.get("text"), str):
            raise BadRequest("There is no text.", "text")
        limit = fields.get("limit")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise BadRequest("The limit is a number above zero.", "limit")
        return ParsedRequest(
            operation=operation,
            model=head.match.parameters["model"],
            stream=operation in (STREAM, LIST),
            include_usage=True,
            choices=1,
            max_output_tokens=limit,
            max_fields=("limit",) if limit is not None else (),
            input_bound_tokens=len(body),
            end_user=head.headers.get("x-echo-user"),
            service_tier=None,
            has_output=True,
            work=_work(fields),
        )

    def texts(self, body: bytes) -> list[tuple[str, int]]:
        text = _object(body)["text"]
        return [(text, len(json.dumps(text)))]

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        return count(_object(body)["text"]), []

    def upstream_path(self, match: Match, model: str) -> str:
        return f"/models/{quote(model)}:{match.endpoint.operation}"

    def max_field(self, operation: str, configured: str) -> str:
        return "limit"

    def rewrite(self, body: bytes, changes: Changes) -> bytes:
        """The model stands in the path."""
        changed = {changes.max_field: changes.max_output_tokens, "calls": changes.tool_calls}
        changed = {name: value for name, value in changed.items() if value is not None}
        return json.dumps({**_object(body), **changed}).encode() if changed else body

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        try:
            fields = json.loads(body)
        except ValueError as error:
            raise GarbageAnswer("not JSON") from error
        if operation == MEASURE:
            return Reported(Usage())
        spent = fields.get("spent")
        return None if spent is None else Reported(usage_of(spent))

    def output(self, body: bytes) -> Output:
        return Output(json.loads(body).get("words", ""))

    def output_of_part(self, part: bytes) -> Output:
        return Output(part.decode(errors="replace"))

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        return parsed.stream

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> Tap:
        if content_type.startswith(EVENT_STREAM):
            return SseTap(EchoEvents(), hold_usage=include_cost)
        return ArrayTap()

    def error_body(self, refusal: RefusalFacts, request_id: str) -> bytes:
        fault = {"reason": refusal.code, "said": refusal.message, "request": request_id, **refusal.extra}
        return json.dumps({"fault": fault}).encode()

    def error_headers(self, request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
        return {"x-echo-request": request_id}


def _work(fields: dict[str, Any]) -> Work:
    tools = tuple(fields.get("tools", ()))
    if not tools or "calls" in fields:
        return Work(uses=fields["calls"], bounded_tools=tools) if tools else NO_WORK
    return Work(
        open_tools=tools,
        unknown_tools=tuple(each for each in tools if each.startswith("odd")),
        open_searches=tools.count("search"),
        calls_are_shared=not fields.get("each"),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise BadRequest("The body is no JSON.") from error
    if not isinstance(value, dict):
        raise BadRequest("The body is no object.")
    return value
