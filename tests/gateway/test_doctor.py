"""Each finding of the doctor, on real stores where they can be made so."""

from dataclasses import replace

import asyncpg
import pytest

from gateway import doctor
from gateway.doctor import Check, check_postgres, check_redis, check_settings, check_vocabularies
from gateway.places import Stores
from gateway.settings import load_settings

NOW_S = 1_795_000_000.0


def by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert all(bool(check.mend) == (check.status != "ok") for check in checks if check.name != "configuration")
    return found


def stores(database_url: str, *, started: bool = False) -> Stores:
    return Stores(database_url, "", embedded=False, started_database=started)


async def test_stores_that_are_well(database_url: str, redis_url: str) -> None:
    found = by_name([*await check_postgres(stores(database_url)), *await check_redis(redis_url)])
    assert {check.status for check in found.values()} == {"ok"}
    assert "Postgres" in found["postgres"].message
    assert "Valkey" in found["redis"].message
    assert "one server" in found["topology"].message


async def test_migrations_that_are_missing(empty_database_url: str) -> None:
    assert by_name(await check_postgres(stores(empty_database_url)))["migrations"].status == "fail"
    started = by_name(await check_postgres(stores(empty_database_url, started=True)))
    assert started["migrations"].status == "warn"
    assert "0001_core" in started["migrations"].message


async def test_commits_that_do_not_wait(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    durability = by_name(await check_postgres(stores(database_url)))["durability"]
    assert (durability.status, durability.message) == ("fail", "synchronous_commit off, fsync on")


async def test_debits_that_were_set_aside(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ('r1', '', 'a test')")
    await connection.close()
    debits = by_name(await check_postgres(stores(database_url)))["debits"]
    assert debits.status == "fail"
    assert debits.message.startswith("1 ")


async def test_an_old_postgres(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_POSTGRES", 99)
    assert by_name(await check_postgres(stores(database_url)))["postgres"].status == "fail"


async def test_stores_that_are_away() -> None:
    url = "postgresql://user:swordfish@127.0.0.1:1/name?sslmode=disable"
    found = [*await check_postgres(stores(url)), *await check_redis("redis://:swordfish@127.0.0.1:1")]
    assert [check.status for check in found] == ["fail", "fail"]
    assert all("127.0.0.1:1" in check.message and "swordfish" not in check.message for check in found)


async def test_an_old_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_REDIS", (99, 0))
    assert by_name(await check_redis(redis_url))["redis"].status == "fail"


@pytest.mark.parametrize(
    ("info", "name", "status"),
    [
        ({"aof_enabled": 0}, "persistence", "warn"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, "eviction", "warn"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 1}, "eviction", "fail"),
        ({"role": "slave"}, "topology", "fail"),
        ({"redis_mode": "sentinel"}, "topology", "fail"),
        ({"redis_version": "6.0.16"}, "redis", "fail"),
        ({"redis_version": "6.2.0"}, "redis", "ok"),
        ({"redis_version": "255.255.255"}, "redis", "ok"),
        ({"redis_version": "7"}, "redis", "ok"),
    ],
)
def test_what_redis_says_of_itself(info: dict[str, object], name: str, status: str) -> None:
    well = {"redis_version": "7.2.4", "aof_enabled": 1, "maxmemory_policy": "noeviction", "role": "master"}
    assert {check.status for check in doctor.redis_findings("here", "one server", well)} == {"ok"}
    found = by_name(doctor.redis_findings("here", "one server", {**well, **info}))
    assert found[name].status == status
    assert {check.status for check in found.values() if check.name != name} == {"ok"}


def test_the_shipped_configuration_is_well() -> None:
    found = check_settings(load_settings({}, mode="command"), NOW_S)
    assert {check.status for check in found} == {"ok"}
    assert check_vocabularies().status == "ok"


def test_models_without_a_price_and_no_provider() -> None:
    settings = load_settings({}, mode="command")
    demo = settings.models["demo"]
    settings = replace(
        settings,
        models={"new": replace(demo, name="new", provider="openai", model="gpt-99")},
        providers={"openai": settings.providers["openai"]},
    )
    found = check_settings(settings, NOW_S)
    assert [check.status for check in found if check.name == "providers"] == ["fail"]
    assert any("gpt-99" in check.message for check in found if check.status == "warn")
    assert not any(check.name == "prices" and check.status == "ok" for check in found)
