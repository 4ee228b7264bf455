"""Tokens of people at two gateways that share their stores: what one does is so at the other with the next request."""

import asyncio
from typing import Any

import jwt

from tests.gateway.conftest import Gateway
from tests.support.gateways import Fetched, fetch


async def call(gateway: Gateway, method: str, path: str, token: str = "", body: Any = None) -> Fetched:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await fetch(gateway.session.request(method, gateway.url + path, json=body, headers=headers))


async def test_two_gateways(make_gateway):
    one, other = await make_gateway(), await make_gateway()
    customer = await one.customer()
    token = await one.person(customer.account_id)
    for gateway in (one, other):
        fetched = await call(gateway, "GET", "/api/account/balance", token)
        assert (fetched.status, fetched.json["account_id"]) == (200, customer.account_id)
    keys = (await call(other, "GET", "/.well-known/jwks.json")).json
    found = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    user_id = jwt.decode(token, found.key, ["RS256"], audience="metergate", issuer="metergate")["sub"]

    sessions = one.runtime.services.sessions
    async with sessions.transaction() as connection:
        pair = await sessions.start(connection, user_id)
    body = {"refresh_token": pair.refresh_token}
    answers = await asyncio.gather(
        *(call(each, "POST", "/api/auth/refresh", body=body) for each in (one, other) for _ in range(4))
    )
    assert [each.status for each in answers] == [200] * 8
    assert len({each.json["refresh_token"] for each in answers}) == 1

    narrow = await call(one, "POST", "/api/auth/token", token, {"scope": "billing:read"})
    for path, status in (("/api/account/balance", 200), ("/api/account/audit", 403)):
        assert (await call(other, "GET", path, narrow.json["access_token"])).status == status
    assert (
        await call(one, "POST", "/api/auth/revoke", token, {"token": answers[0].json["access_token"]})
    ).status == 200
    statuses = [(await call(other, "GET", "/api/auth/sessions", each.json["access_token"])).status for each in answers]
    assert statuses == [401] + [200] * 7
    await one.runtime.database.execute("UPDATE memberships SET role = 'viewer'")
    assert (await call(other, "POST", "/api/auth/token", token, {"scope": "billing:setup"})).status == 403
    assert (await call(one, "POST", "/api/auth/logout", token)).status == 204
    assert (await call(other, "GET", "/api/account/balance", token)).status == 401
    assert (await call(other, "POST", "/api/auth/revoke-all", answers[1].json["access_token"])).status == 200
    assert (await call(one, "GET", "/api/auth/sessions", answers[2].json["access_token"])).status == 401


async def test_operators_call_what_the_gateway_serves_itself(make_gateway):
    gateway = await make_gateway()
    token = await gateway.person((await gateway.customer()).account_id)
    fetched = await call(gateway, "GET", "/v1/status", token)
    assert (fetched.status, fetched.json["error"]["code"]) == (403, "insufficient_scope")
    await gateway.runtime.database.execute("UPDATE users SET operator = true")
    fetched = await call(gateway, "GET", "/api/admin/accounts", token)
    assert (fetched.status, "second factor" in fetched.json["error"]["message"]) == (403, True)
    await gateway.runtime.database.execute("UPDATE users SET totp_confirmed_at = now()")
    for path in ("/v1/status", "/api/admin/accounts"):
        assert (await call(gateway, "GET", path, token)).status == 200


async def test_a_token_is_no_key_of_the_proxy(make_gateway):
    gateway = await make_gateway()
    token = await gateway.person((await gateway.customer()).account_id)
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello."}]}
    fetched = await call(gateway, "POST", "/v1/chat/completions", token, body)
    assert (fetched.status, fetched.json["error"]["code"]) == (401, "invalid_api_key")
