"""What customers read: every number on a page is the API's, which is the ledger's."""

import json
import re
import time
from csv import DictReader
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from billing.api import usage as usage_reports
from billing.audit import SYSTEM
from billing.budgets import BudgetPeriod, BudgetTerms, Subject
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import roll
from billing.refused_requests import RefusedRequest
from billing.usage import Usage
from billing.web import render, usage
from billing.web.application import ROUTES
from billing.web.pages import Who
from tests.billing.support import PRICES
from tests.billing.web.support import Console

LISTED = re.compile(r'data-label="Time"><a href="\./requests/(\w+)"')
# A month in which clocks are set forward in Berlin (the 29th) and in New York (the 8th).
MARCH = {"period": "chosen", "from": "2026-03-01", "to": "2026-03-31"}


async def use(console: Console) -> str:
    """Have the organization use something in each part of March 2026; return the id of the first request."""
    billing = console.billing
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-02-01', 3)")
    account_id, owner = console.organization.account_id, console.persons["owner"]
    key, _ = await billing.keys.create(account_id, "<laptop>", user_id=owner)
    other, _ = await billing.keys.create(account_id, "server")
    at, first = datetime(2026, 2, 27, 3, 17, tzinfo=UTC), ""
    for number in range(50):
        usage = Usage(input_tokens=1000 + 37 * number, output_tokens=100 + number)
        made = await billing.debit(
            account_id,
            (key if number % 3 else other).id,
            usage,
            admitted_at=at + number * timedelta(hours=16, minutes=23),
            model=("fast", "slow")[number % 2],
            user_id=owner if number % 3 else None,
            tags='{"team":"blue"}' if number % 5 else None,
        )
        first = first or made
    await roll(billing.database, 3)
    return first


async def test_usage_says_what_the_api_says_in_every_zone_and_by_everything(console):
    await use(console)
    charged = {}
    for tz in ("Europe/Berlin", "America/New_York"):
        span = {"since": "2026-03-01", "until": "2026-04-01", "tz": tz}
        for by in ("model", "key", "user", "tag", "provider"):
            shown = {"by": by, "tz": tz, **MARCH, **({"tag": "team"} if by == "tag" else {})}
            page = await console.get("/usage", "viewer", params=shown)
            group_by = "tag:team" if by == "tag" else by
            summary = await console.api("/account/usage/summary", "viewer", group_by=group_by, **span)
            buckets = await console.api("/account/usage/buckets", "viewer", granularity="day", **span)
            before = await console.api(
                "/account/usage/summary", "viewer", since="2026-01-29", until="2026-03-01", tz=tz, group_by=group_by
            )
            was = {next(iter(each["group"].values())): each["charged_usd"] for each in before["data"]}
            total = summary["total"]
            assert page.values == [
                total["charged_usd"],
                before["total"]["charged_usd"],
                *(str(total[name]) for name in ("events", "input_tokens", "output_tokens")),
                *(
                    text
                    for each in summary["data"]
                    for text in (
                        str(each["events"]),
                        str(each["input_tokens"]),
                        str(each["output_tokens"]),
                        each["charged_usd"],
                        was.pop(next(iter(each["group"].values())), "0.00"),
                    )
                ),
                *(text for usd in was.values() for text in ("0", "0", "0", "0.00", usd)),
                *(
                    text
                    for each in buckets["data"]
                    for text in (str(each["events"]), str(each["total_tokens"]), each["charged_usd"])
                ),
            ]
            assert page.text.count('<rect class="hit"') == 31
            charged[tz] = total["charged_usd"]
    assert charged["Europe/Berlin"] != charged["America/New_York"]  # days begin at other moments there


async def test_values_of_a_tag_that_look_like_none_have_rows_and_colours_of_their_own(console):
    await sync_prices(console.billing.database, PRICES)
    for value in (None, "", "(none)", "others", "(others)"):
        tags = None if value is None else json.dumps({"team": value})
        await console.billing.debit(console.organization.account_id, "key", Usage(input_tokens=1000), tags=tags)
    page = await console.get("/usage", "viewer", params={"by": "tag", "tag": "team"})
    named = sorted(re.findall(r'<td data-label="Tag">(?:<a [^>]*>)?(.*?)<', page.text))
    assert named == sorted(re.findall(r'<span class="swatch s\d"></span>(.*?)<', page.text))
    assert named == sorted(["(none)", "&#34;&#34;", "(none)", "others", "((others))"])
    assert len(set(re.findall(r'<rect class="(s\d)"', page.text))) == 5


async def test_usage_is_a_table_by_the_same_query_and_its_parts_lead_to_their_requests(console):
    await use(console)
    params = {"by": "key", "tz": "Europe/Berlin", **MARCH}
    page = await console.get("/usage", "owner", params=params)
    assert "&lt;laptop&gt;" in page.text
    csv = await console.get("/usage", "owner", params=params | {"format": "csv"})
    events = await console.api(
        "/account/usage/summary", "owner", since="2026-03-01", until="2026-04-01", tz="Europe/Berlin", group_by="key"
    )
    lines = list(DictReader(csv.text.splitlines()))
    assert csv.headers["Content-Type"].startswith("text/csv")
    assert [line["charged_usd"] for line in lines] == [each["charged_usd"] for each in events["data"]]
    by_time = await console.get("/usage", "owner", params=params | {"format": "csv", "table": "time"})
    assert by_time.text.startswith("start,end,key,")
    href = re.search(r'<td data-label="Key"><a href="\.(/requests[^"]+)"', page.text)
    led = await console.get(href[1].replace("&amp;", "&"), "owner")
    assert led.text.count('<td data-label="Time">') == min(50, events["data"][0]["events"])
    one_day = re.search(r'<a href="\.(/usage[^"]+)" aria-label="2026-03-29', page.text)
    hours = await console.get(one_day[1].replace("&amp;", "&"), "owner")
    assert hours.text.count('<rect class="hit"') in (0, 23)  # a day of 23 hours, if anything was used in it


async def test_groups_that_have_no_room_are_one_row_that_adds_up(console, monkeypatch):
    await use(console)
    params = {"by": "key", "tz": "Europe/Berlin", **MARCH}
    whole = await console.get("/usage", "owner", params=params)
    monkeypatch.setattr(usage, "MOST_ROWS", 0)
    monkeypatch.setattr(usage_reports, "MOST_CELLS", 1)
    page = await console.get("/usage", "owner", params=params)
    first, second, others = whole.values[5:10], whole.values[10:15], page.values[5:10]
    assert others == [str(Decimal(one) + Decimal(other)) for one, other in zip(first, second, strict=True)]
    assert (page.values[:5], page.values[10:]) == (whole.values[:5], whole.values[15:])  # the same sums, in all parts
    assert "all others (2)" in page.words
    bars = [re.findall(r'<rect class="s\d[^>]*>', each.text) for each in (page, whole)]
    assert bars[0] == bars[1]


async def test_what_can_t_be_asked_for_is_said(console):
    for params, word in (
        ({"by": "weather"}, "by is one of"),
        ({"by": "tag"}, "Name the tag"),
        ({"tz": "Mars/Olympus"}, "Mars/Olympus"),
        ({"from": "2026-03-02", "to": "2026-03-01"}, "after"),
        ({"from": "yesterday"}, "such as 2027-01-31"),
        ({"period": "ever"}, "period is one of"),
        ({"by": "tag", "tag": "a\0b"}, "NUL characters"),
    ):
        page = await console.get("/usage", "owner", params=params)
        assert (page.status, word in page.words) == (400, True), params
    for each in ROUTES:
        if each.method == "GET" and "{" not in each.path and each.path != "/operator/requests":
            who = "operator" if each.who is Who.operator else "owner"
            for asked in ({"params": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}):
                page = await console.get(each.path, who, **asked)
                is_table = page.headers.get("Content-Type", "").startswith("text/csv")
                assert (page.status != 500, is_table) == (True, each.csv and "params" in asked), each.path


async def test_one_request_is_explained_line_by_line(console):
    request_id = await use(console)
    page = await console.get(f"/requests/{request_id}", "viewer")
    event = await console.api(f"/account/usage/events/{request_id}", "viewer")
    for line in event["lines"]:
        assert f"${line['price_usd_per_million']} a million" in page.words
        assert f"${line['amount_usd']}" in page.words
    assert f"Charge ${event['charge_usd']}" in page.words
    assert "Price row" not in page.words
    assert "Markup" not in page.words
    assert (await console.get(f"/requests/{request_id}", "stranger")).status == 404
    listed = await console.get("/requests", "viewer", params={"limit": "20", "model": "slow"})
    events = await console.api("/account/usage/events", "viewer", limit="20", model="slow")
    assert LISTED.findall(listed.text) == [each["id"] for each in events["data"]]
    following = re.search(r'rel="next" href="\.(/requests[^"]+)"', listed.text)
    second = await console.get(following[1].replace("&amp;", "&"), "viewer")
    assert len(LISTED.findall(second.text)) == 5
    assert (await console.get("/requests", "viewer", params={"limit": "1000"})).status == 200
    csv = await console.get("/requests", "viewer", params={"format": "csv", "model": "slow"})
    assert len(csv.text.splitlines()) == 26


async def test_the_overview_has_the_balance_and_how_long_it_lasts(console):
    billing, account_id = console.billing, console.organization.account_id
    await use(console)
    await billing.grants.grant(account_id, 20_000_000_000, "first", None)
    await billing.database.execute("UPDATE accounts SET created_at = now() - interval '30 days'")
    key = (await billing.keys.page(account_id, 1)).items[0]
    for days in range(7):
        at = datetime.now(UTC) - timedelta(days=days, minutes=1)
        await billing.debit(account_id, key.id, Usage(input_tokens=100_000), admitted_at=at, charged_nano=1_000_000_000)
    page = await console.get("/", "member")
    balance = await console.api("/account/balance", "member")
    month = await console.api("/account/billing/summary", "member")
    assert page.values[:2] == [balance["available_usd"], balance["held_usd"]]
    burn_usd = Decimal(page.values[2])  # the mean of seven days, to the minute
    assert Decimal("0.999") < burn_usd <= 1
    assert page.values[3] == month["spent_usd"]
    days_left = Decimal(balance["available_usd"]) // burn_usd
    assert f"Runs out in {days_left} days" in page.words
    assert page.text.count('<td data-label="Time">') == 10
    assert "tokens a day (plan)" in page.words
    whole = await console.get(f"/requests/{await charged(console)}", "member")
    assert "not calculated from counts" in whole.words
    terms = BudgetTerms(Subject.account, "", BudgetPeriod.month, 9_000_000_000)
    await console.services.budgets.create(account_id, terms, actor=SYSTEM)
    assert "account, month" in (await console.get("/", "member")).words
    await billing.accounts.update(account_id, plan="free")
    week = await console.get("/usage", "member", params={"period": "7d"})
    marks = re.findall(r"data-mark=\"([^\"]+)\"", week.text)
    assert marks == ["plan free"]
    await billing.database.execute("UPDATE accounts SET status = 'suspended'")
    suspended = await console.get("/", "member")
    assert (suspended.status, "This account is suspended" in suspended.words) == (200, True)


async def test_a_request_says_what_sent_it(console):
    account_id, billing = console.organization.account_id, console.billing
    key, _ = await billing.keys.create(account_id, "laptop")
    sender = {"session": "run-1", "agent": "a2", "parent_agent": "a1", "tool": "codex", "tool_version": "0.169.0"}
    request_id = await billing.debit(account_id, key.id, Usage(input_tokens=10), **sender)
    other_id = await billing.debit(account_id, key.id, Usage(input_tokens=10))
    page = await console.get(f"/requests/{request_id}", "viewer")
    for words in ("Tool codex 0.169.0", "Session run-1", "agent a2 of a1"):
        assert words in page.words
    listed = await console.get("/requests", "viewer", params={"session": "run-1"})
    assert (request_id in listed.text, other_id in listed.text) == (True, False)


async def charged(console: Console) -> str:
    """The last request, whose amount no price row gives."""
    found = await console.billing.reports.usage_events(console.organization.account_id, 1)
    return found.items[0].request_id


async def test_refusals_and_models_are_those_of_the_account(console):
    refused, account_id = console.services.refused, console.organization.account_id
    for id_, whose, message in (("req_1", account_id, "Add credit."), ("req_2", "acc_other", "Not yours.")):
        fields = f"key_{id_}", "/v1/chat/completions", "fast", 402, "billing_required", message
        details = {"billing": {"balance_usd": "0.01"}}
        refused.note(RefusedRequest(id_, time.time_ns() // 10**6, whose, *fields, details, "grant it credit"))
    await refused.flush()
    shown = await console.get("/requests/refused", "viewer")
    assert ("Add credit." in shown.words, "Not yours." in shown.words) == (True, False)
    why = await console.get("/requests/req_1", "viewer")
    assert f'operator/accounts/{account_id}"' in (await console.get("/operator/requests/req_1", "operator")).text
    assert "balance (USD): 0.01" in why.words
    assert "grant it credit" not in why.words  # that is for operators
    assert (await console.get("/requests/req_2", "viewer")).status == 404
    assert "You can help: grant it credit." in (await console.get("/operator/requests/req_1", "operator")).words
    models = await console.get("/models", "viewer")
    assert models.values == ["0.15", "0.60", "9"]


async def test_the_overview_says_what_was_refused_lately(console):
    billing, refused, account_id = console.billing, console.services.refused, console.organization.account_id
    await billing.grants.grant(account_id, 5_000_000_000, "gift")
    key, _ = await billing.keys.create(account_id, "laptop")
    for minutes, message in ((16, "Long ago."), (1, "The model x does not exist here.")):
        at_ms = time.time_ns() // 10**6 - minutes * 60_000
        fields = key.id, "/v1/chat/completions", "x", 404, "model_not_found", message, {}
        refused.note(RefusedRequest(f"req_{minutes}", at_ms, account_id, *fields))
        await refused.flush()
        first = await console.get("/", "viewer")
        assert (message in first.words) == ("A request was refused" in first.words) == (minutes == 1)


def test_no_page_of_customers_names_an_operators_command_or_setting():
    names = re.compile(r"metergate (operator|up|serve)\b|\b[A-Z]{3,}_[A-Z_]{3,}\b")
    for path in (Path(render.__file__).parent / "templates").glob("*.html"):
        if not path.name.startswith("operator_"):
            found = names.findall(path.read_text().replace("YOUR_KEY", ""))
            assert found == [], path.name
