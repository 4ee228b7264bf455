"""Sessions: what a token is worth, from its issue until something ends it; refresh tokens, also by two at once."""

import asyncio

import jwt
import pytest

from billing.database.connection import Database
from billing.identity.sessions import SignInRefused, TokenPair
from billing.identity.tokens import OPERATOR, TokenRules
from billing.permissions import ROLES
from tests.billing.identity.sessions_support import SOMEBODY


async def test_a_token_says_who_it_is(people):
    user_id, org_id = await people.owner()
    pair = await people.sign_in(user_id)
    assert pair.expires_in_s == 86_400
    assert pair.access_token not in repr(pair)
    assert pair.refresh_token not in repr(pair)
    claims = jwt.decode(pair.access_token, options={"verify_signature": False})
    assert {name: claims[name] for name in ("iss", "aud", "sub", "org_id", "role", "email", "ses")} == {
        "iss": "metergate",
        "aud": "metergate",
        "sub": user_id,
        "org_id": org_id,
        "role": "owner",
        "email": "ann@example.com",
        "ses": pair.session_id,
    }
    assert set(claims["scope"].split()) == ROLES["owner"]
    assert claims["exp"] - claims["iat"] == 86_400
    caller = await people.who(pair)
    assert (caller.kind, caller.id, caller.user_id, caller.org_id, caller.role) == (
        "person",
        user_id,
        user_id,
        org_id,
        "owner",
    )
    assert caller.account_id == org_id.replace("org_", "acc_")
    assert (caller.scopes, caller.operator, caller.verified) == (ROLES["owner"], False, True)
    assert (caller.session_id, caller.token_id) == (pair.session_id, claims["jti"])


async def test_what_a_role_is_now_counts(people):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id)
    await people.database.execute("UPDATE memberships SET role = 'viewer'")
    assert (await people.who(pair)).scopes == ROLES["viewer"]
    await people.database.execute("UPDATE memberships SET role = 'admin'")
    assert (await people.who(pair)).scopes == ROLES["admin"]
    await people.database.execute("DELETE FROM memberships")
    caller = await people.who(pair)
    assert (caller.scopes, caller.org_id, caller.account_id) == (frozenset(), None, None)


async def test_the_organization_that_is_asked_for(people):
    user_id, first = await people.owner()
    second = await people.org(user_id, "viewer")
    other = await people.org(await people.user("eve@example.com"))
    pair = await people.sign_in(user_id)
    assert (await people.who(pair)).org_id == first
    assert (await people.who(pair, second)).role == "viewer"
    assert (await people.who(pair, other)).role is None
    assert (await people.who(await people.sign_in(user_id, org_id=second))).org_id == second


async def test_who_has_no_organization(people):
    caller = await people.who(await people.sign_in(await people.user()))
    assert (caller.org_id, caller.scopes) == (None, frozenset())


@pytest.mark.parametrize("ended", ["session", "all", "disabled", "expired", "valid_from", "revoked", "key"])
async def test_what_ends_a_token(people, ended):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id)
    async with people.database.transaction() as connection:
        match ended:
            case "session":
                assert await people.sessions.end(connection, pair.session_id, "logout")
                assert not await people.sessions.end(connection, pair.session_id, "logout")
            case "all":
                await people.sessions.end_all(connection, user_id, "left")
            case "disabled":
                await connection.execute("UPDATE users SET status = 'disabled'")
            case "expired":
                await connection.execute("UPDATE sessions SET expires_at = now()")
            case "valid_from":
                await connection.execute("UPDATE users SET tokens_valid_from = now() + interval '1 second'")
            case "revoked":
                jti = jwt.decode(pair.access_token, options={"verify_signature": False})["jti"]
                await connection.execute(
                    "INSERT INTO revoked_tokens (jti, user_id, expires_at) VALUES ($1, '', now())", jti
                )
            case "key":
                await connection.execute("DELETE FROM signing_keys")
    assert await people.caller(pair) is None
    refreshed = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
    assert (refreshed is None) == (ended not in ("valid_from", "revoked", "key"))


async def test_another_session_may_be_left_out(people):
    user_id, _ = await people.owner()
    kept, ended = await people.sign_in(user_id), await people.sign_in(user_id)
    async with people.database.transaction() as connection:
        await people.sessions.end_all(connection, user_id, "new password", but=kept.session_id)
    assert await people.caller(ended) is None
    assert (await people.who(kept)).id == user_id
    assert await people.sessions.refresh(kept.refresh_token, SOMEBODY)
    async with people.database.transaction() as connection:  # who signs in at the same moment does so anew
        await people.sessions.end_all(connection, user_id, "revoke-all")
        anew = await people.sessions.start(connection, user_id)
    assert await people.caller(kept) is None
    assert await people.caller(anew)


async def test_a_revocation_by_somebody_else_counts_for_them_alone(people):
    pair = await people.sign_in(await people.user())
    jti = jwt.decode(pair.access_token, options={"verify_signature": False})["jti"]
    await people.database.execute(
        "INSERT INTO revoked_tokens (jti, user_id, expires_at) VALUES ($1, 'usr_eve', now())", jti
    )
    assert await people.caller(pair)


async def test_who_waits_to_be_let_in_may_do_nothing(people):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id)
    await people.database.execute("UPDATE users SET status = 'pending', operator = true, totp_confirmed_at = now()")
    caller = await people.who(pair)
    assert (caller.scopes, caller.operator) == (frozenset(), False)
    assert "not complete" in caller.hint


async def test_operators_need_a_second_factor_and_the_whole_token(people):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id)
    narrow = await people.sign_in(user_id, scopes=["billing:read"])
    narrow_operator = await people.sign_in(user_id, scopes=["billing:read", OPERATOR])
    await people.database.execute("UPDATE users SET operator = true")
    caller = await people.who(pair)
    assert (caller.operator, "second factor" in caller.hint) == (False, True)
    await people.database.execute("UPDATE users SET totp_confirmed_at = now()")
    assert (await people.who(pair)).operator
    assert not (await people.who(narrow)).operator
    assert (await people.who(narrow_operator)).operator


async def test_scopes_only_become_fewer(people):
    user_id, _ = await people.owner()
    pair = await people.sign_in(user_id, scopes=["billing:read", "billing:setup", "llm:proxy"])
    caller = await people.who(pair)
    assert caller.scopes == caller.narrowed == {"billing:read", "billing:setup", "llm:proxy"}
    narrowed = await people.sessions.narrow(pair.access_token, frozenset({"billing:read", "keys:write"}), None)
    assert narrowed.scopes == {"billing:read"}
    assert (await people.who(narrowed)).narrowed == {"billing:read"}
    again = await people.sessions.narrow(narrowed.access_token, None, None)
    assert again is not None
    assert (await people.who(again)).narrowed == {"billing:read"}
    refreshed = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
    assert (await people.who(refreshed)).scopes == {"billing:read", "billing:setup", "llm:proxy"}
    await people.database.execute("UPDATE memberships SET role = 'viewer'")
    assert (await people.who(pair)).scopes == {"billing:read"}


async def test_a_token_is_not_kept_alive_by_making_others_of_it(people):
    user_id, usual = await people.user(), people.sessions._rules
    people.sessions._rules = TokenRules(access_s=60)
    pair = await people.sign_in(user_id)
    people.sessions._rules = usual
    again = await people.sessions.narrow(pair.access_token, None, None)
    assert 0 < again.expires_in_s <= 60
    refreshed = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
    assert refreshed.expires_in_s == usual.access_s


async def test_nobody_signs_in_who_is_not_there_or_disabled(people):
    user_id = await people.user(status="disabled")
    for each in (user_id, "usr_nobody"):
        with pytest.raises(SignInRefused):
            await people.sign_in(each)


async def test_a_user_has_so_many_sessions(people):
    user_id = await people.user()
    few = people.gateway(people.database, TokenRules(sessions=2))
    pairs = []
    for _ in range(3):
        async with people.database.transaction() as connection:
            pairs.append(await few.start(connection, user_id))
    assert [await people.caller(pair) is None for pair in pairs] == [True, False, False]


async def test_a_refresh_token_is_good_once_and_a_moment(people):
    pair = await people.sign_in(await people.user())
    first = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
    again = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
    assert (first.refresh_token, first.session_id) == (again.refresh_token, pair.session_id)
    assert first.refresh_token != pair.refresh_token
    assert await people.caller(pair), "the access token of before lives on"
    second = await people.sessions.refresh(first.refresh_token, SOMEBODY)
    assert second is not None
    await people.database.execute("UPDATE refresh_tokens SET rotated_at = rotated_at - interval '11 seconds'")
    assert await people.sessions.refresh(pair.refresh_token, SOMEBODY) is None
    for each in (pair, first, second):
        assert await people.caller(each) is None
        assert await people.sessions.refresh(each.refresh_token, SOMEBODY) is None
    (row,) = await people.audited("session.end")
    assert (row["subject"], row["address"], row["request_id"]) == (pair.session_id, "192.0.2.1", "req_1")
    assert row["after"] == {"reason": "a refresh token was used twice"}


async def test_a_refresh_token_that_is_none_or_has_expired(people):
    pair = await people.sign_in(await people.user())
    for wrong in ("", "mgr_", pair.access_token, pair.refresh_token[:-1], "\0", "mgr_" + "a" * 9000):
        assert await people.sessions.refresh(wrong, SOMEBODY) is None
    await people.database.execute("UPDATE refresh_tokens SET expires_at = now()")
    assert await people.sessions.refresh(pair.refresh_token, SOMEBODY) is None


async def test_refreshing_keeps_a_session_alive(people):
    pair = await people.sign_in(await people.user())
    await people.database.execute("UPDATE sessions SET expires_at = now() + interval '1 minute'")
    refreshed = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
    assert refreshed.expires_in_s == 86_400
    assert await people.database.value("SELECT expires_at > now() + interval '29 days' FROM sessions")


async def test_two_gateways_refresh_one_token_at_once(people, database_url):
    user_id = await people.user()
    databases = [Database(database_url, size=4) for _ in range(2)]
    gateways = [people.gateway(each) for each in databases]
    try:
        for _ in range(5):
            pair = await people.sign_in(user_id)
            asked = [gateway.refresh(pair.refresh_token, SOMEBODY) for gateway in gateways * 4]
            found: list[TokenPair | None] = await asyncio.gather(*asked)
            assert len({each and each.refresh_token for each in found}) == 1
            assert all(found)
            assert all([await people.caller(each) for each in found])
    finally:
        for each in databases:
            await each.close()
    assert await people.database.value("SELECT count(*) FROM refresh_tokens WHERE rotated_at IS NULL") == 5
