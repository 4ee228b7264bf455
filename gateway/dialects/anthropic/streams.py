"""Anthropic's format, the events of a stream. This file owns how the usage of one is put together.

`message_start` has a first count, with the split of cache writes, the tier and the place; each `message_delta` has
counts that replace it field by field, and may have no more than `output_tokens`
(https://docs.anthropic.com/en/docs/build-with-claude/streaming). `message_stop` is the end.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.usage import merge_snapshot
from gateway.dialects.anthropic.output import pieces, pieces_of_part
from gateway.dialects.anthropic.usage import reported_of
from gateway.dialects.events import with_cost
from gateway.dialects.facts import EventFacts
from gateway.dialects.output import Piece

_NULL: Final = Raw(b"null")


class _Message(msgspec.Struct):
    usage: dict[str, Any] | None = None
    model: str | None = None
    container: Raw = _NULL


class _Delta(msgspec.Struct):
    container: Raw = _NULL


class _Event(msgspec.Struct):
    type: str | None = None
    message: _Message | None = None
    delta: _Delta | None = None
    usage: dict[str, Any] | None = None
    error: Raw = _NULL


_EVENT: Final = msgspec.json.Decoder(_Event)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_TERMINAL: Final = b"message_stop"
_STOP: Final = re.compile(rb'\{\s*"type"\s*:\s*"message_stop"')


class AnthropicEvents:
    """Reads the events of one stream; an `EventReader`."""

    usage_marker: Final = b'"usage"'
    usage_pattern: Final = re.compile(rb'"usage"\s*:\s*\{')
    error_marker: Final = b'"error"'
    finish_markers: Final = (b'"stop_reason":"', b'"stop_reason": "', _TERMINAL)
    terminal_markers: Final = (_TERMINAL,)
    terminal_lines: Final = (
        *(b"event: message_stop", b"event:message_stop"),
        *(b'data: {"type":"message_stop"', b'data:{"type":"message_stop"', b'data: {"type": "message_stop"'),
    )

    def __init__(self) -> None:
        self._usage: dict[str, object] = {}
        self._model: str | None = None
        self._container = False

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Return whether this is `message_stop`; what a model writes of it is no end."""
        return event.startswith(self.terminal_lines) or _STOP.match(data) is not None

    def facts(self, data: bytes) -> EventFacts:
        """Return the usage as it is known by this event, and whether this is an error."""
        try:
            event = _EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return EventFacts()
        is_error = event.type == "error" or event.error != _NULL
        usage, message = event.usage, event.message
        if message is not None:
            usage = usage or message.usage
            self._model = message.model or self._model
        for part in (message, event.delta):
            self._container = self._container or (part is not None and part.container != _NULL)
        if not usage:
            return EventFacts(is_error=is_error)
        self._usage = merge_snapshot(self._usage, usage)
        return EventFacts(reported_of(self._usage, self._model, self._container), has_usage=True, is_error=is_error)

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return what the model wrote: see `gateway.dialects.anthropic.output`."""
        return pieces(data)

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return the output in the data of an event that broke off, as far as it can be told."""
        return pieces_of_part(data)

    def without_null_usage(self, block: bytes) -> bytes:
        """Return the same: usage is there without being asked for."""
        return block

    def with_cost(self, data: bytes, cost_usd: str) -> bytes:
        """Return the same JSON with `cost_usd` as the last field of its `usage`."""
        return with_cost(data, "usage", cost_usd)
