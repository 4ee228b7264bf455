"""An invitation is accepted once, in time, by whose proven address it is, and never beyond the plan's users."""

import asyncio
from dataclasses import replace

import pytest

from billing.audit import SYSTEM
from billing.identity.organizations import (
    Invitations,
    Members,
    Organization,
    OrganizationConflict,
    OrganizationForbidden,
    OrganizationNotFound,
)
from billing.plans import LivePlans, Plan
from billing.settings import OrganizationSettings
from tests.billing.identity.support import acting, join, mails, new_organization, new_user, roles, token_sent
from tests.billing.support import Billing

TEAM = Plan("team", "Team", 0, users=3)


@pytest.fixture
def plans() -> LivePlans:
    return LivePlans({"team": TEAM})


@pytest.fixture
def invitations(billing: Billing, plans: LivePlans) -> Invitations:
    bounds = OrganizationSettings(organizations_per_user=2, invitations_per_day=4, invitation_sends=2)
    return Invitations(
        billing.database, billing.new_id, plans, "team", bounds, frontend_url="https://console.example.com/"
    )


@pytest.fixture
async def owner(billing: Billing) -> str:
    return await new_user(billing, "owner@example.com")


@pytest.fixture
async def acme(billing: Billing, owner: str) -> Organization:
    return await new_organization(billing, "Acme", owner, plan="team")


async def test_an_invitation_from_the_mail_to_the_membership(billing, invitations, owner, acme):
    sent = await invitations.invite(acme.id, "bob@example.com", "member", acting(owner))
    assert (sent.email, sent.role, sent.status, sent.invited_by) == ("bob@example.com", "member", "open", owner)
    assert (sent.expires_at - sent.created_at).total_seconds() == 7 * 24 * 3600
    (mail,) = await mails(billing, "bob@example.com")
    token = await token_sent(billing, "bob@example.com")
    assert f"https://console.example.com/invitations/{token}" in mail
    assert len(token) == 43
    for table in ("invitations", "audit_log"):
        rows = await billing.database.rows(f"SELECT to_jsonb({table})::text AS said FROM {table}")  # noqa: S608
        assert token not in str(rows)
    bob = await new_user(billing, "bob@example.com")
    organization, role = await invitations.accept(token, bob, SYSTEM)
    assert (organization, role) == (acme, "member")
    assert await roles(billing, acme) == {owner: "owner", bob: "member"}
    with pytest.raises(OrganizationNotFound):
        await invitations.accept(token, bob, SYSTEM)
    assert [each.status for each in (await invitations.page(acme.id, 10)).items] == ["accepted"]


async def test_nobody_else_accepts_it(billing, invitations, owner, acme):
    await invitations.invite(acme.id, "bob@example.com", "admin", acting(owner))
    token = await token_sent(billing, "bob@example.com")
    eve = await new_user(billing, "eve@example.com")
    bob = await new_user(billing, "bob@example.com", verified=False, status="pending")
    refusals = set()
    for user_id, shown in ((eve, token), (bob, token), (bob, "x" * 43), (eve, ""), (owner, token)):
        with pytest.raises(OrganizationNotFound) as refused:
            await invitations.accept(shown, user_id, SYSTEM)
        refusals.add(str(refused.value))
    assert len(refusals) == 1, "what is wrong of it is told nobody"
    await billing.database.execute("UPDATE users SET email_verified_at = now() WHERE id = $1", bob)
    await invitations.accept(token, bob, SYSTEM)


async def test_an_old_one_is_sent_again_and_a_revoked_one_is_over(billing, invitations, owner, acme):
    bob = await new_user(billing, "bob@example.com")
    first = await invitations.invite(acme.id, "bob@example.com", "viewer", acting(owner))
    old = await token_sent(billing, "bob@example.com")
    await billing.database.execute("UPDATE invitations SET expires_at = now()")
    with pytest.raises(OrganizationNotFound):
        await invitations.accept(old, bob, SYSTEM)
    again = await invitations.resend(acme.id, first.id, acting(owner))
    assert (again.id, again.status, again.sends) == (first.id, "open", 2)
    new = await token_sent(billing, "bob@example.com")
    with pytest.raises(OrganizationNotFound):
        await invitations.accept(old, bob, SYSTEM)
    with pytest.raises(OrganizationConflict):
        await invitations.resend(acme.id, first.id, acting(owner))
    await invitations.revoke(acme.id, first.id, acting(owner))
    await invitations.revoke(acme.id, first.id, acting(owner))
    with pytest.raises(OrganizationNotFound):
        await invitations.accept(new, bob, SYSTEM)
    with pytest.raises(OrganizationConflict):
        await invitations.resend(acme.id, first.id, acting(owner))


async def test_two_who_accept_at_once_do_not_go_beyond_the_plan(billing, invitations, owner, acme, plans):
    people = {name: await new_user(billing, f"{name}@example.com") for name in ("bob", "cyd")}
    for name in people:
        await invitations.invite(acme.id, f"{name}@example.com", "member", acting(owner))
    plans.replace({"team": replace(TEAM, users=2)})
    tokens = {name: await token_sent(billing, f"{name}@example.com") for name in people}
    done = await asyncio.gather(
        *(invitations.accept(tokens[name], people[name], SYSTEM) for name in people), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in done) == ["OrganizationConflict", "tuple"]
    assert len(await roles(billing, acme)) == 2


async def test_one_who_accepts_twice_at_once_is_one_member(billing, invitations, owner, acme):
    bob = await new_user(billing, "bob@example.com")
    await invitations.invite(acme.id, "bob@example.com", "member", acting(owner))
    token = await token_sent(billing, "bob@example.com")
    done = await asyncio.gather(*(invitations.accept(token, bob, SYSTEM) for _ in range(4)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["OrganizationNotFound"] * 3 + ["tuple"]


async def test_members_and_open_invitations_are_bounded_together(billing, invitations, owner, acme):
    done = await asyncio.gather(
        *(invitations.invite(acme.id, f"u{n}@example.com", "member", acting(owner)) for n in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, OrganizationConflict) for each in done) == 2
    (first, *_) = (await invitations.page(acme.id, 10)).items
    with pytest.raises(OrganizationConflict, match="invited already"):
        await invitations.invite(acme.id, first.email, "member", acting(owner))
    with pytest.raises(OrganizationConflict, match="member"):
        await invitations.invite(acme.id, "owner@example.com", "member", acting(owner))
    for _ in range(2):
        await invitations.revoke(acme.id, first.id, acting(owner))
        first = await invitations.invite(acme.id, "z@example.com", "member", acting(owner))
    await invitations.revoke(acme.id, first.id, acting(owner))
    with pytest.raises(OrganizationConflict, match="24 hours"):
        await invitations.invite(acme.id, "y@example.com", "member", acting(owner))


async def test_nobody_invites_above_their_own_role(billing, invitations, owner, acme):
    admin, member = await new_user(billing, "admin@example.com"), await new_user(billing, "member@example.com")
    await join(billing, acme, admin, "admin")
    with pytest.raises(OrganizationForbidden) as refused:
        await invitations.invite(acme.id, "bob@example.com", "owner", acting(admin))
    assert refused.value.required_scope == "org:transfer"
    as_owner = await invitations.invite(acme.id, "bob@example.com", "owner", acting(owner))
    for change in (invitations.revoke, invitations.resend):
        with pytest.raises(OrganizationForbidden):
            await change(acme.id, as_owner.id, acting(admin))
    await join(billing, acme, member, "member")
    with pytest.raises(OrganizationForbidden):
        await invitations.invite(acme.id, "cyd@example.com", "viewer", acting(member))


async def test_invitations_end_with_the_right_to_send_them(billing, invitations, owner, acme):
    admin = await new_user(billing, "admin@example.com")
    await join(billing, acme, admin, "admin")
    await invitations.invite(acme.id, "bob@example.com", "admin", acting(admin))
    members = Members(billing.database, billing.change_notifier, 10)
    await members.remove(acme.id, admin, acting(owner))
    bob = await new_user(billing, "bob@example.com")
    with pytest.raises(OrganizationNotFound):
        await invitations.accept(await token_sent(billing, "bob@example.com"), bob, SYSTEM)


async def test_another_organization_s_invitations_are_not_found(billing, invitations, owner, acme):
    eve = await new_user(billing, "eve@example.com")
    other = await new_organization(billing, "Other", eve, plan="team")
    sent = await invitations.invite(acme.id, "bob@example.com", "member", acting(owner))
    for change in (invitations.revoke, invitations.resend):
        for org_id in (acme.id, other.id):
            with pytest.raises(OrganizationNotFound):
                await change(org_id, sent.id, acting(eve))
    assert (await invitations.page(other.id, 10)).items == ()


async def test_a_name_with_lines_makes_one_header(billing, invitations):
    eve = await new_user(billing, "eve@example.com")
    other = await new_organization(billing, "Evil\r\nBcc: all", eve, plan="team")
    await invitations.invite(other.id, "bob@example.com", "member", acting(eve))
    row = await billing.database.row("SELECT subject FROM mail_outbox")
    assert row["subject"] == "Invitation to Evil  Bcc: all"


@pytest.mark.parametrize(
    "name",
    ["Win http://evil.example/x", "evil.example", "Ask a@evil.example", "www evil", "evil．example", "evil。example",
     "[x](//evil)", "mailto:evil", "ada.lovelace", 'Acme" <a href'],
)  # fmt: skip
async def test_a_name_that_could_be_a_link_is_in_no_mail(billing, invitations, name):
    """Anybody can found an organization and invite any address: that is no way to send strangers a link."""
    eve = await new_user(billing, "eve@example.com")
    other = await new_organization(billing, name, eve, plan="team")
    sent = await invitations.invite(other.id, "bob@example.com", "member", acting(eve))
    await invitations.resend(other.id, sent.id, acting(eve))
    rows = await billing.database.rows("SELECT subject, body FROM mail_outbox")
    assert len(rows) == 2
    for row in rows:
        text = f"{row['subject']}\n{row['body']}"
        assert name not in text
        assert other.slug in row["subject"]
        assert text.count("://") == 1  # the console's


@pytest.mark.parametrize(
    ("name", "said"), [("Ada Löw", "Ada Löw invites you"), ("", "You are"), ("http://x.y", "You are")]
)
async def test_a_mail_says_who_invites_where_their_name_can_be_no_link(billing, invitations, owner, acme, name, said):
    await billing.database.execute("UPDATE users SET name = $2 WHERE id = $1", owner, name)
    await invitations.invite(acme.id, "bob@example.com", "member", acting(owner))
    assert f"\n\n{said} " in f"\n\n{(await mails(billing, 'bob@example.com'))[0]}"


@pytest.mark.parametrize("name", ["Acme Inc.", "Müller & Söhne", "Acme: the shop", "日本語。", "O'Reilly, Ltd."])
async def test_other_names_are_shown(billing, invitations, name):
    eve = await new_user(billing, "eve@example.com")
    other = await new_organization(billing, name, eve, plan="team")
    await invitations.invite(other.id, "bob@example.com", "member", acting(eve))
    assert f'"{name}"' in (await mails(billing, "bob@example.com"))[0]


async def test_one_person_and_one_address_have_bounds_of_their_own(billing, plans):
    """However many organizations there are; sending again counts."""
    bounds = OrganizationSettings(
        organizations_per_user=20,
        invitations_per_day=100,
        invitation_sends=5,
        invitations_per_person=4,
        invitations_per_address=3,
    )
    invitations = Invitations(billing.database, billing.new_id, plans, "team", bounds)
    eve, bob = [await new_user(billing, f"{name}@example.com") for name in ("eve", "bob")]
    mine = [await new_organization(billing, f"Acme {n}", eve, plan="team") for n in range(6)]
    theirs = [await new_organization(billing, f"Other {n}", bob, plan="team") for n in range(4)]

    async def invited(organization, email, by):
        try:
            await invitations.invite(organization.id, email, "member", acting(by))
        except OrganizationConflict as error:
            assert "24 hours" in str(error)  # noqa: PT017
            return False
        return True

    done = await asyncio.gather(*(invited(each, "victim@example.com", eve) for each in mine))
    assert sum(done) == 3
    assert not await invited(theirs[0], "victim@example.com", bob)
    assert len(await mails(billing, "victim@example.com")) == 3
    first = await invitations.invite(mine[0].id, "other@example.com", "member", acting(eve))
    with pytest.raises(OrganizationConflict, match="One person"):
        await invitations.resend(mine[0].id, first.id, acting(eve))
    assert not await invited(mine[1], "third@example.com", eve)
    assert await invited(theirs[0], "third@example.com", bob)
    await billing.database.execute("UPDATE invitation_mails SET sent_at = sent_at - interval '25 hours'")
    assert await invited(theirs[1], "victim@example.com", bob)
    assert await invited(mine[1], "third@example.com", eve)
    assert await billing.database.value("SELECT count(*) FROM invitation_mails") == 2  # old ones are forgotten
