"""Tills: where payers pay, and what time does to what they have paid: the local provider's pages, or Stripe's fake.

A till is asked by buttons of a page's address, as payers press them; what can't be done any more does nothing. `renew`
has an account's period end now, as if a month had gone by.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import msgspec

from billing.database.connection import Database, DatabaseError
from billing.payments.local.provider import KINDS
from billing.payments.port import Dispute, Invoice, ObjectKind, ObjectRef, Payment, Refund, Subscription
from gateway.runtime.runtime import Runtime
from tests.chaos.harness import Stack
from tests.chaos.waiting import until
from tests.support.stripe_fake import POOR, SECURE, VISA, FakeStripe, signed, thin
from tests.support.stripe_fake.state import Refused

OBJECTS = "SELECT kind, state FROM local_objects WHERE kind <> 'purchase'"
RENEW = """
    UPDATE local_objects l SET state = l.state || jsonb_build_object(
        'created_at', (l.state ->> 'created_at')::timestamptz - by,
        'period_start', (l.state ->> 'period_start')::timestamptz - by,
        'period_end', (l.state ->> 'period_end')::timestamptz - by,
        'cancel_at', (l.state ->> 'cancel_at')::timestamptz - by)
    FROM (
        SELECT id, (state ->> 'period_end')::timestamptz - now() AS by FROM local_objects
        WHERE kind = 'subscription' AND state ->> 'status' IN ('active', 'past_due')
            AND customer_id IN (SELECT customer_id FROM payment_customers WHERE account_id = $1) FOR UPDATE
    ) due
    WHERE l.kind = 'subscription' AND l.id = due.id AND by > interval '0'"""
WAITING = """
    SELECT (SELECT count(*) FROM local_events WHERE delivered_at IS NULL)
        + (SELECT count(*) FROM local_objects WHERE kind = 'subscription'
            AND state ->> 'status' IN ('active', 'past_due') AND (state ->> 'period_end')::timestamptz <= now())"""
CARDS = {"approve": VISA, "confirm": SECURE, "decline": POOR}
FAULTS = ("lose_answer", "refuse", "busy")
# Shares: of Stripe's answers that are lost or refused, of events that come twice, and of those that are thin.
FAULTY, TWICE, AS_THIN = 0.02, 0.2, 0.3


@dataclass(frozen=True, slots=True)
class Objects:
    """All that a provider has."""

    payments: list[Payment]
    refunds: dict[str, list[Refund]]
    disputes: dict[str, list[Dispute]]
    invoices: list[Invoice]
    subscriptions: list[Subscription]


class Till(Protocol):
    """Where payers pay."""

    async def press(self, url: str, action: str) -> None: ...

    async def renew(self, account_id: str) -> None: ...

    async def is_done(self, database: Database) -> bool:
        """Whether the provider has told everything, and has nothing left to do."""

    async def objects(self, runtime: Runtime) -> Objects: ...


@dataclass(frozen=True, slots=True)
class LocalTill:
    """The local provider: its pages are the gateway's own, and time goes by as its subscriptions are set back."""

    stack: Stack
    database: Database

    async def press(self, url: str, action: str) -> None:
        """Press a button until the page answers."""

        async def answered() -> bool:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                form = {"action": action}
                async with self.stack.session.post(url, data=form, allow_redirects=False) as answer:
                    return answer.status < 500
            return False

        await until(answered, f"the page answers {action}")

    async def renew(self, account_id: str) -> None:
        async def done() -> bool:
            with suppress(DatabaseError):
                await self.database.execute(RENEW, account_id)
                return True
            return False

        await until(done, "a period ends")

    async def is_done(self, database: Database) -> bool:
        return not await database.value(WAITING)

    async def objects(self, runtime: Runtime) -> Objects:
        found: dict[str, list[Any]] = defaultdict(list)
        for row in await runtime.database.rows(OBJECTS):
            found[row["kind"]].append(msgspec.convert(row["state"], KINDS[row["kind"]], strict=False))
        refunds, disputes = defaultdict[str, list[Refund]](list), defaultdict[str, list[Dispute]](list)
        for refund in found["refund"]:
            refunds[refund.payment_id].append(refund)
        for dispute in found["dispute"]:
            disputes[dispute.payment_id].append(dispute)
        return Objects(found["payment"], refunds, disputes, found["invoice"], found["subscription"])


@dataclass
class StripeTill:
    """Stripe's fake: some of its answers are lost, its events come in any order, thin, twice, until each was taken."""

    stack: Stack
    fake: FakeStripe
    chance: random.Random
    pages: dict[str, str] = field(default_factory=dict)
    told: int = 0
    on_the_way: int = 0
    judged: bool = False

    async def press(self, url: str, action: str) -> None:
        session = next((each for each in self.fake.state.all("checkout.session") if each["url"] == url), None)
        session_id = self.pages.setdefault(url, session["id"]) if session is not None else self.pages.get(url, "")
        with suppress(Refused):
            if action in CARDS:
                self.fake.pages.pay(session_id, CARDS[action])
            else:
                self._after_payment(session_id, action)

    def _after_payment(self, session_id: str, action: str) -> None:
        state, payments = self.fake.state, self.fake.payments
        intent_id = state.get("checkout.session", session_id)["payment_intent"]
        if intent_id is None or state.get("payment_intent", intent_id)["status"] != "succeeded":
            return
        charge = state.get("charge", state.get("payment_intent", intent_id)["latest_charge"])
        left = charge["amount"] - charge["amount_refunded"]
        kept = [r for r in state.all("refund") if r["payment_intent"] == intent_id and r["status"] == "succeeded"]
        disputes = [each for each in state.all("dispute") if each["payment_intent"] == intent_id]
        if action in ("refund", "refund_half") and left:
            part = left if action == "refund" else max(1, left // 2)
            payments.create_refund({"payment_intent": intent_id, "amount": part})
        elif action == "fail_refund" and kept:
            payments.end_refund(kept[-1]["id"], "failed")
        elif action == "dispute" and left == charge["amount"] and not disputes:  # the fake's take all of a charge
            payments.dispute(intent_id)
        elif action in ("win", "lose") and disputes and disputes[-1]["status"] == "needs_response":
            payments.close_dispute(disputes[-1]["id"], "won" if action == "win" else "lost")

    async def renew(self, account_id: str) -> None:
        subscriptions, now = self.fake.subscriptions, self.fake.state.now
        whose = {
            each["id"]
            for each in self.fake.state.all("customer")
            if each["metadata"].get("metergate_account") == account_id
        }
        for each in self.fake.state.all("subscription"):
            if each["customer"] in whose and each["status"] in ("active", "past_due"):
                item = each["items"]["data"][0]
                if each["cancel_at"] is not None:
                    each["cancel_at"] = now
                item["current_period_end"] = now
                subscriptions.renew(each["id"])

    async def is_done(self, database: Database) -> bool:
        return not self.on_the_way and self.told == len(self.fake.state.events)

    async def tell(self) -> None:
        """Deliver events as they come about, and let some answers be lost, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.fake.state.now = max(self.fake.state.now, int(time.time()))
                if not self.judged and self.chance.random() < FAULTY and not self.fake.faults:
                    self.fake.faults.append(self.chance.choice(FAULTS))  # type: ignore[arg-type]
                new = self.fake.state.events[self.told :]
                self.told += len(new)
                for event in new:
                    for _ in range(1 + (self.chance.random() < TWICE)):
                        self.on_the_way += 1
                        group.create_task(self._deliver(event))
                await asyncio.sleep(0.02)

    async def _deliver(self, event: dict[str, Any]) -> None:
        await asyncio.sleep(self.chance.choice((0.0, 0.0, 0.05, 0.5)))
        body, headers = signed(thin(event) if self.chance.random() < AS_THIN else event, self.fake.secret)

        async def taken() -> bool:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                url = f"{self.stack.url}/api/webhooks/stripe"
                async with self.stack.session.post(url, data=body, headers=headers) as answer:
                    return answer.status == 200
            return False

        await until(taken, f"{event['type']} is taken")
        self.on_the_way -= 1

    async def objects(self, runtime: Runtime) -> Objects:
        payments = runtime.services.payments
        assert payments is not None
        self.judged = True
        self.fake.faults.clear()
        kinds: dict[ObjectKind, str] = {
            "payment": "payment_intent",
            "invoice": "invoice",
            "subscription": "subscription",
        }
        found: dict[ObjectKind, list[Any]] = {}
        for kind, theirs in kinds.items():
            refs = [ObjectRef(kind, each["id"]) for each in self.fake.state.all(theirs)]
            found[kind] = [await payments.provider.fetch(ref) for ref in refs]
        paid: list[Payment] = found["payment"]
        refunds = {each.id: list(each.refunds) for each in paid}
        disputes = {each.id: list(each.disputes) for each in paid}
        return Objects(paid, refunds, disputes, found["invoice"], found["subscription"])


@asynccontextmanager
async def local_till(stack: Stack) -> AsyncIterator[LocalTill]:
    """The local provider's."""
    database = Database(stack.endpoints.database_url)
    try:
        yield LocalTill(stack, database)
    finally:
        await database.close()


@asynccontextmanager
async def stripe_till(stack: Stack, fake: FakeStripe, chance: random.Random) -> AsyncIterator[StripeTill]:
    """Stripe's fake's, which serves; its events are delivered meanwhile."""
    till = StripeTill(stack, fake, chance)
    telling = asyncio.create_task(till.tell())
    try:
        yield till
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
