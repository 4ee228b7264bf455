"""Refusals that are kept to be looked up: bounded for each key, over all keys, in age and between two writes."""

import logging
from collections.abc import AsyncIterator

import pytest

from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import Keyspace
from billing.holds.redis.state import RedisState
from billing.refused_requests import HINT_EVERY_S, MOST_BYTES, RefusedRequest, RefusedRequests
from billing.settings import RefusalSettings


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisClient]:
    link = RedisClient(redis_url, timeout_s=20.0)
    yield link
    await link.close()


def refused(number: int, key_id: str | None = "key_1", clock: Clock | None = None, **fields: object) -> RefusedRequest:
    every_field = {
        "id": f"r{number:04}",
        "at_ms": int((clock or Clock()).now_s * 1000) + number,
        "account_id": None if key_id is None else f"acc_of_{key_id}",
        "key_id": key_id,
        "endpoint": "/v1/chat/completions",
        "model": "demo",
        "status": 429,
        "code": "quota_exceeded",
        "message": "No.",
        "details": {"quota": {"window": "minute", "limit": number}},
        **fields,
    }
    return RefusedRequest(**every_field)


async def test_the_last_ones_of_a_key_are_found(link, key_prefix):
    kept = RefusedRequests(RedisState(link, Keyspace(key_prefix)), RefusalSettings(refusals_per_key=3), Clock())
    for number in range(5):
        kept.note(refused(number))
    await kept.flush()
    kept.note(refused(5))
    kept.note(refused(6, "key_2"))
    kept.note(refused(7, None, account_id=None))
    await kept.flush()
    assert [each.id for each in await kept.newest(10, key_id="key_1")] == ["r0005", "r0004", "r0003"]
    assert [each.id for each in await kept.newest(10, account_id="acc_of_key_2")] == ["r0006"]
    assert [each.id for each in await kept.newest(3)] == ["r0007", "r0006", "r0005"]
    assert await kept.find("r0006") == refused(6, "key_2")
    assert await kept.find("r0000") is None
    assert kept.dropped == 0


async def test_a_hint_is_logged_once_an_hour(link, key_prefix, caplog):
    caplog.set_level(logging.INFO, "billing.refused_requests")
    clock = Clock()
    kept = RefusedRequests(RedisState(link, Keyspace(key_prefix)), RefusalSettings(), clock)
    for number in range(4):
        kept.note(refused(number, hint="`metergate operator grant a AMOUNT_USD` gives credit"))
        kept.note(refused(number + 10, hint=None))
        await kept.flush()
        clock.now_s += HINT_EVERY_S / 2
    assert caplog.messages == [
        f"request {id_} was refused, quota_exceeded: `metergate operator grant a AMOUNT_USD` gives credit"
        for id_ in ("r0000", "r0002")
    ]
    found = await kept.find("r0003")
    assert found.hint == "`metergate operator grant a AMOUNT_USD` gives credit"


async def test_nothing_grows_without_a_bound(link, key_prefix):
    keyspace = Keyspace(key_prefix)
    clock = Clock()
    kept = RefusedRequests(
        RedisState(link, keyspace), RefusalSettings(refusals_per_key=2, refusals_keys=4, refusals_pending=6), clock
    )
    for number in range(1000):
        kept.note(refused(number, "flood"))
    assert kept.dropped == 0
    for number in range(10):
        kept.note(refused(number, f"key_{number}"))
    assert kept.dropped == 6  # two of the flood, and one of each of four keys, may wait
    await kept.flush()
    for number in range(4, 10):
        clock.now_s += 1
        kept.note(refused(number, f"key_{number}", clock))
        await kept.flush()
    assert {each.key_id for each in await kept.newest(100)} == {"key_6", "key_7", "key_8", "key_9"}
    for gone in ("flood", "key_0", "key_4"):
        assert not await link.command("EXISTS", keyspace.refused_of(gone))
    for name in (keyspace.refused, keyspace.refused_of("key_9")):
        assert await link.command("PTTL", name) > 0


async def test_they_are_forgotten_in_time(link, key_prefix):
    clock = Clock()
    kept = RefusedRequests(RedisState(link, Keyspace(key_prefix)), RefusalSettings(refusals_kept_s=60), clock)
    kept.note(refused(0, "key_1", clock))
    await kept.flush()
    clock.now_s += 61
    kept.note(refused(1, "key_1", clock))
    await kept.flush()
    assert [each.id for each in await kept.newest(10)] == ["r0001"]


async def test_a_long_one_is_kept_without_its_details(link, key_prefix):
    kept = RefusedRequests(RedisState(link, Keyspace(key_prefix)), RefusalSettings(), Clock())
    kept.note(refused(0, details={"quota": "x" * MOST_BYTES}))
    await kept.flush()
    assert await kept.find("r0000") == refused(0, details={})


async def test_without_redis_they_are_dropped():
    link = RedisClient("redis://127.0.0.1:1", timeout_s=20.0)
    kept = RefusedRequests(RedisState(link, Keyspace()), RefusalSettings(), Clock())
    kept.note(refused(0))
    await kept.flush()
    assert kept.dropped == 1
    await link.close()


async def test_none_are_kept_where_none_are_wanted():
    link = RedisClient("redis://127.0.0.1:1", timeout_s=20.0)
    kept = RefusedRequests(RedisState(link, Keyspace()), RefusalSettings(refusals_per_key=0), Clock())
    kept.note(refused(0))
    await kept.flush()
    assert kept.dropped == 0
    await link.close()
