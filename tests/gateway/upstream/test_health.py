"""Which targets of a provider are tried: cool-down, one probe, recovery, Retry-After, weights."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.upstream.health import (
    MAX_WEIGHT,
    Attempt,
    Cooldown,
    TargetHealth,
    choose,
    parse_retry_after,
)
from tests.support.tables import Tables

TABLES = Tables(__file__)

NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
COOLDOWN = Cooldown(failures=3, seconds=30, retry_after_s=60, probe_s=10)


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def target(clock: Clock) -> TargetHealth:
    return TargetHealth(clock, COOLDOWN)


def fail(target: TargetHealth, times: int = 1, retry_after_s: float | None = None) -> None:
    for _ in range(times):
        target.failed(target.begin(), retry_after_s)


def test_failures_in_a_row_open_a_target(target):
    fail(target, 2)
    assert (target.state, target.is_free, target.wait_s) == ("closed", True, 0)
    fail(target)
    assert (target.state, target.is_free, target.wait_s) == ("open", False, 30)


def test_a_success_between_failures_begins_the_count_anew(target):
    fail(target, 2)
    target.succeeded(target.begin())
    fail(target, 2)
    assert target.state == "closed"


def test_one_probe_decides_after_the_cool_down(target, clock):
    fail(target, 3)
    clock.now_s += 30
    assert (target.state, target.is_free) == ("half_open", True)
    probe = target.begin()
    assert probe.is_probe
    assert (target.state, target.is_free, target.wait_s) == ("half_open", False, 10)
    target.failed(probe)
    assert (target.state, target.wait_s) == ("open", 30)
    clock.now_s += 30
    target.succeeded(target.begin())
    assert (target.state, target.is_free) == ("closed", True)
    fail(target, 2)
    assert target.state == "closed"


def test_a_probe_that_is_abandoned_or_never_ends_lets_another_one_in(target, clock):
    fail(target, 3)
    clock.now_s += 30
    target.abandoned(target.begin())
    assert target.is_free
    lost = target.begin()
    clock.now_s += 10
    assert target.is_free
    second = target.begin()
    assert second.is_probe
    target.abandoned(lost)
    target.succeeded(lost)
    assert (target.state, target.is_free) == ("half_open", False)
    target.succeeded(second)
    assert target.state == "closed"


def test_an_attempt_beside_a_probe_does_not_end_it_when_abandoned(target, clock):
    fail(target, 3)
    clock.now_s += 30
    target.begin()
    beside = target.begin()
    assert not beside.is_probe
    target.abandoned(beside)
    assert not target.is_free


def test_an_attempt_from_before_a_change_changes_nothing(target, clock):
    old = [target.begin() for _ in range(4)]
    fail(target, 3)
    target.succeeded(old[0])
    assert target.state == "open"
    clock.now_s += 30
    target.succeeded(target.begin())
    for attempt in old[1:]:
        target.failed(attempt)
    assert target.state == "closed"


def test_an_attempt_at_an_open_target_tells_of_its_recovery(target):
    """A single target is tried although it is open."""
    fail(target, 3)
    assert choose([target], 0.5) == 0
    target.succeeded(target.begin())
    assert target.state == "closed"


@pytest.mark.parametrize(("asked_s", "opens_s"), [(5, 5), (60, 60), (61, 60), (1e300, 60), (0, 0), (None, 0)])
def test_retry_after_opens_at_once_up_to_its_bound(target, asked_s, opens_s):
    fail(target, 1, asked_s)
    assert target.wait_s == opens_s


@pytest.mark.parametrize(("asked_s", "opens_s"), [(5, 30), (45, 45)])
def test_the_longer_of_cool_down_and_retry_after_holds(target, asked_s, opens_s):
    fail(target, 2)
    fail(target, 1, asked_s)
    assert target.wait_s == opens_s


def test_retry_after_is_ignored_with_a_bound_of_zero(clock):
    target = TargetHealth(clock, Cooldown(failures=2, seconds=30, retry_after_s=0))
    fail(target, 1, 5)
    assert target.state == "closed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": 0},
        {"failures": 1_001},
        {"seconds": 0},
        {"seconds": 3_601},
        {"seconds": float("nan")},
        {"retry_after_s": -1},
        {"retry_after_s": 3_601},
        {"probe_s": 0},
        {"probe_s": float("inf")},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be from"):
        Cooldown(**wrong)


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1])
def test_a_weight_out_of_range_is_refused(weight, clock):
    with pytest.raises(ValueError, match="weight must be"):
        TargetHealth(clock, COOLDOWN, weight)


def test_free_targets_are_chosen_by_weight(clock):
    targets = [TargetHealth(clock, COOLDOWN, weight) for weight in (1, 3, 6)]
    assert Counter(choose(targets, draw / 100) for draw in range(100)) == {0: 10, 1: 30, 2: 60}
    fail(targets[2], 3)
    assert Counter(choose(targets, draw / 100) for draw in range(100)) == {0: 25, 1: 75}


def test_where_none_is_free_the_one_that_is_free_first_is_tried(clock):
    targets = [TargetHealth(clock, COOLDOWN) for _ in range(3)]
    for target, asked_s in zip(targets, (50, 20, 40), strict=True):
        fail(target, 1, asked_s)
    assert choose(targets, 0.9) == 1


def test_there_is_no_choice_without_targets():
    with pytest.raises(ValueError, match="no target"):
        choose([], 0.5)


@given(
    weights=st.lists(st.integers(1, MAX_WEIGHT), min_size=1, max_size=8),
    opened=st.sets(st.integers(0, 7)),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_an_open_target_is_chosen_only_where_all_are(weights, opened, draw):
    targets = [TargetHealth(Clock(), COOLDOWN, weight) for weight in weights]
    for index in opened & set(range(len(targets))):
        fail(targets[index], 3)
    chosen = targets[choose(targets, draw)]
    assert chosen.is_free or not any(target.is_free for target in targets)


@TABLES.each("retry_after_is_seconds_or_a_date")
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=80))
def test_any_other_retry_after_is_none_or_a_time(value):
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


class Breaker(RuleBasedStateMachine):
    """Attempts that begin, end in any order and any way, or never, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.target = TargetHealth(self.clock, COOLDOWN)
        self.running: list[Attempt] = []

    @rule(seconds=st.sampled_from([0.5, 9.5, 10, 30, 61]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule()
    def begin(self) -> None:
        was_free, was_half_open = self.target.is_free, self.target.state == "half_open"
        attempt = self.target.begin()
        assert attempt.is_probe == (was_free and was_half_open)
        if attempt.is_probe:
            assert not self.target.is_free
        self.running.append(attempt)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        attempt, before = self._ended(data), self.target.state
        self.target.succeeded(attempt)
        assert self.target.state in (before, "closed")
        if attempt.is_probe and self.target.state == "closed":
            assert self.target.is_free

    @precondition(lambda self: self.running)
    @rule(data=st.data(), asked_s=st.none() | st.integers(0, 10**9))
    def fail(self, data: st.DataObject, asked_s: int | None) -> None:
        attempt, before = self._ended(data), self.target.state
        self.target.failed(attempt, asked_s)
        assert self.target.state in (before, "open")

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        attempt, before = self._ended(data), self.target.state
        self.target.abandoned(attempt)
        assert self.target.state == before

    def _ended(self, data: st.DataObject) -> Attempt:
        return self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))

    @invariant()
    def it_is_free_within_its_bounds(self) -> None:
        longest_s = max(COOLDOWN.seconds, COOLDOWN.retry_after_s, COOLDOWN.probe_s)
        assert 0 <= self.target.wait_s <= longest_s
        assert (self.target.wait_s == 0) == self.target.is_free

    @invariant()
    def a_closed_target_is_free(self) -> None:
        assert self.target.state != "closed" or self.target.is_free


TestBreaker = Breaker.TestCase
