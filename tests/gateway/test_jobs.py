"""Jobs over HTTP: who may ask, what is answered, and that a difference is mended."""

from dataclasses import replace

from billing.holds.codec import AccountState
from tests.gateway.conftest import ADMIN_KEY, Gateway, chat


async def test_reconcile_reports_and_mends(gateway: Gateway) -> None:
    customer = await gateway.customer("5.00")
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    engine, link = gateway.runtime.engine, gateway.runtime.link
    key = engine.keyspace.account(customer.account_id)
    state = AccountState.unpack(await link.command("GET", key))
    await link.command("SET", key, replace(state, balance_nano=state.balance_nano + 12).pack())
    headers = {"X-Admin-Key": ADMIN_KEY}
    url = f"{gateway.url}/v1/jobs/reconcile"
    async with gateway.session.post(url, headers=headers, json={"fix": True}) as answer:
        assert answer.status == 200
        said = await answer.json()
    (drift,) = said["drifts"]
    assert (drift["account_id"], drift["what"]) == (customer.account_id, "balance")
    assert drift["redis"] - drift["ledger"] == 12
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    async with gateway.session.post(url, headers=headers) as answer:
        assert (await answer.json())["drifts"] == []
    async with gateway.session.get(f"{gateway.url}/v1/status", headers=headers) as answer:
        assert (await answer.json())["status"] == "ok"


async def test_a_new_epoch_can_be_asked_for_without_a_difference(gateway: Gateway) -> None:
    """What is wrong may be what reconciling compares with."""
    customer = await gateway.customer("5.00")
    (partition,) = gateway.runtime.engine.partitions.all
    epoch = partition.epoch
    headers, url = {"X-Admin-Key": ADMIN_KEY}, f"{gateway.url}/v1/jobs/reconcile"
    async with gateway.session.post(url, headers=headers, json={"fix": True}) as answer:
        assert (await answer.json())["drifts"] == []
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    assert epoch is not None
    assert partition.epoch == epoch + 1


async def test_jobs_need_the_admin_key(gateway: Gateway) -> None:
    for headers in ({}, {"X-Admin-Key": "wrong"}):
        async with gateway.session.post(f"{gateway.url}/v1/jobs/reconcile", headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == "invalid_api_key"
