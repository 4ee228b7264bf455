"""What providers of sign-ins say of themselves (OpenID Connect Discovery 1.0), kept for an hour.

Whoever begins a sign-in has shown nothing yet. So a provider is asked once for all who come at the same time, and one
that did not answer not again before `EARLY_S`: nobody can have the gateway ask at will. What it said before stays in
use meanwhile, for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from billing.identity.issuers import EARLY_S, STALE_S, IssuerAway, KeySet, read_answer

if TYPE_CHECKING:
    from billing.identity.issuers import Ask
    from billing.identity.providers import SignInProvider

FRESH_S: Final = 3600.0


class Metadata(Struct, frozen=True):
    """What is read of a provider's metadata (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str = ""
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


@dataclass(slots=True)
class _Known:
    """What is known of one provider, and when it was read and asked for last."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    found: tuple[Metadata, KeySet] | None = None
    read_at: float = float("-inf")
    asked_at: float = float("-inf")


class Discovery:
    """Finds out where providers' endpoints and keys are. `clock` is monotonic seconds."""

    def __init__(self, ask: Ask, clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._known: dict[str, _Known] = {}

    async def find(self, name: str, provider: SignInProvider) -> tuple[Metadata, KeySet]:
        """Return a provider's metadata, and its keys. Raises `IssuerAway`."""
        known = self._known.setdefault(name, _Known())
        if known.found is not None and self._clock() - known.read_at < FRESH_S:
            return known.found
        async with known.asking:
            await self._renew(known, provider)
        if known.found is None or self._clock() - known.read_at >= STALE_S:
            raise IssuerAway("This provider of sign-ins can't be reached now; try again.")
        return known.found

    async def _renew(self, known: _Known, provider: SignInProvider) -> None:
        """Ask a provider, unless somebody has done so a moment ago."""
        now = self._clock()
        if now - known.read_at < FRESH_S or now - known.asked_at < EARLY_S:
            return
        known.asked_at = now
        try:
            metadata = await self._asked(provider)
        except IssuerAway:
            if known.found is None:
                raise
            return
        known.found, known.read_at = (metadata, KeySet(metadata.jwks_uri, self._ask, self._clock)), self._clock()

    async def _asked(self, provider: SignInProvider) -> Metadata:
        if provider.kind == "github":
            oauth, post = f"{provider.issuer}/login/oauth", ("client_secret_post",)
            urls = provider.issuer, f"{oauth}/authorize", f"{oauth}/access_token"
            return Metadata(*urls, token_endpoint_auth_methods_supported=post)
        metadata = await read_answer(self._ask, Metadata, f"{provider.issuer}/.well-known/openid-configuration")
        if metadata.issuer.rstrip("/") != provider.issuer:
            raise IssuerAway("The provider says to be another issuer than the configured one.")
        return metadata
