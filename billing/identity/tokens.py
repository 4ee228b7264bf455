"""JSON Web Tokens (RFC 7519, RFC 8725): what one says before it is believed, how one is verified, whom one is about.

This file owns that nothing in a token decides how it is verified: the caller gives key and algorithm, both fixed for
each issuer. A token names its issuer and a key id, which are looked up and nothing else; `jku`, `x5u` and `jwk` are not
read, a `crit` header is refused.

The keys that sign Metergate's own tokens, in Postgres, for all gateways.

One signs; the next one stands beside it, published a whole rotation before it signs, so that nobody who keeps the
published keys for a while meets one that they don't know. One that has stopped signing loses its private part and
verifies until the last token that it signed has expired. Whoever reads the keys and finds that the next one has begun
to sign makes the one after it, under an advisory lock: no key is made twice, and there is no loop for it. Deleting a
key's row ends every token that it has signed, at once.

With a shared secret (`JWT_SECRET`) tokens are HS256 and there is none of this.
"""

from __future__ import annotations

import asyncio
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.identity.encryption import Sealer
from billing.mail import BadAddress, parse_email

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

Algorithm = Literal["RS256", "HS256"]

# Who issues Metergate's own tokens, and whom they are for.
ISSUER: Final = "metergate"
MAX_TOKEN: Final = 8192
# No token is believed for longer, so that a revocation need not be kept for longer either.
MAX_LIFE_S: Final = 366 * 86_400
# The scope that keeps an operator's rights in a token that is narrowed to some scopes.
OPERATOR: Final = "operator"
# Characters of a user's name.
MOST_NAME: Final = 200
# How far the clock of another issuer may be from ours.
LEEWAY_S: Final = 60.0
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
# Of tokens that let somebody in (RFC 9068): those of other types, such as logout tokens, don't.
_TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")

Short = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
T = TypeVar("T")


class BadToken(MetergateError):
    """A token that is not one, was not issued by whom it says, or is not for now and here. Says nothing of it."""

    kind = "unauthorized"

    def __init__(self) -> None:
        super().__init__("This token is wrong, expired or revoked.")


class Header(Struct, frozen=True):
    """The fields of a token's header that are read."""

    alg: str
    kid: Short | None = None
    typ: str | None = None
    crit: Any = msgspec.UNSET
    b64: Any = msgspec.UNSET


class _Issued(Struct, frozen=True):
    iss: str | None = None


class Claims(Struct, frozen=True):
    """The claims of a verified token. Times are Unix seconds. A claim whose form differs between issuers is `Any`, and
    has to be checked before it is used."""

    sub: Short
    exp: float
    iat: float | None = None
    nbf: float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    jti: Short | None = None
    ses: Short | None = None
    org_id: Any = None
    narrow: Any = None
    scope: Any = None
    role: Any = None
    email: Any = None
    email_verified: Any = None
    name: Any = None
    nonce: Any = None

    @property
    def audiences(self) -> tuple[str, ...]:
        """Return whom it is for."""
        return (self.aud,) if isinstance(self.aud, str) else tuple(self.aud or ())

    @property
    def scopes(self) -> frozenset[str]:
        """Return its scopes: a text with blanks between them (RFC 9068, 2.2.3)."""
        return frozenset(self.scope.split()) if isinstance(self.scope, str) else frozenset()


def peek(token: str) -> tuple[Header, str | None]:
    """Return the header and the issuer that a token names, of which nothing is verified yet. Raises `BadToken`."""
    if len(token) > MAX_TOKEN or _FORM.fullmatch(token) is None:
        raise BadToken
    parts = token.split(".")
    try:
        header = msgspec.json.decode(_decoded(parts[0]), type=Header)
        issued = msgspec.json.decode(_decoded(parts[1]), type=_Issued)
    except (ValueError, RecursionError) as error:
        raise BadToken from error
    known = header.typ is None or header.typ.lower() in _TYPES
    if not known or header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
        raise BadToken
    return header, issued.iss


def _decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def verify(token: str, key: RSAPublicKey | str, algorithm: Algorithm, kind: type[T]) -> T:
    """Return the claims, of this shape, of a token that this key has signed by this algorithm, whatever its header
    says. Whom it is for and whether it has expired is `refuse_claims`'s to say. Raises `BadToken`."""
    from billing.identity.signatures import verified

    try:
        return msgspec.json.decode(verified(token, key, algorithm), type=kind)
    except (ValueError, RecursionError) as error:
        raise BadToken from error


def refuse_claims(claims: Claims, *, issuers: Collection[str], audiences: frozenset[str], now: float) -> None:
    """Reject claims that none of these issuers has made (empty: any issuer may have), that are for none of these
    audiences, or for another time; `now` is Unix seconds. Raises `BadToken`."""
    issued = not issuers or claims.iss in issuers
    begun = max(claims.iat or 0.0, claims.nbf or 0.0) <= now + LEEWAY_S
    lasts = now - LEEWAY_S < claims.exp <= now + MAX_LIFE_S
    if not (issued and begun and lasts) or audiences.isdisjoint(claims.audiences):
        raise BadToken


def sign(claims: Mapping[str, object], key: RSAPrivateKey | str, algorithm: Algorithm, kid: str | None) -> str:
    """Return a token that says this. By RS256 it takes some 0.3 ms, in which other threads run."""
    from billing.identity.signatures import signed

    return signed(msgspec.json.encode(claims), key, algorithm, kid)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom an issuer has signed in. `email` is a contact, in lower case; `verified` is whether an issuer that is
    trusted for it has verified the address; `let_in` whether being signed in there is enough to be let in here, where
    the approval policy waits for a proven address alone."""

    issuer: str
    subject: str
    email: str | None = None
    verified: bool = False
    let_in: bool = False
    name: str = ""


def subject_of(issuer: str, claims: Claims, *, trusted: bool, let_in: bool) -> Subject:
    """Return whom verified claims are about. What is no address or no name is left out; `trusted` is whether the
    issuer's word for addresses counts, for which `email_verified` has to be true, and not a text or a number."""
    email = contact(claims.email)
    verified = trusted and email is not None and claims.email_verified is True
    return Subject(issuer, claims.sub, email, verified, let_in, shown_name(claims.name))


def contact(given: object) -> str | None:
    """Return an address from another issuer's token; None if it is no valid one."""
    try:
        return parse_email(given) if isinstance(given, str) else None
    except BadAddress:
        return None


def shown_name(given: object) -> str:
    """Return a name that an issuer has said, without what can't be shown."""
    text = given if isinstance(given, str) else ""
    return "".join(character for character in text if character.isprintable()).strip()[:MOST_NAME]


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature is right. `narrowed` are the scopes that it is limited to; `subject` is whom another
    issuer signed in, with whether that one's token carries an operator's rights; `kid` is the own key that signed."""

    claims: Claims
    narrowed: frozenset[str] | None
    kid: str | None = None
    subject: Subject | None = None
    operator: bool = False


_query = queries("billing.identity")
BITS: Final = 2048
# The advisory lock of making keys, until its transaction ends: "meterkey" as 64 bits.
LOCK_KEY: Final = 0x6D657465726B6579
SECRET_BYTES: Final = 32
# How long a process believes the keys that it has read.
FRESH_S: Final = 60.0
# How often it reads them at most for a key id that it does not know.
AGAIN_S: Final = 1.0
# A key verifies for so much longer than its last token lives: processes may sign with it for a little longer.
SPARE_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How tokens are signed, and how long they live, in seconds. With `secret` they are HS256, else a key signs for
    `rotation_s`. `grace_s` is for how long a refresh token that was used is answered again. A user has at most so many
    `sessions`, of which those that were used last stay, and so many `revoked` tokens."""

    access_s: int = 86_400
    refresh_s: int = 30 * 86_400
    grace_s: float = 10.0
    rotation_s: float = 30 * 86_400.0
    secret: str | None = field(default=None, repr=False)
    sessions: int = 100
    revoked: int = 1000

    def __post_init__(self) -> None:
        if min(self.access_s, self.refresh_s, self.rotation_s, self.sessions, self.revoked) < 1 or self.grace_s < 0:
            raise ValueError("lives and numbers must be above zero, grace_s not below it")
        if self.secret is not None and len(self.secret.encode()) < SECRET_BYTES:
            raise ValueError(f"a secret that signs has {SECRET_BYTES} bytes or more (RFC 7518, section 3.2)")


@dataclass(frozen=True, slots=True)
class _Signer:
    kid: str
    key: RSAPrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Loaded:
    at: float
    signer: _Signer
    public: dict[str, RSAPublicKey]
    jwks: tuple[dict[str, Any], ...]


class SigningKeys:
    """Reads and makes the keys. `clock` is monotonic seconds. Methods raise `DatabaseError`, and
    `SealBroken` where the keys were sealed by another one than `sealer` has.

    `database` is a pool of its own, of one connection: who signs may be in a transaction, and must not wait for another
    connection that others in the same place have.
    """

    def __init__(
        self,
        database: Database,
        rules: TokenRules,
        new_id: Callable[[], str],
        clock: Callable[[], float],
        sealer: Sealer | None = None,
    ) -> None:
        self._database, self.rules, self._new_id, self._clock = database, rules, new_id, clock
        self._sealer = Sealer() if sealer is None else sealer
        self._loaded: _Loaded | None = None
        self._reading = asyncio.Lock()

    async def sign(self, claims: Mapping[str, object]) -> str:
        """Return an own token that says this. RS256 is done in a thread: it takes 0.3 to 2 ms, and needs no lock of the
        interpreter's, so that requests pass meanwhile."""
        if self.rules.secret is not None:
            return sign(claims, self.rules.secret, "HS256", None)
        signer = (await self._read(FRESH_S)).signer
        return await asyncio.to_thread(sign, claims, signer.key, "RS256", signer.kid)

    async def verify(self, token: str, kid: str | None, kind: type[T]) -> T:
        """Return the claims, of this shape, of one of the own tokens, which may have expired. Raises `BadToken`."""
        key = await self._verifier(kid)
        if key is None:
            raise BadToken
        return verify(token, key, "RS256" if self.rules.secret is None else "HS256", kind)

    async def _verifier(self, kid: str | None) -> RSAPublicKey | str | None:
        if self.rules.secret is not None:
            return self.rules.secret if kid is None else None
        if kid is None:
            return None
        found = (await self._read(FRESH_S)).public.get(kid)
        return (await self._read(AGAIN_S)).public.get(kid) if found is None else found

    async def published(self) -> tuple[dict[str, Any], ...]:
        """Return the public keys (RFC 7517), the next one among them; none with a shared secret."""
        return () if self.rules.secret is not None else (await self._read(FRESH_S)).jwks

    async def _read(self, fresh_s: float) -> _Loaded:
        """Return the keys as they were read at most so long ago."""
        loaded = self._loaded
        if loaded is not None and self._clock() - loaded.at < fresh_s:
            return loaded
        async with self._reading:  # one reads for all
            if self._loaded is None or self._loaded is loaded:
                self._loaded = await self._load()
            return self._loaded

    async def _load(self) -> _Loaded:
        from billing.identity.signatures import new_key, own_key, public_key

        at = self._clock()
        rows = await self._database.rows(_query("keys_standing"))
        if not _complete(rows):
            new = [await asyncio.to_thread(new_key, BITS), await asyncio.to_thread(new_key, BITS)]
            async with self._database.transaction() as connection:
                await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
                rows = await self._made(connection, new)
        signing = [row for row in rows if row["active"] and row["private_pem"]][-1]
        if self._loaded is not None and self._loaded.signer.kid == signing["kid"]:
            signer = self._loaded.signer
        else:
            pem = self._sealer.open(signing["private_pem"], _what(signing["kid"]))
            signer = _Signer(signing["kid"], own_key(pem))
            await self._seal(rows)
        public = {row["kid"]: public_key(row["public_jwk"]) for row in rows}
        return _Loaded(at, signer, public, tuple(row["public_jwk"] for row in rows))

    async def _seal(self, rows: list[Row]) -> None:
        """Seal private parts that lie there otherwise."""
        for row in rows:
            if row["private_pem"] and self._sealer.is_stale(row["private_pem"]):
                what = _what(row["kid"])
                sealed = self._sealer.seal(self._sealer.open(row["private_pem"], what), what)
                await self._database.execute(_query("keys_seal"), row["kid"], row["private_pem"], sealed)

    async def _made(self, connection: Connection, new: list[RSAPrivateKey]) -> list[Row]:
        """Add the keys that are missing, retire those that have been replaced, and return all that stand."""
        from billing.identity.signatures import jwk_of, pem_of

        rows = await connection.fetch(_query("keys_standing"))
        while not _complete(rows):
            key, kid = new.pop(), self._new_id()
            jwk = {**jwk_of(key), "kid": kid, "use": "sig", "alg": "RS256"}
            jwk.pop("key_ops", None)
            stored = self._sealer.seal(pem_of(key), _what(kid))
            await connection.execute(_query("keys_add"), kid, stored, jwk, self.rules.rotation_s)
            rows = await connection.fetch(_query("keys_standing"))
        await connection.execute(_query("keys_retire"), self.rules.access_s + SPARE_S)
        return rows


def _what(kid: str) -> str:
    return f"signing key {kid}"


def _complete(rows: list[Row]) -> bool:
    """Return whether one key signs and another one will."""
    with_private = [row["active"] for row in rows if row["private_pem"]]
    return any(with_private) and not all(with_private)
