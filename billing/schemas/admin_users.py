"""People as operators see them. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from billing.schemas.base import Answer, Body, Filter, Moment, PageQuery

UserStatus = Literal["pending", "active", "disabled"]


class UsersQuery(PageQuery, frozen=True, kw_only=True):
    """Which people: of a status, or who has an address."""

    status: Annotated[UserStatus, Meta(description="pending, active or disabled")] | None = None
    email: Filter | None = None


class UserPatch(Body, frozen=True, kw_only=True):
    """A change of a user: what is absent stays as it is. `active` lets in who is pending or disabled; with
    `revoke_keys` all API keys of the user end."""

    status: Literal["active", "disabled"] | UnsetType = UNSET
    operator: Annotated[bool, Meta(description="may do what the admin key may")] | UnsetType = UNSET
    second_factor: (
        Annotated[Literal[False], Meta(description="false removes the authenticator app and its recovery codes")]
        | UnsetType
    ) = UNSET
    revoke_keys: bool = False


class UserShape(Answer, frozen=True, kw_only=True):
    """A user. `second_factor` says whether signing in needs a code of an authenticator app, which operators need."""

    id: str
    email: str
    verified: bool
    name: str
    status: UserStatus
    operator: bool
    second_factor: bool
    created_at: Moment
    last_sign_in_at: Moment | None


class UserOrganizationShape(Answer, frozen=True, kw_only=True):
    """An organization that a user belongs to."""

    id: str
    slug: str
    name: str
    account_id: str
    role: str


class UserDetailShape(UserShape, frozen=True, kw_only=True):
    """A user, and the organizations that they belong to."""

    organizations: list[UserOrganizationShape]
