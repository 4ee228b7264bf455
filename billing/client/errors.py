"""What a client of the billing API gets: an answer as it came, or the way that a call has failed.

ClientError
+-- Refused       the gateway answered with an error: `status`, `code`, `message`, and all of it as `error`
+-- Unreachable   no answer, or not in time: whether the call was carried out is unknown
+-- BadAnswer     something answered, but not what the billing API answers: with its `status`
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from billing.errors import MetergateError
from billing.schemas.base import ErrorEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping

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
