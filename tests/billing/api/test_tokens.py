"""/api/auth: tokens that are refreshed, narrowed and revoked, and sessions, over HTTP."""

from dataclasses import replace
from typing import Any

import jwt
import pytest

from billing.identity.sessions import TokenPair
from billing.permissions import ROLES
from tests.billing.api.support import Answer, Api, serving
from tests.billing.support import attempts_of


async def call(api: Api, token: Any, method: str, path: str, json: object = None, **headers: str) -> Answer:
    """A call below /api/auth by who has this token."""
    secret = token if isinstance(token, str) else token.access_token
    given = {"Authorization": f"Bearer {secret}", **headers}
    return await api.call(method, f"/api/auth{path}", headers=given, **({} if json is None else {"json": json}))


async def refresh(api: Api, pair: Any) -> Answer:
    return await api.call("POST", "/api/auth/refresh", json={"refresh_token": pair.refresh_token})


async def test_refreshing(api, people):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id)
    answer = await refresh(api, pair)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    refreshed = answer.json
    assert (refreshed["token_type"], refreshed["expires_in"], refreshed["session_id"]) == (
        "Bearer",
        86_400,
        pair.session_id,
    )
    assert set(refreshed["scope"].split()) == ROLES["owner"]
    assert (await people.who(refreshed["access_token"])).id == user_id
    assert (await refresh(api, pair)).json["refresh_token"] == refreshed["refresh_token"]
    for wrong in ("mgr_wrong", pair.access_token):
        answer = await api.call("POST", "/api/auth/refresh", json={"refresh_token": wrong})
        assert "auth login" in answer.refused(401, "invalid_api_key")


async def test_tokens_that_are_over_count_for_no_key(services, billing, people):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id)
    async with serving(replace(services, attempts=attempts_of(2)), billing) as api:
        _, key = await api.customer()
        old = {"refresh_token": "mgr_over"}
        statuses = [(await api.call("POST", "/api/auth/refresh", json=old)).status for _ in range(4)]
        assert statuses == [401, 401, 429, 429]
        assert (await refresh(api, pair)).status == 429
        assert (await api.get(key["key"], "/account/balance")).status == 200
        assert (await call(api, pair, "GET", "/me")).status == 200


async def test_narrowing(api, people):
    user_id, _ = await people.owner()
    pair, second = await people.sign_in(user_id), await people.org(user_id, "viewer")
    answer = await call(api, pair, "POST", "/token", {"scope": "billing:read billing:setup"})
    assert (answer.status, answer.json["scope"]) == (200, "billing:read billing:setup")
    assert "refresh_token" not in answer.json
    narrow = answer.json["access_token"]
    assert (await people.who(narrow)).scopes == {"billing:read", "billing:setup"}
    answer = await call(api, narrow, "POST", "/token", {"scope": ["billing:read", "keys:write"]})
    assert "keys:write" in answer.refused(403, "insufficient_scope")
    assert answer.error["required_scope"] == "keys:write"
    for body in ({}, {"org_id": second}):
        answer = await call(api, narrow, "POST", "/token", body)
        assert set((await people.who(answer.json["access_token"])).narrowed or ()) == {"billing:read", "billing:setup"}
    answer = await call(api, pair, "POST", "/token", {"org_id": second})
    assert (await people.who(answer.json["access_token"])).org_id == second
    assert set(answer.json["scope"].split()) == ROLES["viewer"]
    answer = await call(api, pair, "POST", "/token", {"org_id": second, "scope": "keys:write"})
    answer.refused(403, "insufficient_scope")
    other = await people.org(await people.user("eve@example.com"))
    for org_id in (other, "org_nowhere"):
        (await call(api, pair, "POST", "/token", {"org_id": org_id})).refused(404, "not_found")
        (await call(api, pair, "POST", "/token", {"org_id": org_id, "scope": "llm:proxy"})).refused(404, "not_found")
    (await call(api, pair, "POST", "/token", {"scope": []})).refused(400, "invalid_request_error", "scope")


async def test_what_a_narrowed_token_can_t_become(api, people):
    user_id, _ = await people.owner()
    narrow = await people.sign_in(user_id, scopes=["billing:read"])
    code = {"email": "eve@example.com", "code": "123456"}
    for path, body in (
        ("/email", {"email": "eve@example.com"}),
        ("/email/confirm", {**code, "challenge": "c"}),
        ("/password", {"password": "a long one of eve's making", "current_password": "x"}),
        ("/totp", {}),
        ("/oidc/example", None),
    ):
        answer = await call(api, narrow, "POST", path, body)
        assert "all of your scopes" in answer.refused(403, "insufficient_scope"), path
    (await call(api, narrow, "PATCH", "/me", {"name": "Eve"})).refused(403, "insufficient_scope")
    for org_id in (None, "org_nowhere"):  # where they have no role that could lack a scope
        headers = {
            "Authorization": f"Bearer {narrow.access_token}",
            **({"X-Organization-Id": org_id} if org_id else {}),
        }
        answer = await api.call("POST", "/api/orgs", headers=headers, json={"name": "More"})
        assert "org:write" in answer.refused(403, "insufficient_scope")
    assert (await call(api, narrow, "GET", "/me")).status == 200


async def test_logging_out(api, people):
    pair, other = [await people.sign_in(user_id) for user_id in [await people.user()] * 2]
    assert (await call(api, pair, "POST", "/logout")).status == 204
    assert "auth login" in (await call(api, pair, "POST", "/logout")).refused(401, "invalid_api_key")
    assert (await refresh(api, pair)).status == 401
    assert (await call(api, other, "GET", "/sessions")).status == 200
    (row,) = await people.audited("session.end")
    assert (row["actor"], row["address"], row["user_id"]) == (f"user:{row['user_id']}", "127.0.0.1", row["user_id"])


def jti(pair: TokenPair) -> str:
    return str(jwt.decode(pair.access_token, options={"verify_signature": False})["jti"])


@pytest.mark.parametrize("by", ["token", "jti", "refresh_token"])
async def test_revoking_one_token(api, people, by):
    user_id = await people.user()
    pair, asking = await people.sign_in(user_id), await people.sign_in(user_id)
    body = {"token": pair.access_token} if by == "token" else {"token": pair.refresh_token}
    body = {"jti": jti(pair)} if by == "jti" else body
    for _ in range(2):
        answer = await call(api, asking, "POST", "/revoke", {**body, "reason": "lost"})
        assert answer.json == {"success": True, "message": "Token revoked successfully"}
    assert await people.caller(pair) is None
    assert (await refresh(api, pair)).status == (401 if by == "refresh_token" else 200)
    assert (await call(api, asking, "GET", "/sessions")).status == 200


async def test_nobody_revokes_somebody_else_s_token(api, people):
    pair, eve = [await people.sign_in(await people.user(f"{name}@example.com")) for name in ("ann", "eve")]
    for token in (pair.access_token, pair.refresh_token):
        (await call(api, eve, "POST", "/revoke", {"token": token})).refused(403, "insufficient_scope")
    assert (await call(api, eve, "POST", "/revoke", {"jti": jti(pair)})).status == 200
    ann_id = (await people.who(pair)).id
    (await call(api, eve, "POST", "/revoke-all", {"user_id": ann_id})).refused(403, "insufficient_scope")
    assert (await call(api, eve, "DELETE", f"/sessions/{pair.session_id}")).refused(404, "not_found")
    assert await people.caller(pair)
    assert await people.sessions.refresh(pair.refresh_token, None) is not None
    await people.database.execute("UPDATE users SET operator = true, totp_confirmed_at = now() WHERE email LIKE 'eve%'")
    assert (await call(api, eve, "POST", "/revoke", {"jti": jti(pair)})).status == 200
    assert await people.caller(pair) is None
    other = await people.sign_in(ann_id)
    assert (await call(api, eve, "POST", "/revoke-all", {"user_id": ann_id})).status == 200
    assert await people.caller(other) is None


async def test_revoking_what_is_not_valid_anyway(api, people):
    asking = await people.sign_in(await people.user())
    for token in ("rubbish", "mgr_rubbish", "a.b.c"):
        assert (await call(api, asking, "POST", "/revoke", {"token": token})).json["success"]
    (await call(api, asking, "POST", "/revoke", {})).refused(400, "invalid_request_error", "token")
    assert (await call(api, asking, "POST", "/revoke", {"jti": "a\u0000b"})).status == 400


async def test_revocations_are_bounded(api, people):
    user_id = await people.user()
    asking = await people.sign_in(user_id)
    await people.database.execute(
        "INSERT INTO revoked_tokens SELECT g::text, $1, null, now(), now() + interval '1 day' "
        "FROM generate_series(1, 1000) g",
        user_id,
    )
    answer = await call(api, asking, "POST", "/revoke", {"jti": "another"})
    assert "revoke-all" in answer.refused(429, "too_many_attempts")
    assert (await call(api, asking, "POST", "/revoke-all")).status == 200
    assert await people.caller(asking) is None


async def test_sessions_are_listed_and_ended(api, people):
    user_id, _ = await people.owner()
    pairs = [await people.sign_in(user_id, scopes=["llm:proxy"]) for _ in range(3)]
    await people.sign_in(await people.user("eve@example.com"))
    page = (await call(api, pairs[1], "GET", "/sessions?limit=2")).json
    assert [each["id"] for each in page["data"]] == [pairs[2].session_id, pairs[1].session_id]
    assert [each["current"] for each in page["data"]] == [False, True]
    assert page["data"][0].items() >= {"address": "192.0.2.1", "user_agent": "tests", "scopes": ["llm:proxy"]}.items()
    (last,) = (await call(api, pairs[1], "GET", f"/sessions?cursor={page['next_cursor']}")).json["data"]
    assert (await call(api, pairs[1], "DELETE", f"/sessions/{last['id']}")).status == 204
    assert (await call(api, pairs[1], "DELETE", f"/sessions/{last['id']}")).status == 404
    assert await people.caller(pairs[0]) is None
    assert len((await call(api, pairs[1], "GET", "/sessions")).json["data"]) == 2


async def test_a_person_reads_their_own_account_alone(api, people):
    user_id, _ = await people.owner()
    pair, other = await people.sign_in(user_id), await people.org(await people.user("eve@example.com"))
    mine = await api.get(pair.access_token, "/account/balance")
    assert (mine.status, mine.json["account_id"]) == (200, (await people.who(pair)).account_id)
    headers = {"Authorization": f"Bearer {pair.access_token}", "X-Organization-Id": other}
    answer = await api.call("GET", "/api/account/balance", headers=headers)
    answer.refused(403, "insufficient_scope")
    await people.database.execute("UPDATE users SET status = 'pending'")
    answer = await api.get(pair.access_token, "/account/balance")
    assert "not complete" in answer.refused(403, "insufficient_scope")
