"""Signing in elsewhere: OpenID Connect with any issuer, by its discovery, and OAuth with GitHub.

The authorization code flow with PKCE (RFC 7636, S256), state and nonce (OpenID Connect Core 1.0, section 3.1; RFC
9700). What begins a sign-in stands in a signed cookie of ten minutes, so that it ends in the browser in which it began,
and no gateway keeps anything. Which user somebody is, `billing.identity.users` says.

A session that begins here never carries an operator's rights: nobody knows whether there was a second factor.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from msgspec import Struct, structs

from billing import audit
from billing.database.connection import queries
from billing.identity.directories import MOST_GROUP, Directories
from billing.identity.issuers import Discovery, IssuerRefused, KeySet, Metadata, read_answer
from billing.identity.providers import BEGUN_S, SignInFailed, SignInProvider, UnknownProvider
from billing.identity.sessions import Origin, Sessions, TokenPair
from billing.identity.tokens import (
    ISSUER,
    BadToken,
    Claims,
    Subject,
    contact,
    peek,
    refuse_claims,
    shown_name,
    subject_of,
    verify,
)
from billing.permissions import SCOPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing.identity.users import Subjects

# How soon a browser that was sent on to another page has to use its refresh token.
FIRST_USE_S: Final = 60
MAX_CODE: Final = 4096
# Groups of a person that are looked at.
MOST_GROUPS: Final = 2000
_query = queries("billing.identity")
_AUDIENCE: Final = f"{ISSUER}:sign-in"
_GITHUB: Final = {"Accept": "application/vnd.github+json"}


class _Tokens(Struct, frozen=True):
    access_token: str = ""
    id_token: str = ""


class _IdTokenClaims(Claims, frozen=True):
    azp: Any = None


@dataclass(frozen=True, slots=True)
class _Identified:
    """Whom a provider has signed in, the domain of the address that it has verified, and their groups; None where it
    does not say which."""

    subject: Subject
    domain: str | None
    groups: frozenset[str] | None = None


class _GithubUser(Struct, frozen=True):
    id: int
    name: str | None = None
    login: str = ""


class _GithubEmail(Struct, frozen=True):
    email: str
    primary: bool = False
    verified: bool = False


class _Begun(Struct, frozen=True):
    """What the cookie says of a sign-in that has begun."""

    aud: str
    exp: float
    provider: str
    state: str
    nonce: str
    verifier: str
    user_id: str | None = None
    return_to: str = ""
    console: bool = False


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody who was signed in, and where their browser goes: a page of the `console`, or of FRONTEND_URL."""

    pair: TokenPair
    return_to: str
    console: bool = False


class OidcSignIn:
    """Signs people in elsewhere. `public_url` is this gateway's, `frontend_url` where browsers are sent afterwards."""

    def __init__(
        self,
        providers: Mapping[str, SignInProvider],
        public_url: str,
        frontend_url: str | None,
        *,
        discovery: Discovery,
        sessions: Sessions,
        subjects: Subjects,
        directories: Directories,
    ) -> None:
        self.providers, self.public_url, self.frontend_url = providers, public_url, frontend_url
        self._discovery, self._ask = discovery, discovery.ask
        self._sessions, self._keys, self._subjects, self._now = sessions, sessions.keys, subjects, time.time
        self._directories = directories

    async def begin(
        self, name: str, *, user_id: str | None = None, return_to: str = "", console: bool = False
    ) -> tuple[str, str]:
        """Return where a browser has to go, and the cookie that it has to bring back. With `user_id` the account there
        is linked to that user, who is signed in. `return_to` is a path, one of the `console`'s or of FRONTEND_URL's
        host. Raises `UnknownProvider` and `IssuerAway`."""
        provider = self._provider(name)
        metadata, _ = await self._discovery.find(name, provider)
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        asked = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": self._callback(name),
            "scope": " ".join(provider.scopes),
            "state": state,
            "code_challenge": _base64(sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            **({"nonce": nonce} if provider.kind == "oidc" else {}),
        }
        begun: dict[str, object] = {
            "provider": name,
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "return_to": return_to,
        }
        begun |= {"console": True} if console else {}
        cookie = await self._keys.sign(
            {"iss": ISSUER, "aud": _AUDIENCE, "exp": int(self._now()) + BEGUN_S, "user_id": user_id, **begun}
        )
        mark = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{mark}{urlencode(asked)}", cookie

    async def finish(
        self, name: str, cookie: str | None, query: Mapping[str, str], actor: audit.Actor, user_agent: str | None
    ) -> SignedIn:
        """Start the session of whom a provider has signed in, by what it has said in the query string. Raises
        `SignInFailed`, `UnknownProvider`, `IssuerAway`, `SubjectTaken` and `SignInRefused`."""
        provider, begun = self._provider(name), await self._begun(name, cookie)
        if not hmac.compare_digest(begun.state.encode(), query.get("state", "").encode(errors="replace")):
            raise SignInFailed(_BEGIN_AGAIN)
        code = query.get("code", "")
        if "error" in query or not 0 < len(code) <= MAX_CODE:
            raise SignInFailed("The provider did not sign you in.")
        if query.get("iss", provider.issuer).rstrip("/") != provider.issuer:  # RFC 9207
            raise SignInFailed(_BEGIN_AGAIN)
        try:
            who = await self._identify(name, begun, code)
        except (IssuerRefused, BadToken) as error:
            raise SignInFailed("The provider's answer is not for this sign-in: sign in again.") from error
        sent_on = self.frontend_url is not None or begun.console
        async with self._sessions.transaction() as connection:
            user_id = await self._subjects.sign_in(connection, who.subject, begun.user_id)
        own = replace(actor, name=f"user:{user_id}")
        # Between the two: it locks organizations before people, and the session is about the company's.
        await self._directories.signed_in(user_id, own, provider.organization, who.groups)
        async with self._sessions.transaction() as connection:
            await connection.execute(_query("users_signed_in"), user_id, None, None)
            pair = await self._sessions.start(
                connection,
                user_id,
                Origin(actor.address, user_agent, name, who.domain),
                org_id=await self._directories.own(connection, user_id, provider.organization),
                scopes=SCOPES,
                first_use_s=FIRST_USE_S if sent_on else None,
            )
            how = {"method": f"oidc:{name}", "session_id": pair.session_id}
            await audit.record(connection, own, "user.sign_in", user_id, None, how, user_id=user_id)
        return SignedIn(pair, begun.return_to, begun.console)

    async def is_of_console(self, name: str, cookie: str | None) -> bool:
        """Return whether a sign-in has begun on a page of the console, by the cookie that it has left."""
        try:
            return (await self._begun(name, cookie)).console
        except SignInFailed:
            return False

    def _provider(self, name: str) -> SignInProvider:
        if name not in self.providers:
            raise UnknownProvider("No such sign-in provider is configured here.")
        return self.providers[name]

    def _callback(self, name: str) -> str:
        return f"{self.public_url}/api/auth/oidc/{quote(name, safe='')}/callback"

    async def _begun(self, name: str, cookie: str | None) -> _Begun:
        try:
            header, _ = peek(cookie or "")
            begun = await self._keys.verify(cookie or "", header.kid, _Begun)
        except BadToken as error:
            raise SignInFailed(_BEGIN_AGAIN) from error
        if begun.aud != _AUDIENCE or begun.exp < self._now() or begun.provider != name:
            raise SignInFailed(_BEGIN_AGAIN)
        return begun

    async def _identify(self, name: str, begun: _Begun, code: str) -> _Identified:
        """Return whom a code stands for. Raises `IssuerRefused`, `IssuerAway`, `BadToken` and `SignInFailed`."""
        provider = self._provider(name)
        metadata, keys = await self._discovery.find(name, provider)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback(name),
            "client_id": provider.client_id,
            "code_verifier": begun.verifier,
        }
        headers = {}
        if "client_secret_post" in metadata.token_endpoint_auth_methods_supported:
            form["client_secret"] = provider.client_secret
        else:
            pair = f"{quote(provider.client_id, safe='')}:{quote(provider.client_secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        tokens = await read_answer(self._ask, _Tokens, metadata.token_endpoint, form=form, headers=headers)
        if provider.kind == "github":
            return await self._of_github(provider, tokens.access_token)
        claims, more = await self._verified(provider, metadata, keys, tokens, begun.nonce)
        if claims.email_verified is None and await self._is_own_address(provider, claims):
            claims = structs.replace(claims, email_verified=True)
        domain = _checked_domain(provider, contact(claims.email) if claims.email_verified is True else None)
        subject = subject_of(provider.issuer, claims, trusted=provider.trusted_email, let_in=False)
        return _Identified(subject, domain, _groups(more, provider.groups_claim))

    async def _is_own_address(self, provider: SignInProvider, claims: Claims) -> bool:
        """Return whether an address of which a provider does not say whether it is verified, as Entra never does, is
        believed all the same: that of a company's provider, where it is trusted, at a domain of the company's."""
        email = contact(claims.email)
        if email is None or provider.organization is None or not provider.trusted_email:
            return False
        return email.rpartition("@")[2] in await self._directories.domains(provider.organization)

    async def _verified(
        self, provider: SignInProvider, metadata: Metadata, keys: KeySet, tokens: _Tokens, nonce: str
    ) -> tuple[Claims, Mapping[str, Any]]:
        """Return the claims of an id token (OpenID Connect Core 1.0, section 3.1.3.7), and all of them by name, with
        the address and the groups where the provider tells them elsewhere."""
        key = await keys.key(peek(tokens.id_token)[0].kid)
        if key is None:
            raise BadToken
        claims = verify(tokens.id_token, key, "RS256", _IdTokenClaims)
        audiences = frozenset({provider.client_id})
        refuse_claims(claims, issuers=(metadata.issuer,), audiences=audiences, now=self._now())
        own_nonce = isinstance(claims.nonce, str) and hmac.compare_digest(claims.nonce.encode(), nonce.encode())
        for_others = claims.azp not in (None, provider.client_id) or (len(claims.audiences) > 1 and claims.azp is None)
        if not own_nonce or for_others:
            raise BadToken
        every = verify(tokens.id_token, key, "RS256", dict[str, Any])
        untold = provider.organization is not None and every.get(provider.groups_claim) is None
        lacks = claims.email is None or untold
        if not lacks or metadata.userinfo_endpoint is None or not tokens.access_token:
            return claims, every
        bearer = {"Authorization": f"Bearer {tokens.access_token}"}
        more = await read_answer(self._ask, dict[str, Any], metadata.userinfo_endpoint, headers=bearer)
        if more.get("sub") != claims.sub:
            raise BadToken
        every = {**more, **every}
        if claims.email is not None:
            return claims, every
        named = {name: more.get(name) for name in ("email", "email_verified", "name")}
        return Claims(sub=claims.sub, exp=claims.exp, **named), every

    async def _of_github(self, provider: SignInProvider, token: str) -> _Identified:
        """Return a user of GitHub by its number, with the primary address where GitHub has verified it."""
        if not token:
            raise BadToken
        headers = {"Authorization": f"Bearer {token}", **_GITHUB}
        user = await read_answer(self._ask, _GithubUser, f"{provider.api_url}/user", headers=headers)
        emails = await read_answer(self._ask, list[_GithubEmail], f"{provider.api_url}/user/emails", headers=headers)
        email = next((contact(each.email) for each in emails if each.primary and each.verified), None)
        domain = _checked_domain(provider, email)
        verified = email is not None and provider.trusted_email
        name = shown_name(user.name or user.login)
        return _Identified(Subject(provider.issuer, str(user.id), email, verified, name=name), domain)


_BEGIN_AGAIN: Final = "This sign-in has expired, or was begun in another browser: sign in again."


def _checked_domain(provider: SignInProvider, verified: str | None) -> str | None:
    """Return the domain of a verified address, None where there is none. Raises `SignInFailed` for one that is not
    allowed."""
    domain = None if verified is None else verified.rpartition("@")[2]
    if not provider.admits(domain):
        raise SignInFailed("Only verified addresses of certain domains sign in here: ask whoever runs this service.")
    return domain


def _groups(claims: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Return the groups in a claim: a list of texts, or one text; none where it is absent. None for one that has
    another form, and where Entra has left out groups that are too many: then it is not known which there are."""
    elsewhere, given = claims.get("_claim_names"), claims.get(name)
    if given is None:
        left_out = claims.get("hasgroups") is True or (isinstance(elsewhere, dict) and name in elsewhere)
        return None if left_out else frozenset()
    named = [given] if isinstance(given, str) else given
    if not isinstance(named, list) or len(named) > MOST_GROUPS or not all(isinstance(each, str) for each in named):
        return None
    return frozenset(each for each in named if len(each) <= MOST_GROUP)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
