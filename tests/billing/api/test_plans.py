"""Where an account stands, and features of its plan, over the API."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from billing.cli.accounts import add_plans
from billing.cli.output import CommandFailed
from billing.cli.tables import Table
from billing.metering.features import Features
from billing.money import parse_usd
from metergate import Client
from tests.billing.api.support import ADMIN_KEY, serving
from tests.billing.api.test_permissions import SERVICE_KEY
from tests.billing.support import PLANS
from tests.support.command_calls import calls_of

SERVICE = {"X-API-Key": SERVICE_KEY, "X-Service-Name": "reports"}


async def test_status_and_features_of_an_account(services, billing):
    plans = {**PLANS, "free": replace(PLANS["free"], features=(("api_access", True), ("reports", 2)))}
    changed = replace(
        services,
        service_api_key=SERVICE_KEY,
        plans=plans,
        features=Features(billing.database, plans, "free", lambda: datetime.now(UTC)),
        upgrade_url=lambda plan: f"https://app.example.com/billing?plan={plan.id}",
    )
    async with serving(changed, billing) as api:
        account, key = await api.customer(scopes=["billing:read", "billing:setup"])
        status = (await api.get(key["key"], "/billing/status")).json
        assert (status["state"], status["status"], status["next"]) == ("billing_required", "active", None)
        assert (
            status["guidance"]
            == "You're out of credit, so requests are refused: ask whoever runs this gateway for some."
        )
        assert status["upgrade"] == {
            "plan": "starter",
            "name": "Starter",
            "price_usd": "99.00",
            "url": "https://app.example.com/billing?plan=starter",
        }
        await billing.grants.grant(account["id"], parse_usd("5"), "first")
        status = (await api.get(key["key"], "/billing/status")).json
        assert (status["state"], status["guidance"], status["plan"]["id"]) == ("ready", None, "free")
        (api_access, reports) = status["features"]
        assert (api_access["limit"], reports["limit"], reports["remaining"]) == (None, 2, 2)
        (await api.by_key(key["key"], "PUT", "/billing/subscription", {"plan": "starter"})).refused(404, "not_found")

        async def use(event_id, **more):
            body = {"account_id": account["id"], "feature": "reports", "event_id": event_id, **more}
            return await api.call("POST", "/api/service/features/use", headers=SERVICE, json=body)

        first, again = await use("e1", units=2), await use("e1", units=2)
        assert (first.status, first.json["remaining"]) == (200, 0)
        assert again.headers["idempotent-replayed"] == "true"
        refused = await use("e2")
        assert "0 of 2 units of reports left" in refused.refused(429, "quota_exceeded")
        assert refused.error["quota"] == {
            "subject": "plan",
            "window": "period",
            "metric": "units",
            "feature": "reports",
            "limit": 2,
            "used": 2,
            "requested": 1,
            "remaining": 0,
            "resets_at": reports["resets_at"],
        }
        assert refused.error["upgrade"]["plan"] == "starter"
        assert refused.headers["x-should-retry"] == "false"
        (await use("e1", units=1)).refused(409, "idempotency_conflict")
        (await use("e3", feature="unheard")).refused(429, "quota_exceeded")
        path = f"/api/service/accounts/{account['id']}/features"
        listed = (await api.call("GET", path, headers=SERVICE)).json["data"]
        assert [each["used"] for each in listed] == [0, 2]
        await billing.accounts.update(account["id"], status="past_due")
        assert (await api.get(key["key"], "/billing/status")).json["state"] == "past_due"


async def test_operators_see_plans_and_give_one_by_commands(api):
    account, _ = await api.customer()
    commands = calls_of(add_plans, "plan")
    async with Client(str(api.client.make_url("")), admin_key=ADMIN_KEY) as calls:
        (listed,) = (await commands["list"](calls)).parts
        assert isinstance(listed, Table)
        assert [row[:3] for row in listed.rows] == [("free", "Free", "0.00"), ("starter", "Starter", "99.00")]
        (shown,) = (await commands["show"](calls, plan="free")).parts
        assert isinstance(shown, Table)
        assert ("quota", "minute:requests=60") in shown.rows
        with pytest.raises(CommandFailed, match="operator plan list"):
            await commands["show"](calls, plan="unheard")
        await commands["give"](calls, account_id=account["id"], plan="starter")
    assert (await api.admin("GET", f"/accounts/{account['id']}")).json["plan"] == "starter"
