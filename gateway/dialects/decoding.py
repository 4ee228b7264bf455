"""JSON that others wrote: decoded without an error by the one safe decoder, and what a dialect raises where that can't
go on: the client's body can't be read, or the provider's is not what its endpoint promises.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from billing.errors import MetergateError

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


def decoded_answer(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return a provider's answer, or the data of an event. Raises `GarbageAnswer` where it is no JSON object."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise GarbageAnswer("the provider's answer is not a JSON object") from error
