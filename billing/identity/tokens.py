"""JSON Web Tokens (RFC 7519, RFC 8725): what one says before it is believed, how one is verified, whom one is about.

This file owns that nothing in a token decides how it is verified: the caller gives key and algorithm, both fixed for
each issuer. A token names its issuer and a key id, which are looked up and nothing else; `jku`, `x5u` and `jwk` are not
read, a `crit` header is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import jwt
import msgspec
from msgspec import Meta, Struct

from billing.errors import MetergateError
from billing.mail import BadAddress, parse_email

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
_JWS: Final = jwt.PyJWS()

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
        header = msgspec.json.decode(jwt.utils.base64url_decode(parts[0]), type=Header)
        issued = msgspec.json.decode(jwt.utils.base64url_decode(parts[1]), type=_Issued)
    except (ValueError, RecursionError) as error:
        raise BadToken from error
    known = header.typ is None or header.typ.lower() in _TYPES
    if not known or header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
        raise BadToken
    return header, issued.iss


def verify(token: str, key: RSAPublicKey | str, algorithm: Algorithm, kind: type[T]) -> T:
    """Return the claims, of this shape, of a token that this key has signed by this algorithm, whatever its header
    says. Whom it is for and whether it has expired is `refuse_claims`'s to say. Raises `BadToken`."""
    try:
        payload = _JWS.decode(token, key, algorithms=[algorithm])
        return msgspec.json.decode(payload, type=kind)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
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
    payload = msgspec.json.encode(claims)
    return _JWS.encode(payload, key, algorithm, headers=None if kid is None else {"kid": kid})


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
