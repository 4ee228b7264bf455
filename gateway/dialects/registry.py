"""All dialects, and which of them a request speaks. This file owns how endpoints are told apart.

By method and path, and by a header where APIs share a path. A path without a name in it costs two dictionary look-ups;
patterns are tried after that, in the order in which they are registered.

Any other path is refused as one that does not exist. Some of those are known (`why_unmetered`), and their clients are
told why: what they give leads past the gateway, is shared by all who use the provider's key, or costs by the hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from gateway.dialects.anthropic.dialect import AnthropicDialect
from gateway.dialects.base import Dialect, Match, ModelList
from gateway.dialects.gemini.dialect import GeminiDialect
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.dialects.openai_responses.dialect import ResponsesDialect, SocketDialect
from gateway.dialects.rerank.dialect import RerankDialect

if TYPE_CHECKING:
    from gateway.dialects.body import StructureBounds
    from gateway.dialects.declarations import Endpoint
    from gateway.dialects.facts import Creation

# Every dialect that this version has. The last one owns the paths that no other does.
DIALECTS: Sequence[type[Dialect]] = (
    AnthropicDialect,
    GeminiDialect,
    ResponsesDialect,
    SocketDialect,
    RerankDialect,
    OpenAIDialect,
)
# Lists of models that differ from OpenAI's, by dialect.
MODEL_LISTS: Final[Mapping[str, ModelList]] = {
    dialect.name: dialect.models for dialect in DIALECTS if dialect.models is not None
}

_NAME: Final = re.compile(r"\{(\w+)\}")
_MODEL: Final = "model"
_PAST_US: Final = (
    "what it gives opens sessions at the provider itself, which would pass this gateway by and could not be metered. "
    "Send requests through the gateway, with its own key"
)
_SHARED: Final = (
    "stored chat completions belong to the provider's key, which all accounts here share, so that they are not given "
    "out. Keep answers yourself"
)
_UNBOUNDED: Final = "how much a run of it costs is bounded by nothing. Use chat completions, responses or messages"
_BY_TIME: Final = "it costs by the hour or by what is kept, which is not metered here"
_OPERATORS: Final = "it manages the operator's own account at the provider"
_IMAGES: Final = (
    "pictures are priced by their size and quality, which is not metered here. Ask a model that answers with pictures "
    "in chat completions or generateContent"
)
_SOUND: Final = (
    "speech and transcripts are priced by the second or the character, which is not metered here. Send audio to a "
    "model that takes it in chat completions or generateContent"
)
_FILES: Final = (
    "files belong to the provider's key, which all accounts here share. Send the content in the request itself, as a "
    "data URL or in base64"
)
_BATCHES: Final = (
    "what a batch costs is known up to a day later, which is not metered here. Send its requests one by one, or to "
    "/v1/responses with `background: true`"
)
_CACHES: Final = (
    "a cache costs by the hour and belongs to the provider's key, which all accounts here share. Send the whole input: "
    "providers cache a prefix that is repeated by themselves"
)
_SESSIONS: Final = (
    "a session writes answers without being asked, which is not metered here. Use /v1/responses, over HTTP or as a "
    "WebSocket"
)
# What stands before a path of a provider's API: a version, or what Azure's client puts in its place.
_BASE: Final = r"(?:(?:/azure)?/openai(?:/deployments/[^/]+)?(?:/v1)?|(?:/azure|/upload)?/v[0-9][0-9a-z]*)"
# Methods (None: any), the pattern of a path, and why it is not served and what is instead.
_REASONS: Final = tuple(
    (methods, re.compile(f"{_BASE}/(?:{paths})", re.ASCII), reason)
    for methods, paths, reason in (
        (None, r"realtime", _SESSIONS),
        (None, r"realtime/(?:client_secrets|sessions|transcription_sessions|calls|translations)(?:/.*)?", _PAST_US),
        (None, r"(?:auth_tokens|live/tokens|chatkit)(?:[/:].*)?", _PAST_US),
        ({"GET"}, r"chat/completions", _SHARED),
        (None, r"chat/completions/[^/]+(?:/messages)?", _SHARED),
        (None, r"images(?:/.*)?|models/.+:predict", _IMAGES),
        (None, r"audio(?:/.*)?", _SOUND),
        (None, r"(?:files|uploads)(?:[/:].*)?", _FILES),
        (None, r"(?:messages/)?batches(?:[/:].*)?|models/.+:(?:batchGenerateContent|asyncBatchEmbedContent)", _BATCHES),
        (None, r"cachedContents(?:[/:].*)?", _CACHES),
        (None, r"(?:assistants|threads|agents|sessions|interactions)(?:/.*)?", _UNBOUNDED),
        (None, r"(?:vector_stores|containers|fine_tuning|evals|videos|skills)(?:/.*)?", _BY_TIME),
        (None, r"models/.+:predictLongRunning", _BY_TIME),
        (None, r"(?:organization|organizations|projects)(?:/.*)?", _OPERATORS),
    )
)


def make_dialects(bounds: StructureBounds) -> Dialects:
    """Return all registered dialects, which refuse requests with more structure than `bounds`."""
    return Dialects([make(bounds) for make in DIALECTS])


class Dialects:
    """Finds the endpoint that a request is sent to."""

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        """Raises `ValueError` where two endpoints can't be told apart."""
        self.all: Final = tuple(dialects)
        self.by_name: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in self.all}
        self._plain: dict[str, dict[str, Match]] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Match]] = []
        told_apart = set()
        for match in self._matches():
            endpoint = match.endpoint
            key = (endpoint.method, endpoint.path, endpoint.header)
            if key in told_apart:
                raise ValueError(f"two dialects have {endpoint.method} {endpoint.path}")
            told_apart.add(key)
            if endpoint.header is None and "{" not in endpoint.path:
                self._plain.setdefault(endpoint.method, {})[endpoint.path] = match
            else:
                self._patterns.append((endpoint.method, re.compile(_regex(endpoint.path)), match))
        self._patterns.sort(key=lambda each: each[2].endpoint.header is None)
        self._with_header = {(method, path) for method, path, header in told_apart if header is not None}

    def _matches(self) -> Iterator[Match]:
        for dialect in self.all:
            for endpoint in dialect.endpoints:
                yield Match(dialect, endpoint)

    def find(self, method: str, path: str, headers: Mapping[str, str]) -> Match | None:
        """Return the endpoint of a request, None where it is sent to none; a query string in `path` is passed over."""
        path = path.partition("?")[0]
        plain = self._plain.get(method)
        match = None if plain is None else plain.get(path)
        if match is not None and (method, path) not in self._with_header:
            return match
        for its_method, pattern, candidate in self._patterns:
            if its_method != method or (found := pattern.fullmatch(path)) is None:
                continue
            header = candidate.endpoint.header
            if header is None or header in headers:
                parameters = {name: unquote(value) for name, value in found.groupdict().items()}
                return Match(candidate.dialect, candidate.endpoint, parameters)
        return match

    def creations(self) -> dict[str, tuple[Dialect, Creation]]:
        """Return how objects are told of on which providers work in the background, by their kinds."""
        return {creation.kind: (dialect, creation) for dialect in self.all for creation in dialect.creations}

    def owner(self, path: str, headers: Mapping[str, str]) -> Dialect:
        """Return the dialect in whose envelope a request to no endpoint is answered."""
        return next((dialect for dialect in self.all if dialect.owns(path, headers)), self.all[-1])

    def routes(self) -> set[tuple[str, str]]:
        """Return method and path of all endpoints, as patterns of aiohttp's."""
        return {(match.endpoint.method, _for_aiohttp(match.endpoint)) for match in self._matches()}


def _regex(path: str) -> str:
    """Return the expression of a path: a model's name may have slashes and colons, any other stands for one segment."""
    pieces = _NAME.split(path)
    for at in range(0, len(pieces), 2):
        pieces[at] = re.escape(pieces[at])
    for at in range(1, len(pieces), 2):
        pieces[at] = f"(?P<{pieces[at]}>{'.+' if pieces[at] == _MODEL else '[^/:]+'})"
    return "".join(pieces)


def _for_aiohttp(endpoint: Endpoint) -> str:
    return _NAME.sub(lambda found: f"{{{found[1]}:{'.+' if found[1] == _MODEL else '[^/:]+'}}}", endpoint.path)


def why_unmetered(method: str, path: str) -> str | None:
    """Return why a request of a provider's API is refused, None of one that is not known. A query string is passed
    over."""
    path = path.partition("?")[0].rstrip("/")
    for methods, pattern, reason in _REASONS:
        if (methods is None or method in methods) and pattern.fullmatch(path):
            return reason
    return None
