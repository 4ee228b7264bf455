"""One log of requests: of all accounts for operators, of their own for customers, filtered and page by page."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from billing.ledger.catalogue import sync_prices
from billing.schemas.usage import EventShape
from billing.usage import Usage
from billing.web.requests import result_of, tokens_a_second
from tests.billing.support import PRICES
from tests.billing.web.support import Console


async def request_of(console: Console, name: str, **fields: object) -> tuple[str, str]:
    """A request of a new account's key of this name: the ids of account and request."""
    account = await console.billing.accounts.create(name, "free")
    key, _ = await console.billing.keys.create(account.id, f"{name} key")
    usage = Usage(input_tokens=1000, output_tokens=100)
    return account.id, await console.billing.debit(account.id, key.id, usage, **fields)  # type: ignore[arg-type]


async def test_operators_see_every_account_and_filter_by_what_things_are_called(console):
    await sync_prices(console.billing.database, PRICES)
    now = datetime.now(UTC)
    slow = {"latency_ms": 3_000, "ttft_ms": 500, "stream": True, "session": "s1", "end_user": "u1"}
    first, fast = await request_of(console, "Fast", admitted_at=now - timedelta(minutes=40))
    second, late = await request_of(console, "Slow", markup_scaled=0, **slow)

    async def listed(**asked):
        page = await console.get("/operator/requests", "operator", params=asked)
        assert page.status == 200, page.words
        return re.findall(r'href="(?:\.\./)+operator/requests/([A-Z0-9]{26})"', page.text)

    assert await listed() == [late, fast]
    for asked in ({"account_id": "slow"}, {"key_id": "Slow key"}, {"min_latency_ms": "3000"}, {"last": "15m"}):
        assert await listed(**asked) == [late]
    for asked in ({"session": "s1"}, {"end_user": "u1"}, {"since": now.isoformat()[:10], "account_id": second}):
        assert await listed(**asked) == [late]
    assert await listed(account_id=first, model="fast", provider="openai", status="200", tag="team=blue") == [fast]
    assert await listed(status="500") == []
    page = await console.get("/operator/requests", "operator", params={"limit": "1"})
    assert [late] == re.findall(r'href="(?:\.\./)+operator/requests/([A-Z0-9]{26})"', page.text)
    cursor = re.search(r'rel="next" href="[^"]*cursor=([^"&]+)', page.text)
    assert cursor is not None
    assert await listed(limit="1", cursor=cursor[1]) == [fast]
    words = (await console.get("/operator/requests", "operator")).words
    assert "3.0 s 500 ms 40.0" in words
    table = await console.get("/operator/requests", "operator", params={"format": "csv", "account_id": "slow"})
    assert (table.text.count("\r\n"), "cost_usd" in table.text, late in table.text) == (2, True, True)
    assert (await console.get("/operator/requests", "operator", params={"last": "1y"})).status == 400
    refused = await console.get("/operator/requests/refused", "operator", params={"account_id": "slow"})
    assert "No requests were refused recently." in refused.words


async def test_the_slowest_come_first_page_by_page(console):
    await sync_prices(console.billing.database, PRICES)
    now, account, billing = datetime.now(UTC), console.organization.account_id, console.billing
    key, _ = await billing.keys.create(account, "laptop")
    taken: list[tuple[int, datetime, str]] = []
    for number, latency_ms in enumerate((70, 900, 900, 5, 30_000, 900)):
        at = now - timedelta(minutes=number)
        made = await billing.debit(account, key.id, Usage(input_tokens=9), admitted_at=at, latency_ms=latency_ms)
        taken.append((latency_ms, at, made))
    ranked = [request_id for _, _, request_id in sorted(taken, reverse=True)]

    async def pages(who, path, **asked):
        found, more = [], {}
        while True:
            page = await console.get(path, who, params={"order": "slowest", "limit": "2", **asked, **more})
            assert page.status == 200, page.words
            assert "The slowest of the newest 10,000 in this time" in page.words
            found += dict.fromkeys(re.findall(r'requests/([A-Z0-9]{26})"', page.text))
            cursor = re.search(r'rel="next" href="[^"]*cursor=([^"&]+)', page.text)
            if cursor is None:
                return found
            more = {"cursor": cursor[1]}

    assert await pages("operator", "/operator/requests") == ranked
    assert await pages("owner", "/requests") == ranked
    assert await pages("operator", "/operator/requests", key_id="laptop", min_latency_ms="900") == ranked[:4]
    table = await console.get("/operator/requests", "operator", params={"order": "slowest", "format": "csv"})
    assert [line.split(",")[0] for line in table.text.splitlines()[1:]] == ranked
    for wrong in ("eA", "MS4y", "MS5hLjEueA"):
        page = await console.get("/operator/requests", "operator", params={"order": "slowest", "cursor": wrong})
        assert page.status == 400
    assert (await console.get("/requests", "owner", params={"order": "odd"})).status == 400


async def test_customers_see_the_same_columns_of_their_own_without_the_cost(console):
    await sync_prices(console.billing.database, PRICES)
    await request_of(console, "Another")
    account_id = console.organization.account_id
    key, _ = await console.billing.keys.create(account_id, "laptop")
    usage = Usage(input_tokens=1000, output_tokens=100)
    own = await console.billing.debit(account_id, key.id, usage, latency_ms=2_500, ttft_ms=500, stream=True)
    page = await console.get("/requests", "owner", params={"key_id": key.id, "last": "1h"})
    assert re.findall(r'href="(?:\./)?requests/([A-Z0-9]{26})"', page.text) == [own]
    assert "2.5 s 500 ms 50.0" in page.words
    assert f'<option value="{key.id}" selected>laptop</option>' in page.text
    assert "Cost" not in page.words
    none = await console.get("/requests", "owner", params={"min_latency_ms": "2501"})
    assert "No matching request was found." in none.words


@dataclass(frozen=True)
class Event:
    """What of an event its speed and its end are told by."""

    output_tokens: int = 1
    latency_ms: int | None = 1
    ttft_ms: int | None = None
    status: int = 200
    outcome: str = "settled"
    stream: bool = True


def as_shape(event: Event) -> EventShape:
    return cast("EventShape", event)


@pytest.mark.parametrize(
    ("event", "speed"),
    [
        (Event(100, 2_500, 500), "50.0"),
        (Event(100, 1_000), "100"),
        (Event(99, 1_000), "99.0"),
        (Event(20_000, 1_000), "20,000"),
        (Event(100, 2_500, 2_499, stream=False), "40.0"),
        (Event(0, 1_000, 10), ""),
        (Event(9, 10, 10), ""),
        (Event(9, None), ""),
    ],
)
def test_speed_is_that_of_the_output_after_its_first_token(event, speed):
    assert tokens_a_second(as_shape(event)) == speed


def test_how_a_request_ended_is_a_word():
    ends = Event(), Event(status=400), Event(outcome="expired")
    assert [result_of(as_shape(each)) for each in ends] == ["OK", "HTTP 400", "expired"]
