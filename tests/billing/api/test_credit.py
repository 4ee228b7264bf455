"""Lots over HTTP: grants with terms, what is left of them, what a balance says of them."""

from tests.billing.api.support import Api

SOON = "2137-01-31T12:00:00.000Z"


async def test_a_grants_terms_are_its_lots(api: Api) -> None:
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
