"""JSON that others wrote, read safely: a request's body by the names of its objects, its structure and single values,
an answer by one safe decoder; and what a dialect raises where one can't be read.

This file owns three rules.

**A name stands once, and is spelled one way.** Parsers differ in which of two equal names they take, Go's takes a name
in any case, and protobuf's takes `maxTokens` for `max_tokens` (https://protobuf.dev/programming-guides/json/). So an
object that metering reads is refused where a name stands twice, however it is escaped, or beside itself in another
spelling, or where a name that metering reads is spelled in another way (`MAX_TOKENS`, `maxTokens`).

**No body costs more than its bytes.** What is built of one (objects, lists, names, values, levels) is bounded, and a
body above a bound is refused by byte searches, within the first slice that shows it, before anything of it is built.
Signs within strings are not structure. Where the plain count of all of them is within its bound, so is the structure;
only else are the strings taken out.

**Whatever decodes a body later does not raise.** No value that passes here has a number that no double holds (`1e999`,
400 digits), and none has more levels than a decoder can follow. A dialect's `parse` sees to it that every value was
looked at, here or by a decoder of its own, and that the body is JSON in UTF-8: `msgspec.json.decode` of a body that
`parse` has accepted never raises, and whoever decodes one of an admitted request may rely on it.

The small fields at the top level are decoded by a `FieldTable`, which each kind of request has.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Raw, structs

from billing.errors import MetergateError
from billing.schemas.decoding import UNREADABLE, unreadable
from billing.settings import DERIVED, within
from gateway.dialects.declarations import NO_METADATA
from gateway.dialects.distinct import Name, as_name

# Names of tools, plugins and other models are read up to here.
MAX_NAME_CHARS: Final = 200


class BadRequest(MetergateError):
    """A request that can't be read. `message` is fit for the client; `param` names the field where one is to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class GarbageAnswer(MetergateError):
    """An answer that is not what the endpoint promises: not a JSON object, or half of one."""


T = TypeVar("T")
# Of a name that a client sent, in characters.
MOST_QUOTED: Final = 200
NULL: Final = Raw(b"null")
# The fields of an object, themselves not decoded.
FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
ITEMS: Final = msgspec.json.Decoder(list[Raw])
OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
TEXT: Final = msgspec.json.Decoder(str)


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | str) -> T | None:
    """Return JSON as what a decoder takes; None where it is something else."""
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return None


def decoded_answer(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return a provider's answer, or the data of an event. Raises `GarbageAnswer` where it is no JSON object."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise GarbageAnswer("the provider's answer is not a JSON object") from error


MAX_PARAM_CHARS: Final = 200
# Names of one object that are remembered as seen; longer ones are looked at each time.
MAX_SHAPE_CHARS: Final = 512
SHAPES: Final = 1_024
# Where a name has one itself, it counts as two.
NAMES_BETWEEN: Final = "\0"

_SHORTEST_PAIR_BYTES: Final = len('"":0,')

_PAIRS: Final = msgspec.json.Decoder(dict[Name, Raw], dec_hook=as_name)
_TEXTS: Final = msgspec.json.Decoder(list[dict[Name, str]], dec_hook=as_name)
_NAMED_OBJECTS: Final = msgspec.json.Decoder(list[dict[Name, Raw]], dec_hook=as_name)
_UTF8_SLICE_BYTES: Final = 1 << 20


def first_byte(raw: Raw) -> int:
    """Return the first byte of a JSON value, which tells its type."""
    return memoryview(raw)[0]


def is_null(raw: Raw | None) -> bool:
    """Return whether a field is as if it were not given."""
    return raw is None or first_byte(raw) == ord("n")


def field_of(fields: Mapping[str, Raw], name: str) -> Raw | None:
    """Return a field that is given; None where it is not, or is null."""
    raw = fields.get(name)
    return None if is_null(raw) else raw


def wrong_type(param: str, expected: str) -> BadRequest:
    """Return the refusal of a field of another type than OpenAI's."""
    return BadRequest(f"Invalid type for '{param}': expected {expected}.", param)


def given_twice(name: str, param: str | None) -> BadRequest:
    """Return the refusal of a name that stands twice, at the top level where `param` is None."""
    name = name[:MAX_PARAM_CHARS]
    if param is None:
        return BadRequest(f"The field '{name}' is given twice.", name)
    return BadRequest(f"A field of '{param}' is given twice: '{name}'.", param)


def folded(name: str) -> str:
    """Return what all names have in common that some parser takes for the same."""
    return name.casefold().replace("_", "")


def other_case(meant: str, param: str | None = None) -> BadRequest:
    """Return the refusal of a name that another parser would take for one that metering reads."""
    within = f" in '{param}'" if param else ""
    return BadRequest(f"Unrecognized field{within}: write '{meant}', in lower case.", param or meant)


def top_level(body: bytes, most: int) -> dict[str, Raw] | None:
    """Return the fields of a request by name, each there once; None where there are more than `most`. Raises
    `BadRequest`."""
    try:
        if not body.isascii():
            _check_utf8(body)  # msgspec does not look inside strings that it does not build
        fields = FIELDS.decode(body)
        if len(fields) > most:
            return None
        twice = _repeated(body, fields)
    except msgspec.ValidationError as error:
        raise BadRequest("The body must be a JSON object.") from error
    except UNREADABLE as error:
        raise BadRequest(unreadable(error)) from error
    if twice is not None:
        raise given_twice(twice, None)
    return fields


def _check_utf8(body: bytes) -> None:
    """Raise `UnicodeDecodeError` where bytes are not UTF-8; no text of several megabytes is made of them."""
    view, at = memoryview(body), 0
    while at < len(body):
        end = at + _UTF8_SLICE_BYTES
        at += codecs.utf_8_decode(view[at:end], "strict", end >= len(body))[1]


def read_object(raw: Raw, param: str, read: frozenset[str] = frozenset()) -> dict[str, Raw]:
    """Return the fields of a small object within the body, of which metering reads `read`. Raises `BadRequest`."""
    try:
        fields = FIELDS.decode(raw)
        twice = _repeated(raw, fields)
    except (msgspec.DecodeError, RecursionError) as error:
        raise wrong_type(param, "an object") from error
    if twice is not None:
        raise given_twice(twice, param)
    check_names(fields, param, read)
    return fields


def read_objects(raw: Raw, param: str, read: frozenset[str]) -> list[dict[str, Raw]] | None:
    """Return the objects of a list within the body, as `read_object`; None where not all are objects. Raises
    `BadRequest`."""
    try:
        named = _NAMED_OBJECTS.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    _check_shapes(named, param, read)
    return [dict(zip(map(str, each), each.values(), strict=True)) for each in named]


def objects_of(raw: Raw, param: str, read: frozenset[str]) -> list[dict[str, Raw]]:
    """Return the objects of a list, as `read_objects`. Raises `BadRequest` where not all are objects."""
    found = read_objects(raw, param, read)
    if found is None:
        raise wrong_type(param, "an array of objects")
    return found


def are_texts(raw: Raw, param: str, read: frozenset[str]) -> bool:
    """Return whether a list has objects of texts alone. Raises `BadRequest` where their names are tricks."""
    try:
        found = _TEXTS.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        return False
    _check_shapes(found, param, read)
    return True


def _check_shapes(objects: Iterable[Iterable[str]], param: str, read: frozenset[str]) -> None:
    for shape in set(map(NAMES_BETWEEN.join, objects)):  # mostly they are alike
        check_shape(shape, param, read)


def _repeated(text: bytes | Raw, fields: Mapping[str, Raw]) -> str | None:
    """Return the name that stands twice in a JSON object, of which `fields` were made."""
    # Names, values and the signs between them make up the text: a name that stands twice leaves a rest, as do spaces.
    rest_bytes = len(text) - 4 * len(fields) - sum(map(len, fields)) - sum(map(len, fields.values()))
    if rest_bytes < _SHORTEST_PAIR_BYTES:
        return None
    names = list(map(str, _PAIRS.decode(text)))
    return None if len(names) == len(fields) else _first_twice(names)


def check_names(names: Iterable[str], param: str, read: frozenset[str]) -> None:
    """Refuse names of one object that are tricks. Raises `BadRequest`."""
    check_shape(NAMES_BETWEEN.join(names), param, read)


def check_shape(shape: str, param: str, read: frozenset[str]) -> None:
    """Refuse as `check_names` does, of names that were joined by `NAMES_BETWEEN`. Raises `BadRequest`."""
    problem = _trick(shape, read) if len(shape) <= MAX_SHAPE_CHARS else _trick.__wrapped__(shape, read)
    if problem is None:
        return
    name, twice = problem
    raise given_twice(name, param) if twice else other_case(name, param)


@lru_cache(maxsize=SHAPES)
def _trick(shape: str, read: frozenset[str]) -> tuple[str, bool] | None:
    """Return the name that stands twice in any spelling (and True), or is one of `read` in another one; most objects of
    a body have the same few shapes."""
    names = shape.split(NAMES_BETWEEN)
    alike = [folded(name) for name in names]
    if len(set(alike)) < len(alike):
        twice = _first_twice(alike)
        return next(name.casefold() for name in names if folded(name) == twice), True
    meant = {folded(name): name for name in read}
    for name, fold in zip(names, alike, strict=True):
        if name not in read and fold in meant:
            return meant[fold], False
    return None


def _first_twice(names: Iterable[str]) -> str | None:
    seen = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


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


def check_items(raw: Raw, most: int, what: str, param: str) -> None:
    """Refuse a list that has more than `most` items. Raises `BadRequest`."""
    if more_items(raw, most):
        raise too_many(what, most, param)


def read_tool_objects(
    raw: Raw, read: frozenset[str], bounds: StructureBounds, param: str = "tools"
) -> list[dict[str, Raw]]:
    """Return the objects of a request's `tools`, whose fields in `read` are spelled one way. Raises `BadRequest`."""
    if first_byte(raw) != ord("["):
        raise wrong_type(param, "an array of objects")
    check_items(raw, bounds.tools, "tools", param)
    return objects_of(raw, param, read)


MAX_MODEL_CHARS: Final = 200
# An end user's name and a service tier are kept up to here.
MAX_LABEL_CHARS: Final = 256
# OpenRouter's way to name a model by what is stored there.
PRESET: Final = "@preset/"
_STRINGS: Final = msgspec.json.Decoder(list[str])
_INTEGER: Final = msgspec.json.Decoder(int)


def text(raw: Raw, param: str) -> str:
    """Return a string. Raises `BadRequest`."""
    try:
        return TEXT.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "a string") from error


def short_text(raw: Raw | None, param: str) -> str:
    """Return the beginning of a string that is compared with known ones. Raises `BadRequest`, also where it is not
    given."""
    return text(NULL if raw is None else raw, param)[:MAX_NAME_CHARS]


def texts(raw: Raw, param: str) -> list[str]:
    """Return a list of strings. Raises `BadRequest`."""
    try:
        return _STRINGS.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "an array of strings") from error


def whole(raw: Raw, param: str, least: int, most: int) -> int:
    """Return an integer within bounds. Raises `BadRequest`."""
    try:
        number = _INTEGER.decode(raw)
    except msgspec.DecodeError as error:
        raise wrong_type(param, "an integer") from error
    if not least <= number <= most:
        raise BadRequest(f"Invalid value for '{param}': expected an integer from {least} to {most}.", param)
    return number


def capped(fields: Mapping[str, Any], name: str, most: int) -> int:
    """Return a field's number where it has a smaller one, else `most`."""
    own = INTEGER.decode(fields.get(name, NULL))
    return most if own is None else min(own, most)


def label(text: str) -> str:
    """Return a string that is only recorded: bounded, and without NUL, which Postgres can't store."""
    return text[:MAX_LABEL_CHARS].replace("\0", "\ufffd")


def checked_model(model: str | None) -> str:
    """Return a model's name as it is. Raises `BadRequest` where there is none, or one that leads to another one."""
    if model is None:
        raise BadRequest("Missing required parameter: 'model'.", "model")
    if not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise BadRequest(f"Invalid value for 'model': expected 1 to {MAX_MODEL_CHARS} characters.", "model")
    if PRESET in model:
        raise BadRequest("A preset names its model at the provider: name the model itself.", "model")
    return model


# Pairs of `metadata` that are kept, as OpenAI's reference bounds them.
MAX_METADATA: Final = 16
FIELD_LEVEL: Final = 1

STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)
INTEGER: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)
BOOLEAN: Final[msgspec.json.Decoder[bool | None]] = msgspec.json.Decoder(bool | None)
_DECODERS: Final = {"a string": STRING.decode, "an integer": INTEGER.decode, "a boolean": BOOLEAN.decode}


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The top-level fields of one kind of request that metering reads.

    `expected` are types by name: `a string`, `an integer`, `a boolean`. `metering` are all names that metering reads;
    `usual` those that need no second look, any other one costs a case-folding. `looked_into` are those that another
    reader checks.
    """

    expected: Mapping[str, str]
    metering: frozenset[str]
    usual: frozenset[str]
    looked_into: frozenset[str]
    readers: Mapping[str, Callable[[Raw], str | int | None]] = field(init=False)
    meant: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "readers", {name: _DECODERS[kind] for name, kind in self.expected.items()})
        object.__setattr__(self, "meant", {folded(name): name for name in self.metering})


def read_values(
    fields: Mapping[str, Raw], table: FieldTable, input_field: str, bounds: StructureBounds
) -> dict[str, Any]:
    """Return the small fields, decoded. Raises `BadRequest` for a wrong type, or a name that another parser would
    take for one that metering reads."""
    values: dict[str, Any] = {}
    readers, usual, looked_into = table.readers, table.usual, table.looked_into
    try:
        for name, raw in fields.items():
            if name in readers:
                values[name] = readers[name](raw)
                continue
            if name not in usual and (meant := table.meant.get(folded(name))):
                raise other_case(meant)
            if len(raw) > SHORT_VALUE_BYTES and name not in looked_into and name != input_field:
                check_value(raw, bounds, FIELD_LEVEL, name)
    except msgspec.DecodeError as error:
        raise wrong_type(name, table.expected[name]) from error
    return values


def integer_within(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """Return an integer field, None where it is not given. Raises `BadRequest` outside of its bounds."""
    number: int | None = values.get(name)
    if number is not None and not least <= number <= most:
        raise BadRequest(f"Invalid value for '{name}': expected an integer from {least} to {most}.", name)
    return number


def metadata_of(raw: Raw) -> Mapping[str, str]:
    """Return the pairs of texts in `metadata`, of which OpenAI takes 16. It is for the record alone: what else stands
    there is left to the provider."""
    if first_byte(raw) != ord("{"):
        return NO_METADATA
    pairs = islice(FIELDS.decode(raw).items(), MAX_METADATA)
    return {name: label(TEXT.decode(value)) for name, value in pairs if first_byte(value) == ord('"')}


def quoted(sent: str) -> str:
    """Return what a client sent as a message quotes it: in backticks, with none inside, so that it can't end there."""
    name = sent[:MOST_QUOTED].replace("`", "'")
    return f"`{name}`"
