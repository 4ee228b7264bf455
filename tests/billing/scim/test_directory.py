"""SCIM as directories call it: people, groups, what they make of members, and what nobody gets by it."""

import asyncio

import pytest

from billing.identity.organizations import OrganizationConflict, OrganizationForbidden, locked
from billing.quotas import parse_quotas
from billing.settings import ScimSettings
from tests.billing.identity.support import acting, new_organization
from tests.billing.scim.conftest import company_of

ADA = "ada@example.com"
EVE = "eve@example.com"
OFF = {"op": "Replace", "path": "active", "value": "False"}
ON = {"op": "Replace", "path": "active", "value": "True"}


def member(*ids):
    return {"op": "Add", "path": "members", "value": [{"value": each} for each in ids]}


async def test_a_person_is_added_read_changed_and_removed(company):
    body = {"userName": "Ada@Example.com", "externalId": "00u1", "password": "Tulip1!", "name": {"givenName": "Ada"}}
    made = await company.call("POST", "/Users", body, status=201)
    assert made["schemas"] == ["urn:ietf:params:scim:schemas:core:2.0:User"]
    assert (made["active"], made["userName"], made["externalId"]) == (True, "Ada@Example.com", "00u1")
    assert "password" not in made
    path = f"/Users/{made['id']}"
    assert made["meta"]["location"].endswith(f"/scim/v2{path}")
    assert await company.call("GET", path, status=200) == made
    put = await company.call("PUT", path, {"userName": ADA, "active": True, "displayName": "Ada"}, status=200)
    assert (put["displayName"], "name" in put, "externalId" in put) == ("Ada", False, False)
    assert (put["meta"]["version"], put["meta"]["created"]) == ('W/"2"', made["meta"]["created"])
    assert (await company.patch(path, {"op": "add", "path": "name.givenName", "value": "A"}))["name"] == {
        "givenName": "A"
    }
    await company.call("DELETE", path, status=204)
    await company.call("GET", path, status=404)
    assert [
        each["action"]
        for each in await company.registry.billing.database.rows(
            "SELECT action FROM audit_log WHERE actor LIKE 'scim:%' ORDER BY id"
        )
    ] == ["scim_user.create", "scim_user.update", "scim_user.update", "scim_user.delete"]


async def test_pages_and_filters(company):
    ids = [await company.add(f"p{n}@example.com", externalId=f"x{n}") for n in range(5)]
    group = await company.group("Staff", ids[1], ids[3])
    first = await company.call("GET", "/Users", params={"count": "2"}, status=200)
    assert (first["totalResults"], first["itemsPerPage"], first["startIndex"]) == (5, 2, 1)
    rest = await company.call("GET", "/Users", params={"startIndex": "3", "count": "100"}, status=200)
    assert [each["id"] for each in [*first["Resources"], *rest["Resources"]]] == ids
    assert (await company.call("GET", "/Users", params={"count": "0"}))["Resources"] == []
    assert await company.found("/Users", 'userName eq "P2@example.com"') == [ids[2]]
    assert await company.found("/Users", 'externalId eq "x4"') == [ids[4]]
    assert await company.found("/Users", 'userName sw "p" and active eq true', startIndex="2", count="2") == ids[1:3]
    assert await company.found("/Users", f'groups[value eq "{group}"]') == [ids[1], ids[3]]
    assert await company.found("/Groups", 'displayName eq "staff"') == [group]
    assert await company.found("/Groups", f'members.value eq "{ids[3]}"') == [group]
    assert await company.found("/Groups", f'id eq "{group}" and members eq "{ids[0]}"') == []
    shown = await company.call("GET", f"/Groups/{group}", params={"excludedAttributes": "members"}, status=200)
    assert "members" not in shown
    shown = await company.call("GET", "/Groups", params={"attributes": "displayName"}, status=200)
    assert set(shown["Resources"][0]) == {"schemas", "id", "displayName"}
    whole = await company.call("GET", f"/Users/{ids[1]}", status=200)
    assert [(each["value"], each["display"], each["type"]) for each in whole["groups"]] == [(group, "Staff", "direct")]
    for wrong in ({"filter": "userName"}, {"count": "x"}, {"startIndex": "9" * 30}, {"filter": "a\0"}):
        await company.call("GET", "/Users", params=wrong, status=400)


@pytest.mark.parametrize("at_once", [1, 1000])
async def test_what_a_filter_of_groups_costs(company, monkeypatch, at_once):
    """Few people at a time, other calls in between, and each comparison counts."""
    monkeypatch.setattr("billing.scim.directory.BATCH_WITH_REFERENCES", 2)
    monkeypatch.setattr("billing.scim.directory.COMPARED_AT_ONCE", at_once)
    spent, directory = [], company.services.scim.directory
    monkeypatch.setattr(directory, "_spend", lambda _, rows: spent.append(rows))
    ids = [await company.add(f"p{n}@example.com") for n in range(5)]
    group = await company.group("Staff", *ids[:3])
    spent.clear()
    assert await company.found("/Users", f'groups eq "{group}" or groups eq "none" or groups eq "no"') == ids[:3]
    assert spent == [3 * 22, 3 * 21, 3 * 10]


@pytest.mark.parametrize("path", ["/Users", "/Groups"])
async def test_nul_characters(company, path):
    """They are in no text that Postgres keeps."""
    for name in ("userName", "displayName", "externalId", "id"):
        params = {"filter": f'{name} eq "a\\u0000"'}
        assert (await company.call("GET", path, params=params, status=400))["scimType"] == "invalidFilter"
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"Operations": [OFF]})):
        await company.call(method, f"{path}/%00", body, status=404)
    group = await company.group("Staff")
    for operation in (member("a\0"), {"op": "remove", "path": 'members[value eq "a\\u0000"]'}):
        await company.patch(f"/Groups/{group}", operation, status=400)


async def test_what_is_offered(company):
    config = await company.call("GET", "/ServiceProviderConfig", status=200)
    assert (config["patch"], config["etag"]) == ({"supported": True}, {"supported": True})
    assert (config["bulk"]["supported"], config["sort"]["supported"]) == (False, False)
    assert [each["name"] for each in (await company.call("GET", "/ResourceTypes"))["Resources"]] == ["User", "Group"]
    [user, _] = (await company.call("GET", "/Schemas"))["Resources"]
    assert await company.call("GET", f"/Schemas/{user['id']}", status=200) == user
    for method, path, status in (
        ("GET", "/Schemas/none", 404),
        ("POST", "/Bulk", 501),
        ("GET", "/Me", 501),
        ("POST", "/.search", 501),
        ("GET", "/Colours", 404),
        ("PUT", "/Users", 405),
        ("GET", "/Schemas?filter=a", 403),
    ):
        await company.call(method, path, status=status)


async def test_versions(company):
    path = f"/Users/{await company.add(ADA)}"
    await company.call("GET", path, headers={"If-None-Match": 'W/"1"'}, status=304)
    await company.call("GET", path, headers={"If-None-Match": 'W/"2"'}, status=200)
    name = {"op": "replace", "path": "displayName", "value": "A"}
    await company.patch(path, name, status=412, headers={"If-Match": 'W/"7"'})
    assert (await company.patch(path, name, headers={"If-Match": 'W/"7", W/"1"'}))["meta"]["version"] == 'W/"2"'
    assert (await company.patch(path, name))["meta"]["version"] == 'W/"2"'  # it said so already
    await company.call("DELETE", path, headers={"If-Match": 'W/"1"'}, status=412)
    await company.call("DELETE", path, headers={"If-Match": "*"}, status=204)


async def test_names_and_addresses_are_one_person_s(company):
    first = await company.add(ADA)
    for body in ({"userName": "ADA@example.com"}, {"userName": "ada2", "emails": [{"value": ADA.upper()}]}):
        error = await company.call("POST", "/Users", body, status=409)
        assert error["scimType"] == "uniqueness"
    second = await company.add(EVE)
    rename = {"op": "replace", "path": "userName", "value": ADA}
    assert (await company.patch(f"/Users/{second}", rename, status=409))["scimType"] == "uniqueness"
    await company.group("Staff")
    assert (await company.call("POST", "/Groups", {"displayName": "STAFF"}, status=409))["scimType"] == "uniqueness"
    await company.call("DELETE", f"/Users/{first}", status=204)
    await company.patch(f"/Users/{second}", rename)


async def test_who_signs_in_takes_their_place(company):
    scim_id = await company.add(ADA)
    user_id = await company.person(ADA)
    assert await company.role(user_id) is None
    await company.sign_in(user_id)
    assert await company.role(user_id) == "member"
    [joined] = await company.audited("member.create")
    assert (joined["user_id"], joined["actor"]) == (user_id, f"user:{user_id}")
    await company.sign_in(user_id)
    assert len(await company.audited("member.create")) == 1
    assert (await company.call("GET", f"/Users/{scim_id}"))["meta"]["version"] == 'W/"1"'


@pytest.mark.parametrize("why", ["not proven", "another's domain", "not active", "disabled", "gone"])
async def test_who_takes_no_place(company, why):
    address = "ada@other.example" if why == "another's domain" else ADA
    scim_id = await company.add(address, active=why != "not active")
    user_id = await company.person(
        address, verified=why != "not proven", status="disabled" if why == "disabled" else "active"
    )
    if why == "gone":
        await company.call("DELETE", f"/Users/{scim_id}", status=204)
    await company.sign_in(user_id)
    assert await company.role(user_id) is None


async def test_answers_do_not_show_who_is_registered(company):
    """Nor is anything of a person changed: neither their name nor how they sign in."""
    user_id = await company.person(ADA)
    before = await company.billing.database.row("SELECT * FROM users WHERE id = $1", user_id)
    known = await company.call("POST", "/Users", {"userName": ADA, "displayName": "X", "password": "p"}, status=201)
    unknown = await company.call("POST", "/Users", {"userName": EVE, "displayName": "X", "password": "p"}, status=201)
    assert {name: known[name] for name in known.keys() - {"id", "userName", "meta"}} == {
        name: unknown[name] for name in unknown.keys() - {"id", "userName", "meta"}
    }
    await company.patch(f"/Users/{known['id']}", OFF)
    await company.call("DELETE", f"/Users/{known['id']}", status=204)
    assert await company.billing.database.row("SELECT * FROM users WHERE id = $1", user_id) == before
    assert await company.billing.database.value("SELECT count(*) FROM sessions WHERE ended_at IS NOT NULL") == 0


@pytest.mark.parametrize("how", ["entra", "okta", "put", "delete"])
async def test_a_leaver_loses_membership_keys_and_sessions(company, how, people):
    scim_id, user_id = await company.member(ADA)
    own = await new_organization(company.billing, "Own", user_id)
    key, stays = await company.key(user_id), (await company.keys.create(own.account_id, "own", user_id=user_id))[0].id
    here = await people.sign_in(user_id, org_id=company.organization.id)
    there = await people.sign_in(user_id, org_id=own.id)
    path = f"/Users/{scim_id}"
    match how:
        case "entra":
            assert (await company.patch(path, OFF))["active"] is False
        case "okta":
            await company.patch(path, {"op": "replace", "value": {"active": False}})
        case "put":
            assert (await company.call("PUT", path, {"userName": ADA, "active": False}, status=200))["active"] is False
        case "delete":
            await company.call("DELETE", path, status=204)
    assert await company.role(user_id) is None
    assert (await company.works(key), await company.works(stays)) == (False, True)
    assert await people.caller(here) is None
    assert (await people.who(there)).org_id == own.id
    [gone] = await company.audited("member.remove")
    assert gone["actor"].startswith("scim:sct_")
    await company.sign_in(user_id)
    assert await company.role(user_id) is None


async def test_who_comes_back_is_a_member_again_without_the_old_keys(company):
    scim_id, user_id = await company.member(ADA)
    key = await company.key(user_id)
    await company.patch(f"/Users/{scim_id}", OFF)
    await company.patch(f"/Users/{scim_id}", ON)
    assert await company.role(user_id) == "member"
    assert not await company.works(key)


async def test_who_was_removed_by_hand_stays_out(company):
    scim_id, user_id = await company.member(ADA)
    members = company.services.members
    await members.remove(company.organization.id, user_id, acting(company.owner))
    await company.patch(f"/Users/{scim_id}", {"op": "replace", "path": "displayName", "value": "A"})
    await company.sign_in(user_id)
    await company.group("Staff", scim_id)
    assert await company.role(user_id) is None


async def test_a_member_by_hand_is_the_directory_s_from_then_on(company):
    user_id, other = await company.invited("ada@contractor.example"), await company.invited(EVE)
    scim_id = await company.add("ada@contractor.example")  # of no domain of theirs: they were invited
    assert await company.role(user_id) == "member"
    await company.patch(f"/Users/{scim_id}", OFF)
    assert await company.roles() == {company.owner: "owner", other: "member"}


async def test_who_was_invited_after_they_were_added(company):
    scim_id = await company.add(ADA)
    user_id = await company.invited(ADA)
    key = await company.key(user_id)
    await company.call("DELETE", f"/Users/{scim_id}", status=204)
    assert (await company.role(user_id), await company.works(key)) == (None, False)


@pytest.mark.parametrize("how", ["POST", "PUT"])
async def test_a_member_whom_the_directory_has_as_not_active(company, how):
    """Also where it has said nothing of them before, or by another address."""
    user_id = await company.invited(ADA)
    key = await company.key(user_id)
    if how == "POST":
        scim_id = await company.add(ADA, active=False)
    else:
        scim_id = await company.add(EVE)
        await company.call("PUT", f"/Users/{scim_id}", {"userName": ADA, "active": False}, status=200)
    assert (await company.role(user_id), await company.works(key)) == (None, False)
    await company.patch(f"/Users/{scim_id}", ON)
    assert await company.role(user_id) == "member"


async def test_the_last_owner_is_not_ended_by_a_new_place(company):
    await company.call("POST", "/Users", {"userName": "boss@example.com", "active": False}, status=409)
    assert await company.role(company.owner) == "owner"


async def test_who_was_invited_after_they_were_ended_stays(company):
    scim_id = await company.add(ADA, active=False)
    user_id = await company.invited(ADA)
    await company.patch(f"/Users/{scim_id}", {"op": "replace", "path": "displayName", "value": "A"})
    assert await company.role(user_id) == "member"


@pytest.mark.parametrize("how", ["POST", "PATCH", "PUT", "DELETE", "member"])
async def test_invitations_of_a_leaver_end(company, how):
    invitations, by = company.services.invitations, acting(company.owner)
    scim_id = None if how == "POST" else await company.add(ADA)
    if how == "member":  # whose address is another one by now
        user_id = await company.person(ADA)
        await company.sign_in(user_id)
        database = company.billing.database
        await database.execute("UPDATE users SET email = 'ada@home.example' WHERE id = $1", user_id)
        await company.services.members.remove(company.organization.id, user_id, by)
        await invitations.invite(company.organization.id, "ada@home.example", "member", by)
    else:
        await invitations.invite(company.organization.id, ADA, "member", by)
    await invitations.invite(company.organization.id, EVE, "member", by)
    match how:
        case "POST":
            await company.add(ADA, active=False)
        case "PUT":
            body = {"userName": "new@example.com", "active": False}
            await company.call("PUT", f"/Users/{scim_id}", body, status=200)
        case "DELETE":
            await company.call("DELETE", f"/Users/{scim_id}", status=204)
        case _:
            await company.patch(f"/Users/{scim_id}", OFF)
    page = await invitations.page(company.organization.id, 10)
    assert [(each.email == EVE, each.status) for each in page.items] == [(True, "open"), (False, "revoked")]
    [revoked] = await company.audited("invitation.revoke")
    assert revoked["actor"].startswith("scim:sct_")


async def test_the_last_owner_stays(company):
    scim_id = await company.add("boss@example.com")
    key = await company.key(company.owner)
    for method, body in (("PATCH", {"Operations": [OFF]}), ("DELETE", None)):
        error = await company.call(method, f"/Users/{scim_id}", body, status=409)
        assert "owner" in error["detail"]
    assert (await company.call("GET", f"/Users/{scim_id}"))["active"] is True
    assert await company.role(company.owner) == "owner"
    assert await company.works(key)
    await company.invited("second@example.com", "owner")
    await company.patch(f"/Users/{scim_id}", OFF)
    assert await company.role(company.owner) is None


async def test_groups_give_roles_keys_and_limits(company):
    limits = parse_quotas([{"window": "month", "metric": "cost", "limit": "50"}])
    await company.rules(
        ("Admins", "admin"), {"group": "staff", "role": "member", "max_keys": 2, "quotas": limits}, ("*", "viewer")
    )
    scim_id, user_id = await company.member(ADA)
    assert await company.role(user_id) == "viewer"
    staff = await company.group("STAFF", scim_id)
    shown = await company.services.members.get(company.organization.id, user_id)
    assert (shown.role, shown.managed, shown.max_keys) == ("member", True, 2)
    found = await company.services.member_limits.get(company.organization.account_id, user_id)
    assert found.quotas == limits
    admins = await company.group("admins")
    await company.patch(f"/Groups/{admins}", member(scim_id))
    assert await company.role(user_id) == "admin"
    key = await company.key(user_id)
    await company.patch(f"/Groups/{admins}", {"op": "Remove", "path": f'members[value eq "{scim_id}"]'})
    assert await company.role(user_id) == "member"
    await company.call("DELETE", f"/Groups/{staff}", status=204)
    shown = await company.services.members.get(company.organization.id, user_id)
    assert (shown.role, shown.max_keys) == ("viewer", None)
    assert not await company.works(key)  # a viewer's can't call models


async def test_rules_apply_to_people_of_the_directory_at_once(company):
    scim_id, user_id = await company.member(ADA)
    other = await company.invited(EVE, "admin")
    await company.group("Engineering", scim_id, externalId="9b1c")
    await company.rules(("9B1C", "admin"))
    assert await company.roles() == {company.owner: "owner", user_id: "admin", other: "admin"}
    await company.rules(("Sales", "admin"))
    assert await company.role(user_id) == "viewer"
    await company.rules()
    assert await company.role(user_id) == "viewer"  # nothing is said of it any more: it stays
    [first, *_] = await company.audited("group_rules.update")
    assert first["after"] == {"rules": [{"group": "9B1C", "role": "admin", "max_keys": None, "quotas": None}]}


async def test_a_renamed_group_gives_what_its_new_name_does(company):
    await company.rules(("admins", "admin"), ("*", "viewer"))
    scim_id, user_id = await company.member(ADA)
    group = await company.group("Staff", scim_id)
    await company.patch(f"/Groups/{group}", {"op": "replace", "value": {"id": group, "displayName": "Admins"}})
    assert await company.role(user_id) == "admin"
    await company.call("PUT", f"/Groups/{group}", {"displayName": "Admins", "members": []}, status=200)
    assert await company.role(user_id) == "viewer"


async def test_no_group_touches_an_owner(company):
    await company.rules(("*", "viewer"))
    scim_id = await company.add("boss@example.com")
    await company.group("Staff", scim_id)
    assert await company.role(company.owner) == "owner"


async def test_a_new_owner_is_no_group_s_any_more(company):
    await company.rules({"group": "*", "role": "member", "max_keys": 1})
    scim_id, user_id = await company.member(ADA)
    members, org_id = company.services.members, company.organization.id
    assert (await members.get(org_id, user_id)).max_keys == 1
    owner = await members.set_role(org_id, user_id, "owner", acting(company.owner))
    assert (owner.role, owner.managed, owner.max_keys) == ("owner", False, None)
    await company.group("Staff", scim_id)
    await company.rules(("*", "viewer"))
    owner = await members.get(org_id, user_id)
    assert (owner.role, owner.managed, owner.max_keys) == ("owner", False, None)


async def test_a_full_plan(company):
    company.registry.directories._most_users = lambda _: 3
    for n in range(2):
        await company.add(f"p{n}@example.com")
    error = await company.call("POST", "/Users", {"userName": ADA}, status=409)
    assert "plan allows" in error["detail"]
    off = await company.add(ADA, active=False)
    await company.patch(f"/Users/{off}", ON, status=409)
    assert (await company.call("GET", f"/Users/{off}"))["active"] is False
    await company.add("boss@example.com")  # who is a member already
    company.registry.directories._most_users = lambda _: 0
    await company.invited("late@example.com")
    await company.add("late@example.com")
    company.registry.directories._most_users = lambda _: 4
    user_id = await company.person("p0@example.com")
    await company.invited("a@other.example")
    await company.invited("b@other.example")
    await company.sign_in(user_id)  # the last place was taken by others: nobody is kept from signing in for that
    assert await company.role(user_id) is None


async def test_who_comes_back_to_a_full_plan(company):
    scim_id, user_id = await company.member(ADA)
    await company.patch(f"/Users/{scim_id}", OFF)
    company.registry.directories._most_users = lambda _: 1
    await company.patch(f"/Users/{scim_id}", ON, status=409)
    assert await company.role(user_id) is None
    company.registry.directories._most_users = lambda _: 2
    await company.patch(f"/Users/{scim_id}", ON)
    assert await company.role(user_id) == "member"


async def test_another_organization_s_token(company):
    other = await company_of(company.api, company.registry, company.services, "Other", "other.example")
    mine, theirs = await company.add(ADA), await other.add("eve@other.example")
    group = await company.group("Staff", mine)
    for path in (f"/Users/{mine}", f"/Groups/{group}"):
        await other.call("GET", path, status=404)
        await other.patch(path, OFF, status=404)
        await other.call("PUT", path, {"userName": "x@other.example", "displayName": "x"}, status=404)
        await other.call("DELETE", path, status=404)
    assert await other.found("/Users", f'id eq "{mine}" or userName eq "{ADA}"') == []
    assert await other.found("/Groups", 'displayName eq "Staff"') == []
    await other.patch(f"/Groups/{await other.group('G', theirs)}", member(mine), status=400)
    await other.call("POST", "/Groups", {"displayName": "H", "members": [{"value": mine}]}, status=400)
    await other.add(ADA)  # a place in each: the address is one's own
    await other.group("Staff")


async def test_no_sign_in_waits_for_a_stranger_s_organization(company):
    """Nor do places that strangers keep hide one's own."""
    other = await company_of(company.api, company.registry, company.services, "Other", "other.example")
    database = company.billing.database
    await other.add(ADA)
    await company.add(ADA)
    account = other.organization.account_id
    await database.execute(
        "INSERT INTO accounts SELECT (jsonb_populate_record(accounts, jsonb_build_object('id', 'a' || n))).* "
        "FROM accounts, generate_series(1, 100) n WHERE id = $1",
        account,
    )
    await database.execute(
        "INSERT INTO organizations (id, slug, name, personal, account_id) "
        "SELECT '0' || n, 's' || n, 'n', false, 'a' || n FROM generate_series(1, 100) n"
    )
    await database.execute(
        "INSERT INTO scim_users (id, org_id, user_name, email, active, resource) "
        "SELECT 'u' || n, '0' || n, $1, $1, true, '{}' FROM generate_series(1, 100) n",
        ADA,
    )
    user_id = await company.person(ADA)
    async with database.transaction() as connection, asyncio.timeout(5):
        await locked(connection, other.organization.id)
        await company.sign_in(user_id)
    assert (await company.role(user_id), await other.role(user_id)) == ("member", None)


async def test_an_organization_gets_nobody_of_another_s_domain(company):
    """Not by adding them, and not by a domain that it says is its own."""
    other = await company_of(company.api, company.registry, company.services, "Other", "other.example")
    await other.add(ADA)
    user_id = await company.person(ADA)
    await company.sign_in(user_id)
    assert (await company.role(user_id), await other.role(user_id)) == (None, None)
    taken = await company.api.admin(
        "PUT", f"/orgs/{other.organization.id}/domains", {"domains": ["example.com", "free.example"]}
    )
    assert "example.com" in taken.refused(409, "idempotency_conflict")
    assert await company.registry.directories.domains(other.organization.id) == ["other.example"]


@pytest.mark.parametrize("token", ["", "mgs_", "mgs_" + "A" * 43, "mg_key", "a.b.c", "revoked", "an API key"])
async def test_a_wrong_token(company, token):
    if token == "revoked":
        page = await company.services.scim.tokens.page(company.organization.id, 10)
        await company.services.scim.tokens.revoke(company.organization.id, page.items[0].id, acting(company.owner))
        token = company.token
    if token == "an API key":
        _, token = await company.keys.create(company.organization.account_id, "k", user_id=company.owner)
    headers = {"Authorization": f"Bearer {token}"}
    async with company.api.client.get("/scim/v2/Users", headers=headers) as answer:
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await answer.json(content_type=None))["status"] == "401"
        if len(token) > 4:
            assert token not in await answer.text()


async def test_a_token_that_is_no_text(company):
    """A server reads bytes of a header that are no UTF-8 as surrogates."""
    peer = company.api.client.server
    reader, writer = await asyncio.open_connection(peer.host, peer.port)
    token = b"mgs_" + b"\xff" * 43
    writer.write(b"GET /scim/v2/Users HTTP/1.1\r\nHost: a\r\nConnection: close\r\n")
    writer.write(b"Authorization: Bearer " + token + b"\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()
    assert await company.services.scim.tokens.recognise(token.decode(errors="surrogateescape")) is None


async def test_a_token_opens_nothing_else(company):
    for path in ("/api/auth/me", "/api/orgs", f"/api/orgs/{company.organization.id}", "/api/billing/keys"):
        answer = await company.api.call("GET", path, headers={"Authorization": f"Bearer {company.token}"})
        assert answer.status == 401


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b"[" * 100_000, b'{"userName": 5}', b'{"userName": "a\\u0000"}'],
)
async def test_a_body_that_is_none(company, body):
    await company.call("POST", "/Users", data=body, status=400)


async def test_a_large_body(company):
    await company.call("POST", "/Users", {"userName": ADA, "displayName": "a" * 1_100_000}, status=413)


async def test_two_changes_at_once(company):
    """Each sees what the other has done: nobody is lost, and nobody stays whom one has removed."""
    ids = [await company.add(f"p{n}@example.com") for n in range(6)]
    group = await company.group("Staff", *ids[:3])
    await asyncio.gather(
        *(company.patch(f"/Groups/{group}", member(each)) for each in ids[3:]),
        *(
            company.patch(f"/Groups/{group}", {"op": "remove", "path": f'members[value eq "{each}"]'})
            for each in ids[:3]
        ),
    )
    shown = await company.call("GET", f"/Groups/{group}")
    assert {each["value"] for each in shown["members"]} == set(ids[3:])
    assert shown["meta"]["version"] == 'W/"7"'


async def test_two_owners_who_leave_at_once(company):
    second = await company.invited("second@example.com", "owner")
    ids = [await company.add("boss@example.com"), await company.add("second@example.com")]
    answers = await asyncio.gather(*(company.call("PATCH", f"/Users/{each}", {"Operations": [OFF]}) for each in ids))
    assert sorted(each.get("status", "200") for each in answers) == ["200", "409"]
    assert list((await company.roles()).values()) == ["owner"]
    assert second


async def test_a_key_that_is_made_while_its_user_leaves(company):
    """It is refused, or ends with the others."""
    scim_id, user_id = await company.member(ADA)
    path = "/billing/keys"

    async def make():
        answer = await company.api.person(user_id, "POST", path, {"name": "k"})
        return answer.json["id"] if answer.status == 201 else None

    _, *made = await asyncio.gather(company.patch(f"/Users/{scim_id}", OFF), *(make() for _ in range(5)))
    assert not any([await company.works(each) for each in made if each is not None])


async def test_how_many_keys_a_group_may_have(company):
    await company.rules({"group": "*", "role": "member", "max_keys": 1})
    _, user_id = await company.member(ADA)
    assert (await company.api.person(user_id, "POST", "/billing/keys", {"name": "a"})).status == 201
    refused = await company.api.person(user_id, "POST", "/billing/keys", {"name": "b"})
    assert "Your group may have 1" in refused.refused(409, "idempotency_conflict")


async def test_a_large_group_is_not_sent_with_each_change(company, monkeypatch):
    monkeypatch.setattr("billing.scim.directory.MOST_SHOWN", 2)
    monkeypatch.setattr("billing.api.scim.MOST_SHOWN", 2)
    ids = [await company.add(f"p{n}@example.com") for n in range(3)]
    group = f"/Groups/{await company.group('Staff', *ids[:2])}"
    assert len((await company.patch(group, member(ids[1])))["members"]) == 2
    assert await company.patch(group, member(ids[2]), status=204) is None
    assert len((await company.call("GET", group))["members"]) == 3
    put = await company.call("PUT", group, {"displayName": "Staff", "members": [{"value": each} for each in ids]})
    assert len(put["members"]) == 3


async def test_operations_count_as_calls(company, monkeypatch):
    group = await company.group("Staff")
    spent = []
    monkeypatch.setattr(type(company.services.scim.limit), "spend", lambda self, org_id, rows: spent.append(rows))
    name = {"op": "replace", "path": "displayName", "value": "A"}
    await company.patch(f"/Groups/{group}", name, name, name)
    assert spent[0] == 30


async def test_a_page_ends_where_its_groups_have_many_members(company, monkeypatch):
    monkeypatch.setattr("billing.scim.directory.MOST_REFERENCES", 3)
    ids = [await company.add(f"p{n}@example.com") for n in range(2)]
    groups = [await company.group(f"G{n}", *ids) for n in range(3)]
    first = await company.call("GET", "/Groups", status=200)
    assert (first["totalResults"], [each["id"] for each in first["Resources"]]) == (3, groups[:1])
    without = await company.call("GET", "/Groups", params={"excludedAttributes": "members"}, status=200)
    assert len(without["Resources"]) == 3


async def test_bounds_of_a_directory(company):
    scim = company.services.scim.directory
    scim.settings = ScimSettings(scim_users=1, scim_groups=1)
    await company.add(ADA)
    assert (await company.call("POST", "/Users", {"userName": EVE}, status=400))["scimType"] == "tooMany"
    await company.group("Staff")
    assert (await company.call("POST", "/Groups", {"displayName": "More"}, status=400))["scimType"] == "tooMany"


async def test_how_many_members_groups_may_have_together(company):
    company.services.scim.directory.settings = ScimSettings(scim_memberships=3)
    ids = [await company.add(f"p{n}@example.com") for n in range(3)]
    first, second = await company.group("First", *ids[:2]), await company.group("Second", ids[0])
    body = {"displayName": "Third", "members": [{"value": ids[0]}]}
    assert (await company.call("POST", "/Groups", body, status=400))["scimType"] == "tooMany"
    assert (await company.patch(f"/Groups/{second}", member(ids[2]), status=400))["scimType"] == "tooMany"
    await company.patch(f"/Groups/{first}", {"op": "replace", "path": "members", "value": [{"value": ids[2]}]})
    await company.patch(f"/Groups/{second}", member(ids[2]))
    assert await company.found("/Groups", f'members eq "{ids[2]}"') == [first, second]


async def test_members_that_are_added_count_as_calls(company, monkeypatch):
    spent = []
    monkeypatch.setattr(company.services.scim.directory, "_spend", lambda _, rows: spent.append(rows))
    ids = [await company.add(f"p{n}@example.com") for n in range(3)]
    group = await company.group("Staff", *ids[:2])
    await company.patch(f"/Groups/{group}", member(ids[2]))
    assert spent == [2, 3]


async def test_how_many_tokens_there_may_be(company):
    tokens = company.services.scim.tokens
    for n in range(4):
        await tokens.create(company.organization.id, f"t{n}", acting(company.owner))
    with pytest.raises(OrganizationConflict):
        await tokens.create(company.organization.id, "one more", acting(company.owner))
    admin = await company.invited("admin@other.example", "admin")
    with pytest.raises(OrganizationForbidden):
        await tokens.create(company.organization.id, "t", acting(admin))
    row = await company.billing.database.row("SELECT * FROM scim_tokens LIMIT 1")
    assert company.token not in str(dict(row))
