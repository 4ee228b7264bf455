"""What a client of the billing API gets: an answer as it came, or the way that a call has failed; and which failures of
a service's call are worth another try, and when: every write of a service has an event's id, so that sending it again
is harmless, it is charged once.

ClientError
+-- Refused       the gateway answered with an error: `status`, `code`, `message`, and all of it as `error`
+-- Unreachable   no answer, or not in time: whether the call was carried out is unknown
+-- BadAnswer     something answered, but not what the billing API answers: with its `status`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from billing.errors import MetergateError
from billing.schemas.base import ErrorEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping, Set


_SECONDS: Final = re.compile(r"\d{1,9}", re.ASCII)


class Exchanged(NamedTuple):
    """An answer as it came; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ClientError(MetergateError):
    """A call did not bring what was asked for. The message is fit for a reader and holds no secret. `status` is the
    answer's, None where there was none; `retry_after_s` what it said to wait."""

    status: int | None = None


class Refused(ClientError):
    """The gateway answered with an error. `error` is what stands inside the envelope's `error`, every field of it."""

    status: int

    def __init__(
        self, status: int, code: str, message: str, error: dict[str, Any], retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.error = status, code, message, error
        self.retry_after_s = retry_after_s


class Unreachable(ClientError):
    """No answer from `url`, or not in time."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} is unreachable: {why}.")
        self.url = url


class BadAnswer(ClientError):
    """What answered at `url` does not speak the billing API."""

    def __init__(self, url: str, why: str, status: int | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(f"{url} does not answer like Metergate: {why}.")
        self.url, self.status, self.retry_after_s = url, status, retry_after_s


def refusal(answered: Exchanged, url: str) -> ClientError:
    """Return the failure of an answer that is no success."""
    wait = answered.headers.get("retry-after", "")
    retry_after_s = int(wait) if _SECONDS.fullmatch(wait) else None
    try:
        envelope = msgspec.json.decode(answered.body)
        msgspec.convert(envelope, ErrorEnvelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        why = f"HTTP {answered.status} without Metergate's error"
        return BadAnswer(url, why, answered.status, retry_after_s)
    error = envelope["error"]
    return Refused(answered.status, error["code"], error["message"], error, retry_after_s)


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
