"""What operators and customers see of the audit log, and the ids of requests in it."""

import pytest

from billing.permissions import AUDIT_READ
from tests.billing.api.support import ADMIN_KEY, token_of


async def test_a_change_is_found_with_its_request(api):
    account, _ = await api.customer()
    path = f"/api/admin/accounts/{account['id']}"
    headers = {"X-Admin-Key": ADMIN_KEY, "X-Request-Id": "mine-1"}
    patched = await api.call("PATCH", path, json={"status": "closed", "reason": "asked for it"}, headers=headers)
    assert patched.headers["X-Request-ID"] == "mine-1"
    found = (await api.admin("GET", "/audit", params={"account_id": account["id"], "limit": "1"})).json["data"][0]
    assert (found["actor"], found["action"]) == ("admin", "account.update")
    assert (found["request_id"], found["address"], found["subject"]) == ("mine-1", "127.0.0.1", account["id"])
    assert (found["before"]["status"], found["after"]["status"]) == ("active", "closed")
    assert found["after"]["reason"] == "asked for it"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "é", "-x", '"'])
async def test_an_id_that_is_none_gets_one_of_ours(api, given):
    answer = await api.call("GET", "/api/ping", headers={"X-Request-Id": given})
    assert len(answer.headers["X-Request-ID"]) == 26
    refused = await api.call("GET", "/api/nowhere", headers={"X-Request-Id": "good:1"})
    assert (refused.status, refused.headers["X-Request-ID"]) == (404, "good:1")


async def test_rows_are_chosen(api):
    account, key = await api.customer()
    other, _ = await api.customer()
    await api.admin("PATCH", f"/keys/{key['id']}", {"name": "desk"})
    await api.admin("DELETE", f"/keys/{key['id']}")

    async def actions(**params):
        answer = await api.admin("GET", "/audit", params=params)
        assert answer.status == 200, answer.json
        return [each["action"] for each in answer.json["data"]]

    own = ["key.revoke", "key.update", "key.create", "account.create"]
    assert await actions(account_id=account["id"]) == own
    assert await actions(account_id=account["id"], action="key.*") == own[:3]
    assert await actions(action="key.update") == ["key.update"]
    assert await actions(actor="user:usr_none") == []
    assert await actions(actor="admin", account_id=other["id"]) == own[2:]
    assert await actions(until="2020-01-01") == []
    assert await actions(since="2020-01-01", account_id=account["id"]) == own
    assert await actions(user_id="usr_none") == []
    page = (await api.admin("GET", "/audit", params={"limit": "4"})).json
    rest = (await api.admin("GET", "/audit", params={"limit": "4", "cursor": page["next_cursor"]})).json
    assert len({each["id"] for each in (*page["data"], *rest["data"])}) == 6
    assert rest["next_cursor"] is None


async def test_a_customer_sees_the_own_account_alone(api):
    account, key = await api.customer(scopes=[AUDIT_READ])
    _, plain = await api.customer()
    found = await api.get(key["key"], "/account/audit")
    assert found.status == 200
    assert [each["action"] for each in found.json["data"]] == ["key.create", "account.create"]
    assert {each["account_id"] for each in found.json["data"]} == {account["id"]}
    assert {each["address"] for each in found.json["data"]} == {None}  # it was the operator's
    assert (await api.get(plain["key"], "/account/audit")).status == 403
    assert (await api.call("GET", "/api/account/audit")).status == 401
    assert (await api.call("GET", "/api/admin/audit", headers={"X-Admin-Key": "wrong"})).status == 401


async def test_addresses_are_shown_of_those_who_belong_to_the_account(api):
    account, key = await api.customer(scopes=[AUDIT_READ])
    database = api.billing.database
    await database.execute(
        "INSERT INTO users (id, email) VALUES ('usr_1', 'a@example.com'), ('usr_2', 'b@example.com')"
    )
    insert = "INSERT INTO organizations (id, slug, name, account_id) VALUES ('org_1', 'acme', 'Acme', $1)"
    await database.execute(insert, account["id"])
    await database.execute("INSERT INTO memberships (org_id, user_id, role) VALUES ('org_1', 'usr_1', 'owner')")
    for actor in ("user:usr_1", "user:usr_2", "key:key_1", "admin"):
        insert = "INSERT INTO audit_log (actor, action, subject, address, account_id) VALUES ($1, 'x.y', 'z', $2, $3)"
        await database.execute(insert, actor, "1.2.3.4", account["id"])
    rows = (await api.get(key["key"], "/account/audit", action="x.y")).json["data"]
    shown = {each["actor"]: each["address"] for each in rows}
    assert shown == {"user:usr_1": "1.2.3.4", "user:usr_2": None, "key:key_1": "1.2.3.4", "admin": None}
    insert = (
        "INSERT INTO audit_log (actor, action, subject, address, user_id, account_id) VALUES ($1, $2, 'z', $3, $4, $5)"
    )
    for actor, action, user_id, account_id in (
        ("nobody", "user.sign_in_failed", "usr_1", None),
        ("user:usr_1", "user.sign_in", "usr_1", None),
        ("admin", "user.operator", "usr_1", None),
        ("nobody", "user.sign_in_failed", "usr_2", None),
        ("user:usr_1", "user.joined", "usr_1", "acc_other"),
    ):
        await database.execute(insert, actor, action, "1.2.3.4", user_id, account_id)
    await database.execute("UPDATE users SET status = 'active'")
    own = {"headers": {"Authorization": f"Bearer {token_of('usr_1')}"}, "params": {"action": "user.*"}}
    found = (await api.call("GET", "/api/account/audit", **own)).json["data"]
    shown = [(each["action"], each["address"]) for each in found]
    assert shown == [("user.operator", None), ("user.sign_in", "1.2.3.4"), ("user.sign_in_failed", "1.2.3.4")]
    assert (await api.get(key["key"], "/account/audit", action="user.*")).json["data"] == []
