"""The health of providers' targets (a base URL with a key): which of them to try. Pure: clock and draw are passed in.

A target is a circuit breaker (https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker):

    closed     --`failures` failures in a row, or one that says Retry-After-->            open
    open       --its cool-down is over-->                                                half-open
    half-open  --one attempt, the probe, is made; it succeeds-->                         closed
    half-open  --the probe fails-->                                                      open

While a probe runs nobody else tries the target; one that has not ended after `probe_s` no longer keeps others out. An
attempt that began before the state last changed changes nothing when it ends: a failure from before a recovery is no
news. Health never refuses a request: where every target is open, the one whose cool-down ends first is tried.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from billing.settings import check_bounds, within

State = Literal["closed", "open", "half_open"]

MAX_FAILURES: Final = 1_000
MAX_COOLDOWN_S: Final = 3_600.0
MAX_WEIGHT: Final = 1_000_000
# Of a Retry-After in seconds; a longer one is no time that anybody waits for.
_SECONDS_DIGITS: Final = 9


class Cooldown(msgspec.Struct, frozen=True):
    """When a target is left alone, and for how long. Raises `ValueError` out of range."""

    failures: Annotated[int, within(1, MAX_FAILURES, "failures in a row that open a target")] = 3
    seconds: Annotated[float, within(0.1, MAX_COOLDOWN_S, "length of a cool-down")] = 30.0
    retry_after_s: Annotated[
        float,
        within(0, MAX_COOLDOWN_S, "longest cool-down that a provider's Retry-After can ask for; 0: it is ignored"),
    ] = 60.0
    probe_s: Annotated[float, within(1, 86_400, "how long a probe keeps other attempts out")] = 60.0

    def __post_init__(self) -> None:
        check_bounds(self)


class Attempt(NamedTuple):
    """One attempt at a target, for the target that began it to be told how it ended."""

    generation: int
    is_probe: bool


class TargetHealth:
    """The circuit breaker of one target; `clock` returns monotonic seconds."""

    __slots__ = (
        "_clock",
        "_cooldown",
        "_failures",
        "_open_until_s",
        "_probe_until_s",
        "generation",
        "on_change",
        "sound",
        "weight",
    )

    def __init__(self, clock: Callable[[], float], cooldown: Cooldown, weight: int = 1) -> None:
        """`weight` is the target's share of the requests among those that can be tried. Raises `ValueError` unless it
        is from 1 to MAX_WEIGHT."""
        if not 1 <= weight <= MAX_WEIGHT:
            raise ValueError(f"weight must be from 1 to {MAX_WEIGHT}")
        self.weight = weight
        self._clock = clock
        self._cooldown = cooldown
        self.generation = 0
        """The number of changes of state so far: what an attempt on a sound target began in."""
        self.sound = True
        """Whether it is closed and its last attempt did not fail: then a success changes nothing, and need not be
        told."""
        self.on_change: Callable[[], None] | None = None
        """Called where an attempt here has opened or closed the target; not for what another process has found."""
        self._failures = 0
        self._open_until_s: float | None = None
        self._probe_until_s: float | None = None

    @property
    def state(self) -> State:
        """Return the state now."""
        if self._open_until_s is None:
            return "closed"
        return "open" if self._clock() < self._open_until_s else "half_open"

    @property
    def is_free(self) -> bool:
        """Return whether an attempt may be made now: closed, or half-open without a probe."""
        state = self.state
        return state == "closed" or (state == "half_open" and not self._is_probed())

    @property
    def wait_s(self) -> float:
        """Return the seconds until the target is free by time alone; 0 where it is free."""
        if self.is_free or self._open_until_s is None:
            return 0.0
        return max(self._open_until_s, self._probe_until_s or 0.0) - self._clock()

    def begin(self) -> Attempt:
        """Begin an attempt, whether the target is free or not; tell `succeeded`, `failed` or `abandoned` its end."""
        is_probe = self.state == "half_open" and not self._is_probed()
        if is_probe:
            self._probe_until_s = self._clock() + self._cooldown.probe_s
            self.generation += 1
        return Attempt(self.generation, is_probe)

    def succeeded(self, attempt: Attempt) -> None:
        """End an attempt that the provider answered: the target is closed."""
        if attempt.generation != self.generation:
            return
        self._failures = 0
        self.sound = True
        if self._open_until_s is not None:
            self._close()
            if self.on_change is not None:
                self.on_change()

    def failed(self, attempt: Attempt, retry_after_s: float | None = None) -> None:
        """End an attempt that failed at the provider; `retry_after_s` is what it asked for, in seconds, if anything."""
        if attempt.generation != self.generation:
            return
        self.sound = False
        self._failures = min(self._failures + 1, MAX_FAILURES)
        asked_s = min(retry_after_s or 0.0, self._cooldown.retry_after_s)
        was_open = self._open_until_s is not None
        if was_open or self._failures >= self._cooldown.failures:
            self._open_for(max(self._cooldown.seconds, asked_s))
        elif asked_s > 0:
            self._open_for(asked_s)
        else:
            return
        if self.on_change is not None:
            self.on_change()

    def adopt_open(self, seconds: float) -> None:
        """Take over from another process that the target is open for so many seconds, 0 or less: half-open. One that is
        open here for longer stays so."""
        until_s = self._clock() + max(0.0, seconds)
        if self._open_until_s is None or until_s > self._open_until_s:
            self._open_for(max(0.0, seconds))
            self.sound = False

    def adopt_closed(self) -> None:
        """Take over from another process that the provider answers there."""
        self._failures = 0
        self.sound = True
        if self._open_until_s is not None:
            self._close()

    def abandoned(self, attempt: Attempt) -> None:
        """End an attempt that shows nothing about the provider, such as one whose client left; another request may
        probe the target."""
        if attempt.is_probe and attempt.generation == self.generation:
            self._probe_until_s = None

    def _close(self) -> None:
        self._open_until_s = self._probe_until_s = None
        self.generation += 1

    def _open_for(self, seconds: float) -> None:
        self._open_until_s, self._probe_until_s = self._clock() + seconds, None
        self.generation += 1

    def _is_probed(self) -> bool:
        return self._probe_until_s is not None and self._clock() < self._probe_until_s


def choose(targets: Sequence[TargetHealth], draw: float) -> int:
    """Return the index of the target to try: of the free ones by weight, with `draw` from 0 up to 1 (excluded); where
    none is free, the one that is free first. Raises `ValueError` without targets."""
    if not targets:
        raise ValueError("there is no target to choose from")
    if len(targets) == 1:
        return 0
    free = [index for index, target in enumerate(targets) if target.is_free]
    if not free:
        return min(range(len(targets)), key=lambda index: targets[index].wait_s)
    point = draw * sum(targets[index].weight for index in free)
    for index in free:
        point -= targets[index].weight
        if point < 0:
            return index
    return free[-1]


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, not below 0; None for what is neither a whole number of
    seconds nor an HTTP date (RFC 9110, 10.2.3). `now` is a time with its zone."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[-_SECONDS_DIGITS:]) if len(text) <= _SECONDS_DIGITS else None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:  # "-0000", which says that the zone is not known
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())
