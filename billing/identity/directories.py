"""Directories: what a company's directory of people (Okta, Entra, Keycloak) makes of them in its organization.

A directory tells of people in two ways: by the groups that a sign-in of OpenID Connect names, and by SCIM
(`billing.scim`), which keeps a place for an address. Rules of the organization, in order, say what the first group that
applies gives: a role, how many keys, and limits of what is used with them. This file owns that

- nobody becomes a member by an address before they have proven it by signing in, and SCIM is answered alike until then,
- no rule makes or changes an owner, and the last owner stays,
- a place in the directory decides over the groups of a sign-in: whom it has ended no sign-in lets in again,
- a role that was given by hand stays until a rule applies to its member; from then on it is the rules'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from billing import audit
from billing.accounts.accounts import MemberQuotas, set_member_limits
from billing.database.connection import Connection, Database, Row, queries
from billing.errors import MetergateError
from billing.identity.organizations import (
    Acting,
    Members,
    Organization,
    OrganizationConflict,
    OrganizationRefused,
    check_acting,
    locked,
)
from billing.permissions import ORG_TRANSFER, Role
from billing.quotas import Quota, check_quotas, parse_quotas, quota_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.change_notifier import ChangeNotifier

# The group of a rule that everybody is in.
EVERYONE: Final = "*"
MOST_RULES: Final = 200
MOST_GROUP: Final = 256
MOST_KEYS: Final = 100_000
MOST_DOMAINS: Final = 100
# What somebody is whom the directory has, and to whom no rule applies: with rules, who sees and changes nothing.
_WITHOUT_RULES: Final[Role] = "member"
_WITHOUT_GROUP: Final[Role] = "viewer"
_query = queries("billing.identity")


class DomainTaken(MetergateError):
    """A domain is another organization's."""

    kind = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRule:
    """What the members of a group get: a role below owner, at most `max_keys` keys, and limits of what they use with
    all of them; None leaves either as it is."""

    group: str
    role: Role
    max_keys: int | None = None
    quotas: tuple[Quota, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.group.strip()) <= MOST_GROUP:
            raise OrganizationRefused("rules", f"A group's name has 1 to {MOST_GROUP} characters; * is everybody.")
        if self.role not in get_args(Role) or self.role == "owner":
            raise OrganizationRefused("rules", "A group makes admins, members or viewers: owners are made by owners.")
        if self.max_keys is not None and not 0 <= self.max_keys <= MOST_KEYS:
            raise OrganizationRefused("rules", f"max_keys is from 0 to {MOST_KEYS}.")
        check_quotas(self.quotas or ())

    @property
    def stored(self) -> dict[str, object]:
        """Return it as JSON."""
        quotas = None if self.quotas is None else [quota_json(quota) for quota in self.quotas]
        return {"group": self.group, "role": self.role, "max_keys": self.max_keys, "quotas": quotas}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> GroupRule:
        """Return a rule of its JSON. Raises `QuotaError` and `OrganizationRefused`."""
        quotas = stored.get("quotas")
        return cls(
            group=stored["group"],
            role=stored["role"],
            max_keys=stored.get("max_keys"),
            quotas=None if quotas is None else parse_quotas(quotas),
        )


def matching(rules: Iterable[GroupRule], groups: Iterable[str]) -> GroupRule | None:
    """Return the first rule for one of these groups, whatever its case; None where there is none."""
    named = {group.casefold() for group in groups}
    return next((rule for rule in rules if rule.group == EVERYONE or rule.group.casefold() in named), None)


@dataclass(slots=True)
class Changes:
    """What a transaction has changed of which gateways are to be told after it."""

    organization: Organization
    key_ids: list[str] = field(default_factory=list)
    limits: bool = False


class Directories:
    """Applies what directories say of people. `most_users` gives how many users a plan allows, None: any number.
    Methods raise `OrganizationError` and `DatabaseError`; those that take a connection work in its transaction, which
    has locked the organization, and note in `Changes` what `tell` has to propagate after it."""

    def __init__(
        self,
        database: Database,
        members: Members,
        effects: ChangeNotifier,
        most_users: Callable[[str], int | None] = lambda plan: None,
    ) -> None:
        self._database, self._members, self._effects, self._most_users = database, members, effects, most_users

    async def rules(self, org_id: str) -> tuple[GroupRule, ...]:
        """Return an organization's rules, in their order."""
        return _rules(await self._database.value(_query("group_rules_get"), org_id))

    async def set_rules(self, org_id: str, rules: Sequence[GroupRule], acting: Acting) -> tuple[GroupRule, ...]:
        """Replace an organization's rules, for an owner. They apply to whom SCIM has provisioned at once, to others
        when they next sign in."""
        if len(rules) > MOST_RULES:
            raise OrganizationRefused("rules", f"An organization has at most {MOST_RULES} rules.")
        wanted = tuple(rules)
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            await check_acting(connection, org_id, acting, ORG_TRANSFER, "owner")
            before = await _read(connection, org_id)
            changes = Changes(organization)
            if before != wanted:
                stored = [rule.stored for rule in wanted]
                await connection.execute(_query("group_rules_set"), org_id, stored)
                change = {"rules": [rule.stored for rule in before]}, {"rules": stored}
                account_id = organization.account_id
                await audit.record(
                    connection, acting.actor, "group_rules.update", org_id, *change, account_id=account_id
                )
                await self.sync(connection, changes, None, acting.actor)
        await self.tell(changes)
        return wanted

    async def domains(self, org_id: str) -> list[str]:
        """Return the domains of addresses that are an organization's own."""
        rows = await self._database.rows(_query("organization_domains_get"), org_id)
        return [row["domain"] for row in rows]

    async def set_domains(self, org_id: str, domains: Iterable[str], actor: audit.Actor) -> list[str]:
        """Replace these domains for an operator, who has found out that they are the organization's. Raises
        `DomainTaken` for one that is another organization's."""
        wanted = sorted(set(domains))
        if len(wanted) > MOST_DOMAINS:
            raise OrganizationRefused("domains", f"An organization has at most {MOST_DOMAINS} domains.")
        async with self._database.transaction() as connection:
            organization = await locked(connection, org_id)
            rows = await connection.fetch(_query("organization_domains_get"), org_id)
            before = [row["domain"] for row in rows]
            await connection.execute(_query("organization_domains_remove"), org_id, wanted)
            await connection.execute(_query("organization_domains_add"), org_id, wanted)
            rows = await connection.fetch(_query("organization_domains_get"), org_id)
            after = [row["domain"] for row in rows]
            if after != wanted:
                taken = ", ".join(domain for domain in wanted if domain not in after)
                raise DomainTaken(f"Another organization has {taken}: take it from that one first.")
            if after != before:
                change = {"domains": before}, {"domains": after}
                account_id = organization.account_id
                await audit.record(connection, actor, "organization.domains", org_id, *change, account_id=account_id)
        return wanted

    async def signed_in(
        self, user_id: str, actor: audit.Actor, org_id: str | None = None, groups: frozenset[str] | None = None
    ) -> None:
        """Apply to who has just signed in what directories say: places that are kept for the address that they have
        proven, and the groups of a provider whose people are those of the organization `org_id`; None: the provider
        has not said which. Of a disabled user nothing changes."""
        if not await self._database.value(_query("users_enabled"), user_id):
            return
        for row in await self._database.rows(_query("scim_users_waiting"), user_id):
            await self._take(row["org_id"], row["id"], user_id, actor)
        if org_id is not None and groups is not None:
            await self._apply_groups(org_id, user_id, groups, actor)

    async def own(self, connection: Connection, user_id: str, org_id: str | None) -> str | None:
        """Return the organization of this id where somebody belongs to it, for a session to be about."""
        if org_id is None or await _membership(connection, org_id, user_id) is None:
            return None
        return org_id

    async def _take(self, org_id: str, place_id: str, user_id: str, actor: audit.Actor) -> None:
        """Give somebody the place that is kept for their address, unless it has changed meanwhile or the plan is
        full."""
        async with self._database.transaction() as connection:
            changes = Changes(await locked(connection, org_id))
            taken = await connection.fetchval(_query("scim_users_take"), place_id, user_id)
            if taken is not None and not await self.join(connection, changes, user_id, actor):
                await connection.execute(_query("scim_users_release"), place_id)
        await self.tell(changes)

    async def join(self, connection: Connection, changes: Changes, user_id: str, actor: audit.Actor) -> bool:
        """Make who has a place in the directory a member, as the rules say; who is one already stays so. False where
        the plan has no room for them."""
        organization, row = changes.organization, await _membership(connection, changes.organization.id, user_id)
        if row is None:
            if not await self._has_room(connection, organization):
                return False
            rules = await _read(connection, organization.id)
            role = _WITHOUT_GROUP if rules else _WITHOUT_RULES
            await self._members.add(connection, organization, user_id, role, actor)
            await connection.execute(_query("memberships_manage"), organization.id, user_id, bool(rules), None)
        await self.sync(connection, changes, [user_id], actor)
        return True

    async def leave(self, connection: Connection, changes: Changes, user_id: str, actor: audit.Actor) -> None:
        """End the membership of somebody who has left the company, with their keys and sessions in the organization and
        the invitations to their address. Raises `OrganizationConflict` for the last owner."""
        organization = changes.organization
        row = await _membership(connection, organization.id, user_id)
        if row is not None:
            roles = row["role"], None
            changes.key_ids += await self._members.change(connection, organization, user_id, roles, actor)
        await self.uninvite(connection, changes, (), user_id, actor)
        await connection.execute(_query("sessions_end_in"), user_id, organization.id, "left the organization")

    async def uninvite(
        self,
        connection: Connection,
        changes: Changes,
        addresses: Sequence[str | None],
        user_id: str | None,
        actor: audit.Actor,
    ) -> None:
        """Revoke what the organization has invited to these addresses, and to that of a user."""
        await self._members.uninvite(connection, changes.organization, addresses, user_id, actor)

    async def sync(
        self, connection: Connection, changes: Changes, user_ids: Sequence[str] | None, actor: audit.Actor
    ) -> None:
        """Give members whom the directory has, all or these, what the rules make of their groups there."""
        org_id = changes.organization.id
        rules = await _read(connection, org_id)
        given = None if user_ids is None else list(user_ids)
        for row in await connection.fetch(_query("scim_members"), org_id, given):
            rule = matching(rules, row["groups"])
            if rule is None and row["managed"]:  # the group that gave the role is gone, or its rule
                role = _WITHOUT_GROUP if rules else row["role"]
                await self._settle(connection, changes, row, GroupRule(group=EVERYONE, role=role), actor)
            elif rule is not None:
                await self._settle(connection, changes, row, rule, actor)

    async def tell(self, changes: Changes) -> None:
        """Propagate what a committed transaction has changed."""
        await self._members.notify(changes.key_ids, changes.organization)
        if changes.limits:
            await self._effects.account_changed(changes.organization.account_id)

    async def _apply_groups(self, org_id: str, user_id: str, groups: frozenset[str], actor: audit.Actor) -> None:
        async with self._database.transaction() as connection:
            changes = Changes(await locked(connection, org_id))
            if await connection.fetchval(_query("scim_users_known"), org_id, user_id):
                return
            rule = matching(await _read(connection, org_id), groups)
            row = await _membership(connection, org_id, user_id)
            if rule is None:
                if row is not None and row["managed"] and row["role"] != "owner":
                    await self.leave(connection, changes, user_id, actor)
            else:
                if row is None and await self._has_room(connection, changes.organization):
                    await self._members.add(connection, changes.organization, user_id, rule.role, actor)
                    row = await _membership(connection, org_id, user_id)
                if row is not None:
                    await self._settle(connection, changes, row, rule, actor)
        await self.tell(changes)

    async def _settle(
        self, connection: Connection, changes: Changes, row: Row, rule: GroupRule, actor: audit.Actor
    ) -> None:
        """Give a member what a rule says; an owner stays one, with no limits of a group."""
        organization, user_id, role = changes.organization, row["user_id"], cast("Role", row["role"])
        if role == "owner":
            return
        if role != rule.role:
            roles = role, rule.role
            changes.key_ids += await self._members.change(connection, organization, user_id, roles, actor)
        if not row["managed"] or row["max_keys"] != rule.max_keys:
            await connection.execute(_query("memberships_manage"), organization.id, user_id, True, rule.max_keys)
        if rule.quotas is not None:
            wanted = MemberQuotas(organization.account_id, user_id, rule.quotas)
            changes.limits |= await set_member_limits(connection, wanted, actor)

    async def _has_room(self, connection: Connection, organization: Organization) -> bool:
        row = cast("Row", await connection.fetchrow(_query("memberships_room"), organization.id))
        most = self._most_users(row["plan"])
        return most is None or row["members"] < most

    async def check_room(self, connection: Connection, organization: Organization, user_id: str | None = None) -> None:
        """Reject a directory that has more people than the plan has room for, those counted who are invited or have not
        signed in yet, and a person who is no member for that. Raises `OrganizationConflict`."""
        row = cast("Row", await connection.fetchrow(_query("memberships_room"), organization.id))
        most = self._most_users(row["plan"])
        left_out = user_id is not None and await _membership(connection, organization.id, user_id) is None
        if most is not None and (left_out or row["members"] + row["expected"] > most):
            raise OrganizationConflict(
                f"The plan allows {most} user{'' if most == 1 else 's'}, members, open invitations and people of the "
                "directory together: remove one, or change the plan."
            )


def _rules(stored: Any) -> tuple[GroupRule, ...]:
    return tuple(GroupRule.of(each) for each in stored or ())


async def _read(connection: Connection, org_id: str) -> tuple[GroupRule, ...]:
    return _rules(await connection.fetchval(_query("group_rules_get"), org_id))


async def _membership(connection: Connection, org_id: str, user_id: str) -> Row | None:
    return await connection.fetchrow(_query("memberships_managed"), org_id, user_id)
