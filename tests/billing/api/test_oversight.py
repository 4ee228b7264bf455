from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import get_args

import pytest

from billing.change_notifier import LiveBalance
from billing.ledger.catalogue import sync_prices
from billing.pricing import FACTOR_SCALE
from billing.principals import Caller, CallerKind
from billing.usage import Usage
from tests.billing.api.support import serving
from tests.billing.support import PRICE, PRICES

USAGE = Usage(input_tokens=1003, cached_input_tokens=1, output_tokens=7, searches=2)
NOW = datetime.now(UTC).replace(microsecond=0)
READS = (
    "/account/balance",
    "/account/transactions",
    "/account/usage/events",
    "/billing/usage",
    "/account/usage/summary",
    "/account/usage/buckets",
    "/account/billing/summary",
)


async def test_a_balance_by_the_ledger_and_live(api):
    account, key = await api.customer()
    await api.admin("PATCH", f"/accounts/{account['id']}", {"credit_limit_usd": "2"})
    await api.admin("POST", f"/accounts/{account['id']}/grants", {"amount_usd": "10", "idempotency_key": "a"})
    assert (await api.get(key["key"], "/account/balance")).json == {
        "account_id": account["id"],
        "balance_usd": "10.00",
        "balance_credits": "10000",
        "held_usd": "0.00",
        "available_usd": "12.00",
        "available_credits": "12000",
        "credit_limit_usd": "2.00",
        "debt_usd": "0.00",
        "next_expiry": None,
        "status": "active",
        "plan": "free",
    }
    api.billing.change_notifier.live[account["id"]] = LiveBalance(-1_500_000_000, 250_000_000)
    live = (await api.get(key["key"], "/account/balance")).json
    assert (live["balance_usd"], live["held_usd"], live["available_usd"]) == ("-1.50", "0.25", "0.25")
    assert live["balance_credits"] == "-1500"


async def test_transactions(api):
    account, key = await api.customer()
    grant = {"amount_usd": "10", "idempotency_key": "a", "note": "hi"}
    granted = (await api.admin("POST", f"/accounts/{account['id']}/grants", grant)).json
    request_id = await api.billing.debit(account["id"], key["id"], USAGE)
    listed = (await api.get(key["key"], "/account/transactions")).json
    for transaction in listed["data"]:
        assert transaction.pop("created_at").endswith("Z")
    assert listed == {
        "data": [
            {
                "id": request_id,
                "kind": "usage",
                "amount_usd": "-0.020154575",
                "balance_usd": "9.979845425",
                "request_id": request_id,
                "idempotency_key": None,
                "note": None,
            },
            {
                "id": granted["transfer_id"],
                "kind": "grant",
                "amount_usd": "10.00",
                "balance_usd": "10.00",
                "request_id": None,
                "idempotency_key": "a",
                "note": "hi",
            },
        ],
        "next_cursor": None,
    }
    page = (await api.get(key["key"], "/account/transactions", limit="1")).json
    rest = (await api.get(key["key"], "/account/transactions", limit="1", cursor=page["next_cursor"])).json
    assert [page["data"][0]["id"], rest["data"][0]["id"]] == [request_id, granted["transfer_id"]]
    assert rest["next_cursor"] is None


async def test_a_usage_event_with_its_lines(api):
    await sync_prices(api.billing.database, PRICES)
    account, key = await api.customer()
    request_id = await api.billing.debit(
        account["id"], key["id"], USAGE, admitted_at=NOW, multiplier="batch", markup_scaled=10 * FACTOR_SCALE
    )
    listed = (await api.get(key["key"], "/account/usage/events")).json["data"]
    assert listed == [
        {
            "id": request_id,
            "created_at": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "account_id": account["id"],
            "user_id": None,
            "key_id": key["id"],
            "endpoint": "/v1/chat/completions",
            "feature": "llm",
            "model": "fast",
            "provider": "openai",
            "provider_model": "gpt-4o-mini",
            "input_tokens": 1003,
            "cached_input_tokens": 1,
            "cache_write_tokens": 0,
            "cache_write_1h_tokens": 0,
            "output_tokens": 7,
            "reasoning_tokens": 0,
            "total_tokens": 1010,
            "units": {"searches": 2},
            "charge_usd": "0.011085017",
            "charged_usd": "0.011085017",
            "estimated": False,
            "status": 200,
            "outcome": "settled",
            "stream": False,
            "latency_ms": 120,
            "ttft_ms": None,
            "tags": {"team": "blue"},
            "end_user": None,
            **dict.fromkeys(("session", "agent", "parent_agent", "tool", "tool_version")),
            "client_request_id": "mine",
            "upstream_request_id": "theirs",
            "note": None,
        }
    ]
    one = (await api.get(key["key"], f"/account/usage/events/{request_id}")).json
    lines = one.pop("lines")
    assert one == {**listed[0], "multiplier": "batch", "multiplier_factor": "0.5"}
    assert lines == [  # at the customer's own prices
        {"class": "input", "quantity": 1002, "price_usd_per_million": "0.165", "amount_usd": "0.000082665"},
        {"class": "cached_input", "quantity": 1, "price_usd_per_million": "0.0825", "amount_usd": "0.00000004125"},
        {"class": "output", "quantity": 7, "price_usd_per_million": "0.66", "amount_usd": "0.00000231"},
        {"class": "search", "quantity": 2, "price_usd": "0.011", "amount_usd": "0.011"},
    ]
    assert rounded_up(lines) == Decimal(one["charge_usd"])


def rounded_up(lines: list[dict[str, str]]) -> Decimal:
    """What amounts come to, in whole nano-USD."""
    total = sum((Decimal(line["amount_usd"]) for line in lines), Decimal(0))
    return total.quantize(Decimal("1e-9"), "ROUND_CEILING")


async def test_with_customers_see_cost_both_are_told(services, billing):
    async with serving(replace(services, customers_see="cost"), billing) as api:
        await sync_prices(billing.database, PRICES)
        account, key = await api.customer()
        request_id = await billing.debit(
            account["id"], key["id"], USAGE, admitted_at=NOW, multiplier="batch", markup_scaled=10 * FACTOR_SCALE
        )
        one = (await api.get(key["key"], f"/account/usage/events/{request_id}")).json
        assert (one["cost_usd"], one["charge_usd"]) == ("0.010077288", "0.011085017")
        assert (one["price_id"], one["markup_percent"]) == (PRICE.id, "10")
        assert [line["amount_usd"] for line in one["lines"]] == ["0.00007515", "0.0000000375", "0.0000021", "0.01"]
        assert rounded_up(one["lines"]) == Decimal(one["cost_usd"])


@pytest.mark.parametrize("kind", get_args(CallerKind))
@pytest.mark.parametrize("operator", [False, True])
def test_operators_and_their_programs_see_the_cost(kind, operator):
    """The admin key, service keys, and people with the operator's right, whatever customers see."""
    sees = Caller(kind, operator=operator).is_operator
    assert sees == (operator or kind in ("admin", "service"))


async def test_events_are_filtered_and_paged(api):
    account, key = await api.customer()
    made = [
        await api.billing.debit(
            account["id"], key["id"], USAGE, admitted_at=NOW + timedelta(seconds=n), model=f"m{n % 2}"
        )
        for n in range(5)
    ]

    async def found(**params):
        answer = await api.get(key["key"], "/account/usage/events", **params)
        assert answer.status == 200, answer.json
        return [event["id"] for event in answer.json["data"]]

    def at(seconds):
        return (NOW + timedelta(seconds=seconds)).isoformat()

    assert await found() == made[::-1]
    assert await found(since=at(3)) == [made[4], made[3]]
    assert await found(until=at(1).replace("+00:00", "Z")) == [made[0]]
    assert await found(since=at(1), until=at(3)) == [made[2], made[1]]
    assert await found(model="m1") == [made[3], made[1]]
    assert await found(key_id="key_none") == []
    assert await found(key_id=key["id"], model="m1") == [made[3], made[1]]
    assert await found(until="2001-01-01") == []
    page = (await api.get(key["key"], "/account/usage/events", limit="3", model="m0")).json
    assert ([event["id"] for event in page["data"]], page["next_cursor"]) == ([made[4], made[2], made[0]], None)
    page = (await api.get(key["key"], "/account/usage/events", limit="3")).json
    assert await found(limit="3", cursor=page["next_cursor"]) == [made[1], made[0]]


async def test_totals_by_key_and_user(api):
    account, key = await api.customer(user_id="ann")
    body = {"account_id": account["id"], "name": "second", "user_id": "bob"}
    second = (await api.admin("POST", "/keys", body)).json
    for made in (key, key, second):
        user_id = made["user_id"]
        await api.billing.debit(account["id"], made["id"], USAGE, charged_nano=1_500_000_000, user_id=user_id)
    expected = {"events": 3, "input_tokens": 3009, "output_tokens": 21, "total_tokens": 3030, "charge_usd": "4.50"}
    expected["cost_usd"] = "4.50"
    assert (await api.get(key["key"], "/billing/usage")).json == expected
    assert (await api.get(key["key"], "/billing/usage", key_id=second["id"])).json["events"] == 1
    assert (await api.get(key["key"], "/billing/usage", user_id="ann")).json["events"] == 2
    assert (await api.get(key["key"], "/billing/usage", user_id="eve")).json["cost_usd"] == "0.00"


async def test_a_caller_sees_its_own_account_only(api):
    account, key = await api.customer()
    _, other = await api.customer()
    request_id = await api.billing.debit(account["id"], key["id"], USAGE)
    path = f"/account/usage/events/{request_id}"
    assert (await api.get(key["key"], path)).status == 200
    (await api.get(other["key"], path)).refused(404, "not_found")
    (await api.get(other["key"], "/account/usage/events/none")).refused(404, "not_found")
    (await api.get(other["key"], "/account/usage/events/%00")).refused(404, "not_found")
    assert (await api.get(other["key"], "/account/usage/events", key_id=key["id"])).json["data"] == []
    assert (await api.get(other["key"], "/account/transactions")).json["data"] == []
    assert (await api.get(other["key"], "/billing/usage", key_id=key["id"])).json["events"] == 0


async def test_a_key_may_come_in_any_of_its_headers(api):
    _, key = await api.customer()
    for headers in (
        {"authorization": f"bearer {key['key']}"},
        {"x-api-key": key["key"]},
        {"X-Goog-Api-Key": key["key"]},
        {"Authorization": "Basic abc", "x-api-key": key["key"]},
    ):
        assert (await api.call("GET", "/api/account/balance", headers=headers)).status == 200


async def test_a_suspended_account_may_still_read(api):
    account, key = await api.customer()
    await api.admin("PATCH", f"/accounts/{account['id']}", {"status": "suspended"})
    for path in READS:
        assert (await api.get(key["key"], path)).status == 200
    assert (await api.get(key["key"], "/account/balance")).json["status"] == "suspended"


async def test_an_expired_key_is_401(services, billing):
    late = replace(services, clock=lambda: datetime(2101, 1, 1, tzinfo=UTC).timestamp())
    async with serving(services, billing) as api:
        _, key = await api.customer(expires_at="2100-01-01")
        assert (await api.get(key["key"], "/account/balance")).status == 200
    async with serving(late, billing) as api:
        (await api.get(key["key"], "/account/balance")).refused(401, "invalid_api_key")
