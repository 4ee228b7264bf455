"""Members of organizations: who they are, their roles, and what ends when they leave.

This file owns that an organization always has an owner, that nobody gives or takes a role above their own, and that a
member's API keys never say more than the role does: they end with the membership, in the same transaction. What
somebody may do is judged again under the lock of the organization's row, so that who was demoted a moment ago changes
nothing any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

from billing import audit
from billing.database.connection import Connection, Database, Row, queries
from billing.identity.organizations import (
    Organization,
    OrganizationConflict,
    OrganizationForbidden,
    OrganizationNotFound,
    check_may_own,
    locked,
    not_found,
    organization_of,
)
from billing.identity.permissions import (
    KEYS_ADMIN,
    MEMBERS_READ,
    MEMBERS_WRITE,
    ORG_TRANSFER,
    PROXY,
    RANK,
    ROLES,
    SCOPES,
    Role,
    allowed,
)
from billing.keys.keys import confine_keys
from billing.pages import BEFORE_ALL, Page, page_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.change_notifier import ChangeNotifier

_query = queries("billing.identity")
TOLD_AT_ONCE: Final = 32
_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """A person who belongs to an organization, since `created_at`."""

    user_id: str
    email: str
    name: str
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Acting:
    """A person who changes an organization: `scopes` are what their token allows there."""

    user_id: str
    scopes: frozenset[str]
    actor: audit.Actor


async def role_of(connection: Connection, org_id: str, user_id: str) -> Role | None:
    """Return somebody's role; None for who is no member."""
    return cast("Role | None", await connection.fetchval(_query("memberships_role"), org_id, user_id))


async def check_acting(connection: Connection, org_id: str, acting: Acting, scope: str, *roles: Role) -> None:
    """Reject who may not do this in an organization that is locked, or may not give or take one of `roles`. Raises
    `OrganizationNotFound` for who is no member, and `OrganizationForbidden`."""
    own = await role_of(connection, org_id, acting.user_id)
    if own is None:
        raise not_found(org_id)
    needed = ORG_TRANSFER if any(RANK[role] >= RANK["owner"] for role in roles) else scope
    if needed not in allowed(own, acting.scopes) or any(RANK[role] > RANK[own] for role in roles):
        raise OrganizationForbidden(own, needed)


class Members:
    """Lists and changes members. Methods raise `OrganizationError` and `DatabaseError`; `most_owned` is how many
    organizations one person may own."""

    def __init__(self, database: Database, effects: ChangeNotifier, most_owned: int) -> None:
        self._database, self._effects, self._most_owned = database, effects, most_owned

    async def page(self, org_id: str, limit: int, after: str | None = None) -> Page[Member]:
        """Return members, those first who registered last."""
        rows = await self._database.rows(_query("memberships_page"), org_id, after or BEFORE_ALL, limit + 1)
        return page_of([_member(row) for row in rows], limit, lambda member: member.user_id)

    async def get(self, org_id: str, user_id: str) -> Member:
        """Return a member. Raises `OrganizationNotFound`."""
        row = await self._database.row(_query("memberships_get"), org_id, user_id)
        if row is None:
            raise _no_member(user_id)
        return _member(row)

    async def set_role(self, org_id: str, user_id: str, role: Role, acting: Acting) -> Member:
        """Give a member another role; their keys lose what it lacks. Raises `OrganizationForbidden`, and
        `OrganizationConflict` for the last owner."""
        ended: list[str] = []
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            before = await role_of(connection, org_id, user_id)
            roles = (role,) if before is None else (role, before)
            await check_acting(connection, org_id, acting, MEMBERS_WRITE, *roles)
            if before is None:
                raise _no_member(user_id)
            if role != before:
                ended = await self._change(connection, organization, user_id, (before, role), acting.actor)
            row = await connection.fetchrow(_query("memberships_get"), org_id, user_id)
        await self._tell(ended, organization)
        return _member(cast("Row", row))

    async def remove(self, org_id: str, user_id: str, acting: Acting) -> None:
        """End a membership, and with it the person's keys of this organization; everybody may leave. Raises as
        `set_role`."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            before = await role_of(connection, org_id, user_id)
            if user_id == acting.user_id:
                await check_acting(connection, org_id, acting, MEMBERS_READ)
            else:
                await check_acting(connection, org_id, acting, MEMBERS_WRITE, *([] if before is None else [before]))
            if before is None:
                raise _no_member(user_id)
            ended = await self._change(connection, organization, user_id, (before, None), acting.actor)
        await self._tell(ended, organization)

    async def transfer(self, org_id: str, user_id: str, becomes: Role, acting: Acting) -> Organization:
        """Make a member an owner instead of the caller, who gets the role `becomes`. Raises as `set_role`."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            before = await role_of(connection, org_id, user_id)
            if before is None:
                raise _no_member(user_id)
            if user_id == acting.user_id:
                raise OrganizationConflict("It is yours already: name another member.")
            if before != "owner":
                await self._change(connection, organization, user_id, (before, "owner"), acting.actor)
            ended: list[str] = []
            if becomes != "owner":
                changed: tuple[Role, Role] = ("owner", becomes)
                ended = await self._change(connection, organization, acting.user_id, changed, acting.actor)
            await connection.execute(_query("organizations_shared"), org_id)
            row = await connection.fetchrow(_query("organizations_get"), org_id)
        await self._tell(ended, organization)
        return organization_of(cast("Row", row))

    async def appoint(self, org_id: str, user_id: str, actor: audit.Actor) -> Member:
        """Make somebody an owner for an operator, a member or not: an organization whose owners are all disabled, or
        gone, needs another one. Raises `OrganizationConflict` for who can't sign in, or owns too many."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            user = await connection.fetchrow(_query("memberships_user"), user_id)
            if user is None or user["status"] != "active":
                raise OrganizationConflict("An owner has to be a user who is let in, and not disabled.")
            before = await role_of(connection, org_id, user_id)
            if before is None:
                await check_may_own(connection, user_id, self._most_owned)
                await connection.execute(_query("memberships_insert"), org_id, user_id, "owner")
                change = f"{org_id}/{user_id}", None, {"role": "owner"}
                account_id = organization.account_id
                await audit.record(connection, actor, "member.create", *change, account_id=account_id, user_id=user_id)
            elif before != "owner":
                await self._change(connection, organization, user_id, (before, "owner"), actor)
            await connection.execute(_query("organizations_shared"), org_id)
            row = await connection.fetchrow(_query("memberships_get"), org_id, user_id)
        return _member(cast("Row", row))

    async def end_invitations(self, org_id: str, acting: Acting) -> None:
        """Revoke every open invitation of an organization for an owner who closes it. Raises `OrganizationForbidden`
        for somebody else."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            rows = await connection.fetch(_query("invitations_end"), org_id)
            await _note_revoked(connection, organization, rows, acting.actor)

    async def _change(
        self,
        connection: Connection,
        organization: Organization,
        user_id: str,
        roles: tuple[Role, Role | None],
        actor: audit.Actor,
    ) -> list[str]:
        """Change a role that is another one before; return the ids of the keys that it has changed."""
        before, after = roles
        org_id, account_id = organization.id, organization.account_id
        if after == "owner":
            await check_may_own(connection, user_id, self._most_owned)
        if before == "owner" and not await connection.fetchval(_query("memberships_owners"), org_id, user_id):
            raise OrganizationConflict("The last owner stays: make somebody else an owner before.")
        if after is None:
            await connection.execute(_query("memberships_delete"), org_id, user_id)
        else:
            await connection.execute(_query("memberships_set_role"), org_id, user_id, after)
        change = {"role": before}, None if after is None else {"role": after}
        action = "member.remove" if after is None else "member.update"
        subject = f"{org_id}/{user_id}"
        await audit.record(connection, actor, action, subject, *change, account_id=account_id, user_id=user_id)
        await self._withdraw(connection, organization, user_id, after, actor)
        lost = None if after is None else frozenset(SCOPES) - ROLES[after]
        return await confine_keys(connection, account_id, user_id, lost, PROXY, actor)

    async def _withdraw(
        self, connection: Connection, organization: Organization, user_id: str, role: Role | None, actor: audit.Actor
    ) -> None:
        """Revoke the open invitations of somebody to roles that they may no longer give."""
        gives = [] if role is None or MEMBERS_WRITE not in ROLES[role] else [r for r in RANK if RANK[r] <= RANK[role]]
        rows = await connection.fetch(_query("invitations_withdraw"), organization.id, user_id, gives)
        await _note_revoked(connection, organization, rows, actor)

    async def _tell(self, key_ids: list[str], organization: Organization) -> None:
        """Tell of keys that changed, some at the same time: somebody may have a hundred."""
        for first in range(0, len(key_ids), TOLD_AT_ONCE):
            some = key_ids[first : first + TOLD_AT_ONCE]
            await asyncio.gather(*(self._effects.key_changed(key_id, organization.account_id) for key_id in some))


async def _note_revoked(
    connection: Connection, organization: Organization, rows: Iterable[Row], actor: audit.Actor
) -> None:
    for row in rows:
        change = {"email": row["email"], "role": row["role"]}, None
        account_id = organization.account_id
        await audit.record(connection, actor, "invitation.revoke", row["id"], *change, account_id=account_id)


def _no_member(user_id: str) -> OrganizationNotFound:
    return OrganizationNotFound(f"There is no member {user_id!r}.")


def _member(row: Row) -> Member:
    return Member(row["user_id"], row["email"], row["name"], row["role"], row["created_at"])


async def grantable_scopes(
    connection: Connection, account_id: str, scopes: frozenset[str], maker_id: str | None, holder_id: str | None
) -> frozenset[str]:
    """Return which scopes a key of `holder_id` may be given by a caller who has `scopes`, for `maker_id` where it is a
    person or a person's key: what both their roles have. Their roles stay until the transaction ends.

    Raises `OrganizationNotFound` for who is no member, `OrganizationForbidden` for somebody else's key.
    """
    given = scopes & SCOPES.keys()
    row = await connection.fetchrow(_query("organizations_lock_of_account"), account_id)
    if row is None:  # an account of an operator's making has no members
        return given
    if maker_id is not None:
        role = await role_of(connection, row["id"], maker_id)
        given = given & ROLES[role] if role is not None else _NOTHING
        if holder_id != maker_id and KEYS_ADMIN not in given:
            raise OrganizationForbidden(role, KEYS_ADMIN)
    if holder_id is not None:
        role = await role_of(connection, row["id"], holder_id)
        if role is None:
            raise _no_member(holder_id)
        given &= ROLES[role]
    return given
