import asyncio
from dataclasses import replace
from datetime import date

from billing.ledger.catalogue import sync_plans, sync_prices
from billing.money import parse_usd
from billing.plans import Plan
from billing.prices import PriceTable, from_canonical_json
from tests.billing.support import PLANS, PRICE, PRICES, Billing


async def test_price_rows_are_added_once_and_stay(billing: Billing) -> None:
    assert await sync_prices(billing.database, PRICES) == 1
    assert await sync_prices(billing.database, PRICES) == 0
    edited = replace(PRICE, per_million={**PRICE.per_million, "input": parse_usd("0.20")})
    later = replace(PRICE, effective_from=date(2025, 1, 1))
    assert await sync_prices(billing.database, PriceTable([edited, later])) == 2
    rows = await billing.database.rows("SELECT * FROM prices")
    assert {from_canonical_json(row["said"]).id for row in rows} == {PRICE.id, edited.id, later.id}
    stored = {row["id"]: row for row in rows}[PRICE.id]
    assert (stored["provider"], stored["model"], stored["effective_from"]) == (
        "openai",
        "gpt-4o-mini",
        date(2024, 7, 18),
    )


async def test_an_empty_table_adds_nothing(billing: Billing) -> None:
    assert await sync_prices(billing.database, PriceTable([])) == 0


async def versions(billing: Billing, *account_ids: str) -> list[int]:
    return [(await billing.accounts.get(account_id)).version for account_id in account_ids]


async def test_a_changed_plan_raises_the_version_of_its_accounts(billing: Billing) -> None:
    free, starter = await billing.accounts.create("Free"), await billing.accounts.create("Starter", "starter")
    assert await sync_plans(billing.database, PLANS) == [free.id, starter.id], "every plan is new at first"
    assert await sync_plans(billing.database, PLANS) == []
    changed = {**PLANS, "starter": replace(PLANS["starter"], markup_scaled=1)}
    assert await sync_plans(billing.database, changed) == [starter.id]
    assert await versions(billing, free.id, starter.id) == [2, 3]
    assert await sync_plans(billing.database, {**changed, "gold": Plan("gold", "Gold", 1)}) == []


async def test_a_plan_that_goes_leaves_its_accounts_to_the_default(billing: Billing) -> None:
    free, starter = await billing.accounts.create("Free"), await billing.accounts.create("Starter", "starter")
    await sync_plans(billing.database, PLANS)
    only_free = {"free": PLANS["free"]}
    assert await sync_plans(billing.database, only_free) == [starter.id]
    assert await sync_plans(billing.database, only_free) == []
    other_free = {"free": replace(PLANS["free"], quotas=())}
    assert await sync_plans(billing.database, other_free) == [free.id, starter.id]
    assert await sync_plans(billing.database, {**PLANS, **other_free}) == [starter.id]


async def test_gateways_that_start_together_raise_versions_once(billing: Billing) -> None:
    account = await billing.accounts.create("Acme")
    told = await asyncio.gather(*(sync_plans(billing.database, PLANS) for _ in range(4)))
    assert sorted(told) == [[], [], [], [account.id]]
    assert await versions(billing, account.id) == [2]
