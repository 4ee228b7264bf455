"""Times at the ends of the calendar: taken, never stored as infinity, and in no list's way."""

import pytest

from billing.database.connection import DatabaseRefused
from billing.times import LATEST, rfc3339

LAST = ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.9999999Z", "9999-12-31", "9999-12-31T23:59:59-12:00"]
FIRST = ["0001-01-01T00:00:00Z", "0001-01-01", "0001-01-01T00:00:00+14:00"]


@pytest.mark.parametrize("last", LAST)
async def test_what_expires_at_the_end_of_time_is_listed(api, billing, last):
    account, key = await api.customer(expires_at=last)
    assert key["expires_at"] == rfc3339(LATEST)
    path = f"/accounts/{account['id']}"
    grant = {"amount_usd": "5", "idempotency_key": "promo", "expires_at": last}
    assert (await api.admin("POST", f"{path}/grants", grant)).status == 201
    coupon = await api.admin("POST", "/coupons", {"name": "Spring", "amount_usd": "5", "expires_at": last})
    assert coupon.status == 201
    for answer in (
        await api.get(key["key"], "/billing/lots"),
        await api.admin("GET", f"{path}/lots"),
        await api.admin("GET", "/coupons"),
        await api.admin("GET", f"/keys?account_id={account['id']}"),
    ):
        assert answer.status == 200, answer.json
        assert answer.json["data"][0]["expires_at"] == rfc3339(LATEST)
    balance = await api.get(key["key"], "/account/balance")
    assert balance.json["next_expiry"] == {"at": rfc3339(LATEST), "amount_usd": "5.00"}
    redeemed = await api.by_key(key["key"], "POST", "/billing/coupons/redeem", {"code": coupon.json["code"]})
    assert redeemed.status in (200, 403)
    for table in ("lots", "coupons", "api_keys"):
        assert await billing.database.value(f"SELECT count(*) FROM {table} WHERE NOT isfinite(expires_at)") == 0  # noqa: S608


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("last", LAST)
async def test_whole_time_is_a_filter(api, first, last):
    _, key = await api.customer(scopes=["billing:read"])
    for path in ("/account/usage/events", "/account/usage/summary", "/account/audit"):
        for params in ({"since": first}, {"until": last}, {"since": first, "until": last}):
            answer = await api.get(key["key"], path, **params)
            assert answer.status in (200, 403), (path, params, answer.json)
    audited = await api.admin("GET", "/audit", params={"since": first, "until": last})
    assert (audited.status, bool(audited.json["data"])) == (200, True)
    period = {"provider": "openai", "model": "m", "since": first, "until": last, "dry_run": True}
    assert (await api.admin("POST", "/reprice", period)).status == 200


@pytest.mark.parametrize("first", FIRST)
async def test_what_expires_at_the_beginning_of_time_is_over(api, first):
    account, _ = await api.customer()
    grant = {"amount_usd": "5", "idempotency_key": "promo", "expires_at": first}
    refused = await api.admin("POST", f"/accounts/{account['id']}/grants", grant)
    assert "future" in refused.refused(400, "invalid_request_error", "expires_at")


@pytest.mark.parametrize("table", ["lots", "coupons", "api_keys"])
@pytest.mark.parametrize("end", ["infinity", "-infinity"])
async def test_no_infinity_is_stored(api, billing, table, end):
    account, _ = await api.customer()
    path = f"/accounts/{account['id']}"
    assert (await api.admin("POST", f"{path}/grants", {"amount_usd": "5", "idempotency_key": "promo"})).status == 201
    assert (await api.admin("POST", "/coupons", {"name": "Spring", "amount_usd": "5"})).status == 201
    with pytest.raises(DatabaseRefused, match=f"{table}_expires_at_finite"):
        await billing.database.execute(f"UPDATE {table} SET expires_at = '{end}'")  # noqa: S608
