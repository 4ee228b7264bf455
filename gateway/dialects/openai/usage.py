"""OpenAI's format, the answer: the usage in it, whole or in a stream's event. This file owns that reading.

Source: https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming. What other providers of the
same format do differently:

- xAI counts reasoning beside `completion_tokens`, Google's endpoint counts thinking in `total_tokens` alone, converters
  of Anthropic's format count the cache beside `prompt_tokens`. `total_tokens` tells: see `_left_out`.
- DeepSeek says `prompt_cache_hit_tokens`, Moonshot `cached_tokens`, LiteLLM Anthropic's `cache_read_input_tokens` and
  `cache_creation_input_tokens`, OpenRouter `prompt_tokens_details.cache_write_tokens`.
- Groq puts the usage of a stream into `x_groq.usage`.
- Some name the counts `input_tokens` and `output_tokens`, as the Responses API does (the cache is within the input) or
  as Anthropic does (`cache_read_input_tokens` stand beside it; a total, where there is one, tells which).

Counts that contradict each other cost no answer: a part below zero is none, parts above their whole are cut down to it
with the dearer part kept (audio before cache writes before cached, audio before reasoning). Totals that can't be (below
zero, above `MAX_COUNT`, both zero) are no report: then `missing_usage` applies, and nothing is free by accident.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT, Usage
from gateway.dialects.exceptions import GarbageAnswer
from gateway.dialects.facts import Reported
from gateway.dialects.openai.billed import CITATION, CostFields, reported_cost, searches_of

if TYPE_CHECKING:
    pass

NULL: Final = Raw(b"null")


_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
_Nothing = Literal[0] | None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    audio_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


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


class _Groq(msgspec.Struct):
    usage: Raw = NULL


class _Answer(msgspec.Struct):
    usage: Raw = NULL
    service_tier: Raw = NULL
    model: Raw = NULL
    choices: Raw = NULL
    error: Raw = NULL
    x_groq: Raw = NULL


class _PlainInput(msgspec.Struct, frozen=True):
    cached_tokens: _Count = 0
    audio_tokens: _Count = 0
    cache_write_tokens: _Nothing = None
    cache_creation_tokens: _Nothing = None


class _PlainOutput(msgspec.Struct, frozen=True):
    reasoning_tokens: _Count = 0
    audio_tokens: _Count = 0


_NO_PLAIN_INPUT: Final = _PlainInput()
_NO_PLAIN_OUTPUT: Final = _PlainOutput()


class PlainUsage(msgspec.Struct):
    """Usage as OpenAI itself writes it, and nothing of what others do differently."""

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
    cost: None = None
    cost_in_usd_ticks: None = None


class _PlainAnswer(msgspec.Struct):
    usage: PlainUsage
    service_tier: str | None = None
    model: str | None = None


_PLAIN: Final = msgspec.json.Decoder(_PlainAnswer)
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_USAGE: Final[msgspec.json.Decoder[_Usage | None]] = msgspec.json.Decoder(_Usage | None, strict=False)
_TOTALS: Final[msgspec.json.Decoder[_Totals | None]] = msgspec.json.Decoder(_Totals | None, strict=False)
_GROQ: Final[msgspec.json.Decoder[_Groq | None]] = msgspec.json.Decoder(_Groq | None)
_STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)


def usage_from_json(endpoint: str, body: bytes) -> Reported | None:
    """Usage of a whole answer; None where it reports none. Raises `GarbageAnswer` where it is not a JSON object."""
    if body.find(CITATION) >= 0:  # `in` asks for a buffer first
        return reported_of(decode(body))
    try:  # as OpenAI writes it, in one go
        answer = _PLAIN.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return reported_of(decode(body))
    usage = plain_usage(answer.usage)
    return Reported(usage, answer.service_tier, answer.model) if usage else reported_of(decode(body))


def is_complete_answer(body: bytes) -> bool:
    """Whether this is one whole JSON object."""
    try:
        decode(body)
    except GarbageAnswer:
        return False
    return True


def decode(body: bytes) -> _Answer:
    try:
        return _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GarbageAnswer("the provider's answer is not a JSON object") from error


def reported_of(answer: _Answer) -> Reported | None:
    counts = _counts(answer.usage) or _counts(_groq_usage(answer.x_groq))
    usage = _to_usage(counts) if counts else None
    if usage is None:
        return None
    if searches := searches_of(answer.usage, answer.choices):
        usage = msgspec.structs.replace(usage, searches=searches)
    return Reported(usage, _string(answer.service_tier), _string(answer.model))


def _counts(raw: Raw) -> _Usage | None:
    """The usage object; details that can't be read are left out, totals that can't be read are no usage."""
    try:
        return _USAGE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        totals = _TOTALS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return _Usage(**msgspec.structs.asdict(totals)) if totals else None


def _groq_usage(raw: Raw) -> Raw:
    try:
        groq = _GROQ.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NULL
    return groq.usage if groq else NULL


def _string(raw: Raw) -> str | None:
    try:
        return _STRING.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def plain_usage(counts: PlainUsage) -> Usage | None:
    """The usage where the counts agree with each other: what `_to_usage` would make of them, for less."""
    inputs, outputs = counts.prompt_tokens_details, counts.completion_tokens_details
    total, prompt, output = counts.total_tokens, counts.prompt_tokens, counts.completion_tokens
    cached, audio_input = inputs.cached_tokens, inputs.audio_tokens
    reasoning, audio_output = outputs.reasoning_tokens, outputs.audio_tokens
    if not total or total != prompt + output or cached + audio_input > prompt or reasoning + audio_output > output:
        return None
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        audio_input_tokens=audio_input,
        output_tokens=output,
        reasoning_tokens=reasoning,
        audio_output_tokens=audio_output,
    )


def _to_usage(counts: _Usage) -> Usage | None:
    output = counts.completion_tokens or counts.output_tokens or 0
    total = counts.total_tokens or 0
    said = counts.prompt_tokens or counts.input_tokens
    if said is None:  # embeddings and rerankers may say nothing but the total
        said = counts.prompt_tokens if counts.prompt_tokens is not None else total - output
    prompt = said
    if prompt < 0 or output < 0 or not (prompt or output):
        return None
    inputs = counts.prompt_tokens_details or counts.input_tokens_details or _NO_INPUT_DETAILS
    outputs = counts.completion_tokens_details or counts.output_tokens_details or _NO_OUTPUT_DETAILS
    cached = _first(
        inputs.cached_tokens, counts.prompt_cache_hit_tokens, counts.cached_tokens, counts.cache_read_input_tokens
    )
    written = _first(inputs.cache_write_tokens, inputs.cache_creation_tokens, counts.cache_creation_input_tokens)
    reasoning = _first(outputs.reasoning_tokens)
    input_left_out, output_left_out = _left_out(total - prompt - output, cached + written, reasoning)
    if (
        not counts.total_tokens and not counts.prompt_tokens
    ):  # as Anthropic names them: the cache stands beside the rest
        input_left_out = _first(counts.cache_read_input_tokens) + _first(counts.cache_creation_input_tokens)
    prompt += input_left_out
    output += output_left_out
    if prompt > MAX_COUNT or output > MAX_COUNT:
        return None
    audio_input, written, cached = _within(prompt, _first(inputs.audio_tokens), written, cached)
    audio_output, reasoning = _within(output, _first(outputs.audio_tokens), reasoning)
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        audio_input_tokens=audio_input,
        output_tokens=output,
        reasoning_tokens=reasoning,
        audio_output_tokens=audio_output,
        reported_cost_usd=reported_cost(counts),
    )


def _left_out(remainder: int, cache: int, reasoning: int) -> tuple[int, int]:
    """What `total_tokens` counts above prompt and completion, as (input, output) to add.

    Equal to the reasoning: xAI, output. Equal to the cache: Anthropic's way, input; to both together: each. Anything
    else is output, as Google's thinking is: where counts contradict each other, the larger reading is charged.
    """
    if remainder <= 0:
        return 0, 0
    if cache and remainder != reasoning and remainder in (cache, cache + reasoning):
        return cache, remainder - cache
    return 0, remainder


def _first(*counts: int | None) -> int:
    """The first count above zero, else zero: the same number under several names is one number."""
    for count in counts:
        if count and count > 0:
            return count
    return 0


def _within(whole: int, *parts: int) -> list[int]:
    """The parts in order, each cut down to what is left of the whole."""
    kept = []
    for part in parts:
        kept.append(min(part, whole))
        whole -= kept[-1]
    return kept
