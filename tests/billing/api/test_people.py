"""/api/auth as people and thieves use it: registering, signing in, and what is known of them."""

import asyncio
from dataclasses import replace

import jwt
import pytest
from msgspec import structs

from billing.identity.sessions import FORGET_UNVERIFIED
from tests.billing.api.people import WRONG, post, register, signed_up, who
from tests.billing.api.support import serving
from tests.billing.people_support import ADA, EVE, GOOD, OTHER
from tests.billing.support import attempts_of


async def test_registering_verifying_and_signing_in(api, registry):
    asked = await post(api, "/register", email="Ada@Example.com", password=GOOD, name="Ada")
    assert (asked.status, asked.json["status"]) == (202, "verify")
    code = await registry.mailed_code()
    before = await post(api, "/login", email=ADA, password=GOOD)
    assert before.json["scope"] == ""
    assert jwt.decode(before.json["access_token"], options={"verify_signature": False})["scope"] == ""
    pending = (await who(api, before.json["access_token"])).json
    assert (pending["status"], pending["verified"], pending["scopes"], pending["role"]) == (
        "pending",
        False,
        [],
        "owner",
    )
    verified = await post(api, "/verify", email=ADA, code=code)
    assert verified.status == 200
    assert verified.json["token_type"] == "Bearer"
    assert verified.json["expires_in"] > 0
    assert "llm:proxy" in verified.json["scope"].split()
    assert verified.headers["Cache-Control"] == "no-store"
    login = await post(api, "/login", email=" ADA@example.com ", password=GOOD)
    me = (await who(api, login.json["access_token"])).json
    assert (me["email"], me["verified"], me["name"], me["status"], me["has_password"]) == (
        ADA,
        True,
        "Ada",
        "active",
        True,
    )
    assert me["session_id"] == login.json["session_id"]
    [organization] = me["organizations"]
    assert (organization["personal"], organization["role"], organization["name"]) == (True, "owner", "Ada")
    assert organization["slug"].startswith("ada-")
    assert me["org_id"] == organization["id"]
    assert set(me["scopes"]) == set(organization["scopes"])
    assert GOOD not in str(await registry.billing.database.rows("SELECT to_jsonb(u)::text FROM users u"))


async def test_the_session_of_before_goes_on_where_the_same_password_was_verified(api, registry):
    await register(api)
    before = (await post(api, "/login", email=ADA, password=GOOD)).json["access_token"]
    await post(api, "/verify", email=ADA, code=await registry.mailed_code())
    assert (await who(api, before)).json["status"] == "active"


async def test_a_taken_address_is_answered_alike_and_its_owner_is_told(api, registry):
    token = await signed_up(api, registry)
    free = await post(api, "/register", email=EVE, password=GOOD)
    taken = await post(api, "/register", email=ADA, password=OTHER)
    assert (free.status, set(free.json)) == (taken.status, set(taken.json))
    assert {**free.json, "email": "", "challenge": ""} == {**taken.json, "email": "", "challenge": ""}
    subject, text = (await registry.mails(ADA))[-1]
    assert "already registered" in subject
    assert "password" in text
    assert (await post(api, "/login", email=ADA, password=OTHER)).status == 401
    assert (await who(api, token)).status == 200
    counts = await registry.billing.database.row(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM organizations), (SELECT count(*) FROM accounts)"
    )
    assert counts is not None
    assert tuple(counts) == (2, 2, 2)


async def test_who_proves_an_address_takes_it_from_who_has_only_registered_it(api, registry):
    """A thief registers somebody's address first, and waits for them to verify it."""
    await register(api, password="a thief chose this one")
    thief = (await post(api, "/login", email=ADA, password="a thief chose this one")).json["access_token"]
    assert (await who(api, thief)).status == 200
    added = await post(api, "/totp", thief, password="a thief chose this one")
    assert "Prove your address" in added.refused(409, "idempotency_conflict")  # it would keep the owner out
    challenge = await register(api, password=GOOD)
    code = await registry.mailed_code()
    await register(api, password="a thief chose this one")  # its mail comes last
    assert (await post(api, "/verify", email=ADA, code=code, challenge=challenge)).status == 200
    assert (await who(api, thief)).status == 401
    assert (await post(api, "/login", email=ADA, password="a thief chose this one")).status == 401
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_a_code_to_sign_in_proves_the_address_and_ends_what_a_stranger_began(api, registry):
    await register(api, password="a thief chose this one")
    thief = (await post(api, "/login", email=ADA, password="a thief chose this one")).json["access_token"]
    await post(api, "/otp", email=ADA)
    entered = await post(api, "/login", email=ADA, code=await registry.mailed_code())
    me = (await who(api, entered.json["access_token"])).json
    assert (me["verified"], me["has_password"]) == (True, False)
    assert (await who(api, thief)).status == 401


async def test_another_code_continues_the_registration(api, registry):
    await register(api)
    await post(api, "/otp", email=ADA, purpose="verify")
    assert len(await registry.mails(ADA)) == 2
    await post(api, "/verify", email=ADA, code=await registry.mailed_code())
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_another_code_continues_one_s_own_registration(api, registry):
    mine = await register(api)
    await register(api, password="a thief chose this one")
    again = await post(api, "/otp", email=ADA, purpose="verify", challenge=mine)
    code = {"code": await registry.mailed_code(), "challenge": again.json["challenge"]}
    assert (await post(api, "/verify", email=ADA, **code)).status == 200
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_registering_without_a_password_and_signing_in_by_codes(api, registry):
    await register(api, password=None)
    await post(api, "/verify", email=ADA, code=await registry.mailed_code())
    asked = await post(api, "/otp", email=ADA, purpose="login")
    entered = await post(api, "/login", email=ADA, code=await registry.mailed_code(), challenge=asked.json["challenge"])
    assert entered.status == 200
    again = await post(api, "/login", email=ADA, code=await registry.mailed_code())
    again.refused(401, WRONG)
    (await post(api, "/login", email=ADA, password=GOOD)).refused(401, WRONG)
    token, aged = entered.json["access_token"], "UPDATE sessions SET created_at = now() - $1 * interval '1 minute'"
    await registry.billing.database.execute(aged, 11)  # a token that was found may be as old
    for path, body in (("/password", {"password": GOOD}), ("/email", {"email": EVE}), ("/totp", {})):
        assert "sign in again" in (await post(api, path, token, **body)).refused(
            401, WRONG, "current_password" if path == "/password" else "password"
        )
    await registry.billing.database.execute(aged, 9)
    assert (await post(api, "/password", token, password=GOOD)).status == 200
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_an_unknown_address_and_a_wrong_password_are_answered_alike(api, registry, monkeypatch):
    compared = []
    check = type(registry.people.passwords).check

    async def noted(self, stored, password, network):
        compared.append(stored)
        return await check(self, stored, password, network)

    await signed_up(api, registry)
    monkeypatch.setattr(type(registry.people.passwords), "check", noted)
    wrong = await post(api, "/login", email=ADA, password=OTHER)
    unknown = await post(api, "/login", email=EVE, password=OTHER)
    assert wrong.refused(401, WRONG) == unknown.refused(401, WRONG)
    assert len(compared) == 2
    assert compared[1] is None  # a dummy is compared
    failed = await registry.audited("user.sign_in_failed")
    assert [(row["subject"] == "nobody", row["after"]) for row in failed] == [
        (False, {"method": "password", "reason": "wrong"}),
        (True, {"method": "password", "reason": "wrong"}),
    ]
    assert EVE not in str(failed)


@pytest.mark.parametrize("path", ["/otp", "/password/forgot"])
async def test_an_address_of_nobody_is_mailed_as_well(api, registry, path):
    await signed_up(api, registry)
    known, unknown = await post(api, path, email=ADA), await post(api, path, email=EVE)
    assert known.status == unknown.status == 202
    assert {**known.json, "email": "", "challenge": ""} == {**unknown.json, "email": "", "challenge": ""}
    [(subject, text)] = await registry.mails(EVE)
    assert "not registered" in subject
    assert not any(character.isdigit() for character in subject + text)


async def test_wrong_codes_end_at_the_fifth_also_when_tried_at_once(api, registry):
    await register(api)
    code = await registry.mailed_code()
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    answers = await asyncio.gather(*(post(api, "/verify", email=ADA, code=wrong) for _ in range(10)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {401, 429}  # the second where one address has too many sign-ins at once
    assert statuses.count(401) >= 7
    assert await registry.billing.database.value("SELECT attempts FROM one_time_codes") == 5
    (await post(api, "/verify", email=ADA, code=code)).refused(401, WRONG)


async def test_a_lone_surrogate_is_no_password(api):
    raw = '{"email": "ada@example.com", "password": "\\ud800 tulip anvil quartz"}'
    answer = await api.call(
        "POST", "/api/auth/register", data=raw.encode(), headers={"Content-Type": "application/json"}
    )
    answer.refused(400, "invalid_request_error", answer.error["param"])


@pytest.mark.parametrize(
    "body", [{}, {"password": GOOD, "code": "123456"}, {"code": "1", "totp": "1", "recovery_code": "a"}]
)
async def test_who_shows_nothing_right_is_refused(api, body):
    assert (await post(api, "/login", email=ADA, **body)).status == 401


async def test_mails_and_hashes_are_bounded(services, billing, registry):
    rules = structs.replace(registry.people.codes._settings, mails_per_address=2)
    registry.people.codes._settings = rules
    async with serving(services, billing) as api:
        assert [(await post(api, "/otp", email=EVE)).status for _ in range(3)] == [202, 202, 429]
        refused = await post(api, "/password/forgot", email=EVE)
        refused.refused(429, "too_many_attempts")
        assert 3000 < int(refused.headers["Retry-After"]) <= 3600
        registry.people.passwords._places["127.0.0.1"] = 2
        refused = await post(api, "/login", email=ADA, password=GOOD)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        registry.people.passwords._places.clear()


async def test_a_network_that_guesses_is_refused_and_so_is_one_address_s_password(services, billing, registry):
    async with serving(replace(services, attempts=attempts_of(3, "127.0.0.0/8")), billing) as api:

        async def guess(network, password=OTHER):
            body = {"email": ADA, "password": password}
            return await api.call("POST", "/api/auth/login", json=body, headers={"X-Forwarded-For": network})

        await signed_up(api, registry)
        assert [(await guess("192.0.2.1")).status for _ in range(5)] == [401, 401, 401, 429, 429]
        refused = await guess("192.0.2.1", GOOD)
        assert "passwords or codes" in refused.refused(429, "too_many_attempts")
        assert (await guess("192.0.2.2", GOOD)).status == 200
        for number in range(10):
            assert (await guess(f"2001:db8:{number}::1")).status == 401
        blocked = await guess("192.0.2.9", GOOD)
        assert "a code by mail" in blocked.refused(429, "too_many_attempts")
        assert (await guess("192.0.2.2", GOOD)).status == 200  # where its owner has signed in before
        await post(api, "/otp", email=ADA)
        assert (await post(api, "/login", email=ADA, code=await registry.mailed_code())).status == 200


async def test_who_asks_for_mails_to_somebody_does_not_keep_them_from_their_own(services, billing, registry):
    async with serving(replace(services, attempts=attempts_of(100, "127.0.0.0/8")), billing) as api:

        async def ask(network, path="/otp"):
            headers = {"X-Forwarded-For": network}
            return (await api.call("POST", f"/api/auth{path}", json={"email": ADA}, headers=headers)).status

        await signed_up(api, registry)  # from this machine
        registry.people.codes._settings = structs.replace(registry.people.codes._settings, mails_per_address=3)
        assert [await ask(f"192.0.2.{number}") for number in range(4)] == [202, 202, 429, 429]
        assert (await post(api, "/otp", email=ADA)).status == 202
        assert (await post(api, "/password/forgot", email=ADA)).status == 202
        assert (await post(api, "/otp", email=ADA)).status == 429


async def test_nothing_is_hashed_for_one_registration_too_many(api, registry, monkeypatch):
    registry.people.codes._settings = structs.replace(registry.people.codes._settings, mails_per_network=1)
    await register(api)
    monkeypatch.delattr(type(registry.people.passwords), "hash")
    (await post(api, "/register", email=EVE, password=GOOD)).refused(429, "too_many_attempts")


async def test_who_never_proves_an_address_is_forgotten(api, registry):
    database = registry.billing.database
    await signed_up(api, registry)
    for name in ("eve", "late", "spent"):
        await register(api, f"{name}@example.com")
        assert (await post(api, "/login", email=f"{name}@example.com", password=GOOD)).status == 200
    await database.execute("UPDATE users SET created_at = now() - interval '31 days' WHERE email NOT LIKE 'late%'")
    account_id = await database.value(
        "SELECT account_id FROM users u JOIN memberships m ON m.user_id = u.id JOIN organizations o ON o.id = m.org_id "
        "WHERE email = 'spent@example.com'"
    )
    await registry.billing.grants.grant(account_id, 1_000_000_000, "first")
    assert await database.value(FORGET_UNVERIFIED, 30, 10) == 0  # their codes are good yet
    await database.execute("UPDATE one_time_codes SET expires_at = now()")
    assert [await database.value(FORGET_UNVERIFIED, 30, 10) for _ in range(2)] == [1, 0]
    left = [row["email"] for row in await database.rows("SELECT email FROM users ORDER BY email")]
    assert left == [ADA, "late@example.com", "spent@example.com"]
    assert [each["subject"] for each in await registry.audited("user.forget")] != []
    await register(api, EVE)
    assert (await post(api, "/login", email=EVE, password=GOOD)).status == 200


async def test_an_address_that_nobody_has_proven_is_taken_by_who_proves_it(api, registry):
    token = await signed_up(api, registry)
    await register(api, EVE)
    squatter = (await post(api, "/login", email=EVE, password=GOOD)).json["access_token"]
    await post(api, "/email", token, email=EVE, password=GOOD)
    confirmed = await post(api, "/email/confirm", token, email=EVE, code=await registry.mailed_code(EVE))
    assert (confirmed.status, confirmed.json["email"]) == (200, EVE)
    assert (await who(api, squatter)).json["email"] in (None, "")
    assert (await who(api, token)).json["email"] == EVE


async def test_two_who_want_one_address_at_once(api, registry):
    tokens = [await signed_up(api, registry, f"{name}@example.com") for name in ("ann", "bob")]
    asked = []
    for token in tokens:
        challenge = (await post(api, "/email", token, email=ADA, password=GOOD)).json["challenge"]
        asked.append((token, challenge, await registry.mailed_code()))
    answers = await asyncio.gather(
        *(
            post(api, "/email/confirm", token, email=ADA, code=code, challenge=challenge)
            for token, challenge, code in asked
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 401]


async def test_who_is_disabled_does_not_sign_in(api, registry):
    token = await signed_up(api, registry)
    await registry.billing.database.execute("UPDATE users SET status = 'disabled'")
    assert (await who(api, token)).status == 401
    (await post(api, "/login", email=ADA, password=OTHER)).refused(401, WRONG)
    assert "disabled" in (await post(api, "/login", email=ADA, password=GOOD)).refused(403, "insufficient_scope")
    await post(api, "/otp", email=ADA)
    assert "not registered" in (await registry.mails(ADA))[-1][0]


async def test_changing_one_s_name_and_what_is_audited(api, registry):
    token = await signed_up(api, registry)
    renamed = await api.call(
        "PATCH", "/api/auth/me", json={"name": "Ada L."}, headers={"Authorization": f"Bearer {token}"}
    )
    assert renamed.json["name"] == "Ada L."
    user_id = renamed.json["id"]
    rows = await registry.billing.database.rows(
        "SELECT action, actor, address FROM audit_log WHERE user_id = $1 AND action LIKE 'user.%' ORDER BY id", user_id
    )
    assert [(row["action"], row["actor"]) for row in rows] == [
        ("user.register", f"user:{user_id}"),
        ("user.verify", f"user:{user_id}"),
        ("user.sign_in", f"user:{user_id}"),
        ("user.update", f"user:{user_id}"),
    ]
    assert {row["address"] for row in rows} == {"127.0.0.1"}


async def test_me_is_a_person_s(api):
    assert (await api.call("GET", "/api/auth/me")).status == 401
    _, key = await api.customer()
    assert (await api.get(key["key"], "/auth/me")).status == 401
