"""What was used arrives at every other side once, to the nano-USD, whatever fails on the way."""

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

from billing.ledger.reports import roll
from tests.billing.exports.support import cloudevents, drain, folder, lago, used, working
from tests.billing.payments.test_broken_off import Dying, Killed
from tests.billing.support import Billing
from tests.support.usage_peers import FakeLago, FakeOpenMeter, Fault

FAULTS: tuple[Fault | None, ...] = (
    *(None, "lose_answer", "busy", None, "fail", "refuse", "lose_answer", None, "locked", None, None, "busy"),
    *("lose_answer", None, None, None, "fail", None, "lose_answer", None, None, None, None, None),
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


async def test_a_day_arrives_once_though_peers_fail_and_gateways_die_between_any_two_statements(
    billing: Billing, tmp_path: Path
) -> None:
    accounts = [(await billing.accounts.create(name)).id for name in ("Acme", "Beta", "Gamma")]
    told = await used(billing, accounts, 170)
    async with FakeLago().serving() as at_lago, FakeOpenMeter().serving() as at_meter:
        at_lago.faults.extend(FAULTS)
        at_meter.faults.extend(FAULTS[3:])

        def sinks(database: Any) -> tuple[Any, ...]:
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
