"""Directory: people and groups of an organization's directory in Postgres, and what their changes do to its members.

Every change locks the organization's row first, as all changes of members do, and reads what it changes under that
lock: of two at the same time the second sees what the first has done. A resource is found in its organization alone.

A person is a place that is kept for an address. Answers say nothing of whether somebody here has that address: who is
no member yet takes the place by signing in, if the address is of a domain of the organization's
(`billing.identity.directories`). When the directory says that somebody is active no more, or forgets them, their
membership, their sessions and their keys in the organization end in the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

from billing import audit
from billing.database.connection import Connection, Database, Row, UniqueViolation, from_row, queries
from billing.identity.directories import Changes, Directories
from billing.identity.organizations import locked
from billing.mail import BadAddress, parse_email
from billing.scim.attributes import GROUPS, USERS, Resource, ResourceType, ScimError, address_of
from billing.scim.filters import Asked, Filter, compared, comparisons, holds, names_in
from billing.scim.patches import MOST_SHOWN
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.settings import ScimSettings

USER_PREFIX: Final = "scu_"
GROUP_PREFIX: Final = "scg_"
# Rows that a filter is evaluated on between two statements; where it asks for members of groups, or groups of people.
BATCH: Final = 500
BATCH_WITH_REFERENCES: Final = 10
# Comparisons after which other calls have their turn; a row that needs more of them is compared in a thread.
COMPARED_AT_ONCE: Final = 2000
# What a filter's look at a row costs beside a member that is read.
LOOK_COSTS: Final = 10
# Members, or groups, that the resources of one page have together: a page ends early where there are more.
MOST_REFERENCES: Final = 20_000
_query = queries("billing.scim")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many people and groups a directory has, and how many of the people have an address of none of the
    organization's domains: these become members by an invitation alone."""

    people: int
    outside: int
    groups: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A member of a group, or a group that somebody is in, which has a name."""

    id: str
    display: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A person or a group as it is kept, without what is known of it; `references` are a group's members, or a person's
    groups."""

    id: str
    resource: Resource
    version: int
    created_at: datetime
    updated_at: datetime
    references: tuple[Reference, ...] = ()

    @property
    def etag(self) -> str:
        """Return its version as an entity tag, which says that two are equivalent."""
        return f'W/"{self.version}"'

    def shown(self, type_: ResourceType, base_url: str) -> Resource:
        """Return the resource as clients see it, below this URL."""
        other, name = ("Users", "members") if type_ is GROUPS else ("Groups", "groups")
        kind = "User" if type_ is GROUPS else "direct"
        references = [
            {
                "value": each.id,
                "$ref": f"{base_url}/{other}/{each.id}",
                **({"display": each.display} if each.display else {}),
                "type": kind,
            }
            for each in self.references
        ]
        return {
            "schemas": [type_.schema],
            "id": self.id,
            **self.resource,
            **({name: references} if references else {}),
            "meta": {
                "resourceType": type_.name,
                "created": rfc3339(self.created_at),
                "lastModified": rfc3339(self.updated_at),
                "location": f"{base_url}/{type_.endpoint}/{self.id}",
                "version": self.etag,
            },
        }


# What a resource becomes, of what it is.
Change = Callable[[Resource], Resource]
# Which ids the members of a group become, of those that they are.
MemberChange = Callable[[dict[str, None]], dict[str, None]]


def not_found(type_: ResourceType, id_: str) -> ScimError:
    """Return what is raised for a resource that there is not in this organization."""
    return ScimError(f"There is no {type_.name} {id_[:100]!r}.", status=404)


class Directory:
    """Keeps people and groups of organizations' directories. Methods raise `ScimError`, `OrganizationError` and
    `DatabaseError`; `expected` are entity tags of which the resource has to have one, None: any. `spend` is told how
    many rows an organization has had looked at."""

    def __init__(
        self,
        database: Database,
        directories: Directories,
        new_id: Callable[[], str],
        settings: ScimSettings,
        spend: Callable[[str, int], None] = lambda org_id, rows: None,
    ) -> None:
        self._database, self._directories, self._new_id = database, directories, new_id
        self.settings, self._spend = settings, spend

    async def counts(self, org_id: str) -> Counts:
        """Return what an organization's directory has."""
        return from_row(Counts, cast("Row", await self._database.row(_query("directory_counts"), org_id)))

    async def create_user(self, org_id: str, given: Resource, actor: audit.Actor) -> Record:
        """Add a person, who is active unless it says otherwise."""
        resource = {"active": True, **given}
        async with self._changing(org_id) as (connection, changes):
            people = await connection.fetchval(_query("users_count"), org_id)
            if people >= self.settings.scim_users:
                raise ScimError(f"A directory has at most {self.settings.scim_users} people here.", "tooMany")
            id_ = USER_PREFIX + self._new_id()
            row = await connection.fetchrow(
                _query("users_insert"), id_, org_id, *_user_keys(resource), resource["active"], resource
            )
            await _record(connection, changes, actor, "scim_user.create", id_, (None, resource))
            if not resource["active"]:
                await self._end(connection, changes, cast("Row", row), actor)
            elif not await self._link(connection, changes, id_, actor):
                await self._directories.check_room(connection, changes.organization)
        return _found(row)

    async def change_user(
        self, org_id: str, id_: str, change: Change, actor: audit.Actor, expected: Sequence[str] | None = None
    ) -> Record:
        """Change a person. Who is active no more loses membership, sessions and keys; who is active again, and has had
        a membership, gets one again."""
        async with self._changing(org_id) as (connection, changes):
            row = await _locked(connection, USERS, "users_lock", org_id, id_, expected)
            before: Resource = row["resource"]
            after = {"active": before.get("active", True), **change(dict(before))}
            if after != before:
                if row["active"]:
                    await self._link(connection, changes, id_, actor)
                updated = await connection.fetchrow(
                    _query("users_update"), id_, *_user_keys(after), after["active"], after
                )
                await _record(connection, changes, actor, "scim_user.update", id_, (before, after))
                await self._follow(connection, changes, row, cast("Row", updated), actor)
        return await self.user(org_id, id_)

    async def _follow(
        self, connection: Connection, changes: Changes, before: Row, after: Row, actor: audit.Actor
    ) -> None:
        """Have membership follow whether a person is active."""
        user_id = after["user_id"]
        if not after["active"]:
            if before["active"] or before["email"] != after["email"]:
                await self._end(connection, changes, after, actor, before["email"])
        elif not before["active"] and user_id is not None:
            await self._directories.join(connection, changes, user_id, actor)
            await self._directories.check_room(connection, changes.organization, user_id)
        elif not await self._link(connection, changes, after["id"], actor) and not before["active"]:
            await self._directories.check_room(connection, changes.organization)

    async def _end(
        self, connection: Connection, changes: Changes, place: Row, actor: audit.Actor, address: str | None = None
    ) -> None:
        """End the membership of somebody who is active no more, also of a member whose place this has not been yet, and
        the invitations to their address, and to another one that they had."""
        linked = await connection.fetchval(_query("users_link"), place["id"])
        user_id = place["user_id"] or linked
        await self._directories.uninvite(connection, changes, [place["email"], address], None, actor)
        if user_id is not None:
            await self._directories.leave(connection, changes, user_id, actor)

    async def delete_user(
        self, org_id: str, id_: str, actor: audit.Actor, expected: Sequence[str] | None = None
    ) -> None:
        """Remove a person, who leaves the organization."""
        async with self._changing(org_id) as (connection, changes):
            row = await _locked(connection, USERS, "users_lock", org_id, id_, expected)
            if row["active"]:
                await self._end(connection, changes, row, actor)
            await connection.execute(_query("users_delete"), id_)
            await _record(connection, changes, actor, "scim_user.delete", id_, (row["resource"], None))

    async def user(self, org_id: str, id_: str) -> Record:
        """Return a person."""
        return await self._one(USERS, "users_get", "users_groups", org_id, id_)

    async def users(self, org_id: str, asked: Asked) -> tuple[int, list[Record]]:
        """Return how many people there are, and a page of them, by id."""
        return await self._search(USERS, org_id, asked, ("userName", "users_named", "users_external"))

    async def create_group(self, org_id: str, given: Resource, members: dict[str, None], actor: audit.Actor) -> Record:
        """Add a group with these people."""
        async with self._changing(org_id) as (connection, changes):
            if await connection.fetchval(_query("groups_count"), org_id) >= self.settings.scim_groups:
                raise ScimError(f"A directory has at most {self.settings.scim_groups} groups here.", "tooMany")
            id_ = GROUP_PREFIX + self._new_id()
            row = await connection.fetchrow(_query("groups_insert"), id_, org_id, *_group_keys(given), given)
            await self._set_members(connection, changes, id_, ({}, members), actor)
            after = {**given, "members": len(members)}
            await _record(connection, changes, actor, "scim_group.create", id_, (None, after))
            found = await _references(connection, "groups_members", [id_])
        self._spend(org_id, len(members))
        return _found(row, found.get(id_, ()))

    async def change_group(
        self,
        org_id: str,
        id_: str,
        changed: tuple[Change, MemberChange],
        actor: audit.Actor,
        expected: Sequence[str] | None = None,
        *,
        whole: bool = True,
    ) -> tuple[Record, int]:
        """Change a group and its members, who get what the rules say of it; return it and how many there are. Without
        `whole`, a group of more than MOST_SHOWN comes without them."""
        change, change_members = changed
        async with self._changing(org_id) as (connection, changes):
            row = await _locked(connection, GROUPS, "groups_lock", org_id, id_, expected)
            rows = await connection.fetch(_query("groups_member_ids"), id_)
            members = {each["member_id"]: None for each in rows}
            before, after = row["resource"], change(dict(row["resource"]))
            await asyncio.sleep(0)
            wanted = change_members(dict(members))
            if after != before or wanted.keys() != members.keys():
                await connection.execute(_query("groups_update"), id_, *_group_keys(after), after)
                renamed = _group_keys(after) != _group_keys(before)
                await self._set_members(connection, changes, id_, (members, wanted), actor, everybody=renamed)
                numbers = {"added": len(wanted.keys() - members.keys()), "removed": len(members.keys() - wanted.keys())}
                await _record(connection, changes, actor, "scim_group.update", id_, (before, {**after, **numbers}))
        self._spend(org_id, len(members) + len(wanted.keys() - members.keys()))
        return await self.group(org_id, id_, references=whole or len(wanted) <= MOST_SHOWN), len(wanted)

    async def delete_group(
        self, org_id: str, id_: str, actor: audit.Actor, expected: Sequence[str] | None = None
    ) -> None:
        """Remove a group; its members lose what it gave them."""
        async with self._changing(org_id) as (connection, changes):
            row = await _locked(connection, GROUPS, "groups_lock", org_id, id_, expected)
            rows = await connection.fetch(_query("groups_member_ids"), id_)
            members = {each["member_id"]: None for each in rows}
            await self._set_members(connection, changes, id_, (members, {}), actor)
            await connection.execute(_query("groups_delete"), id_)
            await _record(connection, changes, actor, "scim_group.delete", id_, (row["resource"], None))

    async def group(self, org_id: str, id_: str, *, references: bool = True) -> Record:
        """Return a group."""
        return await self._one(GROUPS, "groups_get", "groups_members" if references else None, org_id, id_)

    async def groups(self, org_id: str, asked: Asked) -> tuple[int, list[Record]]:
        """Return how many groups there are, and a page of them, by id."""
        return await self._search(GROUPS, org_id, asked, ("displayName", "groups_named", "groups_external"))

    @asynccontextmanager
    async def _changing(self, org_id: str) -> AsyncIterator[tuple[Connection, Changes]]:
        """Yield a transaction that has locked the organization, whose effects are told after it."""
        try:
            async with self._database.transaction() as connection:
                changes = Changes(await locked(connection, org_id))
                yield connection, changes
        except UniqueViolation as error:
            raise _taken(str(error)) from error
        await self._directories.tell(changes)

    async def _link(self, connection: Connection, changes: Changes, id_: str, actor: audit.Actor) -> bool:
        """Give an active person's place to the member whose proven address it is kept for, and return whether there is
        one: of a member the organization knows the address already."""
        user_id = await connection.fetchval(_query("users_link"), id_)
        if user_id is not None:
            await self._directories.sync(connection, changes, [user_id], actor)
        return user_id is not None

    async def _set_members(
        self,
        connection: Connection,
        changes: Changes,
        id_: str,
        members: tuple[dict[str, None], dict[str, None]],
        actor: audit.Actor,
        *,
        everybody: bool = False,
    ) -> None:
        """Have a group have other members, and give those that came or went, or everybody, what the rules say."""
        before, after = members
        added, removed = list(after.keys() - before.keys()), list(before.keys() - after.keys())
        known = await connection.fetchval(_query("users_count_of"), changes.organization.id, added)
        if known != len(added):
            raise ScimError(
                "A member of the group is nobody whom this directory has: add the person first.", "invalidValue"
            )
        await connection.execute(_query("groups_remove"), id_, removed)
        if added:
            most = self.settings.scim_memberships
            if await connection.fetchval(_query("groups_memberships"), changes.organization.id) + len(added) > most:
                raise ScimError(f"The groups of a directory have at most {most} members together here.", "tooMany")
            await connection.execute(_query("groups_add"), id_, added)
        touched = list(after) + removed if everybody else added + removed
        rows = await connection.fetch(_query("users_taken"), touched)
        if rows:
            await self._directories.sync(connection, changes, [row["user_id"] for row in rows], actor)

    async def _one(self, type_: ResourceType, statement: str, references: str | None, org_id: str, id_: str) -> Record:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_query(statement), org_id, id_)
            if row is None:
                raise not_found(type_, id_)
            found = {} if references is None else await _references(connection, references, [id_])
        return _found(row, found.get(id_, ()))

    async def _search(
        self, type_: ResourceType, org_id: str, asked: Asked, by: tuple[str, str, str]
    ) -> tuple[int, list[Record]]:
        attribute, named, external = by
        noun = type_.endpoint.lower()
        if asked.only is None:
            total = await self._database.value(_query(f"{noun}_count"), org_id)
            rows = await self._database.rows(_query(f"{noun}_page"), org_id, asked.start, asked.count)
        else:
            batches: AsyncIterator[list[Row]]
            if (name := compared(asked.only, attribute)) is not None:
                batches = _batch(await self._database.rows(_query(named), org_id, name.casefold()))
            elif (name := compared(asked.only, "externalId")) is not None:
                batches = _batch(await self._database.rows(_query(external), org_id, name))
            else:
                has_references = ("members" if type_ is GROUPS else "groups") in names_in(asked.only)
                batches = self._batches(noun, org_id, BATCH_WITH_REFERENCES if has_references else BATCH)
            total, rows = await self._filtered(type_, org_id, batches, asked)
        rows = await self._bounded(rows, noun) if asked.references else list(rows)
        return total, await self._records(rows, noun, references=asked.references)

    async def _batches(self, noun: str, org_id: str, size: int) -> AsyncIterator[list[Row]]:
        after = ""
        while rows := await self._database.rows(_query(f"{noun}_after"), org_id, after, size):
            yield rows
            after = rows[-1]["id"]

    async def _filtered(
        self, type_: ResourceType, org_id: str, batches: AsyncIterator[list[Row]], asked: Asked
    ) -> tuple[int, list[Row]]:
        """Return how many rows a filter holds for, and those of the page. What a filter may ask of groups and members
        is read for each batch."""
        total, page, made = 0, list[Row](), 0
        only = cast("Filter", asked.only)
        each_time = comparisons(only)
        references = not names_in(only).isdisjoint(("members", "groups"))
        async for rows in batches:
            records = await self._records(rows, type_.endpoint.lower(), references=references)
            looked = LOOK_COSTS * len(rows) + sum(len(each.references) for each in records)
            self._spend(org_id, looked * each_time)
            for row, record in zip(rows, records, strict=True):
                needed = each_time * (1 + len(record.references))
                made += needed
                if made >= COMPARED_AT_ONCE:
                    made = 0
                    await asyncio.sleep(0)
                shown = record.shown(type_, "")
                if needed >= COMPARED_AT_ONCE:
                    found = await asyncio.to_thread(holds, only, type_, shown)
                else:
                    found = holds(only, type_, shown)
                if found:
                    if asked.start <= total < asked.start + asked.count:
                        page.append(row)
                    total += 1
        return total, page

    async def _bounded(self, rows: Sequence[Row], noun: str) -> list[Row]:
        """Return the rows that have few enough references together, the first one at least."""
        kept, left = list[Row](), MOST_REFERENCES
        counted = await self._database.rows(_query(f"{noun}_references"), [row["id"] for row in rows])
        counts = {row["id"]: row["references"] for row in counted}
        for row in rows:
            left -= counts.get(row["id"], 0)
            if left < 0 and kept:
                break
            kept.append(row)
        return kept

    async def _records(self, rows: Sequence[Row], noun: str, *, references: bool) -> list[Record]:
        found: dict[str, list[Reference]] = {}
        if references and rows:
            statement = "users_groups" if noun == "users" else "groups_members"
            async with self._database.connection() as connection:
                found = await _references(connection, statement, [row["id"] for row in rows])
        return [_found(row, found.get(row["id"], ())) for row in rows]


def _taken(constraint: str) -> ScimError:
    """Return what is raised where another resource of the directory has a name or an address."""
    what = "address" if constraint.endswith("_email") else "name"
    return ScimError(f"Another resource of this directory has this {what}.", "uniqueness", 409)


def _user_keys(resource: Resource) -> tuple[str, str | None, str | None]:
    """Return by what a person is found: the name, the address, if there is one, and the directory's id."""
    try:
        email = parse_email(address_of(resource))
    except BadAddress:
        email = None
    return resource["userName"].casefold(), email, resource.get("externalId")


def _group_keys(resource: Resource) -> tuple[str, str | None]:
    """Return by what a group is found: the name and the directory's id."""
    return resource["displayName"].casefold(), resource.get("externalId")


async def _batch(rows: list[Row]) -> AsyncIterator[list[Row]]:
    yield rows


async def _locked(
    connection: Connection, type_: ResourceType, statement: str, org_id: str, id_: str, expected: Sequence[str] | None
) -> Row:
    """Return a resource's row, which stays as it is until the transaction ends. Raises `ScimError`."""
    row = await connection.fetchrow(_query(statement), org_id, id_)
    if row is None:
        raise not_found(type_, id_)
    if expected is not None and _found(row).etag not in expected:
        raise ScimError("The resource has changed: read it again.", status=412)
    return row


async def _references(connection: Connection, statement: str, ids: list[str]) -> dict[str, list[Reference]]:
    found: dict[str, list[Reference]] = {}
    for row in await connection.fetch(_query(statement), ids):
        found.setdefault(row["of"], []).append(Reference(row["id"], row["display"]))
    return found


def _found(row: Row | None, references: Iterable[Reference] = ()) -> Record:
    return from_row(Record, cast("Row", row), references=tuple(references))


async def _record(
    connection: Connection,
    changes: Changes,
    actor: audit.Actor,
    action: str,
    id_: str,
    change: tuple[Resource | None, Resource | None],
) -> None:
    account_id = changes.organization.account_id
    await audit.record(connection, actor, action, id_, *change, account_id=account_id)
