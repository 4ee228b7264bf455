"""A process that dies between any two steps of a payment, and another one that goes on with what Postgres has.

A step is a question to the database. Every thirteenth is one to die at; with HYPOTHESIS_PROFILE=long each of them is.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from billing.money import parse_usd
from billing.payments.assembly import Payments
from billing.payments.flows import Wanted
from billing.payments.local.provider import LocalProvider
from tests.billing.payments.support import local_payments
from tests.billing.payments.test_in_force import PLANS
from tests.billing.support import Billing

HOME = "https://app.example.com"
STRIDE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 13
HURRY = "UPDATE payment_events SET next_attempt_at = now() WHERE state = 'waiting'"


class Killed(BaseException):
    """The process is no more."""


class Dying:
    """A database that a process can ask so many times, and no more."""

    def __init__(self, billing: Billing, steps: int) -> None:
        self._database, self._left = billing.database, steps

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self._left -= 1
        if self._left < 0:
            raise Killed
        found: Callable[..., Any] = getattr(self._database, name)
        return found


def gateway(billing: Billing, database: Any) -> Payments:
    return local_payments(billing, PLANS, HOME, database=database)


async def look(payments: Payments) -> None:
    """Have all events delivered and looked into, now."""
    assert isinstance(payments.provider, LocalProvider)
    await payments.provider.run_once()
    while await payments.events.round():
        pass


async def look_again(payments: Payments, billing: Billing) -> None:
    """Process the events that the dead gateway has left, claimed ones included."""
    assert isinstance(payments.provider, LocalProvider)
    await payments.provider.run_once()
    while await billing.database.value("SELECT count(*) FROM payment_events WHERE state = 'waiting'"):
        await billing.database.execute(HURRY)
        await payments.events.round()


async def pay(payments: Payments, wanted: Wanted) -> str:
    """Open the page, press its button and have that looked into; the order."""
    order = await payments.flows.checkout(wanted)
    await payments.acts.act((order.url or "").rpartition("/")[2], "approve")
    await look(payments)
    return order.id


async def buy_and_give_back(payments: Payments, account_id: str) -> None:
    """Buy credit, and have a quarter of it given back by an operator."""
    order_id = await pay(payments, Wanted(account_id, "first", parse_usd("20")))
    await payments.admin.refund(order_id, 500, "back")
    await look(payments)


async def subscribe_and_change(payments: Payments, account_id: str) -> None:
    """Subscribe, change to a dearer plan, and then to none with the period's end."""
    if await payments.changes.current(account_id) is None:
        await pay(payments, Wanted(account_id, "first", plan="starter"))
    for plan in ("pro", "free"):
        await payments.changes.change(account_id, plan)
    await look(payments)


@pytest.mark.slow
@pytest.mark.parametrize("flow", [buy_and_give_back, subscribe_and_change])
async def test_what_was_begun_is_ended_once(billing, flow):
    living, steps, died = gateway(billing, billing.database), 0, True
    wanted = ()
    while died:
        account = await billing.accounts.create("Acme")
        try:
            await flow(gateway(billing, Dying(billing, 10**6 if not wanted else steps)), account.id)
            died = not wanted
        except Killed:
            steps += STRIDE
            await look_again(living, billing)
            await flow(living, account.id)  # as its client does, who got no answer
        after = await billing.accounts.get(account.id)
        made = await billing.database.value(
            "SELECT array_agg(kind ORDER BY id) FROM transfers WHERE $1 IN (credit_account, debit_account)", account.id
        )
        page = (await living.orders.page(9, account_id=account.id)).items
        orders = [(each.status, each.refunded_cents) for each in page]
        comes_to = (after.balance_nano if flow is buy_and_give_back else 0, after.plan, after.status, made, orders)
        wanted = wanted or comes_to
        assert comes_to == wanted, f"after {steps} steps"
    assert steps > 20
    assert await billing.database.value("SELECT count(*) FROM payment_events WHERE state <> 'done'") == 0
