"""The `identity` of metergate.yaml: who is let in, and how."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Struct, structs

from billing.identity.providers import OIDC_SCOPES, SignInProvider
from billing.permissions import Approval
from gateway.config.providers import ApiKey, BaseUrl
from gateway.config.source import read_by, read_section, text

if TYPE_CHECKING:
    from gateway.config.source import Value

# Says "1" to a worker of `metergate up`: without SMTP_HOST it shows mails where it was started from.
MAIL_CONSOLE_VARIABLE: Final = "METERGATE_MAIL_CONSOLE"
GITHUB: Final = "https://github.com"
GITHUB_API: Final = "https://api.github.com"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
Scope = Annotated[str, text("a scope", r"[\x21\x23-\x5b\x5d-\x7e]{1,100}")]
Domain = Annotated[str, text("a domain such as example.com", r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+")]
MAX_PROVIDERS: Final = 50


class _Provider(Struct, frozen=True):
    """A provider as the file has it."""

    client_id: str
    client_secret: ApiKey
    kind: Literal["oidc", "github"] | None = None
    issuer: BaseUrl | None = None
    api_url: BaseUrl | None = None
    scopes: tuple[Scope, ...] | None = None
    trusted_email: bool = False
    allowed_domains: tuple[Domain, ...] = ()


def _read_providers(value: Value) -> dict[str, SignInProvider]:
    """Return the providers by name; one whose secret's variable is unset is off, and left out."""
    found: dict[str, SignInProvider] = {}
    for name, entry in value.entries().items():
        if not _NAME.fullmatch(name) or len(found) >= MAX_PROVIDERS:
            entry.problem(f"a provider's name is lower-case letters, digits, '_' and '-'; at most {MAX_PROVIDERS}")
        given = read_section(entry, _Provider)
        if given is None:
            continue
        kind = given.kind or ("github" if name == "github" else "oidc")
        if kind == "oidc" and given.issuer is None:
            entry.missing("issuer")
        if given.client_secret.secret is not None:
            found[name] = _provider(kind, given, given.client_secret.secret.reveal())
    return found


def _provider(kind: Literal["oidc", "github"], given: _Provider, secret: str) -> SignInProvider:
    github = kind == "github"
    usual = ("read:user", "user:email") if github else OIDC_SCOPES
    return SignInProvider(
        issuer=(given.issuer or GITHUB).partition("?")[0].rstrip("/"),
        client_id=given.client_id,
        client_secret=secret,
        kind=kind,
        scopes=usual if given.scopes is None else given.scopes,
        trusted_email=given.trusted_email,
        allowed_domains=frozenset(given.allowed_domains),
        api_url=(given.api_url or (GITHUB_API if github else "")).rstrip("/"),
    )


class IdentityConfig(Struct, frozen=True, kw_only=True):
    """When somebody who has registered is let in: at once, once the address is verified, or by an operator; and where
    people may sign in elsewhere, by name. `public_url` is the gateway's for browsers, without a slash at its end."""

    approval: Approval = "verified"
    public_url: BaseUrl | None = None
    providers: Annotated[dict[str, SignInProvider], read_by(_read_providers)] = {}


def read_identity(at: Value | None) -> IdentityConfig:
    """Return the section; what is left out is as by default."""
    found = None if at is None else read_section(at, IdentityConfig)
    if at is None or found is None:
        return IdentityConfig()
    if found.public_url is None:
        if "providers" in at.entries():
            at.missing("public_url")
        return found
    return structs.replace(found, public_url=found.public_url.rstrip("/"))
