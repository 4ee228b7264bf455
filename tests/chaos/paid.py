"""What was paid, by the provider's own objects, compared with what orders, balances, lots, plans and Redis have.

Nothing that the gateway has applied is read to say what should be there: a payment that is paid is its order's amount,
less the refunds that stand and what disputes hold, and a paid invoice brings its plan's credit.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from billing.ledger.verify import verify
from billing.money import NANO_PER_CENT
from billing.payments.orders import TAKEN
from billing.payments.port import Invoice, Payment
from billing.payments.subscriptions import included_credit
from billing.plans import Plan, Plans
from gateway.runtime.runtime import Runtime
from tests.chaos.harness import Customer, Stack
from tests.chaos.payers import CAP_CENTS, Payers
from tests.chaos.tills import Objects, Till
from tests.chaos.waiting import until

ORDERS = "SELECT id, account_id, idempotency_key, kind, amount_cents, status, payment_id FROM orders"
CUSTOMERS = "SELECT account_id, customer_id FROM payment_customers WHERE customer_id IS NOT NULL"
ACCOUNTS = """
    SELECT id, plan, status, balance_nano,
        coalesce((SELECT sum(left_now) FROM lots_now WHERE account_id = accounts.id), 0)::bigint AS lots_nano,
        (SELECT count(*) FROM transfers WHERE kind = 'purchase' AND credit_account = accounts.id) AS purchases
    FROM accounts"""
WAITING = "SELECT count(*) FROM payment_events WHERE state = 'waiting'"
CHARGING = "SELECT count(*) FROM auto_recharges WHERE state = 'charging' OR (enabled AND state = 'ready')"
GIVEN_UP = """
    SELECT (SELECT count(*) FROM payment_events WHERE state = 'parked') + (SELECT count(*) FROM payments_parked)"""
STUCK_EVENTS = "SELECT type, ref_id, attempts, error FROM payment_events WHERE state = 'waiting'"
STUCK_CHARGES = "SELECT * FROM auto_recharges WHERE state = 'charging' OR (enabled AND state = 'ready')"
HURRY = "UPDATE payment_events SET next_attempt_at = now() WHERE state = 'waiting' AND next_attempt_at > now()"
HURRY_CHARGES = "UPDATE auto_recharges SET next_attempt_at = now() WHERE state = 'charging'"
# An event whose gateway died waits for a minute, then for two, and then for four.
QUIET_S = 300.0
SETTLED = ("credited", "refunded", "disputed")


async def wait_until_applied(runtime: Runtime, till: Till, *, hurry: bool) -> None:
    """Wait until the provider has told everything and all of it was looked into, and no charge is under way; to `hurry`
    is to have events and charges that wait for their next try tried now."""
    database = runtime.database

    async def applied() -> bool:
        if hurry:
            await database.execute(HURRY)
            await database.execute(HURRY_CHARGES)
        return await till.is_done(database) and not await database.value(WAITING) + await database.value(CHARGING)

    try:
        await until(applied, "all events are looked into", QUIET_S)
    except AssertionError as error:
        stuck = [*await database.rows(STUCK_EVENTS), *await database.rows(STUCK_CHARGES)]
        raise AssertionError("\n".join([str(error), *(str(dict(row)) for row in stuck[:10])])) from error


def credit_nano(payment: Payment, objects: Objects) -> int:
    """What a paid payment of credit that nobody has spent is worth now."""
    back = sum(each.amount_cents for each in objects.refunds[payment.id] if each.status == "succeeded")
    held = -sum(moved.amount_cents for each in objects.disputes[payment.id] for moved in each.movements)
    return max(0, payment.amount_cents - back - held) * NANO_PER_CENT


def included_nano(invoices: Iterable[Invoice], plans: Plans) -> int:
    """The credit that came with plans."""
    of_price: dict[str, Plan] = dict(plans)
    return sum(each.amount_nano for invoice in invoices for each in included_credit(invoice, of_price))


async def judge_payments(stack: Stack, payers: Payers, *, hurry: bool) -> Counter[str]:
    """What became of all orders, once everything is applied. What begins with WRONG must not be."""
    found: Counter[str] = Counter()
    async with stack.runtime() as runtime:
        await wait_until_applied(runtime, payers.till, hurry=hurry)
        for _ in range(await runtime.database.value(GIVEN_UP)):
            found["WRONG: an event or a payment was given up"] += 1
        objects = await payers.till.objects(runtime)
        _check_orders(found, await runtime.database.rows(ORDERS), objects, payers)
        await _check_accounts(found, runtime, objects, stack.customers)
        await stack.stop_gateway()
        report = await runtime.engine.reconciler.run()
        found.update(f"WRONG: Redis and the ledger differ: {drift}" for drift in report.drifts)
        if report.busy:
            found[f"WRONG: {report.busy} accounts could not be compared"] += 1
        for check in (await verify(runtime.database)).checks:
            found.update(f"WRONG: the ledger: {example}" for example in check.examples)
    return found


def _check_orders(found: Counter[str], rows: Sequence[Any], objects: Objects, payers: Payers) -> None:
    """Each order is what its payments are; the same key never got two orders, and who was told has paid."""
    paid = Counter(each.order_id for each in objects.payments if each.status == "paid" and each.invoice_id is None)
    active = {each.order_id for each in objects.subscriptions if each.status != "incomplete"}
    orders = {}
    for row in rows:
        orders[row["account_id"], row["idempotency_key"]] = row["id"]
        is_paid = row["id"] in active if row["kind"] == "plan" else paid[row["id"]] > 0
        if is_paid == (row["status"] in SETTLED):
            found[f"{row['kind']} {row['status']}"] += 1
        else:
            found[f"WRONG: order {row['id']} is {row['status']}, paid is {is_paid}"] += 1
    charged: Counter[str] = Counter()
    for row in rows:
        charged[row["account_id"]] += row["amount_cents"] * paid[row["id"]] * (row["kind"] == "recharge")
    for account_id, cents in charged.items():
        if cents > CAP_CENTS:
            found[f"WRONG: {account_id} was charged {cents} cents without being asked"] += 1
    for order_id, times in paid.items():
        if times > 1:
            found[f"WRONG: order {order_id} was paid {times} times"] += 1
    for account_id, keys in payers.keys.items():
        for key, order_id in keys.items():
            if orders.get((account_id, key)) != order_id:
                found[f"WRONG: order {order_id} of {key} is not there"] += 1
    for order_id in payers.pressed - set(paid):
        found[f"WRONG: order {order_id} was paid on its page, and the provider has forgotten it"] += 1


async def _check_accounts(
    found: Counter[str], runtime: Runtime, objects: Objects, customers: Iterable[Customer]
) -> None:
    """Each account has its grant and what its payments say: balance, lots, transfers, plan and status."""
    database, plans = runtime.database, runtime.services.plans
    whose = {row["customer_id"]: row["account_id"] for row in await database.rows(CUSTOMERS)}
    granted = {each.account_id: each.granted_nano for each in customers}
    payments, invoices = defaultdict[str, list[Payment]](list), defaultdict[str, list[Invoice]](list)
    for payment in objects.payments:
        if payment.status == "paid":
            payments[whose[payment.customer_id or ""]].append(payment)
    for invoice in objects.invoices:
        invoices[whose[invoice.customer_id or ""]].append(invoice)
    active = [each for each in objects.subscriptions if each.status in ("active", "past_due")]
    in_force = {whose[each.customer_id]: each.price_id for each in active}
    owing = {whose[each.customer_id] for each in active if each.status == "past_due"}
    for customer_id, number in Counter(each.customer_id for each in active).items():
        if number > 1:
            found[f"WRONG: {whose[customer_id]} pays for {number} subscriptions"] += 1
    for row in await database.rows(ACCOUNTS):
        account_id = row["id"]
        bought = [each for each in payments[account_id] if each.invoice_id is None]
        worth_nano = granted.get(account_id, 0) + sum(credit_nano(each, objects) for each in bought)
        worth_nano += included_nano(invoices[account_id], plans)
        disputed = any(d.status in TAKEN for each in payments[account_id] for d in objects.disputes[each.id])
        status = "suspended" if disputed else "past_due" if account_id in owing else "active"
        expected = (worth_nano, max(worth_nano, 0), len(bought), status, in_force.get(account_id, "free"))
        has = (row["balance_nano"], row["lots_nano"], row["purchases"], row["status"], row["plan"])
        if has != expected:
            found[f"WRONG: {account_id} has (balance, lots, purchases, status, plan) {has}, not {expected}"] += 1
        else:
            found["accounts exact"] += 1
