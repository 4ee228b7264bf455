"""Invitations: somebody may become a member, by an address.

This file owns that an invitation is accepted once, within its time, and by the person alone whose proven address it is;
and that members and open invitations together are never more than the plan has users. The token of an invitation has
256 random bits, stands in the mail alone, and is stored as SHA-256.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, cast

from billing import audit
from billing.database.connection import Connection, Database, Row, queries
from billing.identity.letters import quotable
from billing.identity.members import Acting, check_acting
from billing.identity.organizations import (
    Organization,
    OrganizationConflict,
    OrganizationNotFound,
    check_may_own,
    locked,
)
from billing.identity.permissions import MEMBERS_WRITE, Role
from billing.keys.secrets import secret_digest
from billing.mail import enqueue
from billing.pages import BEFORE_ALL, Page, page_of
from billing.settings import OrganizationSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.plans import Plans

ID_PREFIX: Final = "inv_"
LIFE_S: Final = 7 * 24 * 3600
TOKEN_BYTES: Final = 32
Status = Literal["open", "accepted", "revoked", "expired"]

_query = queries("billing.identity")
_NOT_YOURS: Final = (
    "This invitation is unknown, used, withdrawn or expired, or it went to another address than the one that you have "
    "verified: sign in with that one, or ask for another invitation."
)


@dataclass(frozen=True, slots=True)
class Invitation:
    """A row of invitations without its digest, and what has become of it."""

    id: str
    email: str
    role: Role
    invited_by: str | None
    created_at: datetime
    expires_at: datetime
    status: Status
    sends: int


class Invitations:
    """Sends, lists, revokes and accepts invitations. Methods raise `OrganizationError` and `DatabaseError`.

    `plans` are those in force, of which `default_plan` stands in for one that is no longer configured. `frontend_url`
    is where people sign in, None: nobody has said; `new_token` makes a token of 256 random bits.
    """

    def __init__(
        self,
        database: Database,
        new_id: Callable[[], str],
        plans: Plans,
        default_plan: str,
        settings: OrganizationSettings | None = None,
        *,
        frontend_url: str | None = None,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(TOKEN_BYTES),
    ) -> None:
        self._database, self._new_id, self._new_token = database, new_id, new_token
        self._plans, self._default_plan = plans, default_plan
        self._settings, self._frontend_url = OrganizationSettings() if settings is None else settings, frontend_url

    async def invite(self, org_id: str, email: str, role: Role, acting: Acting) -> Invitation:
        """Send an invitation to an address, as `mail.parse_email` gives it. Raises `OrganizationForbidden`, and
        `OrganizationConflict` where somebody is a member or invited already, or for a bound."""
        token = self._new_token()
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, MEMBERS_WRITE, role)
            await self._check_room(connection, organization, email)
            await self._check_mails(connection, acting, email)
            made = ID_PREFIX + self._new_id(), org_id, email, role, secret_digest(token), acting.user_id, LIFE_S
            invitation = _invitation(cast("Row", await connection.fetchrow(_query("invitations_insert"), *made)))
            await self._mail(connection, organization, invitation, token, acting)
            await _record(connection, acting.actor, "invitation.create", organization, invitation)
        return invitation

    async def _check_room(self, connection: Connection, organization: Organization, email: str) -> None:
        """Reject an invitation more, to this address."""
        row = await connection.fetchrow(_query("invitations_counts"), organization.id, email, organization.account_id)
        counts = cast("Row", row)
        if counts["belongs"]:
            raise OrganizationConflict("This address is a member's already.")
        if counts["invited"]:
            raise OrganizationConflict("This address is invited already: send that invitation again, or revoke it.")
        self._check_users(counts["plan"], counts["members"] + counts["open"] + 1)
        if counts["today"] >= self._settings.invitations_per_day:
            most = self._settings.invitations_per_day
            raise OrganizationConflict(f"An organization sends {most} invitations in 24 hours: wait for tomorrow.")

    async def _check_mails(self, connection: Connection, acting: Acting, email: str) -> None:
        """Reject a mail more by this person, or to this address, whatever organizations sent the others."""
        for subject in (f"invitations by {acting.user_id}", f"invitations to {email}"):  # always in this order
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", subject)
        row = await connection.fetchrow(_query("invitation_mails_counts"), acting.user_id, email)
        counts = cast(Row, row)
        if counts["by_person"] >= self._settings.invitations_per_person:
            most = self._settings.invitations_per_person
            raise OrganizationConflict(f"One person sends {most} invitations in 24 hours: wait for tomorrow.")
        if counts["to_address"] >= self._settings.invitations_per_address:
            raise OrganizationConflict(
                "This address was sent as many invitations in 24 hours as one is sent: wait for tomorrow, or ask its "
                "owner to look into the folder of spam."
            )

    def _check_users(self, plan_id: str, users: int) -> None:
        plan = self._plans.get(plan_id) or self._plans[self._default_plan]
        if plan.users is not None and users > plan.users:
            raise OrganizationConflict(
                f"The plan {plan.name} allows {plan.users} user{'' if plan.users == 1 else 's'}, members and open "
                "invitations together: remove one, or change the plan."
            )

    async def page(self, org_id: str, limit: int, after: str | None = None) -> Page[Invitation]:
        """Return invitations of an organization, newest first, also those that are over."""
        rows = await self._database.rows(_query("invitations_page"), org_id, after or BEFORE_ALL, limit + 1)
        return page_of([_invitation(row) for row in rows], limit, lambda each: each.id)

    async def resend(self, org_id: str, invitation_id: str, acting: Acting) -> Invitation:
        """Send an invitation again, with another token and its whole time; one that has expired, too. Raises
        `OrganizationConflict` for one that was used or revoked, or sent too often."""
        token = self._new_token()
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            before = await self._own(connection, org_id, invitation_id, acting)
            if before.status not in ("open", "expired"):
                raise OrganizationConflict(f"This invitation was {before.status}: make another one.")
            if before.sends >= self._settings.invitation_sends:
                raise OrganizationConflict(
                    f"An invitation is sent {self._settings.invitation_sends} times: make another one."
                )
            if before.status == "expired":
                await self._check_room(connection, organization, before.email)
            await self._check_mails(connection, acting, before.email)
            row = await connection.fetchrow(_query("invitations_resend"), invitation_id, secret_digest(token), LIFE_S)
            invitation = _invitation(cast("Row", row))
            await self._mail(connection, organization, invitation, token, acting)
            await _record(connection, acting.actor, "invitation.resend", organization, invitation)
        return invitation

    async def revoke(self, org_id: str, invitation_id: str, acting: Acting) -> None:
        """Revoke an invitation that is open; of another one nothing changes."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            before = await self._own(connection, org_id, invitation_id, acting)
            if before.status in ("open", "expired"):
                await connection.execute(_query("invitations_revoke"), invitation_id)
                await _record(connection, acting.actor, "invitation.revoke", organization, before)

    async def _own(self, connection: Connection, org_id: str, invitation_id: str, acting: Acting) -> Invitation:
        """Return an invitation that somebody may change: to a role that they may give."""
        row = await connection.fetchrow(_query("invitations_get"), org_id, invitation_id)
        await check_acting(connection, org_id, acting, MEMBERS_WRITE, *([] if row is None else [row["role"]]))
        if row is None:
            raise OrganizationNotFound(f"There is no invitation {invitation_id!r}.")
        return _invitation(row)

    async def accept(self, token: str, user_id: str, actor: audit.Actor) -> tuple[Organization, Role]:
        """Make a person a member by the token of an invitation to their proven address; return the organization and
        their role. Raises `OrganizationNotFound` for anybody else, and `OrganizationConflict` where there is no room
        left."""
        digest = secret_digest(token)
        async with self._database.transaction() as connection:
            org_id = await connection.fetchval(_query("invitations_organization"), digest)
            if org_id is None:
                raise OrganizationNotFound(_NOT_YOURS)
            organization = await locked(connection, org_id)
            row = await connection.fetchrow(_query("invitations_acceptable"), digest, user_id)
            if row is None:
                raise OrganizationNotFound(_NOT_YOURS)
            await self._join(connection, organization, user_id, row["role"])
            await connection.execute(_query("invitations_accept"), row["id"])
            after = {"role": row["role"], "invitation": row["id"]}
            subject, account_id = f"{org_id}/{user_id}", organization.account_id
            await audit.record(
                connection, actor, "member.create", subject, None, after, account_id=account_id, user_id=user_id
            )
        return organization, row["role"]

    async def _join(self, connection: Connection, organization: Organization, user_id: str, role: Role) -> None:
        if await connection.fetchval(_query("memberships_role"), organization.id, user_id) is not None:
            raise OrganizationConflict("You are a member already.")
        row = await connection.fetchrow(_query("invitations_counts"), organization.id, "", organization.account_id)
        counts = cast("Row", row)
        self._check_users(counts["plan"], counts["members"] + 1)
        if role == "owner":
            await check_may_own(connection, user_id, self._settings.organizations_per_user)
        await connection.execute(_query("memberships_insert"), organization.id, user_id, role)

    async def _mail(
        self, connection: Connection, organization: Organization, invitation: Invitation, token: str, acting: Acting
    ) -> None:
        name = quotable(organization.name)
        called = organization.slug if name is None else f'"{name}" ({organization.slug})'
        where = "" if self._frontend_url is None else f"\n\n    {self._frontend_url.rstrip('/')}/invitations/{token}"
        body = (
            f"You are invited to join the organization {called} as {invitation.role}.\n\n"
            f"Register or sign in with this address and accept within seven days{':' + where if where else '.'}\n\n"
            f"The invitation's token, for `metergate org accept`:\n\n    {token}\n\n"
            "If you did not expect this, do nothing: nobody else can use it.\n"
        )
        subject = f"Invitation to {name or organization.slug}"
        await enqueue(connection, self._new_id, invitation.email, subject, body)
        await connection.execute(_query("invitation_mails_add"), acting.user_id, invitation.email)


def _invitation(row: Row) -> Invitation:
    status: Status = "expired" if row["expired"] else "open"
    if row["revoked_at"] is not None:
        status = "revoked"
    if row["accepted_at"] is not None:
        status = "accepted"
    return Invitation(
        row["id"],
        row["email"],
        row["role"],
        row["invited_by"],
        row["created_at"],
        row["expires_at"],
        status,
        row["sends"],
    )


async def _record(
    connection: Connection, actor: audit.Actor, action: str, organization: Organization, invitation: Invitation
) -> None:
    audited = {"email": invitation.email, "role": invitation.role}
    before, after = (audited, None) if action == "invitation.revoke" else (None, audited)
    await audit.record(connection, actor, action, invitation.id, before, after, account_id=organization.account_id)
