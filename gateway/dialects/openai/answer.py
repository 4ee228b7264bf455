"""OpenAI's format, the answer: the usage in it, whole or in a stream's event, and what the model wrote.

Source: https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming. What other providers of the
same format do differently:

- xAI counts reasoning beside `completion_tokens`, Google's endpoint counts thinking in `total_tokens` alone, converters
  of Anthropic's format count the cache beside `prompt_tokens`. `total_tokens` tells.
- DeepSeek says `prompt_cache_hit_tokens`, Moonshot `cached_tokens`, LiteLLM Anthropic's `cache_read_input_tokens` and
  `cache_creation_input_tokens`, OpenRouter `prompt_tokens_details.cache_write_tokens`.
- Groq puts the usage of a stream into `x_groq.usage`.
- Some name the counts `input_tokens` and `output_tokens`, as the Responses API does (the cache is within the input) or
  as Anthropic does (`cache_read_input_tokens` stand beside it; a total, where there is one, tells which).

Counts that contradict each other cost no answer. Totals that can't be (below zero,
above `MAX_COUNT`) are no report: then `missing_usage` applies. Whether totals of zero are believed is the provider's
`zero_usage`: nothing is free by accident.

Where a total leaves something out is told by `total_tokens` (`_left_out`). Cached tokens are parts of the modalities'
counts. How much of each was cached stands in `cached_tokens_details`, as in the Realtime API, or nowhere: then text was
cached first, then pictures and video, and sound last, so that the dearest stay fresh; cached pictures cost what cached
text does then. A part below zero is none, parts above their whole are cut down to it with the dearer part kept (audio
before cache writes, video, pictures and what was cached; audio before pictures before reasoning).

Costs, which rows with `cost: reported` believe:

- OpenRouter: `cost`, to which the cost at the upstream is added where the key there is the operator's own
  (https://openrouter.ai/docs/use-cases/usage-accounting).
- Perplexity: `cost.total_cost`, the fee of the request included (https://docs.perplexity.ai/api-reference).
- xAI: `cost_in_usd_ticks`, of 1e-10 USD each.

A cost is read from the text of its number: no float comes of it. This file owns that none takes longer to read than its
text is long, whatever exponent stands there.

Searches, of which one count under several names is one count: the first of these that is there is taken. Calls of other
tools (pages opened, code run) are no searches.

- Anthropic's format, and OpenRouter's: `server_tool_use.web_search_requests`.
- xAI: calls by tool in `server_side_tool_usage_details`; before it had these, sources in `num_sources_used`.
- Perplexity: `num_search_queries`.
- OpenAI's search models count nothing; their citations tell that they searched, once a request.

This file owns what counts as output.

Any field of a delta or a message is output but for those that name, number or place it (`_NO_OUTPUT`), and null: a
provider that adds a field next year must not thereby serve it free. Empty strings and lists are no output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT, Usage, text_usage
from gateway.dialects.body import NULL, OBJECT, TEXT, decoded, decoded_answer
from gateway.dialects.declarations import MORE_IN_TOTAL
from gateway.dialects.facts import MAX_ANOMALIES, Reported, cut_down, shared_out, unknown_counts
from gateway.dialects.output import Kind, OutputReader, Piece, kind_named, piece_of

if TYPE_CHECKING:
    from gateway.dialects.facts import Anomaly

# A reported cost of so much is none.
MAX_COST_USD: Final = 1_000_000
COST_DECIMALS: Final = 24
TICK_DECIMALS: Final = 10
_SMALLEST: Final = Decimal(1).scaleb(-COST_DECIMALS)
_CONTEXT: Final = Context(prec=64)
# No text of an answer has these bytes: quotation marks are escaped there.
CITATION: Final = b'"url_citation"'
_MARKS: Final = (b"search", b"num_sources")
_BY_TOOL: Final = msgspec.json.Decoder(dict[str, int | None])
_COUNT: Final = msgspec.json.Decoder(int)


class CostFields(msgspec.Struct):
    """The fields of a usage object that tell a cost."""

    cost: Raw = NULL
    cost_details: Raw = NULL
    is_byok: Raw = NULL
    cost_in_usd_ticks: Raw = NULL


class _Details(msgspec.Struct):
    upstream_inference_cost: Raw = NULL


class _Total(msgspec.Struct):
    total_cost: Raw = NULL


_DETAILS: Final = msgspec.json.Decoder(_Details)
_TOTAL: Final = msgspec.json.Decoder(_Total)


def reported_cost(fields: CostFields) -> str | None:
    """Return the cost as a plain decimal of USD, None where there is none, or what stands there is no amount."""
    try:
        cost = _cost(fields)
    except (msgspec.DecodeError, ArithmeticError, ValueError):
        return None
    if cost is None or not 0 <= cost < MAX_COST_USD:
        return None
    if cost and cost.adjusted() < -COST_DECIMALS:
        cost = _SMALLEST
    exponent = cost.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -COST_DECIMALS:
        cost = cost.quantize(_SMALLEST, ROUND_CEILING, _CONTEXT)
    return f"{cost:f}"


def _cost(fields: CostFields) -> Decimal | None:
    """Return the cost that a provider names. Raises `msgspec.DecodeError`, `ArithmeticError`, `ValueError`."""
    if fields.cost == NULL:
        ticks = _decimal(fields.cost_in_usd_ticks)
        return None if ticks is None else ticks.scaleb(-TICK_DECIMALS)
    text = bytes(fields.cost)
    cost = _decimal(_TOTAL.decode(text).total_cost) if text.startswith(b"{") else _decimal(fields.cost)
    if cost is not None and fields.is_byok == Raw(b"true") and fields.cost_details != NULL:
        cost += _decimal(_DETAILS.decode(fields.cost_details).upstream_inference_cost) or 0
    return cost


def _decimal(raw: Raw) -> Decimal | None:
    return None if raw == NULL else Decimal(bytes(raw).decode())


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class _Searches(msgspec.Struct):
    server_tool_use: Raw = NULL
    server_side_tool_usage_details: Raw = NULL
    num_search_queries: Raw = NULL
    num_sources_used: Raw = NULL


_SEARCHES: Final = msgspec.json.Decoder(_Searches)
_SERVER_TOOLS: Final = msgspec.json.Decoder(_ServerTools)


def searches_of(usage: Raw, choices: Raw) -> int:
    """Return how many searches an answer reports in its `usage`, or shows in its `choices`."""
    return _counted(usage) or (1 if CITATION in bytes(choices) else 0)


def _counted(usage: Raw) -> int:
    text = bytes(usage)
    if not any(mark in text for mark in _MARKS):
        return 0
    counts = decoded(_SEARCHES, usage)
    for count in (
        ()
        if counts is None
        else (
            _by_server_tool(counts.server_tool_use),
            _by_tool(counts.server_side_tool_usage_details),
            _plain(counts.num_search_queries),
            _plain(counts.num_sources_used),
        )
    ):
        if count:
            return min(count, MAX_COUNT)
    return 0


def _by_server_tool(raw: Raw) -> int:
    tools = decoded(_SERVER_TOOLS, raw)
    return max(0, tools.web_search_requests or 0) if tools is not None else 0


def _by_tool(raw: Raw) -> int:
    calls = decoded(_BY_TOOL, raw) or {}
    return sum(max(0, count or 0) for name, count in calls.items() if "search" in name)


def _plain(raw: Raw) -> int:
    return max(0, decoded(_COUNT, raw) or 0)


class _CachedDetails(msgspec.Struct):
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    video_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cached_tokens_details: _CachedDetails | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


_NO_INPUT_DETAILS: Final = _InputDetails()
_NO_OUTPUT_DETAILS: Final = _OutputDetails()


class _Totals(CostFields):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Usage(_Totals):
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


_USAGE: Final = msgspec.json.Decoder(_Usage, strict=False)
_TOTALS: Final = msgspec.json.Decoder(_Totals, strict=False)
# Names of counts that are read, or are within those that are.
_KNOWN: Final = frozenset(
    {
        *_Usage.__struct_fields__,
        *_InputDetails.__struct_fields__,
        *_OutputDetails.__struct_fields__,
        "text_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
        "prompt_cache_miss_tokens",
        "num_cached_tokens",
    }
)


def counts_of(raw: Raw) -> tuple[Usage, tuple[Anomaly, ...]] | None:
    """Return what a usage object counts, and its anomalies; None where there is none, or it can't be."""
    counts = _counts(raw)
    if counts is None or (totals := _totals(counts)) is None:
        return None
    anomalies = tuple(_anomalies(counts, *totals, raw))[:MAX_ANOMALIES]
    return _usage(counts, *totals), anomalies


def _counts(raw: Raw) -> _Usage | None:
    """Return the usage object; details that can't be read are left out, totals that can't be read are no usage."""
    if (counts := decoded(_USAGE, raw)) is not None:
        return counts
    totals = decoded(_TOTALS, raw)
    return _Usage(**msgspec.structs.asdict(totals)) if totals else None


def _totals(counts: _Usage) -> tuple[int, int] | None:
    """Return the tokens of input and of output; None where nothing says them, or what does can't be."""
    inputs, outputs = (counts.prompt_tokens, counts.input_tokens), (counts.completion_tokens, counts.output_tokens)
    counted = (*inputs, *outputs, counts.total_tokens)
    output = counts.completion_tokens or counts.output_tokens or 0
    total = counts.total_tokens or 0
    prompt = counts.prompt_tokens or counts.input_tokens
    if prompt is None:  # embeddings and rerankers may say nothing but the total
        prompt = counts.prompt_tokens if counts.prompt_tokens is not None else total - output
    if prompt < 0 or output < 0 or all(count is None for count in counted):
        return None
    read, written, reasoning = _cached(counts), _written(counts), _reasoning(counts)
    input_left_out, output_left_out = _left_out(total - prompt - output, read + written, reasoning)
    if not total and not counts.prompt_tokens:  # as Anthropic names them: cached tokens are not part of the others
        input_left_out = _first(counts.cache_read_input_tokens) + _first(counts.cache_creation_input_tokens)
    prompt, output = prompt + input_left_out, output + output_left_out
    return None if max(prompt, output) > MAX_COUNT else (prompt, output)


def _usage(counts: _Usage, prompt: int, output: int) -> Usage:
    inputs, outputs = _input_details(counts), _output_details(counts)
    audio, written, video, image = cut_down(
        prompt,
        (_first(inputs.audio_tokens), _written(counts), _first(inputs.video_tokens), _first(inputs.image_tokens)),
    )
    text, cached, split = prompt - audio - written - video - image, _cached(counts), inputs.cached_tokens_details
    cached_audio = cached_image = 0
    if split is not None:
        bounds = min(_first(split.audio_tokens), audio), min(_first(split.image_tokens), image)
        cached_audio, cached_image = cut_down(cached, bounds)
    shares = shared_out(
        cached - cached_audio - cached_image,
        text=text,
        image=image - cached_image,
        video=video,
        audio=audio if split is None else 0,
    )
    cached_audio += shares["audio"]
    spoken, shown, reasoning = cut_down(
        output, (_first(outputs.audio_tokens), _first(outputs.image_tokens), _reasoning(counts))
    )
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=shares["text"] + shares["image"] + shares["video"],
        cache_write_tokens=written,
        audio_input_tokens=audio - cached_audio,
        image_input_tokens=image - cached_image - shares["image"],
        video_input_tokens=video - shares["video"],
        cached_audio_input_tokens=cached_audio,
        cached_image_input_tokens=cached_image,
        output_tokens=output,
        reasoning_tokens=reasoning,
        audio_output_tokens=spoken,
        image_output_tokens=shown,
        reported_cost_usd=reported_cost(counts),
    )


def _anomalies(counts: _Usage, prompt: int, output: int, raw: Raw) -> Iterator[Anomaly]:
    """Yield what can't be placed: a total that nothing explains, parts above their whole, counts by unknown names."""
    inputs, outputs, total = _input_details(counts), _output_details(counts), counts.total_tokens
    parts = _first(counts.prompt_tokens, counts.input_tokens) + _first(counts.completion_tokens, counts.output_tokens)
    cache, reasoning = _cached(counts) + _written(counts), _reasoning(counts)
    if total and parts and total - parts not in (0, reasoning, cache, cache + reasoning):
        yield "total", "total_tokens" if total < parts else MORE_IN_TOTAL
    modalities = sum(map(_first, (inputs.audio_tokens, inputs.image_tokens, inputs.video_tokens)))
    if max(modalities, cache) > prompt:
        yield "total", "prompt_tokens_details"
    if sum(map(_first, (outputs.audio_tokens, outputs.image_tokens))) + reasoning > output:
        yield "total", "completion_tokens_details"
    # One that is no object here has a number beyond any count: what can be read has been.
    fields = decoded(OBJECT, raw)
    yield from unknown_counts(fields or {}, _KNOWN)


def _input_details(counts: _Usage) -> _InputDetails:
    return counts.prompt_tokens_details or counts.input_tokens_details or _NO_INPUT_DETAILS


def _output_details(counts: _Usage) -> _OutputDetails:
    return counts.completion_tokens_details or counts.output_tokens_details or _NO_OUTPUT_DETAILS


def _cached(counts: _Usage) -> int:
    cached = _input_details(counts).cached_tokens
    return _first(cached, counts.prompt_cache_hit_tokens, counts.cached_tokens, counts.cache_read_input_tokens)


def _written(counts: _Usage) -> int:
    inputs = _input_details(counts)
    return _first(inputs.cache_write_tokens, inputs.cache_creation_tokens, counts.cache_creation_input_tokens)


def _reasoning(counts: _Usage) -> int:
    return _first(_output_details(counts).reasoning_tokens)


def _left_out(remainder: int, cache: int, reasoning: int) -> tuple[int, int]:
    """Return what `total_tokens` counts above prompt and completion, as (input, output) to add.

    Equal to the reasoning: xAI, output. Equal to the cache: Anthropic's way, input; to both together: each. Anything
    else is output, as Google's thinking is: where counts contradict each other, the larger reading is charged.
    """
    if remainder <= 0:
        return 0, 0
    if cache and remainder != reasoning and remainder in (cache, cache + reasoning):
        return cache, remainder - cache
    return 0, remainder


def _first(*counts: int | None) -> int:
    """Return the first count above zero, else zero: the same number under several names is one number."""
    for count in counts:
        if count and count > 0:
            return count
    return 0


_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
_Nothing = Literal[0] | None


class _Groq(msgspec.Struct):
    usage: Raw = NULL


class _Answer(msgspec.Struct):
    usage: Raw = NULL
    service_tier: Raw = NULL
    model: Raw = NULL
    choices: Raw = NULL
    error: Raw = NULL
    x_groq: Raw = NULL


class _PlainInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cached_tokens: _Count = 0
    audio_tokens: _Count = 0
    text_tokens: _Count = 0
    image_tokens: _Nothing = None
    video_tokens: _Nothing = None
    cached_tokens_details: None = None
    cache_write_tokens: _Nothing = None
    cache_creation_tokens: _Nothing = None


class _PlainOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reasoning_tokens: _Count = 0
    audio_tokens: _Count = 0
    accepted_prediction_tokens: _Count = 0
    rejected_prediction_tokens: _Count = 0
    image_tokens: _Nothing = None


_NO_PLAIN_INPUT: Final = _PlainInput()
_NO_PLAIN_OUTPUT: Final = _PlainOutput()


class PlainUsage(msgspec.Struct, forbid_unknown_fields=True):
    """Usage as OpenAI itself writes it, with Groq's times and DeepSeek's names, and nothing of what others do
    differently."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: _PlainInput = _NO_PLAIN_INPUT
    completion_tokens_details: _PlainOutput = _NO_PLAIN_OUTPUT
    cached_tokens: _Nothing = None
    prompt_cache_hit_tokens: _Nothing = None
    cache_read_input_tokens: _Nothing = None
    cache_creation_input_tokens: _Nothing = None
    server_tool_use: None = None
    server_side_tool_usage_details: None = None
    num_search_queries: _Nothing = None
    num_sources_used: _Nothing = None
    prompt_cache_miss_tokens: int | None = None
    queue_time: float | None = None
    prompt_time: float | None = None
    completion_time: float | None = None
    total_time: float | None = None
    cost: None = None
    cost_in_usd_ticks: None = None


class PlainResponseUsage(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename={
        **{"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"},
        "prompt_tokens_details": "input_tokens_details",
        "completion_tokens_details": "output_tokens_details",
    },
):
    """The same as OpenAI's Responses API names it."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: _PlainInput = _NO_PLAIN_INPUT
    completion_tokens_details: _PlainOutput = _NO_PLAIN_OUTPUT


class _PlainAnswer(msgspec.Struct):
    usage: PlainUsage
    service_tier: str | None = None
    model: str | None = None


_PLAIN: Final = msgspec.json.Decoder(_PlainAnswer)
ANSWER: Final = msgspec.json.Decoder(_Answer)
_GROQ: Final = msgspec.json.Decoder(_Groq)


def usage_from_json(operation: str, body: bytes) -> Reported | None:
    """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer` where it is not a JSON
    object."""
    answer = decoded(_PLAIN, body) if body.find(CITATION) < 0 else None  # `in` asks for a buffer first
    if answer is not None and (usage := plain_usage(answer.usage)):  # as OpenAI writes it, in one go
        return Reported(usage, answer.service_tier, answer.model)
    return reported_of(decoded_answer(ANSWER, body))


def reported_of(answer: _Answer) -> Reported | None:
    """Return what an answer reports as used; None where that is no usage."""
    counts = counts_of(answer.usage) or counts_of(_groq_usage(answer.x_groq))
    if counts is None:
        return None
    usage, anomalies = counts
    if searches := searches_of(answer.usage, answer.choices):
        usage = msgspec.structs.replace(usage, searches=searches)
    return Reported(usage, decoded(TEXT, answer.service_tier), decoded(TEXT, answer.model), anomalies=anomalies)


def _groq_usage(raw: Raw) -> Raw:
    groq = decoded(_GROQ, raw)
    return groq.usage if groq else NULL


def plain_usage(counts: PlainUsage | PlainResponseUsage) -> Usage | None:
    """Return the usage where the counts agree with each other: what `counts_of` would make of them, for less."""
    inputs, outputs = counts.prompt_tokens_details, counts.completion_tokens_details
    total, prompt, output = counts.total_tokens, counts.prompt_tokens, counts.completion_tokens
    cached, audio_input = inputs.cached_tokens, inputs.audio_tokens
    reasoning, audio_output = outputs.reasoning_tokens, outputs.audio_tokens
    if not total or total != prompt + output or (cached and audio_input):
        return None
    if max(cached, audio_input) > prompt or reasoning + audio_output > output:
        return None
    if audio_input or audio_output:
        return Usage(
            input_tokens=prompt,
            output_tokens=output,
            cached_input_tokens=cached,
            reasoning_tokens=reasoning,
            audio_input_tokens=audio_input,
            audio_output_tokens=audio_output,
        )
    return text_usage(prompt, output, cached, reasoning)


# Names of fields that identify a piece, and have no output; so does a name that ends in `_id`.
_NO_OUTPUT: Final = frozenset({"role", "index", "type", "id", "object", "status", "format", "expires_at", "created"})
# Fields next to the delta that describe it, or repeat its text.
_OF_A_CHOICE: Final = frozenset(
    {
        "index",
        "finish_reason",
        "native_finish_reason",
        "stop_reason",
        "matched_stop",
        "seed",
        "error",
        "logprobs",
        "prompt_logprobs",
        "token_ids",
        "prompt_token_ids",
        "flagged",
        "moderation",
        "content_filter_results",
        "content_filter_offsets",
        "content_filter_result",
    }
)
# Known fields next to the choices. In an answer without choices, any other field counts as output of an unknown kind.
_OF_AN_EVENT: Final = frozenset(
    {
        "usage",
        "model",
        "service_tier",
        "system_fingerprint",
        "provider",
        "obfuscation",
        "error",
        "x_groq",
        "moderation",
        "prompt_filter_results",
        "time_info",
        "timings",
        "metrics",
        "citations",
        "search_results",
    }
)
# Some providers send the same reasoning under several names: the first that says something counts.
_SAME_REASONING: Final = ("reasoning_content", "reasoning", "reasoning_details")
TEXTS: Final = re.compile(
    rb'"(?:content|text|refusal|reasoning_content|reasoning|thinking|arguments|input|transcript)"\s*:\s*'
    rb'"((?:[^"\\]|\\.)*)'
)


def _of_answer(answer: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    if not answer.get("choices") and not answer.get("error"):
        for name, value in answer.items():
            if name not in _OF_AN_EVENT:
                yield from ((0, piece) for piece in _of(name, value, None))
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index = choice.get("index")
            number = index if isinstance(index, int) else 0
            yield from ((number, piece) for piece in _of_choice(choice))


def _of_choice(choice: dict[str, Any]) -> Iterator[Piece]:
    for name, value in choice.items():
        if name in ("delta", "message") and isinstance(value, dict):
            yield from _of_delta(value)
        elif name not in _OF_A_CHOICE:
            yield from _of(name, value, None)


def _of_delta(delta: dict[str, Any]) -> Iterator[Piece]:
    reasoning = next((name for name in _SAME_REASONING if delta.get(name)), None)
    for name, value in delta.items():
        if name not in _SAME_REASONING or name == reasoning:
            yield from _of(name, value, None)


def _of(name: str, value: Any, around: Kind | None) -> Iterator[Piece]:
    """Yield the pieces under one field."""
    if value is None or name in _NO_OUTPUT or name.endswith("_id"):
        return
    kind = kind_named(name, around)
    if isinstance(value, str):
        yield piece_of(value, kind)
    elif isinstance(value, dict):
        named = value.get("type")
        inner = kind_named(named, kind) if isinstance(named, str) else kind
        for each, under in value.items():
            yield from _of(each, under, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _of("", item, kind)
    else:
        yield msgspec.json.encode(value).decode()


OUTPUT: Final = OutputReader(
    of_answer=_of_answer,
    of_event=_of_answer,
    is_known=lambda answer: isinstance(answer.get("choices"), list),
    texts=TEXTS,
)
