"""/api/auth as people and thieves use it: registering, signing in, and changing one's credentials."""

import asyncio
from dataclasses import replace
from typing import Any

import jwt
import pytest

from billing.api.services import Services
from billing.identity import totp
from billing.identity.sealing import PREFIX, Sealer
from billing.identity.sessions import FORGET_UNVERIFIED
from tests.billing.api.support import Answer, Api, serving
from tests.billing.people_support import ADA, EVE, GOOD, OTHER, SECRET, Registry
from tests.billing.support import Billing, attempts_of

WRONG = "invalid_api_key"


async def post(api: Api, path: str, bearer: str | None = None, /, **body: Any) -> Answer:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return await api.call("POST", f"/api/auth{path}", json=body, headers=headers)


async def who(api: Api, token: str) -> Answer:
    return await api.call("GET", "/api/auth/me", headers={"Authorization": f"Bearer {token}"})


async def register(api: Api, email: str = ADA, password: str | None = GOOD) -> str:
    """Register; the challenge."""
    asked = await post(api, "/register", email=email, password=password, name="Ada Byron")
    assert asked.status == 202, asked.json
    return str(asked.json["challenge"])


async def signed_up(api: Api, registry: Registry, email: str = ADA) -> str:
    """Register and verify; the access token."""
    challenge = await register(api, email)
    answer = await post(api, "/verify", email=email, code=await registry.mailed_code(email), challenge=challenge)
    assert answer.status == 200, answer.json
    return str(answer.json["access_token"])


async def test_registering_verifying_and_signing_in(api: Api, registry: Registry) -> None:
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


async def test_the_session_of_before_goes_on_where_the_same_password_was_verified(api: Api, registry: Registry) -> None:
    await register(api)
    before = (await post(api, "/login", email=ADA, password=GOOD)).json["access_token"]
    await post(api, "/verify", email=ADA, code=await registry.mailed_code())
    assert (await who(api, before)).json["status"] == "active"


async def test_a_taken_address_is_answered_alike_and_its_owner_is_told(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    free = await post(api, "/register", email=EVE, password=GOOD)
    taken = await post(api, "/register", email=ADA, password=OTHER)
    assert (free.status, set(free.json)) == (taken.status, set(taken.json))
    assert {**free.json, "email": "", "challenge": ""} == {**taken.json, "email": "", "challenge": ""}
    subject, text = (await registry.mails(ADA))[-1]
    assert "registered already" in subject
    assert "password" in text
    assert (await post(api, "/login", email=ADA, password=OTHER)).status == 401
    assert (await who(api, token)).status == 200
    counts = await registry.billing.database.row(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM organizations), (SELECT count(*) FROM accounts)"
    )
    assert counts is not None
    assert tuple(counts) == (2, 2, 2)


async def test_who_proves_an_address_takes_it_from_who_has_only_registered_it(api: Api, registry: Registry) -> None:
    """A thief registers somebody's address first, and waits for them to verify it."""
    await register(api, password="a thief chose this one")
    thief = (await post(api, "/login", email=ADA, password="a thief chose this one")).json["access_token"]
    assert (await who(api, thief)).status == 200
    challenge = await register(api, password=GOOD)
    code = await registry.mailed_code()
    await register(api, password="a thief chose this one")  # its mail comes last
    assert (await post(api, "/verify", email=ADA, code=code, challenge=challenge)).status == 200
    assert (await who(api, thief)).status == 401
    assert (await post(api, "/login", email=ADA, password="a thief chose this one")).status == 401
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_a_code_to_sign_in_proves_the_address_and_ends_what_a_stranger_began(
    api: Api, registry: Registry
) -> None:
    await register(api, password="a thief chose this one")
    thief = (await post(api, "/login", email=ADA, password="a thief chose this one")).json["access_token"]
    await post(api, "/otp", email=ADA)
    entered = await post(api, "/login", email=ADA, code=await registry.mailed_code())
    me = (await who(api, entered.json["access_token"])).json
    assert (me["verified"], me["has_password"]) == (True, False)
    assert (await who(api, thief)).status == 401


async def test_another_code_continues_the_registration(api: Api, registry: Registry) -> None:
    await register(api)
    await post(api, "/otp", email=ADA, purpose="verify")
    assert len(await registry.mails(ADA)) == 2
    await post(api, "/verify", email=ADA, code=await registry.mailed_code())
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_another_code_continues_one_s_own_registration(api: Api, registry: Registry) -> None:
    mine = await register(api)
    await register(api, password="a thief chose this one")
    again = await post(api, "/otp", email=ADA, purpose="verify", challenge=mine)
    code = {"code": await registry.mailed_code(), "challenge": again.json["challenge"]}
    assert (await post(api, "/verify", email=ADA, **code)).status == 200
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_registering_without_a_password_and_signing_in_by_codes(api: Api, registry: Registry) -> None:
    await register(api, password=None)
    await post(api, "/verify", email=ADA, code=await registry.mailed_code())
    asked = await post(api, "/otp", email=ADA, purpose="login")
    entered = await post(api, "/login", email=ADA, code=await registry.mailed_code(), challenge=asked.json["challenge"])
    assert entered.status == 200
    again = await post(api, "/login", email=ADA, code=await registry.mailed_code())
    again.refused(401, WRONG)
    (await post(api, "/login", email=ADA, password=GOOD)).refused(401, WRONG)
    token = entered.json["access_token"]
    assert (await post(api, "/password", token, password=GOOD)).status == 200
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200


async def test_an_unknown_address_and_a_wrong_password_are_answered_alike(
    api: Api, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str | None] = []
    check = type(registry.people.passwords).check

    async def noted(self: Any, stored: str | None, password: str, network: str) -> Any:
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
async def test_an_address_of_nobody_is_mailed_as_well(api: Api, registry: Registry, path: str) -> None:
    await signed_up(api, registry)
    known, unknown = await post(api, path, email=ADA), await post(api, path, email=EVE)
    assert known.status == unknown.status == 202
    assert {**known.json, "email": "", "challenge": ""} == {**unknown.json, "email": "", "challenge": ""}
    [(subject, text)] = await registry.mails(EVE)
    assert "not registered" in subject
    assert not any(character.isdigit() for character in subject + text)


async def test_wrong_codes_end_at_the_fifth_also_when_tried_at_once(api: Api, registry: Registry) -> None:
    await register(api)
    code = await registry.mailed_code()
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    answers = await asyncio.gather(*(post(api, "/verify", email=ADA, code=wrong) for _ in range(10)))
    assert {answer.status for answer in answers} == {401}
    assert await registry.billing.database.value("SELECT attempts FROM one_time_codes") == 5
    (await post(api, "/verify", email=ADA, code=code)).refused(401, WRONG)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"email": "nonsense", "password": GOOD}, "email"),
        ({"email": ADA, "password": "too short"}, "password"),
        ({"email": ADA, "password": "passwordpassword"}, "password"),
        ({"email": ADA, "password": "x" * 129}, "password"),
        ({"email": ADA, "password": "this is metergate's own"}, "password"),
        ({"email": "lovelace@example.com", "password": "lovelace is my name"}, "password"),
        ({"email": ADA, "password": GOOD, "role": "owner"}, "role"),
        ({"password": GOOD}, "email"),
    ],
)
async def test_what_can_t_be_registered(api: Api, registry: Registry, body: dict[str, str], param: str) -> None:
    (await post(api, "/register", **body)).refused(400, "invalid_request_error", param)
    assert await registry.mails() == []


async def test_a_lone_surrogate_is_no_password(api: Api) -> None:
    raw = '{"email": "ada@example.com", "password": "\\ud800 tulip anvil quartz"}'
    answer = await api.call(
        "POST", "/api/auth/register", data=raw.encode(), headers={"Content-Type": "application/json"}
    )
    answer.refused(400, "invalid_request_error", answer.error["param"])


@pytest.mark.parametrize(
    "body", [{}, {"password": GOOD, "code": "123456"}, {"code": "1", "totp": "1", "recovery_code": "a"}]
)
async def test_who_shows_nothing_right_is_refused(api: Api, body: dict[str, str]) -> None:
    assert (await post(api, "/login", email=ADA, **body)).status == 401


async def test_mails_and_hashes_are_bounded(services: Services, billing: Billing, registry: Registry) -> None:
    rules = replace(registry.people.codes._rules, mails_per_address=2)
    registry.people.codes._rules = rules
    async with serving(services, billing) as api:
        assert [(await post(api, "/otp", email=EVE)).status for _ in range(3)] == [202, 202, 429]
        refused = await post(api, "/password/forgot", email=EVE)
        refused.refused(429, "too_many_attempts")
        assert 3000 < int(refused.headers["Retry-After"]) <= 3600
        registry.people.passwords._places["127.0.0.1"] = 2
        refused = await post(api, "/login", email=ADA, password=GOOD)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        registry.people.passwords._places.clear()


async def test_a_network_that_guesses_is_refused_and_so_is_one_address_s_password(
    services: Services, billing: Billing, registry: Registry
) -> None:
    async with serving(replace(services, attempts=attempts_of(3, "127.0.0.0/8")), billing) as api:

        async def guess(network: str, password: str = OTHER) -> Answer:
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


async def test_who_asks_for_mails_to_somebody_does_not_keep_them_from_their_own(
    services: Services, billing: Billing, registry: Registry
) -> None:
    async with serving(replace(services, attempts=attempts_of(100, "127.0.0.0/8")), billing) as api:

        async def ask(network: str, path: str = "/otp") -> int:
            headers = {"X-Forwarded-For": network}
            return (await api.call("POST", f"/api/auth{path}", json={"email": ADA}, headers=headers)).status

        await signed_up(api, registry)  # from this machine
        registry.people.codes._rules = replace(registry.people.codes._rules, mails_per_address=3)
        assert [await ask(f"192.0.2.{number}") for number in range(4)] == [202, 202, 429, 429]
        assert (await post(api, "/otp", email=ADA)).status == 202
        assert (await post(api, "/password/forgot", email=ADA)).status == 202
        assert (await post(api, "/otp", email=ADA)).status == 429


async def test_nothing_is_hashed_for_one_registration_too_many(
    api: Api, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.people.codes._rules = replace(registry.people.codes._rules, mails_per_network=1)
    await register(api)
    monkeypatch.delattr(type(registry.people.passwords), "hash")
    (await post(api, "/register", email=EVE, password=GOOD)).refused(429, "too_many_attempts")


async def test_a_forgotten_password(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    await post(api, "/password/forgot", email=ADA)
    mailed = await registry.mailed_token()
    (await post(api, "/password/reset", token=mailed, password="too short")).refused(
        400, "invalid_request_error", "password"
    )
    (await post(api, "/password/reset", token="otc_wrong.token", password=OTHER)).refused(401, WRONG, "token")
    done = await post(api, "/password/reset", token=mailed, password=OTHER)
    assert (done.status, done.json) == (200, {"status": "changed", "keys_revoked": 0})
    assert (await who(api, token)).status == 401
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 401
    assert (await post(api, "/login", email=ADA, password=OTHER)).status == 200
    (await post(api, "/password/reset", token=mailed, password=GOOD)).refused(401, WRONG, "token")
    assert "password was changed" in (await registry.mails(ADA))[-1][0]
    assert mailed.partition(".")[2] not in str(
        await registry.billing.database.rows("SELECT c::text FROM one_time_codes c")
    )


async def test_a_new_password_is_not_kept_out_for_guesses_at_the_old_one(
    services: Services, billing: Billing, registry: Registry
) -> None:
    async with serving(replace(services, attempts=attempts_of(100, "127.0.0.0/8")), billing) as api:

        async def login(password: str) -> int:
            body, headers = {"email": ADA, "password": password}, {"X-Forwarded-For": "192.0.2.1"}
            return (await api.call("POST", "/api/auth/login", json=body, headers=headers)).status

        await signed_up(api, registry)
        assert [await login("wrong") for _ in range(11)] == [401] * 10 + [429]
        await post(api, "/password/forgot", email=ADA)
        await post(api, "/password/reset", token=await registry.mailed_token(), password=OTHER)
        assert await login(OTHER) == 200


async def test_resets_at_once_set_one_password(api: Api, registry: Registry) -> None:
    await signed_up(api, registry)
    await post(api, "/password/forgot", email=ADA)
    mailed = await registry.mailed_token()
    registry.people.passwords._at_once = 8
    answers = await asyncio.gather(
        *(post(api, "/password/reset", token=mailed, password=f"{OTHER} {number}") for number in range(4))
    )
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]


async def test_revoking_keys_with_a_password(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    me = (await who(api, token)).json
    account_id = me["organizations"][0]["account_id"]
    _, secret = await registry.billing.keys.create(account_id, "mine", user_id=me["id"])
    other, _ = await registry.billing.keys.create(account_id, "another's", user_id="usr_other")
    assert (await api.get(secret, "/account/balance")).status == 200
    changed = await post(api, "/password", token, current_password=GOOD, password=OTHER, revoke_keys=True)
    assert changed.json["keys_revoked"] == 1
    assert (await api.get(secret, "/account/balance")).status == 401
    assert (await registry.billing.keys.get(other.id)).revoked_at is None
    assert "1 API keys" in (await registry.mails(ADA))[-1][1]
    assert [told[0] for told in registry.billing.effects.told] == ["key"]


async def test_changing_the_password_ends_the_other_sessions(api: Api, registry: Registry) -> None:
    mine = await signed_up(api, registry)
    other = (await post(api, "/login", email=ADA, password=GOOD)).json["access_token"]
    (await post(api, "/password", mine, current_password=OTHER, password=OTHER)).refused(401, WRONG, "current_password")
    (await post(api, "/password", mine, password=OTHER)).refused(401, WRONG, "current_password")
    assert (await post(api, "/password", mine, current_password=GOOD, password=OTHER)).status == 200
    assert (await who(api, mine)).status == 200
    assert (await who(api, other)).status == 401


async def test_changing_the_address(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    await signed_up(api, registry, EVE)
    new = "ada@example.org"
    taken = await post(api, "/email", token, email=EVE, password=GOOD)
    assert taken.status == 202
    assert "registered already" in (await registry.mails(EVE))[-1][0]
    (await post(api, "/email", token, email=new)).refused(401, WRONG, "password")
    asked = await post(api, "/email", token, email=new, password=GOOD)
    assert set(asked.json) == set(taken.json)
    code = await registry.mailed_code(new)
    eve = (await post(api, "/login", email=EVE, password=GOOD)).json["access_token"]
    (await post(api, "/email/confirm", eve, email=new, code=code)).refused(401, WRONG, "code")
    confirmed = await post(api, "/email/confirm", token, email=new, code=code, challenge=asked.json["challenge"])
    assert (confirmed.status, confirmed.json["email"]) == (200, new)
    subject, text = (await registry.mails(ADA))[-1]
    assert "address was changed" in subject
    assert "a...@example.org" in text
    assert (await post(api, "/login", email=new, password=GOOD)).status == 200
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 401


async def test_who_registered_with_a_wrong_address_changes_it_and_is_let_in(api: Api, registry: Registry) -> None:
    await register(api, "ada@exmaple.com")
    token = (await post(api, "/login", email="ada@exmaple.com", password=GOOD)).json["access_token"]
    await post(api, "/email", token, email=ADA, password=GOOD)
    confirmed = await post(api, "/email/confirm", token, email=ADA, code=await registry.mailed_code())
    assert (confirmed.json["status"], confirmed.json["verified"]) == ("active", True)
    assert (await who(api, token)).json["scopes"] != []


async def test_who_never_proves_an_address_is_forgotten(api: Api, registry: Registry) -> None:
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


async def test_an_address_that_nobody_has_proven_is_taken_by_who_proves_it(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    await register(api, EVE)
    squatter = (await post(api, "/login", email=EVE, password=GOOD)).json["access_token"]
    await post(api, "/email", token, email=EVE, password=GOOD)
    confirmed = await post(api, "/email/confirm", token, email=EVE, code=await registry.mailed_code(EVE))
    assert (confirmed.status, confirmed.json["email"]) == (200, EVE)
    assert (await who(api, squatter)).json["email"] in (None, "")
    assert (await who(api, token)).json["email"] == EVE


async def test_two_who_want_one_address_at_once(api: Api, registry: Registry) -> None:
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


async def enrolled(api: Api, registry: Registry, token: str) -> tuple[str, list[str]]:
    """Set up an authenticator app: its secret and the recovery codes."""
    made = await post(api, "/totp", token, password=GOOD)
    assert made.status == 201, made.json
    code = totp.code_at(made.json["secret"], int(registry.clock()) // totp.STEP_S)
    confirmed = await post(api, "/totp/confirm", token, code=code)
    assert confirmed.status == 200, confirmed.json
    return made.json["secret"], confirmed.json["recovery_codes"]


async def test_an_authenticator_app(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    secret, recovery = await enrolled(api, registry, token)
    object.__setattr__(registry.people, "sealer", Sealer(SECRET))  # it lay there as it is, until it is used
    assert len(recovery) == 10
    missing = await post(api, "/login", email=ADA, password=GOOD)
    missing.refused(401, WRONG, "totp")
    assert missing.error["second_factor"] == "required"
    (await post(api, "/login", email=ADA, password=OTHER, totp="123456")).refused(401, WRONG)  # says no more
    used = totp.code_at(secret, int(registry.clock()) // totp.STEP_S)
    (await post(api, "/login", email=ADA, password=GOOD, totp=used)).refused(401, WRONG, "totp")  # by confirming
    registry.clock.at_s += totp.STEP_S
    code = totp.code_at(secret, int(registry.clock()) // totp.STEP_S)
    registry.people.passwords._at_once = 8
    replayed = await asyncio.gather(*(post(api, "/login", email=ADA, password=GOOD, totp=code) for _ in range(4)))
    assert sorted(answer.status for answer in replayed) == [200, 401, 401, 401]
    stored = await registry.billing.database.value("SELECT totp_secret FROM users")
    assert stored.startswith(PREFIX)
    assert secret not in stored
    await signed_up(api, registry, EVE)
    eve = (await post(api, "/login", email=EVE, password=GOOD)).json["access_token"]
    assert secret != (await enrolled(api, registry, eve))[0]
    assert await registry.billing.database.value("SELECT count(*) FROM users WHERE totp_secret LIKE 'sealed:%'") == 2
    assert (await post(api, "/login", email=ADA, password=GOOD, recovery_code=recovery[0])).status == 200
    (await post(api, "/login", email=ADA, password=GOOD, recovery_code=recovery[0])).refused(401, WRONG, "totp")
    assert "recovery code was used" in (await registry.mails(ADA))[-1][0]
    await post(api, "/otp", email=ADA)
    mailed = await registry.mailed_code()
    (await post(api, "/login", email=ADA, code=mailed)).refused(401, WRONG, "totp")  # a mail is no second factor
    entered = await post(api, "/login", email=ADA, code=mailed, recovery_code=recovery[1])
    assert (await who(api, entered.json["access_token"])).json["recovery_codes_left"] == 8


async def test_a_second_factor_can_t_be_guessed(api: Api, registry: Registry) -> None:
    await enrolled(api, registry, await signed_up(api, registry))
    answers = [await post(api, "/login", email=ADA, password=GOOD, totp="000000") for _ in range(12)]
    assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 401  # the password is not what was guessed


async def test_removing_the_app(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    (await post(api, "/totp", token)).refused(401, WRONG, "password")
    (await post(api, "/totp/confirm", token, code="123456")).refused(409, "idempotency_conflict")
    secret, recovery = await enrolled(api, registry, token)
    (await post(api, "/totp", token, password=GOOD)).refused(409, "idempotency_conflict")
    assert (await post(api, "/password", token, current_password=GOOD, password="k7 tuba fig")).status == 200
    registry.clock.at_s += totp.STEP_S
    code = totp.code_at(secret, int(registry.clock()) // totp.STEP_S)
    (await post(api, "/totp/disable", token, password="k7 tuba fig", totp=code)).refused(
        400, "invalid_request_error", "password"
    )
    assert (await post(api, "/password", token, current_password="k7 tuba fig", password=GOOD)).status == 200
    (await post(api, "/totp/disable", token, password=GOOD)).refused(401, WRONG, "totp")
    (await post(api, "/totp/disable", token, password=GOOD, totp="000000")).refused(401, WRONG, "code")
    renewed = await post(api, "/totp/recovery-codes", token, recovery_code=recovery[0])
    assert not set(renewed.json["recovery_codes"]) & set(recovery)
    (await post(api, "/totp/disable", token, password=GOOD, recovery_code=recovery[1])).refused(401, WRONG, "code")
    assert (await post(api, "/totp/disable", token, password=GOOD, totp=code)).status == 204
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 200
    assert "app was removed" in (await registry.mails(ADA))[-1][0]


async def test_an_operator_keeps_the_second_factor(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    secret, _ = await enrolled(api, registry, token)
    await registry.billing.database.execute("UPDATE users SET operator = true")
    registry.clock.at_s += totp.STEP_S
    code = totp.code_at(secret, int(registry.clock()) // totp.STEP_S)
    answer = await post(api, "/totp/disable", token, password=GOOD, totp=code)
    assert "operator" in answer.refused(409, "idempotency_conflict")


async def test_who_is_disabled_does_not_sign_in(api: Api, registry: Registry) -> None:
    token = await signed_up(api, registry)
    await registry.billing.database.execute("UPDATE users SET status = 'disabled'")
    assert (await who(api, token)).status == 401
    (await post(api, "/login", email=ADA, password=OTHER)).refused(401, WRONG)
    assert "disabled" in (await post(api, "/login", email=ADA, password=GOOD)).refused(403, "insufficient_scope")
    await post(api, "/otp", email=ADA)
    assert "not registered" in (await registry.mails(ADA))[-1][0]


async def test_changing_one_s_name_and_what_is_audited(api: Api, registry: Registry) -> None:
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
        *(("user.register", f"user:{user_id}"), ("user.verify", f"user:{user_id}")),
        *(("user.sign_in", f"user:{user_id}"), ("user.update", f"user:{user_id}")),
    ]
    assert {row["address"] for row in rows} == {"127.0.0.1"}


async def test_me_is_a_person_s(api: Api) -> None:
    assert (await api.call("GET", "/api/auth/me")).status == 401
    _, key = await api.customer()
    assert (await api.get(key["key"], "/auth/me")).status == 401
