"""Codes: mailed ones, recovery codes and those of authenticator apps; how often what can be guessed may be tried.

This file owns that a code is good for one purpose, once, for its time and for `CODE_TRIES` tries, whoever tries at the
same time; that few mails go to one address and are asked for from one network; and that of no code more than a digest
is stored. Addresses of nobody are treated as any other, so that an answer tells nothing of who is registered.

A code is bound to who asked for it by its challenge: with it, no other's code is taken. Codes of authenticator apps are
those of RFC 6238 with what all apps take: SHA-1, 6 digits and steps of 30 seconds.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import string
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, urlencode

from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.identity.mail_templates import CODE_S, RESET_S

if TYPE_CHECKING:
    from billing.settings import CodeSettings

Purpose = Literal["verify", "login", "reset", "email"]
ID_PREFIX: Final = "otc_"
CODE_DIGITS: Final = 6
CODE_TRIES: Final = 5
RECOVERY_CODES: Final = 10
# Without characters that are read as others.
_RECOVERY_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_RECOVERY_PARTS, _RECOVERY_PART = 4, 4
_TOKEN_ALPHABET: Final = string.ascii_letters + string.digits
_TOKEN_CHARACTERS: Final = 43
FORGET_ROWS: Final = 1_000

_query = queries("billing.identity")


class TooManyMails(MetergateError):
    """So many codes were asked for that the next one has to wait."""

    kind = "too_many"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too many mails were asked for: try again in {retry_after_s} s. Check your spam folder.")
        self.retry_after_s = retry_after_s


class TooManyTries(MetergateError):
    """So many tries have failed that the next one has to wait."""

    kind = "too_many"

    def __init__(self, retry_after_s: int, instead: str) -> None:
        super().__init__(f"Too many tries have failed: try again in {retry_after_s} s, or {instead}.")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Issued:
    """A new code: `secret` is sent in the mail, `id` is the challenge that the caller gets."""

    id: str
    secret: str = field(repr=False)

    @property
    def token(self) -> str:
        """Return the text that is id and secret in one, for what stands in a link."""
        return f"{self.id}.{self.secret}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A code that was shown rightly. Nothing came of it yet: `Codes.use` is what lets it be used, once."""

    id: str
    email: str
    user_id: str | None
    context: Mapping[str, Any] = field(repr=False)


class Codes:
    """Issues and takes codes. `choice` picks a character at random. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        new_id: Callable[[], str],
        settings: CodeSettings,
        choice: Callable[[str], str] = secrets.choice,
    ) -> None:
        self._database, self._new_id, self._settings, self._choice = database, new_id, settings, choice

    async def issue(
        self,
        connection: Connection,
        purpose: Purpose,
        email: str,
        *,
        user_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        network: str | None = None,
        known: bool = False,
    ) -> Issued:
        """Make a code for an address, which may be nobody's. `reset` gets a secret of 256 bits, the others 6 digits.
        What others have asked for does not count where the `network` is `known` as the owner's. Raises
        `TooManyMails`."""
        long = purpose == "reset"
        alphabet, length = (_TOKEN_ALPHABET, _TOKEN_CHARACTERS) if long else (string.digits, CODE_DIGITS)
        code = Issued(ID_PREFIX + self._new_id(), "".join(self._choice(alphabet) for _ in range(length)))
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"code {email}")
        digest, life_s = _digest(code.id, purpose, code.secret), RESET_S if long else CODE_S
        given = (code.id, email, purpose, user_id, digest, dict(context or {}), life_s, network)
        bounds = (self._settings.mails_per_address, self._settings.mails_per_network, known)
        if await connection.fetchval(_query("codes_create"), *given, *bounds) is None:
            raise TooManyMails(await connection.fetchval(_query("codes_wait"), email, network, *bounds) or 1)
        return code

    async def refuse_too_many(self, email: str, network: str, *, known: bool) -> None:
        """Refuse what would be one mail too many, before anything is done for it. Raises `TooManyMails`."""
        bounds = (self._settings.mails_per_address, self._settings.mails_per_network, known)
        wait_s = await self._database.value(_query("codes_wait"), email, network, *bounds)
        if wait_s is not None:
            raise TooManyMails(max(1, wait_s))

    async def show(self, purpose: Purpose, email: str, code: str, challenge: str | None = None) -> Shown | None:
        """Take a try of a code of an address: that of the challenge, else the newest. None for a wrong one, or where
        none stands."""
        row = await self._database.row(_query("codes_try"), email, purpose, challenge, CODE_TRIES)
        return _shown(row, purpose, code)

    async def show_token(self, purpose: Purpose, token: str) -> Shown | None:
        """Take a try of what `Issued.token` gave. None for a wrong one."""
        code_id, _, secret = token.partition(".")
        row = await self._database.row(_query("codes_try_id"), code_id, purpose, CODE_TRIES)
        return _shown(row, purpose, secret)

    async def use(self, connection: Connection, shown: Shown) -> bool:
        """End a code by its use, with every other of its address and purpose; False where it was used meanwhile."""
        return bool(await connection.fetchval(_query("codes_use"), shown.id))

    async def context_of(
        self, connection: Connection, purpose: Purpose, email: str, challenge: str | None
    ) -> Mapping[str, Any]:
        """Return what a code for an address and purpose was about: that of the challenge, else the last."""
        return await connection.fetchval(_query("codes_context"), email, purpose, challenge) or {}

    async def end_all(self, connection: Connection, user_id: str, email: str | None) -> None:
        """End every code of a user and of their address."""
        await connection.execute(_query("codes_end"), user_id, email)

    async def new_recovery_codes(self, connection: Connection, user_id: str) -> list[str]:
        """Replace a user's recovery codes, and return the new ones, which can't be read again."""
        codes = [
            "-".join(
                "".join(self._choice(_RECOVERY_ALPHABET) for _ in range(_RECOVERY_PART)) for _ in range(_RECOVERY_PARTS)
            )
            for _ in range(RECOVERY_CODES)
        ]
        await connection.execute(_query("recovery_replace"), user_id, [_recovery_digest(user_id, c) for c in codes])
        return codes

    async def use_recovery_code(self, connection: Connection, user_id: str, code: str) -> int | None:
        """End a recovery code by its use; return how many are left, None where it is none."""
        left = await connection.fetchval(_query("recovery_use"), user_id, _recovery_digest(user_id, code))
        return None if left is None else int(left)

    async def recovery_codes_left(self, user_id: str) -> int:
        """Return how many recovery codes a user has."""
        return int(await self._database.value(_query("recovery_left"), user_id))

    async def take_try(self, subject: str, instead: str, most: int | None = None) -> None:
        """Count a try of what is guessed at, as failed until `forgive` or `undo_try`. `instead` is what else could be
        done; from the `most`th failure on the next one has to wait (None: as the settings say). Raises `TooManyTries`
        where it has to wait."""
        settings = self._settings
        given = (subject, most or settings.sign_in_failures, settings.sign_in_wait_s, settings.sign_in_most_wait_s)
        if await self._database.value(_query("tries_take"), *given) is None:
            raise TooManyTries(await self._database.value(_query("tries_wait"), subject) or 1, instead)

    async def forgive(self, subject: str) -> None:
        """Forget the tries, for one has succeeded."""
        await self._database.execute(_query("tries_forgive"), subject)

    async def undo_try(self, subject: str, most: int) -> None:
        """Take back one try, which has succeeded; those that failed stay counted."""
        await self._database.execute(_query("tries_undo"), subject, most)

    async def forget(self) -> int:
        """Drop codes and tries that are over, a bounded number; return how many."""
        return sum([await self._database.value(_query(name), FORGET_ROWS) for name in ("codes_forget", "tries_forget")])


def _shown(row: Row | None, purpose: Purpose, secret: str) -> Shown | None:
    stored = b"\0" * sha256().digest_size if row is None else row["digest"]
    right = hmac.compare_digest(_digest("" if row is None else row["id"], purpose, secret), stored)
    if row is None or not right:
        return None
    return Shown(row["id"], row["email"], row["user_id"], row["context"])


def _digest(code_id: str, purpose: str, secret: str) -> bytes:
    """Return what is stored of a code: no two rows have the same one for the same digits."""
    return hmac.digest(f"{code_id} {purpose}".encode(), secret.encode("utf-8", "replace"), "sha256")


def _recovery_digest(user_id: str, code: str) -> bytes:
    """Return what is stored of a recovery code, which may be written without its hyphens and in capitals."""
    plain = "".join(character for character in code.lower() if character.isalnum())
    return hmac.digest(user_id.encode(), plain.encode("utf-8", "replace"), "sha256")


TOTP_STEP_S: Final = 30
TOTP_DIGITS: Final = 6
# As many as SHA-1 gives (RFC 4226, section 4, R6).
TOTP_SECRET_BYTES: Final = 20
# Steps before and after the present one whose codes are taken: clocks differ (RFC 6238, section 5.2).
TOTP_DRIFT: Final = 1


def totp_secret(random: bytes) -> str:
    """Return a secret as apps take it: base32 without padding."""
    return base64.b32encode(random).decode().rstrip("=")


def totp_code(secret: str, step: int) -> str:
    """Return the code of a time step (RFC 4226, section 5.3). Raises `ValueError` for what is no secret."""
    try:
        key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    except binascii.Error as error:
        raise ValueError("a secret is base32") from error
    digest = hmac.digest(key, struct.pack(">Q", step), "sha1")
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**TOTP_DIGITS:0{TOTP_DIGITS}d}"


def totp_step(secret: str, code: str, at_s: float) -> int | None:
    """Return the time step around `at_s`, in Unix seconds, that this is the code of, None where it is of none. Takes
    the same time for every code."""
    now, given, found = int(at_s) // TOTP_STEP_S, code.encode("utf-8", "replace"), None
    for step in range(max(0, now - TOTP_DRIFT), now + TOTP_DRIFT + 1):
        if hmac.compare_digest(totp_code(secret, step).encode(), given):
            found = step
    return found


def totp_uri(secret: str, issuer: str, account: str) -> str:
    """Return what an app reads from a QR code (https://github.com/google/google-authenticator/wiki/Key-Uri-Format)."""
    parameters = {"secret": secret, "issuer": issuer, "algorithm": "SHA1", "digits": TOTP_DIGITS, "period": TOTP_STEP_S}
    return f"otpauth://totp/{quote(issuer)}:{quote(account)}?{urlencode(parameters, quote_via=quote)}"
