"""Credit over HTTP: grants with terms and what is left of them, coupons, auto-recharge."""

from dataclasses import replace

from tests.billing.api.support import serving
from tests.billing.payments.test_auto_recharge import GOOD, Installation

SOON = "2137-01-31T12:00:00.000Z"


async def test_a_grants_terms_are_its_lots(api):
    account, key = await api.customer()
    path = f"/accounts/{account['id']}"
    promo = {"amount_usd": "5", "idempotency_key": "promo", "expires_at": SOON, "priority": 10}
    made = await api.admin("POST", f"{path}/grants", promo)
    assert made.status == 201, made.json
    again = await api.admin("POST", f"{path}/grants", promo)
    assert (again.json, again.headers["idempotent-replayed"]) == (made.json, "true")
    other = await api.admin("POST", f"{path}/grants", promo | {"expires_at": "2138-01-01"})
    other.refused(409, "idempotency_conflict", "idempotency_key")
    late = await api.admin("POST", f"{path}/grants", promo | {"expires_at": "2020-01-01"})
    assert "future" in late.refused(400, "invalid_request_error", "expires_at")
    paid = {"amount_usd": "7", "idempotency_key": "paid", "promotional": False}
    assert (await api.admin("POST", f"{path}/grants", paid)).status == 201
    await api.admin("POST", f"{path}/adjustments", {"amount_usd": "-1", "idempotency_key": "x", "reason": "wrong"})

    listed = (await api.get(key["key"], "/billing/lots")).json
    assert listed == (await api.admin("GET", f"{path}/lots")).json
    assert [(lot["left_usd"], lot["priority"], lot["promotional"]) for lot in listed["data"]] == [
        ("7.00", 50, False),
        ("4.00", 10, True),
    ]
    first = listed["data"][1]
    assert first["transaction_id"] == made.json["transfer_id"]
    assert (first["kind"], first["state"], first["amount_usd"], first["expires_at"]) == ("grant", "open", "5.00", SOON)
    balance = (await api.get(key["key"], "/account/balance")).json
    assert (balance["debt_usd"], balance["next_expiry"]) == ("0.00", {"at": SOON, "amount_usd": "4.00"})

    await api.admin("POST", f"{path}/adjustments", {"amount_usd": "-12", "idempotency_key": "y", "reason": "wrong"})
    balance = (await api.get(key["key"], "/account/balance")).json
    assert (balance["debt_usd"], balance["next_expiry"]) == ("1.00", None)
    assert (await api.get(key["key"], "/billing/lots", open="true")).json["data"] == []
    assert {lot["state"] for lot in (await api.get(key["key"], "/billing/lots")).json["data"]} == {"spent"}
    (await api.admin("GET", "/accounts/acc_none/lots")).refused(404, "not_found")


async def test_a_coupon_from_making_to_redeeming(api):
    _, key = await api.customer(scopes=["billing:setup", "billing:read"])
    body = {"name": "Spring", "amount_usd": "5", "code": "SPRING27", "max_redemptions": 1, "credit_days": 30}
    made = await api.admin("POST", "/coupons", body)
    assert (made.status, made.json["code"], made.json["redemptions"]) == (201, "SPRING27", 0)
    (await api.admin("POST", "/coupons", body)).refused(409, "idempotency_conflict", "code")
    (await api.admin("POST", "/coupons", body | {"code": "SPRING29\n"})).refused(400, "invalid_request_error", "code")
    (await api.admin("DELETE", f"/coupons/{made.json['id']}%0A")).refused(404, "not_found")
    path = "/billing/coupons/redeem"
    given = await api.by_key(key["key"], "POST", path, {"code": "spring 27\n"})
    assert given.status == 200, given.json
    assert (given.status, given.json["name"], given.json["balance_usd"]) == (200, "Spring", "5.00")
    (await api.by_key(key["key"], "POST", path, {"code": "SPRING27"})).refused(409, "idempotency_conflict", "code")
    (await api.by_key(key["key"], "POST", path, {"code": "SPRING28"})).refused(404, "not_found")
    assert [lot["promotional"] for lot in (await api.get(key["key"], "/billing/lots")).json["data"]] == [True]
    listed = (await api.admin("GET", "/coupons")).json["data"]
    assert [(each["id"], each["redemptions"], each["disabled_at"]) for each in listed] == [(made.json["id"], 1, None)]
    assert "code" not in listed[0]
    assert (await api.admin("DELETE", f"/coupons/{made.json['id']}")).status == 204
    assert (await api.admin("GET", "/coupons")).json["data"][0]["disabled_at"] is not None


async def test_auto_recharge_and_alerts(api, services, billing):
    here = Installation(billing)
    async with serving(replace(services, payments=here.payments), billing) as paying:
        account, key = await paying.customer(scopes=["billing:setup", "billing:read"])
        path = "/billing/auto-recharge"
        off = (await paying.get(key["key"], path)).json
        assert (off["enabled"], off["state"], off["threshold_usd"]) == (False, "off", None)
        body = {"enabled": True, "threshold_usd": "5", "amount_usd": "20.00", "monthly_cap_usd": "100"}
        refused = await paying.by_key(key["key"], "PUT", path, body)
        assert "`metergate billing setup`" in refused.refused(400, "invalid_request_error", "enabled")
        await here.save(account["id"], GOOD)
        parts = await paying.by_key(key["key"], "PUT", path, body | {"amount_usd": "20.001"})
        assert "whole cents" in parts.refused(400, "invalid_request_error", "amount_usd")
        on = await paying.by_key(key["key"], "PUT", path, body)
        assert on.json == {
            **{"enabled": True, "threshold_usd": "5.00", "amount_usd": "20.00", "monthly_cap_usd": "100.00"},
            **{"state": "ready", "reason": None, "next_attempt_at": None, "url": None},
        }
        await here.round()
        assert (await paying.get(key["key"], "/account/balance")).json["balance_usd"] == "20.00"
        await paying.by_key(key["key"], "PUT", "/billing/alerts", {"low_balance_usd": "7.50"})
        told = (await paying.get(key["key"], "/billing/alerts")).json
        assert told == {"low_balance_usd": "7.50", "is_default": False}
    nothing_sold = await api.by_key(key["key"], "PUT", path, body)
    assert "takes no payments" in nothing_sold.refused(404, "not_found")
