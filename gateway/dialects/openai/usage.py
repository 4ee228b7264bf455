"""OpenAI's format, the answer: the usage in it, whole or in a stream's event. This file owns that reading.

Source: https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming. What other providers of the
same format do differently:

- xAI counts reasoning beside `completion_tokens`, Google's endpoint counts thinking in `total_tokens` alone, converters
  of Anthropic's format count the cache beside `prompt_tokens`. `total_tokens` tells.
- DeepSeek says `prompt_cache_hit_tokens`, Moonshot `cached_tokens`, LiteLLM Anthropic's `cache_read_input_tokens` and
  `cache_creation_input_tokens`, OpenRouter `prompt_tokens_details.cache_write_tokens`.
- Groq puts the usage of a stream into `x_groq.usage`.
- Some name the counts `input_tokens` and `output_tokens`, as the Responses API does (the cache is within the input) or
  as Anthropic does (`cache_read_input_tokens` stand beside it; a total, where there is one, tells which).

Counts that contradict each other cost no answer (`gateway.dialects.openai.counts`). Totals that can't be (below zero,
above `MAX_COUNT`) are no report: then `missing_usage` applies. Whether totals of zero are believed is the provider's
`zero_usage`: nothing is free by accident.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT, Usage
from gateway.dialects.exceptions import GarbageAnswer
from gateway.dialects.facts import Reported
from gateway.dialects.openai.billed import CITATION, searches_of
from gateway.dialects.openai.counts import counts_of

NULL: Final = Raw(b"null")


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
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_GROQ: Final[msgspec.json.Decoder[_Groq | None]] = msgspec.json.Decoder(_Groq | None)
_STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)


def usage_from_json(endpoint: str, body: bytes) -> Reported | None:
    """Return the usage of a whole answer; None where it reports none. Raises `GarbageAnswer` where it is not a JSON
    object."""
    if body.find(CITATION) >= 0:  # `in` asks for a buffer first
        return reported_of(decode(body))
    try:  # as OpenAI writes it, in one go
        answer = _PLAIN.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return reported_of(decode(body))
    usage = plain_usage(answer.usage)
    return Reported(usage, answer.service_tier, answer.model) if usage else reported_of(decode(body))


def is_complete_answer(body: bytes) -> bool:
    """Return whether this is one whole JSON object."""
    try:
        decode(body)
    except GarbageAnswer:
        return False
    return True


def decode(body: bytes) -> _Answer:
    """Return an answer, or the data of an event. Raises `GarbageAnswer`."""
    try:
        return _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GarbageAnswer("the provider's answer is not a JSON object") from error


def reported_of(answer: _Answer) -> Reported | None:
    """Return what an answer reports as used; None where that is no usage."""
    counts = counts_of(answer.usage) or counts_of(_groq_usage(answer.x_groq))
    if counts is None:
        return None
    usage, doubts = counts
    if searches := searches_of(answer.usage, answer.choices):
        usage = msgspec.structs.replace(usage, searches=searches)
    return Reported(usage, _string(answer.service_tier), _string(answer.model), doubts=doubts)


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
    return Usage(prompt, output, cached, 0, reasoning)  # by position: msgspec looks for every name among all of them
