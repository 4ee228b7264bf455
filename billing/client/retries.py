"""Retries: which failures of a service's call are worth another try, and when. Pure.

Every write of a service has an event's id, so that sending it again is harmless: it is charged once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.client.errors import BadAnswer, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Set

    from billing.client.errors import ClientError

# Refusals with 429 that pass by themselves, and soon. `quota_exceeded` does not, and 402 needs somebody who pays.
PASSING: Final = frozenset(("capacity_held", "concurrency_exceeded", "too_many_attempts"))
ATTEMPTS: Final = frozenset(("too_many_attempts",))
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is made, and for how long in all, waits included; waits double from the first to the longest."""

    attempts: int = 6
    total_s: float = 30.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.total_s <= 0 or not 0 <= self.first_wait_s <= self.longest_wait_s:
            raise ValueError("attempts and total_s are above zero, and first_wait_s is at most longest_wait_s")

    def wait_s(self, error: ClientError, tried: int, part: float) -> float:
        """Return how long to wait after so many tries: as long as the answer says, else half to all of the step, as
        `part` (0 to 1) has it."""
        step_s = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(tried - 1, 30))
        return max(step_s * (1 + part) / 2, float(error.retry_after_s or 0))


def passes(error: ClientError, codes: Set[str] = PASSING) -> bool:
    """Return whether another try may succeed where this one failed; of 429 those with these codes."""
    match error:
        case Unreachable():
            return True
        case Refused(status=429, code=code):
            return code in codes
        case Refused(status=status) | BadAnswer(status=int(status)):
            return status >= _SERVER_ERROR or (status == _TOO_MANY and isinstance(error, BadAnswer))
    return False


def is_unsure(error: ClientError) -> bool:
    """Return whether a call that failed so may have been carried out all the same."""
    return not isinstance(error, Refused) or error.status >= _SERVER_ERROR
