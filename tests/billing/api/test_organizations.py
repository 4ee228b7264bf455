"""/api/orgs, as people of each role, keys and strangers."""

import asyncio
from dataclasses import dataclass

import pytest

from billing.change_notifier import LiveBalance
from billing.identity.organizations import Invitations, Organization
from billing.permissions import ROLES, SCOPES, Role
from tests.billing.identity.support import join, new_organization, new_user, token_sent
from tests.billing.support import Billing


@dataclass(frozen=True)
class Team:
    """An organization with one person of each role, by its name, and a stranger who has one of their own."""

    organization: Organization
    people: dict[str, str]
    other: Organization

    def __getitem__(self, name: str) -> str:
        return self.people[name]

    @property
    def path(self) -> str:
        return f"/orgs/{self.organization.id}"


@pytest.fixture
async def team(billing: Billing) -> Team:
    names: list[Role] = ["admin", "member", "viewer"]
    people = {name: await new_user(billing, f"{name}@example.com") for name in ("owner", *names, "stranger")}
    organization = await new_organization(billing, "Acme", people["owner"], plan="starter")
    other = await new_organization(billing, "Other", people["stranger"])
    for name in names:
        await join(billing, organization, people[name], name)
    return Team(organization, people, other)


async def test_one_s_own_organizations(api, team):
    made = await api.person(team["member"], "POST", "/orgs", {"name": "  My \n Shop "})
    assert made.status == 201
    assert (made.json["name"], made.json["slug"], made.json["role"]) == ("My Shop", "my-shop", "owner")
    listed = (await api.person(team["member"], "GET", "/orgs")).json["data"]
    assert [(each["id"], each["role"]) for each in listed] == [
        (made.json["id"], "owner"),
        (team.organization.id, "member"),
    ]
    path = f"/orgs/{made.json['id']}"
    changed = await api.person(team["member"], "PATCH", path, {"name": "Shop", "slug": "the-shop"})
    assert (changed.status, changed.json["name"], changed.json["slug"]) == (200, "Shop", "the-shop")
    taken = await api.person(team["member"], "PATCH", path, {"slug": team.other.slug})
    taken.refused(409, "idempotency_conflict")
    for wrong in ({"name": " \n"}, {"slug": "No Slug"}, {"slug": "a\n"}, {"name": 1}, {"nothing": 1}):
        assert (await api.person(team["member"], "PATCH", path, wrong)).status == 400


async def test_the_role_there_decides_and_not_the_token_s_organization(api, team):
    """Who owns another organization is no more than a viewer here."""
    own = (await api.person(team["viewer"], "POST", "/orgs", {"name": "Mine"})).json
    answer = await api.person(
        team["viewer"], "PATCH", team.path, {"name": "x"}, headers={"X-Organization-Id": own["id"]}
    )
    answer.refused(403, "insufficient_scope")
    assert answer.error["required_scope"] == "org:write"
    assert "metergate auth token" in answer.error["message"]


@pytest.mark.parametrize("who", ["owner", "admin", "member", "viewer", "stranger"])
async def test_each_role_reads_and_changes_what_the_table_says(api, team, who):
    user = team[who]
    has = ROLES[who] if who in ROLES else frozenset[str]()
    for method, path, scope, body in (
        ("GET", "", "org:read", None),
        ("GET", "/members", "members:read", None),
        ("GET", f"/members/{team['owner']}", "members:read", None),
        ("GET", f"/members/{team['viewer']}/quotas", "members:read", None),
        ("GET", "/invitations", "members:read", None),
        ("PATCH", "", "org:write", {"name": "Acme"}),
        ("PATCH", f"/members/{team['viewer']}", "members:write", {"role": "viewer"}),
        ("PUT", f"/members/{team['viewer']}/quotas", "members:write", {"quotas": []}),
        ("POST", "/invitations", "members:write", {"email": f"{who}s-friend@example.com"}),
        ("POST", "/transfer-ownership", "org:transfer", {"user_id": user}),
    ):
        answer = await api.person(user, method, team.path + path, body)
        if who == "stranger":
            answer.refused(404, "not_found")
        elif scope not in has:
            answer.refused(403, "insufficient_scope")
            assert answer.error["required_scope"] == scope
        elif path == "/transfer-ownership":
            answer.refused(409, "idempotency_conflict")
        else:
            assert answer.status in (200, 201), answer.json
        narrowed = await api.person(user, method, team.path + path, body, scopes=["billing:read"])
        assert narrowed.status == (404 if who == "stranger" else 403)


async def test_a_key_reads_its_own_organization_and_changes_nothing(api, billing, team):
    _, reader = await billing.keys.create(team.organization.account_id, "x", scopes=tuple(SCOPES)[:32])
    _, plain = await billing.keys.create(team.organization.account_id, "x")
    assert (await api.by_key(reader, "GET", team.path)).json["role"] is None
    assert len((await api.by_key(reader, "GET", f"{team.path}/members")).json["data"]) == 4
    (await api.by_key(plain, "GET", f"{team.path}/members")).refused(403, "insufficient_scope")
    (await api.by_key(reader, "GET", f"/orgs/{team.other.id}")).refused(404, "not_found")
    for method, path in (("PATCH", team.path), ("DELETE", f"{team.path}/members/{team['viewer']}"), ("GET", "/orgs")):
        (await api.by_key(reader, method, path, {"name": "x"})).refused(401, "invalid_api_key")


async def test_ids_of_nothing_are_not_found(api, team):
    strange = ("/orgs/a b", "/orgs/%00/members", "/orgs/%ff", f"/orgs/{'x' * 300}/members")
    for path in ("/orgs/org_none", f"{team.path}/members/usr_none", *strange):
        (await api.person(team["owner"], "GET", path)).refused(404, "not_found")
    for path in (f"{team.path}/members/usr_none", f"{team.path}/invitations/inv_none"):
        (await api.person(team["owner"], "DELETE", path)).refused(404, "not_found")
    (await api.person(team["owner"], "POST", "/invitations/none/accept")).refused(404, "not_found")


async def test_from_an_invitation_to_leaving(api, billing, team):
    bob = await new_user(billing, "bob@example.com")
    sent = await api.person(
        team["admin"], "POST", f"{team.path}/invitations", {"email": "BOB@example.com", "role": "viewer"}
    )
    assert (sent.status, sent.json["status"], sent.json["email"]) == (201, "open", "bob@example.com")
    token = await token_sent(billing, "bob@example.com")
    assert token not in str(sent.json)
    again = await api.person(team["admin"], "POST", f"{team.path}/invitations/{sent.json['id']}/resend")
    assert (again.status, again.json["sends"]) == (200, 2)
    (await api.person(bob, "POST", f"/invitations/{token}/accept")).refused(404, "not_found")
    token = await token_sent(billing, "bob@example.com")
    (await api.person(team["stranger"], "POST", f"/invitations/{token}/accept")).refused(404, "not_found")
    joined = await api.person(bob, "POST", f"/invitations/{token}/accept")
    assert (joined.status, joined.json["id"], joined.json["role"]) == (200, team.organization.id, "viewer")
    raised = await api.person(team["admin"], "PATCH", f"{team.path}/members/{bob}", {"role": "member"})
    assert raised.json["role"] == "member"
    (await api.person(bob, "DELETE", f"{team.path}/members/{team['viewer']}")).refused(403, "insufficient_scope")
    assert (await api.person(bob, "DELETE", f"{team.path}/members/{bob}")).status == 204
    (await api.person(bob, "GET", team.path)).refused(404, "not_found")
    (await api.person(team["owner"], "DELETE", f"{team.path}/members/{team['owner']}")).refused(
        409, "idempotency_conflict"
    )
    for wrong in ({"email": "bob"}, {"email": "b@example.com", "role": "king"}, {}):
        assert (await api.person(team["admin"], "POST", f"{team.path}/invitations", wrong or {"x": 1})).status == 400


async def test_limits_of_a_member(api, team):
    path = f"{team.path}/members/{team['member']}/quotas"
    quotas = [{"window": "month", "metric": "cost", "limit": "50.00"}]
    assert (await api.person(team["admin"], "PUT", path, {"quotas": quotas})).json["quotas"] == quotas
    assert (await api.person(team["member"], "GET", path)).json["quotas"] == quotas
    of_owner = f"{team.path}/members/{team['owner']}/quotas"
    (await api.person(team["admin"], "PUT", of_owner, {"quotas": quotas})).refused(403, "insufficient_scope")
    stranger = f"{team.path}/members/{team['stranger']}/quotas"
    (await api.person(team["admin"], "PUT", stranger, {"quotas": quotas})).refused(404, "not_found")


async def test_who_is_not_let_in_and_whose_token_is_narrow(api, billing, team):
    eve = await new_user(billing, "eve@example.com", status="pending")
    (await api.person(eve, "POST", "/orgs", {"name": "Evil"})).refused(409, "idempotency_conflict")
    narrow = await api.person(team["owner"], "POST", "/orgs", {"name": "More"}, scopes=["billing:read"])
    narrow.refused(403, "insufficient_scope")
    assert (await api.person(team["viewer"], "POST", "/orgs", {"name": "More"})).status == 201


async def test_an_owner_closes_an_organization(api, billing, team, people):
    owner = await people.sign_in(team["owner"])
    account_id, empty = team.organization.account_id, {"json": {}}
    path = f"/api{team.path}/close"

    async def close(**body):
        return await api.call("POST", path, headers={"Authorization": f"Bearer {owner.access_token}"}, json=body)

    async def refused(why):
        assert why in (await close()).refused(409, "idempotency_conflict")

    (await api.person(team["admin"], "POST", f"{team.path}/close", **empty)).refused(403, "insufficient_scope")
    await refused("paid each month")
    await billing.accounts.update(account_id, plan="free", status="suspended")
    await refused("suspended")
    await billing.accounts.update(account_id, status="active")
    billing.change_notifier.live[account_id] = LiveBalance(-1_500_000_000, 0)
    await refused("owes 1.50 USD")
    billing.change_notifier.live[account_id] = LiveBalance(0, 1)
    await refused("running")
    billing.change_notifier.live[account_id] = LiveBalance(2_000_000_000, 0)
    await refused("2.00 USD are left")
    await api.person(team["owner"], "POST", f"{team.path}/invitations", {"email": "eve@example.com"})
    assert [(await close(forfeit=True)).status, (await close()).status] == [200, 200]
    assert (await billing.accounts.get(account_id)).status == "closed"
    invitations = (await api.person(team["owner"], "GET", f"{team.path}/invitations")).json["data"]
    assert [each["status"] for each in invitations] == ["revoked"]
    assert (await api.person(team["viewer"], "GET", team.path)).status == 200


async def test_who_is_demoted_while_a_call_waits_changes_nothing(api, billing, team):
    quotas = {"quotas": [{"window": "day", "metric": "tokens", "limit": 1}]}
    calls = (("PATCH", team.path, {"name": "Mine"}), ("PUT", f"{team.path}/members/{team['member']}/quotas", quotas))
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with billing.database.transaction() as connection:
        await connection.execute("SELECT 1 FROM organizations WHERE id = $1 FOR UPDATE", team.path.rpartition("/")[2])
        waiting = [asyncio.ensure_future(api.person(team["admin"], *call)) for call in calls]
        async with asyncio.timeout(60):
            while await billing.database.value(blocked) < len(calls):
                await asyncio.sleep(0.01)
        await connection.execute("UPDATE memberships SET role = 'member' WHERE user_id = $1", team["admin"])
    for answer in await asyncio.gather(*waiting):
        answer.refused(403, "insufficient_scope")


async def test_the_table_of_roles_is_open(api):
    table = (await api.call("GET", "/api/roles")).json
    assert {role: set(scopes) for role, scopes in table["roles"].items()} == ROLES
    assert table["scopes"] == SCOPES


async def test_changes_are_in_the_account_s_audit_log(api, billing, team):
    await api.person(team["admin"], "PATCH", f"{team.path}/members/{team['member']}", {"role": "viewer"})
    seen = (await api.person(team["owner"], "GET", "/account/audit")).json["data"]
    assert (seen[0]["action"], seen[0]["actor"]) == ("member.update", f"user:{team['admin']}")
    assert (seen[0]["before"], seen[0]["after"]) == ({"role": "member"}, {"role": "viewer"})


async def test_a_fault_does_not_log_an_invitation_s_token(api, team, monkeypatch, caplog):
    async def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(Invitations, "accept", fail)
    token = "t" * 43
    answer = await api.person(team["owner"], "POST", f"/invitations/{token}/accept")
    assert answer.status == 500
    assert "/api/invitations/{token}/accept failed" in caplog.text
    assert token not in caplog.text
