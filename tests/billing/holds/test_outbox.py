"""Debits on their way to Postgres: one that always fails delays no other, and is logged once."""

import asyncio
import logging

import pytest

from billing.holds import debit_writer, outbox
from billing.holds.engine import EngineSettings
from billing.holds.model import HoldSettings
from billing.holds.redis.connection import Script
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    MakeWorld,
    World,
    assert_agreed,
    debits,
    entries,
    eventually,
    hold_one,
    joined,
    partition_of,
    settle,
    spend,
)

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
    monkeypatch.setattr(debit_writer, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(debit_writer, "MOST_RETRY_S", 0.02)
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
            return [debit.request_id for debit in world.engine.outbox.waiting] == [poison]

        await eventually(only_it_waits)
        spent.append(await spend(world, principal))

        async def the_next_is_written() -> bool:
            return bool(await world.database.value("SELECT count(*) = 21 FROM usage_events"))

        await eventually(the_next_is_written)
    assert world.engine.outbox.hindered
    records = [record for record in caplog.records if record.name == debit_writer.__name__]
    alarms = [record for record in records if record.levelno >= logging.ERROR]
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


async def test_a_debit_that_always_fails_keeps_nobody_waiting_on_the_ledgers_own_way(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis confirms none of them, because they are of an older epoch: the others' answers end in time."""
    monkeypatch.setattr(debit_writer, "MOST_RETRY_S", 0.02)
    world = await make_world(EngineSettings(holds=HoldSettings(ledger_timeout_s=60.0)))
    principal = await world.customer(10**9)
    holds = [await hold_one(world, principal) for _ in range(10)]
    poison = await hold_one(world, principal, model="poison")
    await world.database.execute(FAILING.format(condition="NEW.model = 'poison'"))
    await world.engine.partitions.renew(partition_of(world))
    failing = asyncio.ensure_future(settle(world, principal, poison, model="poison"))
    ended = await asyncio.gather(*(settle(world, principal, hold) for hold in holds))
    assert [each.available_nano for each in ended] == [None] * len(holds)
    assert not failing.done()
    assert {hold.state for hold in holds} == {"settled"}
    assert poison.state == "settling"
    await world.database.execute(MENDED)
    await failing
    assert await debits(world) == dict.fromkeys((hold.id for hold in [*holds, poison]), 500)
    assert await world.engine.holds.drain(60.0)

    async def is_open() -> bool:
        return await joined(world)

    await eventually(is_open)
    await hold_one(world, principal)  # which loads the account anew
    await world.engine.holds.resolve_rest(60.0)
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
