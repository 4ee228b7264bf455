"""What owners say of their organization's directory: rules for its groups, tokens of SCIM; and operators, which domains
it has. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from billing.schemas.base import Answer, Body, Moment, Name, matching
from billing.schemas.quotas import QuotaShape, QuotasOrNull

RuleRole = Literal["admin", "member", "viewer"]
Group = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        description="a group's name, or its id in the directory; `*` is everybody",
        examples=["engineering"],
    ),
]
MailDomain = Annotated[str, matching(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+", max_length=253, examples=["example.com"])]


class RuleBody(Body, frozen=True, kw_only=True):
    """What the members of a group get: a role, at most so many keys, and limits of what they use with all of them. What
    is null or absent stays as it is."""

    group: Group
    role: RuleRole
    max_keys: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    quotas: QuotasOrNull = None


class RulesOfGroups(Body, frozen=True, kw_only=True):
    """All rules, of which the first that applies counts."""

    rules: Annotated[list[RuleBody], Meta(max_length=200)]


class RuleShape(Answer, frozen=True, kw_only=True):
    """What the members of a group get."""

    group: str
    role: RuleRole
    max_keys: int | None
    quotas: list[QuotaShape] | None


class RulesOfGroupsShape(Answer, frozen=True, kw_only=True):
    """All rules, of which the first that applies counts."""

    rules: list[RuleShape]


class DirectoryShape(Answer, frozen=True, kw_only=True):
    """Where an organization's directory calls SCIM, the domains of the addresses that are its own, and how many people
    and groups it has here."""

    url: str
    domains: list[str]
    people: int
    outside: Annotated[
        int, Meta(description="of these people, who have an address of no such domain: they join by invitation alone")
    ]
    groups: int


class NewScimToken(Body, frozen=True, kw_only=True):
    """A token to make for a directory."""

    name: Name


class ScimTokenShape(Answer, frozen=True, kw_only=True):
    """A token of SCIM without its secret."""

    id: str
    name: str
    prefix: Annotated[str, Meta(description="the secret's first characters")]
    created_by: Annotated[str, Meta(description="a user's id")]
    created_at: Moment
    last_used_at: Moment | None
    revoked_at: Moment | None


class NewScimTokenShape(ScimTokenShape, frozen=True, kw_only=True):
    """A token just made: `token` is its secret, which no other answer holds."""

    token: str


class Domains(Body, frozen=True, kw_only=True):
    """All domains of addresses that are an organization's own."""

    domains: Annotated[list[MailDomain], Meta(max_length=100)]


class DomainsShape(Answer, frozen=True, kw_only=True):
    """All domains of addresses that are an organization's own."""

    domains: list[str]
