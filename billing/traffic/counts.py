"""Counts of refusals and of providers' answers, and what follows from them. Pure.

An attempt at a provider either fails before its answer begins (`failed`), or its head arrives (`head`). A failure that
is passed on to the client, because nothing else was left to try, is both: `passed_on` says how many heads were none
that anybody wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Final, NamedTuple

# What is counted.
REFUSED, FAILED, PASSED_ON, HEAD, FIRST_BYTE = "refused", "failed", "passed_on", "head", "first_byte"
# Codes of refusals that are no limit of a customer's: something here or at a provider has failed.
ERRORS: Final = frozenset({"temporarily_unavailable", "upstream_error", "upstream_timeout"})
# Statuses of an answer that say that the provider has failed, and not its client.
_FIRST_ERROR: Final = 500
_ALSO_ERRORS: Final = frozenset({"401", "403", "408", "429"})
# A failure that says nothing about the provider: the gateway's own connections to it are all in use.
BUSY: Final = "busy"
# Upper bounds of the buckets of times, in milliseconds; a last bucket has what is longer.
BOUNDS_MS: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000)
_NONE: Final = (0,) * (len(BOUNDS_MS) + 1)


class Counted(NamedTuple):
    """A count; of times also how many were in each bucket."""

    what: str
    name: str
    detail: str
    number: int
    buckets: tuple[int, ...] | None = None


class Change(NamedTuple):
    """A circuit that opened or closed, at a Unix time; `reason` is the last failure of its provider."""

    provider: str
    target: int
    at_s: float
    state: str
    reason: str


class Failure(NamedTuple):
    """The last failure of a provider, at a Unix time."""

    provider: str
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """What was refused, and what has failed, in one step of time."""

    start: datetime
    refused: int
    errors: int


@dataclass(slots=True)
class ProviderTraffic:
    """How a provider has answered within a time: attempts by how they failed, and how long answers took to begin (the
    `head`), and streams to their first byte, in buckets of `BOUNDS_MS`."""

    failed: dict[str, int] = field(default_factory=dict)
    passed_on: dict[str, int] = field(default_factory=dict)
    head: tuple[int, ...] = _NONE
    first_byte: tuple[int, ...] = _NONE

    @property
    def failures(self) -> int:
        """Return how many attempts the provider has failed."""
        return sum(count for reason, count in self.failed.items() if reason != BUSY)

    @property
    def attempts(self) -> int:
        """Return how many attempts there were: those that failed, and heads of answers that were none of these."""
        unwanted = sum(count for status, count in self.passed_on.items() if is_error(status))
        return self.failures + max(0, sum(self.head) - unwanted)

    @property
    def error_hundredths(self) -> int:
        """Return the share of attempts that failed, in hundredths of a percent, rounded down."""
        return self.failures * 10_000 // self.attempts if self.attempts else 0


@dataclass(frozen=True, slots=True)
class CircuitChange:
    """When a circuit opened or closed, and after which failure."""

    provider: str
    target: int
    at: datetime
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The last failed attempt at a provider: a status, `timeout` or `unreachable`."""

    at: datetime
    reason: str


def is_error(status: str) -> bool:
    """Return whether a provider has failed by answering with this status."""
    return status in _ALSO_ERRORS or (status.isdecimal() and int(status) >= _FIRST_ERROR)


def quantile_ms(buckets: Sequence[int], percent: int) -> int | None:
    """Return the time within which so many percent were, in milliseconds, taken as even within a bucket; None where
    there is none. What is above the last bound is taken for it."""
    total = sum(buckets)
    if not total:
        return None
    rank = (total * percent + 99) // 100
    below = 0
    for at, upto in enumerate(accumulate(buckets)):
        if upto >= rank:
            if at == len(BOUNDS_MS):
                return BOUNDS_MS[-1]
            lower = BOUNDS_MS[at - 1] if at else 0
            return lower + (BOUNDS_MS[at] - lower) * (rank - below) // (upto - below)
        below = upto
    raise AssertionError("the last of the sums is the total")


def add_buckets(before: tuple[int, ...], more: Iterable[int] | None) -> tuple[int, ...]:
    """Return the sum of two histograms; one of other buckets, which another release had, is left out."""
    added = tuple(more or ())
    return tuple(map(sum, zip(before, added, strict=True))) if len(added) == len(before) else before
