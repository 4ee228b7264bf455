"""Sinks: the other side of an export, which takes events, or takes none now, or says which it never will; and the sink
that any endpoint for batches of CloudEvents 1.0 is (https://github.com/cloudevents/spec), such as OpenMeter's.

Events never change once they are written, so that an event is the same whenever it is sent. CloudEvents are identified
by `source` and `id`. An answer that refuses a batch names none of them, so that it is halved until it is one event that
is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import aiohttp
import msgspec

from billing.errors import MetergateError
from billing.money import format_usd
from billing.notices.delivery import DestinationRefused, Poster
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.database.connection import Connection

# A cent is 10^7 nano-USD.
CENT_DIGITS: Final = 7
# What of an event can be summed by hour; amounts in nano-USD.
MEASURES: Final = (
    "requests",
    "total_tokens",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "charged_nano",
    "cost_nano",
)
HOUR: Final = timedelta(hours=1)


class ExportEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A row of usage_events. `wseq` is its place among all that were written; None: from before these were counted.
    `input_tokens` includes the cached ones, `output_tokens` reasoning. Amounts in nano-USD."""

    wseq: int | None
    request_id: str
    admitted_at: datetime
    created_at: datetime
    account_id: str
    user_id: str | None
    key_id: str
    endpoint: str
    feature: str
    model: str
    provider: str
    provider_model: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    counts: Mapping[str, Any] | None
    cost_nano: int
    charged_nano: int
    price_id: str
    estimated: bool
    status: int
    stream: bool
    latency_ms: int | None
    ttft_ms: int | None
    tags: Any
    end_user: str | None

    @property
    def hour(self) -> datetime:
        """Return the beginning of the hour, in UTC, in which it was admitted."""
        return self.admitted_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

    def measure(self, name: str) -> int:
        """Return how much of one of `MEASURES` it has used."""
        if name == "requests":
            return 1
        if name == "total_tokens":
            return self.input_tokens + self.output_tokens
        return int(getattr(self, name))


def unix_s(at: datetime) -> str:
    """Return a time in Unix seconds with milliseconds, as a decimal."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since // timedelta(milliseconds=1)
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def cents(nano: int) -> str:
    """Return an amount above or at zero in cents, exactly: 12_345_678 -> `"1.2345678"`."""
    digits = f"{nano:0{CENT_DIGITS + 1}d}"
    fraction = digits[-CENT_DIGITS:].rstrip("0")
    return f"{digits[:-CENT_DIGITS]}.{fraction}" if fraction else digits[:-CENT_DIGITS]


def units(event: ExportEvent) -> dict[str, int]:
    """Return the counts of an event other than tokens, such as images or milliseconds, and the units of services by
    name."""
    found: dict[str, int] = {}
    for name, count in (event.counts or {}).items():
        if isinstance(count, int):
            found[name] = count
        elif name == "named" and isinstance(count, Mapping):
            found |= {str(each): value for each, value in count.items() if isinstance(value, int)}
    return found


def tags(event: ExportEvent) -> dict[str, str]:
    """Return the event's tags as texts."""
    return {str(name): str(value) for name, value in event.tags.items()} if isinstance(event.tags, Mapping) else {}


def properties(event: ExportEvent) -> dict[str, Any]:
    """Return the properties of an event that are sent, as JSON; amounts are decimals of USD. Unknown ones are left
    out."""
    charge_usd = format_usd(event.charged_nano)
    fields = {
        "model": event.model,
        "provider": event.provider,
        "provider_model": event.provider_model,
        "endpoint": event.endpoint,
        "feature": event.feature,
        "key_id": event.key_id,
        "user_id": event.user_id,
        "end_user": event.end_user,
        "input_tokens": event.input_tokens,
        "cached_input_tokens": event.cached_input_tokens,
        "cache_write_tokens": event.cache_write_tokens,
        "output_tokens": event.output_tokens,
        "reasoning_tokens": event.reasoning_tokens,
        "total_tokens": event.measure("total_tokens"),
        "cost_usd": format_usd(event.cost_nano),
        "charge_usd": charge_usd,
        "charged_usd": charge_usd,
        "price_id": event.price_id,
        "estimated": event.estimated,
        "status": event.status,
        "stream": event.stream,
    }
    return {name: value for name, value in fields.items() if value is not None}


def flat_properties(event: ExportEvent) -> dict[str, str | int]:
    """Return the same in one level, of texts and numbers alone: `tag_NAME` and `unit_NAME` beside the others."""
    flat: dict[str, str | int] = {}
    for name, value in properties(event).items():
        flat[name] = str(value).lower() if isinstance(value, bool) else value
    flat |= {f"unit_{name}": count for name, count in units(event).items()}
    return flat | {f"tag_{name}": value for name, value in tags(event).items()}


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
