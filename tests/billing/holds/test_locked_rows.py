"""An account whose row in Postgres another session has locked: its debits wait, and other accounts go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from billing.database.connection import Database
from billing.holds import api, cache, loading
from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, InsufficientBalance, Unavailable
from billing.holds.redis.connection import Script
from billing.principals import Principal
from tests.support.holds import (
    PATIENT,
    World,
    ask,
    assert_agreed,
    debits,
    delete,
    entries,
    eventually,
    hold_one,
    keys_in_redis,
    kill,
    ledger_balance,
    need,
    partition_of,
    renew_leases,
    settle,
    spend,
)

# What each customer begins with, in nano-USD.
HERS = 10**9


@pytest.fixture
async def other_session(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@asynccontextmanager
async def locked(database: Database, *principals: Principal) -> AsyncIterator[None]:
    """Another session has the rows of these accounts."""
    async with database.transaction() as connection:
        names = [principal.account_id for principal in principals]
        await connection.execute("SELECT FROM accounts WHERE id = ANY ($1) FOR UPDATE", names)
        yield


async def empty_redis(world: World) -> None:
    await delete(world, *await keys_in_redis(world))


async def is_admitted(world: World, principal: Principal) -> bool:
    decision = await ask(world, principal)
    if isinstance(decision, Hold):
        await settle(world, principal, decision)
        return True
    assert isinstance(decision, Unavailable), decision
    return False


async def count_written(world: World, principal: Principal) -> int:
    found: int = await world.database.value(
        "SELECT count(*) FROM usage_events WHERE account_id = $1", principal.account_id
    )
    return found


async def served_again(world: World, *principals: Principal) -> None:
    for principal in principals:

        async def admitted(principal: Principal = principal) -> bool:
            return await is_admitted(world, principal)

        await eventually(admitted)


async def test_others_are_written_while_one_row_is_locked(world, other_session, monkeypatch):
    """Redis is there: the journal keeps what is the locked account's, and its own requests go on, too."""
    hers, his = await world.customer(HERS), await world.customer(HERS)
    for each in (hers, his):
        await world.engine.holds.void(await hold_one(world, each))
    async with locked(other_session, hers):
        spent = [await spend(world, each) for each in (hers, his, hers, his)]

        async def his_are_written():
            return await count_written(world, his) == 2

        await eventually(his_are_written)
        spent += [await spend(world, each) for each in (hers, his)]

        async def the_next_is_written():
            return await count_written(world, his) == 3

        await eventually(the_next_is_written)
        assert await count_written(world, hers) == 0
        assert await journal_size(world, hers) == 3

        async def is_said():
            return list(world.engine.outbox.long_locked) == [hers.account_id]

        await eventually(is_said)
        monkeypatch.setattr(world.engine.loader, "_wait_s", 0.5)  # for the debits of the locked one
        found = await world.engine.reconciler.run()
        assert (found.drifts, found.busy) == ((), 1), "the others are compared"

    async def hers_are_written():
        return await count_written(world, hers) == 3

    await eventually(hers_are_written)
    assert await debits(world) == dict.fromkeys(spent, 500)

    async def it_is_over():
        return not world.engine.outbox.long_locked

    await eventually(it_is_over)
    for each in (hers, his):
        await assert_agreed(world, each.account_id)
        assert await ledger_balance(world, each.account_id) == HERS - 3 * 500


# What is promised of a revocation, on every process and whoever dies.
WITHIN_S = 1.0


async def test_a_change_that_waits_for_a_locked_row_keeps_no_other_waiting(world, other_session, monkeypatch):
    """Whoever made the changes has died after the commit. More of them wait than may be told of again at once."""
    await world.engine.loops.stop("relay")
    notifier, loop = world.engine.change_notifier, asyncio.get_running_loop()
    stuck = [await world.customer(HERS) for _ in range(cache.MOST_AGAIN + 4)]
    his, last = await world.customer(HERS), await world.customer(HERS)
    for each in (*stuck, his, last):
        await world.engine.holds.void(await hold_one(world, each))
    names = [each.account_id for each in stuck]
    limit = [{"window": "day", "metric": "cost", "limit": "9"}]  # a counter that begins with what the ledger has
    await world.database.execute(
        "UPDATE accounts SET quotas = $1, version = version + 1 WHERE id = ANY ($2)", limit, names
    )
    monkeypatch.setattr(world.engine.loader, "_wait_s", 3600.0)
    suspend = "UPDATE accounts SET status = 'suspended', version = version + 1 WHERE id = $1"

    async def suspended_s(principal):
        """After how many seconds a change takes effect that is only in the ledger."""
        await world.database.execute(suspend, principal.account_id)
        begun_s = loop.time()

        async def takes_effect():
            decision = await ask(world, principal)
            if isinstance(decision, Hold):
                await world.engine.holds.void(decision)
            return not isinstance(decision, Hold)

        await eventually(takes_effect)
        return loop.time() - begun_s

    async with locked(other_session, *stuck):
        for each in stuck:
            await spend(world, each)
        world.engine.loops.start("relay", world.engine.upkeep.relay)
        assert await suspended_s(his) < WITHIN_S

        async def many_wait():
            return len(notifier.publishing) >= cache.MOST_AGAIN

        await eventually(many_wait)
        assert await suspended_s(last) < WITHIN_S

    async def all_are_told():
        return await world.database.value(UNTOLD) is None and not notifier.publishing

    await eventually(all_are_told)
    assert world.engine.loops.failures["relay"] == 0


UNTOLD = "SELECT id FROM accounts WHERE version > pushed_version ORDER BY id"


async def test_rounds_of_the_relay_end_and_go_on(world, monkeypatch):
    """With what was not tried yet; a fault of the program at one change is counted, and ends neither the others nor the
    relay. What is still being told when the engine stops ends with it."""
    await world.engine.loops.stop("relay")
    notifier = world.engine.change_notifier
    names = sorted([(await world.customer(HERS)).account_id for _ in range(3)])
    monkeypatch.setattr(cache, "RELAY_S", 0.0)
    monkeypatch.setattr(cache, "LANES", 1)

    async def breaks(*_):
        raise ZeroDivisionError("a fault in the program")

    async def is_stuck(*_):
        await asyncio.Event().wait()

    async def relay():
        """Return whose changes are still to be told."""
        await notifier.relay()
        return [row["id"] for row in await world.database.rows(UNTOLD)]

    await world.database.execute("UPDATE accounts SET version = version + 1")
    with monkeypatch.context() as patched:
        patched.setattr(world.engine.loader, "adopt_account", breaks)
        assert await relay() == names
        assert world.engine.loops.failures["relay"] == 1
    assert [await relay() for _ in names] == [[names[0], names[2]], [names[0]], []]
    await world.database.execute("UPDATE accounts SET version = version + 1 WHERE id = $1", names[1])
    with monkeypatch.context() as patched:
        patched.setattr(world.engine.loader, "adopt_account", is_stuck)
        assert await relay() == [names[1]]
        assert await relay() == [names[1]]
        assert len(notifier.publishing) == 1
    await notifier.stop()
    assert not notifier.publishing


async def test_a_locked_account_fills_a_part_of_what_may_wait(make_world, other_session):
    """Then it is refused, and the others are not."""
    most = 8 * api.LOCKED_SHARE
    world = await make_world(EngineSettings(holds=replace(PATIENT.holds, max_unsettled=most)))
    hers, his = await world.customer(HERS), await world.customer(HERS)
    for each in (hers, his):
        await world.engine.holds.void(await hold_one(world, each))
    async with locked(other_session, hers):

        async def is_refused():
            return not await is_admitted(world, hers)

        await eventually(is_refused)
        assert 8 <= await journal_size(world, hers) < most // 2
        assert await is_admitted(world, his)
    await served_again(world, hers)
    await assert_agreed(world, hers.account_id)


async def test_an_epoch_opens_without_the_account_whose_row_is_locked(make_world, other_session):
    """Requests that run, debits that wait, of both accounts in both gateways; then Redis is emptied."""
    world, other = await make_world(), await make_world()
    hers, his = await world.customer(HERS), await world.customer(HERS)
    spent = []
    running = [(each, who, await hold_one(each, who)) for each in (world, other) for who in (hers, his)]
    async with locked(other_session, hers):
        spent += [await spend(each, who) for each in (world, other) for who in (hers, his)]
        epoch = partition_of(world).epoch or 0
        await empty_redis(world)
        for each in (world, other):
            await served_again(each, his)
        assert partition_of(world).epoch == epoch + 1
        for each in (world, other):
            assert isinstance(await ask(each, hers), Unavailable)
        outcomes = []
        for each, who, hold in running:
            outcomes.append(asyncio.ensure_future(settle(each, who, hold)))
        await outcomes[1], await outcomes[3]
        assert await count_written(world, hers) == 0
    await asyncio.gather(*outcomes)
    for each in (world, other):
        await served_again(each, hers)
    expected = {*spent, *(hold.id for _, _, hold in running)}

    for who in (hers, his):
        await assert_agreed(world, who.account_id)
    assert expected <= set(await debits(world))
    for who in (hers, his):
        assert await ledger_balance(world, who.account_id) == HERS - 500 * await count_written(world, who)


async def journal_size(world: World, principal: Principal) -> int:
    found = (await entries(world, principal.account_id)).values()
    return sum(entry.account_id == principal.account_id for entry in found)


async def test_what_a_locked_account_owes_is_not_lent_again(make_world, other_session):
    """Its balance is for one more request only while another gateway's debit is forgotten, which that gateway alone
    knows of. The row is free again, but the debit is not written yet: nobody serves the account."""
    world, other = await make_world(), await make_world()
    hers, his = await world.customer(3000), await world.customer(HERS)
    warm = await hold_one(other, hers)
    await other.engine.holds.void(warm)
    async with AsyncExitStack() as stands_still:
        async with locked(other_session, hers):
            await spend(other, hers, charged_nano=1500, cost_nano=1500)
            await empty_redis(world)
            await served_again(world, his)
            await served_again(other, his)
            assert partition_of(other).quarantined == {hers.account_id}
            await stands_still.enter_async_context(other.engine.outbox._writing)
        asked = need(least=100, most=100)

        async def is_loaded():
            assert isinstance(await ask(world, hers, asked), Unavailable)
            return await world.link.command("GET", world.keys.account(hers.account_id)) is not None

        await eventually(is_loaded)
        assert (await world.account_state(hers.account_id)).balance_nano == 3000
        for each in (world, other):
            assert isinstance(await ask(each, hers, asked), Unavailable)
    decisions = []

    async def is_decided():
        decisions.append(await ask(world, hers, asked))
        return not isinstance(decisions[-1], Unavailable)

    await eventually(is_decided)
    assert decisions[-1] == InsufficientBalance(1500, 2000, 0, 50)
    assert await ledger_balance(world, hers.account_id) == 1500
    assert not partition_of(other).quarantined


async def test_a_gateway_that_dies_holds_nothing_back_any_more(make_world, other_session):
    """What it alone knew is lost with it and with Redis, as ever; its accounts are served again."""
    world, other = await make_world(), await make_world()
    hers, his = await world.customer(HERS), await world.customer(HERS)
    for each in (hers, his):
        await spend(world, each)
    await world.engine.outbox.flush()
    async with locked(other_session, hers):
        await spend(other, hers)
        await empty_redis(world)
        await served_again(world, his)
        assert partition_of(other).quarantined == {hers.account_id}
        await kill(other)
    await renew_leases(world)
    await served_again(world, hers)
    await assert_agreed(world, hers.account_id)


async def test_a_gateway_that_was_taken_for_dead_catches_up_as_well(make_world, other_session):
    """Another one ended what it held back. It holds its running requests again once it can, and says no more that the
    account waits."""
    world, other = await make_world(), await make_world()
    hers, his = await world.customer(HERS), await world.customer(HERS)
    running = await hold_one(other, hers)
    async with locked(other_session, hers):
        await empty_redis(world)
        await served_again(world, his)
        assert partition_of(other).quarantined == {hers.account_id}
        await world.link.command("HDEL", world.keys.installed(0), "back", f"back:{hers.account_id}")
        await renew_leases(other)

    async def has_caught_up():
        return not partition_of(other).quarantined and not other.engine.locked_accounts()

    await eventually(has_caught_up)
    assert running.epoch == partition_of(other).epoch
    await settle(other, hers, running)
    await assert_agreed(world, hers.account_id)


async def test_loads_of_locked_accounts_leave_connections_to_others(world, other_session, monkeypatch):
    """However many of them are asked for, at most one waits for its row at a time."""
    monkeypatch.setattr(loading, "LOCKED_PAUSE_S", 60.0)
    locked_ones = [await world.customer(HERS) for _ in range(12)]
    free = [await world.customer(HERS) for _ in range(4)]
    async with locked(other_session, *locked_ones):
        asked = [asyncio.ensure_future(ask(world, each)) for each in locked_ones]
        for each in free:
            assert isinstance(await ask(world, each), Hold)
        assert all(isinstance(decision, Unavailable) for decision in await asyncio.gather(*asked))
    monkeypatch.setattr(loading, "LOCKED_PAUSE_S", 0.0)
    world.engine.loader._locked_until.clear()
    for each in locked_ones:
        assert isinstance(await ask(world, each), Hold)


async def test_an_account_that_is_loaded_already_is_held_back_as_well(world):
    """By a gateway that joins later. Its version is not published meanwhile; each gateway names all accounts that it
    holds back."""
    await world.engine.loops.stop("tend", "relay")  # of which one finds out that the other two are none
    hers, his = await world.customer(HERS), await world.customer(HERS)
    await served_again(world, hers, his)
    partition, keys, join = partition_of(world), world.keys, Script("join")

    async def joins(gateway, *back, gone=()):
        names = [keys.meta(0), keys.joined(0), keys.installed(0), *map(keys.account, back)]
        arguments = [partition.epoch or 0, gateway, len(back), len(gone), *back, *gone, gateway]
        is_open, *holding = await world.link.call(join, names, arguments)
        return [is_open, sorted(holding)]

    assert await joins("one", hers.account_id) == [1, [b"one"]]
    assert await joins("two", hers.account_id, his.account_id) == [1, [b"one", b"two"]]
    assert await joins("one") == [1, [b"two"]]
    for each in (hers, his):
        assert not await is_admitted(world, each)
        await world.engine.change_notifier.account_changed(each.account_id)
        assert (await world.account_state(each.account_id)).principal_version == 0
    assert await joins("two", his.account_id) == [1, [b"two"]]
    assert await is_admitted(world, hers)
    assert not await is_admitted(world, his)
    assert await joins("three", gone=("two",)) == [1, []]
    assert await is_admitted(world, his)
    assert b"back" not in b"".join(await world.link.command("HKEYS", keys.installed(0)))
    for each in (hers, his):
        await assert_agreed(world, each.account_id)
