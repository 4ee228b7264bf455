"""Organizations: who owns a billing account. This file owns how one is founded, its name and its slug.

Whoever changes an organization or who belongs to it locks its row first, so that of two changes at the same time the
second one sees what the first has done. `billing.identity.members` and `.invitations` do so, too.

OrganizationError
+-- OrganizationForbidden  the role of whoever asks, or their token, does not allow it
+-- OrganizationNotFound   no organization, member or invitation that the caller may know of
+-- OrganizationRefused    what was asked can't be so: `field` names what of it
+-- OrganizationConflict   it can't be done as things stand: the last owner, a bound, a slug that is taken
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

from billing import audit
from billing.accounts.accounts import open_account
from billing.database.connection import Connection, Database, Row, UniqueViolation, from_row, queries
from billing.errors import MetergateError
from billing.identity.mail_templates import quotable
from billing.mail import enqueue
from billing.pages import BEFORE_ALL, Page, page_of
from billing.settings import OrganizationSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from billing.permissions import Role
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
        self, database: Database, new_id: Callable[[], str], plan: str, settings: OrganizationSettings | None = None
    ) -> None:
        """`new_id` makes ULIDs that rise with time; `plan` is that of a new account."""
        self._database, self._new_id, self._plan = database, new_id, plan
        self._settings = OrganizationSettings() if settings is None else settings

    async def create(self, user_id: str, name: str, *, actor: audit.Actor) -> Organization:
        """Create an organization that a person owns. Raises `OrganizationConflict` where they own too many, or are not
        let in yet."""
        async with self._database.transaction() as connection:
            user = await connection.fetchrow(_query("memberships_user"), user_id)
            if user is None or user["status"] != "active":
                raise OrganizationConflict("Who is not let in yet founds no organization: verify your address first.")
            await check_may_own(connection, user_id, self._settings.organizations_per_user)
            return await found(
                connection, self._new_id, self._plan, user_id=user_id, name=name, personal=False, actor=actor
            )

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
        what = "The secret before its rotation was" if key.revoked_at is None else "It was"
        name = quotable(key.name)
        which = key.id if name is None else f'"{name}" ({key.id})'
        body = (
            f"Somebody has found the secret of the API key {which} and reported it to this gateway.\n\n"
            f"{what} revoked at once. Look at what the key was used for, and find out where the secret stood.\n"
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
