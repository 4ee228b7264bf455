"""The client library at a whole gateway, as docs/client-library.md shows it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp.test_utils import TestClient, TestServer

from billing.client import BillingClient
from billing.keys.secrets import new_secret
from tests.gateway.conftest import Customer, MakeGateway
from tests.gateway.test_metering import SERVICE_KEY, Service, ledger, sound, with_meters

PAGE: Final = Path(__file__).parents[2] / "docs" / "client-library.md"


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


async def test_the_documented_service(
    make_gateway: MakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    async with BillingClient(gateway.url, service_key=SERVICE_KEY, service_name="aura") as client:
        app = TestClient(TestServer(shown["application"](client)))
        async with app:
            assert await statuses(app, customer) == [200, 200]
            assert await statuses(app, poor) == [200, 403]
            for letter in "abcd":  # wrong keys are nobody's attempts
                wrong = Customer(gateway, "", "", new_secret(lambda _, letter=letter: letter))  # type: ignore[misc]
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
