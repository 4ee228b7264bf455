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
from gateway.dialects.base import Changes, Dialect, Endpoint, Head, Match
from gateway.dialects.decoding import FIELDS, NULL, TEXT
from gateway.dialects.events import EVENT_STREAM
from gateway.dialects.facts import Reported, decoded_answer
from gateway.dialects.fields import is_null
from gateway.dialects.gemini.answer import ANSWER, OUTPUT, Reading
from gateway.dialects.gemini.declared import CLIENT, GEMINI, KEY
from gateway.dialects.gemini.envelopes import GeminiModels, error_body
from gateway.dialects.gemini.names import COUNT, EMBED, EMBED_BATCH, GENERATE, STREAM, method_of, snake
from gateway.dialects.gemini.request import MAX_FIELD, REQUEST, input_texts, input_tokens, parse
from gateway.dialects.gemini.streams import ArrayFrames, EventFrames, GeminiTap
from gateway.dialects.values import INTEGER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.dialects.facts import ParsedRequest

# Of Google's API. A provider is asked for the one that the client asks for.
VERSIONS: Final = ("v1beta", "v1")
METHODS: Final = (GENERATE, STREAM, EMBED, EMBED_BATCH, COUNT)
# How the paths begin that Google alone has.
_GOOGLES_PATH: Final = re.compile(r"/(?:v\d+(?:alpha|beta)\d*|upload/v\d\w*|ws/google\.[^/]+)(?:/|\Z)")
_KEY_IN_QUERY: Final = re.compile(r"[?&]key=")
_METHOD_OF_MODEL: Final = re.compile(r"/v1/(?:models|projects)/[^?]+:(?:[a-z]+[A-Z]\w*|predict)(?:\?|\Z)")
# How the paths begin that other APIs may have, too.
_SHARED_PATH: Final = re.compile(
    r"/v1/(?:models|files|cachedContents|tunedModels|fileSearchStores|interactions|batches|auth_tokens|operations)\b"
)
JSON: Final = b"application/json"
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, Raw]] | dict[str, Raw])
_PREFIX: Final = "models/"


def usage_from_json(operation: str, body: bytes) -> Reported | None:
    """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer`."""
    answer, method = decoded_answer(ANSWER, body), method_of(operation)
    if method == COUNT:
        return Reported(Usage())
    reading = Reading()
    if not reading.add(answer, body):
        return None
    reported = reading.reported(has_output=method not in (EMBED, EMBED_BATCH))
    if reported is None or method in (EMBED, EMBED_BATCH) or reported.usage.output_tokens or reported.counts_nothing:
        return reported
    return reported if OUTPUT.output(body).empty else None  # output without a count is not free


class GeminiDialect(Dialect):
    """Gemini's generateContent, streamGenerateContent, embedContent, batchEmbedContents and countTokens."""

    name = "gemini"
    declared = GEMINI
    endpoints = tuple(
        Endpoint(
            f"/{version}/models/{{model}}:{method}",
            f"{version}:{method}",
            free=method == COUNT,
            writes=method in (GENERATE, STREAM),
        )
        for version in VERSIONS
        for method in METHODS
    )
    kept_parameters = REQUEST.spelled
    models = GeminiModels()
    passed_parameters = frozenset({"alt"})

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether it is, by its path; or, on paths that several APIs share, by a header or a key in the query
        that is Google's."""
        if _GOOGLES_PATH.match(path) or _METHOD_OF_MODEL.match(path):
            return True
        if not _SHARED_PATH.match(path):
            return False
        return _KEY_IN_QUERY.search(path) is not None or KEY in headers or CLIENT in headers

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        return parse(head, body, self._bounds)

    texts = staticmethod(input_texts)
    input_tokens = staticmethod(input_tokens)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which is, as Google's clients take it, all that stands before the version."""
        version = match.endpoint.operation.partition(":")[0]
        return f"/{version}/models/{quote(model)}:{method_of(match.endpoint.operation)}"

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent."""
        return MAX_FIELD

    def rewrite(self, body: bytes, changes: Changes) -> bytes:
        """Return the body to send: `model` replaces those names of a model that the body repeats; `max_output_tokens`
        is sent where the client gave no smaller maximum. What is not on the way to these stays byte for byte. No
        field says how often a tool of Google's may run, so that `tool_calls` changes nothing."""
        model, granted, max_field = changes.model, changes.max_output_tokens, changes.max_field
        if model is None and granted is None:
            return body
        fields: dict[str, Any] = dict(FIELDS.decode(body))
        changed = model is not None and _rename(fields, model)
        if granted is not None:
            name = REQUEST.spelling(fields, "generationConfig")
            given: Raw | None = fields.get(name)
            config: dict[str, Any] = {} if is_null(given) or given is None else dict(FIELDS.decode(given))
            spelled = snake(max_field) if snake(max_field) in config else max_field
            own = INTEGER.decode(config.get(spelled, NULL))
            config[spelled] = granted if own is None else min(own, granted)
            fields[name] = config
            changed = True
        return msgspec.json.encode(fields) if changed else body

    usage_from_json = staticmethod(usage_from_json)
    output = staticmethod(OUTPUT.output)
    output_of_part = staticmethod(OUTPUT.output_of_part)

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Return whether it is a stream: of events, or one JSON array."""
        return parsed.stream and content_type.startswith((EVENT_STREAM, JSON))

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> GeminiTap:
        """Return a tap for one stream."""
        return GeminiTap(EventFrames() if content_type.startswith(EVENT_STREAM) else ArrayFrames())

    error_body = staticmethod(error_body)


def _rename(fields: dict[str, Any], model: str) -> bool:
    """Put a model's name wherever a body says it; return whether it did."""
    changed = False
    if "model" in fields and not is_null(fields["model"]):
        prefix = _PREFIX if TEXT.decode(fields["model"]).startswith(_PREFIX) else ""
        fields["model"] = prefix + model
        changed = True
    nested = REQUEST.spelling(fields, "generateContentRequest")
    for name in ("requests", nested):
        if name not in fields or is_null(fields[name]):
            continue
        found = _OBJECTS.decode(fields[name])
        made: list[dict[str, Any]] = [dict(each) for each in (found if isinstance(found, list) else [found])]
        if sum(_rename(each, model) for each in made):
            fields[name] = made if isinstance(found, list) else made[0]
            changed = True
    return changed
