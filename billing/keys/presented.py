"""Which API key a request presents: the one extractor for all that takes one. Pure.

Most clients send `Authorization: Bearer`. Who serves other APIs names the headers that their clients use, and what
stands elsewhere in a request.
"""

from collections.abc import Iterable
from typing import Final

from multidict import MultiMapping, istr

from billing.errors import INCORRECT_KEY, MetergateError
from billing.keys.secrets import same_secret

# Headers whose whole value is a key where the billing API takes one, in lower case.
KEY_HEADERS: Final = (istr("x-api-key"), istr("x-goog-api-key"), istr("api-key"))
_AUTHORIZATION: Final = istr("Authorization")
_BEARER: Final = "bearer"


class DifferentKeys(MetergateError):
    """A request presents keys that differ: which of them is meant can't be told."""

    kind = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            f"{INCORRECT_KEY}: there are two, and they differ. Send one, as `Authorization: Bearer mg_...`."
        )


def presented_key(
    headers: MultiMapping[str], names: Iterable[str] = KEY_HEADERS, shown: Iterable[str] = ()
) -> str | None:
    """Return the key that a request presents; None without one. Raises `DifferentKeys` where there are two that differ.

    `names` are headers whose whole value is one; `shown` are keys that stand elsewhere in the request.
    """
    found = [key for value in headers.getall(_AUTHORIZATION, ()) if (key := _in_bearer(value))]
    for name in names:
        if name in headers:
            found += [key for value in headers.getall(name) if (key := value.strip())]
    for value in shown:
        if key := value.strip():
            found.append(key)
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
