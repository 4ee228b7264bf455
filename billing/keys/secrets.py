"""API keys: how a secret is made, recognised and hashed. Pure but for the random source that the caller passes.

A key is `mg_`, 32 random base62 characters, and 6 base62 characters of the CRC-32 of what precedes, so that a mistyped
key is known without a look-up. Only its SHA-256 is stored: the secret has 190 bits, so a slow hash would buy nothing.
"""

import hashlib
import hmac
import re
import string
import zlib
from collections.abc import Callable
from typing import Final

PREFIX: Final = "mg_"
RANDOM_CHARACTERS: Final = 32
CHECK_CHARACTERS: Final = 6
RUN_CHARACTERS: Final = 12
_AT_RANDOM: Final = re.compile("[0-9a-f]{64}|mga_[A-Za-z0-9_-]{43}")
KEY_LENGTH: Final = len(PREFIX) + RANDOM_CHARACTERS + CHECK_CHARACTERS
SHOWN_CHARACTERS: Final = 10
ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
DEFAULT_SCOPES: Final = ("llm:proxy", "billing:read")
KNOWN_SCOPES: Final = (
    "llm:proxy",
    "container:read",
    "container:run",
    "container:delete",
    "billing:read",
    "billing:setup",
    "keys:read",
    "keys:write",
)


def new_secret(choice: Callable[[str], str]) -> str:
    """A new key; `choice` picks one character at random, as `secrets.choice` does."""
    body = PREFIX + "".join(choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return body + checksum(body)


def checksum(body: str) -> str:
    """CRC-32 of the key's first part in base62, most significant digit first, padded to 6 characters."""
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(CHECK_CHARACTERS):
        value, digit = divmod(value, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def well_formed(secret: str) -> bool:
    """Whether this can be a key at all: its prefix, length and checksum are right."""
    if len(secret) != KEY_LENGTH or not secret.startswith(PREFIX) or not secret.isascii():
        return False
    body = secret[:-CHECK_CHARACTERS]
    return secret[-CHECK_CHARACTERS:] == checksum(body)


def made_at_random(secret: str) -> bool:
    """Whether an operator's key is one that a program made, with 256 random bits, by its form: what `openssl rand
    -hex 32` prints, or `mga_` and the 43 characters of `secrets.token_urlsafe(32)`, as `metergate up` makes it. Nothing
    that people think of looks so. One in which twelve characters come twice is none: what was typed until it was long
    enough."""
    runs = [secret[at : at + RUN_CHARACTERS] for at in range(len(secret) - RUN_CHARACTERS + 1)]
    return _AT_RANDOM.fullmatch(secret) is not None and len(set(runs)) == len(runs)


def secret_digest(secret: str) -> bytes:
    """What is stored of a key: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


def same_secret(given: str, expected: str) -> bool:
    """Whether a shown secret is the expected one, in a time that depends on neither one's content or length."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def shown_prefix(secret: str) -> str:
    """What a listing shows of a key."""
    return secret[:SHOWN_CHARACTERS]
