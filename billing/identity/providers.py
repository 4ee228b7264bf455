"""Providers: where people may sign in elsewhere, as it is configured, and why somebody does not. Pure, and light to
import: commands read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from billing.errors import MetergateError

# Where the pages are, below the gateway's address.
CONSOLE: Final = "/console"
# For how long a sign-in may take.
BEGUN_S: Final = 600
MAX_PATH: Final = 1000


# The claim that has a person's groups at most issuers.
GROUPS_CLAIM: Final = "groups"
OIDC_SCOPES: Final = ("openid", "email", "profile")


@dataclass(frozen=True, slots=True)
class SignInProvider:
    """Where people may sign in. `issuer` is its URL without a slash at its end; `api_url` is GitHub's. What it says to
    have verified of an address is believed with `trusted_email`; with `allowed_domains` nobody else is let in. Its
    people are those of the `organization` of this id, whose rules apply to the groups in the claim `groups_claim`."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    kind: Literal["oidc", "github"] = "oidc"
    scopes: tuple[str, ...] = OIDC_SCOPES
    trusted_email: bool = False
    allowed_domains: frozenset[str] = frozenset()
    api_url: str = ""
    organization: str | None = None
    groups_claim: str = GROUPS_CLAIM

    def admits(self, domain: str | None) -> bool:
        """Return whether who has an address of this domain is let in; None: one that was not verified."""
        return not self.allowed_domains or domain in self.allowed_domains


class UnknownProvider(MetergateError):
    """No such provider is configured."""

    kind = "not_found"


class SignInFailed(MetergateError):
    """The provider has not signed somebody in, or not for here."""

    kind = "unauthorized"


def is_path(text: str) -> bool:
    """Return whether this is a path on the page's own host, whatever a browser makes of it: `//host`, `/\\host` and
    control characters lead elsewhere."""
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and len(text) <= MAX_PATH and text[:1] == "/" and text[:2] != "//" and "\\" not in text
