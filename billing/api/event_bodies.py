"""Bodies of usage events: how many events a body has, and where each of them begins and ends.

An event that can't be read (a NUL, a lone surrogate, bytes that are not UTF-8, anything else that is no JSON) must not
spoil the others of its batch. A body that the JSON parser refuses as a whole is therefore cut at the commas between its
events, as far as quotes and brackets are balanced; each piece is then read by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from billing.api.errors import BadRequest
from billing.api.operation import JSON
from billing.api.requests import decoded
from billing.schemas.service import BINARY_EVENT, structured

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOUD_EVENT: Final = "application/cloudevents+json"
CLOUD_BATCH: Final = "application/cloudevents-batch+json"
# Of one event, as CloudEvents 1.0 asks every intermediary to take.
MOST_EVENT_BYTES: Final = 64 * 1024
_LIST: Final = re.compile(rb"\s*\[(.*)\]\s*", re.DOTALL)
_EVENTS: Final = re.compile(rb'\s*\{\s*"events"\s*:\s*\[(.*)\]\s*\}\s*', re.DOTALL)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{},"]', re.DOTALL)
_OPENS: Final = (b"[", b"{")
_CLOSES: Final = (b"]", b"}")
_NUL: Final = re.compile(rb"\0|(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class EventBodies:
    """The events of one body, each as it came. `cloud`: they are CloudEvents. `alone`: the body is one event, so that
    what is wrong with it is the answer's error."""

    events: list[msgspec.Raw]
    cloud: bool
    alone: bool


def events_of(content_type: str, headers: Mapping[str, str], body: bytes) -> EventBodies:
    """Take a body apart. Raises `BadRequest` for one that holds no events."""
    if content_type == CLOUD_BATCH:
        return EventBodies(_several(body, list[msgspec.Raw], _LIST), cloud=True, alone=False)
    if content_type == CLOUD_EVENT:
        return EventBodies([msgspec.Raw(body)], cloud=True, alone=True)
    if content_type != JSON:
        raise BadRequest(f"The body is {JSON}, {CLOUD_EVENT} or {CLOUD_BATCH}.", "Content-Type")
    if BINARY_EVENT in headers:
        data = checked(msgspec.Raw(body))
        try:
            return EventBodies([structured(headers, data)], cloud=True, alone=True)
        except UnicodeDecodeError as error:
            raise BadRequest("The headers ce-… are percent-encoded UTF-8.") from error
    if _EVENTS.fullmatch(body) is None and decoded(body, _MaybeSeveral).events is UNSET:
        return EventBodies([msgspec.Raw(body)], cloud=False, alone=True)
    return EventBodies(_several(body, _Several, _EVENTS), cloud=False, alone=False)


def checked(event: msgspec.Raw) -> msgspec.Raw:
    """Return the JSON of an event, or its data, if all of its text can be stored. Raises `BadRequest`."""
    raw = bytes(event)
    if len(raw) > MOST_EVENT_BYTES:
        raise BadRequest(f"An event has at most {MOST_EVENT_BYTES} bytes.")
    if _NUL.search(raw) is not None:
        raise BadRequest("An event must not contain NUL characters.")
    try:
        raw.decode()  # the parser looks at the texts that it keeps alone
    except UnicodeDecodeError as error:
        raise BadRequest("An event must be UTF-8.") from error
    return msgspec.Raw(decoded(raw, msgspec.Raw))


class _MaybeSeveral(msgspec.Struct):
    """Tells several events from one."""

    events: list[msgspec.Raw] | msgspec.UnsetType = UNSET


class _Several(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


def _several(body: bytes, model: Any, pattern: re.Pattern[bytes]) -> list[msgspec.Raw]:
    """Return the events of a batch, the readable and the unreadable ones."""
    try:
        found = decoded(body, model, "events")
    except BadRequest:
        array = pattern.fullmatch(body)
        pieces = None if array is None else _pieces(array[1])
        if pieces is None:
            raise
        return pieces
    return found.events if isinstance(found, _Several) else found


def _pieces(items: bytes) -> list[msgspec.Raw] | None:
    """Return what stands between the commas of an array; None where quotes or brackets are not balanced."""
    pieces: list[msgspec.Raw] = []
    depth = begin = 0
    for token in _TOKEN.finditer(items):
        mark = token[0]
        if mark in _OPENS:
            depth += 1
        elif mark in _CLOSES:
            depth -= 1
        elif mark == b'"':
            return None
        elif mark == b"," and depth == 0:
            pieces.append(msgspec.Raw(items[begin : token.start()]))
            begin = token.end()
        if depth < 0:
            return None
    pieces.append(msgspec.Raw(items[begin:]))
    return pieces if depth == 0 else None
