"""What services say of an API key that they were shown, over HTTP, on a whole gateway and the real stores."""

from __future__ import annotations

import asyncio

from tests.support.metering_service import Service, sound, with_meters


async def test_what_is_of_a_key_is_in_its_quotas_and_reports(make_gateway):
    """As another service would count tokens for a key that it was shown: `quota` is the key's, of tokens in total."""
    gateway = await make_gateway(change=with_meters)
    service, customer = Service(gateway), await gateway.customer("5.00")
    account_id = customer.account_id
    made = {"account_id": account_id, "name": "metered", "quota": 1000, "user_id": "ana", "scopes": "billing:read"}
    key = await gateway.admin("POST", "/keys", made)
    shown = await service.post("/keys/check", {"key": key["key"]})
    assert (shown["active"], shown["holder"]["key_id"]) == (True, key["id"])
    noted = (await gateway.admin("GET", f"/keys/{key['id']}"))["last_used_at"]  # or it is going to be
    assert key["id"] in gateway.runtime.engine.cache.used or noted is not None
    named = {"account_id": account_id, "feature": "llm", "provider": "openai", "model": "gpt-4o-mini"}
    asked = {**named, "key_id": key["id"]}
    await service.post("/usage", {**asked, "event_id": "0", "input_tokens": 100})
    cloud = {"specversion": "1.0", "id": "1", "source": "s", "type": "container.second", "subject": account_id}
    data = {"quantity": 1, "key_id": key["id"]}
    await service.post("/usage", {**cloud, "data": data}, **{"Content-Type": "application/cloudevents+json"})

    async def used():
        async with gateway.session.get(f"{gateway.url}/v1/key", headers={"x-api-key": key["key"]}) as answer:
            windows = (await answer.json())["windows"]
        return next(int(each["used"]) for each in windows if each["subject"] == "key")

    assert await used() == 100  # read from the ledger: Redis has not heard of the key
    await service.post("/usage", {**asked, "event_id": "1", "input_tokens": 200, "output_tokens": 300})
    async with asyncio.timeout(60):  # Redis is told after the answer
        while await used() != 600:
            await asyncio.sleep(0.01)
    assert (await service.post("/check", {**asked, "input_tokens": 400}))["allowed"]
    assert (await service.post("/check", {**named, "input_tokens": 401}))["allowed"]  # of no key
    refused = (await service.post("/check", {**asked, "input_tokens": 401}, 429))["error"]
    assert (refused["code"], refused["quota"]["subject"], refused["quota"]["used"]) == ("quota_exceeded", "key", 600)
    debit = {**asked, "event_id": "2", "input_tokens": 400}
    assert (await service.call("POST", "/debits", debit))[0] == 201
    await service.post("/debits", {**asked, "event_id": "3", "input_tokens": 1}, 429)
    await service.post("/debits", {**debit, "key_id": customer.key_id}, 409)

    found = {(each["key_id"], each["user_id"], each["total_tokens"]) for each in await customer.events()}
    assert found == {(key["id"], "ana", 100), (key["id"], "ana", 500), (key["id"], "ana", 400), (key["id"], "ana", 0)}
    async with customer.get("/api/billing/usage", params={"key_id": key["id"]}) as answer:
        totals = await answer.json()
    assert (totals["events"], totals["total_tokens"]) == (4, 1000)

    other = await gateway.customer("5.00")
    for wrong in (other.key_id, "key_none"):
        assert (await service.post("/check", {**asked, "key_id": wrong}, 404))["error"]["code"] == "not_found"
    await gateway.admin("DELETE", f"/keys/{key['id']}")
    async with asyncio.timeout(60):
        while (await service.call("POST", "/check", {**asked, "input_tokens": 0}))[0] != 404:
            await asyncio.sleep(0.01)
    status, _, headers = await service.call("POST", "/debits", debit)  # it was made: the first answer
    assert (status, headers["idempotent-replayed"]) == (201, "true")
    await service.post("/debits", {**debit, "event_id": "4"}, 404)
    await service.post("/usage", {**asked, "event_id": "5", "input_tokens": 1})  # it has happened
    await sound(service)
