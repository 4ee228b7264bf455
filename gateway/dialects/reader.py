"""How a dialect reads the events of a stream: the port of `gateway.dialects.streaming`, which passes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec import Raw

from billing.schemas.decoding import UNREADABLE
from gateway.dialects.body import FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.dialects.facts import EventFacts
    from gateway.dialects.output import Piece

# What a usage object says of the charge; the first is the name until the next release.
CHARGE_FIELDS: Final = ("cost_usd", "charge_usd")


def with_charge(data: bytes, path: Sequence[str], charge_usd: str) -> bytes:
    """Return JSON with `charge_usd`, and `cost_usd`, its name until the next release, as the last fields of its usage
    object, which is found below the fields in `path`; all else as it was but for outer spaces, and the same object
    where it has none."""
    try:
        return _with_charge(data, path, charge_usd)
    except (*UNREADABLE, KeyError):
        return data


def _with_charge(data: bytes | Raw, path: Sequence[str], charge_usd: str) -> bytes:
    fields = FIELDS.decode(data)
    if path:
        fields[path[0]] = Raw(_with_charge(fields[path[0]], path[1:], charge_usd))
    else:
        fields |= dict.fromkeys(CHARGE_FIELDS, Raw(msgspec.json.encode(charge_usd)))
    return msgspec.json.encode(fields)


class EventReader(Protocol):
    """How a dialect reads the server-sent events of a stream. Nothing raises: what can't be read says nothing.

    One instance serves one stream where usage is put together from several events, else any number of them.

    Without `usage_marker` an event has no usage; `usage_pattern` begins with it, and matches where usage follows that
    is not null. Without `error_marker` an event is no error; what it names and is null is none. Any of `finish_markers`
    says that an answer came to its end, also where no terminal event follows. Every terminal event has one of
    `terminal_markers`; lines that begin with `terminal_lines` may be of one and are not passed on by themselves.
    Without `tool_call_marker` an event tells of no call of a tool at the provider (empty: none does), and
    `tool_call_pattern` matches where one does.
    """

    usage_marker: bytes = b'"usage"'
    usage_pattern: re.Pattern[bytes] = re.compile(rb'"usage"\s*:\s*\{')
    error_marker: bytes = b'"error"'
    finish_markers: tuple[bytes, ...] = ()
    terminal_markers: tuple[bytes, ...] = ()
    terminal_lines: tuple[bytes, ...] = ()
    tool_call_marker: bytes = b""
    tool_call_pattern: re.Pattern[bytes] = re.compile(rb"(?!)")

    def is_terminal(self, event: bytes, data: bytes) -> bool:
        """Return whether a whole event that has a terminal marker is one; `data` is its data."""

    def facts(self, data: bytes) -> EventFacts:
        """Return usage and errors in an event's data. Called once, in order, for each event with a marker of either."""

    def pieces(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return the output in one event's data: (choice, piece) pairs, none of them empty. May be called again."""

    def pieces_of_part(self, data: bytes) -> list[tuple[int, Piece]]:
        """Return the output in the data of an event that broke off, as far as it can be told."""

    def without_null_usage(self, block: bytes, at: int) -> tuple[bytes, int]:
        """Return whole events without the usage that is null in them, because the gateway asked for it; all else byte
        for byte. `at` says where the first usage marker stands; where it does then is returned, below 0 where none is
        left."""
        return block, at

    def with_charge(self, data: bytes, charge_usd: str) -> bytes:
        """Return the same data with `charge_usd` in its usage object; unchanged where it has none."""
        return with_charge(data, ("usage",), charge_usd)
