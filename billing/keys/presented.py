"""Which API key a request presents: the one extractor for all that takes one. Pure.

OpenAI's clients send `Authorization: Bearer`, Anthropic's `x-api-key`, Gemini's `x-goog-api-key`, Azure's `api-key`.
All are read everywhere, and a proxied request has none of them. A key in a query is read where the API
that a path belongs to has it there.
"""

from collections.abc import Collection, Iterable
from typing import Final

from multidict import MultiMapping, istr

from billing.errors import INCORRECT_KEY, MetergateError
from billing.keys.secrets import same_secret

KEY_HEADERS: Final = (istr("x-api-key"), istr("x-goog-api-key"), istr("api-key"))
"""Headers whose whole value is a key, in lower case."""
_AUTHORIZATION: Final = istr("Authorization")
_BEARER: Final = "bearer"


class DifferentKeys(MetergateError):
    """A request presents keys that differ: which of them is meant can't be told."""

    kind = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            f"{INCORRECT_KEY}: there are two, and they differ. Send one, as `Authorization: Bearer mg_...`."
        )


def presented_key(headers: MultiMapping[str], further: Iterable[str] = (), shown: Collection[str] = ()) -> str | None:
    """Return the key that a request presents; None without one. Raises `DifferentKeys` where there are two that differ.

    `further` are headers beside `KEY_HEADERS` that hold one; `shown` are keys that stand elsewhere in the request.
    """
    found = [key for value in headers.getall(_AUTHORIZATION, ()) if (key := _in_bearer(value))]
    for name in KEY_HEADERS:
        if name in headers:
            found += [key for value in headers.getall(name) if (key := value.strip())]
    for other_name in further:
        found += [key for value in headers.getall(other_name, ()) if (key := value.strip())]
    if shown:
        found += [key for value in shown if (key := value.strip())]
    if not found:
        return None
    first = found[0]
    for other in found[1:]:
        if not same_secret(other, first):
            raise DifferentKeys
    return first


def bearer_of(headers: MultiMapping[str]) -> str:
    """Return the secret in the first `Authorization: Bearer`, else nothing."""
    return _in_bearer(headers.get(_AUTHORIZATION, ""))


def _in_bearer(value: str) -> str:
    if value.startswith("Bearer "):  # as nearly everybody has it
        return value[7:].strip()
    scheme, _, credentials = value.strip().partition(" ")
    return credentials.strip() if scheme.lower() == _BEARER else ""
