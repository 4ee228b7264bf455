"""Signatures of tokens, and the keys that make and verify them: JWS (RFC 7515), RSA, keys as JWK and PEM.

The libraries for that take a twentieth of a worker's memory: this module is imported once there is a token to sign or
verify.
"""

from __future__ import annotations

from typing import Any, Final, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import RSAAlgorithm

_JWS: Final = jwt.PyJWS()


def verified(token: str, key: RSAPublicKey | str, algorithm: str) -> bytes:
    """Return what a token says that this key has signed by this algorithm, whatever its header says. Raises
    `ValueError`."""
    try:
        return cast("bytes", _JWS.decode(token, key, algorithms=[algorithm]))
    except (jwt.PyJWTError, TypeError) as error:
        raise ValueError(str(error)) from error


def signed(payload: bytes, key: RSAPrivateKey | str, algorithm: str, kid: str | None) -> str:
    """Return a token that says this. By RS256 it takes some 0.3 ms, in which other threads run."""
    return _JWS.encode(payload, key, algorithm, headers=None if kid is None else {"kid": kid})


def new_key(bits: int) -> RSAPrivateKey:
    """Return a new private key, which takes a while."""
    return generate_private_key(65_537, bits)


def pem_of(key: RSAPrivateKey) -> str:
    """Return a private key as text."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def own_key(pem: str) -> RSAPrivateKey:
    """Return a private key of our own, which needs no proof that its numbers are prime: that takes 30 ms."""
    return cast("RSAPrivateKey", load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True))


def jwk_of(key: RSAPrivateKey) -> dict[str, Any]:
    """Return the public part of a key."""
    return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)


def public_key(jwk: dict[str, Any]) -> RSAPublicKey:
    """Return the key that a JWK is. Raises `ValueError` for one that is no public key of RSA."""
    try:
        key = RSAAlgorithm.from_jwk(jwk)
    except jwt.PyJWTError as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, RSAPublicKey):
        raise ValueError("it is not a public key")
    return key
