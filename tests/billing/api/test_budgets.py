"""Budgets by the API: kept, measured by the ledger, told of once, to whom it concerns."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.audit import SYSTEM
from billing.budgets import MOST_FAILED, BudgetPeriod, Budgets, BudgetTerms, Subject
from billing.cli import Table
from billing.cli.billing import add_billing
from billing.client.client import Client
from billing.client.errors import Refused
from billing.database.connection import DatabaseRefused
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import UsageSums, roll
from billing.notices.delivery import Poster
from billing.notices.worker import NoticeRules, NoticeWorker
from billing.usage import Usage
from tests.billing.api.support import Api, serving, token_of
from tests.billing.identity.support import join, new_organization, new_user
from tests.billing.support import PRICES, Billing
from tests.support.command_calls import calls_of

USD = 1_000_000_000
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now.timestamp()


async def notices(billing: Billing) -> list[dict[str, Any]]:
    query = "SELECT data FROM notices WHERE type = 'budget.threshold' ORDER BY created_at, id"
    return [row["data"] for row in await billing.database.rows(query)]


async def test_budgets_tell_once_for_a_threshold_and_period(services, billing):
    clock, database = Clock(), billing.database
    budgets = Budgets(database, billing.reports.sums, billing.new_id, clock)
    await sync_prices(database, PRICES)
    await database.execute("SELECT create_usage_months('2026-11-01', 2)")
    owner, viewer = await new_user(billing, "owner@example.com"), await new_user(billing, "viewer@example.com")
    account_id = (organization := await new_organization(billing, "Acme", owner, plan="starter")).account_id
    await join(billing, organization, viewer, "viewer")
    key, _ = await billing.keys.create(account_id, "laptop", user_id=viewer)

    async def spend(nano, at=clock.now, team="a"):
        await billing.debit(
            account_id,
            key.id,
            Usage(input_tokens=1),
            admitted_at=at,
            charged_nano=nano,
            user_id=viewer,
            tags=f'{{"team":"{team}"}}',
        )

    async def look():
        """Compare all budgets now; return the new notices."""
        before = len(await notices(billing))
        await database.execute("UPDATE budgets SET looked_at = '-infinity'")
        told = await budgets.round()
        new = (await notices(billing))[before:]
        assert told == len(new)
        return sorted((each["subject"], each["threshold"]) for each in new)

    async with serving(replace(services, budgets=budgets, clock=clock), billing) as api:

        async def make(**body):
            made = await api.person(owner, "POST", "/billing/budgets", {"amount_usd": "10", **body})
            assert made.status == 201, made.json
            return dict(made.json)

        whole = await make(notify=["Viewer@Example.com", "viewer@example.com"])
        await make(subject="key", subject_id=key.id, period="day", amount_usd="5", thresholds=[100])
        await make(subject="user", subject_id=viewer, period="total", amount_usd="100", thresholds=[5])
        tagged = await make(subject="tag", tag="team=a", period="week", amount_usd="6")
        assert await look() == []
        await spend(4 * USD, team="b")
        await spend(4 * USD)
        await roll(database)
        assert await look() == [("account", 80), ("key", 100), ("tag", 50), ("user", 5)]
        assert await look() == []
        await spend(1_999_999_999)
        assert await look() == [("tag", 80)]
        await spend(1)
        assert await look() == [("account", 100), ("tag", 100)]
        clock.now = datetime(2026, 12, 1, 12, tzinfo=UTC)
        await spend(9 * USD, clock.now)
        assert await look() == [("account", 80), ("key", 100), ("tag", 100)]  # a new month, day and week
        clock.now = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)  # of another gateway: its clock is behind
        assert await look() == []
        clock.now = datetime(2026, 12, 1, 12, tzinfo=UTC)
        assert await look() == []

        url = f"/billing/budgets/{whole['id']}"
        shown = (await api.person(owner, "GET", url)).json
        assert (shown["spent_usd"], shown["left_usd"], shown["percent"], shown["told"]) == ("9.00", "1.00", 90, 80)
        assert (shown["period_start"], shown["period_end"]) == ("2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z")
        assert shown["forecast_usd"] == "558.00"  # 9 in half a day: there was no use in the week before
        summary = (await api.person(owner, "GET", "/account/billing/summary")).json
        assert (summary["forecast_usd"], summary["budgets"]) == ("558.00", [shown])
        changed = (await api.person(owner, "PATCH", url, {"amount_usd": "9"})).json
        assert (changed["percent"], changed["told"], changed["notify"]) == (100, 0, ["viewer@example.com"])
        assert await look() == [("account", 100)]
        for thresholds, told in (([50, 60, 100], []), ([50, 60], []), ([50, 70], [("account", 70)])):
            await api.person(owner, "PATCH", url, {"thresholds": thresholds, "amount_usd": "9"})
            assert await look() == told, thresholds  # of what is new in it, if it is above all that stays
        page = (await api.admin("GET", f"/accounts/{account_id}/budgets?limit=3")).json
        assert [each["subject"] for each in page["data"]] == ["tag", "user", "key"]
        assert page["next_cursor"] is not None

        (await api.person(viewer, "DELETE", url)).refused(403, "insufficient_scope")
        assert (await api.person(owner, "DELETE", f"/billing/budgets/{tagged['id']}")).status == 204
        await refused(api, owner)
        await by_commands(api, owner)
    await mailed_to(billing, {"owner@example.com", "viewer@example.com"})


class FaultySums(UsageSums):
    """Sums that can't be read of some accounts."""

    faulty: tuple[str, ...] = ()

    async def spans(self, account_id: str, *arguments: Any, **more: Any) -> Any:
        if account_id in self.faulty:
            raise DatabaseRefused("these sums can't be read")
        return await super().spans(account_id, *arguments, **more)


async def test_a_budget_that_fails_keeps_no_other_back(billing):
    sums = FaultySums(billing.database)
    budgets = Budgets(billing.database, sums, billing.new_id, NOW.timestamp)
    await sync_prices(billing.database, PRICES)
    accounts = [(await billing.accounts.create(f"{n}")).id for n in range(MOST_FAILED + 1)]
    for account_id in accounts:
        terms = BudgetTerms(Subject.account, "", BudgetPeriod.total, 1, (100,))
        await budgets.create(account_id, terms, actor=SYSTEM)
        await billing.debit(account_id, "key_1", Usage(input_tokens=1))
    sums.faulty = tuple(accounts[:2])
    assert await budgets.round() == len(accounts) - 2
    await billing.database.execute("UPDATE budgets SET looked_at = '-infinity'")
    sums.faulty = tuple(accounts)
    with pytest.raises(DatabaseRefused):
        await budgets.round()


async def test_two_changes_at_once_are_both_made(api, billing):
    owner = await new_user(billing, "owner@example.com")
    await new_organization(billing, "Acme", owner, plan="starter")
    made = (await api.person(owner, "POST", "/billing/budgets", {"amount_usd": "10"})).json
    url = f"/billing/budgets/{made['id']}"
    changes = ({"amount_usd": "12.50"}, {"thresholds": [30]})
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with billing.database.transaction() as connection:
        await connection.execute("SELECT FROM budgets WHERE id = $1 FOR UPDATE", made["id"])
        waiting = [asyncio.ensure_future(api.person(owner, "PATCH", url, change)) for change in changes]
        async with asyncio.timeout(60):
            while await billing.database.value(blocked) < len(changes):
                await asyncio.sleep(0.01)
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * len(changes)
    now = (await api.person(owner, "GET", url)).json
    assert (now["amount_usd"], now["thresholds"]) == ("12.50", [30])


async def by_commands(api: Api, owner: str) -> None:
    commands = calls_of(add_billing, "billing", "budget")
    async with Client(str(api.client.make_url("")), api_key=token_of(owner)) as client:
        made = await commands["create"](client, amount_usd="3.00", tag="team=b", thresholds=[10, 20])
        assert isinstance(made.data, dict)
        made_id = made.data["id"]
        changed = await commands["update"](client, budget_id=made_id, amount_usd="6.00", period="week")
        listed = await commands["list"](client)
        await commands["delete"](client, budget_id=made_id)
        with pytest.raises(Refused, match="no budget"):
            await commands["delete"](client, budget_id=made_id)
    table = changed.parts[0]
    assert isinstance(table, Table)
    shown = dict(table.rows)
    assert (shown["of"], shown["period"], shown["amount USD"], shown["spent USD"]) == ("team=b", "week", "6.00", "0.00")
    assert (shown["alerts at"], shown["mails to"]) == ("10%, 20%", "owners and admins")
    newest = listed.parts[0]
    assert isinstance(newest, Table)
    assert newest.rows[0][0] == made_id


async def refused(api: Api, owner: str) -> None:
    for body, param in (
        ({"subject": "key", "subject_id": "key_of_another"}, "subject_id"),
        ({"subject": "tag"}, "tag"),
        ({"tag": "team=a"}, "tag"),
        ({"subject": "tag", "tag": "team=a", "subject_id": "x"}, "subject_id"),
        ({"notify": ["stranger@example.com"]}, "notify"),
        ({"thresholds": [100, 50]}, "thresholds"),
    ):
        made = await api.person(owner, "POST", "/billing/budgets", {"amount_usd": "10", **body})
        made.refused(400, "invalid_request_error", param)


async def mailed_to(billing: Billing, expected: set[str]) -> None:
    poster = Poster(private=True, timeout_s=1)
    rules = NoticeRules(1, disable_s=1, kept_days=1)
    worker = NoticeWorker(billing.database, poster, None, rules, billing.new_id, "me")
    await worker.round()
    rows = await billing.database.rows("SELECT recipient, subject, body FROM mail_outbox")
    assert {row["recipient"] for row in rows} == expected
    to_viewer = [row for row in rows if row["recipient"] == "viewer@example.com"]
    assert len(to_viewer) == 5  # the account's budget names the viewer; of others the owner is told
