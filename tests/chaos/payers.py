"""Payers: clients that open pages, pay, are declined, get money back, dispute, subscribe, change plans, renew and
cancel, and have their cards charged when their credit runs low.

A call is repeated with the same idempotency key until it is answered, as a client does that does not know what became
of it. What the provider's page was told, and how often, is for the provider to remember: `paid` asks it afterwards.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from billing.database.connection import Database, DatabaseError
from tests.chaos.harness import Customer, Stack
from tests.chaos.places import ADMIN_KEY
from tests.chaos.tills import Till
from tests.chaos.waiting import until

CHECKOUT = "/api/billing/checkout"
SUBSCRIPTION = "/api/billing/subscription"
AUTO_RECHARGE = "/api/billing/auto-recharge"
PLANS = ("small", "large")
# What is pressed on the page of a checkout; nothing: its payer has left.
PAY = (("approve",), ("decline", "approve"), ("3ds", "confirm"), ("reject", "confirm"), ("decline",), ())
# What happens to a payment afterwards.
LATER = (
    (),
    (),
    ("refund",),
    ("refund_half",),
    ("refund_half", "refund"),
    ("refund_half", "fail_refund"),
    ("dispute",),
    ("dispute", "win"),
    ("refund_half", "dispute", "win"),
    ("refund_half", "dispute", "lose"),
    ("dispute", "lose", "fail_refund"),
)
# Shares: of buttons that are pressed twice at once, of payments that an operator gives back, of plans, and of plans
# whose month goes by.
TWICE, BY_OPERATOR, OF_PLAN, RENEWED = 0.3, 0.15, 0.4, 0.5
CAP_CENTS = 4_500
# An account that is charged as often as it may be: 10 USD at a time, four times.
WISH = {"threshold_usd": "90000", "amount_usd": "10.00", "monthly_cap_usd": f"{CAP_CENTS / 100:.2f}"}
AT_ONCE = "UPDATE auto_recharges SET next_attempt_at = now() WHERE account_id = $1 AND state = 'ready'"


@dataclass(slots=True)
class Payers:
    """Payers that go on until they are `stopped`. `did` counts what they did; `keys` are the orders of each account
    that were answered, by idempotency key; `charged` are the accounts that asked for auto-recharge."""

    stack: Stack
    chance: random.Random
    till: Till
    database: Database
    stopped: bool = False
    did: Counter[str] = field(default_factory=Counter)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    pressed: set[str] = field(default_factory=set)
    """Orders whose page has answered the button that pays."""
    charged: dict[str, Customer] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self, number: int) -> None:
        """Pay for one thing after the other; an account that a lost dispute suspends is given up for another one."""
        customer, count = await self._customer(), 0
        while not self.stopped:
            count += 1
            key = f"{number}-{count}"
            if self.chance.random() < OF_PLAN:
                disputed = await self._plan(customer, key)
            else:
                disputed = await self._credit(customer, key)
            if disputed and not self.stopped:
                customer = await self._customer()
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))

    def start(self, number: int) -> None:
        """Have so many of them pay."""
        self.tasks = [asyncio.create_task(self.run(each)) for each in range(number)]

    async def finish(self) -> None:
        """Have each end what it does, and no card charged any more."""
        self.stopped = True
        await asyncio.gather(*self.tasks)
        for customer in self.charged.values():
            await self._call("PUT", AUTO_RECHARGE, customer.key, WISH | {"enabled": False})

    async def _customer(self) -> Customer:
        """An account with a key that may buy."""
        customer = await self.stack.customer("1.00", plan="free")
        asked = {"account_id": customer.account_id, "name": "payer", "scopes": "billing:setup"}
        customer.key = (await self.stack.admin("POST", "/keys", asked))["key"]
        return customer

    async def _credit(self, customer: Customer, key: str) -> bool:
        """Buy credit, and have happen to it what may; whether the account may be suspended by a dispute then."""
        cents = self.chance.randint(500, 5000)
        page = await self._open(customer, {"amount_usd": f"{cents / 100:.2f}", "idempotency_key": key})
        if page is None:
            return True
        order_id, url = page["order"]["id"], page["url"]
        for action in self.chance.choice(PAY):
            await self._press(url, action)
            if action in ("approve", "confirm"):
                self.pressed.add(order_id)
        if order_id not in self.pressed:
            return False
        if self.chance.random() < BY_OPERATOR:
            await asyncio.sleep(self.chance.choice((0.0, 1.0)))
            await self._give_back(order_id, key)
            return False
        later = self.chance.choice(LATER)
        for action in later:
            await asyncio.sleep(self.chance.choice((0.0, 0.05, 0.5)))
            await self._press(url, action)
        return "dispute" in later and "win" not in later

    async def _plan(self, customer: Customer, key: str) -> bool:
        """Subscribe, or change the subscription that there is; a card that has no money is saved now and then."""
        page = await self._open(customer, {"plan": self.chance.choice(PLANS), "idempotency_key": key})
        if page is not None:
            action = self.chance.choice(("decline", "approve", "approve", "confirm"))
            await self._press(page["url"], action)
            if action != "decline":
                await self._recharge(customer)
            return False
        await self._charge_now(customer)
        if self.chance.random() < RENEWED:
            await self.till.renew(customer.account_id)
            self.did["renew"] += 1
        for plan in self.chance.choices((*PLANS, "free"), k=2):
            status, answer = await self._call("PUT", SUBSCRIPTION, customer.key, {"plan": plan})
            self.did[f"change to {plan}: {status if status < 300 else answer['error']['message']}"] += 1
        return False

    async def _recharge(self, customer: Customer) -> None:
        """Ask for auto-recharge once the card is known."""
        for _ in range(20):
            status, _ = await self._call("PUT", AUTO_RECHARGE, customer.key, WISH | {"enabled": True})
            if status < 300:
                self.charged[customer.account_id] = customer
                break
            await asyncio.sleep(0.1)
        self.did[f"auto-recharge: {status}"] += 1

    async def _charge_now(self, customer: Customer) -> None:
        """Have the time between two charges be over."""
        with suppress(DatabaseError):
            await self.database.execute(AT_ONCE, customer.account_id)

    async def _open(self, customer: Customer, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Open the page of a checkout; None: it was refused, because there is a subscription already."""
        status, answer = await self._call("POST", CHECKOUT, customer.key, asked)
        if status >= 400:
            self.did[f"checkout: {answer['error']['code']}"] += 1
            return None
        self.keys.setdefault(customer.account_id, {})[asked["idempotency_key"]] = answer["order"]["id"]
        self.did["checkout"] += 1
        return answer

    async def _give_back(self, order_id: str, key: str) -> None:
        """Have an operator give back all that is left of an order that may not be credited yet."""
        path = f"/api/admin/orders/{order_id}/refunds"
        status, answer = await self._call("POST", path, None, {"idempotency_key": key})
        self.did[f"operator's refund: {status if status < 300 else answer['error']['code']}"] += 1

    async def _press(self, url: str, action: str) -> None:
        """Press a button until the page answers, some of the time twice at once."""
        twice = 1 + (self.chance.random() < TWICE)
        await asyncio.gather(*(self.till.press(url, action) for _ in range(twice)))
        self.did[action] += 1

    async def _call(self, method: str, path: str, key: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Call until there is an answer that is no 5xx."""
        headers = {"X-Admin-Key": ADMIN_KEY} if key is None else {"Authorization": f"Bearer {key}"}
        answers: list[tuple[int, dict[str, Any]]] = []

        async def answered() -> bool:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                url = f"{self.stack.url}{path}"
                async with self.stack.session.request(method, url, json=body, headers=headers) as answer:
                    answers.append((answer.status, await answer.json()))
                    return answer.status < 500
            return False

        try:
            await until(answered, f"{method} {path} is answered")
        except AssertionError as error:
            raise AssertionError(f"{error}; the last answer: {answers[-1:]}\n{self.stack.log_tail()}") from error
        return answers[-1]
