"""Roles and scopes: what each role of an organization may do. Pure.

This file owns the one table of permissions. A permission is a scope: an API key or a narrowed token has some of them,
a role has those of `ROLES`. What a person may do is what the role allows and the token's scopes name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Role = Literal["owner", "admin", "member", "viewer"]
# When somebody who has registered is let in: at once, once their address is proven, or by an operator.
Approval = Literal["open", "verified", "approved"]

PROXY: Final = "llm:proxy"
BILLING_READ: Final = "billing:read"
BILLING_SETUP: Final = "billing:setup"
KEYS_READ: Final = "keys:read"
KEYS_WRITE: Final = "keys:write"
KEYS_ADMIN: Final = "keys:admin"
ORG_READ: Final = "org:read"
ORG_WRITE: Final = "org:write"
ORG_TRANSFER: Final = "org:transfer"
MEMBERS_READ: Final = "members:read"
MEMBERS_WRITE: Final = "members:write"
AUDIT_READ: Final = "audit:read"

# Every scope that Metergate or its services act on, and what it allows. Operators may give keys others, too.
SCOPES: Final[Mapping[str, str]] = {
    PROXY: "Call models through the proxy.",
    BILLING_READ: "See balance, transactions and usage.",
    BILLING_SETUP: "Buy credit, change the plan and the payment method.",
    KEYS_READ: "List API keys.",
    KEYS_WRITE: "Make API keys; change, rotate and revoke one's own.",
    KEYS_ADMIN: "Change, rotate and revoke everybody's API keys.",
    ORG_READ: "See the organization.",
    ORG_WRITE: "Change the organization's name and settings.",
    ORG_TRANSFER: "Give the organization to another owner, and make owners.",
    MEMBERS_READ: "See who belongs to the organization.",
    MEMBERS_WRITE: "Invite and remove members, change their roles and limits.",
    AUDIT_READ: "See who changed what.",
    "container:read": "See containers.",
    "container:run": "Run containers.",
    "container:delete": "Delete containers.",
}

_VIEWER: Final = frozenset({ORG_READ, MEMBERS_READ, BILLING_READ, KEYS_READ})
_MEMBER: Final = _VIEWER | {PROXY, KEYS_WRITE, "container:read", "container:run", "container:delete"}
_ADMIN: Final = _MEMBER | {KEYS_ADMIN, ORG_WRITE, MEMBERS_WRITE, BILLING_SETUP, AUDIT_READ}

ROLES: Final[Mapping[Role, frozenset[str]]] = {
    "owner": _ADMIN | {ORG_TRANSFER},
    "admin": _ADMIN,
    "member": _MEMBER,
    "viewer": _VIEWER,
}
# How high a role stands: nobody gives one that is higher than their own, or takes one from somebody higher.
RANK: Final[Mapping[Role, int]] = {role: rank for rank, role in enumerate(reversed(get_args(Role)))}


def allowed(role: Role | None, scopes: frozenset[str] | None) -> frozenset[str]:
    """Return what a member with this role may do with a token of these scopes; None: it was not narrowed."""
    of_role = ROLES[role] if role is not None else frozenset[str]()
    return of_role if scopes is None else of_role & scopes


# What customers see of the price of a request: what they pay, or also what the provider charges.
CustomersSee = Literal["charge", "cost"]
