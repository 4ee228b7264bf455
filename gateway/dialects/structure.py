"""The structure of a JSON body: how much of it there may be, told from its bytes before anything of it is built.

This file owns two rules. **No body costs more than its bytes**: what is built of one (objects, lists, names, values,
levels) is bounded, and a body above a bound is refused by byte searches, within the first slice that shows it.
**Whatever decodes a body later does not raise**: no value that passes here has a number that no double holds (`1e999`,
400 digits), and none has more levels than a decoder can follow. A dialect's `parse` sees to it that every value was
looked at, here or by a decoder of its own, and that the body is JSON in UTF-8: `msgspec.json.decode` of a body that
`parse` has accepted never raises, and whoever decodes one of an admitted request may rely on it.

Signs within strings are not structure. Where the plain count of all of them is within its bound, so is the structure;
only else are the strings taken out.
"""

import math
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Final

import msgspec
from msgspec import Raw, structs

from billing.settings import DERIVED, within
from gateway.dialects.decoding import ITEMS
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.fields import first_byte, read_objects, top_level, wrong_type

# Messages up to here are looked at as texts; of more no copy is made.
PLAIN_BYTES: Final = 65_536
# Of a body at once: what is one step for the interpreter keeps its lock, and so the event loop, from all else.
SLICE_BYTES: Final = 1 << 17
# One place in so many bytes may look like a large number and be looked at; where there are more, strings are taken out.
# Base64 has one in 8,000.
CANDIDATE_BYTES: Final = 1_024
_NESTED: Final = b"{["
# No object, array or name takes less.
_LEVEL_BYTES: Final = len("[]")
_NUMERIC: Final = b"-0123456789"
# No number or literal up to here, of which `1e99` is the largest, has to be looked at.
SHORT_VALUE_BYTES: Final = 4
# Levels that are counted by taking away the innermost pairs; where there are more, sign by sign.
MOST_LEVELS_AT_ONCE: Final = 24
_DIGITS: Final = bytes.maketrans(b"0123456789E", b"0000000000e")
# With an exponent of two digits, a number above all doubles has at least 210 digits before its point.
_LONG_DIGITS: Final = b"0" * 200
_EXPONENTS: Final = (b"e000", b"e+000")
_MANTISSA_BYTES: Final = 64
_MANTISSA: Final = re.compile(rb"(?:[:,\[\s]-?|[0-9.]{%d})[0-9.]*\Z" % (_MANTISSA_BYTES - 1))
# A number that may be above all doubles. Nothing in it is tried twice, whatever digits stand there.
_LARGE: Final = re.compile(rb"(?<![0-9.])[0-9.]++(?:[eE]\+?[0-9]{3,}+|(?<=[0-9.]{200})(?:[eE][+-]?[0-9]++)?)")
_NO_BACKSLASH: Final = re.compile(rb"[^\\]")
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ALL_BUT_SIGNS: Final = bytes(set(range(256)) - set(b"[{:,"))
_STEPS: Final = tuple({ord("["): 1, ord("]"): -1}.get(sign, 0) for sign in range(256))
SHORTEST_ITEM_BYTES: Final = len("0,")


class StructureBounds(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: f"max_request_{name}"):
    """How much structure a request may have; above what any honest client sends. Settings `max_request_*`."""

    depth: Annotated[int, within(16, 500, "levels of a request's JSON")] = 256
    fields: Annotated[int, within(32, 10_000, "fields of a request at its top level")] = 256
    messages: Annotated[int, within(1, 1_000_000, "messages, prompts or inputs of a request")] = 10_000
    parts: Annotated[int, within(1, 1_000_000, "parts of a request's messages together")] = 10_000
    tools: Annotated[int, within(1, 100_000, "tools of a request")] = 1_000
    members: Annotated[int, within(1_000, 100_000_000, "objects, arrays and names in a request")] = 250_000
    values: Annotated[int, within(1_000, 100_000_000, "values in a request, token ids among them")] = 1_000_000
    small_bytes: Annotated[int, DERIVED] = 0
    """A body of this length has no room for too many members or values (everything with a comma after it)."""

    def __post_init__(self) -> None:
        structs.force_setattr(self, "small_bytes", min(_LEVEL_BYTES * self.members, self.values))


DEFAULT_BOUNDS: Final = StructureBounds()


def too_many(what: str, most: int, param: str | None = None) -> BadRequest:
    """Return the refusal of a body that has more of something than its bound."""
    return BadRequest(f"This request is too large: it has more than {most} {what}.", param)


def request_fields(body: bytes, bounds: StructureBounds) -> dict[str, Raw]:
    """Return the fields of a request, each there once. Raises `BadRequest`."""
    check_size(body, bounds)
    fields = top_level(body, bounds.fields)
    if fields is None:
        raise too_many("fields", bounds.fields)
    return fields


def check_size(body: bytes, bounds: StructureBounds) -> None:
    """Refuse a body with too many members or values, whether it is JSON or not. Builds nothing: at most 2 ns a byte,
    up to the slice that shows it; none where a body of this length has no room for so many. Raises `BadRequest`."""
    if len(body) > bounds.small_bytes:
        _check_size(body, bounds)


def check_value(value: Raw, bounds: StructureBounds, level: int, param: str) -> None:
    """Refuse a value that nothing else looks into: for a number that no double holds, or too many levels, of which
    `level` are above it. Takes a nanosecond a byte, and nothing for strings. Raises `BadRequest`."""
    first = memoryview(value)[0]
    if first in _NESTED:
        text, depth = bytes(value), bounds.depth - level
        if (
            len(text) > _LEVEL_BYTES * depth
            and text.count(b"{") + text.count(b"[") > depth
            and _deeper(outside_strings(text), depth)
        ):
            raise BadRequest(f"This request is nested too deeply: it has more than {bounds.depth} levels.", param)
        overflows = has_overflow(text)
    else:
        overflows = first in _NUMERIC and len(value) > SHORT_VALUE_BYTES and math.isinf(float(bytes(value)))
    if overflows:
        raise BadRequest(f"Invalid value for '{param}': a number in it is too large, the most is 1.797e308.", param)


def _check_size(body: bytes, bounds: StructureBounds) -> None:
    signs, most = 0, min(bounds.members, bounds.values)
    for at in range(0, len(body), SLICE_BYTES):
        signs += len(body[at : at + SLICE_BYTES].translate(None, _ALL_BUT_SIGNS))
        if signs > most:
            break
    else:
        return  # as for texts: even with those within strings there are few
    members = values = 0
    for piece in _outside(body):
        members += sum(map(piece.count, (b"{", b"[", b":")))
        values += piece.count(b",")
        if members > bounds.members:
            raise too_many("objects, arrays and names", bounds.members)
        if values > bounds.values:
            raise too_many("values", bounds.values)


def outside_strings(body: bytes) -> bytes:
    """Return the body without its strings, of which JSON has none that another value stands beside."""
    return b"".join(_outside(body))


def _outside(body: bytes) -> Iterator[bytes]:
    """`outside_strings`, about `SLICE_BYTES` at a time."""
    inside = 0
    at = 0
    while at < len(body):
        end = at + SLICE_BYTES
        if body[end - 1 : end] == b"\\":  # an escape is not cut
            rest = _NO_BACKSLASH.search(body, end)
            end = rest.end() if rest else len(body)
        piece = body[at:end]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        between = piece.split(b'"')
        yield b"".join(between[inside::2])
        inside = (inside + len(between) - 1) % 2
        at = end


def _deeper(outside: bytes, depth: int) -> bool:
    """Return whether text without strings has more than `depth` levels."""
    brackets = outside.translate(_BRACKETS, _ALL_BUT_BRACKETS)
    for level in range(MOST_LEVELS_AT_ONCE):
        if level > depth:
            return True
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    depth -= MOST_LEVELS_AT_ONCE
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > depth


def has_overflow(text: bytes) -> bool:
    """Return whether JSON has a number outside its strings that no double holds."""
    if not _may_overflow(text):
        return False
    return any(math.isinf(float(number)) for number in _LARGE.findall(outside_strings(text)))


def _may_overflow(text: bytes) -> bool:
    """Return whether strings have to be taken out to see it: some place looks like a number with a large exponent."""
    levelled = text.translate(_DIGITS)
    if _LONG_DIGITS in levelled:
        return True
    left = 1 + len(text) // CANDIDATE_BYTES
    for exponent in _EXPONENTS:
        at = levelled.find(exponent)
        while at >= 0:
            left -= 1
            if left < 0 or _MANTISSA.search(text, max(0, at - _MANTISSA_BYTES), at):
                return True
            at = levelled.find(exponent, at + 1)
    return False


def more_items(raw: Raw, most: int) -> bool:
    """Return whether a list has more than `most` items; only one that has room for them, and the commas, is looked
    at."""
    if len(raw) <= SHORTEST_ITEM_BYTES * most:
        return False
    text, commas = memoryview(raw), 0
    for at in range(0, len(raw), SLICE_BYTES):
        piece = bytes(text[at : at + SLICE_BYTES])
        if b"," in piece:  # pictures have none, and that is found fast
            commas += piece.count(b",")
            if commas >= most:
                return len(ITEMS.decode(raw)) > most
    return False


def read_tool_objects(
    raw: Raw, read: frozenset[str], bounds: StructureBounds, param: str = "tools"
) -> list[dict[str, Raw]]:
    """Return the objects of a request's `tools`, whose fields in `read` are spelled one way. Raises `BadRequest`."""
    if first_byte(raw) != ord("["):
        raise wrong_type(param, "an array of objects")
    if more_items(raw, bounds.tools):
        raise too_many("tools", bounds.tools, param)
    tools = read_objects(raw, param, read)
    if tools is None:
        raise wrong_type(param, "an array of objects")
    return tools
