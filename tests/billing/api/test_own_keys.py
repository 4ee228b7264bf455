"""/api/billing/keys: who may make and change which keys, and the rights that a key can't get by it."""

from typing import Any

import pytest

from billing.identity.organizations import Organization
from billing.keys.secrets import secret_digest
from billing.permissions import ROLES
from tests.billing.api.support import Api
from tests.billing.identity.support import join, mails, new_organization, new_user
from tests.billing.support import Billing, changes_told

KEYS = "/billing/keys"


@pytest.fixture
async def people(billing: Billing) -> dict[str, str]:
    return {name: await new_user(billing, f"{name}@example.com") for name in (*ROLES, "stranger")}


@pytest.fixture
async def acme(billing: Billing, people: dict[str, str]) -> Organization:
    organization = await new_organization(billing, "Acme", people["owner"])
    await new_organization(billing, "Other", people["stranger"])
    await join(billing, organization, people["admin"], "admin")
    await join(billing, organization, people["member"], "member")
    await join(billing, organization, people["viewer"], "viewer")
    return organization


async def made(api: Api, maker: str, /, **key: Any) -> dict[str, Any]:
    """A key that somebody has made, with its secret."""
    answer = await api.person(maker, "POST", KEYS, {"name": "laptop", **key})
    assert answer.status == 201, answer.json
    found: dict[str, Any] = answer.json
    return found


async def test_a_member_makes_keys_of_their_own(api, billing, people, acme):
    key = await made(api, people["member"], scopes="llm:proxy billing:read", quota=500)
    assert (key["user_id"], key["account_id"]) == (people["member"], acme.account_id)
    assert key["quotas"] == [{"window": "total", "metric": "tokens", "limit": 500}]
    assert await billing.principals.by_digest(secret_digest(key["key"])) is not None
    path = f"{KEYS}/{key['id']}"
    shown = (await api.person(people["viewer"], "GET", path)).json
    assert shown == {name: value for name, value in key.items() if name not in ("key", "warnings")}
    changed = await api.person(people["member"], "PATCH", path, {"name": "desk", "quotas": None})
    assert (changed.json["name"], changed.json["quotas"]) == ("desk", [])
    usage = await api.person(people["viewer"], "GET", f"{path}/usage")
    assert (usage.status, usage.json["events"]) == (200, 0)
    for method, suffix in (("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
        (
            await api.person(people["viewer"], method, path + suffix, {"name": "x"} if method == "PATCH" else None)
        ).refused(403, "insufficient_scope")
    with changes_told(billing.change_notifier, ("key", key["id"], acme.account_id)):
        assert (await api.person(people["member"], "DELETE", path)).status == 204
    assert (await api.person(people["viewer"], "POST", KEYS, {"name": "x"})).status == 403


async def test_others_keys_are_the_admins_affair(api, billing, people, acme):
    key = await made(api, people["admin"], user_id=people["member"])
    assert key["user_id"] == people["member"]
    own = await made(api, people["owner"])
    for body in ({"user_id": people["admin"]}, {"user_id": people["stranger"]}):
        refused = await api.person(people["member"], "POST", KEYS, {"name": "x", **body})
        refused.refused(403, "insufficient_scope")
        assert refused.error["required_scope"] == "keys:admin"
    assert (await api.person(people["member"], "DELETE", f"{KEYS}/{own['id']}")).status == 403
    (await api.person(people["admin"], "POST", KEYS, {"name": "x", "user_id": people["stranger"]})).refused(
        404, "not_found"
    )
    viewers = await api.person(people["admin"], "POST", KEYS, {"name": "x", "user_id": people["viewer"]})
    viewers.refused(403, "insufficient_scope")
    assert viewers.error["required_scope"] == "llm:proxy", "a viewer's key can do no more than a viewer"
    listed = await api.person(people["viewer"], "GET", KEYS, params={"user_id": people["member"]})
    assert [each["id"] for each in listed.json["data"]] == [key["id"]]
    assert len((await api.person(people["viewer"], "GET", KEYS)).json["data"]) == 2
    assert (await api.person(people["admin"], "DELETE", f"{KEYS}/{own['id']}")).status == 204


@pytest.mark.parametrize(
    ("who", "scopes", "narrowed", "lacks"),
    [
        ("member", "llm:proxy keys:admin", (), "keys:admin"),
        ("admin", "org:transfer", (), "org:transfer"),
        ("owner", "acme:deploy", (), "acme:deploy"),
        ("owner", "llm:proxy", ("keys:write",), "llm:proxy"),
        ("owner", None, ("keys:write", "llm:proxy"), "billing:read"),
    ],
)
async def test_nobody_gives_what_they_lack(api, people, acme, who, scopes, narrowed, lacks):
    answer = await api.person(people[who], "POST", KEYS, {"name": "x", "scopes": scopes}, scopes=narrowed)
    answer.refused(403, "insufficient_scope")
    assert answer.error["required_scope"] == lacks
    assert "metergate auth token" in answer.error["message"]
    key = await made(api, people[who], scopes="keys:read")
    grown = await api.person(
        people[who],
        "PATCH",
        f"{KEYS}/{key['id']}",
        {"scopes": scopes},
        scopes=(*narrowed, "keys:write") if narrowed else (),
    )
    assert (grown.status, grown.error["required_scope"]) == (403, lacks)


async def test_another_account_s_keys_are_not_found(api, billing, people, acme):
    key = await made(api, people["owner"])
    for method, suffix, body in (
        ("GET", "", None),
        ("GET", "/usage", None),
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/rotate", None),
    ):
        (await api.person(people["stranger"], method, f"{KEYS}/{key['id']}{suffix}", body)).refused(404, "not_found")
    assert (await api.person(people["stranger"], "GET", KEYS)).json["data"] == []


async def test_a_key_makes_keys_that_can_do_no_more(api, billing, people, acme):
    manager = await made(api, people["admin"], scopes="keys:read keys:write billing:read")
    secret = manager["key"]
    new = await api.by_key(secret, "POST", KEYS, {"name": "y", "scopes": "billing:read"})
    assert (new.status, new.json["user_id"]) == (201, people["admin"])
    for scopes in ("llm:proxy", "keys:admin", "acme:deploy"):
        (await api.by_key(secret, "POST", KEYS, {"name": "y", "scopes": scopes})).refused(403, "insufficient_scope")
    (await api.by_key(secret, "POST", KEYS, {"name": "y", "user_id": people["member"]})).refused(
        403, "insufficient_scope"
    )
    strong = await made(api, people["admin"], scopes="billing:setup")
    rotated = await api.by_key(secret, "POST", f"{KEYS}/{strong['id']}/rotate")
    rotated.refused(403, "insufficient_scope")
    assert rotated.error["required_scope"] == "billing:setup", "its secret would be more than this key has"
    itself = await api.by_key(secret, "POST", f"{KEYS}/{manager['id']}/rotate", {"grace_seconds": 60})
    assert itself.status == 200
    (await api.by_key(secret, "POST", f"{KEYS}/{manager['id']}/rotate")).refused(403, "insufficient_scope")
    assert (await api.by_key(itself.json["key"], "GET", KEYS)).status == 200


async def test_a_limited_key_can_t_lift_its_limits(api, people, acme):
    scopes = "keys:read keys:write llm:proxy"
    whole = await made(api, people["admin"], scopes=scopes)
    for limits in (
        {"quota": 5},
        {"models": ["gpt-4o-mini"]},
        {"max_parallel_requests": 1},
        {"expires_at": "2100-01-01"},
    ):
        key = await made(api, people["admin"], scopes=scopes, **limits)
        path = f"{KEYS}/{key['id']}"
        for method, where, body in (
            ("POST", KEYS, {"name": "y", "scopes": "llm:proxy"}),
            ("PATCH", path, {"quotas": None, "models": None}),
            ("PATCH", f"{KEYS}/{whole['id']}", {"name": "y"}),
            ("POST", f"{KEYS}/{whole['id']}/rotate", None),
        ):
            (await api.by_key(key["key"], method, where, body)).refused(403, "insufficient_scope")
        assert (await api.by_key(key["key"], "POST", f"{path}/rotate")).status == 200


async def test_a_key_of_an_operator_s_account_manages_its_own(api):
    """An account without an organization: what `POST /api/admin/accounts` makes."""
    account, manager = await api.customer(scopes="keys:read keys:write llm:proxy")
    new = await api.by_key(manager["key"], "POST", KEYS, {"name": "y", "scopes": "llm:proxy"})
    assert (new.status, new.json["account_id"], new.json["user_id"]) == (201, account["id"], None)
    (await api.by_key(manager["key"], "POST", KEYS, {"name": "y", "scopes": "llm:proxy", "user_id": "u1"})).refused(
        403, "insufficient_scope"
    )
    _, admin = await api.customer(scopes="keys:read keys:write keys:admin llm:proxy billing:read")
    of_user = await api.by_key(admin["key"], "POST", KEYS, {"name": "y", "user_id": "u1", "quota": 7})
    assert (of_user.status, of_user.json["user_id"]) == (201, "u1")
    listed = (await api.by_key(admin["key"], "GET", f"{KEYS}?user_id=u1")).json["data"]
    assert [each["id"] for each in listed] == [of_user.json["id"]]


async def test_rotation_over_http(api, billing, people, acme):
    key = await made(api, people["member"])
    path = f"{KEYS}/{key['id']}/rotate"
    rotated = await api.person(people["member"], "POST", path, {"grace_seconds": 3600})
    assert rotated.json["previous_until"] is not None
    assert (rotated.json["id"], rotated.json["prefix"]) == (key["id"], rotated.json["key"][:10])
    for secret in (key["key"], rotated.json["key"]):
        assert (await api.get(secret, "/account/balance")).status == 200
    last = await api.person(people["member"], "POST", path)
    assert last.json["previous_until"] is None
    statuses = [
        (await api.get(s, "/account/balance")).status for s in (key["key"], rotated.json["key"], last.json["key"])
    ]
    assert statuses == [401, 401, 200]
    (await api.person(people["member"], "POST", path, {"grace_seconds": 10**8})).refused(
        400, "invalid_request_error", "grace_seconds"
    )
    by_admin = await api.admin("POST", f"/keys/{key['id']}/rotate", {"grace_seconds": 5})
    assert by_admin.status == 200
    await api.admin("DELETE", f"/keys/{key['id']}")
    (await api.person(people["member"], "POST", path)).refused(409, "idempotency_conflict")
    (await api.admin("POST", f"/keys/{key['id']}/rotate")).refused(409, "idempotency_conflict")


async def test_so_many_keys_for_a_user(api, billing, people, acme):
    for number in range(100):
        await billing.keys.create(acme.account_id, f"k{number}", user_id=people["member"])
    (await api.person(people["member"], "POST", KEYS, {"name": "x"})).refused(409, "idempotency_conflict")
    assert (await api.person(people["admin"], "POST", KEYS, {"name": "x"})).status == 201


async def test_a_leaked_key_is_revoked_by_its_secret_alone(api, billing, people, acme):
    key = await made(api, people["member"])
    unknown = key["key"][:-1] + ("0" if key["key"][-1] != "0" else "1")
    answers = [
        await api.call("POST", f"/api{KEYS}/revoke-leaked", json={"key": given})
        for given in (key["key"], key["key"], unknown, "nonsense")
    ]
    assert {answer.status for answer in answers} == {200}
    assert len({str(answer.json) for answer in answers}) == 1
    (await api.get(key["key"], "/account/balance")).refused(401, "invalid_api_key")
    (mail,) = await mails(billing, "member@example.com")
    assert key["id"] in mail
    assert key["key"] not in mail
    row = await billing.database.row("SELECT * FROM audit_log WHERE action = 'key.leaked'")
    assert (row["actor"], row["subject"], row["account_id"]) == ("nobody", key["id"], acme.account_id)


async def test_a_leaked_key_without_a_user_is_told_to_the_owners(api, billing, people, acme):
    _, secret = await billing.keys.create(acme.account_id, "machine")
    await api.call("POST", f"/api{KEYS}/revoke-leaked", json={"key": secret})
    (mail,) = await mails(billing, "owner@example.com")
    assert '"machine"' in mail
    assert await mails(billing, "admin@example.com") == []


async def test_a_leaked_key_s_name_puts_no_link_into_the_mail(api, billing, people, acme):
    _, secret = await billing.keys.create(acme.account_id, "machine: see https://evil.example")
    await api.call("POST", f"/api{KEYS}/revoke-leaked", json={"key": secret})
    (mail,) = await mails(billing, "owner@example.com")
    assert "evil" not in mail
