"""The daily comparison with the payment provider: events can be lost, and are kept by it for 30 days at most.

Every payment, refund, dispute, invoice and subscription that was made since some days ago is fetched and compared with
what was applied of it and, for credit, with the ledger; so are payments whose refunds or disputes are not over, however
old. What differs is brought up to date in the usual way and compared again; what still differs is listed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing import audit
from billing.database.connection import queries
from billing.money import NANO_PER_CENT
from billing.payments.orders import SCOPE
from billing.payments.port import Customer, Dispute, ObjectKind, ObjectRef, Payment, PaymentError, Refund, money_key
from billing.times import rfc3339
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.database.connection import Database, Row
    from billing.payments.port import PaymentProvider, ProviderObject

logger = logging.getLogger(__name__)

EVERY: Final = timedelta(days=1)
# After that a comparison that was broken off is made again, also one whose gateway has died.
AGAIN: Final = timedelta(hours=1)
LOOKS_EVERY_S: Final = 10.0
COMPARED: Final[tuple[ObjectKind, ...]] = ("payment", "refund", "dispute", "invoice", "subscription")
MOST_LISTED: Final = 1_000
MOST_DAYS: Final = 400
# How the names of fields end that a provider makes anew as it likes.
_SHIFTING: Final = "_url"

Refresh = Callable[[ObjectRef], Awaitable[None]]
_query = queries("billing.payments")


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that is not at the provider what it is here, and why."""

    kind: str
    id: str
    account_id: str | None
    order_id: str | None
    difference: str
    found_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The last comparison: when it was made and how far it looked back; `ended_at` None: it runs, or was broken off.
    `asked_since`: an operator has asked for another one."""

    asked_since: datetime | None
    since: datetime | None
    began_at: datetime | None
    ended_at: datetime | None
    compared: int
    differences: int
    error: str | None


class PaymentComparisons:
    """Compares with the provider. `deployment` marks what is ours, `now` is the clock; `days` is how far the daily
    comparison looks back. `differences` are as of the last look. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        provider: PaymentProvider,
        refresh: Refresh,
        deployment: str,
        now: Callable[[], datetime],
        *,
        days: int = 7,
    ) -> None:
        if not 1 <= days <= MOST_DAYS:
            raise ValueError(f"days must be from 1 to {MOST_DAYS}")
        self._database, self._provider, self._refresh = database, provider, refresh
        self._deployment, self._now, self._days = deployment, now, days
        self._asked = asyncio.Event()
        self.differences = 0

    @property
    def provider(self) -> str:
        """Return the name of the provider."""
        return self._provider.name

    def work(self) -> Periodic:
        """Return what compares once a day, and when an operator asks for it, in one gateway of all."""
        return Periodic(name="payment_comparison", every_s=LOOKS_EVERY_S, round=self.round, woken=self._asked)

    async def run_when_asked(self) -> None:
        """Compare once, when this process is asked for it: for a command where no gateway runs."""
        await self._asked.wait()
        await self.round()

    @property
    def is_asked(self) -> bool:
        """Return whether this process was asked for a comparison, and has not begun it as a gateway does."""
        return self._asked.is_set()

    async def round(self) -> bool:
        """Compare if it is due, in whichever gateway finds that first; return whether it was."""
        now = self._now()
        usual = now - timedelta(days=self._days)
        name = self._provider.name
        row = await self._database.row(_query("comparisons_due"), name, now, usual, now - EVERY, now - AGAIN)
        if row is not None:
            await self.compare(row["since"])
        found = await self.last()
        self.differences = 0 if found is None else found.differences
        return row is not None

    async def ask(self, since: datetime, actor: audit.Actor = audit.ADMIN) -> None:
        """Have all that was made since then compared soon, by one of the gateways."""
        name = self._provider.name
        async with self._database.transaction() as connection:
            await connection.execute(_query("comparisons_ask"), name, since)
            await audit.record(connection, actor, "payment.compare", name, None, {"since": rfc3339(since)})
        self._asked.set()

    async def last(self) -> Comparison | None:
        """Return the last comparison; None: there was none yet."""
        row = await self._database.row(_query("comparisons_get"), self._provider.name)
        return None if row is None else Comparison(**dict(row))

    async def listed(self) -> list[Difference]:
        """Return what differed when it was last compared, newest first."""
        rows = await self._database.rows(_query("differences_list"), self._provider.name, MOST_LISTED)
        return [Difference(**dict(row)) for row in rows]

    async def compare(self, since: datetime) -> int:
        """Compare all that was made since then, and what is not over; return how many objects that were. What can't be
        reached is compared next time."""
        compared, error, seen = 0, None, set[ObjectRef]()
        try:
            for row in await self._database.rows(_query("compared_unsettled"), self._provider.name, since):
                compared += await self._compare(ObjectRef("payment", row["id"]), seen)
            for kind in COMPARED:
                async for ref in self._provider.list_since(kind, since):
                    compared += await self._compare(ref, seen)
        except PaymentError as failed:
            error = str(failed)
            logger.warning("the comparison with %s was broken off: %s", self._provider.name, error)
        await self._database.execute(_query("comparisons_end"), self._provider.name, self._now(), compared, error)
        return compared

    async def _compare(self, ref: ObjectRef, seen: set[ObjectRef]) -> bool:
        """Compare an object once, or the payment that it is a part of; return whether it was ours and new."""
        if ref in seen:
            return False
        seen.add(ref)
        found = await self._provider.fetch(ref)
        if isinstance(found, Refund | Dispute):
            return await self._compare(ObjectRef("payment", found.payment_id), seen)
        difference = await self._difference(ref, found)
        if difference is not None:
            await self._refresh(ref)
            difference = await self._difference(ref, await self._provider.fetch(ref))
        named = (self._provider.name, ref.kind, ref.id)
        if difference is None:
            await self._database.execute(_query("differences_end"), *named)
        else:
            values = (difference.account_id, difference.order_id, difference.difference)
            await self._database.execute(_query("differences_set"), *named, *values)
            logger.error("%s %s differs from what %s says: %s", *named[1:], named[0], difference.difference)
        return found is not None and self._may_be_ours(found)

    def _may_be_ours(self, found: ProviderObject) -> bool:
        """Return whether an object may be this installation's: what is marked as another's is not. What carries no mark
        is ours if we have applied it."""
        if isinstance(found, Refund | Dispute):
            return False
        return found.livemode == self._provider.livemode and found.deployment in (None, self._deployment)

    async def _difference(self, ref: ObjectRef, found: ProviderObject | None) -> Difference | None:
        """Return how an object differs from what was applied of it, and from the ledger."""
        row = await self._database.row(_query("compared_state"), self._provider.name, ref.kind, ref.id)
        account_id, order_id = (None, None) if row is None else (row["account_id"], row["order_id"])
        known = None if row is None else row["state"]
        why: str | None = None
        if found is None:
            why = None if known is None else f"{self._provider.name} has it no more"
        elif not isinstance(found, Refund | Dispute | Customer) and self._may_be_ours(found):
            if known is not None:
                why = differing(known, found)
            elif found.deployment is not None:
                why = "it was never seen"
            if why is None and isinstance(found, Payment):
                why = await self._ledger_difference(found)
        return None if why is None else Difference(ref.kind, ref.id, account_id, order_id, why)

    async def _ledger_difference(self, payment: Payment) -> str | None:
        """Return how the ledger differs from a payment that was paid for credit."""
        if payment.order_id is None or payment.status != "paid":
            return None
        name = self._provider.name
        key = money_key(name, "payment", payment.id)
        row = await self._database.row(_query("compared_ledger"), name, payment.id, key, payment.order_id, SCOPE)
        return None if row is None else credit_difference(row)


def differing(known: dict[str, Any], found: ProviderObject) -> str | None:
    """Return which fields of an object are not what was applied of it; None: all are."""
    now = msgspec.json.decode(msgspec.json.encode(found))
    names = [name for name in now if not name.endswith(_SHIFTING) and known.get(name) != now[name]]
    return None if not names else f"it was applied with another {', '.join(names)}"


def credit_difference(row: Row | dict[str, Any]) -> str | None:
    """Return how what was credited differs from a paid order: an operator decides of what waits for one."""
    if row["kind"] == "plan" or row["parked"]:
        return None
    owed_nano = row["amount_cents"] * NANO_PER_CENT
    if row["credited_nano"] is None:
        return "it was paid and not credited"
    if row["credited_nano"] != owed_nano:
        return f"{row['credited_nano']} nano-USD were credited of an order of {owed_nano}"
    return None
