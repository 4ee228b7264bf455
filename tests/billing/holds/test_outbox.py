"""Debits on their way to Postgres: one that always fails delays no other, and is logged once."""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest
from ulid import ULID

from billing import wal_segment
from billing.database.connection import DatabaseUnavailable
from billing.holds import debit_writer, outbox
from billing.holds.engine import EngineSettings
from billing.holds.model import HoldSettings
from billing.holds.outbox import Spool, left_behind, read_debits
from billing.ledger.debits import Debit
from billing.ledger.writer import write_batch
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from billing.wal_segment import taken
from tests.support.holds import (
    World,
    assert_agreed,
    debit,
    debits,
    delete,
    entries,
    eventually,
    hold_one,
    joined,
    keys_in_redis,
    kill,
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


async def test_a_debit_that_always_fails_keeps_nobody_waiting(world, monkeypatch, caplog):
    """By an error that is not the debit's own, so that it is not set aside: the others are written around it."""
    monkeypatch.setattr(debit_writer, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(debit_writer, "MOST_RETRY_S", 0.02)
    principal = await world.customer(10**9)
    await world.database.execute(FAILING.format(condition="NEW.model = 'poison'"))
    spent = [await spend(world, principal) for _ in range(10)]
    poison = await spend(world, principal, model="poison")
    spent += [await spend(world, principal) for _ in range(10)]

    async def others_are_written():
        return bool(await world.database.value("SELECT count(*) = 20 FROM usage_events"))

    with caplog.at_level(logging.WARNING):
        await eventually(others_are_written)

        async def only_it_waits():
            return [debit.request_id for debit in world.engine.outbox.waiting] == [poison]

        await eventually(only_it_waits)
        spent.append(await spend(world, principal))

        async def the_next_is_written():
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

    async def its_new_quota_counts():
        counters = (await world.account_state(other.account_id)).counters
        return [(counter.pending, counter.taken) for counter in counters] == [(False, 1)]

    await eventually(its_new_quota_counts)
    await world.database.execute(MENDED)

    async def all_is_written():
        return len(world.engine.outbox) == 0 and not world.engine.outbox.hindered

    await eventually(all_is_written)
    assert await debits(world) == dict.fromkeys([*spent, poison], 500)
    assert await world.database.value("SELECT count(*) FROM debits_set_aside") == 0
    await assert_agreed(world, principal.account_id)


async def test_a_debit_that_always_fails_keeps_nobody_waiting_on_the_ledgers_own_way(make_world, monkeypatch):
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

    async def is_open():
        return await joined(world)

    await eventually(is_open)
    await hold_one(world, principal)  # which loads the account anew
    await world.engine.holds.resolve_rest(60.0)
    await assert_agreed(world, principal.account_id)


async def test_a_call_has_redis_forget_a_bounded_number(world, monkeypatch):
    monkeypatch.setattr(outbox, "ACKS_A_CALL", 3)
    sizes = []
    call = world.link.call

    async def noted(script, keys, arguments):
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


def some(number: int = 1) -> list[Debit]:
    class Someone:
        account_id, user_id, key_id = "acc", None, "key"

    return [debit(str(ULID()), Someone(), epoch=3, dseq=place) for place in range(1, number + 1)]


def files(folder: Path) -> list[Path]:
    return left_behind(folder)


def test_what_was_added_is_read_again(tmp_path):
    written, own = some(3), Spool(tmp_path / "made" / "here", "gateway")
    for each in written:
        own.add(each)
    (path,) = files(own.folder)
    assert read_debits(path) == written
    assert (path.stat().st_mode & 0o777, own.folder.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_record_loses_itself_alone(tmp_path, cut):
    written, own = some(3), Spool(tmp_path, "gateway")
    for each in written:
        own.add(each)
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    assert read_debits(path) == written[:2]


def test_what_is_damaged_is_not_believed(tmp_path):
    written, own = some(3), Spool(tmp_path, "gateway")
    for each in written:
        own.add(each)
    (path,) = files(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    assert read_debits(path) == written[:2]
    path.write_bytes(b"\xff" * 100)
    assert read_debits(path) == []


def test_segments_go_when_postgres_has_their_debits(tmp_path, monkeypatch):
    own, added = Spool(tmp_path, "gateway"), some(9)
    own.add(added[0])
    (path,) = files(tmp_path)
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 3 * path.stat().st_size)
    for each in added[1:]:
        own.add(each)
    assert len(files(tmp_path)) == 3
    own.written(added[:4])
    assert len(files(tmp_path)) == 2
    own.written(added[4:])
    assert len(files(tmp_path)) == 1
    own.close()
    assert files(tmp_path) == []


def test_a_segment_is_emptied_when_all_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "TRIMMED_BYTES", 0)
    own, written = Spool(tmp_path, "gateway"), some(3)
    own.add(written[0])
    own.add(written[1])
    own.written(written[:1])
    (path,) = files(tmp_path)
    assert read_debits(path) == written[:2]
    own.written(written[1:2])
    assert path.stat().st_size == 0
    own.add(written[2])
    assert read_debits(path) == written[2:]
    own.close()
    assert read_debits(path) == written[2:]


def test_what_waits_longer_than_later_ones_keeps_its_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1)
    own, added = Spool(tmp_path, "gateway"), some(4)
    for each in added:
        own.add(each)
    own.written([added[0], added[2], added[3]])
    assert [read_debits(path) for path in files(tmp_path)] == [[added[1]], [added[3]]]
    own.close()
    assert [read_debits(path) for path in files(tmp_path)] == [[added[1]]]


def test_few_that_wait_for_long_do_not_take_up_the_room_of_all(tmp_path, monkeypatch):
    """One in twenty is of an account whose row stays locked."""
    own, added = Spool(tmp_path, "gateway"), some(2000)
    own.add(added[0])
    (path,) = files(tmp_path)
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 50 * path.stat().st_size)
    monkeypatch.setattr(outbox, "MOST_BYTES", 600 * path.stat().st_size)
    locked = added[::20]
    for each in added[1:]:
        own.add(each)
        if each not in locked:
            own.written([each])
    found = {each.request_id: each for path in files(tmp_path) for each in read_debits(path)}
    assert [found.get(each.request_id) for each in locked] == locked
    assert len(files(tmp_path)) <= 12
    own.written(locked)
    own.add(added[0])
    assert len(files(tmp_path)) == 1


def test_its_size_is_bounded(tmp_path, monkeypatch, caplog):
    own, written = Spool(tmp_path, "gateway"), some(6)
    own.add(written[0])
    (path,) = files(tmp_path)
    monkeypatch.setattr(outbox, "MOST_BYTES", 2 * path.stat().st_size)
    for each in written[1:]:
        own.add(each)
    assert read_debits(path) == written[:2]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    own.written(written)
    last = some()[0]
    own.add(last)
    assert [each for file in files(tmp_path) for each in read_debits(file)][-1] == last


def test_a_disk_that_fails_stops_nobody(tmp_path, caplog):
    own, written = Spool(tmp_path, "gateway"), some(3)
    segment = own._segments[-1]
    real, segment.fd = segment.fd, os.open("/dev/full", os.O_WRONLY)
    own.add(written[0])
    own.add(written[1])
    assert "No space left on device" in caplog.text
    os.close(segment.fd)
    segment.fd = real
    own.written(written[:2])
    own.add(written[2])
    assert [each for file in files(tmp_path) for each in read_debits(file)] == [written[2]]


def test_a_segment_of_a_living_process_is_not_taken(tmp_path):
    own = Spool(tmp_path, "gateway")
    own.add(some()[0])
    (path,) = files(tmp_path)
    with taken(path) as ours:
        assert not ours
    own.close()
    assert taken_twice(path) == [False]
    with taken(path) as ours:
        assert ours
    assert files(tmp_path) == []
    with taken(path) as ours:
        assert not ours


def test_a_segment_that_was_taken_before_it_was_locked_is_not_written_to(tmp_path, monkeypatch):
    """Another process looks for segments just then, and removes what nobody has locked."""
    own, lock = Spool(tmp_path, "gateway"), wal_segment.fcntl.flock

    def late(fd, operation):
        (tmp_path / f"gateway.1{outbox.SUFFIX}").unlink()
        lock(fd, operation)

    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1)
    written = some(4)
    own.add(written[0])
    with monkeypatch.context() as patched:
        patched.setattr(wal_segment.fcntl, "flock", late)
        own.add(written[1])
    own.written(written[:2])
    own.add(written[2])
    assert read_debits(files(tmp_path)[-1]) == [written[2]]
    own.close()
    own.add(written[3])


def taken_twice(path: Path) -> list[bool]:
    """What the second one gets, while the first one has it and fails to write its debits."""
    found = []
    with suppress(ZeroDivisionError), taken(path) as ours:
        assert ours
        with taken(path) as second:
            found.append(second)
        raise ZeroDivisionError
    return found


async def lose_all_of_redis(world: World) -> None:
    await delete(world, *await keys_in_redis(world))


async def die_with_redis(dead: World, principal: Principal, count: int) -> list[str]:
    """Settle, and be killed before any of it is written, with all of Redis's memory."""
    dead.engine.outbox._writing = asyncio.Lock()
    async with dead.engine.outbox._writing:
        spent = [await spend(dead, principal) for _ in range(count)]
        await lose_all_of_redis(dead)
        await kill(dead)
    return spent


async def test_a_gateway_and_redis_lost_at_once_lose_nothing(make_world, tmp_path):
    """Another process of this machine has the debits, as one that lives or as the next one."""
    settings = EngineSettings(spool_folder=tmp_path)
    dead, living = await make_world(settings), await make_world(settings)
    principal = await dead.customer(10**9)
    spent = await die_with_redis(dead, principal, 5)

    async def are_written():
        return bool(await living.database.value("SELECT count(*) FROM usage_events") == 5)

    await eventually(are_written)
    assert await debits(living) == dict.fromkeys(spent, 500)
    spent += await die_with_redis(living, principal, 5)
    later = await make_world(settings)
    spent.append(await spend(later, principal))
    assert (await later.account_state(principal.account_id)).balance_nano == 10**9 - 11 * 500
    await assert_agreed(later, principal.account_id)
    assert await debits(later) == dict.fromkeys(spent, 500)
    assert len(files(tmp_path)) == 1


async def test_without_a_spool_they_are_lost(make_world):
    """What the one above is worth: the same, and no second copy."""
    dead, living = await make_world(), await make_world()
    principal = await dead.customer(10**9)
    await die_with_redis(dead, principal, 5)
    await spend(living, principal)
    await assert_agreed(living, principal.account_id)
    assert len(await debits(living)) == 1


async def test_a_spool_is_kept_until_postgres_has_it(make_world, tmp_path, monkeypatch):
    settings = EngineSettings(spool_folder=tmp_path)
    dead, living = await make_world(settings), await make_world(settings)
    await living.engine.loops.stop("sweep", "tend", "relay")
    principal = await dead.customer(10**9)
    spent = await die_with_redis(dead, principal, 2)

    async def away(*_):
        raise DatabaseUnavailable("Postgres is away")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "write_batch", away)
        with pytest.raises(DatabaseUnavailable):
            await living.engine.replay.run()
    assert await living.engine.replay.run() == 2
    assert await living.engine.replay.run() == 0
    assert await debits(living) == dict.fromkeys(spent, 500)


async def test_what_a_newer_release_left_stays_for_its_gateways(make_world, tmp_path, caplog):
    """The release was rolled back after one of its gateways had died: the others' debits are written."""
    world = await make_world(EngineSettings(spool_folder=tmp_path))
    await world.engine.loops.stop("sweep", "tend", "relay")
    principal = await world.customer(10**9)
    newer = debit(str(ULID()), principal, epoch=1, dseq=1, layout=3)
    known = debit(str(ULID()), principal)
    left = Spool(tmp_path, "00000000000000000000000000")
    for each in (newer, known):
        left.add(each)
    left.close()
    before = files(tmp_path)[0].read_bytes()
    for _ in range(2):
        assert await world.engine.replay.run() == 0
    assert await debits(world) == {known.request_id: 500}
    assert files(tmp_path)[0].read_bytes() == before
    assert sum("debits of a newer release" in record.getMessage() for record in caplog.records) == 1


async def test_who_opens_an_epoch_waits_for_a_replay_under_way(make_world, tmp_path, monkeypatch):
    """A sweep replays a spool: an epoch that opened meanwhile would be served without its debits."""
    settings = EngineSettings(spool_folder=tmp_path)
    dead, living = await make_world(settings), await make_world(settings)
    await living.engine.loops.stop("sweep", "tend", "relay")
    principal = await dead.customer(10**9)
    spent = await die_with_redis(dead, principal, 2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*given):
        begun.set()
        await go_on.wait()
        return await write_batch(*given)

    monkeypatch.setattr(outbox, "write_batch", slowly)
    sweeping = asyncio.create_task(living.engine.replay.run())
    await begun.wait()
    preparing = asyncio.create_task(living.engine.replay.run())
    await asyncio.sleep(0.1)
    assert not preparing.done()
    go_on.set()
    assert (await sweeping, await preparing) == (2, 0)
    assert await debits(living) == dict.fromkeys(spent, 500)


async def test_the_spool_of_another_ledger_is_left_alone(make_world, tmp_path, caplog):
    """It says so once, stops nothing behind it, and sets nothing aside."""
    foreign = Spool(tmp_path, "00000000000000000000000000")
    foreign.add(some()[0])
    foreign.close()
    settings = EngineSettings(spool_folder=tmp_path)
    dead, living = await make_world(settings), await make_world(settings)
    principal = await dead.customer(10**9)
    spent = await die_with_redis(dead, principal, 1)

    async def are_written():
        return bool(await living.database.value("SELECT count(*) FROM usage_events") == 1)

    await eventually(are_written)
    assert await debits(living) == dict.fromkeys(spent, 500)
    assert foreign_said(caplog) == 2  # by each of the two
    await living.engine.replay.run()
    assert foreign_said(caplog) == 2
    assert await living.database.value("SELECT count(*) FROM debits_set_aside") == 0
    assert len(files(tmp_path)) == 2


def foreign_said(caplog: pytest.LogCaptureFixture) -> int:
    return sum("accounts that this ledger does not have" in record.getMessage() for record in caplog.records)


async def test_a_folder_that_can_not_be_used_is_a_warning(make_world, tmp_path, caplog):
    (tmp_path / "file").touch()
    world = await make_world(EngineSettings(spool_folder=tmp_path / "file"))
    assert "debits have no second copy on this machine" in caplog.text
    principal = await world.customer()
    assert await spend(world, principal)
