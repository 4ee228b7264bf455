"""Anthropic's format, the usage: counts of a whole answer, or of a stream's snapshots. This file owns their reading.

`input_tokens` leaves out what was read from and written to the cache; a total is the sum of the three. Thinking is
within `output_tokens`. Where `iterations` are given, each of them is priced at its own model, and the counts beside
them are not (https://docs.anthropic.com/en/api/messages, and its beta reference): an advisor's and a fallback's name
theirs, a compaction is the model's own. Of a turn that a fallback served, what declined before it wrote is not billed.

Of a stream, `message_start` has a first count, with the split of cache writes, the tier and the place; each
`message_delta` has counts that replace it field by field, and may have no more than `output_tokens`
(https://docs.anthropic.com/en/docs/build-with-claude/streaming). `message_stop` is the end.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.schemas.decoding import UNREADABLE
from billing.usage import MAX_COUNT, ModelUsage, Usage, UsageError, merge_snapshot, total
from gateway.dialects.anthropic.content import OUTPUT
from gateway.dialects.body import NULL, OBJECT, decoded, decoded_answer
from gateway.dialects.facts import MAX_ANOMALIES, Anomaly, EventFacts, Reported, is_zero, unknown_counts
from gateway.dialects.reader import EventReader

_ADVISOR, _FALLBACK = "advisor_message", "fallback_message"
# One container that ran code: the answer names it, and its usage does not.
CODE_SESSION: Final = "call.code_execution"
_STANDARD_REGIONS: Final = frozenset({"global", "not_available"})
_BATCH: Final = "batch"
# Of one answer that are read; of more nothing is believed.
MAX_ITERATIONS: Final = 1_000
_TOTALS: Final = ("input_tokens", "output_tokens")
_KNOWN: Final = frozenset(
    {
        *_TOTALS,
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "thinking_tokens",
        "ephemeral_1h_input_tokens",
        "ephemeral_5m_input_tokens",
    }
)
_NO_COUNTS: Final = Usage(requests=0)


class _Answer(msgspec.Struct):
    usage: Raw = NULL
    model: Raw = NULL
    container: Raw = NULL


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_MODEL: Final = msgspec.json.Decoder(str | None)


def usage_from_json(body: bytes) -> Reported | None:
    """Return the usage of a whole message; None where it reports none. Raises `GarbageAnswer` where it is not a JSON
    object."""
    answer = decoded_answer(_ANSWER, body)
    try:
        usage, model = OBJECT.decode(answer.usage), _MODEL.decode(answer.model)
    except UNREADABLE:
        return None
    return reported_of(usage, model, answer.container != NULL) if usage else None


def counted_from_json(body: bytes) -> Reported:
    """Return nothing but the request, for the answer of a count, whose `input_tokens` were not used. Raises
    `GarbageAnswer` where it is not a JSON object."""
    decoded_answer(_ANSWER, body)
    return Reported(Usage())


def reported_of(usage: Mapping[str, object], model: str | None, has_container: bool = False) -> Reported | None:
    """Return the usage of a usage object; None if it has no count, or an impossible one."""
    entries = _entries(usage.get("iterations")) if "iterations" in usage else ()
    others: tuple[ModelUsage, ...] = ()
    try:
        units = _searches(usage), {CODE_SESSION: 1} if has_container else None
        if entries:
            own, others = _by_model(entries)
            own = msgspec.structs.replace(own, requests=1, searches=units[0], named=units[1])
        else:
            own = _counts(usage, 1, *units)
        if not own.total_tokens and not any(other.usage.total_tokens for other in others):
            if any(units) or not any(is_zero(usage.get(name)) for name in _TOTALS):
                return None
            others = ()
    except UsageError:
        return None
    tier, region = _text(usage, "service_tier"), _text(usage, "inference_geo")
    served = not entries or not any(entry.get("type") == _FALLBACK for entry in entries)
    return Reported(
        own,
        service_tier=None if tier == _BATCH else tier,
        model=model if served else None,  # a fallback's name is no name of what `own` counts
        others=others,
        processing=_BATCH if tier == _BATCH else None,
        speed=_text(usage, "speed"),
        region=None if region in _STANDARD_REGIONS else region,
        anomalies=tuple(_anomalies(usage))[:MAX_ANOMALIES],
    )


def _anomalies(usage: Mapping[str, Any]) -> Iterator[Anomaly]:
    """Yield what can't be placed: parts above their whole, and counts by unknown names."""
    hour, minutes = _split(usage)
    if hour + minutes > _count(usage, "cache_creation_input_tokens"):
        yield "total", "cache_creation"
    details = usage.get("output_tokens_details")
    if isinstance(details, dict) and _count(details, "thinking_tokens") > _count(usage, "output_tokens"):
        yield "total", "output_tokens_details"
    yield from unknown_counts(usage, _KNOWN)


def _entries(iterations: object) -> list[Mapping[str, object]]:
    if not isinstance(iterations, list) or len(iterations) > MAX_ITERATIONS:
        return []
    return [entry for entry in iterations if isinstance(entry, dict)]


def _by_model(entries: Iterable[Mapping[str, object]]) -> tuple[Usage, tuple[ModelUsage, ...]]:
    """Return the counts of the model that was asked, and those of the others by name. Raises `UsageError`."""
    entries = list(entries)
    fallbacks = {_text(entry, "model") for entry in entries if entry.get("type") == _FALLBACK}
    own, others = [_NO_COUNTS], dict[str, list[Usage]]()
    for entry in entries:
        kind, name, counts = entry.get("type"), _text(entry, "model"), _counts(entry, 0)
        if kind in (_ADVISOR, _FALLBACK) and name is not None:
            others.setdefault(name, []).append(counts)
        elif not fallbacks:
            own.append(counts)
        elif name in fallbacks and name is not None:  # a turn of the fallback's own tools
            others.setdefault(name, []).append(counts)
        elif counts.output_tokens:  # it declined after it had written
            own.append(counts)
    return total(own), tuple(ModelUsage(name, total(each)) for name, each in others.items())


def _counts(
    counts: Mapping[str, object], requests: int, searches: int = 0, named: Mapping[str, int] | None = None
) -> Usage:
    """Return one usage object, or one of its iterations. Raises `UsageError` for counts that can't be."""
    read, written = _count(counts, "cache_read_input_tokens"), _count(counts, "cache_creation_input_tokens")
    hour, minutes = _split(counts)
    written = max(written, hour + minutes)
    if hour and not minutes:
        hour = written  # what was written after the split was told has no ttl: the dearest that was asked for
    output = _count(counts, "output_tokens")
    details = counts.get("output_tokens_details")
    thinking = _count(details, "thinking_tokens") if isinstance(details, dict) else 0
    return Usage(
        input_tokens=_count(counts, "input_tokens") + read + written,
        output_tokens=output,
        cached_input_tokens=read,
        cache_write_tokens=written - hour,
        cache_write_1h_tokens=hour,
        reasoning_tokens=min(thinking, output),
        requests=requests,
        searches=searches,
        named=named,
    )


def _split(counts: Mapping[str, object]) -> tuple[int, int]:
    """Return tokens that were written to the cache for an hour, and for five minutes."""
    split = counts.get("cache_creation")
    if not isinstance(split, dict):
        return 0, 0
    return _count(split, "ephemeral_1h_input_tokens"), _count(split, "ephemeral_5m_input_tokens")


def _searches(usage: Mapping[str, object]) -> int:
    """Return searches at the provider. Raises `UsageError`."""
    used = usage.get("server_tool_use")
    return _count(used, "web_search_requests") if isinstance(used, dict) else 0


def _count(counts: Mapping[str, object], name: str) -> int:
    """Return a count; zero where it is none, or below zero. Raises `UsageError` above what one request can have."""
    count = counts.get(name)
    if type(count) is not int:
        if type(count) is not float or not count.is_integer():
            return 0
        count = int(count)
    if count < 0:
        return 0
    if count > MAX_COUNT:
        raise UsageError(f"{name} is above {MAX_COUNT}")
    return count


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


class _Message(msgspec.Struct):
    usage: dict[str, Any] | None = None
    model: str | None = None
    container: Raw = NULL


class _Delta(msgspec.Struct):
    container: Raw = NULL


class _Event(msgspec.Struct):
    type: str | None = None
    message: _Message | None = None
    delta: _Delta | None = None
    usage: dict[str, Any] | None = None
    error: Raw = NULL


_EVENT: Final = msgspec.json.Decoder(_Event)
_TERMINAL: Final = b"message_stop"
_STOP: Final = re.compile(rb'\{\s*"type"\s*:\s*"message_stop"')


class AnthropicEvents(EventReader):
    """Reads the events of one stream."""

    finish_markers: tuple[bytes, ...] = (
        b'"stop_reason":"',
        b'"stop_reason": "',
        b'{"type":"message_stop"',  # in a text the quotes are escaped
        b'{"type": "message_stop"',
        b"event: message_stop\n",
        b"event:message_stop\n",
        b"event: message_stop\r",
        b"event:message_stop\r",
    )
    terminal_markers: tuple[bytes, ...] = (_TERMINAL,)
    terminal_lines: tuple[bytes, ...] = (
        b"event: message_stop",
        b"event:message_stop",
        b'data: {"type":"message_stop"',
        b'data:{"type":"message_stop"',
        b'data: {"type": "message_stop"',
    )

    tool_call_marker = b"content_block_start"
    # Code runs within searches of newer types, too, though no field of a request bounds it: Anthropic does.
    tool_call_pattern = re.compile(
        rb'"type"\s*:\s*"(?:mcp_tool_use"|server_tool_use"(?!.*"name"\s*:\s*"(?:bash_|text_editor_)?code_execution"))'
    )
    pieces = staticmethod(OUTPUT.pieces)
    pieces_of_part = staticmethod(OUTPUT.pieces_of_part)

    def __init__(self) -> None:
        self._usage: dict[str, object] = {}
        self._model: str | None = None
        self._container = False

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Return whether this is `message_stop`; what a model writes of it is no end."""
        return event.startswith(self.terminal_lines) or _STOP.match(data) is not None

    def facts(self, data: bytes) -> EventFacts:
        """Return the usage as it is known by this event, and whether this is an error."""
        event = decoded(_EVENT, data)
        if event is None:
            return EventFacts()
        is_error = event.type == "error" or event.error != NULL
        usage, message = event.usage, event.message
        if message is not None:
            usage = usage or message.usage
            self._model = message.model or self._model
        for part in (message, event.delta):
            self._container = self._container or (part is not None and part.container != NULL)
        if not usage:
            return EventFacts(is_error=is_error)
        self._usage = merge_snapshot(self._usage, usage)
        return EventFacts(reported_of(self._usage, self._model, self._container), has_usage=True, is_error=is_error)
