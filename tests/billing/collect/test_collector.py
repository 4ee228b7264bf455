"""Runs over exporters that lie, and collectors that die between any two steps."""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from billing.collect.collector import Collector, CollectRules, Parts
from billing.collect.debits import ByteRate, Charged, charge, rate_of
from billing.collect.snapshots import LOCK, Checkpoint, Exporters, Source
from billing.collect.subjects import EXCLUSIVE, SubjectNotFound, SubjectRules
from billing.database.connection import queries
from billing.pricing import COST_SCALE, METER_PROVIDER, PriceRow, PriceTable, Variant
from tests.billing.collect.support import Room, Sample
from tests.billing.support import Billing
from tests.support.answering import until
from tests.support.exporter import TOKEN, Exporter, exporting

NOW = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)
STRIDE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 5
RULES = CollectRules("r1", pages=40, overlap=timedelta(minutes=20), at_once=20)


def source_of(name: str, exporter: Exporter, **fields: Any) -> Source:
    return replace(Source(name, exporter.url, TOKEN, "eu", exporter.node, "prod", 0.4), **fields)


def collector_of(room: Room, sources: list[Source], database: Any = None) -> Collector:
    asked = database or room.billing.database
    exporters = Exporters(connections=20, answer_bytes=20_000, limit=100)
    if database is not None:
        room.facts._database = room.subjects.database = room.debits.database = database
    parts = Parts(exporters, room.facts, room.subjects, room.debits)
    return Collector(asked, sources, parts, RULES, lambda: NOW)


LIES = {
    "same": (lambda asked, page: {**page, "has_more": True, "next_cursor": "7"}, "names the same cursor again"),
    "nothing": (
        lambda asked, page: {**page, "snapshots": [], "has_more": True, "next_cursor": f"{asked.get('cursor', '')}1"},
        "again and again that there is more",
    ),
    "stuck": (lambda asked, page: {**page, "snapshots": [], "has_more": True}, "without a cursor or a newer snapshot"),
    "garbage": (lambda asked, page: b"<html>", "not a page of snapshots"),
    "lacking": (lambda asked, page: {**page, "env": None}, "not a page of snapshots"),
    "node": (lambda asked, page: {**page, "node_id": "n9"}, "expected node 'n1', it says 'n9'"),
    "env": (lambda asked, page: {**page, "env": "test"}, "expected env 'prod', it says 'test'"),
    "large": (lambda asked, page: b" " * 20_001, "larger than 20000 bytes"),
    "bomb": (
        lambda asked, page: web.Response(body=gzip.compress(b" " * 10**6), headers={"Content-Encoding": "gzip"}),
        "compressed",
    ),
    "deep": (lambda asked, page: b'{"more": ' + b"[" * 15_000, "not a page of snapshots"),
    "silent": (lambda asked, page: None, "does not answer within 0.4 s"),
}


async def test_exporters_that_lie_fail_alone_and_are_mended(billing):
    exporters = {name: Exporter() for name in ("good", "stranger", *LIES)}
    for name, exporter in exporters.items():
        for minute in range(5):
            exporter.say(NOW - timedelta(minutes=4 - minute), (f"u-{name}", 100 * minute, 0))
        exporter.say(NOW + timedelta(minutes=6), (f"u-{name}", 10**9, 0))  # which is asked for by nobody
        exporter.say(datetime.fromisoformat("0001-01-01T00:00:00+14:00"), (f"u-{name}", 10**9, 0))  # of no time in UTC
        exporter.names_cursors = name != "good"
    for name, (lie, _) in LIES.items():
        exporters[name].lie = lie
    async with exporting(*exporters.values()):
        sources = [source_of(name, each) for name, each in exporters.items()]
        sources[1] = replace(sources[1], token="wrong")
        collector = collector_of(Room(billing, "lies"), sources)
        run = await collector.run()
        errors = dict(part.split(": ", 1) for part in run.error.split("; "))
        assert errors.keys() == {"stranger", *LIES}
        assert errors["stranger"] == "it answers with status 401"
        for name, (_, why) in LIES.items():
            assert why in errors[name], name
        assert (run.status, run.failed_sources) == ("degraded", 1 + len(LIES))
        assert all(len(exporter.asked) < 20 for exporter in exporters.values())
        for exporter in exporters.values():
            exporter.lie = lambda asked, page: page
        again = await collector_of(Room(billing, "lies"), [source_of(*each) for each in exporters.items()]).run()
        assert (again.status, again.error) == ("ok", "")
        await collector.close()
    rows = await billing.database.rows(
        "SELECT uuid, sum(up_bytes) AS up FROM collected_minutes WHERE uuid LIKE 'u-%' GROUP BY uuid"
    )
    assert {row["uuid"]: int(row["up"]) for row in rows} == {f"u-{name}": 400 for name in exporters}


class Killed(BaseException):
    """The process is no more."""


class Dying:
    """A database that a process can ask so many times, and no more, inside of transactions as outside."""

    def __init__(self, asked: Any, left: list[int]) -> None:
        self._asked, self._left = asked, left

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asked, name)
        if not callable(found):
            return found
        self._left[0] -= 1
        if self._left[0] < 0:
            raise Killed
        return found

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._asked.transaction() as connection:
            yield Dying(connection, self._left)
            self._left[0] -= 1
            if self._left[0] < 0:
                raise Killed


async def test_a_collector_that_dies_at_any_step_is_followed_by_another(billing):
    rules = SubjectRules(initial_nano=10**6, included_bytes=50)
    steps, died = 0, True
    while died:
        exporter = Exporter()
        for minute in range(5):
            users = (f"a{steps}", 1000 * (minute % 3), 7), (f"b{steps}", minute, minute)
            exporter.say(NOW - timedelta(minutes=5 - minute), *users)
        async with exporting(exporter):
            sources = [source_of(f"dying{steps}", exporter)]
            room = Room(billing, "dying", per_byte_scaled=10**9, rules=rules)
            dying = collector_of(room, sources, Dying(billing.database, [steps]))
            try:
                await dying.run()
                died = False
            except Killed:
                pass
            await dying.close()
            living = collector_of(Room(billing, "dying", per_byte_scaled=10**9, rules=rules), sources)
            for _ in range(2):
                assert (await living.run()).status == "ok"
            await living.close()
        rows = await billing.database.rows(
            "SELECT s.uuid, a.balance_nano FROM collected_subjects AS s JOIN accounts AS a ON a.id = s.account_id "
            "WHERE s.uuid = ANY ($1::text[]) ORDER BY s.uuid",
            [f"a{steps}", f"b{steps}"],
        )
        # a: 0, 1000, 2000, 0, 1000: 3000 less 50 that are included; b: 4 up and 4 down, all included
        assert [row["balance_nano"] for row in rows] == [10**6 - 2950, 10**6], f"after {steps} steps"
        steps += STRIDE
    assert steps > 20


class Slow:
    """A database of a run that does not go on from a statement until it may."""

    def __init__(self, asked: Any, statement: str) -> None:
        self._asked, self._statement = asked, statement
        self.reached, self.may = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asked, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._asked.transaction() as connection:
            slow = Slow(connection, self._statement)
            slow.reached, slow.may = self.reached, self.may
            yield slow

    async def execute(self, statement: str, *values: Any) -> Any:
        if statement == self._statement:
            self.reached.set()
            await self.may.wait()
        return await self._asked.execute(statement, *values)


async def waiting(billing: Billing, task: asyncio.Task[Any]) -> None:
    """Wait until a task waits for another's locks, or is over."""
    asked = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def waits() -> bool:
        return task.done() or bool(await billing.database.value(asked))

    await until(waits)


async def test_runs_of_two_gateways_charge_an_account_as_one(billing):
    """A run that finds an account charged by another one does not write what it has read of it."""
    rules = SubjectRules(initial_nano=1000, included_bytes=50)
    one, other = (Room(billing, "two", per_byte_scaled=10**9, rules=rules) for _ in range(2))
    await one.write([Sample("n1", NOW - timedelta(hours=4), uuid, "", 0, 0) for uuid in ("two-a", "two-b")])
    await one.subjects.settle()
    accounts = {each.uuid: str(each.account_id) for each in (await one.subjects.page(2)).items}
    await one.write([Sample("n1", NOW - timedelta(hours=3), "two-b", "", 7, 0)])
    assert await one.debits._fold() == 1
    slow = Slow(billing.database, queries("billing.collect")("write_charges"))
    one.debits.database = slow
    first = asyncio.create_task(one.debits._charged([*accounts.values()], NOW))  # the other has taken what is due of a
    await slow.reached.wait()
    for ago, up in ((2, 60), (1, 100)):
        await other.write([Sample("n1", NOW - timedelta(hours=ago), "two-a", "", up, 0)])
        await other.debits._fold()
        assert await other.debits._charged([accounts["two-a"]], NOW) == 1
        slow.may.set()
        assert await first == 1
    assert (await billing.accounts.get(accounts["two-a"])).balance_nano == 1000 - (100 - 50)


async def test_two_gateways_make_one_account_for_an_address(billing):
    rules = SubjectRules()
    room = Room(billing, "one", rules=rules)
    await room.write([Sample("n1", NOW, uuid, "", 0, 0) for uuid in ("same-1", "same-2")])
    await billing.database.execute("UPDATE collected_subjects SET email = 'same@example.com' WHERE uuid LIKE 'same-%'")
    account = await billing.accounts.create("Made by the other")
    async with billing.database.transaction() as connection:
        await connection.execute(EXCLUSIVE, LOCK)
        settled = asyncio.create_task(room.subjects.settle())
        await waiting(billing, settled)
        await connection.execute("UPDATE collected_subjects SET account_id = $1 WHERE uuid = 'same-1'", account.id)
    await settled
    assert {each.account_id for each in (await room.subjects.page(2)).items} == {account.id}


async def test_parked_traffic_is_charged_once_it_is_somebody_s(billing):
    rules = SubjectRules(unknown="park", initial_nano=5000)
    room = Room(billing, "parked", per_byte_scaled=10**9, rules=rules)
    exporter = Exporter()
    for minute in range(3):
        exporter.say(NOW - timedelta(minutes=5 - minute), ("p1", 1000 * minute, 0), ("p2", minute, 0))
    async with exporting(exporter):
        collector = collector_of(room, [source_of("parked", exporter)])
        assert (await collector.run()).debits == 0
        waiting = (await room.subjects.page(10, parked=True)).items
        assert {each.uuid: each.bytes for each in waiting} == {"p1": 2000, "p2": 2}
        account = await billing.accounts.create("Theirs")
        assert await room.subjects.assign("P1@example.com", account.id, NOW) == (1, {account.id})
        with pytest.raises(SubjectNotFound, match="no subject with the uuid"):
            await room.subjects.assign("p3", account.id, NOW)
        exporter.say(NOW - timedelta(minutes=1), ("p1", 2500, 0))
        assert (await collector.run()).debits == 1
        assert (await billing.accounts.get(account.id)).balance_nano == 5000 - 2500
        assert [each.uuid for each in (await room.subjects.page(10, parked=True)).items] == ["p2"]
        await collector.close()


def test_a_window_that_is_asked_for_leaves_no_gap():
    overlap, hour = timedelta(minutes=5), timedelta(hours=1)
    read = Checkpoint(1, watermark=NOW - 72 * hour)
    reading = Checkpoint(1, watermark=NOW - 72 * hour, since=NOW - 70 * hour, until=NOW - hour, cursor="7")
    assert Checkpoint(1, watermark=NOW + hour).begun(NOW, overlap).since == NOW - overlap  # by a clock that was wrong
    for checkpoint, begins in ((read, NOW - 72 * hour - overlap), (reading, NOW - 70 * hour)):
        assert checkpoint.begun(NOW, overlap, NOW - hour).since == begins
        asked = checkpoint.begun(NOW, overlap, NOW - 80 * hour)
        assert (asked.since, asked.until, asked.cursor) == (NOW - 80 * hour, NOW, None)


RATES = st.sampled_from([ByteRate("a", 0), ByteRate("b", COST_SCALE // 3), ByteRate("c", COST_SCALE * 2)])


@given(st.lists(st.tuples(RATES, st.integers(0, 50)), max_size=8), st.integers(0, 60), st.randoms())
def test_a_charge_is_a_matter_of_the_set_and_never_falls(portions, included, chance):
    charged = Charged(included, 0, {})
    rises = [charged.add(rate, count) for rate, count in portions]
    assert min(rises, default=0) >= 0
    chance.shuffle(portions)
    again = Charged(included, 0, {})
    assert sum(again.add(rate, count) for rate, count in portions) == sum(rises) == charged.charged_nano
    assert charge({}, included) == 0


def test_no_more_is_given_back_than_was_charged():
    charged = Charged(0, 0, {})
    assert charged.add(ByteRate("old", COST_SCALE), 100) == 100
    assert charged.add(ByteRate("new", 9 * COST_SCALE), -40) == -40
    assert charged.bytes_by_rate == {(COST_SCALE, "old"): 60, (9 * COST_SCALE, "new"): 0}


def test_a_byte_s_price_is_the_row_s_by_region_or_the_variable_s():
    variant = Variant({"region": "eu"}, per_unit={"million": 3_000})
    row = PriceRow(
        METER_PROVIDER, "bytes", NOW.date(), per_unit={"million": 1_000}, per_million={}, variants=(variant,)
    )
    table = PriceTable([row])
    for region, nano in (("eu", 3_000), ("us", 1_000), ("", 1_000)):
        rate = rate_of(table, 5, region, NOW)
        assert (rate.scaled, rate.price_id) == (nano * COST_SCALE // 10**6, row.id)
    assert rate_of(table, 10**9, "eu", NOW - timedelta(days=1)) == ByteRate("per_byte:1000000000", COST_SCALE)
