"""What dead and slow gateways leave behind: every hold ends once, every debit is written once."""

import asyncio
import struct

import pytest
from ulid import ULID

from billing.holds import recovery
from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, SettlementLost
from billing.holds.redis.layout import CLAIMED, HELD, SETTLED, VERSION, pack_text
from billing.ledger.debits import encode_debit
from billing.ledger.writer import write_debits
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    World,
    assert_agreed,
    debit,
    debits,
    entries,
    eventually,
    hold_one,
    hold_request,
    kill,
    ledger_balance,
    need,
    partition_of,
    renew_leases,
    settle,
    spend,
    stops_to_renew,
    sweep_by_hand,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
MINUTE_REQUESTS = Quota(Window.total, Metric.requests, 10**6)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind is taken for left behind at once."""
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", -60_000)
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", -60_000)


async def test_the_debits_of_a_dead_gateway_are_written_once_by_whoever_finds_them(make_world):
    dead, *others = [await make_world() for _ in range(3)]
    principal = await dead.customer(10**9, key_quotas=(DAY_TOKENS,))
    dead.engine.outbox._writing = asyncio.Lock()
    async with dead.engine.outbox._writing:  # it dies before it writes
        spent = [await spend(dead, principal) for _ in range(5)]
        await sweep_by_hand(*others)
        await kill(dead)
    await renew_leases(*others)
    swept = await asyncio.gather(*(world.engine.recovery.sweep(partition_of(world)) for world in others))
    assert max(found.settled for found in swept) == 5
    assert await debits(others[0]) == dict.fromkeys(spent, 500)
    assert await others[0].journal(principal.account_id) == {}
    rows = await others[0].database.rows("SELECT dseq, xseq FROM usage_events ORDER BY dseq")
    assert [tuple(row) for row in rows] == [(dseq, None) for dseq in range(1, 6)]
    await assert_agreed(others[0], principal.account_id)


@pytest.mark.parametrize(("expired_hold", "charged"), [("void", 0), ("input", 100)])
async def test_the_hold_of_a_dead_gateway_expires(make_world, expired_hold, charged):
    settings = EngineSettings(expired_hold=expired_hold)
    dead, *others = [await make_world(settings) for _ in range(3)]
    principal = await dead.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(MINUTE_REQUESTS,))
    hold = await hold_one(dead, principal)
    await sweep_by_hand(*others)
    await kill(dead)
    await renew_leases(*others)
    swept = await asyncio.gather(*(world.engine.recovery.sweep(partition_of(world)) for world in others))
    assert max(found.expired for found in swept) == 1
    assert await debits(others[0]) == {hold.id: charged}
    (row,) = await others[0].database.rows("SELECT outcome, note, input_tokens, admitted_at FROM usage_events")
    assert (row["outcome"], row["note"].startswith("the gateway was lost"), row["input_tokens"]) == (
        "expired",
        True,
        10 if charged else 0,
    )
    assert int(row["admitted_at"].timestamp() * 1000) == hold.admitted_at_ms
    assert await others[0].journal(principal.account_id) == {}
    (counter,) = (await others[0].key_state(principal)).counters
    assert counter.taken == (15 if charged else 0)
    (counter,) = (await others[0].account_state(principal.account_id)).counters
    assert counter.taken == (1 if charged else 0)
    await assert_agreed(others[0], principal.account_id)


async def test_living_gateways_keep_their_holds(make_world):
    worlds = [await make_world() for _ in range(2)]
    principal = await worlds[0].customer()
    holds = [await hold_one(world, principal) for world in worlds]
    for world in worlds:
        swept = await world.engine.recovery.sweep(partition_of(world))
        assert (swept.expired, swept.voided) == (0, 0)
    assert {entry.state for entry in (await entries(worlds[0], principal.account_id)).values()} == {HELD}
    for world, hold in zip(worlds, holds, strict=True):
        await settle(world, principal, hold)
    await assert_agreed(worlds[0], principal.account_id)


async def test_a_gateway_that_starts_during_a_sweep_keeps_its_first_hold(make_world):
    world = await make_world()
    principal = await world.customer()
    begun = []
    scan = world.link.scan_hash

    async def scan_late(key, count):
        if not begun:
            begun.append((await hold_one(await make_world(), principal)).id)
        async for found in scan(key, count):
            yield found

    world.link.scan_hash = scan_late
    swept = await world.engine.recovery.sweep(partition_of(world))
    assert begun
    assert swept.expired == 0


async def test_a_sweep_that_is_for_debits_alone_judges_nobody(make_world):
    world, other = await make_world(), await make_world()
    principal = await world.customer()
    await hold_one(other, principal)
    await stops_to_renew(other, world)
    assert (await world.engine.recovery.sweep(partition_of(world), others=False)).expired == 0


async def test_a_gateway_slower_than_its_lease_learns_that_its_hold_had_expired(make_world):
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(slow, principal)
    await stops_to_renew(slow, world)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 1
    with pytest.raises(SettlementLost):
        await settle(slow, principal, hold)
    assert await debits(world) == {hold.id: 0}
    assert slow.engine.holds.live == {}
    await assert_agreed(world, principal.account_id)


async def test_a_claimed_hold_that_the_ledger_has_settled_is_charged_once(make_world):
    """Its owner wrote to the ledger directly while another gateway took it for dead."""
    world, slow = await make_world(), await make_world()
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(slow, principal)
    partition = partition_of(world)
    keys = [world.keys.meta(0), world.keys.journal(0)]
    reply = await world.link.call(world.engine.recovery.expiry._claim, keys, [partition.epoch or 0, hold.id])
    assert reply[0] == 0
    assert (await entries(world, principal.account_id))[hold.id].state == CLAIMED
    await settle(slow, principal, hold)

    async def ended():
        return await world.journal(principal.account_id) == {}

    await eventually(ended)
    assert await debits(world) == {hold.id: 500}
    (counter,) = (await world.key_state(principal)).counters
    assert counter.taken == 15
    await assert_agreed(world, principal.account_id)


async def test_own_holds_that_nobody_knows_of_are_given_back(world):
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(world, principal)
    world.engine.holds.live.clear()
    assert (await world.engine.recovery.sweep(partition_of(world))).voided == 1

    async def is_gone():
        return hold.id not in await entries(world, principal.account_id)

    await eventually(is_gone)
    assert await debits(world) == {}
    await assert_agreed(world, principal.account_id)


async def test_an_own_hold_that_the_ledger_has_settled_is_ended_by_that_and_never_given_back(world, monkeypatch):
    """Redis did not answer, the debit went to Postgres, and Redis has the hold still: given back before it is told, it
    would make room in windows for a request too many."""
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,), quotas=(MINUTE_REQUESTS,))
    hold = await hold_one(world, principal)
    await write_debits(world.database, [debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms)])
    del world.engine.holds.live[hold.id]

    async def not_now(*_):
        return False

    with monkeypatch.context() as patched:
        patched.setattr(world.engine.corrections, "sync", not_now)
        assert (await world.engine.recovery.sweep(partition_of(world))).voided == 0
        assert (await entries(world, principal.account_id))[hold.id].state == HELD
    await world.engine.recovery.sweep(partition_of(world))

    async def ended():
        return await entries(world, principal.account_id) == {}

    await eventually(ended)
    assert await debits(world) == {hold.id: 500}
    await assert_agreed(world, principal.account_id)


async def leave_settled(world: World, principal: Principal, count: int) -> None:
    """A journal as a dead gateway leaves it after a long absence of Postgres."""
    epoch, now_ms = partition_of(world).epoch or 0, partition_of(world).now_ms()
    rows: list[bytes] = []
    for dseq in range(1, count + 1):
        request_id = str(ULID())
        payload = encode_debit(debit(request_id, principal, admitted_at_ms=now_ms))
        head = struct.pack("<BBIqq", VERSION, SETTLED, epoch, now_ms, dseq)
        rows += [request_id.encode(), head + pack_text(principal.account_id) + payload]
    for start in range(0, len(rows), 2000):
        await world.link.command("HSET", world.keys.journal(0), *rows[start : start + 2000])


async def test_a_long_backlog_is_swept_in_batches(world, principal):
    """More than one script call can unpack (8,000 values)."""
    await hold_one(world, principal)
    await leave_settled(world, principal, 9000)
    await world.engine.recovery.sweep(partition_of(world))

    async def written():  # the engine's own round may have taken a part of it
        return bool(await world.database.value("SELECT count(*) = 9000 FROM usage_events"))

    await eventually(written)
    assert {entry.state for entry in (await entries(world, principal.account_id)).values()} == {HELD}
    assert await ledger_balance(world, principal.account_id) == 10**9 - 9000 * 500


async def test_a_debit_that_postgres_refuses_leaves_the_journal_and_blocks_nobody(world, principal):
    good = await spend(world, principal)
    bad = await spend(world, principal, status=2**40)
    await world.engine.outbox.flush()
    assert await debits(world) == {good: 500}
    assert await world.database.value("SELECT request_id FROM debits_set_aside") == bad
    assert await world.journal(principal.account_id) == {}
    await world.accounts.set_quotas(principal.account_id, (DAY_TOKENS,))
    (counter,) = (await world.account_state(principal.account_id)).counters
    assert not counter.pending
    assert await hold_one(world, await fresh(world, principal))


async def fresh(world: World, principal: Principal) -> Principal:
    """The principal as it is now."""
    row = await world.database.row("SELECT secret_sha256 FROM api_keys WHERE id = $1", principal.key_id)
    found = await world.engine.cache.reload(row["secret_sha256"])
    assert found is not None
    return found


async def test_a_new_epoch_opens_with_what_a_journal_that_came_back_has_settled(make_world):
    """Its gateway may be gone: a balance loaded without these debits could be spent twice."""
    first = await make_world(EngineSettings(ledger_flush_s=60.0))
    principal = await first.customer(10**9)
    request_id = str(ULID())
    async with first.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        await first.engine.holds.settle(hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms))
    assert len(first.engine.outbox) == 1
    second = await make_world()
    partition = second.engine.partitions.of(principal.account_id)
    await second.engine.partitions.renew(partition)
    epoch = await second.engine.partitions.ensure(partition)
    assert await second.engine.epoch_start.prepare(partition, epoch) == frozenset()
    assert await second.database.value("SELECT balance_nano FROM accounts") == 10**9 - 500


async def test_a_lost_hold_whose_row_the_ledger_refuses_is_set_aside_once_and_given_back(make_world):
    """Its money and its place among those that run are not eaten for ever, and the alarm is not repeated."""
    dead, world = await make_world(), await make_world()
    principal = await dead.customer(10**9, key_quotas=(DAY_TOKENS,))
    refused = debit(str(ULID()), principal, tags="no JSON")
    held = [
        await dead.engine.holds.admissions.admit(hold_request(each.request_id, principal, need(), each))
        for each in (refused, debit(str(ULID()), principal))
    ]
    assert all(isinstance(hold, Hold) for hold in held)
    await sweep_by_hand(world)
    await kill(dead)
    await renew_leases(world)
    await world.engine.recovery.sweep(partition_of(world))
    assert await world.journal(principal.account_id) == {}
    assert await world.database.value("SELECT array_agg(request_id) FROM debits_set_aside") == [refused.request_id]
    state = await world.account_state(principal.account_id)
    assert (state.held_nano, state.running) == (0, 0)


async def test_what_was_settled_by_a_clock_ahead_is_swept_when_that_is_right_again(world, monkeypatch):
    """Redis was 20 minutes ahead: what was not acknowledged then does not stay for so long."""
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", 3000)
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", 5000)
    principal = await world.customer(10**9)
    await hold_one(world, principal)
    await sweep_by_hand(world)
    ahead = partition_of(world).clock_offset_ms + 20 * 60_000
    with monkeypatch.context() as patched:
        patched.setattr(partition_of(world), "clock_offset_ms", ahead, raising=False)
        await leave_settled(world, principal, 1)
    assert (await world.engine.recovery.sweep(partition_of(world))).settled == 1
