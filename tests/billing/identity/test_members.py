"""An organization always has an owner; nobody gives or takes a role above their own; keys end with the membership."""

import asyncio

import pytest

from billing.audit import Actor
from billing.identity.organizations import (
    Acting,
    Members,
    Organization,
    OrganizationConflict,
    OrganizationForbidden,
    OrganizationNotFound,
    grantable_scopes,
)
from billing.keys.secrets import secret_digest
from billing.permissions import ROLES, Role
from tests.billing.identity.support import acting, join, new_organization, new_user, roles
from tests.billing.support import Billing, changes_told


@pytest.fixture
def members(billing: Billing) -> Members:
    return Members(billing.database, billing.change_notifier, most_owned=3)


class Team:
    """An organization with one person of each role, by the role's name, and a stranger."""

    def __init__(self, organization: Organization, people: dict[str, str]) -> None:
        self.organization, self.people = organization, people

    def __getitem__(self, name: str) -> str:
        return self.people[name]


@pytest.fixture
async def team(billing: Billing) -> Team:
    names: list[Role] = ["admin", "member", "viewer"]
    people = {name: await new_user(billing, f"{name}@example.com") for name in ("owner", *names, "stranger")}
    organization = await new_organization(billing, "Acme", people["owner"])
    for name in names:
        await join(billing, organization, people[name], name)
    return Team(organization, people)


@pytest.mark.parametrize("who", ["owner", "admin", "member", "viewer"])
async def test_who_may_give_which_role(billing, members, team, who):
    org_id = team.organization.id
    given: tuple[Role, ...] = ("owner", "admin", "member", "viewer")
    for whom in ("owner", "admin", "member", "viewer"):
        for role in given:
            before = await roles(billing, team.organization)
            try:
                await members.set_role(org_id, team[whom], role, acting(team[who]))
                done = True
            except (OrganizationForbidden, OrganizationConflict):
                done = False
            high = "owner" in (whom, role)
            last = (whom, who) == ("owner", "owner") and role != "owner"
            assert done == (not last and (who == "owner" or (who == "admin" and not high))), (who, whom, role)
            for name, as_before in before.items():
                await billing.database.execute(
                    "UPDATE memberships SET role = $3 WHERE org_id = $1 AND user_id = $2", org_id, name, as_before
                )


async def test_strangers_and_unknown_members_are_not_found(members, team):
    org_id = team.organization.id
    for call in (
        members.set_role(org_id, team["member"], "viewer", acting(team["stranger"])),
        members.remove(org_id, team["member"], acting(team["stranger"])),
        members.remove(org_id, team["stranger"], acting(team["stranger"])),
        members.remove(org_id, team["stranger"], acting(team["owner"])),
        members.set_role(org_id, "usr_none", "viewer", acting(team["owner"])),
        members.transfer(org_id, team["stranger"], "admin", acting(team["owner"])),
        members.remove("org_none", team["member"], acting(team["owner"])),
        members.get(org_id, team["stranger"]),
    ):
        with pytest.raises(OrganizationNotFound):
            await call


async def test_a_narrowed_token_does_what_it_names(members, team):
    org_id, narrow = team.organization.id, acting(team["owner"], "members:write")
    await members.set_role(org_id, team["member"], "viewer", narrow)
    with pytest.raises(OrganizationForbidden) as refused:
        await members.set_role(org_id, team["member"], "owner", narrow)
    assert refused.value.required_scope == "org:transfer"
    with pytest.raises(OrganizationForbidden):
        await members.remove(org_id, team["owner"], acting(team["owner"], "billing:read"))


async def test_everybody_but_the_last_owner_may_leave(billing, members, team):
    org_id = team.organization.id
    with pytest.raises(OrganizationConflict):
        await members.remove(org_id, team["owner"], acting(team["owner"]))
    for name in ("viewer", "member", "admin"):
        await members.remove(org_id, team[name], acting(team[name]))
    assert await roles(billing, team.organization) == {team["owner"]: "owner"}


async def test_two_owners_who_leave_at_once_leave_one(billing, members, team):
    org_id = team.organization.id
    await members.set_role(org_id, team["admin"], "owner", acting(team["owner"]))
    left = await asyncio.gather(
        *(members.remove(org_id, team[name], acting(team[name])) for name in ("owner", "admin")),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in left) == ["NoneType", "OrganizationConflict"]
    assert list((await roles(billing, team.organization)).values()).count("owner") == 1


async def test_two_owners_who_demote_each_other_leave_one(billing, members, team):
    org_id = team.organization.id
    await members.set_role(org_id, team["admin"], "owner", acting(team["owner"]))
    done = await asyncio.gather(
        members.set_role(org_id, team["admin"], "viewer", acting(team["owner"])),
        members.set_role(org_id, team["owner"], "viewer", acting(team["admin"])),
        return_exceptions=True,
    )
    assert sum(isinstance(each, OrganizationForbidden) for each in done) == 1
    assert list((await roles(billing, team.organization)).values()).count("owner") == 1


async def test_who_leaves_loses_their_keys_here_and_nowhere_else(billing, members, team):
    account_id = team.organization.account_id
    own = await new_organization(billing, "Own", team["member"])
    key, secret = await billing.keys.create(account_id, "mine", user_id=team["member"])
    others, _ = await billing.keys.create(account_id, "other", user_id=team["admin"])
    machine, _ = await billing.keys.create(account_id, "machine")
    elsewhere, _ = await billing.keys.create(own.account_id, "own", user_id=team["member"])
    gone, _ = await billing.keys.create(account_id, "gone", user_id=team["member"])
    await billing.keys.revoke(gone.id)
    with changes_told(billing.change_notifier, ("key", key.id, account_id)):
        await members.remove(team.organization.id, team["member"], acting(team["admin"]))
    principal = await billing.principals.by_digest(secret_digest(secret))
    assert not principal.usable_key(0.0)
    for kept in (others, machine, elsewhere):
        assert await billing.keys.get(kept.id) == kept
    entries = await billing.database.rows(
        "SELECT action, actor FROM audit_log WHERE account_id = $1 ORDER BY id DESC LIMIT 2", account_id
    )
    assert {(row["action"], row["actor"]) for row in entries} == {
        ("member.remove", f"user:{team['admin']}"),
        ("key.revoke", f"user:{team['admin']}"),
    }


async def test_who_is_demoted_keeps_what_the_role_has(billing, members, team):
    org_id, account_id, user_id = team.organization.id, team.organization.account_id, team["admin"]
    proxy, _ = await billing.keys.create(account_id, "proxy", user_id=user_id, scopes=("llm:proxy", "billing:read"))
    setup, _ = await billing.keys.create(
        account_id, "setup", user_id=user_id, scopes=("billing:setup", "billing:read", "acme:deploy")
    )
    alone, _ = await billing.keys.create(account_id, "alone", user_id=user_id, scopes=("members:write",))
    with changes_told(billing.change_notifier, ("key", setup.id, account_id), ("key", alone.id, account_id)):
        await members.set_role(org_id, user_id, "member", acting(team["owner"]))
    assert await billing.keys.get(proxy.id) == proxy
    assert (await billing.keys.get(setup.id)).scopes == ("billing:read", "acme:deploy")
    assert (await billing.keys.get(alone.id)).revoked_at is not None
    with changes_told(billing.change_notifier, ("key", proxy.id, account_id)):
        await members.set_role(org_id, user_id, "viewer", acting(team["owner"]))
    assert (await billing.keys.get(proxy.id)).revoked_at is not None, "a viewer's key calls no model"
    assert (await billing.keys.get(setup.id)).revoked_at is None


async def test_an_organization_changes_hands(billing, members, team):
    org_id = team.organization.id
    await billing.database.execute("UPDATE organizations SET personal = true")
    for name in ("admin", "member"):
        with pytest.raises(OrganizationForbidden):
            await members.transfer(org_id, team["member"], "admin", acting(team[name]))
    with pytest.raises(OrganizationConflict):
        await members.transfer(org_id, team["owner"], "admin", acting(team["owner"]))
    after = await members.transfer(org_id, team["member"], "admin", acting(team["owner"]))
    assert not after.personal
    now = await roles(billing, team.organization)
    assert (now[team["member"]], now[team["owner"]]) == ("owner", "admin")
    with pytest.raises(OrganizationForbidden):
        await members.transfer(org_id, team["owner"], "admin", acting(team["owner"]))


async def test_nobody_is_given_more_organizations_than_one_may_own(billing, members, team):
    for number in range(3):
        await new_organization(billing, f"Own {number}", team["member"])
    with pytest.raises(OrganizationConflict):
        await members.transfer(team.organization.id, team["member"], "admin", acting(team["owner"]))
    assert (await roles(billing, team.organization))[team["owner"]] == "owner"


async def test_a_key_says_what_its_maker_and_its_holder_may(billing, team):
    every = acting(team["owner"]).scopes | {"acme:deploy"}

    async def given(maker, holder):
        async with billing.database.transaction() as connection:
            return await grantable_scopes(connection, team.organization.account_id, every, maker, holder)

    assert await given(team["member"], team["member"]) == ROLES["member"]
    assert await given(team["owner"], team["viewer"]) == ROLES["viewer"]
    assert await given(team["admin"], team["owner"]) == ROLES["admin"]
    assert await given(None, team["member"]) == ROLES["member"]
    with pytest.raises(OrganizationForbidden):
        await given(team["member"], team["viewer"])
    with pytest.raises(OrganizationForbidden):
        await given(team["stranger"], team["member"])
    for maker, holder in ((team["owner"], team["stranger"]), (team["stranger"], team["stranger"]), (None, "usr_none")):
        with pytest.raises(OrganizationNotFound):
            await given(maker, holder)


async def test_an_owner_who_is_disabled_looks_after_nothing(billing, members, team):
    org_id, operator = team.organization.id, Actor("admin")
    await members.set_role(org_id, team["admin"], "owner", acting(team["owner"]))
    disable = "UPDATE users SET status = 'disabled' WHERE id = $1"
    await billing.database.execute(disable, team["admin"])
    with pytest.raises(OrganizationConflict):
        await members.remove(org_id, team["owner"], acting(team["owner"]))
    await members.remove(org_id, team["admin"], acting(team["owner"]))
    await billing.database.execute(disable, team["owner"])
    for nobody in (team["admin"], team["owner"], "usr_none"):
        with pytest.raises(OrganizationConflict):
            await members.appoint(org_id, nobody, operator)
    for saviour in ("viewer", "stranger", "stranger"):
        assert (await members.appoint(org_id, team[saviour], operator)).role == "owner"
    await members.remove(org_id, team["owner"], acting(team["stranger"]))
    of_them = {team["viewer"]: "owner", team["stranger"]: "owner", team["member"]: "member"}
    assert await roles(billing, team.organization) == of_them


async def test_changes_at_once_leave_an_owner_and_no_key_of_who_is_gone(billing, members, team):
    """A key is made for a member, and the organization given to them, while they are removed: in whatever order."""
    org_id, account_id, member = team.organization.id, team.organization.account_id, team["member"]

    async def grantable(connection):
        return await grantable_scopes(connection, account_id, ROLES["member"], member, member)

    live = "SELECT count(*) FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL"
    for _ in range(6):
        await asyncio.gather(
            billing.keys.create(account_id, "laptop", user_id=member, grantable=grantable),
            members.transfer(org_id, member, "admin", acting(team["owner"])),
            members.remove(org_id, member, acting(team["admin"])),
            return_exceptions=True,
        )
        standing = await roles(billing, team.organization)
        assert "owner" in standing.values()
        if member not in standing:
            assert await billing.database.value(live, member) == 0
            await join(billing, team.organization, member, "member")
        if standing.get(team["owner"]) != "owner":
            await members.transfer(org_id, team["owner"], "member", acting(member))


async def test_members_are_listed_with_their_addresses(members, team):
    first = await members.page(team.organization.id, 3)
    second = await members.page(team.organization.id, 3, first.next_after)
    found = [(each.user_id, each.email, each.role) for each in first.items + second.items]
    assert found == [(team[name], f"{name}@example.com", name) for name in ("viewer", "member", "admin", "owner")]


async def test_who_was_demoted_a_moment_ago_changes_nothing(members, team):
    """Their token was read before the demotion, and its role no longer counts."""
    org_id = team.organization.id
    stale: Acting = acting(team["admin"])
    await members.set_role(org_id, team["admin"], "member", acting(team["owner"]))
    with pytest.raises(OrganizationForbidden):
        await members.set_role(org_id, team["viewer"], "member", stale)
    await members.remove(org_id, team["admin"], acting(team["owner"]))
    with pytest.raises(OrganizationNotFound):
        await members.remove(org_id, team["viewer"], stale)
