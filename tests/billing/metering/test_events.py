"""Writing events: what is refused, locked, or too much keeps no other event back, and nothing is charged twice."""

from __future__ import annotations

import asyncio
import hashlib
import time
from datetime import date
from functools import partial

import msgspec
import pytest
from ulid import ULID

from billing.database.connection import DatabaseUnavailable
from billing.errors import MetergateError
from billing.ledger.catalogue import sync_prices
from billing.metering import events
from billing.metering.charges import (
    BadMeasure,
    Measure,
    MeterNotPriced,
    Payer,
    UnknownAccount,
    charge_of,
    digest_of,
    parse_quantity,
)
from billing.metering.events import Busy, EventConflict, EventRefused, Recorded
from billing.money import MAX_NANO
from billing.pricing import PriceRow, PriceTable
from billing.quotas import Metric, Quota, Window
from tests.billing.metering.support import PRICES, meters
from tests.support.holds import World, eventually


async def account(world: World, balance_nano: int = 10**9) -> Payer:
    made = await world.accounts.create("Test")
    if balance_nano:
        await world.grants.grant(made.id, balance_nano, str(ULID()), None)
    return Payer("aura", made.id)


async def charged(world: World) -> list[int]:
    rows = await world.database.rows("SELECT charged_nano FROM usage_events WHERE outcome = 'settled' ORDER BY 1")
    return [row["charged_nano"] for row in rows]


async def test_one_that_the_ledger_refuses_keeps_no_other_back(world):
    metering, payer, deep = meters(world).metering, await account(world), await account(world, 0)
    await metering.record(deep, "0", Measure(amount_nano=MAX_NANO), None)
    work = [metering.record(payer, str(number), Measure(amount_nano=number), None) for number in range(5)]
    work.insert(2, metering.record(deep, "1", Measure(amount_nano=MAX_NANO), None))
    found = await asyncio.gather(*work, return_exceptions=True)
    assert isinstance(found.pop(2), EventRefused)
    assert all(isinstance(each, Recorded) for each in found)
    assert await charged(world) == [0, 1, 2, 3, 4, MAX_NANO]
    assert await world.database.value("SELECT count(*) FROM service_events") == 6


async def test_a_locked_account_keeps_no_other_back(world):
    metering, locked, free = meters(world).metering, await account(world), await account(world)
    async with world.database.transaction() as connection:
        await connection.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", locked.account_id)
        found = await asyncio.gather(
            *(metering.record(payer, "e", Measure(amount_nano=7), None) for payer in (locked, free)),
            return_exceptions=True,
        )
        assert isinstance(found[0], Busy)
        assert isinstance(found[1], Recorded)
    assert not (await metering.record(locked, "e", Measure(amount_nano=7), None)).replayed
    assert await charged(world) == [7, 7]


async def test_too_many_are_refused_at_once(world):
    metering, payer = meters(world, most=3).metering, await account(world)
    work = (metering.record(payer, str(number), Measure(amount_nano=1), None) for number in range(10))
    found = await asyncio.gather(*work, return_exceptions=True)
    recorded = sum(isinstance(each, Recorded) for each in found)
    assert 3 <= recorded < 10  # those of the first batch wait no more
    assert sum(isinstance(each, Busy) for each in found) == 10 - recorded
    assert await charged(world) == [1] * recorded


async def test_a_commit_of_unknown_fate_is_tried_again(world, monkeypatch):
    metering, payer, write, tried = meters(world).metering, await account(world), events.write_claimed, []

    async def lose_the_answer(*arguments):
        done = await write(*arguments)
        tried.append(done)
        if len(tried) == 1:
            raise DatabaseUnavailable("the connection was cut after the commit")
        return done

    monkeypatch.setattr(events, "write_claimed", lose_the_answer)
    done = await metering.debit(payer, "e", Measure(amount_nano=7))
    assert not done.replayed  # it is in the ledger once, by this very call, whose hold ends by its correction
    assert await charged(world) == [7]

    async def nothing_held():
        live = await world.engine.change_notifier.live_balance(payer.account_id)
        return live is not None and (live.balance_nano, live.held_nano) == (10**9 - 7, 0)

    await world.engine.change_notifier.balance_changed(payer.account_id)
    await eventually(nothing_held)


async def test_what_is_sent_again_while_it_is_written_is_not_refused(world, monkeypatch):
    """The first call holds the last room and is not committed yet: the repetition waits for it, and the event is
    charged once."""
    of, measure = meters(world), Measure(amount_nano=7)
    find, looks = of.writer.find, asyncio.Event()

    async def noted(claim):
        looks.set()
        return await find(claim)

    monkeypatch.setattr(of.writer, "find", noted)
    for make in (of.metering.debit, partial(of.holds.hold, expires_in_s=60)):
        payer = await account(world)
        await world.accounts.set_quotas(payer.account_id, (Quota(Window.day, Metric.requests, 1, feature="service"),))
        await of.metering.check(payer, measure)
        looks.clear()
        async with world.database.transaction() as connection:
            await connection.execute("LOCK TABLE service_events IN SHARE MODE")
            work = [asyncio.create_task(make(payer, "e", measure)) for _ in range(2)]
            async with asyncio.timeout(60):
                await looks.wait()
        first, again = await asyncio.gather(*work)
        assert first.answer == again.answer
        assert sorted((first.replayed, again.replayed)) == [False, True]
    await world.accounts.set_quotas(payer.account_id, ())
    assert (await of.holds.hold(payer, "e", measure, 60)).replayed  # where there is room for another one


async def test_what_another_gateway_writes_at_this_moment_is_not_refused(world, monkeypatch):
    one, other, measure = meters(world), meters(world), Measure(amount_nano=10**9)
    monkeypatch.setattr("billing.metering.metering.UNDER_WAY_S", (0.02,) * 1000)
    known, looks = other.writer.known, asyncio.Event()

    async def noted(claim):
        found = await known(claim)
        looks.set()
        return found

    monkeypatch.setattr(other.writer, "known", noted)
    payer = await account(world)
    async with world.database.transaction() as connection:
        await connection.execute("LOCK TABLE service_events IN SHARE MODE")
        first = asyncio.create_task(one.metering.debit(payer, "e", measure))

        async def is_held():
            live = await world.engine.change_notifier.live_balance(payer.account_id)
            return live is not None and live.held_nano > 0

        await eventually(is_held)
        again = asyncio.create_task(other.metering.debit(payer, "e", measure))
        async with asyncio.timeout(60):
            await looks.wait()
    assert (await again).answer == (await first).answer
    assert await charged(world) == [10**9]


async def test_an_id_is_one_event_of_all_kinds(world):
    of, payer = meters(world), await account(world)
    holds = [msgspec.json.decode((await of.holds.hold(payer, f"h{each}", Measure(amount_nano=5), 60)).answer)["id"]
             for each in range(4)]  # fmt: skip
    await of.metering.debit(payer, "debit", Measure(amount_nano=1))
    await of.holds.settle(holds[0], "settle", {"amount_nano": 2})
    await of.holds.void(holds[1], "void")
    for used in ("debit", "settle", "void", "h0"):
        with pytest.raises(EventConflict, match="was used for something else"):
            await of.holds.settle(holds[2], used, {"amount_nano": 2})
        with pytest.raises(EventConflict, match="was used for something else"):
            await of.holds.void(holds[3], used)
    for used in ("settle", "void"):
        with pytest.raises(EventConflict):
            await of.metering.debit(payer, used, Measure(amount_nano=2))
    assert (await of.holds.settle(holds[0], "settle", {"amount_nano": 2})).replayed
    assert (await of.holds.void(holds[1], "void"))[1]
    assert await charged(world) == [1, 2]


async def test_a_hold_lasts_by_the_clock_that_ends_it(world):
    """Postgres's, however wrong the gateway's is."""
    payer = await account(world)
    for wrong_s in (-7200, 7200):
        of = meters(world, clock=lambda wrong_s=wrong_s: time.time() + wrong_s)
        done = await of.holds.hold(payer, str(wrong_s), Measure(amount_nano=5), 3600)
        hold_id = msgspec.json.decode(done.answer)["id"]
        left = "SELECT extract(epoch FROM expires_at - now())::float FROM service_holds WHERE id = $1"
        assert 3000 < await world.database.value(left, hold_id) <= 3600
        await world.engine.lasting.expire()
        assert (await of.holds.get(hold_id)).state == "held"


async def test_more_than_was_held_is_charged(world):
    of, payer = meters(world), await account(world)
    done = await of.holds.hold(payer, "h", Measure(amount_nano=2), 60)
    await of.holds.settle(msgspec.json.decode(done.answer)["id"], None, {"amount_nano": 7})
    assert await charged(world) == [7]


async def test_tokens_settle_a_hold_whose_provider_is_named_late(world):
    of, payer = meters(world), await account(world)
    done = await of.holds.hold(payer, "h", Measure(amount_nano=5, model="gpt"), 60)
    hold_id, used = msgspec.json.decode(done.answer)["id"], {"amount_nano": None, "input_tokens": 1000}
    with pytest.raises(BadMeasure, match="name it"):
        await of.holds.settle(hold_id, None, used)
    done = await of.holds.settle(hold_id, None, {**used, "provider": "openai", "cache_write_tokens": 400})
    assert await charged(world) == [600 * 1000 + 400 * 2000]
    priced = await of.holds.hold(payer, "i", Measure(amount_nano=5, provider="openai", model="gpt"), 60)
    hold_id = msgspec.json.decode(priced.answer)["id"]
    with pytest.raises(BadMeasure, match="named none"):
        await of.holds.settle(hold_id, None, {**used, "provider": "other"})


async def test_a_new_table_of_prices_changes_nothing_that_was_asked_before(world):
    """An event is answered as at first, and a hold settled at its own price, where the meter is dearer or gone."""
    tables = [PRICES]
    of, payer = meters(world, prices=lambda: tables[-1]), await account(world)
    measure, used = Measure(meter="container.second", thousandths=2000), {"amount_nano": None, "thousandths": 1500}
    calls = (of.metering.debit, partial(of.metering.record, at=None), partial(of.holds.hold, expires_in_s=60))
    firsts = [await call(payer, str(number), measure) for number, call in enumerate(calls)]
    held = [msgspec.json.decode(firsts[-1].answer)["id"]]
    held.append(msgspec.json.decode((await of.holds.hold(payer, "h", measure, 60)).answer)["id"])
    await sync_prices(world.database, PRICES)
    dearer = PriceRow("meter", "container.second", date(2026, 1, 1), {}, {"unit": 300_000})
    for hold_id, table in zip(held, (PriceTable([dearer]), PriceTable([])), strict=True):
        tables.append(table)
        again = [await call(payer, str(number), measure) for number, call in enumerate(calls)]
        assert again == [Recorded(first.answer, replayed=True) for first in firsts]
        await of.holds.settle(hold_id, None, used)
    with pytest.raises(MeterNotPriced):
        await of.metering.record(payer, "new", measure, None)
    assert await charged(world) == [150_000, 150_000, 200_000, 200_000]


async def test_who_leaves_leaves_no_hold(world):
    """A call that is cancelled while its debit is written is charged once, and nothing stays held."""
    metering, payer = meters(world).metering, await account(world)
    for number in range(20):
        task = asyncio.create_task(metering.debit(payer, str(number), Measure(amount_nano=1)))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for number in range(20):
        await metering.debit(payer, str(number), Measure(amount_nano=1))
    assert await charged(world) == [1] * 20

    async def nothing_held():
        live = await world.engine.change_notifier.live_balance(payer.account_id)
        return live is not None and (live.balance_nano, live.held_nano) == (10**9 - 20, 0)

    await eventually(nothing_held)


async def test_unknown_accounts_and_conflicts(world):
    metering, payer = meters(world).metering, await account(world)
    with pytest.raises(UnknownAccount):
        await metering.record(Payer("aura", "acc_unknown"), "e", Measure(amount_nano=1), None)
    await metering.record(payer, "e", Measure(amount_nano=1), None)
    with pytest.raises(EventConflict):
        await metering.debit(payer, "e", Measure(amount_nano=1))
    other = await account(world)
    await metering.debit(other, "e", Measure(amount_nano=1))  # an id is an account's own


@pytest.mark.parametrize(
    ("quantity", "thousandths"),
    [(0, 0), (7, 7000), (7.0, 7000), ("1.5", 1500), ("0.001", 1), ("9007199254740", 9007199254740000)],
)
def test_quantities(quantity, thousandths):
    assert parse_quantity(quantity) == thousandths


@pytest.mark.parametrize(
    "quantity", [-1, 1.5, True, None, "", "1.", ".5", "1e3", "1.0001", "-1", " 1", "9007199254741", 10**13]
)
def test_what_is_no_quantity(quantity):
    with pytest.raises(BadMeasure):
        parse_quantity(quantity)


def test_prices_and_digests():
    measure = Measure(meter="container.second", thousandths=1500)
    charge = charge_of(measure, PRICES, 50 * 10**9, 2_000_000_000)
    assert charge.cost_nano == 150_000
    assert charge.charged_nano == 225_000  # half of it more
    assert digest_of("debit", measure) == digest_of("debit", Measure(meter="container.second", thousandths=1500))
    assert digest_of("debit", measure) != digest_of("usage", measure)
    assert digest_of("debit", Measure(amount_nano=0)) != digest_of("debit", Measure(amount_nano=1))
    canonical = (
        '["debit",{"feature":"service","meter":"container.second","thousandths":1500}]'  # and no field that is unset
    )
    assert digest_of("debit", measure) == hashlib.sha256(canonical.encode()).digest()
    for wrong in (Measure(meter="unknown", thousandths=1), Measure(provider="x", model="y", input_tokens=1)):
        with pytest.raises(MeterNotPriced):
            charge_of(wrong, PRICES, 0, 2_000_000_000)
    with pytest.raises(MetergateError):
        charge_of(Measure(meter="container.second", thousandths=MAX_NANO), PRICES, 0, 2_000_000_000)
