"""Summaries, buckets and the month so far, as JSON and as CSV: the same numbers."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.api import usage
from billing.api.route import rows
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import roll
from billing.plans import Plan
from billing.usage import Usage
from tests.billing.api.support import Api, serving
from tests.billing.support import PLANS, PRICES

pytestmark = pytest.mark.slow

USAGE = Usage(input_tokens=1000, output_tokens=100)
COST_NANO = 210_000
NONE = {
    **{"events": 0, "input_tokens": 0, "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 0},
    **{"reasoning_tokens": 0, "total_tokens": 0, "charge_usd": "0.00", "charged_usd": "0.00", "bytes": 0},
}
SUMMARY, BUCKETS = "/account/usage/summary", "/account/usage/buckets"


def used(events: int) -> dict[str, Any]:
    usd = f"{events * COST_NANO / 10**9:.9f}".rstrip("0") if events else "0.00"
    tokens = {"input_tokens": 1000 * events, "output_tokens": 100 * events, "total_tokens": 1100 * events}
    return {**NONE, "events": events, **tokens, "charge_usd": usd, "charged_usd": usd}


async def table(api: Api, secret: str, path: str, **params: str) -> list[list[str]]:
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/csv"}
    async with api.client.get(f"/api{path}", headers=headers, params=params) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
        text = await answer.text()
    assert text.endswith("\r\n")
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.fixture
async def customer(api: Api) -> tuple[str, str]:
    """An account with usage around the day that has 23 hours in Berlin, and its key."""
    await sync_prices(api.billing.database, PRICES)
    await api.billing.database.execute("SELECT create_usage_months('2026-03-01', 2)")
    account, key = await api.customer(scopes=["billing:read"])
    for at, model, team in (
        ("2026-03-28T22:30:00Z", "fast", "blue"),
        ("2026-03-28T23:00:00Z", "fast", "=1+1"),
        ("2026-03-29T21:59:59.999Z", "slow", None),
        ("2026-03-29T22:00:00Z", "slow", "blue"),
        ("2026-03-30T22:00:00Z", "fast", None),
    ):
        tags = json.dumps({"team": team}) if team else None
        moment = datetime.fromisoformat(at)
        await api.billing.debit(account["id"], key["id"], USAGE, admitted_at=moment, model=model, tags=tags)
    await roll(api.billing.database, 3)
    return account["id"], key["key"]


async def test_a_summary(api, customer):
    _, secret = customer
    assert (await api.get(secret, SUMMARY)).json == {
        **{"since": None, "until": None, "tz": "UTC", "group_by": [], "total": used(5), "data": [], "next_cursor": None}
    }
    asked = {"since": "2026-03-29", "until": "2026-03-30", "tz": "Europe/Berlin", "group_by": "tag:team,model"}
    found = (await api.get(secret, SUMMARY, **asked)).json
    assert (found["since"], found["until"]) == ("2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z")
    assert (found["tz"], found["group_by"], found["total"]) == ("Europe/Berlin", ["tag:team", "model"], used(2))
    assert found["data"] == [
        {"group": {"tag:team": None, "model": "slow"}, **used(1)},
        {"group": {"tag:team": "=1+1", "model": "fast"}, **used(1)},
    ]
    lines = await table(api, secret, SUMMARY, **asked)
    assert lines[0] == ["tag:team", "model", *NONE]
    assert lines[1:] == [["", "slow", *map(str, used(1).values())], ["'=1+1", "fast", *map(str, used(1).values())]]
    assert await table(api, secret, SUMMARY) == [list(NONE), [str(value) for value in used(5).values()]]


async def test_a_summary_in_pages(api, customer):
    _, secret = customer
    first = (await api.get(secret, SUMMARY, group_by="model", limit="1")).json
    second = (await api.get(secret, SUMMARY, group_by="model", limit="1", cursor=first["next_cursor"])).json
    assert [each["group"]["model"] for each in (*first["data"], *second["data"])] == ["fast", "slow"]
    assert (first["total"], second["total"], second["next_cursor"]) == (used(5), used(5), None)
    answer = await api.get(secret, SUMMARY, cursor="eHh4")
    answer.refused(400, "invalid_request_error", "cursor")


async def test_buckets_of_local_days_without_gaps(api, customer):
    account_id, secret = customer
    await api.billing.accounts.update(account_id, tz="Europe/Berlin")
    asked = {"since": "2026-03-28", "until": "2026-04-02", "group_by": "model"}
    found = (await api.get(secret, BUCKETS, **asked)).json
    assert (found["granularity"], found["tz"], found["group_by"], found["next_cursor"]) == (
        "day",
        "Europe/Berlin",
        ["model"],
        None,
    )
    assert [(each["local_start"], each["start"], each["end"], each["events"]) for each in found["data"]] == [
        ("2026-03-28T00:00:00+01:00", "2026-03-27T23:00:00.000Z", "2026-03-28T23:00:00.000Z", 1),
        ("2026-03-29T00:00:00+01:00", "2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z", 2),
        ("2026-03-30T00:00:00+02:00", "2026-03-29T22:00:00.000Z", "2026-03-30T22:00:00.000Z", 1),
        ("2026-03-31T00:00:00+02:00", "2026-03-30T22:00:00.000Z", "2026-03-31T22:00:00.000Z", 1),
        ("2026-04-01T00:00:00+02:00", "2026-03-31T22:00:00.000Z", "2026-04-01T22:00:00.000Z", 0),
    ]
    assert found["data"][1]["groups"] == [
        {"group": {"model": "fast"}, **used(1)},
        {"group": {"model": "slow"}, **used(1)},
    ]
    assert {name: found["data"][4][name] for name in NONE} == NONE
    assert found["data"][4]["groups"] == []
    lines = await table(api, secret, BUCKETS, **asked)
    assert lines[0] == ["start", "end", "model", *NONE]
    assert [line[:4] for line in lines[1:]] == [
        ["2026-03-27T23:00:00.000Z", "2026-03-28T23:00:00.000Z", "fast", "1"],
        ["2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z", "fast", "1"],
        ["2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z", "slow", "1"],
        ["2026-03-29T22:00:00.000Z", "2026-03-30T22:00:00.000Z", "slow", "1"],
        ["2026-03-30T22:00:00.000Z", "2026-03-31T22:00:00.000Z", "fast", "1"],
        ["2026-03-31T22:00:00.000Z", "2026-04-01T22:00:00.000Z", "", "0"],
    ]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Australia/Lord_Howe"])
@pytest.mark.parametrize("granularity", ["minute", "hour", "day", "week", "month"])
async def test_pages_of_buckets_add_up(api, customer, monkeypatch, granularity, zone):
    _, secret = customer
    since = "2026-03-29T21:30:00Z" if granularity == "minute" else "2026-03-27T10:01:00Z"
    until = "2026-03-29T22:45:00Z" if granularity == "minute" else "2026-03-31T00:00:00Z"
    asked = {"since": since, "until": until, "tz": zone, "granularity": granularity}
    whole = (await api.get(secret, SUMMARY, since=since, until=until)).json["total"]
    one = (await api.get(secret, BUCKETS, **asked, limit="1000")).json["data"]
    assert sum(each["events"] for each in one) == whole["events"] > 0
    assert (one[0]["start"], one[-1]["end"]) == (since.replace("Z", ".000Z"), until.replace("Z", ".000Z"))
    assert [each["end"] for each in one[:-1]] == [each["start"] for each in one[1:]]
    paged = []
    cursor = {}
    while True:
        page = (await api.get(secret, BUCKETS, **asked, **cursor, limit="9")).json
        paged += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert paged == one
    with monkeypatch.context() as patched:
        patched.setattr(usage, "MOST_BUCKETS", dict.fromkeys(usage.MOST_BUCKETS, 7))
        lines = await table(api, secret, BUCKETS, **asked)
    assert [line[:2] for line in lines[1:]] == [[each["start"], each["end"]] for each in one]
    assert [int(line[2]) for line in lines[1:]] == [each["events"] for each in one]


async def test_without_a_time_the_last_buckets_are_given(api, customer):
    account_id, secret = customer
    await api.billing.debit(account_id, "key_1", USAGE)
    for granularity, many in (("minute", 60), ("hour", 24), ("day", 30), ("week", 12), ("month", 12)):
        found = (await api.get(secret, BUCKETS, granularity=granularity, limit="1000")).json["data"]
        assert (len(found), found[-1]["events"]) in ((many, 1), (many, 0)), granularity
        assert found[-2]["events"] + found[-1]["events"] == 1 or granularity == "month"


async def test_a_table_of_too_many_buckets_is_refused(api, customer):
    _, secret = customer
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/csv"}
    params = {"granularity": "minute", "since": "2026-01-01", "until": "2026-03-01"}
    answer = await api.call("GET", f"/api{BUCKETS}", headers=headers, params=params)
    answer.refused(400, "invalid_request_error", "since")


@pytest.mark.parametrize("edge", ["0001-01-01", "9999-12-31", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"])
async def test_times_at_the_edges_of_the_calendar(api, customer, edge):
    _, secret = customer
    for zone in ("Pacific/Auckland", "America/New_York"):
        for params in ({"since": edge}, {"until": edge}):
            for path in (SUMMARY, BUCKETS):
                answer = await api.get(secret, path, tz=zone, **params)
                assert answer.status in (200, 400), answer.json


async def test_totals_of_a_time(api, customer):
    _, secret = customer
    found = (await api.get(secret, "/billing/usage", since="2026-03-29", until="2026-03-30T22:00:59Z")).json
    assert found == {
        **{"events": 2, "input_tokens": 2000, "output_tokens": 200, "total_tokens": 2200},
        **{"charge_usd": "0.00042", "cost_usd": "0.00042"},
    }


async def test_the_month_so_far(services, billing):
    """A tenth of November is over in Kolkata, where it began half past six in the evening."""
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-10-01', 2)")
    now = datetime(2026, 10, 31, 18, 30, tzinfo=UTC) + timedelta(days=3)
    plans = {**PLANS, "starter": Plan("starter", "Starter", 99, included_credit_nano=2_000_000_000)}
    mine = replace(services, clock=now.timestamp, plans=plans)
    async with serving(mine, billing) as api:
        quotas = [
            {"window": "month", "metric": "cost", "limit": "50.00"},
            {"window": "month", "metric": "cost", "limit": "5.00", "feature": "bytes"},
            {"window": "month", "metric": "cost", "limit": "1.00", "model": "fast"},
            {"window": "day", "metric": "cost", "limit": "1.00"},
        ]
        body = {"name": "Acme", "plan": "starter", "tz": "Asia/Kolkata", "quotas": quotas, "credit_limit_usd": "3"}
        account_id = (await api.admin("POST", "/accounts", body)).json["id"]
        key = (await api.admin("POST", "/keys", {"account_id": account_id, "name": "laptop"})).json["key"]
        for at, charged_nano, feature in (
            (now - timedelta(days=3, minutes=1), 7_000_000_000, "llm"),
            (now - timedelta(days=3), 1_000_000_000, "llm"),
            (now - timedelta(days=2), 500_000_001, "bytes"),
        ):
            await billing.debit(account_id, "key_1", USAGE, admitted_at=at, charged_nano=charged_nano, feature=feature)
        await billing.database.execute(
            "INSERT INTO lots (id, account_id, kind, amount_nano, left_nano, priority, promotional, created_at) "
            "VALUES ('lot_1', $1, 'subscription', 2000000000, 2000000000, 20, false, now())",
            account_id,
        )
        await billing.database.execute("UPDATE accounts SET balance_nano = 1000000000")
        found = (await api.get(key, "/account/billing/summary")).json
    total = found.pop("used")
    assert (total["events"], total["charged_usd"]) == (2, "1.500000001")
    assert found == {
        "account_id": account_id,
        "plan": "starter",
        "status": "active",
        "tz": "Asia/Kolkata",
        "period_start": "2026-10-31T18:30:00.000Z",
        "period_end": "2026-11-30T18:30:00.000Z",
        "spent_usd": "1.500000001",
        "spent_credits": "1500.000001",
        "by_kind": {"usage": "-1.500000001"},
        "by_feature": {"bytes": "0.500000001", "llm": "1.00"},
        "included_usd": "2.00",
        "included_left_usd": "1.00",
        "forecast_usd": "58.875000008",  # 27 days more as the last four, which spent 8.500000001
        "budget": {
            "limit_usd": "5.00",
            "used_usd": "0.500000001",
            "left_usd": "4.499999999",
            "resets_at": "2026-12-01T00:00:00.000Z",
        },
        "budgets": [],
        "balance_usd": "1.00",
        "balance_credits": "1000",
        "held_usd": "0.00",
        "available_usd": "4.00",
    }


async def test_kinds_of_transfers_are_signed(api):
    account, key = await api.customer()
    await api.admin("POST", f"/accounts/{account['id']}/grants", {"amount_usd": "10", "idempotency_key": "a"})
    await api.admin("POST", f"/accounts/{account['id']}/refunds", {"amount_usd": "2", "idempotency_key": "b"})
    await api.billing.debit(account["id"], key["id"], USAGE)
    found = (await api.get(key["key"], "/account/billing/summary")).json
    assert found["by_kind"] == {"grant": "10.00", "refund": "2.00", "usage": "-0.00021"}
    assert (found["budget"], found["included_usd"]) == (None, "0.00")


async def test_another_s_usage_is_in_no_sum(api, customer):
    _, other = await api.customer()
    for path in (SUMMARY, BUCKETS):
        found = (await api.get(other["key"], path, since="2026-03-01", until="2026-04-01", group_by="model")).json
        assert all(each["events"] == 0 for each in found["data"])
    assert (await api.get(other["key"], "/account/billing/summary")).json["spent_usd"] == "0.00"


@pytest.mark.parametrize("path", [SUMMARY, BUCKETS, "/account/billing/summary", "/account/usage/events"])
async def test_the_scope_is_needed_for_tables_too(api, path):
    _, key = await api.customer(scopes=["llm:proxy"])
    for accept in ("application/json", "text/csv"):
        headers = {"Authorization": f"Bearer {key['key']}", "Accept": accept}
        (await api.call("GET", f"/api{path}", headers=headers)).refused(403, "insufficient_scope")


def test_cells_are_no_formulas():
    given = ["=1", "+1+1", "-1+1", "@x", "\tx", "\rx", "-1.5", "a=1", 'say "hi", you', "two\r\nlines"]
    given += [None, True, -3, {"a": 1}]
    (line,) = csv.reader(io.StringIO(rows([given]).decode(), newline=""))
    assert line == [
        "'=1",
        "'+1+1",
        "'-1+1",
        "'@x",
        "'\tx",
        "'\rx",
        "-1.5",
        "a=1",
        'say "hi", you',
        "two\r\nlines",
        "",
        "true",
        "-3",
        '{"a":1}',
    ]
