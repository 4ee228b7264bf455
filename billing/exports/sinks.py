"""Sinks: the other side of an export, which takes events, or takes none now, or says which it never will; and the sink
that any endpoint for batches of CloudEvents 1.0 is (https://github.com/cloudevents/spec), such as OpenMeter's.

CloudEvents are identified by `source` and `id`. An answer that refuses a batch names none of them, so that it is halved
until it is one event that is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import aiohttp
import msgspec

from billing.errors import MetergateError
from billing.exports.events import properties, tags, units
from billing.notices.delivery import DestinationRefused, Poster
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.database.connection import Connection
    from billing.exports.events import ExportEvent

T = TypeVar("T")
# Why the other side never takes an item, by the item: a request id, or the identifier of an hour's sum.
Refusals = Mapping[str, str]

ANSWER_BYTES: Final = 1024 * 1024
# However long a `Retry-After` asks us to wait, we ask again after this.
MOST_WAIT_S: Final = 3600.0
MOST_REASON: Final = 300
# Statuses that are about what was sent. All others but 2xx are about us, or pass: the batch stays whole and waits.
REFUSING: Final = (400, 413, 422)


class SinkFailed(MetergateError):
    """The other side can't be reached or accepts nothing now. The message says why; `wait_s` is the pause that it has
    asked for."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Sink(Protocol):
    """One export's other side."""

    @property
    def name(self) -> str:
        """Return the export's name."""

    @property
    def kind(self) -> str:
        """Return the kind of the export."""

    @property
    def batch(self) -> int:
        """Return how many events are sent at a time."""

    def before(self, now: datetime) -> datetime | None:
        """Return before when events must have been written to be sent now; None: all may be."""

    async def send(self, events: Sequence[ExportEvent]) -> Refusals:
        """Send events, and return those that will never be taken. Sending the same again changes nothing at the other
        side. Raises `SinkFailed` and `DatabaseError`: some may have been taken."""

    async def accepted(self, connection: Connection, events: Sequence[ExportEvent]) -> None:
        """Write what follows, in the transaction that moves the export on. Raises `DatabaseError`."""

    async def after(self) -> bool:
        """Do what is due apart from batches, some of it; return whether there is more. Raises `SinkFailed` and
        `DatabaseError`."""

    async def close(self) -> None:
        """Close connections."""


class PlainSink:
    """A sink that sends what there is, and nothing else."""

    def before(self, now: datetime) -> datetime | None:
        """Return that all may be sent."""
        return None

    async def accepted(self, connection: Connection, events: Sequence[ExportEvent]) -> None:
        """Write nothing."""

    async def after(self) -> bool:
        """Do nothing."""
        return False

    async def close(self) -> None:
        """Close nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request with several items: all were taken; those in `refused`, by their place, never will be,
    or are there already (None), and the others are to be sent again; or one of them, unknown which, was refused."""

    kind: Literal["taken", "some", "one of them"]
    reason: str = ""
    refused: Mapping[int, str | None] = field(default_factory=dict)


TAKEN: Final = Verdict("taken")


async def deliver(items: Sequence[T], post: Callable[[Sequence[T]], Awaitable[Verdict]]) -> dict[int, str]:
    """Send items until each is taken or refused, and return why, by the place of each that is refused. What is refused
    as a whole is halved. Raises what `post` raises."""
    refused: dict[int, str] = {}
    waiting = [list(range(len(items)))]
    while waiting:
        places = waiting.pop()
        verdict = await post([items[place] for place in places])
        if verdict.kind == "taken":
            continue
        named = {places[at]: why for at, why in verdict.refused.items() if 0 <= at < len(places)}
        if verdict.kind == "some" and named:
            refused |= {place: why for place, why in named.items() if why is not None}
            left = [place for place in places if place not in named]
            waiting += [left] if left else []
        elif len(places) == 1:
            refused[places[0]] = verdict.reason
        else:
            half = len(places) // 2
            waiting += [places[half:], places[:half]]
    return refused


@dataclass(frozen=True, slots=True)
class Reply:
    """What the other side answered: its status and the beginning of its body."""

    status: int
    body: bytes

    @property
    def reason(self) -> str:
        """Return it in one line."""
        text = " ".join(self.body.decode("utf-8", "replace").split())
        return f"status {self.status}: {text}"[:MOST_REASON] if text else f"status {self.status}"


@dataclass(frozen=True, slots=True)
class Peer:
    """An endpoint over HTTP; `headers` hold its key."""

    name: str
    poster: Poster
    headers: Mapping[str, str] = field(repr=False)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a body and return the answer, where it is taken or is about what was sent. Raises `SinkFailed` for every
        other one, and for none."""
        try:
            answer = await self.poster.ask(url, body, {**self.headers, **headers}, ANSWER_BYTES)
        except DestinationRefused as error:
            raise SinkFailed(f"{self.name} can't be sent to: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise SinkFailed(f"{self.name} does not answer: {type(error).__name__}") from error
        if 200 <= answer.status < 300 or answer.status in REFUSING:
            return Reply(answer.status, answer.body)
        hint = "; check its key" if answer.status in (401, 403) else ""
        wait_s = retry_after_s(answer.headers.get("Retry-After", ""), datetime.now(UTC))
        raise SinkFailed(f"{self.name} answered with status {answer.status}{hint}", wait_s)


def retry_after_s(header: str, now: datetime) -> float:
    """Return how long a `Retry-After` asks us to wait (RFC 9110, 10.2.3: seconds, or a date), within `MOST_WAIT_S`; 0
    where it says nothing that can be read."""
    if header.strip().isascii() and header.strip().isdigit() and len(header) < 10:
        return min(MOST_WAIT_S, float(header))
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return 0.0
    if at.tzinfo is None:
        return 0.0
    return max(0.0, min(MOST_WAIT_S, (at - now).total_seconds()))


DEFAULT_TYPE: Final = "metergate.usage"


@dataclass(frozen=True, slots=True)
class CloudEventsRules:
    """Where events are sent to, and what they say of themselves. Raises `ValueError`."""

    url: str
    source: str
    type: str = DEFAULT_TYPE
    batch: int = 100

    def __post_init__(self) -> None:
        if not self.url or not self.source or not self.type or self.batch < 1:
            raise ValueError("url, source and type must be given, and batches of one event at least")


class CloudEvents(PlainSink):
    """Events at an endpoint that takes batches of CloudEvents."""

    kind: Final = "cloudevents"
    HEADERS: Final = {"Content-Type": "application/cloudevents-batch+json"}

    def __init__(self, name: str, rules: CloudEventsRules, peer: Peer) -> None:
        self.name, self.batch = name, rules.batch
        self._rules, self._peer = rules, peer

    async def close(self) -> None:
        """Close connections."""
        await self._peer.poster.close()

    async def send(self, events: Sequence[ExportEvent]) -> Refusals:
        """Send events. Raises `SinkFailed`."""
        failed = await deliver([cloud_event(event, self._rules) for event in events], self._post)
        return {events[place].request_id: why for place, why in failed.items()}

    async def _post(self, events: Sequence[Mapping[str, Any]]) -> Verdict:
        reply = await self._peer.post(self._rules.url, msgspec.json.encode(events), self.HEADERS)
        return TAKEN if reply.status < 300 else Verdict("one of them", reply.reason)


def cloud_event(event: ExportEvent, rules: CloudEventsRules) -> dict[str, Any]:
    """Return an event by CloudEvents 1.0."""
    return {
        "specversion": "1.0",
        "id": event.request_id,
        "source": rules.source,
        "type": rules.type,
        "subject": event.account_id,
        "time": rfc3339(event.admitted_at),
        "datacontenttype": "application/json",
        "data": properties(event) | {"tags": tags(event), "units": units(event)},
    }
