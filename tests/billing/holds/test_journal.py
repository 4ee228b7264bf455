"""Entries stand alone: whatever lies in the journal, it stops nothing, and what may be a debit is kept."""

import asyncio
import logging
import struct

import msgspec
import pytest
from ulid import ULID

from billing.holds import recovery
from billing.holds.recovery import debit_of_entry
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import CLAIMED, HELD, OF_USER, SETTLED, VERSION, Entry, HoldTags, pack_hold, pack_text
from billing.ledger.debits import NewerLayout, Unreadable, encode_debit
from billing.ledger.verify import verify
from billing.ledger.writer import discard, list_dead_letters, replay
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    World,
    assert_agreed,
    debit,
    debits,
    eventually,
    hold_one,
    joined,
    kill,
    partition_of,
    renew_leases,
    settle,
    spend,
    sweep_by_hand,
)

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)
GATEWAY = "a gateway that is gone"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind is taken for left behind at once."""
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", -60_000)
    monkeypatch.setattr(recovery, "ORPHAN_AGE_MS", -60_000)


def settled_entry(world: World, principal: Principal, payload: bytes, *, version: int = VERSION) -> bytes:
    epoch, now_ms = partition_of(world).epoch or 0, partition_of(world).now_ms()
    return struct.pack("<BBIqq", version, SETTLED, epoch, now_ms, 1) + pack_text(principal.account_id) + payload


def held_entry(world: World, principal: Principal, payload: bytes) -> bytes:
    names = (principal.account_id, principal.key_id, "demo", "llm", GATEWAY)
    epoch, now_ms = partition_of(world).epoch or 0, partition_of(world).now_ms()
    return pack_hold(epoch, now_ms, (7, 1, 1), b"".join(map(pack_text, names)), HoldTags(), payload)


def garbage(world: World, principal: Principal) -> dict[bytes, bytes]:
    """Everything that an entry must not be."""
    good = encode_debit(debit(str(ULID()), principal))
    settled, held = settled_entry(world, principal, good), held_entry(world, principal, good)
    bad = [b"", b"\0", b"text", b"some text that is longer than any head of an entry would ever be", b"\xff" * 100]
    bad += [bytes((0, each)) + settled[2:] for each in (SETTLED, HELD)]
    bad += [bytes((1, 99)) + settled[2:], settled[:5], settled[:14], settled[:20], settled[:25], settled[:60]]
    bad += [held[:2], held[:13], held[:30], held[:38], held[:39], held[:45], held[:80], held[: -len(good) - 1]]
    bad += [settled_entry(world, principal, payload) for payload in (b"", b"\x90", b"not a debit", good[:-9])]
    found = {str(ULID()).encode(): raw for raw in bad}
    found[b"\xff\xfe"] = settled
    found[b"a name that is none"] = settled
    return found


async def put(world: World, principal: Principal, found: dict[bytes, bytes]) -> None:
    name = world.keys.journal(world.keys.partition_of(principal.account_id))
    await world.link.command("HSET", name, *(part for pair in found.items() for part in pair))


async def test_no_garbage_stops_the_sweep(make_world, caplog):
    dead, world = await make_world(), await make_world()
    principal = await dead.customer(10**9, key_quotas=(DAY_TOKENS,))
    hold = await hold_one(dead, principal)
    dead.engine.outbox._writing = asyncio.Lock()
    async with dead.engine.outbox._writing:
        spent = await spend(dead, principal)
        await sweep_by_hand(world)
        await kill(dead)
    await renew_leases(world)
    bad = garbage(world, principal)
    await put(world, principal, bad)
    with caplog.at_level(logging.CRITICAL):
        swept = await world.engine.recovery.sweep(partition_of(world))
        await world.engine.recovery.sweep(partition_of(world))
    assert swept.settled == 1
    assert await debits(world) == {spent: 500, hold.id: 0}
    rows = await world.database.rows("SELECT kind, debit FROM debits_set_aside")
    assert sorted(row["debit"] for row in rows) == sorted(bad.values())
    assert {row["kind"] for row in rows} == {"entry"}
    assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == len(bad)
    assert await world.journal(principal.account_id) == {}
    await assert_agreed(world, principal.account_id)


async def test_no_garbage_stops_an_epoch_admission_or_reconciling(world):
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    running = await hold_one(world, principal)
    await put(world, principal, garbage(world, principal))
    partition = partition_of(world)
    assert (await world.engine.reconciler.run()).drifts == ()
    await world.engine.partitions.renew(partition)

    async def is_open():
        return await joined(world)

    await eventually(is_open)
    await settle(world, principal, running)
    await world.accounts.set_quotas(principal.account_id, (DAY_TOKENS,))
    row = await world.database.row("SELECT secret_sha256 FROM api_keys WHERE id = $1", principal.key_id)
    now = await world.engine.cache.reload(row["secret_sha256"])
    assert now is not None
    spent = await spend(world, now)
    await world.engine.recovery.sweep(partition)
    assert await debits(world) == {running.id: 500, spent: 500}
    await assert_agreed(world, principal.account_id)


async def test_a_spoilt_hold_fails_its_own_request_alone(world):
    """In one call to Redis with others: they are settled, and its own debit goes to Postgres."""
    principal = await world.customer(10**9, key_quotas=(DAY_TOKENS,))
    holds = [await hold_one(world, principal) for _ in range(12)]
    spoilt = holds[1::2]
    entry = (await world.journal(principal.account_id))[holds[0].id_bytes]
    cuts = [1, 5, 13, 40, 60, len(entry) - len(holds[0].payload) - 2]
    await put(world, principal, {each.id_bytes: entry[:cut] for each, cut in zip(spoilt, cuts, strict=True)})
    await asyncio.gather(*(settle(world, principal, hold) for hold in holds))
    await world.engine.outbox.flush()
    assert await debits(world) == dict.fromkeys([hold.id for hold in holds], 500)
    await world.engine.recovery.sweep(partition_of(world))
    await world.engine.reconciler.fix()
    partition = partition_of(world)

    async def is_open():
        return await joined(world)

    await eventually(is_open)
    await world.engine.loader.install(partition, principal.account_id, principal.key_id)
    await assert_agreed(world, principal.account_id)


async def test_a_hold_of_a_dead_gateway_whose_debit_cannot_be_read_is_given_back(make_world):
    dead, world = await make_world(), await make_world()
    principal = await dead.customer(10**9)
    hold = await hold_one(dead, principal)
    entry = (await dead.journal(principal.account_id))[hold.id_bytes]
    await put(dead, principal, {hold.id_bytes: entry[: -len(hold.payload)] + b"spoilt"})
    await sweep_by_hand(world)
    await kill(dead)
    await renew_leases(world)
    assert (await world.engine.recovery.sweep(partition_of(world))).expired == 1
    assert await debits(world) == {hold.id: 0}
    assert await world.journal(principal.account_id) == {}
    assert (await verify(world.database)).ok
    await assert_agreed(world, principal.account_id)


async def test_an_entry_of_a_newer_release_is_left_to_it_for_a_while(world, principal, monkeypatch):
    fields = msgspec.msgpack.decode(encode_debit(debit(str(ULID()), principal)))
    layout = msgspec.msgpack.encode([*fields[:34], 3, None, "and more"])
    newer = {
        str(ULID()).encode(): settled_entry(world, principal, b"whatever it says", version=OF_USER + 1),
        str(ULID()).encode(): settled_entry(world, principal, layout),
    }
    await put(world, principal, newer)
    spent = await spend(world, principal)
    await world.engine.recovery.sweep(partition_of(world))
    assert await debits(world) == {spent: 500}
    assert await world.journal(principal.account_id) == newer
    assert await world.database.value("SELECT count(*) FROM debits_set_aside") == 0
    monkeypatch.setattr(recovery, "LEFT_TO_OTHERS_MS", -1)
    await world.engine.recovery.sweep(partition_of(world))
    assert await world.journal(principal.account_id) == {}
    assert await world.database.value("SELECT count(*) FROM debits_set_aside") == 2


async def test_holds_that_a_newer_release_claims_and_corrects_are_its_own(world, principal):
    """Scripts of this release neither claim nor end what they can't read."""
    hold = await hold_one(world, principal)
    entry = (await world.journal(principal.account_id))[hold.id_bytes]
    await put(world, principal, {hold.id_bytes: bytes((OF_USER + 1,)) + entry[1:]})
    partition, keys = partition_of(world), [world.keys.meta(0), world.keys.journal(0)]
    assert await world.link.call(Script("claim"), keys, [partition.epoch or 0, hold.id]) == [2]
    await settle(world, principal, hold)  # Redis does not know it: by a direct ledger write
    before = await world.account_state(principal.account_id)
    assert not await world.engine.corrections.sync(partition, principal.account_id)
    after = await world.account_state(principal.account_id)
    assert (after.balance_nano, after.held_nano, after.xseq) == (before.balance_nano, before.held_nano, before.xseq)
    await put(world, principal, {hold.id_bytes: entry})
    assert await world.engine.corrections.sync(partition, principal.account_id)
    await assert_agreed(world, principal.account_id)


async def test_what_was_set_aside_is_written_once_it_can_be_read(world, principal):
    """By a release that can: the same command, done twice, writes it once."""
    ids = [str(ULID()) for _ in range(2)]
    now_ms = partition_of(world).now_ms()
    made = [debit(each, principal, admitted_at_ms=now_ms) for each in ids]
    settled = settled_entry(world, principal, encode_debit(made[0]))
    held = held_entry(world, principal, encode_debit(made[1]))
    insert = "INSERT INTO debits_set_aside (request_id, kind, debit, reason) VALUES ($1, 'entry', $2, 'a test')"
    for request_id, raw in ((ids[0], settled), (ids[1], held), ("none", b"garbage")):
        await world.database.execute(insert, request_id, raw)
    listed = await list_dead_letters(world.database, debit_of_entry, 10)
    assert [each.debit is not None for each in listed] == [True, True, False]
    for expected in ({ids[0]: "written", ids[1]: "written", "none": "unreadable"}, {"none": "unreadable"}):
        done = [each async for each in replay(world.database, debit_of_entry)]
        assert {each.request_id: each.result for each in done} == expected
    assert await debits(world) == {ids[0]: 500, ids[1]: 0}


async def test_bytes_under_one_name_are_all_kept_and_go_where_the_ledger_knows_the_request(world, principal):
    spent, name = await spend(world, principal), str(ULID())
    await world.engine.outbox.flush()
    for found in ({name.encode(): b"one"}, {name.encode(): b"two"}, {spent.encode(): b"three"}):
        await put(world, principal, found)
        await world.engine.recovery.sweep(partition_of(world))
    rows = await world.database.rows("SELECT request_id, debit FROM debits_set_aside")
    assert sorted(row["debit"] for row in rows) == [b"one", b"three", b"two"]
    done = {each.request_id: each.result async for each in replay(world.database, debit_of_entry)}
    assert done.pop(spent) == "known"
    assert set(done.values()) == {"unreadable"}
    assert await debits(world) == {spent: 500}
    (first, *_) = sorted(done)
    assert await discard(world.database, first)
    assert not await discard(world.database, first)
    assert await world.database.value("SELECT count(*) FROM debits_set_aside") == 1
    assert await world.database.value("SELECT before->>'debit' FROM audit_log WHERE action = 'debit.discard'") in (
        b"one".hex(),
        b"two".hex(),
    )


def test_what_is_no_entry_is_told_from_what_a_newer_release_wrote():
    good = struct.pack("<BBIqq", VERSION, SETTLED, 1, 2, 3) + pack_text("acc") + b"payload"
    assert Entry.unpack(good) == Entry(SETTLED, 1, 2, "acc", b"payload", dseq=3)
    with pytest.raises(NewerLayout):
        Entry.unpack(bytes((OF_USER + 1,)) + good[1:])
    for bad in (b"", b"\x02", good[:13], good[:21], good[:24], b"\0" + good[1:], bytes((VERSION, 1)) + good[2:]):
        with pytest.raises(Unreadable):
            Entry.unpack(bad)
    held = pack_hold(1, 2, (3, 4, 5), b"".join(map(pack_text, "akmfg")), HoldTags([1], [2, 3]), b"")
    for cut in range(len(held)):
        with pytest.raises(Unreadable):
            Entry.unpack(held[:cut])
    assert Entry.unpack(held[:1] + bytes((CLAIMED,)) + held[2:]).state == CLAIMED
