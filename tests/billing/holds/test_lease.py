"""Who lives: a lease is kept whatever the process does, a hold stands for as long as its gateway lives, and one that
wakes finds its holds as it left them or as the ledger has decided about them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from billing.database.connection import Database, DatabaseUnavailable
from billing.holds import recovery
from billing.holds.lease import GAP_SHARE, Peers
from billing.holds.model import Hold, SettlementLost
from billing.holds.redis.layout import CLAIMED, HELD, STATE_VERSION
from billing.ledger.leases import LeaseRow, Lost, end_lease, renew_lease, write_expired
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    PATIENT,
    MakeWorld,
    World,
    assert_agreed,
    debit,
    debits,
    entries,
    eventually,
    hold_one,
    kill,
    partition_of,
    renew_leases,
    settle,
    spend,
    stops_to_renew,
    sweep_by_hand,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
READ_LEASE = "SELECT lease_until FROM gateways WHERE id = $1"
LEASE_S = 5.0
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """A gateway that renews its lease each second."""
    return await make_world(replace(PATIENT, lease_s=LEASE_S))


async def lease_of(world: World) -> datetime:
    found: datetime = await world.database.value(READ_LEASE, world.engine.gateway_id)
    return found


async def claim(world: World, hold: Hold) -> None:
    """What another gateway does that takes the hold's for dead, and dies before the ledger has decided."""
    partition = partition_of(world)
    keys = [world.keys.meta(0), world.keys.journal(0)]
    reply = await world.link.call(world.engine.recovery.expiry._claim, keys, [partition.epoch or 0, hold.id])
    assert reply[0] == 0


async def state_of(world: World, principal: Principal, hold: Hold) -> int | None:
    found = (await entries(world, principal.account_id)).get(hold.id)
    return found.state if found is not None else None


async def test_a_hold_of_a_living_gateway_never_expires_by_age(make_world, monkeypatch):
    """Its owner alone ends it, however long the request runs; here it has run for a day by Redis's clock."""
    world, other = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(world, principal)
    for each in (world, other):
        partition_of(each).clock_offset_ms += 86_400_000
        swept = await each.engine.recovery.sweep(partition_of(each))
        assert (swept.expired, swept.voided) == (0, 0)
    assert await state_of(world, principal, hold) == HELD
    await settle(world, principal, hold)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {hold.id: 500}


@pytest.mark.parametrize("ahead", ["6 seconds", "1 day", "-1 day"])
async def test_postgres_clock_does_not_expire_living_holds(make_world, ahead):
    """As another clock would have left it: what the lease says is past."""
    world, other = await make_world(), await make_world()
    principal = await world.customer()
    hold = await hold_one(world, principal)
    await other.database.execute("UPDATE gateways SET lease_until = lease_until - $1::text::interval", ahead)
    await other.engine.lease.renew()
    assert (await other.engine.recovery.sweep(partition_of(other))).expired == 0
    assert world.engine.gateway_id in await other.engine.peers.living()
    assert await state_of(world, principal, hold) == HELD


async def test_a_gateway_that_renews_just_then_keeps_its_hold(make_world):
    """The sweeper has judged and claimed; before the ledger decides, the owner wakes and renews."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(slow, principal)
    await stops_to_renew(slow, world)
    lost = world.engine.peers.lost([slow.engine.gateway_id])[slow.engine.gateway_id]
    await slow.engine.lease.renew()
    assert await world.engine.recovery.expiry.expire(partition_of(world), lost, [hold.id]) == 0
    assert await state_of(world, principal, hold) == CLAIMED
    await slow.engine.recovery.sweep(partition_of(slow))
    assert await state_of(world, principal, hold) == HELD
    assert (await settle(slow, principal, hold)).available_nano == 10**9 - 500
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {hold.id: 500}


async def test_a_gateway_that_was_taken_for_dead_is_told_when_it_renews(make_world):
    """Answers that the ledger has decided are cut; undecided ones stay held."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    decided, undecided = await hold_one(slow, principal), await hold_one(slow, principal)
    await stops_to_renew(slow, world)
    lost = world.engine.peers.lost([slow.engine.gateway_id])[slow.engine.gateway_id]
    assert await world.engine.recovery.expiry.expire(partition_of(world), lost, [decided.id]) == 1
    told = asyncio.Event()
    slow.engine.lease._sweep_now = told.set
    slow.engine.lease.start()
    await eventually_set(told)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 0
    with pytest.raises(SettlementLost):
        await settle(slow, principal, decided)
    await settle(slow, principal, undecided)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {decided.id: 0, undecided.id: 500}


async def test_what_its_owner_takes_back_can_not_expire_by_an_older_judgment(make_world):
    """The owner wakes while a sweeper is between its claim and the ledger: it renews before it looks."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(slow, principal)
    await stops_to_renew(slow, world)
    await sweep_by_hand(slow)
    lost = world.engine.peers.lost([slow.engine.gateway_id])[slow.engine.gateway_id]
    await claim(world, hold)
    await slow.engine.recovery.sweep(partition_of(slow))
    assert await state_of(world, principal, hold) == HELD
    assert await write_expired(world.database, lost, [debit(hold.id, principal, outcome="expired")]) is None
    await settle(slow, principal, hold)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {hold.id: 500}


async def eventually_set(event: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await event.wait()


async def test_a_claimed_hold_is_settled_the_ledgers_way_though_nothing_was_decided(make_world):
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(slow, principal)
    await claim(world, hold)
    assert (await settle(slow, principal, hold)).available_nano is None
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {hold.id: 500}
    assert await world.journal(principal.account_id) == {}


async def test_a_claimed_hold_that_is_voided_is_given_back(make_world, monkeypatch):
    """Redis says that there is no such hold; the owner's sweep takes it back first."""
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", -60_000)
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(slow, principal)
    await claim(world, hold)
    await slow.engine.holds.void(hold)
    assert await state_of(world, principal, hold) == CLAIMED

    async def is_gone():
        await slow.engine.recovery.sweep(partition_of(slow))
        return await state_of(world, principal, hold) is None

    await eventually(is_gone)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {}
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 0


async def test_nobody_but_its_owner_ends_a_claimed_hold_of_a_living_gateway(make_world):
    world, owner = await make_world(), await make_world()
    await owner.engine.loops.stop("sweep")
    principal = await world.customer()
    hold = await hold_one(owner, principal)
    await claim(world, hold)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 0
    assert await state_of(world, principal, hold) == CLAIMED
    await owner.engine.recovery.sweep(partition_of(owner))
    assert await state_of(world, principal, hold) == HELD
    await settle(owner, principal, hold)
    await assert_agreed(world, principal.account_id)


async def test_a_claim_is_not_taken_back_late(make_world, monkeypatch):
    """A command that was held up somewhere must not undo what another gateway has claimed since."""
    world, owner = await make_world(), await make_world()
    await owner.engine.loops.stop("sweep")
    principal = await world.customer()
    hold = await hold_one(owner, principal)
    await claim(world, hold)
    monkeypatch.setattr(recovery, "RECLAIM_WITHIN_MS", -60_000)
    await owner.engine.recovery.sweep(partition_of(owner))
    assert await state_of(world, principal, hold) == CLAIMED


async def test_the_ledger_did_not_answer_and_a_later_sweep_ends_the_hold(make_world):
    world, dead = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(dead, principal)
    await sweep_by_hand(world)
    await kill(dead)
    await renew_leases(world)
    transaction = world.database.transaction

    def away(**_):
        raise DatabaseUnavailable("Postgres is away")

    world.database.transaction = away
    with pytest.raises(DatabaseUnavailable):
        await world.engine.recovery.sweep(partition_of(world))
    world.database.transaction = transaction
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 1
    assert await debits(world) == {hold.id: 0}
    await assert_agreed(world, principal.account_id)


async def test_all_gateways_frozen_at_once_take_nothing_from_one_another(make_world):
    """For longer than a lease: their clocks go on, and they have not looked meanwhile."""
    worlds = [await make_world() for _ in range(2)]
    principal = await worlds[0].customer(10**9)
    holds = [await hold_one(world, principal) for world in worlds]
    for world in worlds:
        await world.engine.lease.stop()
        clock = world.engine.peers.clock
        world.engine.peers.clock = lambda clock=clock: clock() + 10 * LEASE_S
    for _ in range(2):
        for world in worlds:
            assert (await world.engine.recovery.sweep(partition_of(world))).expired == 0
        await worlds[0].engine.lease.renew()  # it wakes first
    for world, hold in zip(worlds, holds, strict=True):
        await settle(world, principal, hold)
    await assert_agreed(worlds[0], principal.account_id)
    assert await debits(worlds[0]) == {hold.id: 500 for hold in holds}


async def test_a_lost_gateway_is_not_waited_for_when_an_epoch_opens(make_world):
    world, slow = await make_world(), await make_world()
    names = {each.engine.gateway_id for each in (world, slow)}
    assert set(await world.engine.peers.living()) == names
    await stops_to_renew(slow, world)
    assert set(await world.engine.peers.living()) == {world.engine.gateway_id}
    await slow.engine.lease.renew()
    assert set(await world.engine.peers.living()) == names


async def renewed(world: World) -> Callable[[], Awaitable[bool]]:
    before = await lease_of(world)

    async def is_renewed() -> bool:
        return await lease_of(world) != before

    return is_renewed


async def test_the_lease_is_kept_though_the_event_loop_is_busy_and_the_pool_used_up(world):
    lease, bound_s = world.engine.lease, time.monotonic() + 60
    async with world.database.connection(), world.database.connection(), world.database.connection():
        before, count = await lease_of(world), lease.renewals  # on the last connection that the pool has
        while lease.renewals == count and time.monotonic() < bound_s:  # nothing else runs in this loop meanwhile
            sum(range(10_000))
        assert await lease_of(world) != before


async def test_a_process_whose_event_loop_is_dead_does_not_live_for_ever(world, caplog):
    lease = world.engine.lease
    await lease.stop()
    before = await lease_of(world)
    lease._turned_s = time.monotonic()
    lease._ticked_s = time.monotonic() - 30.1
    await lease._turn(world.database.rows)
    assert await lease_of(world) == before
    assert "the event loop has stood still for 30 s" in caplog.text
    lease._ticked_s = time.monotonic()
    await lease._turn(world.database.rows)
    assert await lease_of(world) != before
    assert "the event loop goes on" in caplog.text


async def test_a_process_that_stood_still_renews_as_soon_as_it_goes_on(world):
    """Its loop has not ticked, but neither has the thread had its turns."""
    lease = world.engine.lease
    await lease.stop()
    before = await lease_of(world)
    for name in ("_ticked_s", "_turned_s"):
        setattr(lease, name, time.monotonic() - 60.0)
    await lease._turn(world.database.rows)
    assert await lease_of(world) != before


async def test_a_lease_that_fails_for_whatever_reason_is_kept_on(world):
    broken = world.engine.lease._turn

    async def fails(_):
        world.engine.lease._turn = broken
        raise ZeroDivisionError("a fault in the program")

    world.engine.lease._turn = fails

    async def is_counted():
        return world.engine.loops.failures["lease"] == 1

    await eventually(is_counted)
    await eventually(await renewed(world))


async def test_the_lease_is_kept_whatever_the_relay_waits_for(world):
    """Redis may answer slowly and changes be many: a gateway that lives is not taken for dead."""
    stuck = asyncio.Event()

    async def relay():
        stuck.set()
        await asyncio.Event().wait()

    world.engine.change_notifier.relay = relay
    world.engine.pending.changes.set()
    await eventually_set(stuck)
    await eventually(await renewed(world))


async def test_a_lease_has_another_value_though_postgres_clock_stands_still(world):
    await world.engine.lease.stop()
    values = []
    async with world.database.transaction() as connection:  # in which now() stands still
        for _ in range(5):
            rows = await renew_lease(connection.fetch, world.engine.gateway_id, LEASE_S, STATE_VERSION)
            values.append(rows[0].value)
    assert all(first != second for first, second in pairwise(values))


async def test_leases_that_ended_long_ago_are_forgotten(world):
    insert = "INSERT INTO gateways (id, lease_until, ended_at) VALUES ($1, now() - $2 * interval '1 minute', now())"
    await world.database.execute(insert, "old", 0)
    await world.database.execute("UPDATE gateways SET ended_at = now() - interval '2 hours' WHERE id = 'old'")
    await world.database.execute(insert, "recent", 0)
    await world.database.execute(insert, "ending", 0)
    await end_lease(world.database, "ending")
    found = await world.database.rows("SELECT id FROM gateways ORDER BY id")
    assert {row["id"] for row in found} == {"recent", "ending", world.engine.gateway_id}


async def test_what_a_gateway_that_ended_left_is_swept_at_once(make_world, monkeypatch):
    """Its debits and its holds: nobody waits for an age or for a lease, as soon as somebody has seen it end."""
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", 10**9)
    world, dead = await make_world(), await make_world()
    world.engine.peers.clock = lambda: 0.0  # by this clock no lease has ever lapsed
    principal = await world.customer(10**9)
    dead.engine.outbox._writing = asyncio.Lock()
    async with dead.engine.outbox._writing:  # it dies before it writes
        spent = await spend(dead, principal)
        hold = await hold_one(dead, principal)
        await kill(dead)

    await eventually(lambda: are_written(world, 2))
    assert await debits(world) == {spent: 500, hold.id: 0}
    await assert_agreed(world, principal.account_id)


async def test_a_gateway_that_starts_writes_what_the_one_before_left(make_world, monkeypatch):
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", 10**9)
    dead = await make_world()
    principal = await dead.customer(10**9)
    dead.engine.outbox._writing = asyncio.Lock()
    async with dead.engine.outbox._writing:
        spent = await spend(dead, principal)
        await kill(dead)
    world = await make_world()
    await eventually(lambda: are_written(world, 1))
    assert await debits(world) == {spent: 500}


async def are_written(world: World, count: int) -> bool:
    return bool(await world.database.value("SELECT count(*) FROM usage_events") == count)


JUDGED_S = 5.0
JUDGED_FROM = datetime(2026, 1, 1, tzinfo=UTC)


class Watch:
    """Peers with a clock by hand, fed with leases by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.peers = Peers(Database("postgresql:///nowhere"), "own", JUDGED_S, lambda: self.now_s)

    def look(self, took_s: float = 0.0, **leases: int | None) -> None:
        """Look now; each lease's value is a number, None where its gateway has ended."""
        begun_s, self.now_s = self.now_s, self.now_s + took_s
        rows = [
            LeaseRow(name, JUDGED_FROM + timedelta(seconds=value or 0), value is None) for name, value in leases.items()
        ]
        self.peers.saw(begun_s, [LeaseRow("own", JUDGED_FROM, False), *rows])

    def look_for(self, seconds: float, **leases: int | None) -> None:
        """Each second, until so many have passed."""
        for _ in range(int(seconds)):
            self.now_s += 1.0
            self.look(**leases)

    def lost(self, *names: str) -> set[str]:
        return set(self.peers.lost(names or ("a", "b")))


class TestJudgment:
    def test_a_lease_that_changes_is_alive_and_one_that_stands_is_not(self):
        watch = Watch()
        watch.look(a=0, b=0)
        for value in range(1, 5):
            watch.look_for(1, a=value, b=0)
            assert watch.lost() == set()
        watch.look_for(1, a=5, b=0)
        assert watch.lost() == {"b"}
        watch.look_for(1, a=6, b=1)
        assert watch.lost() == set()

    def test_what_a_lease_says_is_of_no_matter(self):
        """A Postgres whose clock is a day ahead, or goes back."""
        watch = Watch()
        for value in (0, 86_400, 86_401, -5, 7, 6, 5, 4):
            watch.look(a=value)
            watch.now_s += 1.0
        assert watch.lost() == set()

    def test_who_has_just_begun_judges_nobody(self):
        watch = Watch()
        assert watch.lost() == set()
        watch.look(a=0)
        watch.now_s += 1.0
        assert watch.lost() == set()

    def test_a_gap_of_its_own_begins_all_judgments_anew(self):
        """It was frozen, or Postgres was away for everybody."""
        watch = Watch()
        watch.look(a=0)
        watch.look_for(4, a=0)
        watch.now_s += JUDGED_S * GAP_SHARE + 0.1
        watch.look(a=0)
        assert watch.lost() == set()
        watch.look_for(4, a=0)
        assert watch.lost() == set()
        watch.look_for(1, a=0)
        assert watch.lost() == {"a"}

    def test_who_has_not_looked_of_late_judges_nobody(self):
        watch = Watch()
        watch.look(a=0)
        watch.look_for(6, a=0)
        assert watch.lost() == {"a"}
        watch.now_s += JUDGED_S * GAP_SHARE + 0.1
        assert watch.lost() == set()

    def test_a_slow_look_shortens_what_was_seen(self):
        watch = Watch()
        watch.look(2.0, a=0)  # read at the beginning or at the end, who knows
        watch.look_for(4, a=0)
        watch.look(1.0, a=0)
        assert watch.lost() == set()
        watch.look_for(1, a=0)
        assert watch.lost() == {"a"}

    def test_whoever_has_ended_is_lost_at_once(self):
        watch = Watch()
        watch.look(a=0, b=0)
        assert watch.peers.saw_end("a")
        assert not watch.peers.saw_end("a")
        assert watch.lost() == {"a"}
        watch.look(a=1, b=1)  # it renews: it lives after all
        assert watch.lost() == set()

    def test_a_gateway_without_a_lease_is_watched_first(self):
        """Postgres may have been restored from a backup: a gateway that lives renews, and is there again."""
        watch = Watch()
        watch.look()
        assert watch.lost("a") == set()
        watch.look_for(4)
        assert watch.lost("a") == set()
        watch.look_for(2)
        assert watch.peers.lost(["a"]) == {"a": Lost("a", None)}
        watch.look_for(1, a=1)
        assert watch.lost("a") == set()

    def test_nobody_judges_itself(self):
        watch = Watch()
        watch.look()
        watch.look_for(20)
        assert watch.lost("own") == set()
