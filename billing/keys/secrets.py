"""API keys: how a secret is made, recognised and hashed, and which one a request presents. Pure but for the random
source that the caller passes.

A key is `mg_`, 32 random base62 characters, and 6 base62 characters of the CRC-32 of what precedes, so that a mistyped
key is known without a look-up. Only its SHA-256 is stored: the secret has 190 bits, so a slow hash would buy nothing.

Most clients send `Authorization: Bearer`. Who serves other APIs names the headers that their clients use, and what
stands elsewhere in a request.
"""

import hashlib
import hmac
import re
import string
import zlib
from collections.abc import Callable, Iterable
from typing import Final

from multidict import MultiMapping, istr

from billing.errors import INCORRECT_KEY, MetergateError

PREFIX: Final = "mg_"
RANDOM_CHARACTERS: Final = 32
CHECK_CHARACTERS: Final = 6
RUN_CHARACTERS: Final = 12
_AT_RANDOM: Final = re.compile("[0-9a-f]{64}|mga_[A-Za-z0-9_-]{43}")
KEY_LENGTH: Final = len(PREFIX) + RANDOM_CHARACTERS + CHECK_CHARACTERS
SHOWN_CHARACTERS: Final = 10
ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
# Headers whose whole value is a key where the billing API takes one, in lower case.
KEY_HEADERS: Final = (istr("x-api-key"), istr("x-goog-api-key"), istr("api-key"))
_AUTHORIZATION: Final = istr("Authorization")
_BEARER: Final = "bearer"


def new_secret(choice: Callable[[str], str]) -> str:
    """Return a new key; `choice` picks one character at random, as `secrets.choice` does."""
    body = PREFIX + "".join(choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return body + checksum(body)


def checksum(body: str) -> str:
    """Return the CRC-32 of the key's first part in base62, most significant digit first, padded to 6 characters."""
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(CHECK_CHARACTERS):
        value, digit = divmod(value, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def well_formed(secret: str) -> bool:
    """Return whether this can be a key at all: its prefix, length and checksum are right."""
    if len(secret) != KEY_LENGTH or not secret.startswith(PREFIX) or not secret.isascii():
        return False
    body = secret[:-CHECK_CHARACTERS]
    return secret[-CHECK_CHARACTERS:] == checksum(body)


def made_at_random(secret: str) -> bool:
    """Return whether an operator's key has the form of one that a program made, with 256 random bits.

    That is what `openssl rand -hex 32` prints, or `mga_` and the 43 characters of `secrets.token_urlsafe(32)`, as
    `metergate up` makes it. A key in which twelve characters are repeated is none: it was typed until it was long.
    """
    runs = [secret[at : at + RUN_CHARACTERS] for at in range(len(secret) - RUN_CHARACTERS + 1)]
    return _AT_RANDOM.fullmatch(secret) is not None and len(set(runs)) == len(runs)


def secret_digest(secret: str) -> bytes:
    """Return what is stored of a key: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


def same_secret(given: str, expected: str) -> bool:
    """Return whether a shown secret is the expected one, in a time that depends on neither one's content or length."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def shown_prefix(secret: str) -> str:
    """Return what a listing shows of a key."""
    return secret[:SHOWN_CHARACTERS]


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
