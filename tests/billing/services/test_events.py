"""Writing events: what is refused, locked, or too much keeps no other event back, and nothing is charged twice."""

from __future__ import annotations

import asyncio

import pytest
from ulid import ULID

from billing.database.connection import DatabaseUnavailable
from billing.errors import MetergateError
from billing.money import MAX_NANO
from billing.services import events
from billing.services.charges import BadMeasure, Measure, MeterNotPriced, charge_of, digest_of, parse_quantity
from billing.services.events import Busy, EventConflict, EventRefused, Payer, Recorded, UnknownAccount
from tests.billing.holds.conftest import World
from tests.billing.holds.support import eventually
from tests.billing.services.support import PRICES, meters


async def account(world: World, balance_nano: int = 10**9) -> Payer:
    made = await world.accounts.create("Test")
    if balance_nano:
        await world.grants.grant(made.id, balance_nano, str(ULID()), None)
    return Payer("aura", made.id)


async def charged(world: World) -> list[int]:
    rows = await world.database.rows("SELECT charged_nano FROM usage_events WHERE outcome = 'settled' ORDER BY 1")
    return [row["charged_nano"] for row in rows]


async def test_one_that_the_ledger_refuses_keeps_no_other_back(world: World) -> None:
    metering, payer, deep = meters(world).metering, await account(world), await account(world, 0)
    await metering.record(deep, "0", Measure(amount_nano=MAX_NANO), None)
    work = [metering.record(payer, str(number), Measure(amount_nano=number), None) for number in range(5)]
    work.insert(2, metering.record(deep, "1", Measure(amount_nano=MAX_NANO), None))
    found = await asyncio.gather(*work, return_exceptions=True)
    assert isinstance(found.pop(2), EventRefused)
    assert all(isinstance(each, Recorded) for each in found)
    assert await charged(world) == [0, 1, 2, 3, 4, MAX_NANO]
    assert await world.database.value("SELECT count(*) FROM service_events") == 6


async def test_a_locked_account_keeps_no_other_back(world: World) -> None:
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


async def test_too_many_are_refused_at_once(world: World) -> None:
    metering, payer = meters(world, most=3).metering, await account(world)
    work = (metering.record(payer, str(number), Measure(amount_nano=1), None) for number in range(10))
    found = await asyncio.gather(*work, return_exceptions=True)
    recorded = sum(isinstance(each, Recorded) for each in found)
    assert 3 <= recorded < 10  # those of the first batch wait no more
    assert sum(isinstance(each, Busy) for each in found) == 10 - recorded
    assert await charged(world) == [1] * recorded


async def test_a_commit_of_unknown_fate_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    metering, payer, write, tried = meters(world).metering, await account(world), events.write_claimed, []

    async def lose_the_answer(*arguments: object) -> set[str]:
        done = await write(*arguments)  # type: ignore[arg-type]
        tried.append(done)
        if len(tried) == 1:
            raise DatabaseUnavailable("the connection was cut after the commit")
        return done

    monkeypatch.setattr(events, "write_claimed", lose_the_answer)
    done = await metering.debit(payer, "e", Measure(amount_nano=7))
    assert done.replayed  # by itself: it is in the ledger, once
    assert await charged(world) == [7]

    async def nothing_held() -> bool:
        live = await world.engine.change_notifier.live_balance(payer.account_id)
        return live is not None and (live.balance_nano, live.held_nano) == (10**9 - 7, 0)

    await world.engine.change_notifier.balance_changed(payer.account_id)
    await eventually(nothing_held)


async def test_who_leaves_leaves_no_hold(world: World) -> None:
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

    async def nothing_held() -> bool:
        live = await world.engine.change_notifier.live_balance(payer.account_id)
        return live is not None and (live.balance_nano, live.held_nano) == (10**9 - 20, 0)

    await eventually(nothing_held)


async def test_unknown_accounts_and_conflicts(world: World) -> None:
    metering, payer = meters(world).metering, await account(world)
    with pytest.raises(UnknownAccount):
        await metering.record(Payer("aura", "acc_unknown"), "e", Measure(amount_nano=1), None)
    await metering.record(payer, "e", Measure(amount_nano=1), None)
    with pytest.raises(EventConflict):
        await metering.debit(payer, "e", Measure(amount_nano=1))
    other = await account(world)
    await metering.debit(other, "e", Measure(amount_nano=1))  # an id is an account's own


@pytest.mark.parametrize(
    ("said", "thousandths"),
    [(0, 0), (7, 7000), (7.0, 7000), ("1.5", 1500), ("0.001", 1), ("9007199254740", 9007199254740000)],
)
def test_quantities(said: object, thousandths: int) -> None:
    assert parse_quantity(said) == thousandths


@pytest.mark.parametrize(
    "said", [-1, 1.5, True, None, "", "1.", ".5", "1e3", "1.0001", "-1", " 1", "9007199254741", 10**13]
)
def test_what_is_no_quantity(said: object) -> None:
    with pytest.raises(BadMeasure):
        parse_quantity(said)


def test_prices_and_digests() -> None:
    measure = Measure(meter="container.second", thousandths=1500)
    charge = charge_of(measure, PRICES, 50 * 10**9, 2_000_000_000)
    assert charge.cost_nano == 150_000
    assert charge.charged_nano == 225_000  # half of it more
    assert digest_of("debit", measure) == digest_of("debit", Measure(meter="container.second", thousandths=1500))
    assert digest_of("debit", measure) != digest_of("usage", measure)
    for wrong in (Measure(meter="unknown", thousandths=1), Measure(provider="x", model="y", input_tokens=1)):
        with pytest.raises(MeterNotPriced):
            charge_of(wrong, PRICES, 0, 2_000_000_000)
    with pytest.raises(MetergateError):
        charge_of(Measure(meter="container.second", thousandths=MAX_NANO), PRICES, 0, 2_000_000_000)
