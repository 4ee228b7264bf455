"""A service that meters what it does, over HTTP, at a whole gateway."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date
from typing import Any

from billing.ledger.verify import verify
from billing.pricing import PriceRow, PriceTable
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.gateway.conftest import Gateway

SERVICE_KEY = "service-key-of-all-the-tests"
METERS = (
    PriceRow("meter", "container.second", date(2026, 1, 1), {}, {"unit": 100_000}),
    PriceRow("meter", "bytes", date(2026, 1, 1), {}, {"million": 90_000}),
)


def with_meters(settings: Settings) -> Settings:
    return replace(settings, service_api_key=Secret(SERVICE_KEY), prices=PriceTable((*settings.prices.rows, *METERS)))


class Service:
    """A service called aura, at one gateway; another `gateway` may be named for each call."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def call(
        self, method: str, path: str, body: Any = None, *, gateway: Gateway | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Status, body and headers."""
        sent = {"X-API-Key": SERVICE_KEY, "X-Service-Name": "aura", **headers}
        at = (gateway or self.gateway).url + "/api/service" + path
        async with self.gateway.session.request(method, at, json=body, headers=sent) as answer:
            return answer.status, await answer.json(), answer.headers

    async def post(self, path: str, body: Any, status: int = 200, **options: Any) -> Any:
        found, answer, _ = await self.call("POST", path, body, **options)
        assert found == status, answer
        return answer

    async def balance(self, account_id: str) -> dict[str, Any]:
        status, answer, _ = await self.call("GET", f"/accounts/{account_id}/balance")
        assert status == 200
        return dict(answer)


async def sound(service: Service) -> None:
    """Redis and the ledger agree, and what is in the ledger adds up."""
    report = await service.gateway.runtime.engine.reconciler.run()
    assert report.drifts == ()
    verified = await verify(service.gateway.runtime.database)
    assert verified.ok, verified


async def until(found: Any, wanted: Any) -> None:
    async with asyncio.timeout(60):
        while await found() != wanted:
            await asyncio.sleep(0.01)


async def ledger(service: Service, account_id: str) -> dict[str, int]:
    """The charges, by event."""
    rows = await service.gateway.runtime.database.rows(
        "SELECT client_request_id, charged_nano FROM usage_events WHERE account_id = $1 AND outcome = 'settled'",
        account_id,
    )
    found = {row["client_request_id"]: row["charged_nano"] for row in rows}
    assert len(found) == len(rows)
    return found
