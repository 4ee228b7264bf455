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
