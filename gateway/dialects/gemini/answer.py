"""Gemini's format, the answer: what it reports as used, and what was written in it. This file owns that reading.

Source: https://ai.google.dev/api/generate-content#UsageMetadata. `promptTokenCount` contains the cached tokens,
`candidatesTokenCount` does not contain the thoughts, and what tools brought (`toolUsePromptTokenCount`) stands beside
the prompt. `totalTokenCount` decides where these do not add up: thoughts that are within the candidates' count already,
and thoughts that no field names. Google bills what its searches bring by the search, so that tokens of tools are left
out where an answer was grounded by searches alone; empty queries, which its lists may have, are none. Cached text,
images and video have one price, cached sound another.

A count that is zero is left out of the answer; counts that can't be are no report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.schemas.decoding import UNREADABLE
from billing.usage import MAX_COUNT, Usage, merge_snapshot
from gateway.dialects.body import NULL, OBJECT, TEXT, decoded, is_null
from gateway.dialects.facts import MAX_ANOMALIES, Anomaly, Reported, cut_down, is_zero, shared_out, unknown_counts
from gateway.dialects.output import Inline, OutputReader, Piece, kind_of

# Names of fields that say what tools did. No text has these bytes: quotation marks are escaped there.
_OF_TOOLS: Final = (b'"groundingMetadata"', b'"urlContextMetadata"', b'"executableCode"')
_OF_THE_END: Final = (b'"finishReason"', b'"blockReason"')
# One of these stands in every piece after which no more may come; the first is how those names end.
END_MARKERS: Final = (b'Reason"', b'"error"')
# Models that Google bills one search for, however many they do.
_ONE_SEARCH: Final = ("gemini-1", "gemini-2")
_CODE: Final = b'"executableCode"'
_USAGE: Final = b'"usageMetadata"'
# How the names of usage end, and of what tools did but for code.
_METADATA: Final = b'Metadata"'
_DIGITS: Final = b"0123456789"
_TIER_PREFIX: Final = "service_tier_"
_MODALITIES: Final = frozenset({"TEXT", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT", "MODALITY_UNSPECIFIED"})
_PLAIN_LEAST: Final = frozenset({"promptTokenCount", "candidatesTokenCount", "totalTokenCount"})
_DETAILS: Final = frozenset({"promptTokensDetails", "candidatesTokensDetails"})
_PLAIN: Final = frozenset({*_PLAIN_LEAST, "thoughtsTokenCount", *_DETAILS})
_KNOWN: Final = frozenset(
    {
        "promptTokenCount",
        "inputTokenCount",
        "toolUsePromptTokenCount",
        "candidatesTokenCount",
        "responseTokenCount",
        "cachedContentTokenCount",
        "thoughtsTokenCount",
        "totalTokenCount",
    }
)


class Answer(msgspec.Struct):
    """The fields of a whole answer, or of one piece of a stream, that metering reads."""

    usage_metadata: Raw = msgspec.field(default=NULL, name="usageMetadata")
    model_version: Raw = msgspec.field(default=NULL, name="modelVersion")
    prompt_feedback: Raw = msgspec.field(default=NULL, name="promptFeedback")
    candidates: Raw = NULL
    error: Raw = NULL


class _Piece(msgspec.Struct, gc=False):
    """What a stream's piece says of its usage alone; all else is passed over, and not built."""

    usage: dict[str, Raw] | None = msgspec.field(default=None, name="usageMetadata")
    model: Raw = msgspec.field(default=NULL, name="modelVersion")


class _LastPiece(msgspec.Struct, gc=False):
    """The same, unread."""

    usage: Raw = msgspec.field(default=NULL, name="usageMetadata")
    model: Raw = msgspec.field(default=NULL, name="modelVersion")


class _Candidate(msgspec.Struct):
    finish_reason: Raw = msgspec.field(default=NULL, name="finishReason")
    grounding: Raw = msgspec.field(default=NULL, name="groundingMetadata")
    pages: Raw = msgspec.field(default=NULL, name="urlContextMetadata")


class _Feedback(msgspec.Struct):
    block_reason: Raw = msgspec.field(default=NULL, name="blockReason")


class _Grounding(msgspec.Struct):
    searched: list[str] | None = msgspec.field(default=None, name="webSearchQueries")
    images: list[str] | None = msgspec.field(default=None, name="imageSearchQueries")
    entry_point: Raw = msgspec.field(default=NULL, name="searchEntryPoint")


ANSWER: Final = msgspec.json.Decoder(Answer)
_PIECES: Final = msgspec.json.Decoder(_Piece)
_PIECE: Final = msgspec.json.Decoder(_LastPiece)
_CANDIDATES: Final = msgspec.json.Decoder(list[_Candidate])
_FEEDBACK: Final = msgspec.json.Decoder(_Feedback)
_GROUNDING: Final = msgspec.json.Decoder(_Grounding)


def finishes(answer: Answer, data: bytes) -> bool:
    """Return whether a candidate came to its end, or the prompt was refused as a whole, in an answer that was decoded
    from `data`."""
    if all(data.find(name) < 0 for name in _OF_THE_END):
        return False
    if not is_null(answer.prompt_feedback):
        feedback = decoded(_FEEDBACK, answer.prompt_feedback)
        if feedback is None or not is_null(feedback.block_reason):
            return feedback is not None
    return any(not is_null(each.finish_reason) for each in decoded(_CANDIDATES, answer.candidates) or ())


class Reading:
    """Collects the usage of one answer. A stream repeats usage; the last value of each field counts."""

    __slots__ = ("_counts", "_model", "_other_tools", "_searched_unnamed", "_searches")

    def __init__(self) -> None:
        self._counts: dict[str, Any] = {}
        self._searches: set[str] = set()
        self._searched_unnamed = False
        self._other_tools = False
        self._model: str | None = None

    def add(self, answer: Answer, data: bytes) -> bool:
        """Read one piece of the answer, decoded from `data`; return whether usage stands in it."""
        if any(data.find(name) >= 0 for name in _OF_TOOLS):
            self._add_tools(answer, data)
        if not is_null(answer.model_version):
            self._model = decoded(TEXT, answer.model_version) or self._model
        return self._add_counts(answer.usage_metadata)

    def add_alike(self, pieces: bytes, last: bytes) -> bool:
        """Read pieces by the `last` one alone; whether that is all: they name no tool, and each usage in them is the
        last one but for its digits, so that all fields have their last value there. Else nothing was read."""
        piece = decoded(_PIECE, last)
        if piece is None:
            return False
        model, counts = decoded(TEXT, piece.model), decoded(OBJECT, piece.usage)
        if not model or not counts:
            return False
        begins = last.rfind(_USAGE)
        usage = last[begins : last.find(piece.usage, begins) + len(piece.usage)]
        alike = pieces.translate(None, _DIGITS).count(usage.translate(None, _DIGITS))
        if alike * usage.count(_METADATA) != pieces.count(_METADATA) or pieces.find(_CODE) >= 0:
            return False
        self._model = model
        self._merge(counts)
        return True

    def add_lines(self, lines: bytes) -> bool:
        """Read pieces, a JSON object on each line, whose last one has usage and none of which names a tool; whether
        they are that. Else nothing was read.

        For speed they are read from the last one on, and a usage is passed over whose fields have all been seen.
        """
        if any(lines.find(name) >= 0 for name in _OF_TOOLS):
            return False
        try:
            pieces = _PIECES.decode_lines(lines)
        except UNREADABLE:
            return False
        if not pieces or not pieces[-1].usage:
            return False
        later: dict[str, Raw] = {}
        model: str | None = None
        for piece in reversed(pieces):
            if not model and not is_null(piece.model):
                model = decoded(TEXT, piece.model)
            usage = piece.usage
            if usage and not usage.keys() <= later.keys():
                later = {name: value for name, value in usage.items() if not is_null(value)} | later
        self._model = model or self._model
        self._counts |= msgspec.json.decode(msgspec.json.encode(later))
        return True

    def _add_counts(self, usage: Raw) -> bool:
        """Replace the fields that a usage names; return whether it names any."""
        if counts := decoded(OBJECT, usage):
            self._merge(counts)
        return bool(counts)

    def _merge(self, counts: dict[str, Any]) -> None:
        self._counts = merge_snapshot(self._counts, counts) if None in counts.values() else {**self._counts, **counts}

    def _add_tools(self, answer: Answer, data: bytes) -> None:
        self._other_tools = self._other_tools or data.find(_CODE) >= 0
        for candidate in decoded(_CANDIDATES, answer.candidates) or ():
            self._other_tools = self._other_tools or not is_null(candidate.pages)
            if is_null(candidate.grounding):
                continue
            grounding = decoded(_GROUNDING, candidate.grounding)
            if grounding is None:  # nor are the candidates after it believed
                return
            queries = (*(grounding.searched or ()), *(grounding.images or ()))
            self._searches.update(filter(None, queries))
            self._searched_unnamed |= not queries and not is_null(grounding.entry_point)

    def reported(self, *, has_output: bool = True) -> Reported | None:
        """Return the usage as it is known by now; None where there is none that can be."""
        searches = len(self._searches) or int(self._searched_unnamed)
        if searches and self._model is not None and self._model.startswith(_ONE_SEARCH):
            searches = 1
        counts = self._counts
        if has_output and not searches and (plain := _plain_usage(counts)) is not None:
            return Reported(plain, model=self._model)
        usage = _to_usage(counts, min(searches, MAX_COUNT), self._other_tools, has_output) if counts else None
        if usage is None:
            return None
        anomalies = tuple(_anomalies(counts, usage))[:MAX_ANOMALIES]
        return Reported(usage, service_tier=_tier(counts), model=self._model, anomalies=anomalies)


def _plain_usage(counts: Mapping[str, Any]) -> Usage | None:
    """Return the usage of an answer of text alone, whose counts are those that nearly all have, and add up to their
    total; None for any other. It is what `_to_usage` returns, and there is no anomaly."""
    names = counts.keys()
    if not (names <= _PLAIN and names >= _PLAIN_LEAST):
        return None
    prompt, written, total = counts["promptTokenCount"], counts["candidatesTokenCount"], counts["totalTokenCount"]
    thoughts = counts.get("thoughtsTokenCount", 0)
    ints = type(prompt) is type(written) is type(total) is type(thoughts) is int
    if not ints or min(prompt, written) < 1 or thoughts < 0 or not prompt + written + thoughts == total <= MAX_COUNT:
        return None
    for name in names & _DETAILS:
        match counts[name]:
            case [{"modality": "TEXT"}]:
                pass
            case _:
                return None
    return Usage(prompt, written + thoughts, reasoning_tokens=thoughts)


def _to_usage(counts: Mapping[str, Any], searches: int, other_tools: bool, has_output: bool) -> Usage | None:
    prompt_by, tools_by = (
        _by_modality(counts, "promptTokensDetails"),
        _by_modality(counts, "toolUsePromptTokensDetails"),
    )
    output_by = _by_modality(counts, "candidatesTokensDetails", "responseTokensDetails")
    cached_by = _by_modality(counts, "cacheTokensDetails")
    prompt = _count(counts, "promptTokenCount") or _count(counts, "inputTokenCount") or sum(prompt_by.values())
    tools = _count(counts, "toolUsePromptTokenCount") or sum(tools_by.values())
    written = _count(counts, "candidatesTokenCount") or _count(counts, "responseTokenCount") or sum(output_by.values())
    cached = _count(counts, "cachedContentTokenCount") or sum(cached_by.values())
    thoughts, total = _count(counts, "thoughtsTokenCount"), _count(counts, "totalTokenCount")
    rest = total - prompt - tools - written
    output, reasoning = written + thoughts, thoughts
    if not has_output:
        prompt, output, reasoning = max(prompt, total), 0, 0
    elif total and thoughts and not rest and written >= thoughts:
        output = written  # the thoughts are within the candidates' count
    elif rest > 0 and rest == cached and not thoughts:
        prompt += cached
    elif rest > thoughts:
        output, reasoning = written + rest, rest
    if searches and not other_tools:
        tools, tools_by = 0, {}
    total_input = prompt + tools
    if max(total_input, output) > MAX_COUNT:
        return None
    if not (total_input or output) and (searches or not any(is_zero(counts.get(name)) for name in _KNOWN)):
        return None
    audio, image, video = (prompt_by.get(name, 0) + tools_by.get(name, 0) for name in ("AUDIO", "IMAGE", "VIDEO"))
    text = max(0, total_input - audio - image - video)
    cached_by = cached_by or shared_out(cached, TEXT=text, IMAGE=image, VIDEO=video, AUDIO=audio)
    cached_audio = min(cached_by.get("AUDIO", 0), audio, cached)
    fresh_image, fresh_video = max(0, image - cached_by.get("IMAGE", 0)), max(0, video - cached_by.get("VIDEO", 0))
    parts = (audio - cached_audio, fresh_video, fresh_image, cached_audio, cached - cached_audio)
    audio, video, image, cached_audio, cached_plain = cut_down(total_input, parts)
    spoken, shown, filmed = (output_by.get(name, 0) for name in ("AUDIO", "IMAGE", "VIDEO"))
    filmed, shown, spoken, reasoning = cut_down(output, (filmed, shown, spoken, reasoning))
    return Usage(
        input_tokens=total_input,
        cached_input_tokens=cached_plain,
        audio_input_tokens=audio,
        image_input_tokens=image,
        video_input_tokens=video,
        cached_audio_input_tokens=cached_audio,
        output_tokens=output,
        reasoning_tokens=reasoning,
        audio_output_tokens=spoken,
        image_output_tokens=shown,
        video_output_tokens=filmed,
        searches=searches,
    )


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if type(value) is int and value > 0 else 0


def _by_modality(counts: Mapping[str, Any], *names: str) -> dict[str, int]:
    """Return the tokens of each modality, from the first of some lists of them that is there."""
    found: dict[str, int] = {}
    details = next((counts[name] for name in names if isinstance(counts.get(name), list)), ())
    for each in details:
        if isinstance(each, dict) and isinstance(each.get("modality"), str):
            found[each["modality"]] = found.get(each["modality"], 0) + _count(each, "tokenCount")
    return found


def _anomalies(counts: Mapping[str, Any], usage: Usage) -> Iterator[Anomaly]:
    """Yield what can't be placed: a total that its parts do not explain, modalities and counts by unknown names."""
    total = _count(counts, "totalTokenCount")
    names = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "responseTokenCount")
    rest = total - sum(_count(counts, name) for name in names)
    known = (0, _count(counts, "thoughtsTokenCount"), _count(counts, "cachedContentTokenCount"))
    if total and usage.output_tokens and rest not in known:
        yield "total", "totalTokenCount"
    for name, value in counts.items():
        if isinstance(value, list):
            yield from (("field", f"{name}.{each}") for each in _by_modality(counts, name) if each not in _MODALITIES)
    yield from unknown_counts(counts, _KNOWN)


def _tier(counts: Mapping[str, Any]) -> str | None:
    """Return the service tier that the answer names, in lower case."""
    for name in ("serviceTier", "trafficType"):
        value = counts.get(name)
        if isinstance(value, str):
            tier = value.lower().removeprefix(_TIER_PREFIX)
            if tier not in ("", "unspecified", "traffic_type_unspecified", "provisioned_throughput"):
                return tier
    return None


# Fields of a part that identify the piece, and have no output.
_NO_OUTPUT: Final = frozenset(
    {"thought", "thoughtSignature", "videoMetadata", "partMetadata", "mediaResolution", "id", "role"}
)
_TEXTS: Final = re.compile(rb'"(?:text|code|output|args)"\s*:\s*"((?:[^"\\]|\\.)*)')


def _of_answer(answer: dict[str, Any]) -> Iterator[tuple[int, Piece]]:
    candidates = answer.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        content = candidate.get("content") if isinstance(candidate, dict) else None
        parts = content.get("parts") if isinstance(content, dict) else None
        index = candidate.get("index") if isinstance(candidate, dict) else None
        for part in parts if isinstance(parts, list) else ():
            for piece in _of_part(part) if isinstance(part, dict) else ():
                yield (index if isinstance(index, int) else 0), piece


def _of_part(part: Mapping[str, Any]) -> Iterator[Piece]:
    for name, value in part.items():
        if value is None or name in _NO_OUTPUT:
            continue
        if isinstance(value, str):
            yield value
        elif name == "inlineData" and isinstance(value, dict) and isinstance(value.get("data"), str):
            yield Inline(kind_of(str(value.get("mimeType"))) or "file", len(value["data"]))
        else:
            yield msgspec.json.encode(value).decode()


OUTPUT: Final = OutputReader(
    of_answer=_of_answer,
    of_event=_of_answer,
    is_known=lambda answer: isinstance(answer.get("candidates"), list) or bool(answer.get("promptFeedback")),
    texts=_TEXTS,
)
