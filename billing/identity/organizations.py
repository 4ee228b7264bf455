"""Organizations: who owns a billing account, who belongs to it with which role, and who is invited by an address.

This file owns how one is founded, its name and its slug; that it always has an owner, that nobody gives or takes a role
above their own, and that a member's API keys never say more than the role does: they end with the membership, in the
same transaction.

Whoever changes an organization or who belongs to it locks its row first, so that of two changes at the same time the
second one sees what the first has done. What somebody may do is judged again under that lock, so that who was demoted a
moment ago changes nothing any more.

An invitation is accepted once, within its time, and by the person alone whose proven address it is; members and open
invitations together are never more than the plan has users. The token of an invitation has 256 random bits, stands in
the mail alone, and is stored as SHA-256.

OrganizationError
+-- OrganizationForbidden  the role of whoever asks, or their token, does not allow it
+-- OrganizationNotFound   no organization, member or invitation that the caller may know of
+-- OrganizationRefused    what was asked can't be so: `field` names what of it
+-- OrganizationConflict   it can't be done as things stand: the last owner, a bound, a slug that is taken
"""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, cast

from billing import audit
from billing.accounts.accounts import open_account
from billing.database.connection import Connection, Database, Row, UniqueViolation, from_row, queries
from billing.errors import MetergateError
from billing.identity.mail_templates import quotable
from billing.identity.welcome import Welcome
from billing.keys.keys import confine_keys
from billing.keys.secrets import secret_digest
from billing.mail import enqueue
from billing.pages import BEFORE_ALL, Page, page_of
from billing.permissions import (
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
from billing.settings import OrganizationSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from billing.change_notifier import ChangeNotifier
    from billing.plans import Plans
    from billing.schemas.keys import KeyRow

ID_PREFIX: Final = "org_"
MAX_SLUG: Final = 63
_NO_SLUG: Final = "organization"
_SLUG: Final = re.compile("[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_SUFFIX: Final = 6
# Owners who are notified of a leaked key.
_TOLD: Final = 20

_query = queries("billing.identity")


class OrganizationError(MetergateError):
    """What was asked of an organization can't be done. The message is fit for a reader."""


class OrganizationNotFound(OrganizationError):
    """No organization, member or invitation of this id that the caller may know of."""

    kind = "not_found"


class OrganizationForbidden(OrganizationError):
    """The caller's role, or token, does not allow it: `required_scope` is the missing scope."""

    kind = "forbidden"

    def __init__(self, role: Role | None, scope: str) -> None:
        super().__init__(
            f"This needs {scope}, which your role ({role or 'none'}) or your token lacks. Where the role has it: "
            f'`metergate auth token --scope "{scope}"`.'
        )
        self.required_scope = scope


class OrganizationRefused(OrganizationError):
    """It can't be so: `field` names what is wrong."""

    kind = "invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class OrganizationConflict(OrganizationError):
    """It can't be done as things stand."""

    kind = "conflict"


@dataclass(frozen=True, slots=True)
class Organization:
    """A row of organizations. `personal` is whether it was made with its owner's sign-up."""

    id: str
    slug: str
    name: str
    personal: bool
    account_id: str
    created_at: datetime


def slug_of(name: str) -> str:
    """Return a name as a slug: `Acmé & Co.` is `acme-co`; one without a letter of ASCII's is `organization`."""
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", folded))[:MAX_SLUG].strip("-") or _NO_SLUG


def check_slug(slug: str) -> None:
    """Reject a slug of a wrong form. Raises `OrganizationRefused`."""
    if len(slug) > MAX_SLUG or _SLUG.fullmatch(slug) is None:
        raise OrganizationRefused("slug", f"A slug is a-z, 0-9 and single - between them, {MAX_SLUG} at most.")


async def found(
    connection: Connection,
    new_id: Callable[[], str],
    plan: str,
    *,
    user_id: str,
    name: str,
    personal: bool,
    actor: audit.Actor,
) -> Organization:
    """Make an organization, its billing account on a plan, and its owner's membership, in the caller's transaction.

    The slug is the name's, with a suffix where another organization has it, or it is personal. `name` has a character
    at least. Nothing here bounds how many a person has: registration makes one, `Organizations.create` counts.
    """
    account = await open_account(connection, new_id, name, plan, actor=actor)
    org_id = ID_PREFIX + new_id()
    row = None
    slugs = _slugs(slug_of(name), org_id)
    if personal:  # a slug that is taken would tell who has registered
        next(slugs)
    for slug in slugs:
        row = await connection.fetchrow(_query("organizations_insert"), org_id, slug, name, personal, account.id)
        if row is not None:
            break
    made = organization_of(cast("Row", row))
    await connection.execute(_query("memberships_insert"), org_id, user_id, "owner")
    after = {**_audited(made), "owner": user_id}
    await audit.record(
        connection, actor, "organization.create", org_id, None, after, account_id=account.id, user_id=user_id
    )
    return made


def _slugs(slug: str, org_id: str) -> Iterator[str]:
    """Yield what may be an organization's slug: the last one, with its whole id, nobody else has."""
    unique = org_id.removeprefix(ID_PREFIX).lower()
    yield slug
    for suffix in (unique[-_SUFFIX:], unique):
        yield f"{slug[: MAX_SLUG - len(suffix) - 1].strip('-')}-{suffix}"


def organization_of(row: Row) -> Organization:
    """Return the organization of a row that has all of its columns."""
    return from_row(Organization, row)


def not_found(org_id: str) -> OrganizationNotFound:
    """Return what is raised for an organization that there is not, or not for the caller."""
    return OrganizationNotFound(f"There is no organization {org_id!r}.")


def _audited(organization: Organization) -> dict[str, object]:
    return {"slug": organization.slug, "name": organization.name, "personal": organization.personal}


async def locked(connection: Connection, org_id: str) -> Organization:
    """Return an organization, whose row is locked until the transaction ends. Raises `OrganizationNotFound`."""
    row = await connection.fetchrow(_query("organizations_lock"), org_id)
    if row is None:
        raise not_found(org_id)
    return organization_of(row)


async def check_may_own(connection: Connection, user_id: str, most: int) -> None:
    """Reject one organization more of a person who owns `most`; others who found one for them wait until the
    transaction ends. Raises `OrganizationConflict`."""
    await connection.execute(_query("memberships_user"), user_id)
    if await connection.fetchval(_query("memberships_owned"), user_id) >= most:
        raise OrganizationConflict(f"A person owns at most {most} organizations: leave one, or give one away.")


class Organizations:
    """Makes, lists and changes organizations. Methods raise `OrganizationError` and `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        new_id: Callable[[], str],
        plan: str,
        settings: OrganizationSettings | None = None,
        welcome: Welcome | None = None,
    ) -> None:
        """`new_id` makes ULIDs that rise with time; `plan` is that of a new account; `welcome` gives credit to who has
        had none yet."""
        self._database, self._new_id, self._plan = database, new_id, plan
        self._welcome = welcome or Welcome()
        self._settings = OrganizationSettings() if settings is None else settings

    async def create(self, user_id: str, name: str, *, actor: audit.Actor) -> Organization:
        """Create an organization that a person owns. Raises `OrganizationConflict` where they own too many, or are not
        let in yet."""
        async with self._database.transaction() as connection:
            user = await connection.fetchrow(_query("memberships_user"), user_id)
            if user is None or user["status"] != "active":
                raise OrganizationConflict("Verify your address before you create an organization.")
            await check_may_own(connection, user_id, self._settings.organizations_per_user)
            made = await found(
                connection, self._new_id, self._plan, user_id=user_id, name=name, personal=False, actor=actor
            )
            # Not their first: who was made an owner of somebody else's would gather all guests' credit there.
            await self._welcome.give(connection, user_id, made.account_id)
            return made

    async def page(self, user_id: str, limit: int, after: str | None = None) -> Page[tuple[Organization, Role]]:
        """Return the organizations that a person belongs to, with their role, newest first."""
        rows = await self._database.rows(_query("organizations_of_user"), user_id, after or BEFORE_ALL, limit + 1)
        return page_of([(organization_of(row), row["role"]) for row in rows], limit, lambda each: each[0].id)

    async def get(self, org_id: str) -> Organization:
        """Return an organization. Raises `OrganizationNotFound`."""
        row = await self._database.row(_query("organizations_get"), org_id)
        if row is None:
            raise not_found(org_id)
        return organization_of(row)

    async def of_account(self, account_id: str) -> Organization | None:
        """Return the organization that has an account; None for an account of an operator's making."""
        row = await self._database.row(_query("organizations_of_account"), account_id)
        return None if row is None else organization_of(row)

    async def tell_of_leak(self, connection: Connection, key: KeyRow) -> None:
        """Write the mail that tells whose key it is that it leaked, in the caller's transaction."""
        what = "Its previous secret was" if key.revoked_at is None else "It was"
        name = quotable(key.name)
        which = key.id if name is None else f'"{name}" ({key.id})'
        body = (
            f"Somebody has found the secret of the API key {which} and reported it to this gateway.\n\n"
            f"{what} revoked at once. Check what the key was used for, and find out where the secret was published.\n"
        )
        found = await connection.fetch(_query("organizations_leak_recipients"), key.account_id, key.user_id, _TOLD)
        for row in found:
            await enqueue(connection, self._new_id, row["email"], f"The API key {key.id} has leaked", body)

    async def update(
        self,
        org_id: str,
        *,
        name: str | None = None,
        slug: str | None = None,
        actor: audit.Actor,
        check: Callable[[Connection], Awaitable[object]] | None = None,
    ) -> Organization:
        """Change what is given; None leaves as it is. `check` is asked under the lock whether that may be. Raises
        `OrganizationRefused` for no slug, `OrganizationConflict` for one that is taken."""
        if slug is not None:
            check_slug(slug)
        try:
            async with self._database.transaction() as connection:
                before = await locked(connection, org_id)
                if check is not None:
                    await check(connection)
                return await _update(connection, before, name, slug, actor)
        except UniqueViolation as error:
            raise OrganizationConflict(f"The slug {slug!r} is taken.") from error


async def _update(
    connection: Connection, before: Organization, name: str | None, slug: str | None, actor: audit.Actor
) -> Organization:
    wanted = replace(before, name=name or before.name, slug=slug or before.slug)
    if wanted == before:
        return before
    change = _audited(before), _audited(wanted)
    await connection.execute(_query("organizations_update"), wanted.id, wanted.name, wanted.slug)
    await audit.record(connection, actor, "organization.update", wanted.id, *change, account_id=wanted.account_id)
    return wanted


# Changed keys that gateways are notified of at the same time.
NOTIFIED_AT_ONCE: Final = 32
INVITATION_PREFIX: Final = "inv_"
LIFE_S: Final = 7 * 24 * 3600
TOKEN_BYTES: Final = 32
Status = Literal["open", "accepted", "revoked", "expired"]

_NOT_YOURS: Final = (
    "This invitation is unknown, used, withdrawn or expired, or it went to another address than the one that you have "
    "verified: sign in with that one, or ask for another invitation."
)


@dataclass(frozen=True, slots=True)
class Member:
    """A person who belongs to an organization, since `created_at`. The role of who is `managed` is that of a group of
    the organization's directory, as `max_keys` is, the keys that they may have."""

    user_id: str
    email: str
    name: str
    role: Role
    created_at: datetime
    managed: bool
    max_keys: int | None


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
                ended = await self.change(connection, organization, user_id, (before, role), acting.actor)
            row = await connection.fetchrow(_query("memberships_get"), org_id, user_id)
        await self.notify(ended, organization)
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
            ended = await self.change(connection, organization, user_id, (before, None), acting.actor)
        await self.notify(ended, organization)

    async def transfer(self, org_id: str, user_id: str, becomes: Role, acting: Acting) -> Organization:
        """Make a member an owner instead of the caller, who gets the role `becomes`. Raises as `set_role`."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            before = await role_of(connection, org_id, user_id)
            if before is None:
                raise _no_member(user_id)
            if user_id == acting.user_id:
                raise OrganizationConflict("It is already yours: name another member.")
            if before != "owner":
                await self.change(connection, organization, user_id, (before, "owner"), acting.actor)
            ended: list[str] = []
            if becomes != "owner":
                changed: tuple[Role, Role] = ("owner", becomes)
                ended = await self.change(connection, organization, acting.user_id, changed, acting.actor)
            await connection.execute(_query("organizations_shared"), org_id)
            row = await connection.fetchrow(_query("organizations_get"), org_id)
        await self.notify(ended, organization)
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
                await self.add(connection, organization, user_id, "owner", actor)
            elif before != "owner":
                await self.change(connection, organization, user_id, (before, "owner"), actor)
            await connection.execute(_query("organizations_shared"), org_id)
            row = await connection.fetchrow(_query("memberships_get"), org_id, user_id)
        return _member(cast("Row", row))

    async def add(
        self, connection: Connection, organization: Organization, user_id: str, role: Role, actor: audit.Actor
    ) -> None:
        """Make somebody a member who is none, in the caller's transaction, which has locked the organization."""
        await connection.execute(_query("memberships_insert"), organization.id, user_id, role)
        subject, account_id = f"{organization.id}/{user_id}", organization.account_id
        change = subject, None, {"role": role}
        await audit.record(connection, actor, "member.create", *change, account_id=account_id, user_id=user_id)

    async def end_invitations(self, org_id: str, acting: Acting) -> None:
        """Revoke every open invitation of an organization for an owner who closes it. Raises `OrganizationForbidden`
        for somebody else."""
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            rows = await connection.fetch(_query("invitations_end"), org_id)
            await _note_revoked(connection, organization, rows, acting.actor)

    async def uninvite(
        self,
        connection: Connection,
        organization: Organization,
        addresses: Sequence[str | None],
        user_id: str | None,
        actor: audit.Actor,
    ) -> None:
        """Revoke the open invitations to these addresses and to a user's, in the caller's transaction, which has locked
        the organization."""
        rows = await connection.fetch(_query("invitations_end_to"), organization.id, list(addresses), user_id)
        await _note_revoked(connection, organization, rows, actor)

    async def change(
        self,
        connection: Connection,
        organization: Organization,
        user_id: str,
        roles: tuple[Role, Role | None],
        actor: audit.Actor,
    ) -> list[str]:
        """Change a role that is another one before, in the caller's transaction, which has locked the organization;
        return the ids of the keys that it has changed, which are to be told by `notify` after it. Raises
        `OrganizationConflict` for the last owner."""
        before, after = roles
        org_id, account_id = organization.id, organization.account_id
        if after == "owner":
            await check_may_own(connection, user_id, self._most_owned)
        if before == "owner" and not await connection.fetchval(_query("memberships_owners"), org_id, user_id):
            raise OrganizationConflict("An organization keeps an owner: make somebody else one first.")
        if after is None:
            await connection.execute(_query("memberships_delete"), org_id, user_id)
        else:
            await connection.execute(_query("memberships_set_role"), org_id, user_id, after)
            if after == "owner":  # which no group makes, nor bounds
                await connection.execute(_query("memberships_manage"), org_id, user_id, False, None)
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

    async def notify(self, key_ids: Sequence[str], organization: Organization) -> None:
        """Notify gateways of keys that changed, some at the same time: somebody may have a hundred."""
        for first in range(0, len(key_ids), NOTIFIED_AT_ONCE):
            some = key_ids[first : first + NOTIFIED_AT_ONCE]
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
    return from_row(Member, row)


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
        given = given & ROLES[role] if role is not None else frozenset[str]()
        if holder_id != maker_id and KEYS_ADMIN not in given:
            raise OrganizationForbidden(role, KEYS_ADMIN)
    if holder_id is not None:
        role = await role_of(connection, row["id"], holder_id)
        if role is None:
            raise _no_member(holder_id)
        given &= ROLES[role]
    return given


def most_users(plans: Plans, default_plan: str, plan_id: str) -> int | None:
    """Return how many users a plan allows, or the default one in place of a plan that is no longer configured; None:
    any number."""
    return (plans.get(plan_id) or plans[default_plan]).users


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


@dataclass(frozen=True, slots=True)
class SeenInvitation:
    """What the mail of an invitation leads to: who invites which address to what. `inviter` is None where they are
    gone."""

    organization: str
    inviter: str | None
    email: str
    role: Role
    expires_at: datetime


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
            made = INVITATION_PREFIX + self._new_id(), org_id, email, role, secret_digest(token), acting.user_id, LIFE_S
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
            raise OrganizationConflict(f"An organization sends {most} invitations in 24 hours: try again tomorrow.")

    async def _check_mails(self, connection: Connection, acting: Acting, email: str) -> None:
        """Reject a mail more by this person, or to this address, whatever organizations sent the others."""
        for subject in (f"invitations by {acting.user_id}", f"invitations to {email}"):  # always in this order
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", subject)
        row = await connection.fetchrow(_query("invitation_mails_counts"), acting.user_id, email)
        counts = cast(Row, row)
        if counts["by_person"] >= self._settings.invitations_per_person:
            most = self._settings.invitations_per_person
            raise OrganizationConflict(f"One person sends {most} invitations in 24 hours: try again tomorrow.")
        if counts["to_address"] >= self._settings.invitations_per_address:
            raise OrganizationConflict(
                "This address was sent as many invitations in 24 hours as one is sent: wait for tomorrow, or ask its "
                "owner to look into the folder of spam."
            )

    def _check_users(self, plan_id: str, users: int) -> None:
        most = most_users(self._plans, self._default_plan, plan_id)
        if most is not None and users > most:
            plan = self._plans.get(plan_id) or self._plans[self._default_plan]
            raise OrganizationConflict(
                f"The plan {plan.name} allows {most} user{'' if most == 1 else 's'}, members and open "
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

    async def seen(self, token: str) -> SeenInvitation:
        """Return whose invitation a token is, for whoever has the mail. Raises `OrganizationNotFound` where it can't be
        accepted any more."""
        row = await self._database.row(_query("invitations_seen"), secret_digest(token))
        if row is None:
            raise OrganizationNotFound("This invitation is unknown, used, withdrawn or expired: ask for another one.")
        return from_row(SeenInvitation, row)

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
            raise OrganizationConflict("You are already a member.")
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
        inviter = quotable(await connection.fetchval(_query("users_called"), acting.user_id) or "")
        invited = "You are invited" if inviter is None else f"{inviter} invites you"
        where = "" if self._frontend_url is None else f"\n\n    {self._frontend_url.rstrip('/')}/invitations/{token}"
        body = (
            f"{invited} to join the organization {called} as {invitation.role}.\n\n"
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
    return from_row(Invitation, row, status=status)


async def _record(
    connection: Connection, actor: audit.Actor, action: str, organization: Organization, invitation: Invitation
) -> None:
    audited = {"email": invitation.email, "role": invitation.role}
    before, after = (audited, None) if action == "invitation.revoke" else (None, audited)
    await audit.record(connection, actor, action, invitation.id, before, after, account_id=organization.account_id)
