"""Organizations are founded whole or not at all; slugs are unique; one person owns a bounded number."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.audit import SYSTEM, Actor
from billing.identity.organizations import (
    OrganizationConflict,
    OrganizationNotFound,
    OrganizationRefused,
    Organizations,
    check_slug,
    found,
    slug_of,
)
from billing.settings import OrganizationSettings
from tests.billing.identity.support import new_organization, new_user, roles
from tests.billing.support import Billing


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Acme Corp", "acme-corp"),
        ("  Acmé & Söhne!  ", "acme-sohne"),
        ("日本", "organization"),
        ("---", "organization"),
        ("a" * 62 + " b", "a" * 62),
        ("ﬁne", "fine"),
    ],
)
def test_slugs_are_the_name_in_ascii(name, slug):
    assert slug_of(name) == slug


@given(st.text(min_size=1, max_size=200))
def test_every_name_has_a_slug(name):
    check_slug(slug_of(name))


@pytest.mark.parametrize("slug", ["", "Acme", "-acme", "acme-", "a--b", "a_b", "a" * 64, "é", "acme\n"])
def test_what_is_no_slug_is_refused(slug):
    with pytest.raises(OrganizationRefused) as refused:
        check_slug(slug)
    assert refused.value.field == "slug"


async def founded_and_failed(billing: Billing, user_id: str) -> None:
    async with billing.database.transaction() as connection:
        await found(connection, billing.new_id, "free", user_id=user_id, name="X", personal=True, actor=SYSTEM)
        raise ZeroDivisionError


async def test_founding_makes_account_and_owner_or_nothing(billing):
    ada = await new_user(billing, "ada@example.com")
    organization = await new_organization(billing, "Acme Corp", ada)
    assert (organization.slug, organization.personal) == ("acme-corp", False)
    account = await billing.accounts.get(organization.account_id)
    assert (account.name, account.plan, account.balance_nano) == ("Acme Corp", "free", 0)
    assert await roles(billing, organization) == {ada: "owner"}
    with pytest.raises(ZeroDivisionError):
        await founded_and_failed(billing, ada)
    assert len((await billing.accounts.page(10)).items) == 1
    entry = await billing.database.row("SELECT * FROM audit_log WHERE action = 'organization.create'")
    assert (entry["subject"], entry["account_id"], entry["user_id"]) == (organization.id, organization.account_id, ada)


async def test_two_of_one_name_have_two_slugs(billing):
    ada = await new_user(billing, "ada@example.com")
    made = await asyncio.gather(*(new_organization(billing, "Acme " * 20, ada) for _ in range(4)))
    slugs = {each.slug for each in made}
    assert len(slugs) == 4
    assert all(slug.startswith("acme-acme-") for slug in slugs)


async def test_a_personal_slug_does_not_tell_whose_it_is(billing):
    ada = await new_user(billing, "ada@example.com")
    async with billing.database.transaction() as connection:
        made = await found(connection, billing.new_id, "free", user_id=ada, name="Ada", personal=True, actor=SYSTEM)
    assert re.fullmatch("ada-[0-9a-z]{6}", made.slug)


async def test_one_person_owns_so_many_and_no_more_at_once(billing):
    ada = await new_user(billing, "ada@example.com")
    organizations = Organizations(
        billing.database, billing.new_id, "free", OrganizationSettings(organizations_per_user=2)
    )
    made = await asyncio.gather(
        *(organizations.create(ada, f"Acme {n}", actor=Actor(f"user:{ada}")) for n in range(5)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in made) == ["Organization"] * 2 + ["OrganizationConflict"] * 3
    assert len((await organizations.page(ada, 10)).items) == 2


async def test_who_is_not_let_in_founds_none(billing):
    organizations = Organizations(billing.database, billing.new_id, "free")
    for user_id in (await new_user(billing, "eve@example.com", status="pending"), "usr_none"):
        with pytest.raises(OrganizationConflict):
            await organizations.create(user_id, "Evil", actor=SYSTEM)


async def test_an_account_that_is_called_like_its_organization_is_renamed_with_it(billing):
    organizations = Organizations(billing.database, billing.new_id, "free")
    acme = await organizations.create(await new_user(billing, "ada@example.com"), "Ada", actor=SYSTEM)
    await organizations.update(acme.id, name="Acme", actor=SYSTEM)
    assert (await billing.accounts.get(acme.account_id)).name == "Acme"
    await billing.accounts.update(acme.account_id, name="Acme (reseller)")
    await organizations.update(acme.id, name="Acme Inc", actor=SYSTEM)
    assert (await billing.accounts.get(acme.account_id)).name == "Acme (reseller)"


async def test_changes_and_pages(billing):
    ada, bob = await new_user(billing, "ada@example.com"), await new_user(billing, "bob@example.com")
    organizations = Organizations(billing.database, billing.new_id, "free")
    acme = await organizations.create(ada, "Acme", actor=SYSTEM)
    other = await organizations.create(ada, "Other", actor=SYSTEM)
    await organizations.create(bob, "Bob's", actor=SYSTEM)
    changed = await organizations.update(acme.id, name="Acme Inc", slug="acme-inc", actor=SYSTEM)
    assert (changed.name, changed.slug) == ("Acme Inc", "acme-inc")
    assert await organizations.update(acme.id, actor=SYSTEM) == changed == await organizations.get(acme.id)
    with pytest.raises(OrganizationConflict):
        await organizations.update(other.id, slug="acme-inc", actor=SYSTEM)
    first = await organizations.page(ada, 1)
    second = await organizations.page(ada, 1, first.next_after)
    assert [each for page in (first, second) for each in page.items] == [(other, "owner"), (changed, "owner")]
    assert await organizations.of_account(acme.account_id) == changed
    assert await organizations.of_account("acc_none") is None
    with pytest.raises(OrganizationNotFound):
        await organizations.get("org_none")
    with pytest.raises(OrganizationNotFound):
        await organizations.update("org_none", name="x", actor=SYSTEM)
