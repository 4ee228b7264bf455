"""Which attempt a request makes next, and when: other targets, retries, fallbacks. Pure: clock and draw are passed in.

An attempt that failed before its answer began costs the account nothing (docs/limits.md), so that one attempt of a
request is charged at most. After a failure, in this order, as far as `max_attempts` and `attempts_deadline_s` go:

1. another target of the same provider that is not in its cool-down, once each;
2. the same provider again, `retries` times, after a wait that doubles, or as long as its Retry-After asks; not where
   all its targets are in their cool-down and another candidate is left;
3. the next candidate with a target that is not in its cool-down, and there the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.upstream.base import AccountBusy, UpstreamBusy, UpstreamError, UpstreamTimeout
from gateway.upstream.health import choose, parse_retry_after

if TYPE_CHECKING:
    from gateway.config.defaults import AttemptSettings, EstimateSettings
    from gateway.proxy.candidates import Destination, Target
    from gateway.proxy.context import RequestContext
    from gateway.upstream.base import RawHeaders
    from gateway.upstream.health import Attempt, TargetHealth

# Statuses by which a provider refuses the operator's key, whoever asks.
KEY_REFUSED: Final = frozenset({401, 403})
TOO_MANY: Final = 429
REQUEST_TIMEOUT: Final = 408
SERVER_ERROR: Final = 500
_MILLISECONDS: Final = 1_000
_MILLISECONDS_DIGITS: Final = 9


def first_timeout_s(settings: AttemptSettings, silence_s: float) -> float | None:
    """Return how long a first attempt's answer may take to begin; None where the silence of the provider, which its
    connection bounds to `silence_s`, ends it no later."""
    bound_s = min(settings.attempt_timeout_s or settings.attempts_deadline_s, settings.attempts_deadline_s)
    return bound_s if bound_s < silence_s else None


class Failure(NamedTuple):
    """How an attempt failed before its answer began. `reason` is a label of metrics."""

    reason: str
    again: bool = True
    """Whether the same target may be asked again."""
    elsewhere: bool = True
    """Whether another target or candidate may be asked."""
    counts: bool = True
    """Whether it shows that the target is not healthy."""
    retry_after_s: float | None = None


def note_failure(health: TargetHealth, attempt: Attempt, failure: Failure) -> None:
    """Tell a target's health how an attempt there has failed."""
    if failure.counts:
        health.failed(attempt, failure.retry_after_s)
    else:
        health.abandoned(attempt)


def failure_of_status(status: int, headers: RawHeaders) -> Failure | None:
    """Return how an answer with this status failed; None where it is an answer, or a refusal of what the client sent.

    A refused key is the operator's fault, and another key or provider may do. A 403 may be about what the client asked
    for, and does not count against the target.
    """
    if status in (TOO_MANY, REQUEST_TIMEOUT) or status >= SERVER_ERROR:
        return Failure(str(status), retry_after_s=_retry_after(headers))
    if status in KEY_REFUSED:
        return Failure(str(status), again=False, counts=status != 403)
    return None


def failure_of_error(error: UpstreamError) -> Failure:
    """Return how an attempt failed that got no answer. Connections of ours that are all in use say nothing about the
    provider; an account that has its share of them gets no other provider's."""
    match error:
        case AccountBusy():
            return Failure("busy", again=False, elsewhere=False, counts=False)
        case UpstreamBusy():
            return Failure("busy", again=False, counts=False)
        case UpstreamTimeout():
            return Failure("timeout")
    return Failure("unreachable")


def _retry_after(headers: RawHeaders) -> float | None:
    """Return the seconds that an answer's headers ask to wait; OpenAI's SDKs read `retry-after-ms` first."""
    found = None
    for name, value in headers:
        lower = name.lower()
        if lower == b"retry-after-ms" and value.strip().isdigit() and len(value) <= _MILLISECONDS_DIGITS:
            return int(value) / _MILLISECONDS
        if lower == b"retry-after":
            found = parse_retry_after(value.decode("latin-1"), datetime.now(UTC))
    return found


class Attempts:
    """What a request has tried, made when its first attempt has failed."""

    __slots__ = ("_asked", "_began_s", "_retries", "_settings")

    def __init__(self, settings: AttemptSettings, began_s: float) -> None:
        """`began_s` is when the first attempt began, by the clock that `next` is told."""
        self._settings = settings
        self._began_s = began_s
        self._asked: list[Target] = []
        self._retries = 0

    def next(
        self, context: RequestContext, failure: Failure, estimate: EstimateSettings, now_s: float, draw: float
    ) -> float | None:
        """Turn the request to what is asked next, and return the seconds to wait before; None where the failure is the
        answer. `draw` is from 0 up to 1 (excluded)."""
        self._asked.append(context.target)
        left_s = self._began_s + self._settings.attempts_deadline_s - now_s
        if not failure.elsewhere or context.attempts >= self._settings.max_attempts or left_s <= 0:
            return None
        other = _free([target for target in context.targets if target not in self._asked], draw)
        if other is not None:
            context.turn_to(other)
            return 0.0
        following = next((each for each in context.further if _free(each.targets, draw)), None)
        wait_s = self._wait_s(failure, draw)
        open_here = _free(context.targets, draw)
        if wait_s is not None and wait_s < left_s and (open_here is not None or following is None):
            self._retries += 1
            context.turn_to(open_here or _soonest(context.targets, draw))
            return wait_s
        if following is None:
            return None
        self._retries = 0
        target = _free(following.targets, draw)
        context.turn(following, target or following.targets[0], estimate)
        return 0.0

    def timeout_s(self, now_s: float) -> float | None:
        """Return how long a further attempt's answer may take to begin, in seconds."""
        left_s = max(0.0, self._began_s + self._settings.attempts_deadline_s - now_s)
        return left_s if self._settings.attempt_timeout_s is None else min(left_s, self._settings.attempt_timeout_s)

    def _wait_s(self, failure: Failure, draw: float) -> float | None:
        """Return the wait before the same provider is asked again; None where it is not."""
        if not failure.again or self._retries >= self._settings.retries:
            return None
        backoff_s = (
            min(self._settings.retry_wait_s, self._settings.retry_backoff_ms / 1000 * 2**self._retries) * (1 + draw) / 2
        )
        wait_s = max(backoff_s, failure.retry_after_s or 0.0)
        return wait_s if wait_s <= self._settings.retry_wait_s else None


def first_choice(
    destinations: Sequence[Destination], draw: float
) -> tuple[Destination, Target, tuple[Destination, ...]]:
    """Return the destination and target of a request's first attempt, and the destinations that may be asked after it:
    those with a target that is not in its cool-down, in their order. Where there is none, the first destination's
    target that is free first is asked, and then the others."""
    usable = [each for each in destinations if _free(each.targets, draw) is not None]
    if not usable:
        first, *rest = destinations
        return first, _soonest(first.targets, draw), tuple(rest)
    first, *rest = usable
    return first, _free(first.targets, draw) or first.targets[0], tuple(rest)


def _free(targets: Sequence[Target], draw: float) -> Target | None:
    """Return one of the targets that are not in their cool-down, by weight; None where all are."""
    free = [target for target in targets if target.health.is_free]
    return _soonest(free, draw) if free else None


def _soonest(targets: Sequence[Target], draw: float) -> Target:
    return targets[choose([target.health for target in targets], draw)]
