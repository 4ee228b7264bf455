"""OpenAI's format, a stream's events: what each says, and what of their usage is taken out or added."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Raw

from gateway.dialects.body import FIELDS, NULL, decoded
from gateway.dialects.facts import EventFacts, Reported
from gateway.dialects.openai.answer import ANSWER, CITATION, OUTPUT, PlainUsage, plain_usage, reported_of
from gateway.dialects.reader import EventReader
from gateway.dialects.streaming import last_end

# What a chunk has that is there for its usage alone.
_ENVELOPE: Final = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "service_tier",
        "system_fingerprint",
        "choices",
        "usage",
        "obfuscation",
        "provider",
        "x_groq",
        "timings",
        "time_info",
        "metrics",
    }
)
_NOTHING_SAID: Final = (NULL, Raw(b'""'), Raw(b"[]"), Raw(b"{}"))
_EMPTY_LIST: Final = re.compile(rb"\[\s*\]")
_USAGE_NAME: Final = b'"usage"'
_NULL_USAGE: Final = re.compile(rb'"usage"\s*:\s*null')
# Of the places in one event where usage is null, so many each are tried from its beginning and from its end: one at the
# top level stands there.
MOST_TRIED: Final = 8
_EVENT_END: Final = b"}\n\n"
_NULL_USAGE_LAST: Final = b',"usage":null' + _EVENT_END
# Where it is the last field of an event, or OpenAI's padding alone follows: the brace that ends the event shows that it
# stands at the top level, so that nothing has to be decoded.
_PADDING: Final = rb'"obfuscation":"[^"\\]*"\}\n\n'
_NULL_USAGE_PADDED: Final = re.compile(rb'"usage":null,(?=%b)' % _PADDING)
_PADDED_LAST: Final = re.compile(rb'"usage":null,(%b)' % _PADDING)
_DATA_LINE: Final = re.compile(rb"(?<=^data:).*\{.*$", re.MULTILINE)


class _PlainEvent(msgspec.Struct):
    """A stream's event with such usage, and with no error."""

    usage: PlainUsage
    service_tier: str | None = None
    model: str | None = None
    choices: Raw = NULL
    error: None = None


class _UsageEvent(msgspec.Struct, forbid_unknown_fields=True):
    """The event that OpenAI sends for its usage alone."""

    usage: PlainUsage
    choices: Annotated[list[None], msgspec.Meta(max_length=0)]
    id: str | None = None
    object: str | None = None
    created: int | None = None
    service_tier: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    obfuscation: str | None = None
    error: None = None


_PLAIN_EVENT: Final = msgspec.json.Decoder(_PlainEvent)
_USAGE_EVENT: Final = msgspec.json.Decoder(_UsageEvent)
_NO_CHOICES: Final = b'"choices":[]'


def _plain_facts(data: bytes) -> EventFacts | None:
    """Return what an event with usage says, where it is as OpenAI writes it: in one go."""
    if data.find(_NO_CHOICES) >= 0 and (alone := decoded(_USAGE_EVENT, data)) is not None:
        if (usage := plain_usage(alone.usage)) is None:
            return None
        return EventFacts(Reported(usage, alone.service_tier, alone.model), has_usage=True, is_usage_only=True)
    event = decoded(_PLAIN_EVENT, data)
    if event is None or (usage := plain_usage(event.usage)) is None:
        return None
    only = _EMPTY_LIST.fullmatch(event.choices) is not None and _says_no_more(data)
    return EventFacts(Reported(usage, event.service_tier, event.model), has_usage=True, is_usage_only=only)


def _says_no_more(data: bytes) -> bool:
    """Return whether an event without choices has nothing beside its usage that a client would miss: a moderation's
    verdict and Azure's filter results come in chunks without choices, too."""
    fields = decoded(FIELDS, data) or {}
    return all(name in _ENVELOPE or value in _NOTHING_SAID for name, value in fields.items())


def _has_null_usage(block: bytes, at: int) -> bool:
    """Return whether usage that is null stands in a block, the first of whose usages stands at `at`: a byte search
    finds it in a fraction of a pattern's time."""
    while at >= 0:
        if _NULL_USAGE.match(block, at) is not None:
            return True
        at = block.find(_USAGE_NAME, at + 1)
    return False


def _without_null_usage(line: re.Match[bytes]) -> bytes:
    data = line[0]
    fields = decoded(FIELDS, data)
    if fields is None or fields.get("usage") != NULL:  # what stands deeper is not the event's own
        return data
    places = list(_NULL_USAGE.finditer(data))
    for found in (*places[:MOST_TRIED], *places[MOST_TRIED:][-MOST_TRIED:]):
        before, after = data[: found.start()], data[found.end() :]
        if before.rstrip().endswith(b","):
            cut = before.rstrip()[:-1] + after
        else:
            cut = before + after.lstrip().removeprefix(b",").lstrip()
        left = decoded(FIELDS, cut)
        if left is not None and "usage" not in left:
            return cut
    return data


class OpenAIEvents(EventReader):
    """Reads the data of the stream events of chat completions and completions; an `EventReader`."""

    finish_markers: tuple[bytes, ...] = (b'"finish_reason":"', b'"finish_reason": "')
    terminal_markers: tuple[bytes, ...] = (b"[DONE]",)
    terminal_lines: tuple[bytes, ...] = (b"data: [DONE]", b"data:[DONE]")
    pieces = staticmethod(OUTPUT.pieces)
    pieces_of_part = staticmethod(OUTPUT.pieces_of_part)

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Return whether it is `data: [DONE]`, and nothing beside it."""
        return data.strip() == b"[DONE]"

    def facts(self, data: bytes) -> EventFacts:
        """Return usage and errors of one event. A usage-only chunk has usage, no error, `"choices": []`, and says no
        more."""
        return (_plain_facts(data) if data.find(CITATION) < 0 else None) or self._facts(data)

    @staticmethod
    def _facts(data: bytes) -> EventFacts:
        answer = decoded(ANSWER, data)
        if answer is None:
            return EventFacts()
        has_usage = answer.usage != NULL
        is_error = answer.error != NULL
        return EventFacts(
            reported=reported_of(answer),
            has_usage=has_usage,
            is_usage_only=(
                has_usage and not is_error and _EMPTY_LIST.fullmatch(answer.choices) is not None and _says_no_more(data)
            ),
            is_error=is_error,
        )

    def without_null_usage(self, block: bytes, at: int) -> tuple[bytes, int]:
        """Return whole events without the `"usage": null` at their top level that is there because the gateway asked,
        and where the first usage stands that is left."""
        if block.startswith(_NULL_USAGE_LAST, at - 1):  # which no search is needed to see
            if at - 1 + len(_NULL_USAGE_LAST) == len(block):
                return block[: at - 1] + _EVENT_END, -1
            block = _EVENT_END.join(block.split(_NULL_USAGE_LAST))  # `replace` searches twice
            at = block.find(_USAGE_NAME, at)
        elif (padded := _PADDED_LAST.fullmatch(block, at)) is not None:
            return block[:at] + padded[1], -1
        if not _has_null_usage(block, at):
            return block, at
        start = last_end(block, 0, at)
        rest = _NULL_USAGE_PADDED.sub(b"", block[start:].replace(_NULL_USAGE_LAST, _EVENT_END))
        if _has_null_usage(rest, rest.find(_USAGE_NAME)):
            rest = _DATA_LINE.sub(_without_null_usage, rest)
        block = block[:start] + rest
        return block, block.find(_USAGE_NAME, start)
