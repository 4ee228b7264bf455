"""Lago: usage events by https://getlago.com/docs/api-reference/events/batch.

Lago takes or refuses a batch as a whole: its 422 names the events that are wrong by their place. Those that it has
already are left out then, those that it never takes are parked, and the rest is sent again. It tells an event by
`transaction_id` and subscription; where it keeps events in ClickHouse, by `timestamp`, too, which is therefore always
sent, and always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.database.connection import queries
from billing.exports.events import cents, flat_properties, unix_s
from billing.exports.sinks import TAKEN, Peer, PlainSink, Refusals, Reply, SinkFailed, Verdict, deliver
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from billing.database.connection import Database
    from billing.exports.events import ExportEvent

JSON: Final = {"Content-Type": "application/json"}
# Events of one request, by Lago's API.
MOST_EVENTS: Final = 100
EXISTS: Final = "value_already_exist"
MOST_NAME: Final = 255
DEFAULT_CODE: Final = "metergate_usage"
DEFAULT_PLAN: Final = "metergate"
_query = queries("billing.exports")


@dataclass(frozen=True, slots=True)
class LagoMeter:
    """A billable metric at Lago: its code; which of `events.MEASURES` is sent as the property `value`, None for none;
    and the feature whose events it counts, None for all."""

    code: str
    value: str | None = None
    feature: str | None = None

    def counts(self, event: ExportEvent) -> bool:
        """Return whether an event is told under this code."""
        return self.feature is None or self.feature == event.feature


@dataclass(frozen=True, slots=True)
class LagoRules:
    """Lago's API (`url` without a slash at its end), the plan that new subscriptions are of, and under which codes an
    event is told: the first that counts it carries its charge. Raises `ValueError`."""

    url: str
    plan_code: str = DEFAULT_PLAN
    meters: tuple[LagoMeter, ...] = (LagoMeter(DEFAULT_CODE),)

    def __post_init__(self) -> None:
        if not self.url or self.url.endswith("/") or not self.plan_code:
            raise ValueError("Lago's URL has no slash at its end, and the plan a code")
        if not 0 < len(self.meters) <= MOST_EVENTS:
            raise ValueError(f"Lago is told under 1 to {MOST_EVENTS} codes")


class Lago(PlainSink):
    """Events at Lago. An account is a customer there, with one subscription, both of which have its id; they are made
    when it is first used."""

    kind: Final = "lago"

    def __init__(self, name: str, rules: LagoRules, peer: Peer, database: Database) -> None:
        self.name, self.batch = name, max(1, MOST_EVENTS // len(rules.meters))
        self._rules, self._peer, self._database = rules, peer, database

    async def close(self) -> None:
        """Close connections."""
        await self._peer.poster.close()

    async def send(self, events: Sequence[ExportEvent]) -> Refusals:
        """Send events, after their customers. Raises `SinkFailed` and `DatabaseError`."""
        unknown = await self._introduce(events)
        refused = {event.request_id: unknown[event.account_id] for event in events if event.account_id in unknown}
        told = [
            (event.request_id, each)
            for event in events
            if event.account_id not in unknown
            for each in lago_events(event, self._rules.meters)
        ]
        failed = await deliver([each for _, each in told], self._post)
        return refused | {told[place][0]: why for place, why in failed.items()}

    async def _post(self, events: Sequence[Mapping[str, Any]]) -> Verdict:
        body = msgspec.json.encode({"events": events})
        return lago_verdict(await self._peer.post(f"{self._rules.url}/api/v1/events/batch", body, JSON))

    async def _introduce(self, events: Sequence[ExportEvent]) -> dict[str, str]:
        """Make customers and subscriptions of accounts that Lago does not know yet; return why it refuses some."""
        first: dict[str, datetime] = {}
        for event in events:
            first[event.account_id] = min(event.admitted_at, first.get(event.account_id, event.admitted_at))
        refused: dict[str, str] = {}
        for account in await self._database.rows(_query("subjects"), self.name, list(first)):
            account_id, since = account["id"], min(account["created_at"], first[account["id"]])
            why = await self._introduce_one(account_id, account["name"], since)
            if why is None:
                await self._database.execute(_query("subject_made"), self.name, account_id)
            else:
                refused[account_id] = why
        return refused

    async def _introduce_one(self, account_id: str, name: str, since: datetime) -> str | None:
        """Make one account known; usage from `since` on is to be billed. Return why it is refused."""
        customer = {"customer": {"external_id": account_id, "name": name[:MOST_NAME]}}
        reply = await self._peer.post(f"{self._rules.url}/api/v1/customers", msgspec.json.encode(customer), JSON)
        if reply.status >= 300:
            return f"its customer was refused: {reply.reason}"
        subscription = {
            "external_customer_id": account_id,
            "external_id": account_id,
            "plan_code": self._rules.plan_code,
            "subscription_at": rfc3339(since),
        }
        body = msgspec.json.encode({"subscription": subscription})
        try:
            reply = await self._peer.post(f"{self._rules.url}/api/v1/subscriptions", body, JSON)
        except SinkFailed as failed:
            raise SinkFailed(f"{failed}; is there a plan {self._rules.plan_code}?", failed.wait_s) from failed
        if reply.status >= 300 and EXISTS not in reply.reason:
            return f"its subscription was refused: {reply.reason}"
        return None


def lago_events(event: ExportEvent, meters: Sequence[LagoMeter]) -> list[dict[str, Any]]:
    """Return an event as Lago takes it: once for each code that counts it, of which the first has the exact charge."""
    found: list[dict[str, Any]] = []
    for place, meter in enumerate(meters):
        if not meter.counts(event):
            continue
        properties: dict[str, Any] = flat_properties(event)
        if meter.value is not None:
            properties["value"] = event.measure(meter.value)
        found.append(
            {
                "transaction_id": event.request_id if place == 0 else f"{event.request_id}:{place}",
                "external_subscription_id": event.account_id,
                "code": meter.code,
                "timestamp": unix_s(event.admitted_at),
                "properties": properties,
                "precise_total_amount_cents": cents(0 if found else event.charged_nano),
            }
        )
    return found


def lago_verdict(reply: Reply) -> Verdict:
    """Return what an answer to a batch means."""
    if reply.status < 300:
        return TAKEN
    try:
        details = msgspec.json.decode(reply.body)["error_details"]
        named = {int(place): _lago_reason(why) for place, why in details.items()}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        named = {}
    return Verdict("some", reply.reason, named) if named else Verdict("one of them", reply.reason)


def _lago_reason(details: object) -> str | None:
    """Return why one event is refused; None: Lago has it."""
    if details == {"transaction_id": [EXISTS]}:
        return None
    return f"refused: {msgspec.json.encode(details).decode()[:200]}"
