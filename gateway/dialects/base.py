"""The dialect port: what a provider's API tells the gateway about a request and its answer. This file owns the port.

A dialect is pure: bytes in, facts out. Types are `msgspec` structs (frozen, slotted) because they are built for every
request, ten times faster than frozen dataclasses; who builds one has checked what it holds.

Exceptions:

    BadRequest      the client's body: 400 `invalid_request_error`
    GarbageAnswer   the provider's body: 502
"""

import re
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from billing.errors import MetergateError
from billing.usage import Usage
from gateway.dialects.output import Inline, Output, Piece


class BadRequest(MetergateError):
    """A request that can't be read. `message` is fit for the client; `param` names the field where one is to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class GarbageAnswer(MetergateError):
    """An answer that is not what the endpoint promises: not a JSON object, or half of one."""


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
    `models`: others that may answer, by their names at the provider. `audio`: the answer may be spoken.
    """

    outside: bool = False
    uses: int = 0
    searches: int = 0
    one_search: bool = False
    models: tuple[str, ...] = ()
    audio: bool = False


NO_WORK = Work()


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What metering needs of one request.

    `endpoint` is the path asked for (`/v1/chat/completions`); `choices` how many answers it may bring;
    `max_output_tokens` the client's own maximum for each of them, None where it gave none; `include_usage` that the
    client itself asked for the usage chunk of a stream. `max_fields` are the fields in which it gave a maximum, of
    which `max_output_tokens` is the largest.

    `unbounded_input` says that input stands outside the body (a file id, a server tool): only the context window bounds
    it, once and for each use of a tool in `work`.
    """

    endpoint: str
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
    """What the provider says was used. `service_tier` and `model` are the answer's own, None where it names none."""

    usage: Usage
    service_tier: str | None = None
    model: str | None = None


class EventFacts(msgspec.Struct, frozen=True):
    """What one server-sent event says. `is_usage_only` marks a chunk that exists for its usage alone."""

    reported: Reported | None = None
    has_usage: bool = False
    is_usage_only: bool = False
    is_error: bool = False


class EventReader(Protocol):
    """How a dialect reads the data of one server-sent event. Nothing raises: what can't be read says nothing."""

    @property
    def usage_marker(self) -> bytes:
        """Bytes without which an event has no usage."""

    @property
    def usage_pattern(self) -> re.Pattern[bytes]:
        """Matches where the marker is followed by usage that is not null."""

    @property
    def finish_markers(self) -> tuple[bytes, ...]:
        """Any of these says that an answer came to its end, also where no terminal event follows."""

    def facts(self, data: bytes) -> EventFacts:
        """Usage and errors in one event's data."""

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        """The output in one event's data: (choice, piece) pairs, none of them empty."""

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """The output in the data of an event that broke off, as far as it can be told."""

    def without_null_usage(self, block: bytes) -> bytes:
        """Whole events without the usage that is null in them; all else byte for byte."""

    def with_cost(self, data: bytes, cost_usd: str) -> bytes:
        """The same data with `cost_usd` in its usage object; unchanged where it has none."""


class Tap(Protocol):
    """Watches one stream; see `gateway.dialects.streaming.SseTap`, which is the one there is."""

    reported: Reported | None
    error_seen: bool

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


class Dialect(Protocol):
    """One API: which endpoints it has, how its requests are read and changed, where usage sits in its answers."""

    @property
    def endpoints(self) -> frozenset[str]:
        """The paths that this dialect reads."""

    def check_size(self, body: bytes) -> None:
        """Refuse a body with too much structure, before anything of it is built: byte searches up to the megabyte that
        shows it, nothing for bodies below about 250 kB. `parse` does it, too. Raises `BadRequest`."""

    def parse(self, endpoint: str, body: bytes) -> ParsedRequest:
        """What metering needs of a request. `msgspec.json.decode` of a body that is accepted never raises. Raises
        `BadRequest`."""

    def rewrite(
        self, body: bytes, *, model: str | None, include_usage: bool, max_output_tokens: int | None, max_field: str
    ) -> bytes:
        """The body to send upstream: the same object where nothing changes, else only top-level fields differ."""

    def usage_from_json(self, endpoint: str, body: bytes) -> Reported | None:
        """Usage of a whole answer, None where it reports none. Raises `GarbageAnswer`."""

    def output(self, body: bytes) -> Output:
        """What the model wrote in a whole answer, of all choices."""

    def output_of_part(self, part: bytes) -> Output:
        """What can be told of a whole answer whose rest did not come."""

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        """What a request brings to the model: tokens of its texts and structures, by `count`, and its inline data.
        Nothing raises but `count`."""

    def tap(self, *, usage_added: bool, include_cost: bool) -> Tap:
        """A tap for one stream. `usage_added`: the gateway, not the client, asked for the usage chunk."""
