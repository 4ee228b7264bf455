"""OpenAI's format, the request: what it asks for at most, and the few top-level fields the gateway changes.

Source: https://platform.openai.com/docs/api-reference/chat/create, .../completions/create, .../embeddings/create.
This file owns the rule that the bound read here holds for whatever the provider reads from the same bytes: two parsers
that disagree about a body must not let more through than was held. So a body is refused

- that is not strict JSON in UTF-8 (NaN, comments, trailing commas, lone surrogates, a byte order mark),
- in which a top-level name stands twice, however it is escaped: parsers differ in which one they take,
- in which a metering field is spelled in another case (`MAX_TOKENS`): Go's parser would take it, others would not,
- in which a metering field has another type than OpenAI's (`"n": "2"`), which lenient parsers would convert.

Nothing below the top level is built but small fields, and messages that have parts other than text.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT
from gateway.providers.dialect import NO_PARTS, BadRequest, ParsedRequest, Reported
from gateway.providers.openai_input import input_tokens
from gateway.providers.openai_output import output_of, output_of_part
from gateway.providers.openai_parts import Name, as_name, count_parts, first_byte
from gateway.providers.openai_usage import OpenAIEvents, usage_from_json
from gateway.providers.output import Inline, Output
from gateway.streaming import SseTap

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
INPUT_FIELD: Final = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
DEFAULT_MAX_FIELD: Final = {CHAT: "max_completion_tokens", COMPLETIONS: "max_tokens"}
"""Where an imposed maximum goes: OpenAI's reasoning models refuse `max_tokens`, older servers know nothing else."""
MAX_FIELDS: Final = ("max_completion_tokens", "max_tokens", "n_predict")
"""The largest one given bounds a choice. `n_predict` is llama.cpp's, which prefers it to `max_tokens`."""
MAX_MODEL_CHARS: Final = 200
MAX_CHOICES: Final = 128
"""Of `n` and of `best_of` each, as OpenAI's reference bounds `n`."""
MAX_LABEL_CHARS: Final = 256
"""An end user's name and a service tier are kept up to here."""

SERVER_TOOL_FIELDS: Final = frozenset({"web_search_options", "search_parameters", "plugins"})
"""OpenAI's, xAI's and OpenRouter's way to have the provider put search results into the input."""

_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_PAIRS: Final = msgspec.json.Decoder(dict[Name, Raw], dec_hook=as_name)
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)
_INTEGER: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)
_BOOLEAN: Final[msgspec.json.Decoder[bool | None]] = msgspec.json.Decoder(bool | None)
_SHORTEST_PAIR_BYTES: Final = len('"":0,')

_EXPECTED: Final = {
    **dict.fromkeys(("model", "user", "safety_identifier", "service_tier"), "a string"),
    **dict.fromkeys(("n", "best_of", *MAX_FIELDS), "an integer"),
    "stream": "a boolean",
}
_DECODERS: Final = {"a string": _STRING.decode, "an integer": _INTEGER.decode, "a boolean": _BOOLEAN.decode}
_READERS: Final[dict[str, Callable[[Raw], str | int | None]]] = {
    name: _DECODERS[expected] for name, expected in _EXPECTED.items()
}
METERING_FIELDS: Final = frozenset({*_READERS, "stream_options", *INPUT_FIELD.values(), *SERVER_TOOL_FIELDS})
_USUAL_FIELDS: Final = METERING_FIELDS | {
    *(
        "temperature",
        "top_p",
        "stop",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "top_k",
    ),
    *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "metadata", "store"),
    *("reasoning_effort", "modalities", "audio", "prediction", "verbosity", "echo", "suffix", "dimensions"),
    *("encoding_format", "prompt_cache_key", "functions", "function_call", "min_p", "repetition_penalty"),
}
"""Names that need no second look; any other costs a case-folding."""


def parse(endpoint: str, body: bytes) -> ParsedRequest:
    """What a request to `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings` asks for. Raises `BadRequest`."""
    fields = _top_level(body)
    values = _values(fields)
    model = _model(values)
    content = _input(fields, INPUT_FIELD[endpoint])
    has_output = endpoint != EMBEDDINGS
    stream = has_output and values.get("stream") is True
    choices = 1
    max_output_tokens = None
    parts = NO_PARTS
    unbounded = not SERVER_TOOL_FIELDS.isdisjoint(fields)
    if has_output:
        if "n" in values or "best_of" in values:
            choices = max(_within(values, "n", 1, MAX_CHOICES) or 1, _within(values, "best_of", 1, MAX_CHOICES) or 1)
        max_output_tokens = _maximum(values, 0 if endpoint == COMPLETIONS else 1)
    if endpoint == COMPLETIONS:
        choices *= _prompts(content)
    elif endpoint == CHAT:
        parts, outside = count_parts(content)
        unbounded = unbounded or outside
    return ParsedRequest(
        endpoint=endpoint,
        model=model,
        stream=stream,
        include_usage=stream and "stream_options" in fields and _asks_for_usage(fields),
        choices=choices,
        max_output_tokens=max_output_tokens,
        input_bound_tokens=len(body),
        end_user=_label(values.get("safety_identifier") or values.get("user")),
        service_tier=_label(values.get("service_tier")),
        has_output=has_output,
        parts=parts,
        unbounded_input=unbounded,
    )


def rewrite(
    body: bytes,
    *,
    model: str | None = None,
    include_usage: bool = False,
    max_output_tokens: int | None = None,
    max_field: str = "max_completion_tokens",
) -> bytes:
    """The body for the provider; the same object where nothing changes. For bodies that `parse` has accepted.

    `model` replaces the name; `include_usage` sets `stream_options.include_usage`, other options stay; with
    `max_output_tokens` every maximum that the client gave becomes that, and `max_field` where it gave none
    (`DEFAULT_MAX_FIELD` by endpoint). What is nested stays byte for byte; spaces between top-level fields go.
    """
    if model is None and not include_usage and max_output_tokens is None:
        return body
    fields: dict[str, Any] = dict(_FIELDS.decode(body))
    if model is not None:
        fields["model"] = model
    if include_usage:
        options: dict[str, Any] = dict(_options(fields))
        options["include_usage"] = True
        fields["stream_options"] = options
    if max_output_tokens is not None:
        given = [name for name in MAX_FIELDS if name in fields and _INTEGER.decode(fields[name]) is not None]
        for name in given or (max_field,):
            fields[name] = max_output_tokens
    return msgspec.json.encode(fields)


class OpenAIDialect:
    """OpenAI's chat completions, completions and embeddings; a `Dialect`."""

    endpoints: Final = frozenset(INPUT_FIELD)
    events: Final = OpenAIEvents()

    def parse(self, endpoint: str, body: bytes) -> ParsedRequest:
        return parse(endpoint, body)

    def rewrite(
        self, body: bytes, *, model: str | None, include_usage: bool, max_output_tokens: int | None, max_field: str
    ) -> bytes:
        return rewrite(
            body, model=model, include_usage=include_usage, max_output_tokens=max_output_tokens, max_field=max_field
        )

    def usage_from_json(self, endpoint: str, body: bytes) -> Reported | None:
        return usage_from_json(endpoint, body)

    def output(self, body: bytes) -> Output:
        return output_of(body)

    def output_of_part(self, part: bytes) -> Output:
        return output_of_part(part)

    def input_tokens(self, body: bytes, count: Callable[[str], int]) -> tuple[int, list[Inline]]:
        return input_tokens(body, count)

    def tap(self, *, usage_added: bool, include_cost: bool) -> SseTap:
        """A client that wants the cost gets the usage chunk that carries it, whoever asked for usage."""
        return SseTap(self.events, strip_usage=usage_added and not include_cost, hold_usage=include_cost)


def _top_level(body: bytes) -> dict[str, Raw]:
    """The fields by name, each there once. Raises `BadRequest`."""
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look inside strings that it does not build
        fields, once = _distinct(body)
    except UnicodeDecodeError as error:
        raise BadRequest("The body is not valid JSON: it is not UTF-8.") from error
    except RecursionError as error:
        raise BadRequest("The body is not valid JSON: it is nested too deeply.") from error
    except msgspec.ValidationError as error:
        raise BadRequest("The body must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}") from error
    if not once:
        raise _twice(body)
    return fields


def _distinct(text: bytes) -> tuple[dict[str, Raw], bool]:
    """The fields of a JSON object, and whether each stands there once. Raises what the decoder raises."""
    fields = _FIELDS.decode(text)
    # Names, values and the signs between them make up the text: a name that stands twice leaves a rest, as do spaces.
    rest_bytes = len(text) - 4 * len(fields) - sum(map(len, fields)) - sum(map(len, fields.values()))
    return fields, rest_bytes < _SHORTEST_PAIR_BYTES or len(_PAIRS.decode(text)) == len(fields)


def _twice(body: bytes) -> BadRequest:
    seen = set()
    for name in map(str, _PAIRS.decode(body)):
        if name in seen:
            break
        seen.add(name)
    param = name[:MAX_MODEL_CHARS]
    return BadRequest(f"The field '{param}' is given twice.", param)


def _wrong_type(param: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid type for '{param}': expected {expected}.", param)


def _values(fields: Mapping[str, Raw]) -> dict[str, Any]:
    """The small fields, decoded. Raises `BadRequest` for a wrong type, or a name that another parser would take."""
    values: dict[str, Any] = {}
    try:
        for name, raw in fields.items():
            if name in _READERS:
                values[name] = _READERS[name](raw)
            elif name not in _USUAL_FIELDS and (folded := name.casefold()) in METERING_FIELDS:
                raise BadRequest(f"Unrecognized field: write '{folded}' in lower case.", folded)
    except msgspec.DecodeError as error:
        raise _wrong_type(name, _EXPECTED[name]) from error
    return values


def _within(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    number: int | None = values.get(name)
    if number is not None and not least <= number <= most:
        raise BadRequest(f"Invalid value for '{name}': expected an integer from {least} to {most}.", name)
    return number


def _label(text: str | None) -> str | None:
    """A string that is only recorded: bounded, and without NUL, which Postgres can't store."""
    return text[:MAX_LABEL_CHARS].replace("\0", "\ufffd") if text else None


def _model(values: Mapping[str, Any]) -> str:
    model: str | None = values.get("model")
    if model is None:
        raise BadRequest("Missing required parameter: 'model'.", "model")
    if not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise BadRequest(f"Invalid value for 'model': expected 1 to {MAX_MODEL_CHARS} characters.", "model")
    return model


def _maximum(values: Mapping[str, Any], least: int) -> int | None:
    """The largest maximum given. Completions allow 0, with which OpenAI scores an echoed prompt and writes nothing."""
    largest: int | None = None
    for name in MAX_FIELDS:
        if name in values and (given := _within(values, name, least, MAX_COUNT)) is not None:
            largest = given if largest is None else max(largest, given)
    return largest


def _options(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    raw = fields.get("stream_options")
    if raw is None or first_byte(raw) == ord("n"):
        return {}
    try:
        options, once = _distinct(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _wrong_type("stream_options", "an object") from error
    if not once:
        raise BadRequest("A field of 'stream_options' is given twice.", "stream_options")
    return options


def _asks_for_usage(fields: Mapping[str, Raw]) -> bool:
    options = _options(fields)
    try:
        return "include_usage" in options and _BOOLEAN.decode(options["include_usage"]) is True
    except msgspec.DecodeError as error:
        raise _wrong_type("stream_options.include_usage", "a boolean") from error


def _input(fields: Mapping[str, Raw], name: str) -> Raw:
    """The field that holds the input, not built: a list, or for prompts and embeddings also a string."""
    raw = fields.get(name)
    if raw is None:
        raise BadRequest(f"Missing required parameter: '{name}'.", name)
    first = first_byte(raw)
    if first == ord("[") or (first == ord('"') and name != "messages"):
        return raw
    raise _wrong_type(name, "an array" if name == "messages" else "a string or an array")


def _prompts(raw: Raw) -> int:
    """How many prompts: a string or a list of token ids is one, a list of either as many as it has."""
    text = bytes(raw)
    if text[:1] == b'"' or (b'"' not in text and text.rfind(b"[") == 0):
        return 1
    return max(1, len(_ITEMS.decode(raw)))
