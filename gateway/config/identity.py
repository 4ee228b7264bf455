"""The `identity` of metergate.yaml: who is let in, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast, get_args

from billing.identity.permissions import Approval
from billing.identity.providers import SignInProvider
from gateway.config.source import Value
from gateway.config.targets import read_base_url, read_key

MAIL_CONSOLE_VARIABLE: Final = "METERGATE_MAIL_CONSOLE"
"""Says "1" to a worker of `metergate up`: without SMTP_HOST it shows mails where it was started from."""
_KEYS: Final = ("approval", "public_url", "providers")
_OF_PROVIDER: Final = (
    *("kind", "issuer", "client_id", "client_secret", "scopes", "trusted_email", "allowed_domains", "api_url"),
)
_KINDS: Final = ("oidc", "github")
GITHUB: Final = "https://github.com"
GITHUB_API: Final = "https://api.github.com"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}", re.ASCII)
_DOMAIN: Final = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+", re.ASCII)
MAX_PROVIDERS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """When somebody who has registered is let in: at once, once the address is verified, or by an operator; and where
    people may sign in elsewhere, by name. `public_url` is the gateway's for browsers, without a slash at its end."""

    approval: Approval = "verified"
    public_url: str | None = None
    providers: Mapping[str, SignInProvider] = field(default_factory=dict)


def read_identity(at: Value | None) -> IdentityConfig:
    """Return the section; what is left out is as by default."""
    if at is None:
        return IdentityConfig()
    section = at.section(_KEYS)
    approval = section.maybe("approval", lambda value: value.choice(get_args(Approval)))
    public_url = section.maybe("public_url", read_base_url)
    providers = section.maybe("providers", _providers) or {}
    if "providers" in section.values and "public_url" not in section.values:
        section.require(("public_url",))
    if not section.ok:
        return IdentityConfig()
    return IdentityConfig(
        approval=cast("Approval", approval or "verified"),
        public_url=None if public_url is None else public_url.rstrip("/"),
        providers=providers,
    )


def _providers(value: Value) -> dict[str, SignInProvider]:
    """Return the providers by name; one whose secret's variable is unset is off, and left out."""
    found: dict[str, SignInProvider] = {}
    for name, entry in value.entries().items():
        if not _NAME.fullmatch(name) or len(found) >= MAX_PROVIDERS:
            entry.problem(f"a provider's name is lower-case letters, digits, '_' and '-'; at most {MAX_PROVIDERS}")
        provider = _provider(name, entry)
        if provider is not None:
            found[name] = provider
    return found


def _provider(name: str, value: Value) -> SignInProvider | None:
    section = value.section(_OF_PROVIDER, ("client_id", "client_secret"))
    kind = section.read("kind", lambda each: each.choice(_KINDS), "github" if name == "github" else "oidc")
    github = kind == "github"
    section.require(() if github else ("issuer",))
    issuer = section.read("issuer", read_base_url, GITHUB).partition("?")[0].rstrip("/")
    api_url = section.read("api_url", read_base_url, GITHUB_API if github else "").rstrip("/")
    secret, off = read_key(section, "client_secret")
    client_id = section.read("client_id", Value.text, "")
    scopes = section.maybe("scopes", lambda each: _texts(each, _SCOPE, "a scope"))
    domains = section.maybe("allowed_domains", lambda each: _texts(each, _DOMAIN, "a domain such as example.com"))
    trusted = section.read("trusted_email", Value.truth, False)
    if not section.ok or off is not None or secret is None:
        return None
    given: dict[str, Any] = {} if scopes is None else {"scopes": scopes}
    if github and scopes is None:
        given = {"scopes": ("read:user", "user:email")}
    return SignInProvider(
        *(issuer, client_id, secret.reveal(), "github" if github else "oidc"),
        trusted_email=trusted is True,
        allowed_domains=frozenset(domains or ()),
        api_url=api_url,
        **given,
    )


def _texts(value: Value, form: re.Pattern[str], what: str) -> tuple[str, ...]:
    texts = value.names(what)
    for text in texts:
        if not form.fullmatch(text):
            value.problem(f"expected {what}, got {text[:60]!r}")
    return texts
