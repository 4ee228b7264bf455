"""Passwords, addresses and second factors, as people and thieves change them."""

import asyncio
from dataclasses import replace

from billing.identity.codes import TOTP_STEP_S, totp_code
from billing.identity.encryption import PREFIX, Sealer
from tests.billing.api.people import WRONG, post, register, signed_up, who
from tests.billing.api.support import Api, serving
from tests.billing.people_support import ADA, EVE, GOOD, OTHER, SECRET, Registry
from tests.billing.support import attempts_of


async def test_a_forgotten_password(api, registry):
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


async def test_a_new_password_is_not_kept_out_for_guesses_at_the_old_one(services, billing, registry):
    async with serving(replace(services, attempts=attempts_of(100, "127.0.0.0/8")), billing) as api:

        async def login(password):
            body, headers = {"email": ADA, "password": password}, {"X-Forwarded-For": "192.0.2.1"}
            return (await api.call("POST", "/api/auth/login", json=body, headers=headers)).status

        await signed_up(api, registry)
        assert [await login("wrong") for _ in range(11)] == [401] * 10 + [429]
        await post(api, "/password/forgot", email=ADA)
        await post(api, "/password/reset", token=await registry.mailed_token(), password=OTHER)
        assert await login(OTHER) == 200


async def test_resets_at_once_set_one_password(api, registry):
    await signed_up(api, registry)
    await post(api, "/password/forgot", email=ADA)
    mailed = await registry.mailed_token()
    registry.people.passwords._at_once = 8
    answers = await asyncio.gather(
        *(post(api, "/password/reset", token=mailed, password=f"{OTHER} {number}") for number in range(4))
    )
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]


async def test_revoking_keys_with_a_password(api, registry):
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
    assert [told[0] for told in registry.billing.change_notifier.told] == ["key"]


async def test_changing_the_password_ends_the_other_sessions(api, registry):
    mine = await signed_up(api, registry)
    other = (await post(api, "/login", email=ADA, password=GOOD)).json["access_token"]
    (await post(api, "/password", mine, current_password=OTHER, password=OTHER)).refused(401, WRONG, "current_password")
    (await post(api, "/password", mine, password=OTHER)).refused(401, WRONG, "current_password")
    assert (await post(api, "/password", mine, current_password=GOOD, password=OTHER)).status == 200
    assert (await who(api, mine)).status == 200
    assert (await who(api, other)).status == 401


async def test_changing_the_address(api, registry):
    token = await signed_up(api, registry)
    await signed_up(api, registry, EVE)
    new = "ada@example.org"
    taken = await post(api, "/email", token, email=EVE, password=GOOD)
    assert taken.status == 202
    assert "already registered" in (await registry.mails(EVE))[-1][0]
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


async def test_who_registered_with_a_wrong_address_changes_it_and_is_let_in(api, registry):
    await register(api, "ada@exmaple.com")
    token = (await post(api, "/login", email="ada@exmaple.com", password=GOOD)).json["access_token"]
    await post(api, "/email", token, email=ADA, password=GOOD)
    confirmed = await post(api, "/email/confirm", token, email=ADA, code=await registry.mailed_code())
    assert (confirmed.json["status"], confirmed.json["verified"]) == ("active", True)
    assert (await who(api, token)).json["scopes"] != []


async def enrolled(api: Api, registry: Registry, token: str) -> tuple[str, list[str]]:
    """Set up an authenticator app: its secret and the recovery codes."""
    made = await post(api, "/totp", token, password=GOOD)
    assert made.status == 201, made.json
    code = totp_code(made.json["secret"], int(registry.clock()) // TOTP_STEP_S)
    confirmed = await post(api, "/totp/confirm", token, code=code)
    assert confirmed.status == 200, confirmed.json
    return made.json["secret"], confirmed.json["recovery_codes"]


async def test_an_authenticator_app(api, registry):
    token = await signed_up(api, registry)
    secret, recovery = await enrolled(api, registry, token)
    object.__setattr__(registry.people, "sealer", Sealer(SECRET))  # it lay there as it is, until it is used
    assert len(recovery) == 10
    missing = await post(api, "/login", email=ADA, password=GOOD)
    missing.refused(401, WRONG, "totp")
    assert missing.error["second_factor"] == "required"
    (await post(api, "/login", email=ADA, password=OTHER, totp="123456")).refused(401, WRONG)  # says no more
    used = totp_code(secret, int(registry.clock()) // TOTP_STEP_S)
    (await post(api, "/login", email=ADA, password=GOOD, totp=used)).refused(401, WRONG, "totp")  # by confirming
    registry.clock.at_s += TOTP_STEP_S
    code = totp_code(secret, int(registry.clock()) // TOTP_STEP_S)
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


async def test_a_second_factor_can_t_be_guessed(api, registry):
    await enrolled(api, registry, await signed_up(api, registry))
    answers = [await post(api, "/login", email=ADA, password=GOOD, totp="000000") for _ in range(12)]
    assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
    assert (await post(api, "/login", email=ADA, password=GOOD)).status == 401  # the password is not what was guessed


async def test_removing_the_app(api, registry):
    token = await signed_up(api, registry)
    (await post(api, "/totp", token)).refused(401, WRONG, "password")
    (await post(api, "/totp/confirm", token, code="123456")).refused(409, "idempotency_conflict")
    secret, recovery = await enrolled(api, registry, token)
    (await post(api, "/totp", token, password=GOOD)).refused(409, "idempotency_conflict")
    assert (await post(api, "/password", token, current_password=GOOD, password="k7 tuba fig")).status == 200
    registry.clock.at_s += TOTP_STEP_S
    code = totp_code(secret, int(registry.clock()) // TOTP_STEP_S)
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


async def test_an_operator_keeps_the_second_factor(api, registry):
    token = await signed_up(api, registry)
    secret, _ = await enrolled(api, registry, token)
    await registry.billing.database.execute("UPDATE users SET operator = true")
    registry.clock.at_s += TOTP_STEP_S
    code = totp_code(secret, int(registry.clock()) // TOTP_STEP_S)
    answer = await post(api, "/totp/disable", token, password=GOOD, totp=code)
    assert "operator" in answer.refused(409, "idempotency_conflict")
