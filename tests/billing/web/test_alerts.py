"""Budgets, the alert of a low balance and webhooks through the console."""

import re

from billing.ledger.catalogue import sync_prices
from billing.usage import Usage
from tests.billing.support import PRICES
from tests.billing.web.support import changed, fields


async def test_budgets_are_made_changed_and_removed(console):
    billing, account_id = console.billing, console.organization.account_id
    await sync_prices(billing.database, PRICES)
    key, _ = await billing.keys.create(account_id, "<laptop>")
    await billing.debit(account_id, key.id, Usage(input_tokens=1), charged_nano=3 * 10**9)
    form = fields(await console.get("/alerts", "admin"), "/alerts/budgets")
    wrong = await console.post("/alerts/budgets", "admin", changed(form, amount_usd="4", thresholds="half"))
    assert (wrong.status, 'id="w-thresholds"' in wrong.text, 'value="half"' in wrong.text) == (422, True, True)
    given = changed(form, about=f"key:{key.id}", amount_usd="4", thresholds="50, 75")
    assert (await console.post("/alerts/budgets", "admin", given)).location == "../alerts?notice=saved"
    given = changed(form, about="tag", tag="team=a", amount_usd="10", period="total")
    assert (await console.post("/alerts/budgets", "admin", given)).status == 303
    page = await console.get("/alerts", "viewer")
    budgets = (await console.api("/billing/budgets", "viewer"))["data"]
    assert [(each["subject"], each["period"], each["thresholds"]) for each in budgets] == [
        ("tag", "total", [50, 80, 100]),
        ("key", "month", [50, 75]),
    ]
    money = [each[name] for each in budgets for name in ("amount_usd", "spent_usd") if each[name]]
    assert [value for value in page.values if value in money] == money
    assert "the key <laptop>" in page.words
    assert "75%" in page.words
    assert "Add a budget" not in page.words
    path = f"/alerts/budgets/{budgets[1]['id']}"
    form = fields(await console.get(path, "admin"), path)
    assert (await console.post(path, "admin", changed(form, amount_usd="6"))).status == 303
    after = (await console.api("/billing/budgets", "viewer"))["data"][1]
    assert (after["amount_usd"], after["thresholds"]) == ("6.00", [50, 75])
    assert (await console.post(f"{path}/delete", "owner")).location == "../../../alerts?notice=budget-deleted"

    assert (await console.post("/alerts/low-balance", "owner", {"low_balance_usd": "2.50"})).status == 303
    assert "falls below $2.50 ." in (await console.get("/alerts", "viewer")).words
    wrong = await console.post("/alerts/low-balance", "owner", {"low_balance_usd": "-1"})
    assert (wrong.status, 'id="w-low_balance_usd"' in wrong.text) == (422, True)
    assert (await console.post("/alerts/low-balance", "owner", {"low_balance_usd": ""})).status == 303
    assert "(the default)" in (await console.get("/alerts", "viewer")).words


async def test_a_webhook_is_added_tried_and_removed(console):
    form = [("url", "http://127.0.0.1/hook"), ("description", "<x>"), ("type", "test")]
    wrong = await console.post("/alerts/webhooks", "admin", form)
    assert (wrong.status, 'value="http://127.0.0.1/hook"' in wrong.text, 'id="w-url"' in wrong.text) == (
        422,
        True,
        True,
    )
    made = await console.post("/alerts/webhooks", "admin", [("url", "https://example.com/hook"), *form[1:]])
    secret = re.search(r"<code>(whsec_\S+)</code>", made.text)
    assert secret is not None
    [endpoint] = (await console.api("/webhooks/endpoints", "viewer"))["data"]
    assert (endpoint["types"], endpoint["description"]) == (["test"], "<x>")
    path = f"/alerts/webhooks/{endpoint['id']}"
    assert (
        await console.post(f"{path}/test", "admin")
    ).location == f"../../../alerts/webhooks/{endpoint['id']}?notice=test-sent"
    shown = await console.get(path, "admin")
    again = re.search(r"(/alerts/webhooks/\w+/deliveries/\w+/redeliver)", shown.text)
    assert secret[1] not in shown.text
    assert (await console.post(again[1], "admin")).status == 303
    await console.post(f"{path}/turn", "admin", {"enabled": "off"})
    viewed = await console.get(path, "viewer")
    assert "off" in viewed.words
    assert "redeliver" not in viewed.text
    renewed = await console.post(f"{path}/rotate", "owner")
    assert "whsec_" in renewed.text
    assert secret[1] not in renewed.text
    assert (await console.post(f"{path}/delete", "owner")).location == "../../../alerts?notice=webhook-deleted"
    assert "No webhooks yet" in (await console.get("/alerts", "viewer")).words
