"""Codes of authenticator apps: RFC 6238 with what all apps take, SHA-1, 6 digits and steps of 30 seconds. Pure."""

import base64
import binascii
import hmac
import struct
from typing import Final
from urllib.parse import quote, urlencode

STEP_S: Final = 30
DIGITS: Final = 6
# As many as SHA-1 gives (RFC 4226, section 4, R6).
SECRET_BYTES: Final = 20
# Steps before and after the present one whose codes are taken: clocks differ (RFC 6238, section 5.2).
DRIFT: Final = 1


def secret_text(random: bytes) -> str:
    """Return a secret as apps take it: base32 without padding."""
    return base64.b32encode(random).decode().rstrip("=")


def code_at(secret: str, step: int) -> str:
    """Return the code of a time step (RFC 4226, section 5.3). Raises `ValueError` for what is no secret."""
    try:
        key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    except binascii.Error as error:
        raise ValueError("a secret is base32") from error
    digest = hmac.digest(key, struct.pack(">Q", step), "sha1")
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def matching_step(secret: str, code: str, at_s: float) -> int | None:
    """Return the time step around `at_s`, in Unix seconds, that this is the code of, None where it is of none. Takes
    the same time for every code."""
    now, given, found = int(at_s) // STEP_S, code.encode("utf-8", "replace"), None
    for step in range(max(0, now - DRIFT), now + DRIFT + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), given):
            found = step
    return found


def uri(secret: str, issuer: str, account: str) -> str:
    """Return what an app reads from a QR code (https://github.com/google/google-authenticator/wiki/Key-Uri-Format)."""
    parameters = {"secret": secret, "issuer": issuer, "algorithm": "SHA1", "digits": DIGITS, "period": STEP_S}
    return f"otpauth://totp/{quote(issuer)}:{quote(account)}?{urlencode(parameters, quote_via=quote)}"
