"""Sealing: secrets that have to be read again, such as keys that sign, are encrypted in Postgres where there is a key.

AES-256-GCM with a key that HKDF (RFC 5869) derives from `SECRETS_KEY`; what a text is for is authenticated with it, so
that no row's secret passes for another's. Without a key texts are stored as they are; what was stored so stays
readable, and is sealed when it is read the next time. Who takes the database or a backup of it has none of them then.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# What a sealed text begins with, then the key's name, a colon, and nonce and ciphertext as base64.
PREFIX: Final = "sealed:1:"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_NAME: Final = 8
_FOR: Final = b"metergate secrets at rest 1"


class SealBroken(MetergateError):
    """A stored secret was sealed by another key, or is not what was sealed."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__(
            "A stored secret can't be opened: SECRETS_KEY is not the one that sealed it. An operator has to set it, or "
            "SECRETS_KEY_BEFORE, as it was."
        )


class Sealer:
    """Seals by `secret` and opens what that one or `before` has sealed; without `secret` it seals nothing."""

    def __init__(
        self, secret: str | None = None, before: str | None = None, random: Callable[[int], bytes] = token_bytes
    ) -> None:
        """`random` makes so many random bytes."""
        self._keys = dict(_cipher(each) for each in (secret, before) if each is not None)
        self._name = next(iter(self._keys)) if secret is not None else None
        self._random = random

    def __repr__(self) -> str:
        return f"Sealer({self._name})"

    def seal(self, text: str, what: str) -> str:
        """Return what is stored of a secret: itself, encrypted if there is a key. `what` names its kind and owner, and
        must be the same to decrypt it."""
        if self._name is None:
            return text
        nonce = self._random(_NONCE_BYTES)
        sealed = nonce + self._keys[self._name].encrypt(nonce, text.encode(), what.encode())
        return f"{PREFIX}{self._name}:{base64.b64encode(sealed).decode()}"

    def open(self, stored: str, what: str) -> str:
        """Return the secret of what is stored. Raises `SealBroken`."""
        if not stored.startswith(PREFIX):
            return stored
        name, _, text = stored.removeprefix(PREFIX).partition(":")
        if name not in self._keys:
            raise SealBroken
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(text, validate=True)
            return self._keys[name].decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], what.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise SealBroken from error

    def is_stale(self, stored: str) -> bool:
        """Return whether a secret is to be sealed anew: it lies there as it is, or under the key before."""
        return self._name is not None and not stored.startswith(f"{PREFIX}{self._name}:")


def _cipher(secret: str) -> tuple[str, AESGCM]:
    """Return the key of a secret by its name. The library is imported where there is a secret."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(SHA256(), _KEY_BYTES, salt=None, info=_FOR).derive(secret.encode())
    return sha256(key).hexdigest()[:_NAME], AESGCM(key)
