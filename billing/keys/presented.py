"""Which API key a request presents: the one extractor for every door that takes one. Pure.

OpenAI's clients send `Authorization: Bearer`, Anthropic's `x-api-key`, Gemini's `x-goog-api-key`, Azure's `api-key`.
All are read everywhere, and whoever passes requests on leaves all of them out. A key in a query is not read: only
Gemini's own paths take `?key=`, and there are none yet.
"""

from typing import Final

from multidict import MultiMapping, istr

from billing.errors import MetergateError
from billing.keys.secrets import same_secret

KEY_HEADERS: Final = (istr("x-api-key"), istr("x-goog-api-key"), istr("api-key"))
"""Headers whose whole value is a key, in lower case."""
_AUTHORIZATION: Final = istr("Authorization")
_BEARER: Final = "bearer"


class DifferentKeys(MetergateError):
    """A request presents keys that differ: which of them is meant can't be told."""

    def __init__(self) -> None:
        super().__init__(
            "Incorrect API key provided: there are two, and they differ. Send one, as `Authorization: Bearer mg_...`."
        )


def presented_key(headers: MultiMapping[str]) -> str | None:
    """The key in a request's headers; None without one. Raises `DifferentKeys` where there are two that differ."""
    found = [key for value in headers.getall(_AUTHORIZATION, ()) if (key := _in_bearer(value))]
    for name in KEY_HEADERS:
        if name in headers:
            found += [key for value in headers.getall(name) if (key := value.strip())]
    if not found:
        return None
    first = found[0]
    for other in found[1:]:
        if not same_secret(other, first):
            raise DifferentKeys
    return first


def bearer_of(headers: MultiMapping[str]) -> str:
    """The secret in the first `Authorization: Bearer`, else nothing."""
    return _in_bearer(headers.get(_AUTHORIZATION, ""))


def _in_bearer(value: str) -> str:
    if value.startswith("Bearer "):  # as nearly everybody has it
        return value[7:].strip()
    scheme, _, credentials = value.strip().partition(" ")
    return credentials.strip() if scheme.lower() == _BEARER else ""
