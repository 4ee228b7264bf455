"""The dialect port: what an API tells the gateway about a request and its answer. This file owns the port.

Two things are apart. A **client dialect** is how clients speak: paths, where a key may stand, what a request asks for,
the envelope of errors, how a stream ends. A **provider** names the dialects that it serves, each with a base URL
(`gateway.config.models`); a request goes only to providers that serve its dialect, and no body is translated.

To add an API: a folder with a class that has what `Dialect` asks for, and one line in `gateway.dialects.registry`.

- Endpoints are patterns (`/v1beta/models/{model}:generateContent`), told apart by method, path and, where APIs share a
  path, by a header. One that is `free` is authenticated, admitted and forwarded, and charged nothing.
- `parse` has the path's parameters, the query and the headers beside the body, in `Head`.
- A stream is whatever `is_stream` says, in any framing: server-sent events use `gateway.dialects.streaming.SseTap` with
  an `EventReader` of their own; another framing (a JSON array) has a `Tap` of its own.
- Usage that stands in several events of a stream is put together by an `EventReader` that is made for one stream and
  keeps what it saw: `facts` answers the usage as it is known by then, which replaces what was known before.

A dialect is pure: bytes in, facts out. Types are `msgspec` structs (frozen, slotted) because they are built for every
request, ten times faster than frozen dataclasses; who builds one has checked what it holds.

Exceptions:

    BadRequest      the client's body: 400 `invalid_request_error`
    GarbageAnswer   the provider's body: 502
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from billing.errors import MetergateError
from billing.usage import ModelUsage, Usage, total

if TYPE_CHECKING:
    from multidict import MultiMapping

    from gateway.dialects.output import Inline, Output, Piece


class BadRequest(MetergateError):
    """A request that can't be read. `message` is fit for the client; `param` names the field where one is to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class GarbageAnswer(MetergateError):
    """An answer that is not what the endpoint promises: not a JSON object, or half of one."""


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint that is metered.

    `path` is a pattern, and what the ledger and the metrics record: `{model}` stands for a model's name, slashes
    included, any other `{name}` for one segment. `operation` is the dialect's own word for what is done there, the same
    for all paths that lead to it. `free`: forwarded and not charged. `header` is one that a request must have, for a
    path that several APIs share. `id_header` is a further header in which its clients look for the request's id.
    `writes`: a model writes an answer there, which has output tokens.
    """

    path: str
    operation: str
    method: str = "POST"
    free: bool = False
    header: str | None = None
    id_header: str | None = None
    writes: bool = True


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


class RefusalFacts(Protocol):
    """What an error of the gateway's own says; `extra` are further fields of the error object."""

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


class Parts(msgspec.Struct, frozen=True):
    """Input that is not text. `inline_bytes` is how much of the body is the base64 data of images and files, and
    `audio_bytes` how much is that of audio, which stays in the bound of a hold."""

    images: int = 0
    audios: int = 0
    files: int = 0
    inline_bytes: int = 0
    audio_bytes: int = 0

    @property
    def data_bytes(self) -> int:
        """How much of the body is inline data of any kind; the rest is JSON, which is text to a provider."""
        return self.inline_bytes + self.audio_bytes


NO_PARTS = Parts()


class Work(msgspec.Struct, frozen=True):
    """What a request asks of its provider beside one call of its model.

    `outside`: input stands outside the body. `uses` of tools that run at the provider, each of which may call the model
    again, and `searches` among them, which are charged; `one_search`: the provider bills one and does not report it.
    `models`: others that may answer, by their names at the provider. `audio`: the answer may be spoken. `calls` of a
    model beside the answer and the uses, each with a context window to read and as much to write as the model can.
    `fast`: a dearer speed is asked for. `predicted` are bytes of output that the client predicts: what of it is wrong
    is billed as output, beside the answer. `search_units` are searches that the request itself may be billed as, where
    its model is priced by the search.
    """

    outside: bool = False
    uses: int = 0
    searches: int = 0
    one_search: bool = False
    models: tuple[str, ...] = ()
    audio: bool = False
    calls: int = 0
    fast: bool = False
    search_units: int = 0
    predicted: int = 0


NO_WORK = Work()
NO_METADATA: Final[Mapping[str, str]] = {}


class Created(msgspec.Struct, frozen=True):
    """An object that an answer has created at its provider. `running`: the provider works on after it has answered."""

    object_id: str
    running: bool = False


class Creation(Protocol):
    """How an API tells of the objects that it creates. `kind` is what such an object is called in the table of them;
    one on which the provider works on is asked for at `poll` and stopped at `cancel`, whose path has its id in the
    place of `parameter`."""

    @property
    def kind(self) -> str: ...

    @property
    def poll(self) -> Endpoint: ...

    @property
    def cancel(self) -> Endpoint | None: ...

    @property
    def parameter(self) -> str: ...

    def reported(self, body: bytes) -> Reported | None:
        """The usage of an object that is done, None where it reports none. Raises `GarbageAnswer`."""

    def of_answer(self, body: bytes) -> Created | None:
        """The object that a whole answer has created, None where it tells of none. Nothing raises."""

    def of_event(self, data: bytes) -> Created | None:
        """The same by the data of a stream's first event."""


class Stored(msgspec.Struct, frozen=True):
    """What a request has to do with objects that accounts own at providers.

    `names` are ids of objects that must be the account's; `previous` is the one of them from which the answer goes on,
    where nothing else of the input stands outside the body. `background`: the provider may answer before it has done
    its work. `creation` tells of the object that the answer creates,
    None where it creates none. `provider` is where the named objects are, once that is known.
    """

    names: tuple[str, ...] = ()
    previous: str | None = None
    creation: Creation | None = None
    provider: str | None = None
    background: bool = False


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What metering needs of one request.

    `operation` is the endpoint's; `choices` how many answers it may bring; `max_output_tokens` the client's own maximum
    for each of them, None where it gave none; `include_usage` that a stream will report usage without being asked by
    the gateway. `max_fields` are the fields in which the client gave a maximum, of which `max_output_tokens` is the
    largest.

    `model` is empty where the API lets the provider choose one: the gateway's default is filled in. `model_in_body`
    says that the body names it; else the provider's name for it is written there. `reports_usage` says whether answers
    have a usage at all. `metadata` is what the body says for the record alone (OpenAI's field of that name): it becomes
    tags.

    `unbounded_input` says that input stands outside the body (a file id, a server tool): only the context window bounds
    it, once and for each use of a tool in `work`.

    `stored` is None where a request neither names nor creates objects at the provider. One that names some may have no
    `model`: then it goes to where they are; one that names none goes to the first provider that serves the dialect.
    """

    operation: str
    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_output_tokens: int | None
    input_bound_tokens: int
    end_user: str | None
    service_tier: str | None
    has_output: bool
    parts: Parts = NO_PARTS
    unbounded_input: bool = False
    max_fields: tuple[str, ...] = ()
    work: Work = NO_WORK
    metadata: Mapping[str, str] = NO_METADATA
    stored: Stored | None = None
    model_in_body: bool = True
    reports_usage: bool = True

    def bound_input_tokens(self, part_tokens: Mapping[str, int] | None) -> int | None:
        """An upper bound of the input's tokens, or None where only the model's context window is one.

        `part_tokens` is the price row's bound for one `image` and one `file`. Without it their tokens can't be told by
        their bytes (an address is short, a compressed picture is large when unpacked). Audio is always in the body, and
        no codec that providers take packs a token into fewer than one byte of base64, so its bytes are its bound.
        """
        if self.unbounded_input:
            return None
        parts = self.parts
        if not parts.images and not parts.files:
            return self.input_bound_tokens
        bounds = part_tokens or {}
        if (parts.images and "image" not in bounds) or (parts.files and "file" not in bounds):
            return None
        priced = parts.images * bounds.get("image", 0) + parts.files * bounds.get("file", 0)
        return self.input_bound_tokens - parts.inline_bytes + priced


class Reported(msgspec.Struct, frozen=True):
    """What the provider says was used: the model that was asked, and `others` of the same provider that worked for the
    answer. `service_tier`, `processing`, `speed`, `region` and `model` are the answer's own, None where it names none;
    they choose the variant of the price row."""

    usage: Usage
    service_tier: str | None = None
    model: str | None = None
    others: tuple[ModelUsage, ...] = ()
    processing: str | None = None
    speed: str | None = None
    region: str | None = None

    @property
    def total(self) -> Usage:
        """The counts of all models together."""
        return total((self.usage, *(other.usage for other in self.others))) if self.others else self.usage


class EventFacts(msgspec.Struct, frozen=True):
    """What one server-sent event says. `is_usage_only` marks a chunk that exists for its usage alone."""

    reported: Reported | None = None
    has_usage: bool = False
    is_usage_only: bool = False
    is_error: bool = False


class EventReader(Protocol):
    """How a dialect reads the server-sent events of a stream. Nothing raises: what can't be read says nothing.

    One instance serves one stream where usage is put together from several events, else any number of them.
    """

    @property
    def usage_marker(self) -> bytes:
        """Bytes without which an event has no usage."""

    @property
    def usage_pattern(self) -> re.Pattern[bytes]:
        """Matches where the marker is followed by usage that is not null."""

    @property
    def error_marker(self) -> bytes:
        """Bytes without which an event is no error."""

    @property
    def finish_markers(self) -> tuple[bytes, ...]:
        """Any of these says that an answer came to its end, also where no terminal event follows."""

    @property
    def terminal_markers(self) -> tuple[bytes, ...]:
        """One of these stands in every terminal event; none where a stream of this dialect has no such event."""

    @property
    def terminal_lines(self) -> tuple[bytes, ...]:
        """How the lines begin by which an unfinished event may be terminal: such a line is not passed on by itself."""

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Whether a whole event that has a terminal marker is one; `data` is its data."""

    def facts(self, data: bytes) -> EventFacts:
        """Usage and errors in one event's data. Called once and in order for each event with a marker of either."""

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        """The output in one event's data: (choice, piece) pairs, none of them empty. May be called again."""

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """The output in the data of an event that broke off, as far as it can be told."""

    def without_null_usage(self, block: bytes) -> bytes:
        """Whole events without the usage that is null in them; all else byte for byte."""

    def with_cost(self, data: bytes, cost_usd: str) -> bytes:
        """The same data with `cost_usd` in its usage object; unchanged where it has none."""


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

    def feed(self, chunk: bytes) -> bytes: ...

    def end(self) -> None: ...

    def finish(self, cost_usd: str | None = None) -> bytes: ...

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
        """Whether the API has a use for a model; `writes`: it is priced for a written answer."""

    def listed(self, models: Sequence[ListedModel], query: Mapping[str, str]) -> object:
        """A page of the models that its clients may use. Raises `BadRequest`."""

    def one(self, model: ListedModel) -> object:
        """One of them."""


class Envelope(Protocol):
    """How an API writes errors."""

    def error_body(self, refusal: RefusalFacts, request_id: str) -> bytes:
        """An error of the gateway's own."""

    def error_headers(self, request_id: str) -> Mapping[str, str]:
        """Headers of such an answer, and of the gateway's own, beside those that all APIs have."""


class Dialect(Envelope, Protocol):
    """One API: its endpoints, how its requests are read and changed, where usage sits in its answers."""

    @property
    def name(self) -> str:
        """What providers' entries call it."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that it meters."""

    @property
    def key_headers(self) -> tuple[str, ...]:
        """Headers whose value is the client's key, beside those that `billing.keys.presented` reads everywhere."""

    @property
    def key_parameter(self) -> str | None:
        """The query parameter in which clients of this API may show their key; None where they may not."""

    @property
    def kept_parameters(self) -> frozenset[str]:
        """Query parameters that never reach a provider, because metering reads their namesakes from the body."""

    @property
    def passed_parameters(self) -> frozenset[str]:
        """Query parameters that reach a provider of this dialect and of no other."""

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether a request to a path that is no endpoint comes from a client of this API, whose errors it expects."""

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """What metering needs of a request. Raises `BadRequest`."""

    def texts(self, body: bytes) -> list[tuple[str, int]]:
        """The texts of a request that become tokens by themselves, each with the bytes that it takes of the body."""

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        """What a request brings to the model: tokens of its texts and structures, by `count`, and its inline data.
        Nothing raises but `count`."""

    def upstream_path(self, match: Match, model: str) -> str:
        """What follows a provider's base URL; `model` is its own name for the model."""

    def auth_header(self, key: str) -> tuple[str, str]:
        """Name and value of the header in which a provider takes its key."""

    def max_field(self, operation: str, configured: str) -> str:
        """The field in which the maximum of an answer's tokens is sent; `configured` is the provider's
        `max_output_field`, for a dialect in which providers differ."""

    def rewrite(
        self, body: bytes, *, model: str | None, include_usage: bool, max_output_tokens: int | None, max_field: str
    ) -> bytes:
        """The body to send upstream: the same object where nothing changes, else only what metering needs differs.
        None leaves a value as it is."""

    def usage_from_json(self, operation: str, body: bytes) -> Reported | None:
        """Usage of a whole answer, None where it reports none. Raises `GarbageAnswer`."""

    def output(self, body: bytes) -> Output:
        """What the model wrote in a whole answer, of all choices."""

    def output_of_part(self, part: bytes) -> Output:
        """What can be told of a whole answer whose rest did not come."""

    def is_stream(self, parsed: ParsedRequest, content_type: bytes) -> bool:
        """Whether an answer of status 200 is passed on as it comes; `content_type` is its own, in lower case. JSON that
        nobody asked to be streamed is not."""

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> Tap:
        """A tap for one stream. `usage_added`: the gateway, not the client, asked for the usage event."""
