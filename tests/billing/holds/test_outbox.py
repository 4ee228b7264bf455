"""Debits on their way to Postgres: one that fails for ever keeps nobody waiting, and the log says it once."""

import asyncio
import logging

import pytest

from billing.holds import outbox
from billing.holds.redis import Script
from billing.quotas import Metric, Quota, Window
from tests.billing.holds.conftest import World
from tests.billing.holds.support import assert_agreed, debits, entries, eventually, spend

FAILING = """
CREATE FUNCTION fail_in_a_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {condition} THEN RAISE EXCEPTION 'as a test asks' USING ERRCODE = 'XX000'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail_in_a_test BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION fail_in_a_test();
"""
MENDED = "DROP TRIGGER fail_in_a_test ON usage_events; DROP FUNCTION fail_in_a_test()"


async def test_a_debit_that_always_fails_keeps_nobody_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By an error that is not the debit's own, so that it is not set aside: the others are written around it."""
    monkeypatch.setattr(outbox, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(outbox, "MOST_RETRY_S", 0.02)
    principal = await world.customer(10**9)
    await world.database.execute(FAILING.format(condition="NEW.model = 'poison'"))
    spent = [await spend(world, principal) for _ in range(10)]
    poison = await spend(world, principal, model="poison")
    spent += [await spend(world, principal) for _ in range(10)]

    async def others_are_written() -> bool:
        return bool(await world.database.value("SELECT count(*) = 20 FROM usage_events"))

    with caplog.at_level(logging.WARNING):
        await eventually(others_are_written)

        async def only_it_waits() -> bool:
            return [debit.request_id for debit in world.engine.outbox._waiting] == [poison]

        await eventually(only_it_waits)
        spent.append(await spend(world, principal))

        async def the_next_is_written() -> bool:
            return bool(await world.database.value("SELECT count(*) = 21 FROM usage_events"))

        await eventually(the_next_is_written)
    assert world.engine.outbox.hindered
    alarms = [record for record in caplog.records if record.name == outbox.__name__ and record.levelno >= logging.ERROR]
    assert len(alarms) == 1, "said once, not at every attempt"
    assert set(await entries(world, principal.account_id)) == {poison}
    other = await world.customer(10**9)
    spent.append(await spend(world, other))
    await world.accounts.set_quotas(other.account_id, (Quota(Window.total, Metric.requests, 100),))

    async def its_new_quota_counts() -> bool:
        counters = (await world.account_state(other.account_id)).counters
        return [(counter.pending, counter.taken) for counter in counters] == [(False, 1)]

    await eventually(its_new_quota_counts)
    await world.database.execute(MENDED)

    async def all_is_written() -> bool:
        return len(world.engine.outbox) == 0 and not world.engine.outbox.hindered

    await eventually(all_is_written)
    assert await debits(world) == dict.fromkeys([*spent, poison], 500)
    assert await world.database.value("SELECT count(*) FROM debits_set_aside") == 0
    await assert_agreed(world, principal.account_id)


async def test_a_call_has_redis_forget_a_bounded_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "ACKS_A_CALL", 3)
    sizes: list[int] = []
    call = world.link.call

    async def noted(script: Script, keys: list[bytes], arguments: list[bytes]) -> object:
        if script.name == "ack":
            sizes.append(len(arguments) - 1)
        return await call(script, keys, arguments)

    monkeypatch.setattr(world.link, "call", noted)
    principal = await world.customer(10**9)
    async with world.engine.outbox._writing:
        await asyncio.gather(*(spend(world, principal) for _ in range(10)))
    await world.engine.outbox.flush()
    assert max(sizes) <= 3
    assert sum(sizes) == 10
    assert await world.journal(principal.account_id) == {}
