"""Welcome credit: once for a person, when they have proven their address and own an organization."""

import asyncio

import pytest

from billing.audit import SYSTEM
from billing.identity.organizations import Organizations, found
from billing.identity.tokens import Subject
from billing.identity.users import Subjects, Users
from billing.identity.welcome import Welcome, mailbox_of
from tests.billing.identity.support import new_organization, new_user

NANO = 10**9


def users_of(billing, usd=5):
    return Users(billing.database, billing.new_id, "verified", Welcome(billing.grants, usd * NANO))


async def prove(billing, users, user_id):
    async with billing.database.transaction() as connection:
        await users.prove(connection, user_id, None)


async def balance(billing, organization):
    return (await billing.accounts.get(organization.account_id)).balance_nano


async def test_it_is_given_once_when_the_address_is_proven(billing):
    user_id = await new_user(billing, "ann@example.com", verified=False, status="pending")
    organization = await new_organization(billing, "Ann", user_id)
    users = users_of(billing)
    assert await balance(billing, organization) == 0  # a registration alone gives nothing
    for _ in range(2):
        await prove(billing, users, user_id)
    await prove(billing, users_of(billing, 7), user_id)  # the operator has changed the amount
    assert await balance(billing, organization) == 5 * NANO
    (transfer,) = (await billing.reports.changes(organization.account_id, 10)).items
    assert (transfer.kind, transfer.note) == ("grant", "welcome")


async def test_who_begins_without_an_organization_is_given_it_with_their_first(billing):
    user_id = await new_user(billing, "bob@example.com")
    await prove(billing, users_of(billing), user_id)  # and owns nothing
    welcome = Welcome(billing.grants, 5 * NANO)
    organizations = Organizations(billing.database, billing.new_id, "free", welcome=welcome)
    first = await organizations.create(user_id, "First", actor=SYSTEM)
    second = await organizations.create(user_id, "Second", actor=SYSTEM)
    assert [await balance(billing, each) for each in (first, second)] == [5 * NANO, 0]


async def test_who_signs_in_elsewhere_is_given_it_where_the_address_is_verified(billing):
    async def founder(connection, user_id, name, actor):
        return await found(connection, billing.new_id, "free", user_id=user_id, name=name, personal=True, actor=actor)

    subjects = Subjects(billing.database, users_of(billing), founder)
    for number, verified in enumerate((True, False)):
        subject = Subject("https://issuer.example.com", f"s{number}", f"s{number}@example.com", verified)
        user_id = await subjects.see(subject)
        (own,) = await Users(billing.database, billing.new_id).organizations(user_id)
        assert (await billing.accounts.get(own.account_id)).balance_nano == (5 * NANO if verified else 0)


async def test_there_is_none_unless_it_is_set(billing):
    user_id = await new_user(billing, "cid@example.com", verified=False)
    organization = await new_organization(billing, "Cid", user_id)
    await prove(billing, Users(billing.database, billing.new_id), user_id)
    await prove(billing, users_of(billing, 0), user_id)
    assert await balance(billing, organization) == 0


async def test_who_owns_another_organization_already_is_given_it_on_the_one_that_they_found(billing):
    host = await new_organization(billing, "Host", await new_user(billing, "host@example.com"))
    organizations = Organizations(billing.database, billing.new_id, "free", welcome=Welcome(billing.grants, 5 * NANO))
    for number in range(2):  # guests without an organization become owners of the host's, and found their own
        guest = await new_user(billing, f"guest{number}@example.com")
        await billing.database.execute(
            "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')", host.id, guest
        )
        own = await organizations.create(guest, "Own", actor=SYSTEM)
        assert await balance(billing, own) == 5 * NANO
    assert await balance(billing, host) == 0


async def test_who_founds_many_organizations_at_once_is_given_it_once(billing):
    user_id = await new_user(billing, "dan@example.com")
    organizations = Organizations(billing.database, billing.new_id, "free", welcome=Welcome(billing.grants, 5 * NANO))
    made = await asyncio.gather(
        *(organizations.create(user_id, f"O{number}", actor=SYSTEM) for number in range(3)),
        *(prove(billing, users_of(billing), user_id) for _ in range(3)),
    )
    assert sum([await balance(billing, each) for each in made if each is not None]) == 5 * NANO


@pytest.mark.parametrize(
    ("address", "same"),
    [
        ("eve+2@example.com", True),
        ("eve+@example.com", True),
        ("e.ve@example.com", False),
        ("eve@example.org", False),
        ("+eve@example.com", False),
    ],
)
async def test_it_is_given_once_for_a_mailbox(billing, address, same):
    users, given = users_of(billing), []
    for each in ("eve+1@example.com", address):
        user_id = await new_user(billing, each, verified=False, status="pending")
        organization = await new_organization(billing, each, user_id)
        await prove(billing, users, user_id)
        given.append(await balance(billing, organization))
    assert given == [5 * NANO, 0 if same else 5 * NANO]


def test_dots_mean_nothing_where_they_mean_nothing():
    assert len({mailbox_of(each) for each in ("a.da@gmail.com", "ada+x@googlemail.com", "ADA@gmail.com")}) == 1
    assert mailbox_of("a.da@example.com") != mailbox_of("ada@example.com")


async def test_whose_address_changes_is_not_given_it_again(billing):
    user_id = await new_user(billing, "fay@example.com")
    organizations = Organizations(billing.database, billing.new_id, "free", welcome=Welcome(billing.grants, 5 * NANO))
    first = await organizations.create(user_id, "First", actor=SYSTEM)
    await billing.database.execute("UPDATE users SET email = 'fay@example.org' WHERE id = $1", user_id)
    second = await organizations.create(user_id, "Second", actor=SYSTEM)
    assert [await balance(billing, each) for each in (first, second)] == [5 * NANO, 0]
