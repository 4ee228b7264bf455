"""Mailed codes: one purpose, once, so many tries and so long, also for those who try at the same time."""

import asyncio
from collections.abc import Iterator

import pytest

from billing.identity.codes import CODE_TRIES, Codes, Issued, Purpose, Shown, TooManyMails, TooManyTries
from billing.settings import CodeSettings
from tests.billing.support import Billing

ADA = "ada@example.com"


@pytest.fixture
def codes(billing: Billing) -> Iterator[Codes]:
    return Codes(
        billing.database, billing.new_id, CodeSettings(mails_per_address=3, mails_per_network=5, sign_in_failures=3)
    )


async def issued(
    billing: Billing, codes: Codes, purpose: Purpose = "login", email: str = ADA, network: str | None = None
) -> Issued:
    async with billing.database.transaction() as connection:
        return await codes.issue(connection, purpose, email, context={"of": purpose}, network=network)


async def used(billing: Billing, codes: Codes, shown: Shown) -> bool:
    async with billing.database.transaction() as connection:
        return await codes.use(connection, shown)


def wrong(code: Issued) -> str:
    return f"{(int(code.secret) + 1) % 1_000_000:06d}"


async def test_a_code_is_good_once(billing, codes):
    code = await issued(billing, codes)
    assert len(code.secret) == 6
    assert code.secret not in repr(code)
    shown = await codes.show("login", ADA, code.secret)
    assert (shown.email, shown.context) == (ADA, {"of": "login"})
    again = await codes.show("login", ADA, code.secret)
    assert again is not None  # shown is not used
    assert sorted(await asyncio.gather(*(used(billing, codes, each) for each in (shown, again)))) == [False, True]
    assert await codes.show("login", ADA, code.secret) is None


async def test_a_code_is_for_one_purpose_and_address(billing, codes):
    code = await issued(billing, codes)
    assert await codes.show("verify", ADA, code.secret) is None
    assert await codes.show("login", "eve@example.com", code.secret) is None
    assert await codes.show_token("reset", code.token) is None
    assert await codes.show_token("login", code.token) is not None


async def test_a_code_ends_with_its_time(billing, codes):
    code = await issued(billing, codes)
    await billing.database.execute("UPDATE one_time_codes SET expires_at = now()")
    assert await codes.show("login", ADA, code.secret) is None


async def test_tries_are_counted_also_when_they_come_at_the_same_time(billing, codes):
    code = await issued(billing, codes)
    tries = (wrong(code),) * 20
    assert await asyncio.gather(*(codes.show("login", ADA, each) for each in tries)) == [None] * 20
    assert await billing.database.value("SELECT attempts FROM one_time_codes") == CODE_TRIES
    assert await codes.show("login", ADA, code.secret) is None  # the right one comes too late


async def test_of_many_at_once_no_more_than_the_tries_are_looked_at(billing, codes):
    code = await issued(billing, codes)
    found = await asyncio.gather(*(codes.show("login", ADA, code.secret) for _ in range(20)))
    assert sum(each is not None for each in found) == CODE_TRIES


async def test_the_newest_code_is_tried_or_that_of_the_challenge(billing, codes):
    first, second = await issued(billing, codes), await issued(billing, codes)
    if first.secret != second.secret:
        assert await codes.show("login", ADA, first.secret) is None
        assert await codes.show("login", ADA, second.secret, first.id) is None
    assert await codes.show("login", ADA, second.secret) is not None
    shown = await codes.show("login", ADA, first.secret, first.id)
    assert shown is not None
    assert await used(billing, codes, shown)
    assert await codes.show("login", ADA, second.secret) is None  # it ended with the other


async def test_a_used_up_code_gives_no_way_back_to_an_older_one(billing, codes):
    older, newest = await issued(billing, codes), await issued(billing, codes)
    for _ in range(CODE_TRIES):
        assert await codes.show("login", ADA, wrong(newest)) is None
    assert await codes.show("login", ADA, older.secret) is None


async def test_few_mails_go_to_one_address_also_when_asked_for_at_once(billing, codes):
    asked = await asyncio.gather(*(issued(billing, codes) for _ in range(8)), return_exceptions=True)
    refused = [each for each in asked if isinstance(each, TooManyMails)]
    assert len(refused) == 5
    assert all(3500 < (each.retry_after_s or 0) <= 3600 for each in refused)
    await issued(billing, codes, email="eve@example.com")


async def test_few_mails_are_asked_for_from_one_network(billing, codes):
    for number in range(5):
        await issued(billing, codes, email=f"{number}@example.com", network="192.0.2.1")
    with pytest.raises(TooManyMails):
        await issued(billing, codes, network="192.0.2.1")
    await issued(billing, codes, network="2001:db8::/64")


async def test_digests_alone_are_stored_and_no_two_are_alike(billing):
    codes = Codes(billing.database, billing.new_id, CodeSettings(), choice=lambda alphabet: alphabet[0])
    first, second = await issued(billing, codes), await issued(billing, codes)
    assert first.secret == second.secret == "000000"
    digests = [row["digest"] for row in await billing.database.rows("SELECT digest FROM one_time_codes")]
    assert len(set(digests)) == 2
    assert "000000" not in str(await billing.database.rows("SELECT to_jsonb(c)::text FROM one_time_codes c"))


async def test_failed_tries_have_to_wait_longer_and_longer(billing, codes):
    async def try_it():
        try:
            await codes.take_try("password:ada", "ask for a code")
        except TooManyTries as refused:
            return refused.retry_after_s if "ask for a code" in str(refused) else -1
        return None

    outcomes = await asyncio.gather(*(try_it() for _ in range(10)))
    assert outcomes.count(None) == 3
    waits = []
    for _ in range(9):
        waits.append(await try_it())
        await billing.database.execute("UPDATE sign_in_tries SET blocked_until = now()")
        assert await try_it() is None
    assert waits[0] in (29, 30)
    assert [round((wait or 0) / 30) for wait in waits] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    await codes.forgive("password:ada")
    assert await try_it() is None


async def test_a_day_without_a_try_forgets_those_before(billing, codes):
    for _ in range(3):
        await codes.take_try("password:ada", "")
    await billing.database.execute(
        "UPDATE sign_in_tries SET updated_at = now() - interval '25 hours', blocked_until = now()"
    )
    for _ in range(3):
        await codes.take_try("password:ada", "")
    with pytest.raises(TooManyTries):
        await codes.take_try("password:ada", "")


async def test_what_is_over_is_deleted(billing, codes):
    await issued(billing, codes)
    await codes.take_try("password:ada", "")
    assert await codes.forget() == 0
    await billing.database.execute("UPDATE one_time_codes SET expires_at = now() - interval '2 days'")
    await billing.database.execute("UPDATE sign_in_tries SET updated_at = now() - interval '2 days'")
    assert await codes.forget() == 2


async def test_a_recovery_code_is_good_once(billing, codes):
    await billing.database.execute("INSERT INTO users (id, email) VALUES ('usr_1', $1)", ADA)
    async with billing.database.connection() as connection:
        await codes.new_recovery_codes(connection, "usr_1")
        made = await codes.new_recovery_codes(connection, "usr_1")
    assert len(set(made)) == await codes.recovery_codes_left("usr_1") == 10

    async def use(code):
        async with billing.database.connection() as connection:
            return await codes.use_recovery_code(connection, "usr_1", code)

    assert sorted(str(each) for each in await asyncio.gather(*(use(made[0]) for _ in range(4)))) == ["9"] + ["None"] * 3
    assert await use(made[1].upper().replace("-", " ")) == 8
    assert await use("aaaa-aaaa-aaaa-aaaa") is None
    assert await use("") is None
