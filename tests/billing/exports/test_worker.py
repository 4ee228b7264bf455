"""Every kind of export receives each usage event once, to the nano-USD, whatever fails on the way."""

import asyncio
import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from billing.audit import SYSTEM
from billing.database.connection import queries
from billing.exports.events import ExportEvent
from billing.exports.sinks import CloudEvents, CloudEventsRules, Peer
from billing.exports.worker import ExportNotFound, ExportRules, Exports, ExportWorker
from billing.ledger.debits import Debit
from billing.ledger.sums import roll
from billing.ledger.writer import WRITE_NEW_DEBITS, write_debits
from billing.notices.delivery import Poster
from tests.billing.exports.support import BOUND_S, cloudevents, debit, drain, folder, lago, opened, used, working
from tests.billing.payments.test_broken_off import Dying, Killed
from tests.billing.support import Billing
from tests.support.edge_clients import until
from tests.support.usage_peers import FakeLago, FakeOpenMeter, Fault

FAULTS: tuple[Fault | None, ...] = (
    None,
    "lose_answer",
    "busy",
    None,
    "fail",
    "refuse",
    "lose_answer",
    None,
    "locked",
    None,
    None,
    "busy",
    "lose_answer",
    None,
    None,
    None,
    "fail",
    None,
    "lose_answer",
    None,
    None,
    None,
    None,
    None,
)


def rows_of(path: Path) -> list[dict[str, str]]:
    found = []
    for file in sorted(path.glob("*/usage-*.csv")):
        with file.open(newline="") as lines:
            found += [{"file": file.name, **row} for row in csv.DictReader(lines)]
    return found


def unfinished(path: Path) -> list[Path]:
    return list(path.rglob(".*"))


def in_folder(path: Path) -> tuple[list[str], int]:
    rows = rows_of(path)
    return sorted(row["request_id"] for row in rows), int(sum(Decimal(row["charged_usd"]) for row in rows) * 10**9)


async def ledger(billing: Billing) -> tuple[int, int]:
    """What the events and the sums of the ledger say was charged."""
    events = await billing.database.value("SELECT sum(charged_nano)::bigint FROM usage_events")
    sums = await billing.database.value(
        "SELECT (coalesce((SELECT sum(charged_nano) FROM usage_sums WHERE granularity = 1 AND tag = 0), 0)"
        " + coalesce((SELECT sum(charged_nano) FROM usage_fresh), 0))::bigint"
    )
    return events, sums


async def test_a_day_arrives_once_though_peers_fail_and_gateways_die_between_any_two_statements(billing, tmp_path):
    accounts = [(await billing.accounts.create(name)).id for name in ("Acme", "Beta", "Gamma")]
    told = await used(billing, accounts, 170)
    async with FakeLago().serving() as at_lago, FakeOpenMeter().serving() as at_meter:
        at_lago.faults.extend(FAULTS)
        at_meter.faults.extend(FAULTS[3:])

        def sinks(database):
            return lago("lago", at_lago, database), cloudevents("cloud", at_meter, 30), folder("files", tmp_path)

        steps, died = 0, 0
        for owner in range(300):  # each process lives a few statements longer than the one before
            await billing.database.execute("UPDATE exports SET lease_until = now()")
            steps += 3
            try:
                async with working(Dying(billing, steps), *sinks(Dying(billing, 10**6)), owner=str(owner)) as worker:
                    await drain(worker)
                break
            except Killed:
                died += 1
            if died in (8, 16):  # late ones, of hours that are exported already
                told += await used(billing, accounts, 20, seed=died)
        assert died > 10
        await roll(billing.database, 1000)
        ids, nano = sorted(each.request_id for each in told), sum(each.charged_nano for each in told)
        assert await ledger(billing) == (nano, nano)
        assert sorted(id_ for _, id_ in at_meter.events) == ids
        assert at_meter.nano == nano
        assert sorted(id_ for _, id_ in at_lago.events if ":" not in id_) == ids
        assert sum(":" in id_ for _, id_ in at_lago.events) == len(ids)
        assert at_lago.nano == nano
        assert in_folder(tmp_path) == (ids, nano)
        assert not at_lago.violations + at_meter.violations
        assert set(at_lago.subscriptions) == set(accounts)
    assert unfinished(tmp_path) == []


async def test_nothing_is_passed_over_that_is_committed_late(billing):
    """A transaction that draws a number and ends after others that have drawn later ones."""
    account_id, other_id = [(await billing.accounts.create(name)).id for name in ("Acme", "Beta")]
    async with FakeOpenMeter().serving() as peer, working(billing.database, cloudevents("cloud", peer)) as worker:
        (export,) = await opened(worker)
        async with billing.database.another(size=1, timeout_s=10).transaction() as slow:
            (late,) = await used_in(billing, slow, account_id)
            (early,) = await used(billing, [other_id], 1, hours=0)
            for _ in range(5):
                await worker.step(export)
            assert peer.events == {}  # the later one waits for the one before it
        await drain(worker)
        assert [id_ for _, id_ in peer.events] == [late.request_id, early.request_id]


async def used_in(billing: Billing, connection: Any, account_id: str) -> list[Debit]:
    """One request, written in a transaction of the caller's."""
    made = [debit(billing, account_id, datetime.now(UTC), 5)]
    await connection.fetch(WRITE_NEW_DEBITS, msgspec.json.encode(made).decode(), "1s")
    return made


async def test_what_is_refused_is_parked_alone_and_tried_again_by_hand(billing):
    accounts = [(await billing.accounts.create("Acme")).id]
    told = await used(billing, accounts, 12)
    exports = Exports(billing.database)
    async with FakeLago().serving() as at_lago, FakeOpenMeter().serving() as at_meter:
        sinks = lago("lago", at_lago, billing.database), cloudevents("cloud", at_meter)
        poison = {told[3].request_id, told[7].request_id}
        at_lago.poison |= poison
        at_meter.poison |= poison
        async with working(billing.database, *sinks) as worker:
            await drain(worker)
            assert {id_ for _, id_ in at_meter.events} == {each.request_id for each in told} - poison
            first = await exports.dead_letters(3)
            rest = await exports.dead_letters(3, first.next_after)
            found = [*first.items, *rest.items]
            assert {(each.export, each.item) for each in found} == {
                (x, id_) for x in ("lago", "cloud") for id_ in poison
            }
            assert all(each.reason and each.account_id == accounts[0] for each in found)

            at_meter.poison.clear()
            assert await exports.again("cloud", None, SYSTEM) == 2
            assert await exports.again("lago", told[3].request_id, SYSTEM) == 1
            await drain(worker)
            assert {id_ for _, id_ in at_meter.events} == {each.request_id for each in told}
            assert {(each.export, each.item, each.again) for each in (await exports.dead_letters(9)).items} == {
                ("lago", id_, False) for id_ in poison
            }
            assert {each.name: each.parked for each in await exports.standings()} == {"lago": 2, "cloud": 0}
    with pytest.raises(ExportNotFound):
        await exports.again("cloud", None, SYSTEM)


class Broken(CloudEvents):
    """An export with a fault that nobody has thought of."""

    async def send(self, events: Sequence[ExportEvent]) -> dict[str, str]:
        raise RecursionError


async def test_an_export_that_breaks_stops_no_other_and_whoever_begins_anew_connects_again(billing):
    accounts = [(await billing.accounts.create("Acme")).id]
    async with FakeOpenMeter().serving() as peer, FakeOpenMeter().serving() as other:
        broken = Broken("broken", CloudEventsRules(peer.url, "here"), Peer("it", Poster(private=True, timeout_s=9), {}))
        async with working(billing.database, broken, cloudevents("cloud", other)) as worker:
            for many in (1, 2):
                await used(billing, accounts, 1)
                running = asyncio.create_task(worker.run())
                await until(partial(lambda task, many: task.done() or len(other.events) == many, running, many))
                assert not running.done()
                running.cancel()
                await asyncio.wait([running])


async def test_where_nothing_is_taken_all_waits_before_it_is_parked_and_an_alarm_is_raised(billing, caplog):
    """Most often it is the configuration that is wrong. And two gateways: one waits for the other's lease."""
    told = await used(billing, [(await billing.accounts.create("Acme")).id], 5, hours=0)
    rules = ExportRules(pause_s=1e-6, most_pause_s=1e-6, alarm_s=3600, failures_before_all_parked=4)
    async with FakeOpenMeter().serving() as peer:
        peer.poison |= {each.request_id for each in told}
        sink, spare = cloudevents("cloud", peer), cloudevents("cloud", peer)
        one, two = [
            ExportWorker(billing.database, [each], owner, rules, from_beginning=frozenset({"cloud"}))
            for each, owner in ((sink, "one"), (spare, "two"))
        ]
        (export,), (idle,) = await opened(one), await opened(two)
        async with asyncio.timeout(BOUND_S):
            while (await export.cursor.standing()).failures < 4:
                await one.step(export)
        assert await two.step(idle) is False
        assert idle.standing is not None
        assert (idle.standing.waiting, two.troubles()) == (5, [])
        standing = await export.cursor.standing()
        assert standing is not None
        assert (standing.parked, standing.waiting) == (0, 5)
        assert "none of 5 events was taken" in (standing.error or "")
        await billing.database.execute("UPDATE exports SET next_at = now() + interval '1 hour'")
        await age(billing)
        await one.step(export)
        await one.step(export)
        assert one.troubles() == [f"export cloud is 2.0 h behind: {standing.error}"]
        assert [each.message for each in caplog.records if each.levelname == "ERROR"] == one.troubles()
        await billing.database.execute("UPDATE exports SET next_at = now()")
        await drain(one)
        assert (await export.cursor.standing()).parked == 5
        assert one.troubles() == []
        for each in (sink, spare):
            await each.close()


async def age(billing: Billing) -> None:
    """Have the events been written two hours ago."""
    async with billing.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")  # triggers would refuse it
        await connection.execute("UPDATE usage_events SET created_at = created_at - interval '2 hours'")


async def test_a_month_is_not_dropped_before_it_was_told(billing):
    account_id = (await billing.accounts.create("Acme")).id
    old = datetime.now(UTC) - timedelta(days=400)
    await write_debits(billing.database, [debit(billing, account_id, old, 5)])
    months = queries("billing.ledger")("retention_months")
    async with FakeOpenMeter().serving() as peer, working(billing.database, cloudevents("cloud", peer)) as worker:
        (export,) = await opened(worker)
        await export.cursor.lease()
        assert await billing.database.rows(months, 3, datetime.now(UTC)) == []
        await drain(worker)
    (month,) = await billing.database.rows(months, 3, datetime.now(UTC))
    assert month["partition"] == f"usage_events_{old:%Y_%m}"
