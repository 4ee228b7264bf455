"""The dialect port: what an API tells the gateway about a request and its answer. This file owns the port.

Two things are apart. A **client dialect** is how clients speak: paths, where a key may stand, what a request asks for,
the envelope of errors, how a stream ends. A **provider** names the dialects that it serves, each with a base URL
(`gateway.config.providers`); a request goes only to providers that serve its dialect, and no body is translated.

To add an API: a folder with a class that extends `Dialect`, and a line each in `gateway.dialects.registry` and
`gateway.dialects.declared`.

- What it declares (headers, the key's place, features) is data in its package's `__init__`
  (`gateway.dialects.declarations`); parts that name no dialect read it there.
- Endpoints are patterns (`/v1beta/models/{model}:generateContent`), told apart by method, path and, where APIs share a
  path, by a header. One that is `free` is authenticated, admitted and forwarded, and charged nothing.
- `parse` has the path's parameters, the query and the headers beside the body, in `Head`.
- A stream is whatever `is_stream` says, in any framing: server-sent events use `gateway.dialects.streaming.SseTap` with
  an `EventReader` of their own; another framing (a JSON array) has a `Tap` of its own.
- Usage that stands in several events of a stream is put together by an `EventReader` that is made for one stream and
  keeps what it saw: `facts` answers the usage as it is known by then, which replaces what was known before.

A dialect is pure: bytes in, facts out. Types are `msgspec` structs (frozen, slotted) because they are built for every
request, ten times faster than frozen dataclasses; who builds one has checked what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import msgspec

from gateway.dialects.body import DEFAULT_BOUNDS, StructureBounds
from gateway.dialects.declarations import EVENT_STREAM, NO_HEADERS, Declarations, Endpoint

if TYPE_CHECKING:
    from multidict import MultiMapping

    from gateway.dialects.facts import Creation, ParsedRequest, Reported
    from gateway.dialects.output import Inline, Output


NO_PARAMETERS: Final[Mapping[str, str]] = {}


class Match(msgspec.Struct, frozen=True):
    """The endpoint that a request was sent to. `parameters` are what stands in its path in the place of the pattern's
    names, percent-decoded."""

    dialect: Dialect
    endpoint: Endpoint
    parameters: Mapping[str, str] = NO_PARAMETERS


class Head(Protocol):
    """What a dialect sees of a request beside its body. `path` is as the client asked for it, with its query string."""

    @property
    def match(self) -> Match: ...

    @property
    def path(self) -> str: ...

    @property
    def headers(self) -> MultiMapping[str]: ...


class FinalQuotaFacts(Protocol):
    """A quota that does not reset within a minute: see `gateway.server.refusals.FinalQuota`."""

    @property
    def name(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def wait_s(self) -> int | None: ...

    @property
    def resets_at_s(self) -> int | None: ...


class RefusalFacts(Protocol):
    """What an error of the gateway's own says; `extra` are further fields of the error object. `final` is the
    quota that refuses, if a retry within a minute can't succeed."""

    @property
    def status(self) -> int: ...

    @property
    def code(self) -> str: ...

    @property
    def message(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def param(self) -> str | None: ...

    @property
    def extra(self) -> Mapping[str, object]: ...

    @property
    def retry_after_s(self) -> int | None: ...

    @property
    def final(self) -> FinalQuotaFacts | None: ...


class Tap(Protocol):
    """Watches one stream. `gateway.dialects.streaming.SseTap` is the one for server-sent events.

    What `feed` and `finish` return is, joined, what came in, but for what metering adds or takes. `done`: the answer
    came to its end; `stale`: the model wrote on after the last usage was seen.
    """

    error_seen: bool

    @property
    def reported(self) -> Reported | None: ...

    @property
    def began_output(self) -> bool: ...

    @property
    def done(self) -> bool: ...

    @property
    def tool_calls(self) -> int:
        """Return how many calls of tools at the provider the stream has told of."""

    def feed(self, chunk: bytes) -> bytes: ...

    def end(self) -> None: ...

    def finish(self, charge_usd: str | None = None) -> bytes: ...

    @property
    def stale(self) -> bool: ...

    def output(self) -> Output: ...

    def extrapolate(self, tokens: int) -> int: ...


class ListedModel(Protocol):
    """A model that a key may use. `created` in Unix seconds."""

    @property
    def id(self) -> str: ...

    @property
    def created(self) -> int: ...

    @property
    def max_output_tokens(self) -> int | None: ...

    @property
    def context_window(self) -> int | None: ...


class ModelList(Protocol):
    """How an API lists models where it shares OpenAI's paths for that and not its shape; what is returned is encoded
    as JSON. `paths` are further paths of its own, at which the list stands, and each model behind a slash."""

    @property
    def paths(self) -> tuple[str, ...]: ...

    def has(self, model: ListedModel, *, writes: bool) -> bool:
        """Return whether the API has a use for a model; `writes`: it is priced for a written answer."""

    def listed(self, models: Sequence[ListedModel], query: Mapping[str, str]) -> object:
        """Return a page of the models that its clients may use. Raises `BadRequest`."""

    def one(self, model: ListedModel) -> object:
        """Return one of them."""


# What the model of a trial is asked for, and the most tokens of its answer. OpenAI takes no smaller maximum for some.
TRIAL_TEXT: Final = "Reply with OK."
TRIAL_TOKENS: Final = 16


class Changes(msgspec.Struct, frozen=True):
    """What differs in the body that a provider gets; None leaves a value as it is.

    `include_usage`: a stream is to report its usage. The maximum of an answer's tokens stands in `max_field`, the field
    in which the provider takes it. `tool_calls` is how often the tools in `Work.open_tools` may run at the provider; it
    is written into the field that bounds them.
    """

    model: str | None = None
    include_usage: bool = False
    max_output_tokens: int | None = None
    max_field: str = ""
    tool_calls: int | None = None


class Trial(msgspec.Struct, frozen=True):
    """A small request that shows whether a provider answers: the path of an endpoint, with its query string, and the
    body without the model, which a path with `{model}` names. `writes`: for models that write an answer. `headers` are
    those that its clients send themselves."""

    path: str
    body: Mapping[str, object]
    writes: bool = True
    headers: Mapping[str, str] = NO_HEADERS


class Envelope(Protocol):
    """How an API writes errors."""

    def error_body(self, refusal: RefusalFacts, request_id: str) -> bytes:
        """Return an error of the gateway's own."""

    def error_headers(self, request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
        """Return the headers of such an answer, and without a refusal of the gateway's own answers, beside those that
        all APIs have."""
        return NO_HEADERS


class Dialect(Envelope, Protocol):
    """One API: its endpoints, how its requests are read and changed, where usage sits in its answers.

    `name` is what providers' entries call it, `endpoints` are all that it meters. `kept_parameters` are query
    parameters that never reach a provider: metering reads their namesakes from the body. `passed_parameters` reach a
    provider of this dialect and of no other. `creations` tell of the objects on which its providers work in the
    background. `models` is how it lists models, None where that is OpenAI's way. `trials` are what its providers are
    tested with.
    """

    name: ClassVar[str]
    declared: ClassVar[Declarations]
    _bounds: StructureBounds
    endpoints: ClassVar[tuple[Endpoint, ...]]
    kept_parameters: ClassVar[frozenset[str]]
    passed_parameters: ClassVar[frozenset[str]] = frozenset()
    creations: ClassVar[tuple[Creation, ...]] = ()
    models: ClassVar[ModelList | None] = None
    trials: ClassVar[tuple[Trial, ...]] = ()

    def __init__(self, bounds: StructureBounds = DEFAULT_BOUNDS) -> None:
        """Requests with more structure than `bounds` are refused."""
        self._bounds = bounds

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether a request to a path that is no endpoint comes from a client of this API."""
        return False

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""

    def texts(self, body: bytes) -> list[tuple[str, int]]:
        """Return the texts of a request that become tokens by themselves, each with the bytes that it takes of the
        body; none where no vocabulary is public."""
        return []

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        """Return what a request brings to the model: tokens of its texts and structures, by `count`, and its inline
        data. Nothing raises but `count`."""

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a provider's base URL; `model` is its own name for the model."""

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent; `configured` is the provider's
        `max_output_field`, for a dialect in which providers differ."""

    def rewrite(self, body: bytes, changes: Changes) -> bytes:
        """Return the body to send upstream: the same object where nothing changes, else only what metering needs
        differs."""

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Return the usage of a whole answer, None where it reports none. Raises `GarbageAnswer`."""

    def output(self, body: bytes) -> Output:
        """Return what the model wrote in a whole answer, of all choices."""

    def output_of_part(self, part: bytes) -> Output:
        """Return the output that is known of a JSON answer that broke off."""

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Return whether an answer of status 200 is passed on as it comes; `content_type` is its own, in lower case.
        JSON that nobody asked to be streamed is not."""
        return content_type.startswith(EVENT_STREAM)

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> Tap:
        """Return a tap for one stream. `usage_added`: the gateway, not the client, asked for the usage event."""
