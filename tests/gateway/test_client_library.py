"""The client library at a whole gateway, as docs/client-library.md shows it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from billing.client.errors import Refused
from billing.keys.secrets import new_secret
from billing.schemas.service import NewUsage
from metergate import Client, SpoolRules
from tests.gateway.conftest import Customer
from tests.support.metering_service import SERVICE_KEY, Service, ledger, sound, with_meters

PAGE = Path(__file__).parents[2] / "docs" / "client-library.md"


def examples() -> dict[str, Any]:
    """The names that the page's programs define."""
    found: dict[str, Any] = {"__name__": "examples"}
    for program in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        exec(program, found)  # noqa: S102  (it is ours)
    return found


async def statuses(client: Any, customer: Customer) -> list[int]:
    found = []
    for method, path in (("GET", "/"), ("POST", "/containers")):
        async with client.request(method, path, headers={"Authorization": f"Bearer {customer.key}"}) as answer:
            found.append(answer.status)
    return found


async def test_the_documented_service(make_gateway, tmp_path, monkeypatch):
    gateway = await make_gateway(change=with_meters, failed_attempts=1)
    service, shown = Service(gateway), examples()
    customer = await gateway.customer("5.00", scopes=["container:run"])
    for name, text in {
        "METERGATE_API_URL": gateway.url,
        "SERVICE_API_KEY": SERVICE_KEY,
        "SPOOL": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, text)
    assert await shown["run"](customer.account_id) == "charged 0.00905 USD"
    assert sorted((await ledger(service, customer.account_id)).values()) == [228_000, 9_050_000, 50_000_000]
    poor = await gateway.customer("0")
    assert await shown["run"](poor.account_id) == "no room"

    async with Client(gateway.url, service_key=SERVICE_KEY, service_name="aura") as client:
        app = TestClient(TestServer(shown["application"](client)))
        async with app:
            assert await statuses(app, customer) == [200, 200]
            assert await statuses(app, poor) == [200, 403]
            for letter in "abcd":  # wrong keys are nobody's attempts
                wrong = Customer(gateway, "", "", new_secret(lambda _, letter=letter: letter))
                assert await statuses(app, wrong) == [200, 401]
            await gateway.admin("DELETE", f"/keys/{customer.key_id}")
            async with asyncio.timeout(60):
                while await statuses(app, customer) != [200, 401]:
                    await asyncio.sleep(0.01)
        assert not (await client.check_key(customer.key)).active
        assert (await client.account_balance(poor.account_id)).available_usd == "0.00"
        first = await client.debit((await gateway.customer()).account_id, event_id="e", amount_usd="1.00")
        assert first.charged_usd == "1.00"
    await sound(service)


def parked(folder: Path) -> str:
    (path,) = folder.glob("*.jsonl")
    return path.read_text()


async def test_an_event_with_a_bad_text_is_parked_and_keeps_no_other_back(make_gateway, tmp_path):
    """In the background, in a batch, and alone."""
    gateway = await make_gateway(change=with_meters)
    customer = await gateway.customer("5.00")
    bad = {"nul": "a\0b", "surrogate": "a\ud800b", "low": "\udfff"}
    rules = SpoolRules(tmp_path, first_wait_s=0.01, longest_wait_s=0.02)
    options = {"service_key": SERVICE_KEY, "service_name": "aura"}
    async with Client(gateway.url, spool=rules, **options) as client:
        texts = {**bad, **{f"e{number}": "good" for number in range(20)}}
        for name, text in texts.items():
            await client.record(
                customer.account_id, event_id=name, amount_usd="0.01", tags={"t": text}, on_error="spool"
            )
        async with asyncio.timeout(60):
            while client.spooled.waiting:
                await asyncio.sleep(0.01)
        assert (client.spooled.delivered, client.spooled.parked, client.spooled.lost) == (20, 3, 0)
        assert [name for name in bad if f'"{name}' in parked(tmp_path).replace("\\", "")] == list(bad)
        assert await client.retry_parked() == 3  # nothing of them is lost
        async with asyncio.timeout(60):
            while client.spooled.parked < 6:
                await asyncio.sleep(0.01)

        events = [NewUsage(account_id=customer.account_id, event_id=f"b{name}", amount_usd="0.01", tags={"t": text})
                  for name, text in texts.items()]  # fmt: skip
        results = await client.record_batch(events)
        assert (results.recorded, results.refused) == (20, 3)
        with pytest.raises(Refused) as refused:
            await client.record_now(events[1])
        assert refused.value.status == 400
    assert len(await ledger(Service(gateway), customer.account_id)) == 40
