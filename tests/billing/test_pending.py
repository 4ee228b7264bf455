"""One statement tells each part of the background work whether there is anything to do."""

import asyncio
import logging
from dataclasses import asdict

import pytest

from billing.database.connection import DatabaseUnavailable, queries
from billing.pending import PENDING, Pending, Standing, Work

NOTICE = "INSERT INTO notices (id, account_id, type, data) VALUES ('n', 'a', 'test', '{}')"
HANDED_OUT = "UPDATE notices SET handed_out_at = now()"
PAYMENT = """INSERT INTO payment_events (provider, id, type, livemode, body, created_at, number)
VALUES ('local', 'a', 'payment', false, '', now(), 'a')"""
JOB = """INSERT INTO background_jobs (object_id, provider, kind, model, request_id, later_id, gateway_id, debit,
    expires_at, lease_owner, lease_until)
VALUES ('o', 'p', 'response', 'm', 'r', 'l', 'g', '', now() + interval '1 day', 'g', now())"""
HOLD = """INSERT INTO service_holds (id, account_id, event_id, service, partition, payload, expires_at)
VALUES ('h', 'a', 'e', 's', 0, '', now() + interval '1 hour')"""
# By kind: what makes it due, and what ends that.
DUE = [
    ("changes", ["UPDATE accounts SET version = version + 1"], "UPDATE accounts SET pushed_version = version"),
    ("changes", ["UPDATE accounts SET xseq = xseq + 1"], "UPDATE accounts SET pushed_xseq = xseq"),
    ("notices", [NOTICE], HANDED_OUT),
    (
        "notices",
        [NOTICE, HANDED_OUT, "INSERT INTO webhook_deliveries (notice_id) VALUES ('n')"],
        "UPDATE webhook_deliveries SET next_attempt_at = now() + interval '1 minute'",
    ),
    (
        "mails",
        ["INSERT INTO mail_outbox (id, recipient, subject, body) VALUES ('a', 'a@example.com', '', '')"],
        "UPDATE mail_outbox SET next_attempt_at = now() + interval '1 minute'",
    ),
    ("payment_events", [PAYMENT], "UPDATE payment_events SET state = 'done'"),
    ("jobs", [JOB], "UPDATE background_jobs SET lease_until = now() + interval '1 minute'"),
    ("service_holds", [HOLD], "UPDATE service_holds SET state = 'voided'"),
]


async def due(pending: Pending) -> set[str]:
    await pending.refresh()
    return {name for name, value in asdict(pending.work).items() if value is True}


@pytest.mark.parametrize(("kind", "begin", "end"), DUE)
async def test_what_is_due_is_found_until_it_is_not(billing, account, kind, begin, end):
    pending = Pending(billing.database)
    await billing.database.execute("UPDATE accounts SET pushed_version = version, pushed_xseq = xseq")
    assert await due(pending) == set()
    assert not pending.changes.is_set()
    for statement in begin:
        await billing.database.execute(statement)
    assert await due(pending) == {kind}
    assert pending.changes.is_set() == (kind == "changes")
    await billing.database.execute(end)
    assert await due(pending) == set()


async def test_before_the_first_answer_and_without_one_everything_may_be_due(billing, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "billing.pending")
    asked = asyncio.Semaphore(0)

    async def away(_):
        asked.release()
        raise DatabaseUnavailable("Postgres is away: OSError")

    monkeypatch.setattr(billing.database, "row", away)
    monkeypatch.setattr("billing.pending.EVERY_S", 0.0)
    monkeypatch.setattr("billing.pending.LEAST_S", 0.0)
    pending = Pending(billing.database)
    running = asyncio.create_task(pending.run())
    async with asyncio.timeout(30):
        await asked.acquire()
        await asked.acquire()
    running.cancel()
    assert pending.work == Work()
    assert "Postgres is away" in caplog.text


async def test_other_plans_are_told_once(billing):
    pending = Pending(billing.database)
    await pending.refresh()
    assert not pending.plans.is_set()
    await billing.database.execute("INSERT INTO plan_revisions (revision, digest, said) VALUES (7, '', '{}')")
    await pending.refresh()
    assert pending.plans.is_set()
    assert pending.work.plans_revision == 7
    pending.plans.clear()
    await pending.refresh()
    assert not pending.plans.is_set()


async def planned(connection):
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {PENDING}"))


async def test_where_nothing_is_due_no_table_is_read_as_a_whole(billing):
    """However many accounts there are: the question is asked twice a second."""
    async with billing.database.connection() as connection:
        await connection.execute(
            """INSERT INTO accounts (id, name, plan)
            SELECT 'acc_' || number, 'Acme', 'free' FROM generate_series(1, 20000) AS number"""
        )
        await connection.execute("ANALYZE accounts")
        plan = await planned(connection)
        assert "accounts_unpushed" in plan
        assert "accounts_uncorrected" in plan
        # Tables that are nearly empty are read as a whole; where there is an index, none must be.
        await connection.execute("SET enable_seqscan = off")
        assert "Seq Scan" not in await planned(connection)
        await connection.execute("RESET enable_seqscan")


async def test_how_a_queue_stands_is_read_where_something_was_found_or_now_and_then(billing, monkeypatch):
    standing = Standing(billing.database, queries("billing.notices")("outbox_standing"))
    await billing.database.execute(NOTICE)
    assert not await standing.due(False)
    assert (standing.waiting, standing.parked) == (1, 0)
    assert standing.lag_s >= 0
    await billing.database.execute(HANDED_OUT)
    assert not await standing.due(False)
    assert standing.waiting == 1
    assert await standing.due(True)
    await standing.refresh()
    assert standing.waiting == 0
