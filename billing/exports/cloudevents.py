"""CloudEvents: usage events to any endpoint that takes batches of CloudEvents 1.0 (https://github.com/cloudevents/spec),
such as OpenMeter's.

They are told by `source` and `id`. An answer that refuses a batch names none of them, so that it is halved until it is
one event that is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.exports.events import properties, tags, units
from billing.exports.sinks import TAKEN, Peer, PlainSink, Refusals, Verdict, deliver
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing.exports.events import ExportEvent

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
