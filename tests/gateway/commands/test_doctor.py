"""Each finding of the doctor, on real stores where they can be made so."""

import time
from dataclasses import replace

import asyncpg
import pytest
from msgspec import structs

from billing.cli.output import CommandFailed
from billing.database.connection import Database
from billing.identity.encryption import SealBroken, Sealer
from billing.identity.tokens import SigningKeys, TokenRules
from gateway.commands import doctor
from gateway.commands.doctor import (
    check_clocks,
    check_postgres,
    check_redis,
    check_secrets_key,
    check_settings,
    check_vocabularies,
    clock_finding,
)
from gateway.commands.stores import Stores
from gateway.commands.up import require_seals
from gateway.config.settings import load_settings
from gateway.runtime.encryption import check_encryption
from gateway.runtime.identity import sealer_of
from gateway.server.ids import Ulids
from tests.support.commands import by_name

pytestmark = pytest.mark.slow

NOW_S = 1_795_000_000.0
LEASE_S = 5.0


def stores(database_url: str, *, started: bool = False) -> Stores:
    return Stores(database_url, "", embedded=False, started_database=started)


async def test_stores_that_are_well(database_url, redis_url):
    found = by_name([*await check_postgres(stores(database_url)), *await check_redis(redis_url, LEASE_S)])
    assert {check.status for check in found.values()} == {"ok"}
    assert "Postgres" in found["postgres"].message
    assert "Valkey" in found["redis"].message
    assert "one server" in found["topology"].message


async def test_migrations_that_are_missing(empty_database_url):
    assert by_name(await check_postgres(stores(empty_database_url)))["migrations"].status == "fail"
    started = by_name(await check_postgres(stores(empty_database_url, started=True)))
    assert started["migrations"].status == "warn"
    assert "0001_schema" in started["migrations"].message


async def test_commits_that_do_not_wait(database_url):
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    durability = by_name(await check_postgres(stores(database_url)))["durability"]
    assert (durability.status, durability.message) == ("fail", "synchronous_commit off, fsync on")


async def test_a_secrets_key_that_opens_nothing_is_refused_before_anything_is_served(database_url):
    database = Database(database_url, size=1)
    was, other = ({"SECRETS_KEY": letter * 32} for letter in "ab")
    assert await check_secrets_key(stores(database_url), load_settings(other)) == []
    keys = SigningKeys(database, TokenRules(), Ulids(), time.monotonic, sealer_of(load_settings(was)))
    await keys.published()
    assert await check_encryption(database, load_settings(was)) == 2
    both = load_settings({**other, "SECRETS_KEY_BEFORE": was["SECRETS_KEY"]})
    assert by_name(await check_secrets_key(stores(database_url), both))["secrets key"].status == "ok"
    shared = load_settings({**other, "JWT_SECRET": "j" * 32})  # then no key of a pair signs
    assert (await check_encryption(database, shared), await check_secrets_key(stores(database_url), shared)) == (0, [])
    for settings in (load_settings(other), load_settings({})):
        found = by_name(await check_secrets_key(stores(database_url), settings))["secrets key"]
        assert (found.status, "SECRETS_KEY" in found.message) == ("fail", True)
        with pytest.raises(CommandFailed, match="SECRETS_KEY is not the one that sealed it"):
            await require_seals(database_url, settings)
    sealer = sealer_of(load_settings(was))
    add = "INSERT INTO users (id, email, name, totp_secret) VALUES ($1, $1, '', $2)"
    await database.execute(add, "usr_1", Sealer("c" * 32).seal("JBSWY3DP", "totp usr_1"))
    await database.execute(add, "usr_2", sealer.seal("JBSWY3DP", "totp usr_2"))
    with pytest.raises(SealBroken):
        await check_encryption(database, load_settings(was))
    await database.close()


async def test_debits_that_were_set_aside(database_url):
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ('r1', '', 'a test')")
    await connection.close()
    debits = by_name(await check_postgres(stores(database_url)))["debits"]
    assert debits.status == "fail"
    assert debits.message.startswith("1 ")


async def test_an_old_postgres(database_url, monkeypatch):
    monkeypatch.setattr(doctor, "OLDEST_POSTGRES", 99)
    assert by_name(await check_postgres(stores(database_url)))["postgres"].status == "fail"


async def test_stores_that_are_away():
    url = "postgresql://user:swordfish@127.0.0.1:1/name?sslmode=disable"
    found = [*await check_postgres(stores(url)), *await check_redis("redis://:swordfish@127.0.0.1:1", LEASE_S)]
    assert [check.status for check in found] == ["fail", "fail"]
    assert all("127.0.0.1:1" in check.message and "swordfish" not in check.message for check in found)


async def test_clocks_that_agree(database_url, redis_url):
    (clocks,) = await check_clocks(Stores(database_url, redis_url, embedded=False, started_database=False))
    assert (clocks.name, clocks.status) == ("clocks", "ok")
    nowhere = f"{database_url.rpartition('/')[0]}/nowhere"
    assert await check_clocks(Stores(nowhere, redis_url, embedded=False, started_database=False)) == []


@pytest.mark.parametrize(
    ("ahead_s", "status", "sentence"),
    [
        (4.9, "ok", "4.9 s ahead of"),
        (-60.0, "warn", "60.0 s behind"),
        (3600.0, "warn", "3600.0 s ahead of"),
        (-3600.5, "fail", "3600.5 s behind"),
        (86_400.0, "fail", "86400.0 s ahead of"),
    ],
)
def test_clocks_that_differ(ahead_s, status, sentence):
    found, message, mend = clock_finding(ahead_s)
    assert (found, message) == (status, f"Redis's clock is {sentence} Postgres's")
    assert bool(mend) == (status != "ok")


def test_the_shipped_configuration_is_well():
    found = check_settings(load_settings({}, mode="command"), NOW_S)
    assert {check.status for check in found} == {"ok"}
    assert check_vocabularies().status == "ok"


def test_models_without_a_price_and_no_provider():
    settings = load_settings({}, mode="command")
    demo = settings.models["demo"]
    settings = replace(
        settings,
        models={"new": structs.replace(demo, name="new", provider="openai", model="gpt-99")},
        providers={"openai": settings.providers["openai"]},
    )
    found = check_settings(settings, NOW_S)
    assert [check.status for check in found if check.name == "providers"] == ["fail"]
    assert any("gpt-99" in check.message for check in found if check.status == "warn")
    assert not any(check.name == "prices" and check.status == "ok" for check in found)


@pytest.mark.parametrize("url", ["redis://:swordfish@127.0.0.1:1?timeout=x", "redis://:swordfish@127.0.0.1:1?nope=1"])
async def test_a_url_that_no_redis_has(url, database_url):
    (found,) = await check_redis(url, LEASE_S)
    assert found.status == "fail"
    assert "Correct REDIS_URL" in found.mend
    assert "swordfish" not in found.message
    assert await check_clocks(Stores(database_url, url, embedded=False, started_database=False)) == []
