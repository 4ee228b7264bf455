"""What a dialect tells of a request and of its answer: the facts that metering needs. Pure.

This file owns the two rules of `docs/providers.md` for counts that say too little or too much, and how a count that no
reader knows is found: parts of a count are cut down to their whole, and shared out where a provider does not say whose
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from billing.usage import ModelUsage, Usage, total
from gateway.dialects.declarations import NO_METADATA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from gateway.dialects.declarations import Endpoint

_MARK: Final = "token"
# Of one answer that are told.
MAX_ANOMALIES: Final = 8
# What of a usage could not be placed (`field`, `total`), and the name that it has there.
Anomaly = tuple[str, str]


def cut_down(whole: int, parts: Iterable[int]) -> list[int]:
    """Return the parts in order, each cut down to what is left of the whole."""
    kept = []
    for part in parts:
        kept.append(min(part, whole))
        whole -= kept[-1]
    return kept


def shared_out(count: int, **shares: int) -> dict[str, int]:
    """Return how many of each share are meant by a count of all of them: the first ones first."""
    return dict(zip(shares, cut_down(count, shares.values()), strict=True))


def is_zero(count: object) -> bool:
    """Return whether a count is present and zero."""
    return type(count) is int and count == 0


def unknown_counts(counts: Mapping[str, Any], known: Collection[str], within: str = "") -> Iterator[Anomaly]:
    """Yield the names of counts of tokens above zero that are not `known`, in a usage object and its details."""
    for name, value in counts.items():
        if isinstance(value, dict):
            yield from unknown_counts(value, known, f"{name}.") if not within else ()
        elif type(value) is int and value > 0 and name not in known and _MARK in name.lower():
            yield "field", within + name


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
        """Return how much of the body is inline data of any kind; the rest is JSON, which is text to a provider."""
        return self.inline_bytes + self.audio_bytes


NO_PARTS = Parts()


class Work(msgspec.Struct, frozen=True):
    """What a request asks of its provider beside one call of its model.

    `outside`: input stands outside the body; what tools bring is not part of that.
    `uses`: calls of tools at the provider that the request bounds itself. Each may call the model again, and adds what
    such a call brings to the input of the rounds after it. `searches` among them are charged.
    `bounded_tools`: the types of the tools in `uses`; empty if they may be of any type.
    `one_search`: the provider bills a search that it does not report.
    `models`: others that may answer, by their names at the provider.
    `audio`: the answer may be spoken.
    `calls` of a model beside the answer and the uses, each with a context window of input and the model's maximum of
    output.
    `fast`: a dearer speed is asked for.
    `search_units`: searches that the request itself may be billed as, if its model is priced by the search.
    `predicted`: bytes of output that the client predicts. Wrong ones are billed as output, beside the answer.

    `open_tools`: the types of tools at the provider that the request does not bound. The gateway grants a number of
    calls, and sends it with the request (`Dialect.rewrite`). `unknown_tools`: those of them whose types are unknown.
    `calls_are_shared`: the granted number bounds the calls of all open tools together (`max_tool_calls`), else those of
    each (`max_uses`). `open_searches`: how many open tools are charged by the search.
    `most_calls`: the most calls that may be granted, if each brings further work, such as a compaction; `uses` and
    `calls` are those with so many.
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
    open_tools: tuple[str, ...] = ()
    unknown_tools: tuple[str, ...] = ()
    calls_are_shared: bool = True
    open_searches: int = 0
    most_calls: int | None = None
    bounded_tools: tuple[str, ...] = ()


NO_WORK = Work()
_SEARCHING: Final = ("search", "brows")
_FREE_SEARCH: Final = "tool_search"


def charged_by_search(kind: str) -> bool:
    """Return whether a tool that runs at the provider is charged by the search, by its type; to search among the tools
    of the request itself is free."""
    name = kind.lower()
    return any(part in name for part in _SEARCHING) and _FREE_SEARCH not in name


class Created(msgspec.Struct, frozen=True):
    """An object that an answer has created at its provider. `running`: the provider works on after it has answered;
    `cancelled`: it has stopped because it was told to."""

    object_id: str
    running: bool = False
    cancelled: bool = False


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
        """Return the usage of an object that is done, None where it reports none. Raises `GarbageAnswer`."""

    def of_answer(self, body: bytes) -> Created | None:
        """Return the object that a whole answer has created, None where it tells of none. Nothing raises."""

    def of_event(self, data: bytes) -> Created | None:
        """Return the same by the data of a stream's first event."""


class Stored(msgspec.Struct, frozen=True):
    """What a request has to do with objects that accounts own at providers.

    `names` are ids of objects that must be the account's; `previous` is the one of them from which the answer goes on,
    where nothing else of the input stands outside the body. `background`: the provider may answer before it has done
    its work. `creation` tells of the object that the answer creates, None where it creates none. `whole`: its counts
    are of all that it goes on from, so that they bound what goes on from it. `provider` is where the named objects
    are, once that is known. `tools` are the types of tools that run at the provider and are part of what goes on from
    the answer, whether or not it names them again; `most_calls` is how often all tools may run, None where the request
    does not say.
    """

    names: tuple[str, ...] = ()
    previous: str | None = None
    creation: Creation | None = None
    provider: str | None = None
    background: bool = False
    whole: bool = True
    tools: tuple[str, ...] = ()
    most_calls: int | None = None


class ParsedRequest(msgspec.Struct, frozen=True):
    """What metering needs of one request.

    `operation` is the endpoint's; `choices` how many answers it may bring; `max_output_tokens` the client's own maximum
    for each of them, None where it gave none; `include_usage` that a stream will report usage without being asked by
    the gateway. `max_fields` are the fields in which the client gave a maximum, of which `max_output_tokens` is the
    largest.

    `model` is empty where the API lets the provider choose one: the gateway's default is filled in. `model_in_body`
    says that the body names it; else the provider's name for it is written there. `reports_usage` says whether answers
    have a usage at all. `metadata` is what the body says for the record alone (OpenAI's field of that name): it becomes
    tags.

    `unbounded_input` says that input stands outside the body (a file id): only the context window bounds it. What tools
    at the provider add is not part of it, but of `work`. `context_window` is what a feature raises the model's to, 0
    where none does.

    `session` is the client's own name for the conversation that a request belongs to, None where it says none.

    `prepares`: the provider is asked to get ready for a later request and to write nothing, so that nothing but what it
    reports is charged.

    `stored` is None where a request neither names nor creates objects at the provider. One that names some may have no
    `model`: then it goes to where they are; one that names none goes to the first provider that serves the dialect.
    """

    operation: str
    model: str
    input_bound_tokens: int
    stream: bool = False
    include_usage: bool = False
    choices: int = 1
    max_output_tokens: int | None = None
    end_user: str | None = None
    service_tier: str | None = None
    has_output: bool = False
    parts: Parts = NO_PARTS
    unbounded_input: bool = False
    max_fields: tuple[str, ...] = ()
    work: Work = NO_WORK
    metadata: Mapping[str, str] = NO_METADATA
    stored: Stored | None = None
    model_in_body: bool = True
    reports_usage: bool = True
    prepares: bool = False
    session: str | None = None
    context_window: int = 0

    def bound_input_tokens(self, part_tokens: Mapping[str, int] | None) -> int | None:
        """Return an upper bound of the input's tokens, or None where only the model's context window is one.

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
    they choose the variant of the price row. `anomalies` are for the operator and price nothing."""

    usage: Usage
    service_tier: str | None = None
    model: str | None = None
    others: tuple[ModelUsage, ...] = ()
    processing: str | None = None
    speed: str | None = None
    region: str | None = None
    anomalies: tuple[Anomaly, ...] = ()

    @property
    def counts_nothing(self) -> bool:
        """Return whether every count is zero; a cost beside such counts is no count."""
        usage = self.usage
        if usage.input_tokens or usage.output_tokens or self.others:
            return False
        return usage.by_class().keys() <= {"request"}

    @property
    def total(self) -> Usage:
        """Return the counts of all models together."""
        return total((self.usage, *(other.usage for other in self.others))) if self.others else self.usage


class EventFacts(msgspec.Struct, frozen=True):
    """What one server-sent event says. `is_usage_only` marks a chunk that exists for its usage alone."""

    reported: Reported | None = None
    has_usage: bool = False
    is_usage_only: bool = False
    is_error: bool = False
