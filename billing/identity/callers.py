"""Callers: who asks for something through the billing API, and for which account. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from billing.identity.permissions import SCOPES, Role
from billing.principals import Principal

Kind = Literal["nobody", "key", "person", "service", "admin"]
# What customers see of the price of a request: what they pay, or also what the provider charges.
CustomersSee = Literal["charge", "cost"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `account_id` is whose data a call is about: that of an API key, or of the organization that a person's
    token or `X-Organization-Id` names; None where there is none. `scopes` are what the caller may do there.

    `id` is that of the key or user, or the service's name. `operator` is whether a person may do what the admin key
    may. `session_id` and `token_id` (the `jti`) are of a person's token. `hint` ends the refusals of a person
    who has to do something first. `narrowed` are the scopes that the token is limited to, whatever the role allows.
    """

    kind: Kind
    id: str = ""
    account_id: str | None = None
    user_id: str | None = None
    org_id: str | None = None
    role: Role | None = None
    scopes: frozenset[str] = frozenset()
    operator: bool = False
    email: str | None = None
    verified: bool = False
    session_id: str | None = None
    token_id: str | None = None
    hint: str = ""
    narrowed: frozenset[str] | None = None
    principal: Principal | None = None

    @property
    def whole(self) -> bool:
        """Return whether the token may do all that the person may, but for what is operators'. One that was narrowed
        must not be able to become more, by another password or another address."""
        return self.narrowed is None or self.narrowed >= SCOPES.keys()

    @property
    def is_operator(self) -> bool:
        """Return whether it is the operator, or a person or program of theirs, and no customer."""
        return self.operator or self.kind in ("admin", "service")

    @property
    def name(self) -> str:
        """Return what the audit log calls the caller."""
        if self.kind in ("nobody", "admin"):
            return self.kind
        return f"{'user' if self.kind == 'person' else self.kind}:{self.id}"


NOBODY = Caller("nobody")
