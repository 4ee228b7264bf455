"""Organizations, their members and invitations, and the table of roles, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from billing.schemas.base import Answer, Body, Id, Moment, matching

RoleName = Literal["owner", "admin", "member", "viewer"]
# With a character that is no space; spaces are made one each.
OrganizationName = Annotated[str, Meta(max_length=200, pattern=r"\S", examples=["Acme Corp"])]
Slug = Annotated[str, matching("[a-z0-9]+(-[a-z0-9]+)*", max_length=63, examples=["acme-corp"])]
Address = Annotated[
    str, Meta(min_length=3, max_length=254, examples=["ada@example.com"], extra_json_schema={"format": "email"})
]


class NewOrganization(Body, frozen=True, kw_only=True):
    """An organization to found; its slug is made of the name."""

    name: OrganizationName


class OrganizationPatch(Body, frozen=True, kw_only=True):
    """A change of an organization: what is absent stays as it is."""

    name: OrganizationName | UnsetType = UNSET
    slug: Slug | UnsetType = UNSET


class RolePatch(Body, frozen=True, kw_only=True):
    """A change of a member."""

    role: RoleName


class NewInvitation(Body, frozen=True, kw_only=True):
    """An invitation to send."""

    email: Address
    role: RoleName = "member"


class Transfer(Body, frozen=True, kw_only=True):
    """To which member an organization goes, and what its owner until now becomes."""

    user_id: Id
    become: RoleName = "admin"


class Closing(Body, frozen=True, kw_only=True):
    """Whether an organization is closed although there is credit left, which then stays where it is."""

    forfeit: bool = False


class OrganizationShape(Answer, frozen=True, kw_only=True):
    """An organization. `personal` is one that was made with its owner's sign-up; `account_id` is who pays; `role` is
    the caller's own there, null for an API key."""

    id: str
    slug: str
    name: str
    personal: bool
    account_id: str
    role: RoleName | None
    created_at: Moment


class MemberShape(Answer, frozen=True, kw_only=True):
    """A member, since `created_at`."""

    user_id: str
    email: str
    name: str
    role: RoleName
    created_at: Moment


class InvitationShape(Answer, frozen=True, kw_only=True):
    """An invitation. Its token stands in the mail alone; `sends` is how many there were."""

    id: str
    email: str
    role: RoleName
    invited_by: Annotated[str | None, Meta(description="a user's id")]
    status: Literal["open", "accepted", "revoked", "expired"]
    sends: int
    created_at: Moment
    expires_at: Moment


class RolesShape(Answer, frozen=True, kw_only=True):
    """What each role may do, as scopes, and what each scope allows."""

    roles: dict[str, list[str]]
    scopes: dict[str, str]
