"""Guessing: how many wrong keys one address may show, counted by all gateways together in a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from multidict import CIMultiDict

from billing.addresses import Addresses
from billing.api import attempts as attempts_module
from billing.api.attempts import (
    ADMINS,
    GUESSES_FACTOR,
    LOOK_EVERY_S,
    SERVICE_KEYS,
    AttemptLimits,
    Attempts,
    TooManyAttempts,
    counted_in_redis,
)
from billing.holds.redis.client import RedisClient
from billing.holds.redis.connection import RedisAway
from billing.holds.redis.layout import Keyspace
from billing.holds.redis.state import RedisState
from tests.billing.support import attempts_of

NO_HEADERS: CIMultiDict[str] = CIMultiDict()
HERE, THERE = "198.51.100.1", "198.51.100.2"


async def wrong() -> None:
    return None


async def right() -> str:
    return "yes"


async def shows(attempts: Attempts, peer: str, times: int, headers: CIMultiDict[str] = NO_HEADERS) -> int:
    """Show wrong keys; how many were refused unseen, or for being one too many."""
    refused = 0
    for _ in range(times):
        try:
            await attempts.attempt(peer, headers, wrong)
        except TooManyAttempts:
            refused += 1
    return refused


@asynccontextmanager
async def redis_link(url: str) -> AsyncIterator[RedisClient]:
    link = RedisClient(url)
    try:
        yield link
    finally:
        await link.close()


def in_redis(link: RedisClient, prefix: str, limits: AttemptLimits) -> Attempts:
    count = counted_in_redis(RedisState(link, Keyspace(prefix)), limits.window_s)
    return Attempts(count, Addresses(), limits, time.monotonic, 1000)


async def test_an_address_is_refused_after_so_many_wrong_keys_and_no_other():
    attempts = attempts_of(3)
    assert await shows(attempts, HERE, 3) == 0
    assert await shows(attempts, HERE, 2) == 2
    with pytest.raises(TooManyAttempts) as refused:
        await attempts.attempt(HERE, NO_HEADERS, wrong, known=False)
    assert 1 <= refused.value.retry_after_s <= 60
    assert await attempts.attempt(THERE, NO_HEADERS, right) == "yes"


async def test_a_refused_address_has_a_key_looked_up_now_and_then():
    """One that nothing is known of: a neighbour's wrong key must not shut out who starts behind the same address."""
    now = 1000.0
    attempts = attempts_of(1, clock=lambda: now)
    assert await shows(attempts, HERE, 2) == 1
    with pytest.raises(TooManyAttempts):
        await attempts.attempt(HERE, NO_HEADERS, right)
    now += LOOK_EVERY_S
    for _ in range(3):  # what is known to be wrong does not take the place
        with pytest.raises(TooManyAttempts):
            await attempts.attempt(HERE, NO_HEADERS, wrong, known=False)
    assert await attempts.attempt(HERE, NO_HEADERS, right) == "yes"
    with pytest.raises(TooManyAttempts):
        await attempts.attempt(HERE, NO_HEADERS, right)
    now += LOOK_EVERY_S
    assert await shows(attempts, HERE, 3) == 3
    now += 60
    assert await shows(attempts, HERE, 1) == 0


async def test_who_shows_wrong_keys_is_not_refused_as_an_admin():
    attempts = attempts_of(2)
    assert await shows(attempts, HERE, 5) == 3
    attempts.refuse_blocked(HERE, NO_HEADERS)
    for _ in range(2):
        await attempts.failed(HERE, NO_HEADERS)
    with pytest.raises(TooManyAttempts):
        await attempts.failed(HERE, NO_HEADERS)
    with pytest.raises(TooManyAttempts):
        attempts.refuse_blocked(HERE, NO_HEADERS)
    attempts.refuse_blocked(THERE, NO_HEADERS)


async def test_a_service_is_not_refused_as_an_admin_is():
    attempts = attempts_of(1)
    await attempts.failed(HERE, NO_HEADERS, ADMINS)
    with pytest.raises(TooManyAttempts):
        await attempts.failed(HERE, NO_HEADERS, ADMINS)
    attempts.refuse_blocked(HERE, NO_HEADERS, SERVICE_KEYS)


async def test_who_guesses_at_one_key_shuts_out_no_other_of_the_address():
    """The prefix of a key is in every listing; whoever guesses the rest is refused, and so is none of the others."""
    attempts = attempts_of(3)
    assert await attempts.attempt(HERE, NO_HEADERS, right, secret="mg_1234567secret") == "yes"
    refused = 0
    for number in range(5):
        try:
            await attempts.attempt(HERE, NO_HEADERS, wrong, known=False, secret=f"mg_1234567{number}")
        except TooManyAttempts:
            refused += 1
    assert refused == 2
    assert await attempts.attempt(HERE, NO_HEADERS, right, secret="mg_another-key") == "yes"
    assert await shows(attempts, HERE, 5) == 2
    assert await attempts.attempt(HERE, NO_HEADERS, right, secret="mg_another-key") == "yes"


async def test_an_operator_s_key_works_beside_wrong_ones_until_they_are_a_dictionary():
    attempts = attempts_of(3)
    for _ in range(3):
        await attempts.failed(HERE, NO_HEADERS)
    with pytest.raises(TooManyAttempts):
        await attempts.failed(HERE, NO_HEADERS)
    for _ in range(3 * GUESSES_FACTOR):
        attempts.refuse_blocked(HERE, NO_HEADERS, prefix="right")
        with pytest.raises(TooManyAttempts):
            attempts.refuse_blocked(HERE, NO_HEADERS)
    with pytest.raises(TooManyAttempts):
        attempts.refuse_blocked(HERE, NO_HEADERS, prefix="right")
    attempts.refuse_blocked(THERE, NO_HEADERS, prefix="right")


async def test_right_keys_count_for_nothing():
    attempts = attempts_of(1)
    for _ in range(10):
        assert await attempts.attempt(HERE, NO_HEADERS, right) == "yes"
    assert await shows(attempts, HERE, 1) == 0


async def test_a_known_key_is_checked_for_a_refused_address_too_and_counts_for_nothing():
    """It may be known, and revoked since."""
    attempts = attempts_of(1)
    for _ in range(3):
        assert await attempts.attempt(HERE, NO_HEADERS, wrong, known=True) is None
    assert await shows(attempts, HERE, 2) == 1
    assert await attempts.attempt(HERE, NO_HEADERS, right, known=True) == "yes"


async def test_a_burst_ends_at_the_bound():
    attempts, looked_up = attempts_of(20), 0

    async def look_up():
        nonlocal looked_up
        looked_up += 1
        await asyncio.sleep(0)

    shown = [attempts.attempt(HERE, NO_HEADERS, look_up) for _ in range(1000)]
    told = await asyncio.gather(*shown, return_exceptions=True)
    assert sum(isinstance(each, TooManyAttempts) for each in told) == 980
    assert looked_up <= 20 + AttemptLimits().at_once


async def test_all_gateways_count_together(redis_url, key_prefix):
    async with redis_link(redis_url) as link:
        gateways = [in_redis(link, key_prefix, AttemptLimits(4)) for _ in range(3)]
        for gateway in gateways[:2]:
            assert await shows(gateway, HERE, 2) == 0
        for gateway in gateways:
            assert await shows(gateway, HERE, 1) == 1
            assert await shows(gateway, THERE, 1) == 0


async def test_a_window_ends(redis_url, key_prefix):
    async with redis_link(redis_url) as link:
        attempts = in_redis(link, key_prefix, AttemptLimits(1, 0.2))
        assert await shows(attempts, HERE, 2) == 1
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await attempts.attempt(HERE, NO_HEADERS, right) == "yes"
                    break
                except TooManyAttempts:
                    await asyncio.sleep(0.02)


async def test_redis_keeps_so_many_addresses_and_forgets_them(redis_url, key_prefix, monkeypatch):
    monkeypatch.setattr(attempts_module, "ADDRESSES_MAX", 5)
    async with redis_link(redis_url) as link:
        key = f"{{{key_prefix}0}}:attempts"
        attempts = in_redis(link, key_prefix, AttemptLimits(2))
        for number in range(20):
            assert await shows(attempts, f"192.0.2.{number}", 1) == 0
        assert await link.command("HLEN", key) == 5
        assert 0 < await link.command("PTTL", key) <= 60_000
        assert await shows(attempts, "192.0.2.19", 2) == 1  # one that Redis has no place for is counted here


async def test_without_redis_each_process_counts_alone_and_remembers_so_many():
    async def away(address):
        raise RedisAway("Redis is away")

    attempts = Attempts(away, Addresses(), AttemptLimits(2), time.monotonic, 10)
    assert await shows(attempts, HERE, 5) == 3
    for number in range(100):
        await shows(attempts, f"192.0.2.{number}", 3)
    assert (len(attempts._failed), len(attempts._blocked)) == (10, 10)


async def test_clients_behind_a_trusted_proxy_are_told_apart(caplog):
    headers = [CIMultiDict({"X-Forwarded-For": address}) for address in (HERE, THERE)]
    attempts = attempts_of(1, "10.0.0.0/8")
    assert await shows(attempts, "10.0.0.1", 2, headers[0]) == 1
    assert await shows(attempts, "10.0.0.1", 1, headers[1]) == 0
    assert not caplog.records
    attempts = attempts_of(1)
    assert await shows(attempts, "10.0.0.1", 2, headers[0]) == 1
    assert await shows(attempts, "10.0.0.1", 1, headers[1]) == 1
    (warning,) = caplog.messages
    assert "TRUSTED_PROXIES" in warning
