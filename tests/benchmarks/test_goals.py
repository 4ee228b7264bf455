"""Every figure is found in the samples that belong to it, and judged on the right side of its bar."""

import pytest

from benchmarks.figures import Spread
from benchmarks.goals import GOALS, ONE_WORKER, TWO_WORKERS, Goal, Judged, Phases, added, judge
from benchmarks.subjects import (
    API_BURSTS,
    BARE,
    BURSTS,
    CLOSED,
    COUNTED,
    CROWD,
    DIRECT,
    IDLE,
    LEDGER,
    LONG,
    MEMORY,
    METERGATE,
    PAGES,
    PROMPTS,
    READS,
    SATURATION,
    SERVES,
    SERVICE,
    SERVICE_DEBITS,
    STARTS,
    STREAMS,
    WORKERS,
)

PHASES: Phases = {
    SATURATION: {
        BARE: [{"cpu_us": 100.0}, {"cpu_us": 200.0}],
        METERGATE: [{"cpu_us": 50.0, "redis_us": 70.0}, {"cpu_us": 120.0, "redis_us": 90.0}],
    },
    "100/s": {BARE: [{"cpu_us": 1000.0}], METERGATE: [{"cpu_us": 950.0}]},
    "200/s": {
        DIRECT: [{"p50_ms": 0.2}],
        BARE: [{"p50_ms": 0.7}],
        METERGATE: [{"p50_ms": 0.8}],
    },
    STREAMS: {BARE: [{"cpu_us": 60.0}], METERGATE: [{"cpu_us": 30.0}]},
    BURSTS: {BARE: [{"cpu_us": 10.0}], METERGATE: [{"cpu_us": 8.0}]},
    **{phase: {METERGATE: [{"cpu_us": 9.6}]} for phase in API_BURSTS.values()},
    PROMPTS: {BARE: [{"cpu_us": 200.0}], METERGATE: [{"cpu_us": 150.0}]},
    COUNTED: {METERGATE: [{"added_p99_ms": 3.0}]},
    CLOSED: {BARE: [{"cpu_us": 300.0}], METERGATE: [{"cpu_us": 270.0}]},
    CROWD: {METERGATE: [{"kb_a_stream": 10.0}]},
    LONG: {METERGATE: [{"kb_a_stream": 60.0}]},
    IDLE: {METERGATE: [{"fresh_mb": 80.0, "idle_ms_per_s": 2.5}]},
    SERVES: {METERGATE: [{"wall_s": 1.2}]},
    MEMORY: {METERGATE: [{"resident_mb": 119.0}]},
    LEDGER: {LEDGER: [{"rows_per_s": 30_000.0}]},
    SERVICE: {SERVICE_DEBITS: [{"events_per_s": 2_500.0}]},
    STARTS: {"--version": [{"wall_s": 0.1}, {"wall_s": 0.2}], "operator --help": [{"wall_s": 0.5}]},
    PAGES: {METERGATE: [{"slowest_ms": 40.0}], READS: [{"slowest_ms": 20.0}]},
    WORKERS: {
        ONE_WORKER: [{"cpu_us": 100.0, "busiest_us": 100.0}],
        TWO_WORKERS: [{"cpu_us": 104.0, "busiest_us": 62.4}],  # 60 % of the work is one worker's
    },
}


def found(name: str) -> Judged:
    (judged,) = [each for each in judge(PHASES) if each.goal.name.startswith(name)]
    return judged


def test_every_goal_is_found_where_everything_was_measured():
    assert [each.goal for each in judge(PHASES)] == list(GOALS)


def test_what_was_not_measured_is_not_judged():
    assert judge({}) == []
    assert [each.goal.name for each in judge({LEDGER: PHASES[LEDGER]})] == ["ledger, one connection"]


@pytest.mark.parametrize(
    ("name", "median", "holds", "reached"),
    [
        ("CPU a JSON request at saturation", 0.55, True, False),  # the median of 0.5 and 0.6, round by round
        ("CPU a JSON request at 100/s", 0.95, True, True),
        ("CPU a request on a connection of its own", 0.9, True, False),
        ("CPU an SSE chunk", 0.5, True, True),
        ("CPU an event of a burst, gemini", 1.2, True, False),
        ("Redis's CPU", 80.0, True, False),
        ("latency added", 1.2, True, False),
        ("ledger", 30_000.0, True, False),
        ("debits of services", 2_500.0, True, False),
        ("CPU a prompt", 0.75, False, False),
        ("memory of a worker", 119.0, True, True),
        ("memory of a slow stream", 10.0, True, False),
        ("memory of a stream of 2,000 events", 60.0, True, True),
        ("memory of a fresh worker", 80.0, True, False),
        ("CPU of an idle worker", 2.5, True, False),
        ("start of", 1.2, False, False),
        ("delay", 3.0, True, True),  # it has no aim
    ],
)
def test_a_figure_is_judged(name, median, holds, reached):
    judged = found(name)
    assert judged.found.median == pytest.approx(median)
    assert (judged.holds, judged.reached) == (holds, reached)


def test_of_two_workers_the_busier_one_sets_the_limit():
    judged = found("throughput of two workers")
    assert judged.found.median == pytest.approx(100 / 62.4)
    assert not judged.holds


def test_a_fair_share_without_any_more_cpu_would_be_twice_the_throughput():
    fair = {WORKERS: {ONE_WORKER: [{"cpu_us": 100.0}], TWO_WORKERS: [{"busiest_us": 50.0}]}}
    (judged,) = judge(fair)
    assert judged.found.median == pytest.approx(2.0)
    assert judged.reached


def test_a_bar_of_a_rate_is_a_floor():
    goal = Goal("", "", 10, 20, lambda phases: [], "", at_least=True)
    assert [goal.holds(value, 10) for value in (9.0, 10.0, 11.0)] == [False, True, True]
    assert Judged(goal, Spread(15, 15, 15, 1)).holds
    assert not Judged(goal, Spread(15, 15, 15, 1)).reached


def test_what_a_proxy_adds_is_taken_round_by_round():
    phases = {"50/s": {DIRECT: [{"p50_ms": 1.0}, {"p50_ms": 2.0}], BARE: [{"p50_ms": 4.0}, {"p50_ms": 3.0}]}}
    assert added(phases, "50/s", BARE, "p50_ms") == [3.0, 1.0]
