"""A cached principal is served while pushes arrive and it is fresh, never after a change; look-ups are bounded."""

import asyncio
from dataclasses import replace

import pytest

from billing.database.connection import DatabaseRefused, DatabaseUnavailable
from billing.holds.cache import CacheSettings, PrincipalCache
from billing.principals import Principal
from tests.support.holds import PRINCIPAL

SETTINGS = CacheSettings(entries=3, fresh_s=60.0, unknown_entries=2, unknown_s=5.0, lookups=2)


class Postgres:
    """What look-ups find, how many there were, and a gate that holds them up."""

    def __init__(self, settings: CacheSettings = SETTINGS) -> None:
        self.now_s = 0.0
        self.found: dict[bytes, Principal] = {b"one": PRINCIPAL}
        self.failure: Exception | None = None
        self.lookups: list[bytes] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = PrincipalCache(self.load, settings, lambda: self.now_s)
        self.cache.subscribed = True

    async def asked(self, lookups: int) -> None:
        """Wait until so many look-ups run."""
        while self.running < lookups:
            await asyncio.sleep(0)

    async def load(self, digest: bytes) -> Principal | None:
        self.lookups.append(digest)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        found = self.found.get(digest)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        return found


@pytest.fixture
async def postgres() -> Postgres:
    return Postgres()


def key(number: int) -> Principal:
    return replace(PRINCIPAL, key_id=f"key_{number}", account_id=f"acc_{number}")


async def test_a_principal_is_read_once_while_it_is_fresh(postgres):
    cache = postgres.cache
    assert cache.peek(b"one") is None
    assert await cache.get(b"one") is await cache.get(b"one") is cache.peek(b"one") is PRINCIPAL
    assert postgres.lookups == [b"one"]
    postgres.now_s = 60.0
    assert cache.peek(b"one") is None
    assert await cache.get(b"one") is PRINCIPAL
    assert postgres.lookups == [b"one"] * 2


async def test_while_postgres_is_away_not_every_request_waits_for_it(postgres):
    cache = postgres.cache
    await cache.get(b"one")
    postgres.now_s, postgres.failure = 60.0, DatabaseUnavailable("away")
    assert [await cache.get(b"one") for _ in range(3)] == [PRINCIPAL] * 3
    assert len(postgres.lookups) == 2
    postgres.now_s, postgres.failure = 65.0, None
    assert await cache.get(b"one") is PRINCIPAL
    assert len(postgres.lookups) == 3


async def test_a_look_up_is_not_waited_for_for_long():
    postgres = Postgres(replace(SETTINGS, wait_s=0.01))
    postgres.gate.clear()
    for digest in (b"one", b"two", b"three"):
        with pytest.raises(DatabaseUnavailable):
            await postgres.cache.get(digest)
    postgres.gate.set()
    assert await postgres.cache.get(b"one") is PRINCIPAL


async def test_nothing_is_served_from_memory_without_the_subscription(postgres):
    cache = postgres.cache
    await cache.get(b"one")
    await cache.get(b"none")
    cache.subscribed = False
    assert cache.peek(b"one") is None
    assert await cache.get(b"one") is PRINCIPAL
    assert await cache.get(b"none") is None
    assert postgres.lookups == [b"one", b"none"] * 2
    cache.clear()
    cache.subscribed = True
    assert cache.peek(b"one") is None


async def test_an_unknown_key_is_asked_for_once_in_a_while(postgres):
    cache = postgres.cache
    assert [await cache.get(b"none") for _ in range(3)] == [None] * 3
    assert postgres.lookups == [b"none"]
    postgres.now_s = 5.0
    await cache.get(b"none")
    assert postgres.lookups == [b"none"] * 2
    postgres.found[b"none"] = key(2)
    cache.drop("key_2")  # it was made, and this was told
    assert await cache.get(b"none") == key(2)


async def test_unknown_keys_that_are_remembered_are_bounded(postgres):
    for digest in (b"a", b"b", b"c", b"a"):
        assert await postgres.cache.get(digest) is None
    assert postgres.lookups == [b"a", b"b", b"c", b"a"]


@pytest.mark.parametrize("subject", ["acc_1", "key_1"])
async def test_a_change_of_key_or_account_forgets_the_principal(postgres, subject):
    await postgres.cache.get(b"one")
    postgres.cache.drop("acc_2")
    assert postgres.cache.peek(b"one") is PRINCIPAL
    postgres.cache.drop(subject)
    assert postgres.cache.peek(b"one") is None
    assert len(postgres.cache) == 0


async def test_what_a_key_is_known_to_be(postgres):
    cache = postgres.cache
    assert cache.recognises(b"one") is None
    await cache.get(b"one")
    await cache.get(b"none")
    assert (cache.recognises(b"one"), cache.recognises(b"none")) == (True, False)
    postgres.now_s = 3600.0
    assert (cache.recognises(b"one"), cache.recognises(b"none")) == (True, None)
    for forget in (lambda: cache.drop("acc_1"), cache.clear):
        forget()
        assert cache.recognises(b"one") is True  # it has to be read anew, and is a key all the same
        assert cache.peek(b"one") is None
        await cache.get(b"one")
    del postgres.found[b"one"]
    cache.drop("key_1")
    await cache.get(b"one")
    assert cache.recognises(b"one") is False


async def test_keys_that_were_known_are_bounded(postgres):
    for number in range(10):
        digest = b"%d" % number
        postgres.found[digest] = replace(PRINCIPAL, key_id=f"key_{number}")
        await postgres.cache.get(digest)
        postgres.cache.drop(f"key_{number}")
    known = [postgres.cache.recognises(b"%d" % number) for number in range(10)]
    assert known == [None] * 7 + [True] * 3


async def test_what_was_read_before_a_change_is_not_remembered(postgres):
    cache = postgres.cache
    postgres.gate.clear()
    reading = asyncio.ensure_future(cache.get(b"one"))
    await postgres.asked(1)
    cache.drop("key_1")
    postgres.gate.set()
    assert await reading is PRINCIPAL
    assert cache.peek(b"one") is None
    newer = postgres.found[b"one"] = replace(PRINCIPAL, key_version=2)
    assert await cache.get(b"one") is newer


async def test_callers_share_a_look_up_that_no_one_of_them_can_cancel(postgres):
    cache = postgres.cache
    postgres.gate.clear()
    callers = [asyncio.ensure_future(cache.get(b"one")) for _ in range(50)]
    await postgres.asked(1)
    callers[0].cancel()
    await asyncio.sleep(0)
    postgres.gate.set()
    assert await asyncio.gather(*callers[1:]) == [PRINCIPAL] * 49
    assert postgres.lookups == [b"one"]


async def test_look_ups_at_the_same_time_are_bounded(postgres):
    postgres.gate.clear()
    callers = [asyncio.ensure_future(postgres.cache.get(b"%d" % number)) for number in range(20)]
    await postgres.asked(SETTINGS.lookups)
    assert postgres.most_running == SETTINGS.lookups
    postgres.gate.set()
    await asyncio.gather(*callers)
    assert (postgres.most_running, len(postgres.lookups)) == (SETTINGS.lookups, 20)


async def test_the_oldest_principals_give_way(postgres):
    cache = postgres.cache
    for number in range(2, 7):
        postgres.found[b"%d" % number] = key(number)
        await cache.get(b"%d" % number)
    assert len(cache) == 3
    assert [cache.peek(b"%d" % number) is not None for number in range(2, 7)] == [False, False, True, True, True]
    assert set(cache._digests) == {f"{kind}_{number}" for kind in ("acc", "key") for number in (4, 5, 6)}


async def test_while_postgres_is_away_what_is_known_still_serves(postgres):
    cache = postgres.cache
    await cache.get(b"one")
    postgres.now_s = 61.0
    postgres.failure = DatabaseUnavailable("away")
    assert await cache.get(b"one") is PRINCIPAL
    with pytest.raises(DatabaseUnavailable):
        await cache.get(b"none")
    with pytest.raises(DatabaseUnavailable):
        await cache.reload(b"one")
    cache.subscribed = False
    with pytest.raises(DatabaseUnavailable):
        await cache.get(b"one")
    postgres.failure = None
    assert await cache.get(b"one") is PRINCIPAL


async def test_what_postgres_refuses_is_not_hidden(postgres):
    await postgres.cache.get(b"one")
    postgres.now_s, postgres.failure = 61.0, DatabaseRefused("a fault")
    with pytest.raises(DatabaseRefused):
        await postgres.cache.get(b"one")


async def test_the_last_caller_may_leave_before_a_look_up_fails(postgres):
    """No caller is left to see the failure, and the event loop logs no unhandled exception."""
    postgres.gate.clear()
    caller = asyncio.ensure_future(postgres.cache.get(b"one"))
    await postgres.asked(1)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    postgres.failure = DatabaseUnavailable("away")
    postgres.gate.set()
    while postgres.running:
        await asyncio.sleep(0)
