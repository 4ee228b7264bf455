"""The small fields of a request, and single values in it: each is read from its bytes, or refused.

The fields at the top level are decoded by a `FieldTable`, which each kind of request has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.decoding import FIELDS, NULL, TEXT
from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_METADATA
from gateway.dialects.fields import first_byte, folded, other_case, wrong_type
from gateway.dialects.structure import SHORT_VALUE_BYTES, StructureBounds, check_value

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_MODEL_CHARS: Final = 200
# Names of tools, plugins and other models are read up to here.
MAX_NAME_CHARS: Final = 200
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


def within(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
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
