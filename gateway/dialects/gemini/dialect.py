"""Gemini's own API: its endpoints, and the few fields of a request that the gateway changes.

Source: https://ai.google.dev/api. The model and what is done stand in the path, the format of a stream in the query
(`alt=sse`). What is stored or runs at Google without a count (files, caches, tokens for browsers, live sessions,
batches) has no endpoint here and is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Raw

from billing.usage import Usage
from gateway.dialects.base import Endpoint, Head, Match
from gateway.dialects.events import EVENT_STREAM
from gateway.dialects.facts import Reported
from gateway.dialects.fields import is_null
from gateway.dialects.gemini.answer import Reading, decode
from gateway.dialects.gemini.contents import input_texts, input_tokens
from gateway.dialects.gemini.envelopes import error_body, error_headers
from gateway.dialects.gemini.frames import ArrayFrames, EventFrames
from gateway.dialects.gemini.names import COUNT, EMBED, EMBED_BATCH, GENERATE, STREAM, method_of, snake
from gateway.dialects.gemini.output import output_of, output_of_part
from gateway.dialects.gemini.request import FIELDS, MAX_FIELD, parse
from gateway.dialects.gemini.streams import GeminiTap
from gateway.dialects.structure import StructureBounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.dialects.facts import ParsedRequest

VERSIONS: Final = ("v1beta", "v1")
"""Of Google's API. A provider is asked for the one that the client asks for."""
METHODS: Final = (GENERATE, STREAM, EMBED, EMBED_BATCH, COUNT)
_GOOGLES_PATH: Final = re.compile(r"/(?:v\d+(?:alpha|beta)\d*|upload/v\d\w*|ws/google\.[^/]+)(?:/|\Z)")
"""How the paths begin that Google alone has."""
GOOGLES_HEADERS: Final = ("x-goog-api-key", "x-goog-api-client")
_KEY_IN_QUERY: Final = re.compile(r"[?&]key=")
_METHOD_OF_MODEL: Final = re.compile(r"/v1/(?:models|projects)/[^?]+:(?:[a-z]+[A-Z]\w*|predict)(?:\?|\Z)")
_SHARED_PATH: Final = re.compile(
    r"/v1/(?:models|files|cachedContents|tunedModels|fileSearchStores|interactions|batches|auth_tokens|operations)\b"
)
"""How the paths begin that other APIs may have, too."""
JSON: Final = b"application/json"
DEFAULT_BOUNDS: Final = StructureBounds()
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, Raw]] | dict[str, Raw])
_STRING: Final = msgspec.json.Decoder(str)
_INTEGER: Final = msgspec.json.Decoder(int)
_PREFIX: Final = "models/"


def usage_from_json(operation: str, body: bytes) -> Reported | None:
    """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
    answer, method = decode(body), method_of(operation)
    if method == COUNT:
        return Reported(Usage())
    reading = Reading()
    if not reading.take(answer, body):
        return None
    reported = reading.reported(has_output=method not in (EMBED, EMBED_BATCH))
    if reported is None or method in (EMBED, EMBED_BATCH) or reported.usage.output_tokens or reported.counts_nothing:
        return reported
    return reported if output_of(body).empty else None  # output without a count is not free


class GeminiDialect:
    """Gemini's generateContent, streamGenerateContent, embedContent, batchEmbedContents and countTokens; a
    `Dialect`."""

    name: Final = "gemini"
    endpoints: Final = tuple(
        Endpoint(
            f"/{version}/models/{{model}}:{method}",
            f"{version}:{method}",
            free=method == COUNT,
            writes=method in (GENERATE, STREAM),
        )
        for version in VERSIONS
        for method in METHODS
    )
    key_headers: Final = ()
    key_parameter: Final = "key"
    kept_parameters: Final = FIELDS.spelled
    passed_parameters: Final = frozenset({"alt"})

    def __init__(self, bounds: StructureBounds = DEFAULT_BOUNDS) -> None:
        self._bounds = bounds

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether it is, by its path; or, on paths that several APIs share, by a header or a key in the query
        that is Google's."""
        if _GOOGLES_PATH.match(path) or _METHOD_OF_MODEL.match(path):
            return True
        if not _SHARED_PATH.match(path):
            return False
        return _KEY_IN_QUERY.search(path) is not None or any(name in headers for name in GOOGLES_HEADERS)

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        return parse(head, body, self._bounds)

    texts = staticmethod(input_texts)
    input_tokens = staticmethod(input_tokens)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which is, as Google's clients take it, all that stands before the version."""
        version = match.endpoint.operation.partition(":")[0]
        return f"/{version}/models/{quote(model)}:{method_of(match.endpoint.operation)}"

    def auth_header(self, key: str) -> tuple[str, str]:
        """Return the header in which a provider takes its key."""
        return "x-goog-api-key", key

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD

    def rewrite(
        self,
        body: bytes,
        *,
        model: str | None,
        include_usage: bool,
        max_output_tokens: int | None,
        max_field: str,
        tool_calls: int | None = None,
    ) -> bytes:
        """Return the body to send: `model` replaces those names of a model that the body repeats; `max_output_tokens`
        is sent where the client gave no smaller maximum. What is not on the way to these stays byte for byte. No
        field says how often a tool of Google's may run, so that `tool_calls` changes nothing."""
        if model is None and max_output_tokens is None:
            return body
        fields: dict[str, Any] = dict(_FIELDS.decode(body))
        changed = model is not None and _rename(fields, model)
        if max_output_tokens is not None:
            name = FIELDS.spelling(fields, "generationConfig")
            given: Raw | None = fields.get(name)
            config: dict[str, Any] = {} if is_null(given) or given is None else dict(_FIELDS.decode(given))
            spelled = snake(max_field) if snake(max_field) in config else max_field
            own: Raw | None = config.get(spelled)
            most = max_output_tokens if own is None or is_null(own) else min(_INTEGER.decode(own), max_output_tokens)
            config[spelled] = most
            fields[name] = config
            changed = True
        return msgspec.json.encode(fields) if changed else body

    usage_from_json = staticmethod(usage_from_json)
    output = staticmethod(output_of)
    output_of_part = staticmethod(output_of_part)

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Return whether it is a stream: of events, or one JSON array."""
        return parsed.stream and content_type.startswith((EVENT_STREAM, JSON))

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> GeminiTap:
        """Return a tap for one stream."""
        return GeminiTap(EventFrames() if content_type.startswith(EVENT_STREAM) else ArrayFrames())

    error_body = staticmethod(error_body)
    error_headers = staticmethod(error_headers)


def _rename(fields: dict[str, Any], model: str) -> bool:
    """Put a model's name wherever a body says it; return whether it did."""
    changed = False
    if "model" in fields and not is_null(fields["model"]):
        prefix = _PREFIX if _STRING.decode(fields["model"]).startswith(_PREFIX) else ""
        fields["model"] = prefix + model
        changed = True
    nested = FIELDS.spelling(fields, "generateContentRequest")
    for name in ("requests", nested):
        if name not in fields or is_null(fields[name]):
            continue
        found = _OBJECTS.decode(fields[name])
        made: list[dict[str, Any]] = [dict(each) for each in (found if isinstance(found, list) else [found])]
        if sum(_rename(each, model) for each in made):
            fields[name] = made if isinstance(found, list) else made[0]
            changed = True
    return changed
