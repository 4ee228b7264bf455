"""Stripe's meters: what each account has used in an hour, as one whole number for each meter.

Each event is added to the sum of its hour in the transaction that moves the export on, so once. An hour is told when it
is over. What is added later is told by itself, under an identifier of its own: `ACCOUNT:METER:HOUR:N`, N being how many
amounts were told before. Amount and identifier are stored before they are sent, and so are the same when they are sent
again; Stripe refuses an identifier that it has seen within 24 hours, which means that the amount was taken.

By https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage an event is at most 35 days old, and what
is wrong with one may be reported later, by `v1.billing.meter.error_report_triggered`, with some identifiers.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from billing.database.connection import queries
from billing.exports.events import HOUR, MEASURES
from billing.exports.sinks import MOST_REASON, PlainSink, Refusals, SinkFailed
from billing.payments.port import CustomerGone, PaymentProviderUnavailable, PaymentRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from billing.database.connection import Connection, Database, Row
    from billing.exports.events import ExportEvent

logger = logging.getLogger(__name__)

FOLD_BATCH: Final = 1_000
PUBLISH_BATCH: Final = 100
# The wait after an hour's end before it is sent, so that nearly all of it is sent at once.
SETTLED: Final = timedelta(minutes=5)
# How old an hour may be that Stripe still takes, with an hour to spare.
OLDEST: Final = timedelta(days=35) - HOUR
# For how long Stripe knows an identifier for certain, with an hour to spare.
SURE: Final = timedelta(hours=23)
KEPT: Final = timedelta(days=70)
TIDY_EVERY: Final = timedelta(minutes=10)
FORGET_ROWS: Final = 1_000
# Characters of an identifier, by Stripe.
MOST_IDENTIFIER: Final = 100
# Of ours, or of a key that begins with one; no number of ours is larger.
_IDENTIFIER: Final = re.compile(r"([0-9A-Za-z_]+):([^:]+):([0-9]{10}):([0-9]{1,9})(?![^:])")
_query = queries("billing.exports")


@dataclass(frozen=True, slots=True)
class StripeMeter:
    """A meter at Stripe by its event name; which of `events.MEASURES` it sums; and the feature whose events it counts,
    None for all. Raises `ValueError`."""

    event_name: str
    value: str
    feature: str | None = None

    def __post_init__(self) -> None:
        if self.value not in MEASURES or not self.event_name or ":" in self.event_name:
            raise ValueError(f"a meter has an event name without ':' and counts one of {', '.join(MEASURES)}")

    def amount(self, event: ExportEvent) -> int:
        """Return what an event adds."""
        return event.measure(self.value) if self.feature in (None, event.feature) else 0


class MeterCalls(Protocol):
    """Stripe, as far as meters need it. Methods raise as those of `port.PaymentProvider`."""

    @property
    def livemode(self) -> bool:
        """Return whether it moves real money."""

    async def meter(
        self, event_name: str, customer_id: str, value: int, identifier: str, at: datetime, key: str
    ) -> None:
        """Tell an amount, under an idempotency key of this call alone: an answer that the other side has failed to give
        would be given again for the same one. An amount that was told under this identifier before is no error."""

    async def meter_errors(self, event_id: str) -> Mapping[str, str]:
        """Return the errors in a report, by the key of a call: why an event was refused after it was accepted."""


@dataclass(frozen=True, slots=True)
class MeterCustomers:
    """Accounts' customers at Stripe: `of` gives that of an account, `gone` notes that there is none any more."""

    of: Callable[[str], Awaitable[str]]
    gone: Callable[[str], Awaitable[None]]


class StripeMeters(PlainSink):
    """Sums by hour at Stripe."""

    kind: Final = "stripe_meters"
    batch = FOLD_BATCH

    def __init__(
        self,
        name: str,
        meters: Sequence[StripeMeter],
        calls: MeterCalls,
        customers: MeterCustomers,
        *,
        database: Database,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self.name, self._new_id = name, new_id
        self._meters = {meter.event_name: meter for meter in meters}
        self._calls, self._customers = calls, customers
        self._database, self._now, self._tidied_at = database, now, datetime.min.replace(tzinfo=UTC)

    async def send(self, events: Sequence[ExportEvent]) -> Refusals:
        """Send nothing yet: sums are sent once their hours are over."""
        return {}

    async def accepted(self, connection: Connection, events: Sequence[ExportEvent]) -> None:
        """Add events to the sums of their hours."""
        sums: dict[tuple[str, str, datetime], int] = {}
        for event in events:
            for meter in self._meters.values():
                if amount := meter.amount(event):
                    key = (event.account_id, meter.event_name, event.hour)
                    sums[key] = sums.get(key, 0) + amount
        if sums:
            accounts, names, hours = zip(*sums, strict=True)
            await connection.execute(_query("hours_fold"), self.name, accounts, names, hours, list(sums.values()))

    async def after(self) -> bool:
        """Tell some of the hours that are over. Raises `SinkFailed` and `DatabaseError`."""
        now = self._now()
        if now - self._tidied_at >= TIDY_EVERY:
            await self._database.execute(_query("hours_forget"), self.name, now - KEPT, FORGET_ROWS)
            self._tidied_at = now
        await self._read_reports()
        due = await self._database.rows(_query("hours_due"), self.name, now, SETTLED + HOUR, PUBLISH_BATCH)
        for row in sorted(due, key=lambda each: each["hour"]):
            await self._publish(row, now)
        return len(due) == PUBLISH_BATCH

    async def _publish(self, row: Row, now: datetime) -> None:
        hour, end = (row["account_id"], row["meter"], row["hour"]), row["hour"] + HOUR
        prefix = identifier_prefix(*hour)
        identifier = f"{prefix}{row['n']}"
        why: str | None = None
        if row["meter"] not in self._meters or len(identifier) > MOST_IDENTIFIER:
            why = "no meter of this name is configured any more, or its name is too long for Stripe's identifiers"
        elif now - end > OLDEST:
            why = "Stripe takes nothing that is older than 35 days"
        elif row["since"] > SURE:
            why = "whether Stripe has it can't be told after 24 hours: look it up there before it is tried again"
        else:
            why = await self._taken(row, identifier)
        if why is None:
            await self._database.execute(_query("hours_told"), self.name, *hour, row["n"])
            await self._database.execute(_query("hours_unlist"), self.name, prefix)
        else:
            await self._database.execute(
                _query("hours_park"), self.name, *hour, row["n"], identifier, why[:MOST_REASON]
            )

    async def _taken(self, row: Row, identifier: str) -> str | None:
        """Tell one amount; return why Stripe refuses it, None where it was taken. Raises `SinkFailed`."""
        at = row["hour"] + HOUR - timedelta(seconds=1)  # a subscription of the same hour counts it
        key = f"{identifier}:{self._new_id()}"
        try:
            customer = await self._customers.of(row["account_id"])
        except PaymentProviderUnavailable as error:
            raise SinkFailed(str(error)) from error
        except PaymentRefused as error:
            if error.kind == "unavailable":
                raise SinkFailed(str(error)) from error
            return f"its customer: {error}"
        try:
            await self._calls.meter(row["meter"], customer, row["amount"], identifier, at, key)
        except CustomerGone as error:
            await self._customers.gone(customer)
            raise SinkFailed(str(error)) from error
        except PaymentProviderUnavailable as error:
            raise SinkFailed(str(error)) from error
        except PaymentRefused as error:
            if error.kind == "unavailable":
                raise SinkFailed(str(error)) from error
            return str(error)
        return None

    async def _read_reports(self) -> None:
        """Park what Stripe has taken and then found wrong."""
        for row in await self._database.rows(_query("reports_waiting"), "stripe", self._calls.livemode):
            try:
                errors = await self._calls.meter_errors(row["id"])
            except PaymentProviderUnavailable as error:
                raise SinkFailed(f"a report of Stripe's can't be read: {error}") from error
            except PaymentRefused as error:
                if error.kind == "unavailable":  # reports are kept until the operator has mended our access
                    logger.warning("export %s: reports of Stripe's can't be read: %s", self.name, error)
                    return
                logger.error("export %s: report %s of Stripe's can't be read: %s", self.name, row["id"], error)
                errors = {}
            for key, why in errors.items():
                if (found := parse_identifier(key)) is not None and found[1] in self._meters:
                    account_id, meter, hour, n = found
                    identifier = f"{identifier_prefix(account_id, meter, hour)}{n}"
                    refused = (account_id, meter, hour, n, identifier, f"taken, then refused: {why}"[:MOST_REASON])
                    await self._database.execute(_query("hours_refused"), self.name, *refused)
            await self._database.execute(_query("report_done"), "stripe", row["id"])


def identifier_prefix(account_id: str, meter: str, hour: datetime) -> str:
    """Return what the identifiers of an hour begin with: `ACCOUNT:METER:YYYYMMDDHH:`."""
    return f"{account_id}:{meter}:{hour.astimezone(UTC):%Y%m%d%H}:"


def parse_identifier(text: str) -> tuple[str, str, datetime, int] | None:
    """Return account, meter, hour and number of an identifier, or of a key that begins with one; None for what is not
    ours."""
    if (found := _IDENTIFIER.match(text)) is None:
        return None
    try:
        return found[1], found[2], datetime.strptime(found[3], "%Y%m%d%H").replace(tzinfo=UTC), int(found[4])
    except ValueError:
        return None
