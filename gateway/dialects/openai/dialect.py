"""OpenAI's format, the request: what it asks for at most, and the few top-level fields the gateway changes.

Source: https://platform.openai.com/docs/api-reference/chat/create, .../completions/create, .../embeddings/create.
This file owns the rule that the bound read here holds for whatever the provider reads from the same bytes: two parsers
that disagree about a body must not let more through than was held. So a body is refused

- that is not strict JSON in UTF-8 (NaN, comments, trailing commas, lone surrogates, a byte order mark),
- in which a name stands twice, or in another spelling, in an object that metering reads (`fields`),
- in which a metering field has another type than OpenAI's (`"n": "2"`), which lenient parsers would convert,
- in which a number is above what a double holds, or that has more structure than its bounds (`structure`).

Every value is looked at by a decoder here or by `structure.check_value`, so that `msgspec.json.decode` of a body that
`parse` has accepted never raises. Nothing below the top level is built but what has to be looked into.

Azure's client names the model of most operations in the path, and that name alone counts; others stand without one
(https://learn.microsoft.com/azure/ai-foundry/openai/reference). What it calls is served at its own path and below
`/azure`, so that its endpoint is this gateway's address with or without that.

Errors are in the envelope that OpenAI's clients expect, and that whatever belongs to no API is answered in
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from msgspec import Raw

from billing.schemas import base
from billing.usage import MAX_COUNT
from gateway.dialects.base import TRIAL_TEXT, TRIAL_TOKENS, Changes, Dialect, Trial
from gateway.dialects.body import (
    BOOLEAN,
    DEFAULT_BOUNDS,
    FIELD_LEVEL,
    FIELDS,
    INTEGER,
    ITEMS,
    BadRequest,
    FieldTable,
    StructureBounds,
    check_value,
    checked_model,
    first_byte,
    integer_within,
    is_null,
    label,
    metadata_of,
    more_items,
    read_object,
    read_values,
    request_fields,
    too_many,
    wrong_type,
)
from gateway.dialects.declarations import NO_HEADERS, NO_METADATA, Endpoint
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Work
from gateway.dialects.openai import OPENAI
from gateway.dialects.openai.answer import OUTPUT, usage_from_json
from gateway.dialects.openai.events import OpenAIEvents
from gateway.dialects.openai.messages import count_content, count_parts, input_texts, input_tokens
from gateway.dialects.openai.work import (
    SEARCH_PARAMETERS,
    TOOL_CALLS_FIELD,
    WORK_FIELDS,
    read_work,
    with_bounded_sources,
)
from gateway.dialects.streaming import SseTap

if TYPE_CHECKING:
    from gateway.dialects.base import Head, Match, RefusalFacts

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
MODERATIONS: Final = "/v1/moderations"
# The parameter of a path that names the model.
DEPLOYMENT: Final = "model"
_VERSION: Final = "/v1"
_AZURE: Final = ("/openai", "/azure/openai")


def with_azure(
    operations: Iterable[str], *, free: bool = False, writes: bool = True, deployed: bool = True
) -> Iterator[Endpoint]:
    """Give the endpoints of some operations, which are named by their paths here: those, and Azure's of each.
    `deployed` says that Azure's client names the model in the path."""
    deployment = f"/deployments/{{{DEPLOYMENT}}}" if deployed else ""
    for operation in operations:
        for path in paths_of(operation, deployment):
            yield Endpoint(path, operation, free=free, writes=writes)


def paths_of(path: str, deployment: str = "") -> Iterator[str]:
    """Give a path, and those of Azure's client for the same; `deployment` stands in those without a version."""
    yield path
    for begins in _AZURE:
        yield begins + path
        yield f"{begins}{deployment}{path.removeprefix(_VERSION)}"
        if deployment and path == MODERATIONS:  # which AzureOpenAI sends without a deployment
            yield begins + path.removeprefix(_VERSION)


# LiteLLM maps a 402 or 403 of any other type to its general APIError, which what is built on it repeats (aider 0.86.2:
# nine times within 71 s), and one of this type to BadRequestError with the same status, which they take for final; seen
# with LiteLLM 1.81.10 and 1.106.2. No other client looks at these types.
_TYPES: Final[Mapping[int, str]] = dict.fromkeys((402, 403), "invalid_request_error")
# OpenAI's type of a quota that waiting does not help with.
SPENT: Final = "insufficient_quota"
# At the status 429 no type stops OpenCode 1.18.33, Qwen Code 0.15.10, Continue 1.5.47, pi 0.73.1 or LiteLLM: they go by
# the status alone, and neither `type` nor `code` changed how often they asked. AI SDK 4 obeys it in a stream's error.


def error_body(refusal: RefusalFacts, request_id: str) -> bytes:
    """Return `{"error": {message, type, param, code, ...}}`; `code` is the gateway's own, `type` OpenAI's where clients
    act on it."""
    type_ = _TYPES.get(refusal.status, refusal.type) if refusal.final is None else SPENT
    return base.error_body(refusal.code, refusal.message, type_=type_, param=refusal.param, **refusal.extra)


def error_headers(request_id: str, refusal: RefusalFacts | None = None) -> Mapping[str, str]:
    """Return no further headers: `x-request-id` is what OpenAI's clients show."""
    return NO_HEADERS


INPUT_FIELD: Final = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input", MODERATIONS: "input"}
WITH_OUTPUT: Final = frozenset({CHAT, COMPLETIONS})
OPENAI_MAX_FIELD: Final = "max_completion_tokens"
# The largest one given bounds a choice. `n_predict` is llama.cpp's, which prefers it to `max_tokens`.
MAX_FIELDS: Final = (OPENAI_MAX_FIELD, "max_tokens", "n_predict")
# Of `n` and of `best_of` each, as OpenAI's reference bounds `n`.
MAX_CHOICES: Final = 128

# All characters of arrays of token ids.
_TOKEN_IDS: Final = b"0123456789,[] \t\r\n"

_EXPECTED: Final = {
    **dict.fromkeys(("model", "user", "safety_identifier", "service_tier"), "a string"),
    **dict.fromkeys(("n", "best_of", TOOL_CALLS_FIELD, *MAX_FIELDS), "an integer"),
    "stream": "a boolean",
}
METERING_FIELDS: Final = frozenset({*_EXPECTED, "stream_options", *INPUT_FIELD.values(), *WORK_FIELDS})
_USUAL_FIELDS: Final = METERING_FIELDS | {
    "temperature",
    "top_p",
    "stop",
    "seed",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "metadata",
    "store",
    "reasoning_effort",
    "prediction",
    "verbosity",
    "echo",
    "suffix",
    "dimensions",
    "min_p",
    "repetition_penalty",
    "encoding_format",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "functions",
    "function_call",
}
_TABLE: Final = FieldTable(_EXPECTED, METERING_FIELDS, _USUAL_FIELDS, WORK_FIELDS | {"stream_options"})
_STREAM_OPTIONS: Final = frozenset({"include_usage"})
RESPONSES_BODY: Final = (
    "Missing required parameter: 'messages'. This is a body of /v1/responses (it has 'input'): send it there, or set "
    "your client to use the Responses API."
)


def parse(
    operation: str, body: bytes, bounds: StructureBounds = DEFAULT_BOUNDS, deployment: str | None = None
) -> ParsedRequest:
    """Return what a request to one of `INPUT_FIELD` asks for. `deployment` is the model that its path names, which goes
    before the body's. Raises `BadRequest`."""
    fields = request_fields(body, bounds)
    values = read_values(fields, _TABLE, INPUT_FIELD[operation], bounds)
    if deployment is not None:
        model, named = checked_model(deployment), False
    else:
        named = values.get("model") is not None
        model = "" if operation == MODERATIONS and not named else checked_model(values.get("model"))
    content = _input(fields, INPUT_FIELD[operation])
    has_output = operation in WITH_OUTPUT
    stream = has_output and values.get("stream") is True
    choices = 1
    given: tuple[str, ...] = ()
    parts, outside = NO_PARTS, False
    work = NO_WORK if WORK_FIELDS.isdisjoint(fields) else _work(fields, values, bounds)
    if has_output:
        if "n" in values or "best_of" in values:
            choices = max(
                integer_within(values, "n", 1, MAX_CHOICES) or 1, integer_within(values, "best_of", 1, MAX_CHOICES) or 1
            )
        given = _maxima(values, 0 if operation == COMPLETIONS else 1)
    most: int | None = values[given[0]] if given else None
    if len(given) > 1:
        most = max(values[name] for name in given)
    if operation == CHAT:
        parts, outside = count_parts(content, bounds)
        outside = outside or ("prompt" in fields and first_byte(fields["prompt"]) == ord("{"))  # stored there
    elif operation == MODERATIONS and first_byte(content) == ord("["):
        parts, outside = count_content(content, bounds)
    else:
        prompts = _prompts(content, INPUT_FIELD[operation], bounds)
        choices *= prompts if has_output else 1
    user, tier = values.get("safety_identifier") or values.get("user"), values.get("service_tier")
    return ParsedRequest(  # the first ten by position: msgspec looks for every name among all of them
        operation,
        model,
        len(body),
        stream,
        "stream_options" in fields and _asks_for_usage(fields["stream_options"], stream, bounds),
        choices,
        most,
        label(user) if user else None,
        label(tier) if tier else None,
        has_output,
        parts=parts,
        unbounded_input=outside or work.outside,
        max_fields=given,
        work=work,
        metadata=metadata_of(fields["metadata"]) if "metadata" in fields else NO_METADATA,
        model_in_body=named,
        reports_usage=operation != MODERATIONS,
    )


def max_field(provider_field: str, operation: str) -> str:
    """Return where a provider takes the maximum of an answer's tokens: `provider_field` is its field for chats.
    Completions are older than `max_completion_tokens`."""
    return provider_field if operation == CHAT or provider_field == "n_predict" else "max_tokens"


def rewrite(body: bytes, changes: Changes) -> bytes:
    """Return the body for the provider; the same object where nothing changes. For bodies that `parse` has accepted.

    Options of a stream beside `include_usage` stay. No maximum is above `max_output_tokens`: where the client gave
    `max_field`, each that it gave is cut down to it; else `max_field` alone carries it, because the provider would
    believe no other. `tool_calls` is written where the provider may know a field for it. What is nested stays byte for
    byte; spaces between top-level fields go.
    """
    unchanged = changes.model is None and changes.max_output_tokens is None and changes.tool_calls is None
    if unchanged and not changes.include_usage:
        return body
    fields: dict[str, Any] = dict(FIELDS.decode(body))
    if changes.model is not None:
        fields["model"] = changes.model
    if changes.include_usage:
        given: Raw | None = fields.get("stream_options")
        options: dict[str, Any] = {} if given is None or is_null(given) else dict(FIELDS.decode(given))
        options["include_usage"] = True
        fields["stream_options"] = options
    max_field = changes.max_field
    if (granted := changes.max_output_tokens) is not None:
        maxima: dict[str, int | None] = {name: INTEGER.decode(fields[name]) for name in MAX_FIELDS if name in fields}
        if maxima.get(max_field) is None:
            for name in maxima:
                del fields[name]
            fields[max_field] = granted
        else:
            fields |= {name: min(most, granted) for name, most in maxima.items() if most is not None}
    if changes.tool_calls is not None:
        if SEARCH_PARAMETERS in fields:
            fields[SEARCH_PARAMETERS] = with_bounded_sources(fields[SEARCH_PARAMETERS], changes.tool_calls)
        # OpenAI, Azure and Groq have no such field in chats, and refuse fields that they do not know; nor has OpenAI a
        # tool there that it would run. OpenRouter obeys it, and others pass over it.
        if max_field != OPENAI_MAX_FIELD and is_null(fields.get(TOOL_CALLS_FIELD)):
            fields[TOOL_CALLS_FIELD] = changes.tool_calls
    return msgspec.json.encode(fields)


class OpenAIDialect(Dialect):
    """OpenAI's chat completions, completions, embeddings and moderations."""

    name = "openai"
    declared = OPENAI
    endpoints = (
        *with_azure(operation for operation in INPUT_FIELD if operation in WITH_OUTPUT),
        *with_azure((operation for operation in INPUT_FIELD if operation not in WITH_OUTPUT), writes=False),
    )
    kept_parameters = METERING_FIELDS
    events = OpenAIEvents()
    trials: ClassVar[tuple[Trial, ...]] = (
        Trial(
            CHAT,
            {"messages": [{"role": "user", "content": TRIAL_TEXT}], "max_tokens": TRIAL_TOKENS, "stream": True},
        ),
        Trial(EMBEDDINGS, {"input": TRIAL_TEXT}, writes=False),
    )

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return that every other path is: its clients get errors in OpenAI's shape."""
        return True

    def parse(self, head: Head, body: bytes) -> ParsedRequest:
        """Return what metering needs of a request. Raises `BadRequest`."""
        match = head.match
        return parse(match.endpoint.operation, body, self._bounds, match.parameters.get(DEPLOYMENT))

    texts = staticmethod(input_texts)
    input_tokens = staticmethod(input_tokens)
    rewrite = staticmethod(rewrite)
    usage_from_json = staticmethod(usage_from_json)
    output = staticmethod(OUTPUT.output)
    output_of_part = staticmethod(OUTPUT.output_of_part)
    error_body = staticmethod(error_body)

    def upstream_path(self, match: Match, model: str) -> str:
        """Return what follows a base URL, which is, as OpenAI's clients take it, all that stands before the endpoint,
        `/v1` included."""
        return match.endpoint.operation.removeprefix("/v1")

    def max_field(self, operation: str, configured: str) -> str:
        """Return the field in which the maximum of an answer's tokens is sent: `configured` is that of chats.
        Completions are older than `max_completion_tokens`."""
        return max_field(configured, operation)

    def tap(self, content_type: bytes, *, usage_added: bool, include_cost: bool) -> SseTap:
        """Return a tap; a client that wants the cost gets the usage chunk that carries it, whoever asked for usage."""
        return SseTap(self.events, strip_usage=usage_added and not include_cost, hold_usage=include_cost)


def _work(fields: Mapping[str, Raw], values: Mapping[str, Any], bounds: StructureBounds) -> Work:
    return read_work(fields, integer_within(values, TOOL_CALLS_FIELD, 0, MAX_COUNT), bounds)


def _maxima(values: Mapping[str, Any], least: int) -> tuple[str, ...]:
    """Return the maxima given, by name. Completions allow 0: OpenAI scores an echoed prompt then, and writes none."""
    given: tuple[str, ...] = ()
    for name in MAX_FIELDS:
        if name in values and integer_within(values, name, least, MAX_COUNT) is not None:
            given += (name,)
    return given


def _asks_for_usage(raw: Raw, stream: bool, bounds: StructureBounds) -> bool:
    check_value(raw, bounds, FIELD_LEVEL, "stream_options")
    if is_null(raw) or (not stream and first_byte(raw) != ord("{")):
        return False
    options = read_object(raw, "stream_options", _STREAM_OPTIONS)
    try:
        return "include_usage" in options and BOOLEAN.decode(options["include_usage"]) is True and stream
    except msgspec.DecodeError as error:
        raise wrong_type("stream_options.include_usage", "a boolean") from error


def _input(fields: Mapping[str, Raw], name: str) -> Raw:
    """Return the field that holds the input, not built: a list, or for prompts and embeddings also a string."""
    raw = fields.get(name)
    if raw is None:
        if name == "messages" and "input" in fields:  # some clients send both APIs' bodies to one address
            raise BadRequest(RESPONSES_BODY, name)
        raise BadRequest(f"Missing required parameter: '{name}'.", name)
    first = first_byte(raw)
    if first == ord("[") or (first == ord('"') and name != "messages"):
        return raw
    raise wrong_type(name, "an array" if name == "messages" else "a string or an array")


def _prompts(raw: Raw, name: str, bounds: StructureBounds) -> int:
    """Return how many prompts: a string or a list of token ids is one, a list of either as many as it has. Nothing else
    may be there: some providers take a picture's address, which bounds no tokens."""
    if first_byte(raw) == ord('"'):
        return 1
    check_value(raw, bounds, FIELD_LEVEL, name)
    text = bytes(raw)
    ids = not text.translate(None, _TOKEN_IDS)
    if ids and text.rfind(b"[") == 0:
        return 1
    if more_items(raw, bounds.messages):
        raise too_many(f"items in '{name}'", bounds.messages, name)
    items = ITEMS.decode(raw)
    if not ids and any(first_byte(item) != ord('"') and bytes(item).translate(None, _TOKEN_IDS) for item in items):
        raise wrong_type(name, "a string, token ids, or an array of these")
    return max(1, len(items))
