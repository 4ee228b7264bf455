"""People as operators see them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from billing.schemas.base import Answer, Body, Filter, Moment, PageQuery
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.identity.users import OwnOrganization, User

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


def _fields(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "verified": user.verified,
        "name": user.name,
        "status": user.status,
        "operator": user.operator,
        "second_factor": user.second_factor,
        "created_at": rfc3339(user.created_at),
        "last_sign_in_at": None if user.last_sign_in_at is None else rfc3339(user.last_sign_in_at),
    }


def user_shape(user: User) -> UserShape:
    """Return a user's shape."""
    return UserShape(**_fields(user))  # type: ignore[arg-type]


def user_detail_shape(user: User, organizations: Sequence[OwnOrganization]) -> UserDetailShape:
    """Return the shape of a user with organizations."""
    own = [
        UserOrganizationShape(id=each.id, slug=each.slug, name=each.name, account_id=each.account_id, role=each.role)
        for each in organizations
    ]
    return UserDetailShape(**_fields(user), organizations=own)  # type: ignore[arg-type]
