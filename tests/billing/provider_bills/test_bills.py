"""Bills of three providers, fetched from stand-ins of their APIs page by page, beside the ledger."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from billing.ledger.catalogue import sync_prices
from billing.provider_bills import bills as module
from billing.provider_bills.bills import BillAccount, Bills, NoSuchBill, fetch
from billing.provider_bills.lines import BillRefused, BillUnavailable, Tolerance, questions, read_page
from billing.usage import Usage
from tests.billing.support import PRICES, Billing
from tests.support.provider_bills import KEY, BillingApis, billing_apis, cost, tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

USAGE = Usage(input_tokens=1000, output_tokens=100)
NANO = 210_000
TODAY, SINCE = date(2026, 11, 23), date(2026, 11, 18)
DAYS = [SINCE + timedelta(days=place) for place in range(5)]
EXACT = Tolerance(0, 0)


@pytest.fixture
async def apis(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BillingApis]:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0)
    async with billing_apis() as made:
        yield made


@pytest.fixture
async def bills(billing: Billing, apis: BillingApis) -> Bills:
    """Requests of five days at OpenAI and one at each of the others; and what reads their bills."""
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-11-01', 1)")
    account_id = (await billing.accounts.create("Acme")).id

    async def debit(day: date, provider: str = "openai", model: str = "gpt-4o-mini") -> None:
        at = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
        await billing.debit(account_id, "key_1", USAGE, admitted_at=at, provider=provider, provider_model=model)

    for day in DAYS:
        await debit(day)
    await debit(DAYS[1], "openai-eu")
    await debit(DAYS[2], model="gpt-4o")
    await debit(DAYS[0], "anthropic", "claude-sonnet-4")
    await debit(DAYS[0], "openrouter", "openai/gpt-4.1")
    await debit(DAYS[0] - timedelta(days=1))
    accounts = {
        "openai": BillAccount(
            ("openai", "openai-eu"), "openai", apis.base_url("openai"), KEY, ("key_a",), tolerance=EXACT
        ),
        "anthropic": BillAccount(("anthropic",), "anthropic", apis.base_url("anthropic"), KEY, tolerance=EXACT),
        "openrouter": BillAccount(("openrouter",), "openrouter", apis.base_url("openrouter"), KEY, tolerance=EXACT),
        "other": BillAccount(("other",)),
        "wrong": BillAccount(("wrong",), "openai", apis.base_url("openai"), "sk-wrong"),
    }
    noon = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC).timestamp()
    return Bills(billing.database, accounts, fetch, lambda: noon)


def openai_says(apis: BillingApis) -> None:
    for day in DAYS:
        times = 2 if day == DAYS[1] else 1
        dated = "gpt-4o-mini-2024-07-18"
        apis.add("v1/organization/usage/completions", day, tokens(dated, "key_a", 1000 * times, 100 * times, times))
        value = "0.00042000001" if times == 2 else "0.00021"
        apis.add("v1/organization/costs", day, cost(f"{dated}, input", value, "key_a"))
        apis.add("v1/organization/costs", day, cost("gpt-5, output", "7.5", "key_of_others"))
    apis.add("v1/organization/costs", DAYS[3], cost("web search tool calls", "1e-2", "key_a"))
    apis.add("v1/organization/costs", DAYS[4], cost("gpt-4o-mini-2024-07-18, cached input", "0.1", "key_a"))


def shown(found: Any) -> dict[tuple[date, str], tuple[str, int, bool | None]]:
    return {
        (row.day, row.model): (row.category, row.difference_nano, row.tokens_agree) for row in found.comparison.rows
    }


async def test_openai_by_pages_in_any_order(bills, apis):
    openai_says(apis)
    first = await bills.fetched("openai", SINCE, TODAY)
    mini = "gpt-4o-mini"
    assert shown(first) == {
        **{(day, mini): ("matched", 0, True) for day in DAYS[:4]},
        (DAYS[2], "gpt-4o"): ("missing_there", -NANO, None),
        (DAYS[3], "web search tool calls"): ("missing_here", 10_000_000, None),
        (DAYS[4], mini): ("priced_differently", 100_000_000, True),
    }
    ours, theirs = first.comparison.total
    assert (ours.requests, ours.amount_nano) == (7, 7 * NANO)
    assert theirs.amount_nano == 6 * NANO + 110_000_000
    assert first.comparison.difference_nano == NANO + 110_000_000
    asked = len(apis.asked)
    apis.page_days, apis.order = 1, lambda each: each[::-1]
    assert await bills.fetched("openai", SINCE, TODAY) == first
    assert len(apis.asked) - asked == 4 * len(DAYS)
    assert await bills.compared("openai", "api", SINCE, TODAY) == first
    apis.results.clear()  # corrected: the provider bills nothing any more
    again = await bills.fetched("openai", SINCE, TODAY)
    assert {row.category for row in again.comparison.rows} == {"missing_there"}


async def test_anthropic_and_openrouter(bills, apis):
    usage = {
        **{"uncached_input_tokens": 400, "cache_read_input_tokens": 500, "output_tokens": 101},
        "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
        **{"model": "claude-sonnet-4-20250514", "workspace_id": None, "api_key_id": None, "service_tier": None},
    }
    apis.add("v1/organizations/usage_report/messages", DAYS[0], usage)
    for kind, cents in (("uncached_input_tokens", "0.015"), ("output_tokens", "0.0060001")):
        group = {"description": "Claude Sonnet 4 Usage", "model": "claude-sonnet-4-20250514", "cost_type": "tokens"}
        amount = {"amount": cents, "currency": "USD", "token_type": kind, "workspace_id": "wrkspc_1"}
        apis.add("v1/organizations/cost_report", DAYS[0], {**group, **amount, "service_tier": "standard"})
    apis.page_days = 2
    found = await bills.fetched("anthropic", SINCE, TODAY)
    assert shown(found) == {(DAYS[0], "claude-sonnet-4"): ("priced_differently", 1, False)}
    assert found.comparison.total[1][1:] == (1000, 101, NANO + 1)

    row = {"date": DAYS[0].isoformat(), "model": "openai/gpt-4.1", "model_permaslug": "openai/gpt-4.1-2025-04-14"}
    counted = {"requests": 1, "prompt_tokens": 1000, "completion_tokens": 100.0, "reasoning_tokens": 0}
    amounts = {"usage": 0.00011, "byok_usage_inference": 0.0001}
    apis.add("api/v1/activity", DAYS[0], {**row, **counted, **amounts, "endpoint_id": "e1", "provider_name": "OpenAI"})
    routed = await bills.fetched("openrouter", SINCE, TODAY)
    assert shown(routed) == {(DAYS[0], "openai/gpt-4.1"): ("matched", 0, True)}


async def test_what_fails_changes_nothing_and_shows_no_key(bills, apis):
    openai_says(apis)
    before = await bills.fetched("openai", SINCE, TODAY)
    apis.failures = [503, 429]
    assert await bills.fetched("openai", SINCE, TODAY) == before
    apis.failures = [500, 500, 500]
    with pytest.raises(BillUnavailable, match="status 500"):
        await bills.fetched("openai", SINCE, TODAY)
    apis.add("v1/organization/costs", DAYS[0], {"amount": {"value": 1, "currency": "eur"}, "line_item": "x"})
    with pytest.raises(BillUnavailable, match="not what its API says"):
        await bills.fetched("openai", SINCE, TODAY)
    with pytest.raises(BillUnavailable, match="not what its API says"):
        read_page(questions("openai", SINCE, TODAY)[0], b"[" * 2_000)
    assert await bills.compared("openai", "api", SINCE, TODAY) == before
    with pytest.raises(BillUnavailable, match="needs an admin") as refused:
        await bills.fetched("wrong", SINCE, TODAY)
    assert "sk-wrong" not in f"{refused.value!r} {bills._accounts!r}"
    for provider in ("other", "nobody"):
        with pytest.raises(NoSuchBill):
            await bills.fetched(provider, SINCE, TODAY)
    for since, until in ((TODAY, TODAY), (SINCE, TODAY + timedelta(days=1)), (date(2026, 1, 1), TODAY)):
        with pytest.raises(BillRefused):
            await bills.fetched("openai", since, until)


async def test_a_round_tells_operators_of_each_day_once(bills, billing, apis):
    openai_says(apis)
    await bills.round()
    await bills.round()
    told = await billing.database.rows("SELECT account_id, data FROM notices ORDER BY data ->> 'day'")
    assert [(row["account_id"], row["data"]["provider"], row["data"]["day"]) for row in told] == [
        *(("", "openai", DAYS[place].isoformat()) for place in (2, 3)),
    ]
    assert told[1]["data"] == {
        **{"provider": "openai", "day": "2026-11-21", "billed_usd": "0.01", "ledger_usd": "0.00"},
        "models": ["web search tool calls"],
    }
    await bills.refresh()
    assert bills.difference_usd("openai") == pytest.approx(0.01021)
    assert (bills.difference_usd("anthropic"), bills.asked[0]) == (0, "openai")
