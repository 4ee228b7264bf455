"""Providers: where people may sign in elsewhere, as it is configured. Pure, and light to import: commands read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SignInProvider:
    """Where people may sign in. `issuer` is its URL without a slash at its end; `api_url` is GitHub's. What it says to
    have verified of an address is believed with `trusted_email`; with `allowed_domains` nobody else is let in."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    kind: Literal["oidc", "github"] = "oidc"
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    trusted_email: bool = False
    allowed_domains: frozenset[str] = frozenset()
    api_url: str = ""
