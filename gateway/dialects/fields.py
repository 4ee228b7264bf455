"""The objects of a JSON request: their names, each there once and spelled one way. This file owns that.

Parsers differ in which of two equal names they take, Go's takes a name in any case, and protobuf's takes `maxTokens`
for `max_tokens` (https://protobuf.dev/programming-guides/json/). So an object that metering reads is refused where a
name stands twice, however it is escaped, or beside itself in another spelling, or where a name that metering reads is
spelled in another way (`MAX_TOKENS`, `maxTokens`).
"""

import codecs
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Raw

from billing.schemas.decoding import unreadable
from gateway.dialects.decoding import FIELDS, UNREADABLE
from gateway.dialects.exceptions import BadRequest

MAX_PARAM_CHARS: Final = 200
# Names of one object that are remembered as seen; longer ones are looked at each time.
MAX_SHAPE_CHARS: Final = 512
SHAPES: Final = 1_024
# Where a name has one itself, it counts as two.
NAMES_BETWEEN: Final = "\0"

_SHORTEST_PAIR_BYTES: Final = len('"":0,')


class Name(str):
    """A field's name that equals no other `Name`, so that a dictionary keeps what stands twice in a JSON object."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def as_name(_type: type, name: str) -> Name:
    """Return a name as a `Name`: `dec_hook` of a decoder of dictionaries with `Name` keys."""
    return Name(name)


_PAIRS: Final = msgspec.json.Decoder(dict[Name, Raw], dec_hook=as_name)
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
    for shape in set(map(NAMES_BETWEEN.join, named)):  # mostly they are alike
        check_shape(shape, param, read)
    return [dict(zip(map(str, each), each.values(), strict=True)) for each in named]


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
