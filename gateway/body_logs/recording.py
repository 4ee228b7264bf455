"""Which requests are recorded, what of them is kept in memory until they are over, and the queue of those that are.

Nothing here waits, and nothing is copied: bytes that pass are kept as they are. What runs and what waits counts
together, in bytes and in requests, and an account has its share of both; a request that no longer fits is dropped and
counted, and passes as if it was never recorded.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from multidict import istr

from billing.money import MILLION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from billing.principals import Principal
    from gateway.config.body_logs import BodyLogConfig
    from gateway.dialects.base import Match
    from gateway.dialects.facts import ParsedRequest

HEADER: Final = istr("X-Metergate-Body-Log")
OFF: Final = "off"
# What a piece of an answer takes beside its bytes.
PIECE_BYTES: Final = 96
# What a request takes beside its bodies.
REQUEST_BYTES: Final = 1_024


class Exchange(Protocol):
    """What is asked of a client's request and its answer (`gateway.server.exchange.Exchange`)."""

    match: Match
    whole: bool

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def ended_for(self) -> str: ...


class Recorded(Protocol):
    """A request that begins (`gateway.proxy.course.Course`)."""

    request_id: str
    started_s: float

    @property
    def exchange(self) -> Exchange: ...


class Entry(msgspec.Struct):
    """A request that is over. Bodies are as they passed, `request` None where it is too large; `pieces` are those of an
    answer, `lines` its headers. Without `status` none has begun; `ended` says why the client has not got all of it."""

    request_id: str
    account_id: str
    key_id: str
    at_ms: int
    endpoint: str
    model: str
    stream: bool
    request: bytes | None
    request_bytes: int
    taken_bytes: int
    status: int = 0
    lines: bytes = b""
    pieces: list[bytes] = []
    response_bytes: int = 0
    is_cut: bool = False
    ended: str | None = None
    latency_ms: int = 0


class Recording:
    """One request; it is told of what its client is sent."""

    __slots__ = ("_entry", "_exchange", "_log", "_started_s")

    def __init__(self, log: BodyLog, exchange: Exchange, started_s: float, entry: Entry) -> None:
        """`entry` is what is known of it so far."""
        self._log: BodyLog | None = log
        self._exchange = exchange
        self._started_s = started_s
        self._entry = entry

    def began(self, status: int, lines: bytes) -> None:
        """Note the head of an answer; one that takes the place of another, of which nothing is out, begins anew."""
        entry = self._entry
        entry.status, entry.lines, entry.response_bytes = status, lines, 0
        entry.pieces.clear()

    def wrote(self, data: bytes) -> None:
        """Keep a piece of an answer, unless that is too large."""
        log, entry, size = self._log, self._entry, len(data)
        entry.response_bytes += size
        if log is None or entry.is_cut or not size:
            return
        size += PIECE_BYTES
        if entry.response_bytes > log.config.max_body_bytes:
            entry.is_cut = True
        elif log.take(entry.account_id, 0, size):
            entry.taken_bytes += size
            entry.pieces.append(data)
        else:
            self._log, entry.pieces, entry.request = None, [], None
            log.drop(entry.account_id, 1, entry.taken_bytes)

    def ended(self, cut: str | None = None) -> None:
        """Have it written soon. `cut` says why its provider's answer has no end, where it has none."""
        log, exchange, entry = self._log, self._exchange, self._entry
        del self._exchange
        if log is None:
            return
        if not exchange.whole:
            entry.is_cut, entry.ended = True, cut or exchange.ended_for
        entry.latency_ms = round((log.clock() - self._started_s) * 1000)
        log.put(entry)


class BodyLog:
    """What is recorded of one process. `draw` is from 0 up to 1 (excluded); `clock` is monotonic, in seconds, and
    `wall_clock` in Unix seconds."""

    def __init__(
        self,
        config: BodyLogConfig,
        *,
        draw: Callable[[], float] = random.random,  # noqa: S311
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.clock, self.wall_clock = clock, wall_clock
        self.waiting: dict[str, deque[Entry]] = {}
        """Requests that are over, by account; that which waits longest has the first place."""
        self.dropped = 0
        """Requests that were not written: too many waited, or could not be written at the end."""
        self.size_bytes = self.requests = 0
        self._draw, self._ratio = draw, config.sample / MILLION
        self._bytes_of, self._requests_of = Counter[str](), Counter[str]()
        share = config.account_share
        self._account_bytes = config.waiting_bytes * share // MILLION
        self._account_requests = max(1, config.waiting_requests * share // MILLION)

    def begin(self, course: Recorded, principal: Principal, parsed: ParsedRequest, body: bytes) -> Recording | None:
        """Return what records a request; None of one that is not recorded."""
        config, account_id, exchange = self.config, principal.account_id, course.exchange
        if not config.covers(account_id) or principal.key_id in config.excepted or self._draw() >= self._ratio:
            return None
        if config.client_opt_out and exchange.headers.get(HEADER, "").strip().lower() == OFF:
            return None
        fits = len(body) <= config.max_body_bytes
        size = REQUEST_BYTES + (len(body) if fits else 0)
        if not self.take(account_id, 1, size):
            self.dropped += 1
            return None
        entry = Entry(
            request_id=course.request_id,
            account_id=account_id,
            key_id=principal.key_id,
            at_ms=int(self.wall_clock() * 1000),
            endpoint=exchange.match.endpoint.path,
            model=parsed.model,
            stream=parsed.stream,
            request=body if fits else None,
            request_bytes=len(body),
            taken_bytes=size,
        )
        return Recording(self, exchange, course.started_s, entry)

    def take(self, account_id: str, requests: int, size: int) -> bool:
        """Take room for so much more of an account; False where there is none."""
        most = self.config
        bytes_of, requests_of = self._bytes_of[account_id] + size, self._requests_of[account_id] + requests
        if (
            self.size_bytes + size > most.waiting_bytes
            or self.requests + requests > most.waiting_requests
            or bytes_of > self._account_bytes
            or requests_of > self._account_requests
        ):
            return False
        self.size_bytes += size
        self.requests += requests
        self._bytes_of[account_id], self._requests_of[account_id] = bytes_of, requests_of
        return True

    def free(self, account_id: str, requests: int, size: int) -> None:
        """Give room back."""
        self.size_bytes -= size
        self.requests -= requests
        self._bytes_of[account_id] -= size
        self._requests_of[account_id] -= requests
        if not self._requests_of[account_id]:
            del self._bytes_of[account_id], self._requests_of[account_id]

    def drop(self, account_id: str, requests: int, size: int) -> None:
        """Give room back of requests that are not written."""
        self.dropped += requests
        self.free(account_id, requests, size)

    def put(self, entry: Entry) -> None:
        """Have a request that is over wait."""
        self.waiting.setdefault(entry.account_id, deque()).append(entry)

    def batch(self, most_bytes: int) -> list[Entry]:
        """Return requests of the account that waits longest, which wait no more but keep their room."""
        account_id, waiting = next(iter(self.waiting.items()))
        found, size = list[Entry](), 0
        while waiting and (not found or size + waiting[0].taken_bytes <= most_bytes):
            found.append(waiting.popleft())
            size += found[-1].taken_bytes
        del self.waiting[account_id]
        if waiting:
            self.waiting[account_id] = waiting  # behind the others
        return found
