"""Times at the ends of the calendar: taken, never stored as infinity, and in no list's way."""

from datetime import UTC, datetime

import pytest

from billing.database.connection import DatabaseRefused
from billing.database.migrate import migrations
from billing.times import EARLIEST, LATEST, rfc3339
from tests.billing.api.support import Api
from tests.billing.identity.support import new_organization, new_user
from tests.billing.support import Billing

LAST = ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.9999999Z", "9999-12-31", "9999-12-31T23:59:59-12:00"]
FIRST = ["0001-01-01T00:00:00Z", "0001-01-01", "0001-01-01T00:00:00+14:00"]


@pytest.mark.parametrize("last", LAST)
async def test_what_expires_at_the_end_of_time_is_listed(api: Api, billing: Billing, last: str) -> None:
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
async def test_whole_time_is_a_filter(api: Api, first: str, last: str) -> None:
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
async def test_what_expires_at_the_beginning_of_time_is_over(api: Api, first: str) -> None:
    account, _ = await api.customer()
    grant = {"amount_usd": "5", "idempotency_key": "promo", "expires_at": first}
    refused = await api.admin("POST", f"/accounts/{account['id']}/grants", grant)
    assert "future" in refused.refused(400, "invalid_request_error", "expires_at")


async def test_what_was_stored_as_infinity_is_mended(billing: Billing) -> None:
    """By the migration, which also lets no other infinity in."""
    (mends,) = (each for each in migrations() if each.number == 74)
    owner = await new_user(billing, "ada@example.com")
    organization = await new_organization(billing, "Acme", owner)
    account_id = organization.account_id
    tables = ("lots", "coupons", "api_keys")
    async with billing.database.transaction() as connection:
        for table in tables:
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_expires_at_finite")
        await connection.execute("DROP TABLE coupon_owners, invitation_mails")
        await connection.execute("ALTER TABLE installation DROP COLUMN cursor_secret")
        await connection.execute(
            "INSERT INTO coupons (id, name, code_sha256, amount_nano, priority, expires_at)"
            " SELECT 'cpn_' || t, 'C', sha256(t::bytea), 1, 50, t::timestamptz"
            " FROM unnest(ARRAY['infinity', '-infinity', '2030-01-01 00:00Z']) AS t"
        )
        await connection.execute(
            "INSERT INTO coupon_redemptions (coupon_id, account_id, transfer_id, redeemed_by)"
            " VALUES ('cpn_infinity', $1, 't', 'admin')",
            account_id,
        )
        await connection.execute(mends.sql)
        found = await connection.fetch("SELECT expires_at FROM coupons ORDER BY expires_at")
        assert [row["expires_at"] for row in found] == [EARLIEST, datetime(2030, 1, 1, tzinfo=UTC), LATEST]
        owners = await connection.fetch("SELECT coupon_id, user_id FROM coupon_owners")
        assert [tuple(row) for row in owners] == [("cpn_infinity", owner)]
    with pytest.raises(DatabaseRefused):
        async with billing.database.transaction() as connection:
            await connection.execute("UPDATE coupons SET expires_at = 'infinity'")
