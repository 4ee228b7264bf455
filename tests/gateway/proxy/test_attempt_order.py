"""Which attempt comes next, and when, without a provider: the order, the waits, the bounds."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.defaults import AttemptSettings, EstimateSettings
from gateway.proxy.attempts import (
    Attempts,
    Failure,
    failure_of_error,
    failure_of_status,
    first_choice,
    note_failure,
)
from gateway.proxy.candidates import Candidate, Destination, Target
from gateway.proxy.headers import Fixed
from gateway.upstream.base import (
    AccountBusy,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.health import Cooldown, TargetHealth

FAILED = Failure("503")
ESTIMATE = EstimateSettings()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def target(name: str, clock: Clock, failures: int = 1) -> Target:
    health = TargetHealth(clock, Cooldown(failures, 30.0))
    return Target(name, "", Fixed.of(None, {}), "max_tokens", False, health, b"")


def destination(name: str, targets: Sequence[Target]) -> Destination:
    return Destination(name, cast("Candidate", SimpleNamespace(entry=name)), tuple(targets))


class Request:
    """What `Attempts` turns, as a request's context does."""

    def __init__(self, destinations: Sequence[Destination]) -> None:
        first, self.target, self.further = first_choice(destinations, 0.0)
        self.targets = first.targets
        self.attempts = 1

    def turn(self, following: Destination, target: Target, _: EstimateSettings) -> None:
        self.further = self.further[self.further.index(following) + 1 :]
        self.targets = following.targets
        self.target = target

    def turn_to(self, target: Target) -> None:
        self.target = target


def tried(
    destinations: Sequence[Destination],
    rules: AttemptSettings,
    clock: Clock,
    failure: Failure = FAILED,
    takes_s: float = 0.0,
) -> tuple[list[str], list[float]]:
    """The targets that a request asks where each attempt fails so, and its waits."""
    request: Any = Request(destinations)
    attempts = Attempts(rules, clock())
    names, waits = [request.target.url], []
    while True:
        clock.now_s += takes_s
        note_failure(request.target.health, request.target.health.begin(), failure)
        wait_s = attempts.next(request, failure, ESTIMATE, clock(), 0.0)
        if wait_s is None:
            return names, waits
        clock.now_s += wait_s
        request.attempts += 1
        names.append(request.target.url)
        waits.append(wait_s)


def two_providers(clock: Clock, failures: int = 1) -> list[Destination]:
    return [
        destination("one", [target("one/0", clock, failures), target("one/1", clock, failures)]),
        destination("two", [target("two/0", clock, failures)]),
    ]


def test_targets_come_before_retries_and_retries_before_fallbacks():
    clock = Clock()
    rules = AttemptSettings(max_attempts=9, retries=2, retry_backoff_ms=1000)
    assert tried(two_providers(clock, failures=9), rules, clock) == (
        ["one/0", "one/1", "one/0", "one/0", "two/0", "two/0", "two/0"],
        [0.0, 0.5, 1.0, 0.0, 0.5, 1.0],
    )


def test_nobody_waits_for_a_provider_that_is_left_alone_while_another_is_not():
    clock = Clock()
    rules = AttemptSettings(max_attempts=9, retries=1, retry_backoff_ms=1000)
    names, _ = tried(two_providers(clock), rules, clock)
    assert names == ["one/0", "one/1", "two/0", "two/0"]  # the last one has nobody behind it


def test_a_fallback_that_is_left_alone_is_passed_over():
    clock = Clock()
    one, two = two_providers(clock)
    health = two.targets[0].health
    health.failed(health.begin())
    assert tried([one, two], AttemptSettings(), clock)[0] == ["one/0", "one/1"]


@pytest.mark.parametrize(
    ("failure", "names"),
    [
        (Failure("401", again=False), ["one/0", "one/1", "two/0"]),
        (Failure("busy", again=False, elsewhere=False, counts=False), ["one/0"]),
        (Failure("busy", again=False, counts=False), ["one/0", "one/1", "two/0"]),
    ],
)
def test_what_a_failure_allows(failure, names):
    clock = Clock()
    assert tried(two_providers(clock, 9), AttemptSettings(retries=3, max_attempts=9), clock, failure)[0] == names


@pytest.mark.parametrize(("asked_s", "waits"), [(None, [0.125]), (0.0, [0.125]), (3.0, [3.0]), (4.5, [])])
def test_a_wait_is_as_long_as_retry_after_asks_or_there_is_no_retry(asked_s, waits):
    clock = Clock()
    only = [destination("one", [target("one/0", clock, 9)])]
    failure = Failure("429", retry_after_s=asked_s)
    assert tried(only, AttemptSettings(retries=1, retry_wait_s=4.0), clock, failure)[1] == waits


def test_no_attempt_begins_beyond_the_deadline():
    clock = Clock()
    only = [destination("one", [target("one/0", clock, 99)])]
    rules = AttemptSettings(
        max_attempts=32, retries=10, retry_backoff_ms=2000, retry_wait_s=2.0, attempts_deadline_s=10.0
    )
    names, _ = tried(only, rules, clock, takes_s=3.0)
    assert len(names) == 3  # begun at 0, at 4 and at 9: the wait after 7 s may still end before 10 s
    assert Attempts(rules, 0.0).timeout_s(4.0) == 6.0
    assert Attempts(AttemptSettings(attempt_timeout_s=1.0, attempts_deadline_s=10.0), 0.0).timeout_s(4.0) == 1.0


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    failures=st.integers(1, 4),
    most=st.integers(1, 32),
    retries=st.integers(0, 10),
    failure=st.builds(
        Failure,
        st.just("x"),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.none() | st.floats(0, 100),
    ),
)
def test_attempts_end_in_order_and_within_their_bounds(shape, failures, most, retries, failure):
    clock = Clock()
    made = [
        destination(str(place), [target(f"{place}/{each}", clock, failures) for each in range(count)])
        for place, count in enumerate(shape)
    ]
    rules = AttemptSettings(max_attempts=most, retries=retries)
    names, waits = tried(made, rules, clock, failure)
    assert 1 <= len(names) <= most
    places = [int(name.partition("/")[0]) for name in names]
    assert places == sorted(places)  # nobody goes back to a candidate
    assert all(0 <= wait_s <= rules.retry_wait_s for wait_s in waits)
    assert sum(wait_s > 0 for wait_s in waits) <= retries * len(shape)
    assert clock.now_s <= rules.attempts_deadline_s
    if not failure.again:
        assert len(set(names)) == len(names)


def test_the_first_choice_is_the_first_candidate_that_is_well():
    clock = Clock()
    one, two = two_providers(clock)
    assert first_choice([one, two], 0.99) == (one, one.targets[1], (two,))
    for each in one.targets:
        each.health.failed(each.health.begin())
        clock.now_s += 1
    assert first_choice([one, two], 0.0) == (two, two.targets[0], ())
    two.targets[0].health.failed(two.targets[0].health.begin())
    first, chosen, further = first_choice([one, two], 0.0)  # none is: the first one's that is free first
    assert (first, chosen, further) == (one, one.targets[0], (two,))


@pytest.mark.parametrize(
    ("status", "headers", "failure"),
    [
        (400, {}, None),
        (402, {}, None),
        (404, {}, None),
        (409, {}, None),
        (429, {"Retry-After": "7"}, Failure("429", retry_after_s=7.0)),
        (503, {"retry-after": "7", "Retry-After-Ms": "1500"}, Failure("503", retry_after_s=1.5)),
        (500, {"Retry-After": "soon"}, Failure("500")),
        (529, {"retry-after-ms": "-1"}, Failure("529")),
        (408, {}, Failure("408")),
        (401, {}, Failure("401", again=False)),
        (403, {}, Failure("403", again=False, counts=False)),
    ],
)
def test_how_a_status_failed(status, headers, failure):
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert failure_of_status(status, raw) == failure


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (UpstreamUnreachable("x"), Failure("unreachable")),
        (UpstreamTimeout("x"), Failure("timeout")),
        (UpstreamError("x"), Failure("unreachable")),
        (UpstreamBusy("x"), Failure("busy", again=False, counts=False)),
        (AccountBusy("x"), Failure("busy", again=False, elsewhere=False, counts=False)),
    ],
)
def test_how_an_error_failed(error, failure):
    assert failure_of_error(error) == failure
