"""People, as operators see and change them."""

from datetime import UTC, datetime

import pytest

from tests.billing.api.support import Api

INSERT = "INSERT INTO users (id, email, status, totp_confirmed_at) VALUES ($1, $2, $3, $4)"


@pytest.fixture
async def ada(api: Api) -> str:
    await api.billing.database.execute(INSERT, "usr_ada", "ada@example.com", "active", datetime.now(UTC))
    return "usr_ada"


async def test_people_are_listed(api, ada):
    await api.billing.database.execute(INSERT, "usr_bob", "bob@example.com", "pending", None)

    async def found(**params):
        return [each["id"] for each in (await api.admin("GET", "/users", params=params)).json["data"]]

    assert await found() == ["usr_bob", "usr_ada"]
    assert await found(status="pending") == ["usr_bob"]
    assert await found(email="ADA@example.com ") == ["usr_ada"]
    assert await found(limit="1") == ["usr_bob"]
    (await api.admin("GET", "/users", params={"status": "gone"})).refused(400, "invalid_request_error", "status")
    (await api.admin("GET", "/users/usr_none")).refused(404, "not_found")
    (await api.admin("PATCH", "/users/usr_none", {"status": "active"})).refused(404, "not_found")


async def test_somebody_is_let_in_and_out(api, ada):
    database = api.billing.database
    await database.execute("UPDATE users SET status = 'pending' WHERE id = $1", ada)
    approved = await api.admin("PATCH", "/users/usr_ada", {"status": "active", "operator": True})
    assert (approved.status, approved.json["status"], approved.json["operator"]) == (200, "active", True)
    await database.execute("INSERT INTO sessions (id, user_id, expires_at) VALUES ('ses_1', $1, 'infinity')", ada)
    disabled = await api.admin("PATCH", "/users/usr_ada", {"status": "disabled"})
    assert (disabled.json["status"], disabled.json["operator"]) == ("disabled", False)
    session = await database.row("SELECT ended_at, end_reason FROM sessions")
    assert session["ended_at"] is not None
    assert session["end_reason"] == "disabled"
    assert await database.value("SELECT tokens_valid_from > '-infinity' FROM users")
    _, key = await api.customer(user_id="usr_ada")
    assert (await api.admin("PATCH", "/users/usr_ada", {"status": "disabled"})).status == 200
    assert (await api.get(key["key"], "/account/balance")).status == 200
    assert (await api.admin("PATCH", "/users/usr_ada", {"status": "disabled", "revoke_keys": True})).status == 200
    assert (await api.get(key["key"], "/account/balance")).status == 401
    enabled = await api.admin("PATCH", "/users/usr_ada", {"status": "active"})
    assert (enabled.json["status"], enabled.json["operator"]) == ("active", False)
    actions = [each["action"] for each in (await api.admin("GET", "/audit", params={"user_id": ada})).json["data"]]
    assert actions == ["user.enable", "key.revoke", "key.create", "user.disable", "user.operator", "user.approve"]


async def test_an_operator_needs_a_second_factor(api):
    await api.billing.database.execute(INSERT, "usr_bob", "bob@example.com", "active", None)
    refused = await api.admin("PATCH", "/users/usr_bob", {"operator": True})
    assert "metergate auth totp enrol" in refused.error["message"]
    assert refused.status == 400
    assert (await api.admin("PATCH", "/users/usr_bob", {})).json["operator"] is False
    await api.admin("PATCH", "/users/usr_bob", {"status": "disabled"})
    refused = await api.admin("PATCH", "/users/usr_bob", {"status": "active", "operator": True})
    refused.refused(400, "invalid_request_error", "operator")
    assert (await api.admin("PATCH", "/users/usr_bob", {})).json["status"] == "disabled"  # refused: nothing changed


async def test_an_operator_removes_the_app_of_who_has_lost_it(api, ada):
    database = api.billing.database
    await database.execute("UPDATE users SET email_verified_at = now(), totp_secret = 'x', operator = true")
    await database.execute("INSERT INTO recovery_codes (user_id, digest) VALUES ('usr_ada', 'x')")
    refused = await api.admin("PATCH", "/users/usr_ada", {"second_factor": False})
    assert (refused.status, "operator's right first" in refused.error["message"]) == (400, True)
    for _ in range(2):
        removed = await api.admin("PATCH", "/users/usr_ada", {"operator": False, "second_factor": False})
        assert (removed.status, removed.json["second_factor"]) == (200, False)
    assert await database.value("SELECT count(*) FROM recovery_codes") == 0
    assert await database.value("SELECT count(*) FROM audit_log WHERE action = 'user.totp' AND actor = 'admin'") == 1
    assert await database.value("SELECT recipient FROM mail_outbox") == "ada@example.com"


async def test_organizations_are_shown(api, ada):
    account, _ = await api.customer()
    database = api.billing.database
    insert = "INSERT INTO organizations (id, slug, name, account_id) VALUES ('org_1', 'acme', 'Acme', $1)"
    await database.execute(insert, account["id"])
    await database.execute("INSERT INTO memberships (org_id, user_id, role) VALUES ('org_1', $1, 'owner')", ada)
    shown = (await api.admin("GET", "/users/usr_ada")).json
    own = {"id": "org_1", "slug": "acme", "name": "Acme", "account_id": account["id"], "role": "owner"}
    assert shown["organizations"] == [own]
    assert "password_hash" not in shown
