"""OpenAI's format, the usage object: which of its counts becomes which class. This file owns that reading.

Where a total leaves something out is told by `total_tokens` (`_left_out`). Cached tokens are parts of the modalities'
counts. How much of each was cached stands in `cached_tokens_details`, as in the Realtime API, or nowhere: then text was
cached first, then pictures and video, and sound last, so that the dearest stay fresh; cached pictures cost what cached
text does then. A part below zero is none, parts above their whole are cut down to it with the dearer part kept (audio
before cache writes, video, pictures and what was cached; audio before pictures before reasoning).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT, Usage
from gateway.dialects.openai.billed import CostFields, reported_cost
from gateway.dialects.shares import MAX_DOUBTS, MORE_IN_TOTAL, cut_down, shared_out, unknown_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.dialects.shares import Doubt


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


_USAGE: Final[msgspec.json.Decoder[_Usage | None]] = msgspec.json.Decoder(_Usage | None, strict=False)
_TOTALS: Final[msgspec.json.Decoder[_Totals | None]] = msgspec.json.Decoder(_Totals | None, strict=False)
_OBJECT: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any])
_KNOWN: Final = frozenset(
    {
        *(*_Usage.__struct_fields__, *_InputDetails.__struct_fields__, *_OutputDetails.__struct_fields__),
        *("text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"),
        *("prompt_cache_miss_tokens", "num_cached_tokens"),
    }
)
"""Names of counts that are read, or are within those that are."""


def counts_of(raw: Raw) -> tuple[Usage, tuple[Doubt, ...]] | None:
    """Return what a usage object counts, and what of it is doubted; None where there is none, or it can't be."""
    counts = _counts(raw)
    if counts is None or (totals := _totals(counts)) is None:
        return None
    doubts = tuple(_doubts(counts, *totals, raw))[:MAX_DOUBTS]
    return _usage(counts, *totals), doubts


def _counts(raw: Raw) -> _Usage | None:
    """Return the usage object; details that can't be read are left out, totals that can't be read are no usage."""
    try:
        return _USAGE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        totals = _TOTALS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
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


def _doubts(counts: _Usage, prompt: int, output: int, raw: Raw) -> Iterator[Doubt]:
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
    try:
        yield from unknown_counts(_OBJECT.decode(raw), _KNOWN)
    except msgspec.DecodeError:  # a number beyond any count: what can be read has been
        return


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
