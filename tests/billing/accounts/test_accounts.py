import asyncio

import pytest

from billing.accounts.accounts import MemberQuotas, UnknownPlan
from billing.audit import Actor
from billing.database.connection import Row
from billing.errors import AccountNotFound
from billing.money import MAX_NANO
from billing.quotas import Metric, Quota, Window
from tests.billing.support import Billing, changes_told

DAILY = Quota(Window.day, Metric.tokens, 1000)
SPEND = Quota(Window.month, Metric.cost, 5_000_000_000, model="gpt-*")


async def audits(billing: Billing, subject: str) -> list[Row]:
    return await billing.database.rows("SELECT * FROM audit_log WHERE subject = $1 ORDER BY id", subject)


async def test_a_new_account_is_active_and_empty(billing):
    with changes_told(billing.change_notifier):
        account = await billing.accounts.create("Acme", "starter", 5_000_000_000, (DAILY, SPEND))
    assert account.id.startswith("acc_")
    assert (account.status, account.balance_nano, account.version, account.past_due_since) == ("active", 0, 1, None)
    assert account.quotas == (DAILY, SPEND)
    assert await billing.accounts.get(account.id) == account
    (audit,) = await audits(billing, account.id)
    assert (audit["actor"], audit["action"], audit["before"]) == ("admin", "account.create", None)
    assert audit["after"]["plan"] == "starter"
    assert audit["after"]["credit_limit_usd"] == "5.00"


async def test_the_default_plan_is_free(billing):
    assert (await billing.accounts.create("Acme")).plan == "free"


async def test_an_unknown_plan_is_refused(billing):
    with pytest.raises(UnknownPlan, match="'gold'"):
        await billing.accounts.create("Acme", "gold")
    account = await billing.accounts.create("Acme")
    with pytest.raises(UnknownPlan), changes_told(billing.change_notifier):
        await billing.accounts.update(account.id, plan="gold")
    assert await billing.accounts.get(account.id) == account


async def test_unknown_accounts_are_not_found(billing):
    with pytest.raises(AccountNotFound):
        await billing.accounts.get("acc_none")
    with pytest.raises(AccountNotFound):
        await billing.accounts.update("acc_none", name="x")


async def test_each_change_raises_the_version_is_audited_and_told(billing):
    before = await billing.accounts.create("Acme")
    with changes_told(billing.change_notifier, ("account", before.id)):
        after = await billing.accounts.update(
            before.id, name="Acme Ltd", plan="starter", credit_limit_nano=7, actor=Actor("ops")
        )
    assert (after.version, after.name, after.plan, after.credit_limit_nano) == (2, "Acme Ltd", "starter", 7)
    with changes_told(billing.change_notifier, ("account", before.id)):
        assert (await billing.accounts.set_quotas(before.id, (DAILY,))).version == 3
    assert (await billing.accounts.get(before.id)).quotas == (DAILY,)
    created, changed, limited = await audits(billing, before.id)
    assert created["action"] == "account.create"
    assert (changed["actor"], changed["before"]["name"], changed["after"]["name"]) == ("ops", "Acme", "Acme Ltd")
    assert (limited["before"]["quotas"], limited["after"]["quotas"]) == (
        [],
        [{"window": "day", "metric": "tokens", "limit": 1000}],
    )


async def test_a_change_of_a_user_s_quotas_is_one_of_the_account(billing, account):
    """It raises the account's version, so that gateways with the old quotas admit nobody, and is in the audit log."""
    with changes_told(billing.change_notifier, ("account", account.id)):
        await billing.member_limits.set(account.id, "usr_a", (DAILY,), actor=Actor("ops"))
    with changes_told(billing.change_notifier):
        await billing.member_limits.set(account.id, "usr_a", (DAILY,))
        await billing.member_limits.set(account.id, "usr_b", ())
    assert (await billing.accounts.get(account.id)).version == 2
    with changes_told(billing.change_notifier, ("account", account.id)):
        await billing.member_limits.set(account.id, "usr_a", ())
    assert (await billing.accounts.get(account.id)).version == 3
    assert await billing.member_limits.get(account.id, "usr_a") == MemberQuotas(account.id, "usr_a")
    changed, _ = await audits(billing, f"{account.id}/usr_a")
    assert (changed["actor"], changed["action"]) == ("ops", "member_limits.update")


async def test_a_change_that_changes_nothing_is_none(billing):
    account = await billing.accounts.create("Acme", quotas=(DAILY,))
    with changes_told(billing.change_notifier):
        assert await billing.accounts.update(account.id) == account
        assert await billing.accounts.update(account.id, name="Acme", status="active", quotas=(DAILY,)) == account
    assert len(await audits(billing, account.id)) == 1


async def test_past_due_notes_since_when(billing, account):
    due = await billing.accounts.update(account.id, status="past_due")
    assert due.past_due_since is not None
    renamed = await billing.accounts.update(account.id, name="Still due")
    assert renamed.past_due_since == due.past_due_since
    assert (await billing.accounts.update(account.id, status="active")).past_due_since is None


async def test_impossible_values_are_refused_and_change_nothing(billing, account):
    for change in ({"credit_limit_nano": -1}, {"credit_limit_nano": MAX_NANO + 1}, {"status": "gone"}):
        with pytest.raises(ValueError, match="must"), changes_told(billing.change_notifier):
            await billing.accounts.update(account.id, **change)
    assert await billing.accounts.get(account.id) == account


async def test_simultaneous_changes_are_all_kept(billing, account):
    changes = ({"name": "Other"}, {"plan": "starter"}, {"credit_limit_nano": 9}, {"quotas": (DAILY,)})
    await asyncio.gather(*(billing.accounts.update(account.id, **change) for change in changes))
    after = await billing.accounts.get(account.id)
    assert (after.name, after.plan, after.credit_limit_nano, after.quotas) == ("Other", "starter", 9, (DAILY,))
    assert after.version == 1 + len(changes)


async def test_pages_are_newest_first_and_complete(billing):
    made = [(await billing.accounts.create(f"a{n}")).id for n in range(5)]
    first = await billing.accounts.page(2)
    second = await billing.accounts.page(2, first.next_after)
    third = await billing.accounts.page(2, second.next_after)
    found = [account.id for page in (first, second, third) for account in page.items]
    assert found == made[::-1]
    assert third.next_after is None
    assert (await billing.accounts.page(5)).next_after is None
