"""Jobs over HTTP: who may start them, their answers, and the correction of a difference."""

import asyncio
import gzip
from collections.abc import Awaitable
from dataclasses import replace

import asyncpg

from billing.holds.redis.layout import AccountState
from gateway.metrics.registry import Metrics
from tests.gateway.conftest import ADMIN_KEY, Gateway, chat
from tests.support.answering import until

# Loops of a process that does nothing for others.
ITS_OWN = {
    "outbox",
    "direct_writer",
    "tend",
    "relay",
    "subscribe",
    "targets_tell",
    "targets_listen",
    "housekeeping",
    "months",
    "metrics",
    "pending",
    "plans",
    "prices",
    "refused",
}
# Some of those by which one gateway of all does something for all.
SHARED = {"reconcile", "retention", "mail", "notices", "credit_expiry", "balance_alerts", "budgets", "background"}


async def test_reconcile_reports_and_mends(gateway, customer):
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    engine, link = gateway.runtime.engine, gateway.runtime.redis_client
    key = engine.keyspace.account(customer.account_id)
    state = AccountState.unpack(await link.command("GET", key))
    await link.command("SET", key, replace(state, balance_nano=state.balance_nano + 12).pack())
    headers = {"X-Admin-Key": ADMIN_KEY}
    url = f"{gateway.url}/v1/jobs/reconcile"
    async with gateway.session.post(url, headers=headers, json={"fix": True}) as answer:
        assert answer.status == 200
        report = await answer.json()
    first = answer
    (drift,) = report["drifts"]
    assert (drift["account_id"], drift["what"]) == (customer.account_id, "balance")
    assert drift["redis"] - drift["ledger"] == 12
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    async with gateway.session.post(url, headers=headers) as answer:
        assert (await answer.json())["drifts"] == []
    (noted,) = await gateway.runtime.database.rows("SELECT * FROM audit_log WHERE action = 'job.run'")
    assert (noted["actor"], noted["after"], noted["request_id"]) == (
        "admin",
        {"fix": True},
        first.headers["x-request-id"],
    )
    async with gateway.session.get(f"{gateway.url}/v1/status", headers=headers) as answer:
        assert (await answer.json())["status"] == "ok"


async def test_a_new_epoch_can_be_asked_for_without_a_difference(gateway, customer):
    """What is wrong may be what reconciling compares with."""
    (partition,) = gateway.runtime.engine.partitions.all
    epoch = partition.epoch
    headers, url = {"X-Admin-Key": ADMIN_KEY}, f"{gateway.url}/v1/jobs/reconcile"
    async with gateway.session.post(url, headers=headers, json={"fix": True}) as answer:
        assert (await answer.json())["drifts"] == []
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    assert epoch is not None
    assert partition.epoch == epoch + 1


async def test_jobs_need_the_admin_key(gateway):
    for headers in ({}, {"X-Admin-Key": "wrong"}):
        async with gateway.session.post(f"{gateway.url}/v1/jobs/reconcile", headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == "invalid_api_key"


async def test_a_job_s_body_has_the_bounds_of_every_other(make_gateway):
    """Its size, plain or decoded; the time to send it; its coding. Nothing of it is decoded without the admin key."""
    gateway = await make_gateway(change=lambda settings: replace(settings, max_body_bytes=10_000, request_timeout_s=2))

    async def post(data, *, key=ADMIN_KEY, **headers):
        url, sent = f"{gateway.url}/v1/jobs/reconcile", {"X-Admin-Key": key, **headers}
        async with gateway.session.post(url, headers=sent, data=data) as answer:
            error = (await answer.json())["error"]
            assert answer.headers["x-request-id"]
            assert "Server" not in answer.headers
            return answer.status, error["code"] if error else ""

    async def trickle():
        yield b"{"
        await asyncio.Event().wait()

    async def chunks():
        for _ in range(11):
            yield b" " * 1_000

    packed = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 5_000_000)
    assert await post(b'{"fix": false}') == (200, "")
    assert await post(gzip.compress(b'{"fix": false}'), **packed) == (200, "")
    assert await post(b" " * 10_001) == (413, "request_too_large")
    assert await post(chunks()) == (413, "request_too_large")
    assert await post(bomb, **packed) == (413, "request_too_large")
    assert await post(b"no gzip", **packed) == (400, "invalid_request_error")
    assert await post(b"{}", **{"Content-Encoding": "br"}) == (400, "invalid_request_error")
    assert await post(trickle()) == (400, "invalid_request_error")
    assert await post(bomb, key="wrong", **packed) == (401, "invalid_api_key")


async def test_the_process_of_pages_leaves_work_to_others_and_is_told_what_changes(make_gateway, tmp_path):
    worker = await make_gateway(metrics=Metrics(tmp_path))
    subscribed = await subscriptions(worker)
    newer = {"change": lambda settings: replace(settings, plans_version=settings.plans_version + 1)}
    pages = await make_gateway(metrics=Metrics(tmp_path, is_worker=False), shared_work=False, **newer)
    assert len(await subscriptions(worker) - subscribed) == 2
    assert set(pages.runtime.engine.loops.tasks) == ITS_OWN
    assert set(worker.runtime.engine.loops.tasks) > ITS_OWN | SHARED
    assert pages.runtime.follower.revision == worker.runtime.follower.revision > 0  # its file is in force nowhere
    headers = {"X-Admin-Key": ADMIN_KEY}
    async with worker.session.post(f"{worker.url}/v1/jobs/reconcile", headers=headers) as answer:
        report = await answer.json()
    worker.runtime.engine.loops.failed("mail", RuntimeError("a test"))
    said = "the mail loop failed and was restarted"
    await until(lambda: [each.message for each in pages.health.everywhere()] == [said])
    assert pages.health.troubles() == []
    async with pages.session.get(f"{pages.url}/v1/status", headers=headers) as answer:
        assert await answer.json() == report

    async def status(at, key, path):
        async with at.session.get(at.url + path, headers={"Authorization": f"Bearer {key}"}) as read:
            return read.status

    for changed_at, asked, path in ((worker, pages, "/api/account/balance"), (pages, worker, "/v1/models")):
        customer = await changed_at.customer()
        assert await status(asked, customer.key, path) == 200  # and is in its memory now
        for lost in await subscriptions(worker) - subscribed:
            await worker.runtime.redis_client.command("CLIENT", "KILL", "ID", lost)
        await changed_at.admin("DELETE", f"/keys/{customer.key_id}")
        await until(lambda at=asked, key=customer.key, path=path: is_status(401, status(at, key, path)))


async def is_status(expected: int, asked: Awaitable[int]) -> bool:
    return await asked == expected


async def subscriptions(gateway: Gateway) -> set[bytes]:
    """Ids of connections to Redis that listen."""
    listed = await gateway.runtime.redis_client.command("CLIENT", "LIST", "TYPE", "pubsub")
    return {line.split()[0].removeprefix(b"id=") for line in bytes(listed).splitlines()}


async def test_debits_that_were_set_aside_are_shown(database_url, make_gateway):
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ('r1', '', 'a test')")
    await connection.close()
    gateway = await make_gateway()

    async def shown():
        return b"metergate_debits_set_aside 1" in await gateway.metrics()

    await until(shown)
