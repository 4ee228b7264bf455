"""Counts of several processes are one sum, by five minutes and by hour."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.traffic.counts import BOUNDS_MS, FAILED, HEAD, PASSED_ON, REFUSED, Change, Counted, Failure
from billing.traffic.store import FORGET_CHANGES, FORGET_TRAFFIC, Traffic
from tests.billing.support import Billing

AHEAD = timedelta(days=1)


def heads(*counts: int) -> tuple[int, ...]:
    return (*counts, *[0] * (len(BOUNDS_MS) + 1 - len(counts)))


@pytest.fixture
def traffic(billing: Billing) -> Traffic:
    return Traffic(billing.database)


async def test_what_two_processes_counted_is_added(traffic):
    counted = (
        Counted(REFUSED, "quota_exceeded", "", 3),
        Counted(REFUSED, "upstream_error", "", 1),
        Counted(PASSED_ON, "openai", "503", 2),
        Counted(PASSED_ON, "openai", "400", 7),
        Counted(FAILED, "openai", "503", 4),
        Counted(HEAD, "openai", "", 3, heads(1, 2)),
    )
    for _ in range(2):
        await traffic.add(counted, (), ())
    now = datetime.now(UTC)
    (step,) = (await traffic.steps(now - AHEAD, now + AHEAD, "day")).values()
    assert (step.refused, step.errors) == (6, 6)  # one refusal for a failure, and two answers that were passed on
    assert await traffic.refusals(now - AHEAD, now + AHEAD) == {"quota_exceeded": 6, "upstream_error": 2}
    for length in (timedelta(hours=1), timedelta(days=3)):  # from five minutes, and from hours
        (seen,) = (await traffic.providers(now - length, now + timedelta(minutes=1))).values()
        assert (seen.failed, seen.passed_on, seen.head) == ({"503": 8}, {"503": 4, "400": 14}, heads(2, 4))
    assert await traffic.steps(now - 3 * AHEAD, now - AHEAD, "hour") == {}


async def test_a_circuit_that_several_processes_saw_open_has_opened_once(traffic):
    for state, at_s in (("open", 10), ("open", 11), ("closed", 20), ("closed", 20), ("open", 30)):
        await traffic.add((), (Change("openai", 0, at_s, state, "503"), Change("openai", 1, at_s, "open", "")), ())
    await traffic.add((), (), (Failure("openai", 30, "503"), Failure("openai", 25, "timeout")))
    found = await traffic.changes("openai")
    assert [(each.state, each.at.timestamp()) for each in found if each.target == 0] == [
        ("open", 30),
        ("closed", 20),
        ("open", 10),
    ]
    assert [each.at.timestamp() for each in found if each.target == 1] == [10]
    assert await traffic.changes("other") == []
    last = (await traffic.failures())["openai"]
    assert (last.at.timestamp(), last.reason) == (30, "503")


async def test_old_counts_are_forgotten_the_fine_ones_sooner(traffic):
    database = traffic.database
    await traffic.add((Counted(REFUSED, "quota_exceeded", "", 1),), (Change("openai", 0, 10, "open", ""),), ())
    await database.execute("UPDATE traffic SET bucket = bucket - interval '3 days'")
    await traffic.add((Counted(REFUSED, "quota_exceeded", "", 1),), (), ())
    forgotten = [await database.value(FORGET_TRAFFIC, 10, 100), await database.value(FORGET_TRAFFIC, 2, 100)]
    assert forgotten == [1, 1]
    assert await database.value(FORGET_CHANGES, 10, 100) == 1
    assert await database.value("SELECT count(*) FROM traffic") == 2
