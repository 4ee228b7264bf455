from dataclasses import replace

import pytest

from billing.ledger.catalogue import sync_prices
from billing.money import MAX_NANO, format_usd
from billing.pricing import PriceTable
from billing.quotas import quota_json
from billing.usage import Usage
from tests.billing.support import PLANS, PRICE, PRICES

QUOTAS = [
    {"window": "day", "metric": "tokens", "limit": 1000},
    {"window": "month", "metric": "cost", "limit": "5.00", "model": "gpt-*", "feature": "images"},
]


async def test_an_account_with_the_least(api):
    made = await api.admin("POST", "/accounts", {"name": "Acme"})
    assert made.status == 201
    created_at = made.json.pop("created_at")
    assert created_at.endswith("Z")
    account_id = made.json["id"]
    assert made.json == {
        "id": account_id,
        "name": "Acme",
        "plan": "free",
        "status": "active",
        "balance_usd": "0.00",
        "balance_credits": "0",
        "credit_limit_usd": "0.00",
        "quotas": [],
        "plan_quotas": [quota_json(quota) for quota in PLANS["free"].quotas],
        "tz": None,
        "past_due_since": None,
    }
    shown = await api.admin("GET", f"/accounts/{account_id}")
    assert (shown.status, shown.json) == (200, {**made.json, "created_at": created_at})


async def test_an_account_with_everything(api):
    asked = {"name": "Ünï", "plan": "starter", "credit_limit_usd": "12.5", "quotas": QUOTAS}
    made = await api.admin("POST", "/accounts", asked)
    assert made.status == 201
    assert {name: made.json[name] for name in asked} == {**asked, "credit_limit_usd": "12.50"}


async def test_a_patch_changes_what_it_says(api):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}"
    patched = await api.admin("PATCH", path, {"name": "New", "status": "past_due", "credit_limit_usd": "1"})
    assert patched.status == 200
    assert (patched.json["name"], patched.json["status"]) == ("New", "past_due")
    assert (patched.json["credit_limit_usd"], patched.json["plan"]) == ("1.00", "free")
    assert patched.json["past_due_since"].endswith("Z")
    assert (await api.admin("PATCH", path, {"plan": "starter", "quotas": QUOTAS})).json["quotas"] == QUOTAS
    cleared = await api.admin("PATCH", path, {"credit_limit_usd": "0", "quotas": [], "status": "active"})
    assert (cleared.json["credit_limit_usd"], cleared.json["quotas"]) == ("0.00", [])
    assert cleared.json["past_due_since"] is None
    assert (await api.admin("PATCH", path, {})).json == cleared.json


async def test_quotas_are_replaced(api):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}/quotas"
    assert (await api.admin("PUT", path, {"quotas": QUOTAS})).json["quotas"] == QUOTAS
    assert (await api.admin("PUT", path, {"quotas": []})).json["quotas"] == []


async def test_a_grant_and_the_same_again(api):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}/grants"
    body = {"amount_usd": "25.5", "idempotency_key": "welcome", "note": "hi"}
    first = await api.admin("POST", path, body)
    assert first.status == 201
    assert first.json == {"transfer_id": first.json["transfer_id"], "amount_usd": "25.50", "balance_usd": "25.50"}
    assert "idempotent-replayed" not in {name.lower() for name in first.headers}
    await api.admin("POST", path, {"amount_usd": "1", "idempotency_key": "more"})
    again = await api.admin("POST", path, body)
    assert (again.status, again.json, again.headers["idempotent-replayed"]) == (201, first.json, "true")
    other = await api.admin("POST", path, {**body, "amount_usd": "25.6"})
    other.refused(409, "idempotency_conflict", "idempotency_key")
    shown = (await api.admin("GET", f"/accounts/{account['id']}")).json
    assert (shown["balance_usd"], shown["balance_credits"]) == ("26.50", "26500")


async def test_a_refund_and_the_same_again(api):
    account, _ = await api.customer()
    path, body = f"/accounts/{account['id']}", {"amount_usd": "1.50", "idempotency_key": "sorry", "note": "an outage"}
    first = await api.admin("POST", f"{path}/refunds", body)
    again = await api.admin("POST", f"{path}/refunds", body)
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    assert again.headers["idempotent-replayed"] == "true"
    assert (await api.admin("GET", path)).json["balance_usd"] == "1.50"
    (await api.admin("POST", f"{path}/grants", body)).refused(409, "idempotency_conflict", "idempotency_key")


async def test_a_grant_beyond_the_bound_changes_nothing(api):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}/grants"
    most = format_usd(MAX_NANO)
    assert (await api.admin("POST", path, {"amount_usd": most, "idempotency_key": "a"})).json["balance_usd"] == most
    more = await api.admin("POST", path, {"amount_usd": "0.000000001", "idempotency_key": "b"})
    assert "bound" in more.refused(400, "invalid_request_error", "amount_usd")
    beyond = await api.admin("POST", path, {"amount_usd": "9999999999", "idempotency_key": "c"})
    beyond.refused(400, "invalid_request_error", "amount_usd")
    assert (await api.admin("GET", f"/accounts/{account['id']}")).json["balance_usd"] == most


async def test_a_wrong_body_goes_before_an_unknown_account(api):
    (await api.admin("PATCH", "/accounts/acc_none", {"name": 5})).refused(400, "invalid_request_error", "name")


async def test_pages(api):
    made = [(await api.admin("POST", "/accounts", {"name": f"a{n}"})).json["id"] for n in range(5)]
    found = []
    params = {"limit": "2"}
    for _ in range(3):
        page = (await api.admin("GET", "/accounts", params=params)).json
        found += [account["id"] for account in page["data"]]
        if page["next_cursor"]:
            params["cursor"] = page["next_cursor"]
    assert found == made[::-1]
    assert page["next_cursor"] is None


async def test_quotas_of_users(api):
    account, _ = await api.customer()
    users = f"/accounts/{account['id']}/users"
    shape = {"account_id": account["id"], "user_id": "ana@example.com"}
    path = f"{users}/ana%40example.com/quotas"
    assert (await api.admin("GET", path)).json == {**shape, "quotas": []}
    told = await api.admin("PUT", path, {"quotas": QUOTAS})
    assert (told.status, told.json) == (200, {**shape, "quotas": QUOTAS})
    assert (await api.admin("GET", path)).json == told.json
    for name in ("ben", "cleo"):
        await api.admin("PUT", f"{users}/{name}/quotas", {"quotas": QUOTAS[:1]})
    page = (await api.admin("GET", f"{users}/quotas?limit=2")).json
    assert [each["user_id"] for each in page["data"]] == ["ana@example.com", "ben"]
    rest = (await api.admin("GET", f"{users}/quotas?cursor={page['next_cursor']}")).json
    assert ([each["user_id"] for each in rest["data"]], rest["next_cursor"]) == (["cleo"], None)
    assert (await api.admin("PUT", f"{users}/ben/quotas", {"quotas": []})).json["quotas"] == []
    page = (await api.admin("GET", f"{users}/quotas")).json
    assert [each["user_id"] for each in page["data"]] == ["ana@example.com", "cleo"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/accounts/acc_none/users/ana/quotas", {"quotas": []}, 404, None),
        ("/accounts/{id}/users/" + "x" * 256 + "/quotas", {"quotas": []}, 400, "user_id"),
        ("/accounts/{id}/users/a%00b/quotas", {"quotas": []}, 400, "user_id"),
        ("/accounts/{id}/users/ana/quotas", {"quotas": [{"window": "day"}]}, 400, "quotas"),
        ("/accounts/{id}/users/ana/quotas", {"quotas": QUOTAS * 20}, 400, "quotas"),
    ],
)
async def test_quotas_of_users_that_are_refused(api, path, body, status, param):
    account, _ = await api.customer()
    answer = await api.admin("PUT", path.format(id=account["id"]), body)
    assert (answer.status, answer.json["error"]["param"]) == (status, param)
    if param != "quotas":
        assert (await api.admin("GET", path.format(id=account["id"]))).status == status
    assert (await api.admin("GET", f"/accounts/{account['id']}/users/quotas")).json["data"] == []


async def test_an_account_s_time_zone(api):
    made = (await api.admin("POST", "/accounts", {"name": "Acme", "tz": "Europe/Berlin"})).json
    assert made["tz"] == "Europe/Berlin"
    path = f"/accounts/{made['id']}"
    assert (await api.admin("PATCH", path, {"name": "Acme Ltd"})).json["tz"] == "Europe/Berlin"
    assert (await api.admin("PATCH", path, {"tz": "Asia/Kolkata"})).json["tz"] == "Asia/Kolkata"
    assert (await api.admin("PATCH", path, {"tz": None})).json["tz"] is None


async def test_adjustments_raise_and_lower_a_balance(api):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}/adjustments"
    body = {"amount_usd": "-2.50", "idempotency_key": "fraud", "reason": "a chargeback by hand"}
    first, again = await api.admin("POST", path, body), await api.admin("POST", path, body)
    assert (first.status, first.json["amount_usd"], first.json["balance_usd"]) == (201, "-2.50", "-2.50")
    assert (again.json, again.headers["idempotent-replayed"]) == (first.json, "true")
    up = {"amount_usd": "1", "idempotency_key": "up", "reason": "goodwill", "against": "revenue"}
    assert (await api.admin("POST", path, up)).json["balance_usd"] == "-1.50"
    (await api.admin("POST", path, {**body, "amount_usd": "2.50"})).refused(
        409, "idempotency_conflict", "idempotency_key"
    )
    sides = await api.billing.database.rows(
        "SELECT debit_account, credit_account, kind, note FROM transfers ORDER BY id DESC LIMIT 2"
    )
    assert [tuple(row) for row in sides] == [
        ("sys:revenue", account["id"], "adjustment", "goodwill"),
        (account["id"], "sys:write_off", "adjustment", "a chargeback by hand"),
    ]
    audited = (await api.admin("GET", "/audit", params={"action": "account.adjustment"})).json["data"]
    assert [each["after"]["note"] for each in audited] == ["goodwill", "a chargeback by hand"]


async def test_an_adjustment_keeps_the_bound_of_all_money(api):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}/adjustments"
    most = {"amount_usd": "-9007199.254740991", "idempotency_key": "most", "reason": "y"}
    assert (await api.admin("POST", path, most)).status == 201
    more = {"amount_usd": "-0.000000001", "idempotency_key": "more", "reason": "y"}
    (await api.admin("POST", path, more)).refused(400, "invalid_request_error", "amount_usd")


async def test_a_closed_account_shows_its_balance(api):
    account, key = await api.customer(scopes=["billing:read"])
    await api.admin("PATCH", f"/accounts/{account['id']}", {"status": "closed", "reason": "gone"})
    balance = await api.get(key["key"], "/account/balance")
    assert (balance.status, balance.json["status"]) == (200, "closed")
    reopened = await api.admin("PATCH", f"/accounts/{account['id']}", {"status": "active", "reason": "back"})
    assert reopened.json["status"] == "active"


async def test_a_period_is_priced_again(api):
    account, key = await api.customer(scopes=["billing:read"])
    await sync_prices(api.billing.database, PRICES)
    dearer = replace(PRICE, per_unit={"request": 1000})
    await sync_prices(api.billing.database, PriceTable([dearer]))
    event_id = await api.billing.debit(account["id"], key["id"], Usage(input_tokens=1000))
    period = {"provider": "openai", "model": PRICE.model, "since": "2020-01-01", "until": "2100-01-01"}
    same = await api.admin("POST", "/reprice", period)
    assert (same.status, same.json["dry_run"], same.json["difference_usd"]) == (200, True, "0.00")
    wanted = {**period, "price_id": dearer.id, "dry_run": False, "reason": "a fee was missing"}
    done = (await api.admin("POST", "/reprice", wanted)).json
    assert (done["corrected"], done["difference_usd"], done["next_cursor"]) == (1, "0.000001", None)
    transaction = (await api.get(key["key"], "/account/transactions")).json["data"][0]
    assert (transaction["kind"], transaction["amount_usd"], transaction["request_id"]) == (
        "adjustment",
        "-0.000001",
        event_id,
    )
    assert transaction["note"] == "a fee was missing"
    assert (await api.admin("POST", "/reprice", wanted)).json["corrected"] == 0


async def test_a_price_that_is_none_is_not_found(api):
    period = {
        "provider": "openai",
        "model": "x",
        "since": "2020-01-01",
        "until": "2100-01-01",
        "price_id": "price_none",
    }
    (await api.admin("POST", "/reprice", period)).refused(404, "not_found")
