"""JSON of a caller as a shape, where a whole number may be written as JSON has it: `95`, `95.0` or `9.5e1`.

JSON does not tell these apart (RFC 8259, 6), and the integers of JSON Schema have all three. msgspec takes the first
alone, so that a body which it refuses is read again with such numbers in their plain form. Money is a string in every
shape: no amount passes through a float.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

_MAY_BE_WHOLE: Final = re.compile(rb"\d(?:\.0|[eE])")
# Up to here a double has every whole number.
_EXACT: Final = 2**53


def decode_shape(body: bytes | msgspec.Raw, model: type[T]) -> T:
    """Return JSON as `model`. Raises `msgspec.DecodeError`, `UnicodeDecodeError` and `RecursionError`."""
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError:
        if _MAY_BE_WHOLE.search(body) is None:
            raise
        return msgspec.json.decode(msgspec.json.encode(_plain(msgspec.json.decode(body))), type=model)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case float() if value.is_integer() and abs(value) <= _EXACT:
            return int(value)
    return value
