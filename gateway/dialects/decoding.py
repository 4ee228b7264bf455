"""JSON that others wrote, decoded without an error: the one safe decoder, and the types that are decoded often."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

T = TypeVar("T")
# What decoding JSON that others wrote may raise.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
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
