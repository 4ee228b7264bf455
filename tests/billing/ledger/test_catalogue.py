import asyncio
from dataclasses import replace
from datetime import date

import pytest

from billing.ledger.catalogue import newest_revision, plans_in_force, revision_of, sync_plans, sync_prices
from billing.money import parse_usd
from billing.plans import Plan, Plans
from billing.pricing import PriceTable, from_canonical_json
from tests.billing.support import PLANS, PRICE, PRICES, Billing


async def test_price_rows_are_added_once_and_stay(billing):
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


async def test_an_empty_table_adds_nothing(billing):
    assert await sync_prices(billing.database, PriceTable([])) == 0


async def versions(billing: Billing, *account_ids: str) -> list[int]:
    return [(await billing.accounts.get(account_id)).version for account_id in account_ids]


async def raised(billing: Billing, plans: Plans) -> list[str]:
    return list((await sync_plans(billing.database, plans)).raised)


async def test_a_changed_plan_raises_the_version_of_its_accounts(billing):
    free, starter = await billing.accounts.create("Free"), await billing.accounts.create("Starter", "starter")
    assert await raised(billing, PLANS) == [free.id, starter.id], "every plan is new at first"
    assert await raised(billing, PLANS) == []
    changed = {**PLANS, "starter": replace(PLANS["starter"], markup_scaled=1)}
    assert await raised(billing, changed) == [starter.id]
    assert await versions(billing, free.id, starter.id) == [2, 3]
    assert await raised(billing, {**changed, "gold": Plan("gold", "Gold", 1)}) == []


async def test_a_plan_that_goes_leaves_its_accounts_to_the_default(billing):
    free, starter = await billing.accounts.create("Free"), await billing.accounts.create("Starter", "starter")
    await sync_plans(billing.database, PLANS)
    only_free = {"free": PLANS["free"]}
    assert await raised(billing, only_free) == [starter.id]
    assert await raised(billing, only_free) == []
    other_free = {"free": replace(PLANS["free"], quotas=())}
    assert await raised(billing, other_free) == [free.id, starter.id]
    assert await raised(billing, {**PLANS, **other_free}) == [starter.id]


async def test_gateways_that_start_together_raise_versions_once(billing, account):
    told = await asyncio.gather(*(sync_plans(billing.database, PLANS) for _ in range(4)))
    assert sorted(each.raised for each in told) == [(), (), (), (account.id,)]
    assert await versions(billing, account.id) == [2]


async def test_the_newer_file_is_in_force_for_all_and_has_a_number(billing, account):
    """A gateway that starts again with the older one follows: it takes nothing back."""
    newer = {**PLANS, "free": replace(PLANS["free"], quotas=())}
    first = await sync_plans(billing.database, PLANS)
    assert (first.in_force.revision, first.file_revision, first.follows) == (1, 1, False)
    second = await sync_plans(billing.database, newer)
    assert (second.in_force.revision, second.raised, second.in_force.plans) == (2, (account.id,), newer)
    before = await versions(billing, account.id)
    for _ in range(2):
        again = await sync_plans(billing.database, PLANS)
        assert (again.in_force.revision, again.file_revision, again.follows, again.raised) == (2, 1, True, ())
        assert again.in_force.plans == newer
    assert await versions(billing, account.id) == before
    assert await newest_revision(billing.database) == 2
    in_force = await plans_in_force(billing.database)
    assert in_force.plans == newer
    assert await revision_of(billing.database, PLANS, 0) == 1


async def test_a_files_version_puts_an_older_content_in_force_again(billing, account):
    newer = {**PLANS, "free": replace(PLANS["free"], quotas=())}
    await sync_plans(billing.database, PLANS)
    await sync_plans(billing.database, newer)
    back = await sync_plans(billing.database, PLANS, version=1)
    assert (back.in_force.revision, back.in_force.version, back.follows, back.raised) == (3, 1, False, (account.id,))
    unseen = {**PLANS, "gold": Plan("gold", "Gold", 1)}
    below = await sync_plans(billing.database, unseen)
    assert (below.file_revision, below.in_force.revision, below.in_force.plans) == (None, 3, PLANS)
    assert (await sync_plans(billing.database, unseen, version=1)).in_force.revision == 4


async def test_where_no_other_file_is_in_use_the_one_at_hand_is_in_force(billing, account):
    other = {**PLANS, "free": replace(PLANS["free"], quotas=())}
    for revision, plans in enumerate((PLANS, other, PLANS, PLANS, other), start=1):
        synced = await sync_plans(billing.database, plans, take_over=True)
        assert (synced.follows, synced.in_force.plans) == (False, plans)
        assert synced.raised == (() if revision == 4 else (account.id,))
    assert await newest_revision(billing.database) == 4


async def test_plans_of_a_newer_release_that_cannot_be_read_stop_no_gateway(billing):
    await sync_plans(billing.database, PLANS)
    await billing.database.execute(
        "INSERT INTO plan_revisions (revision, digest, said) VALUES (2, 'x', $1)", {"free": {"id": "free", "quotas": 7}}
    )
    synced = await sync_plans(billing.database, PLANS)
    assert (synced.in_force.revision, synced.in_force.plans, synced.follows) == (2, PLANS, True)
    with pytest.raises(ValueError, match=r"missing|Expected"):
        await plans_in_force(billing.database)
