"""Events of payment providers: stored as they came, acknowledged, and only then looked into.

An event is a hint: it names an object, and `apply.Applier.refresh` brings everything to what that object is by then. So
order and repetition of events don't matter, and it does no harm when two gateways look into one: what has moved is
written once, by the money's own id. An event is done once its object was looked at after it came.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from billing import audit
from billing.database.connection import DatabaseError, queries
from billing.errors import MetergateError
from billing.pages import BEFORE_ALL, Page, page_of
from billing.payments.apply import KEYS_KEPT
from billing.payments.port import ObjectRef
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.database.connection import Connection, Database, Row
    from billing.payments.port import Event, PaymentProvider

logger = logging.getLogger(__name__)

# How often a gateway looks for events that another one has taken in, or that failed before.
EVERY_S: Final = 1.0
TIDY_EVERY_S: Final = 600.0
FORGET_ROWS: Final = 1_000
MOST_ERROR: Final = 300

EventState = Literal["waiting", "done", "ignored", "parked"]
# Applies an object's present state: `apply.Applier.refresh`.
Refresh = Callable[[ObjectRef], Awaitable[None]]

_query = queries("billing.payments")


class PaymentEventNotFound(MetergateError):
    """No event that is kept has this id."""

    kind = "not_found"


@dataclass(frozen=True, slots=True)
class EventRules:
    """An event that can't be looked into is tried again after `first_pause_s`, then twice as long each time up to
    `most_pause_s`, and given up after `attempts`: by then for most of a day. Events are kept for `kept_days`. A gateway
    looks into `at_once` of them at a time."""

    attempts: int = 24
    first_pause_s: float = 60.0
    most_pause_s: float = 3600.0
    kept_days: int = 90
    at_once: int = 4

    def __post_init__(self) -> None:
        if min(self.attempts, self.first_pause_s, self.most_pause_s, self.kept_days, self.at_once) <= 0:
            raise ValueError("attempts, pauses, days and how many at once must be above zero")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept, but for its body."""

    number: str
    provider: str
    id: str
    type: str
    ref_kind: str | None
    ref_id: str | None
    livemode: bool
    state: EventState
    attempts: int
    error: str | None
    created_at: datetime
    received_at: datetime
    next_attempt_at: datetime
    ended_at: datetime | None


class PaymentEvents:
    """Takes in events and looks into them. `new_id` makes ULIDs. `waiting`, `parked` and `lag_s`, how long the oldest
    has waited, are as of this process's last round. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        provider: PaymentProvider,
        refresh: Refresh,
        new_id: Callable[[], str],
        rules: EventRules | None = None,
        gateway_id: str | None = None,
    ) -> None:
        """`gateway_id` names this process in `gateways`: what it was looking into when its lease ended, others look
        into at once."""
        self._gateway_id = gateway_id
        self._database, self._provider, self._refresh, self._new_id = database, provider, refresh, new_id
        self._rules = rules or EventRules()
        self._came = asyncio.Event()
        self.waiting, self.parked, self.lag_s = 0, 0, 0.0

    @property
    def provider(self) -> str:
        """Return the name of the provider whose events these are."""
        return self._provider.name

    async def receive(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Store an event that was delivered; once this returns it may be acknowledged. Return whether it is new. Raises
        `PaymentEventRefused` for what the provider has not sent."""
        return await self.accept(await self._provider.read_event(body, headers), body)

    async def accept(self, event: Event, body: bytes = b"") -> bool:
        """Store a verified event, such as the local provider's, which has no other body; return whether it is new."""
        async with self._database.transaction() as connection:
            return await self.store(connection, event, body or msgspec.json.encode(event))

    async def store(self, connection: Connection, event: Event, body: bytes) -> bool:
        """Store a verified event in the caller's transaction, once by its id; return whether it is new."""
        ignored = None
        if event.livemode != self._provider.livemode:
            ignored = f"of {'live' if event.livemode else 'test'} mode, which our key is not of"
        elif event.ref is None:
            ignored = "of no object that a payment depends on"
        ref = event.ref
        about = (None, None) if ref is None else (ref.kind, ref.id)
        state = "waiting" if ignored is None else "ignored"
        given = (self.provider, event.id, event.type, *about, event.livemode, body, state, ignored, event.created_at)
        new = await connection.fetchval(_query("events_store"), *given, self._new_id()) is not None
        self._came.set()
        return new

    def work(self) -> tuple[Periodic, ...]:
        """Return what looks into what waits, and what tidies up."""
        return (
            Periodic(
                name="payment_events", every_s=EVERY_S, round=self._turn, woken=self._came, due=self.refresh_stats
            ),
            Periodic(name="payment_events_tidy", every_s=TIDY_EVERY_S, round=self.tidy),
        )

    async def _turn(self) -> None:
        await self.round()
        await self.refresh_stats()

    async def tidy(self) -> None:
        """Drop old events, and idempotency keys that nobody has asked for in a long time."""
        await self._database.value(_query("events_forget"), self._rules.kept_days, FORGET_ROWS)
        await self._database.execute(_query("keys_forget"), KEYS_KEPT, FORGET_ROWS)

    async def round(self) -> int:
        """Look into all that is due, a few at a time; return how many events were taken."""
        await self._database.execute(_query("events_release"))
        first = await self._claim()
        if first is None:  # as nearly always: one question is enough, on one connection
            return 0
        others = (self._drain(None) for _ in range(self._rules.at_once - 1))
        return sum(await asyncio.gather(self._drain(first), *others))

    async def _drain(self, row: Row | None) -> int:
        """Look into this event if there is one, and into what is due; return how many there were."""
        taken = 0
        while row is not None or (row := await self._claim()) is not None:
            taken += 1
            await self._process(row)
            row = None
        return taken

    async def _claim(self) -> Row | None:
        rules = self._rules
        arguments = (self.provider, rules.first_pause_s, rules.most_pause_s, self._gateway_id)
        return await self._database.row(_query("events_claim"), *arguments)

    async def _process(self, row: Row) -> None:
        ref = ObjectRef(row["ref_kind"], row["ref_id"])
        try:
            await self._refresh(ref)
        except DatabaseError:
            raise
        except MetergateError as error:
            await self._failed(row, str(error))
            return
        except Exception as error:  # one event that nobody can read must not keep all others back
            logger.exception("event %s of %s can't be applied", row["id"], self.provider)
            await self._failed(row, f"{type(error).__name__}: see the gateway's log")
            return
        await self._database.execute(_query("events_done"), self.provider, ref.kind, ref.id, row["taken_at"])

    async def _failed(self, row: Row, reason: str) -> None:
        for_good = row["attempts"] >= self._rules.attempts
        logger.log(
            logging.ERROR if for_good else logging.WARNING,
            "event %s of %s was not applied at try %d%s: %s",
            row["id"],
            self.provider,
            row["attempts"],
            ", and is parked" if for_good else "",
            reason,
        )
        await self._database.execute(_query("events_failed"), self.provider, row["id"], reason[:MOST_ERROR], for_good)

    async def refresh_stats(self) -> bool:
        """Count what waits and what was given up; return whether anything waits."""
        row = await self._database.row(_query("events_standing"))
        if row is not None:
            self.waiting, self.parked, self.lag_s = row["waiting"], row["parked"], row["lag_s"]
        return bool(self.waiting)

    async def page(self, limit: int, after: str | None = None, *, state: EventState | None = None) -> Page[StoredEvent]:
        """Return events, those that came last first; `after` is the number that ended the page before."""
        rows = await self._database.rows(_query("events_page"), after or BEFORE_ALL, state, limit + 1)
        return page_of([StoredEvent(**dict(row)) for row in rows], limit, lambda event: event.number)

    async def replay(self, event_id: str, actor: audit.Actor = audit.ADMIN) -> StoredEvent:
        """Process an event again. Raises `PaymentEventNotFound`."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("events_replay"), event_id)
            if row is None:
                raise PaymentEventNotFound(
                    f"There is no event {event_id!r}: they are kept for {self._rules.kept_days} days."
                )
            await audit.record(connection, actor, "payment_event.replay", event_id, None, None)
        self._came.set()
        return StoredEvent(**dict(row))
