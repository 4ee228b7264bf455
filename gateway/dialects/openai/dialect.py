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
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.dialects.base import NO_PARTS, NO_WORK, BadRequest, ParsedRequest, Work
from gateway.dialects.openai.fields import first_byte, folded, is_null, other_case, read_object, top_level, wrong_type
from gateway.dialects.openai.input import input_tokens
from gateway.dialects.openai.output import output_of, output_of_part
from gateway.dialects.openai.parts import count_parts, more_items
from gateway.dialects.openai.usage import OpenAIEvents, usage_from_json
from gateway.dialects.openai.work import PRESET, WORK_FIELDS, read_work
from gateway.dialects.output import Inline, Output
from gateway.dialects.streaming import SseTap
from gateway.dialects.structure import SHORT_VALUE_BYTES, StructureBounds, check_size, check_value, too_many

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
INPUT_FIELD: Final = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
MAX_FIELDS: Final = ("max_completion_tokens", "max_tokens", "n_predict")
"""The largest one given bounds a choice. `n_predict` is llama.cpp's, which prefers it to `max_tokens`."""
MAX_MODEL_CHARS: Final = 200
MAX_CHOICES: Final = 128
"""Of `n` and of `best_of` each, as OpenAI's reference bounds `n`."""
MAX_LABEL_CHARS: Final = 256
"""An end user's name and a service tier are kept up to here."""

_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)
_INTEGER: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)
_BOOLEAN: Final[msgspec.json.Decoder[bool | None]] = msgspec.json.Decoder(bool | None)
_FIELD_LEVEL: Final = 1
_TOKEN_IDS: Final = b"0123456789,[] \t\r\n"
"""All that stands in arrays of token ids."""

_EXPECTED: Final = {
    **dict.fromkeys(("model", "user", "safety_identifier", "service_tier"), "a string"),
    **dict.fromkeys(("n", "best_of", "max_tool_calls", *MAX_FIELDS), "an integer"),
    "stream": "a boolean",
}
_DECODERS: Final = {"a string": _STRING.decode, "an integer": _INTEGER.decode, "a boolean": _BOOLEAN.decode}
_READERS: Final[dict[str, Callable[[Raw], str | int | None]]] = {
    name: _DECODERS[expected] for name, expected in _EXPECTED.items()
}
METERING_FIELDS: Final = frozenset({*_READERS, "stream_options", *INPUT_FIELD.values(), *WORK_FIELDS})
_MEANT: Final = {folded(name): name for name in METERING_FIELDS}
_LOOKED_INTO: Final = WORK_FIELDS | {"stream_options"}
_USUAL_FIELDS: Final = METERING_FIELDS | {
    *("temperature", "top_p", "stop", "seed", "tool_choice", "parallel_tool_calls", "response_format", "top_k"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "metadata", "store"),
    *("reasoning_effort", "prediction", "verbosity", "echo", "suffix", "dimensions", "min_p", "repetition_penalty"),
    *("encoding_format", "prompt_cache_key", "functions", "function_call"),
}
"""Names that need no second look; any other costs a case-folding."""
_STREAM_OPTIONS: Final = frozenset({"include_usage"})
DEFAULT_BOUNDS: Final = StructureBounds()


def parse(endpoint: str, body: bytes, bounds: StructureBounds = DEFAULT_BOUNDS) -> ParsedRequest:
    """What a request to `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings` asks for. Raises `BadRequest`."""
    if len(body) > bounds.small_bytes:
        check_size(body, bounds)
    fields = top_level(body, bounds.fields)
    if fields is None:
        raise too_many("fields", bounds.fields)
    values = _values(fields, INPUT_FIELD[endpoint], bounds)
    model = _model(values)
    content = _input(fields, INPUT_FIELD[endpoint])
    has_output = endpoint != EMBEDDINGS
    stream = has_output and values.get("stream") is True
    choices = 1
    given: tuple[str, ...] = ()
    parts, outside = NO_PARTS, False
    work = NO_WORK if WORK_FIELDS.isdisjoint(fields) else _work(fields, values, bounds)
    if has_output:
        if "n" in values or "best_of" in values:
            choices = max(_within(values, "n", 1, MAX_CHOICES) or 1, _within(values, "best_of", 1, MAX_CHOICES) or 1)
        given = _maxima(values, 0 if endpoint == COMPLETIONS else 1)
    most: int | None = values[given[0]] if given else None
    if len(given) > 1:
        most = max([values[name] for name in given])
    if endpoint == CHAT:
        parts, outside = count_parts(content, bounds)
        outside = outside or ("prompt" in fields and first_byte(fields["prompt"]) == ord("{"))  # stored there
    else:
        prompts = _prompts(content, INPUT_FIELD[endpoint], bounds)
        choices *= prompts if has_output else 1
    return ParsedRequest(
        endpoint=endpoint,
        model=model,
        stream=stream,
        include_usage="stream_options" in fields and _asks_for_usage(fields["stream_options"], stream, bounds),
        choices=choices,
        max_output_tokens=most,
        max_fields=given,
        input_bound_tokens=len(body),
        end_user=_label(user) if (user := values.get("safety_identifier") or values.get("user")) else None,
        service_tier=_label(tier) if (tier := values.get("service_tier")) else None,
        has_output=has_output,
        parts=parts,
        unbounded_input=outside or work.outside,
        work=work,
    )


def max_field(provider_field: str, endpoint: str) -> str:
    """Where a provider takes the maximum of an answer's tokens: `provider_field` is its field for chats. Completions
    are older than `max_completion_tokens`."""
    return provider_field if endpoint == CHAT or provider_field == "n_predict" else "max_tokens"


def rewrite(
    body: bytes,
    *,
    model: str | None = None,
    include_usage: bool = False,
    max_output_tokens: int | None = None,
    max_field: str = "max_completion_tokens",
) -> bytes:
    """The body for the provider; the same object where nothing changes. For bodies that `parse` has accepted.

    `model` replaces the name; `include_usage` sets `stream_options.include_usage`, other options stay. With
    `max_output_tokens` no maximum is above that: where the client gave `max_field`, each that it gave is cut down to
    it; else `max_field` alone carries it, because the provider would believe no other. What is nested stays byte for
    byte; spaces between top-level fields go.
    """
    if model is None and not include_usage and max_output_tokens is None:
        return body
    fields: dict[str, Any] = dict(_FIELDS.decode(body))
    if model is not None:
        fields["model"] = model
    if include_usage:
        said: Raw | None = fields.get("stream_options")
        options: dict[str, Any] = {} if said is None or is_null(said) else dict(_FIELDS.decode(said))
        options["include_usage"] = True
        fields["stream_options"] = options
    if max_output_tokens is not None:
        maxima: dict[str, int | None] = {name: _INTEGER.decode(fields[name]) for name in MAX_FIELDS if name in fields}
        if maxima.get(max_field) is None:
            for name in maxima:
                del fields[name]
            fields[max_field] = max_output_tokens
        else:
            fields |= {name: min(most, max_output_tokens) for name, most in maxima.items() if most is not None}
    return msgspec.json.encode(fields)


class OpenAIDialect:
    """OpenAI's chat completions, completions and embeddings; a `Dialect`."""

    endpoints: Final = frozenset(INPUT_FIELD)
    events: Final = OpenAIEvents()

    def __init__(self, bounds: StructureBounds = DEFAULT_BOUNDS) -> None:
        self._bounds = bounds

    def check_size(self, body: bytes) -> None:
        check_size(body, self._bounds)

    def parse(self, endpoint: str, body: bytes) -> ParsedRequest:
        return parse(endpoint, body, self._bounds)

    def rewrite(
        self, body: bytes, *, model: str | None, include_usage: bool, max_output_tokens: int | None, max_field: str
    ) -> bytes:
        return rewrite(
            body, model=model, include_usage=include_usage, max_output_tokens=max_output_tokens, max_field=max_field
        )

    usage_from_json = staticmethod(usage_from_json)

    def output(self, body: bytes) -> Output:
        return output_of(body)

    def output_of_part(self, part: bytes) -> Output:
        return output_of_part(part)

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        return input_tokens(body, count)

    def tap(self, *, usage_added: bool, include_cost: bool) -> SseTap:
        """A client that wants the cost gets the usage chunk that carries it, whoever asked for usage."""
        return SseTap(self.events, strip_usage=usage_added and not include_cost, hold_usage=include_cost)


def _values(fields: Mapping[str, Raw], input_field: str, bounds: StructureBounds) -> dict[str, Any]:
    """The small fields, decoded. Raises `BadRequest` for a wrong type, or a name that another parser would take."""
    values: dict[str, Any] = {}
    try:
        for name, raw in fields.items():
            if name in _READERS:
                values[name] = _READERS[name](raw)
                continue
            if name not in _USUAL_FIELDS and (meant := _MEANT.get(folded(name))):
                raise other_case(meant)
            if len(raw) > SHORT_VALUE_BYTES and name != input_field and name not in _LOOKED_INTO:
                check_value(raw, bounds, _FIELD_LEVEL, name)
    except msgspec.DecodeError as error:
        raise wrong_type(name, _EXPECTED[name]) from error
    return values


def _work(fields: Mapping[str, Raw], values: Mapping[str, Any], bounds: StructureBounds) -> Work:
    return read_work(fields, _within(values, "max_tool_calls", 0, MAX_COUNT), bounds)


def _within(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    number: int | None = values.get(name)
    if number is not None and not least <= number <= most:
        raise BadRequest(f"Invalid value for '{name}': expected an integer from {least} to {most}.", name)
    return number


def _label(text: str) -> str:
    """A string that is only recorded: bounded, and without NUL, which Postgres can't store."""
    return text[:MAX_LABEL_CHARS].replace("\0", "\ufffd")


def _model(values: Mapping[str, Any]) -> str:
    model: str | None = values.get("model")
    if model is None:
        raise BadRequest("Missing required parameter: 'model'.", "model")
    if not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise BadRequest(f"Invalid value for 'model': expected 1 to {MAX_MODEL_CHARS} characters.", "model")
    if PRESET in model:
        raise BadRequest("A preset names its model at the provider: name the model itself.", "model")
    return model


def _maxima(values: Mapping[str, Any], least: int) -> tuple[str, ...]:
    """The maxima given, by name. Completions allow 0, with which OpenAI scores an echoed prompt and writes nothing."""
    given: tuple[str, ...] = ()
    for name in MAX_FIELDS:
        if name in values and _within(values, name, least, MAX_COUNT) is not None:
            given += (name,)
    return given


def _asks_for_usage(raw: Raw, stream: bool, bounds: StructureBounds) -> bool:
    check_value(raw, bounds, _FIELD_LEVEL, "stream_options")
    if is_null(raw) or (not stream and first_byte(raw) != ord("{")):
        return False
    options = read_object(raw, "stream_options", _STREAM_OPTIONS)
    try:
        return "include_usage" in options and _BOOLEAN.decode(options["include_usage"]) is True and stream
    except msgspec.DecodeError as error:
        raise wrong_type("stream_options.include_usage", "a boolean") from error


def _input(fields: Mapping[str, Raw], name: str) -> Raw:
    """The field that holds the input, not built: a list, or for prompts and embeddings also a string."""
    raw = fields.get(name)
    if raw is None:
        raise BadRequest(f"Missing required parameter: '{name}'.", name)
    first = first_byte(raw)
    if first == ord("[") or (first == ord('"') and name != "messages"):
        return raw
    raise wrong_type(name, "an array" if name == "messages" else "a string or an array")


def _prompts(raw: Raw, name: str, bounds: StructureBounds) -> int:
    """How many prompts: a string or a list of token ids is one, a list of either as many as it has. Nothing else may be
    there: some providers take a picture's address, which bounds no tokens."""
    if first_byte(raw) == ord('"'):
        return 1
    check_value(raw, bounds, _FIELD_LEVEL, name)
    text = bytes(raw)
    ids = not text.translate(None, _TOKEN_IDS)
    if ids and text.rfind(b"[") == 0:
        return 1
    if more_items(raw, bounds.messages):
        raise too_many(f"items in '{name}'", bounds.messages, name)
    items = _ITEMS.decode(raw)
    if not ids and any(first_byte(item) != ord('"') and bytes(item).translate(None, _TOKEN_IDS) for item in items):
        raise wrong_type(name, "a string, token ids, or an array of these")
    return max(1, len(items))
