"""Sums by hour at Stripe: each amount counts once, however often it is sent, and late usage is sent as a difference."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.audit import SYSTEM
from billing.database.connection import queries
from billing.exports.meters import MeterCustomers, StripeMeter, StripeMeters
from billing.exports.worker import Exports, ExportWorker
from billing.ledger.writer import write_debits
from billing.payments.events import Customers, PaymentEvents
from billing.payments.stripe.provider import StripeAccess, StripePayments
from tests.billing.exports.support import BOUND_S, LATER, debit, drain, opened, used, working
from tests.billing.payments.test_broken_off import Dying, Killed
from tests.billing.support import Billing
from tests.support.answering import until
from tests.support.stripe_fake import FakeStripe, signed
from tests.support.stripe_fake.meters import REPORT

METERS = (
    StripeMeter("tokens", "total_tokens"),
    StripeMeter("nano", "charged_nano"),
    StripeMeter("images", "requests", "image"),
)
NAME = "stripe-meters"


@pytest.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    async with FakeStripe().serving() as fake:
        fake.state.now = int(datetime.now(UTC).timestamp())
        yield fake
        assert fake.violations == []


@pytest.fixture
async def provider(stripe: FakeStripe) -> AsyncIterator[StripePayments]:
    access = StripeAccess(stripe.api_key, stripe.url, timeout_s=5, connect_timeout_s=5, retries=0)
    made = StripePayments(access, [stripe.secret], "here", lambda: datetime.fromtimestamp(stripe.state.now, UTC))
    yield made
    await made.close()


def sink(billing: Billing, database: Any, stripe: FakeStripe, provider: StripePayments) -> StripeMeters:
    customers = Customers(billing.database, provider)

    async def customer(account_id: str) -> str:
        return await customers.ensure(account_id, "Acme")

    def now() -> datetime:
        return datetime.fromtimestamp(stripe.state.now, UTC)

    return StripeMeters(
        NAME,
        METERS,
        provider.calls,
        MeterCustomers(customer, customers.gone),
        database=database,
        new_id=billing.new_id,
        now=now,
    )


async def told_to_the_end(worker: ExportWorker) -> None:
    await drain(worker)
    (export,) = await opened(worker)
    async with asyncio.timeout(BOUND_S):
        while True:
            await worker.step(export)
            due = "SELECT count(*) FROM export_hours WHERE used > told AND NOT parked"
            if not await worker._database.value(due):
                return


def amounts(stripe: FakeStripe) -> Counter[tuple[str, str, int]]:
    """What Stripe has by customer, meter and hour."""
    found: Counter[tuple[str, str, int]] = Counter()
    for each in stripe.state.all("billing.meter_event"):
        key = (each["payload"]["stripe_customer_id"], each["event_name"], each["timestamp"] // 3600)
        found[key] += int(each["payload"]["value"])
    return found


async def ledger(billing: Billing) -> Counter[tuple[str, str, int]]:
    rows = await billing.database.rows(
        "SELECT c.customer_id, floor(extract(epoch FROM e.admitted_at) / 3600)::bigint AS hour,"
        " sum(e.input_tokens + e.output_tokens)::bigint AS tokens, sum(e.charged_nano)::bigint AS nano"
        " FROM usage_events AS e JOIN payment_customers AS c USING (account_id) GROUP BY 1, 2"
    )
    return Counter({(row["customer_id"], name, row["hour"]): row[name] for row in rows for name in ("tokens", "nano")})


async def test_each_hour_is_told_once_though_stripe_fails_and_gateways_die(billing, stripe, provider):
    accounts = [(await billing.accounts.create(name)).id for name in ("Acme", "Beta")]
    await used(billing, accounts, 60, hours=3, ago=LATER)
    stripe.faults.extend(
        [None, None, "lose_answer", "busy", "fail", None, "refuse", "lose_answer", None, "lose_answer"]
    )
    steps, died, late = 0, 0, False
    for owner in range(300):
        await billing.database.execute("UPDATE exports SET lease_until = now()")
        steps += 4
        try:
            dying = Dying(billing, steps)
            async with working(dying, sink(billing, dying, stripe, provider), owner=str(owner)) as worker:
                await told_to_the_end(worker)
            if late:
                break
            late = True
            await used(billing, accounts, 10, hours=3, seed=9, ago=LATER)  # of hours that were told
            steps = 0
        except Killed:
            died += 1
    assert died > 5
    assert amounts(stripe) == await ledger(billing)
    told = [each["identifier"] for each in stripe.state.all("billing.meter_event")]
    assert len(set(told)) == len(told)
    assert {identifier[-2:] for identifier in told} == {":0", ":1"}


async def test_what_stripe_refuses_is_parked_and_told_once_it_is_mended(billing, stripe, provider):
    account_id = (await billing.accounts.create("Acme")).id
    now = datetime.fromtimestamp(stripe.state.now, UTC)
    old, new = now - timedelta(days=36), now - timedelta(hours=3)
    await write_debits(billing.database, [debit(billing, account_id, at, 1_000, feature="image") for at in (old, new)])
    exports = Exports(billing.database)
    events = PaymentEvents(billing.database, provider, lambda ref: None, billing.new_id)
    async with working(billing.database, sink(billing, billing.database, stripe, provider)) as worker:
        await told_to_the_end(worker)
        too_old = (await exports.dead_letters(50)).items
        assert len(too_old) == 3
        assert all("35 days" in each.reason for each in too_old)
        (image,) = (each for each in stripe.state.all("billing.meter_event") if each["event_name"] == "images")
        assert image["timestamp"] == int(new.timestamp()) // 3600 * 3600 + 3599

        late = debit(billing, account_id, new, 1_000, feature="image")  # told under the next number
        await write_debits(billing.database, [late])
        await told_to_the_end(worker)

        strange = stripe.routes.meters.report("no meter", image["identifier"])
        del stripe.state.all(REPORT)[-1]["data"]["reason"]["error_types"][0]["sample_errors"][0]["request"]
        await events.receive(*signed(strange, stripe.secret, at=stripe.state.now))  # nobody waits for it

        report = stripe.routes.meters.report("no meter", image["identifier"])
        report_id = {"identifier": f"{image['identifier']}:of-a-call"}  # the key of the call, which begins with it
        stripe.state.all(REPORT)[-1]["data"]["reason"]["error_types"][0]["sample_errors"][0]["request"] = report_id
        body, headers = signed(report, stripe.secret, at=stripe.state.now)
        await events.receive(body, headers)
        ours, stripe.api_key = stripe.api_key, "sk_test_another"
        await told_to_the_end(worker)  # the report is kept for when the key is mended
        stripe.api_key = ours
        await told_to_the_end(worker)
        (reported, *_) = (await exports.dead_letters(50)).items
        assert (reported.item, reported.reason) == (image["identifier"], "taken, then refused: no meter")
        assert amounts(stripe)[image["payload"]["stripe_customer_id"], "images", image["timestamp"] // 3600] == 1

        assert await exports.again(NAME, reported.item, SYSTEM) == 1
        await told_to_the_end(worker)
        assert [each.item for each in (await exports.dead_letters(50)).items] == [each.item for each in too_old]
    assert amounts(stripe) == await expected(billing, new)


async def test_an_hour_is_over_by_the_clock_of_postgres_and_refused_though_it_is_being_told(billing, stripe, provider):
    """A report of an amount waits for a later one that is noted at that moment, and is not lost with it."""
    account_id = (await billing.accounts.create("Acme")).id
    now = datetime.fromtimestamp(stripe.state.now, UTC)
    await write_debits(billing.database, [debit(billing, account_id, at, 1_000) for at in (now, now - LATER)])
    stripe.state.now += 7200
    hours = "SELECT hour, n, told, used, parked FROM export_hours WHERE meter = 'nano' ORDER BY hour"
    async with working(billing.database, sink(billing, billing.database, stripe, provider)) as worker:
        await drain(worker)
        over, current = await billing.database.rows(hours)
        assert [(each["n"], each["told"]) for each in (over, current)] == [(1, 1_000), (0, 0)]
    await billing.database.execute(
        "UPDATE export_hours SET used = used + 7, asked = 7, asked_at = now() WHERE told > 0"
    )
    exports, hour = queries("billing.exports"), (NAME, account_id, "nano", over["hour"])
    async with billing.database.transaction() as connection:
        await connection.execute(exports("hours_told"), *hour, 1)
        refused = asyncio.create_task(billing.database.execute(exports("hours_refused"), *hour, 0, "the item", "no"))
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"
        name = await connection.fetchval("SELECT current_database()")
        await until(lambda: billing.database.value(waiting, name))
    await refused
    await billing.database.execute(exports("hours_park"), *hour, 1, "told by another gateway", "no")
    told, _ = await billing.database.rows(hours)
    assert tuple(told)[1:] == (2, 7, 1_007, True)
    assert [each.item for each in (await Exports(billing.database).dead_letters(50)).items] == ["the item"]


async def test_what_stripe_may_have_forgotten_is_told_once_somebody_has_looked_it_up(billing, stripe, provider):
    account_id = (await billing.accounts.create("Acme")).id
    at = datetime.fromtimestamp(stripe.state.now, UTC) - LATER
    await write_debits(billing.database, [debit(billing, account_id, at, 1_000)])
    stripe.faults.extend(["busy"] * 100)
    async with working(billing.database, sink(billing, billing.database, stripe, provider)) as worker:
        await drain(worker)
        stripe.faults.clear()
        await billing.database.execute("UPDATE export_hours SET asked_at = now() - interval '2 days' WHERE told = 0")
        await told_to_the_end(worker)
        parked = (await Exports(billing.database).dead_letters(50)).items
        assert {("24 hours" in each.reason) for each in parked} == {True}
        assert await Exports(billing.database).again(NAME, None, SYSTEM) == len(parked) == 2
        await told_to_the_end(worker)
        assert (await Exports(billing.database).dead_letters(50)).items == ()
    assert amounts(stripe) == await ledger(billing)


async def expected(billing: Billing, at: datetime) -> Counter[tuple[str, str, int]]:
    """What the events that are not too old come to."""
    hour = int(at.timestamp()) // 3600
    found = Counter({key: value for key, value in (await ledger(billing)).items() if key[2] == hour})
    customer = next(iter(found))[0]
    found[customer, "images", hour] = 2
    return found
