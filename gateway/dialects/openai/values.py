"""OpenAI's format, the small fields of a request: decoded by a table of their types, and bounded. This file owns that.

Chats, completions, embeddings and responses each have a `FieldTable` of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.facts import NO_METADATA
from gateway.dialects.fields import first_byte, folded, other_case, wrong_type
from gateway.dialects.structure import SHORT_VALUE_BYTES, StructureBounds, check_value
from gateway.dialects.values import label

MAX_METADATA: Final = 16
"""Pairs of `metadata` that are kept, as OpenAI's reference bounds them."""
FIELD_LEVEL: Final = 1

STRING: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)
INTEGER: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)
BOOLEAN: Final[msgspec.json.Decoder[bool | None]] = msgspec.json.Decoder(bool | None)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_TEXT: Final = msgspec.json.Decoder(str)
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
            if len(raw) > SHORT_VALUE_BYTES and name != input_field and name not in looked_into:
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
    pairs = islice(_FIELDS.decode(raw).items(), MAX_METADATA)
    return {name: label(_TEXT.decode(value)) for name, value in pairs if first_byte(value) == ord('"')}
